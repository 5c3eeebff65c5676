"""Lets programs in at services of ours: who they are, and whether there is room for one more.

What they have there is not counted with what their users have elsewhere: whoever serves a name
could keep it for ever, and by that keep others' programs from all other sockets.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from buswork.errors import BusworkError, LimitsExceeded
from buswork.libipc.errors import NotAllowed
from buswork.libipc.library.contexts import Context
from buswork.libipc.model.terms import Who
from buswork.libipc.native.channels import Line
from buswork.libipc.native.services import Client, Served
from buswork.native.accept import Acceptor
from buswork.native.credentials import peer_of
from buswork.native.room import Charges, Crowd


@dataclass(eq=False, slots=True)
class _Guest:
    """One that was let in, as the crowd knows it."""

    uid: int
    client: Client | None = None


class Porter:
    def __init__(self, context: Context, charges: Callable[[int], Charges]) -> None:
        """charges: for one connection of a uid."""
        self._context = context
        self._charges = charges
        self._crowd: Crowd[_Guest] = Crowd()

    def open(self, served: Served, listener: socket.socket) -> Callable[[], None]:
        """The listening socket is ours until the function is called that this returns."""
        acceptor = Acceptor()
        acceptor.open(listener, partial(self._accept, served))
        return acceptor.close

    def introduce(self, served: Served, who: Who) -> socket.socket:
        """The client's end of a connection for a caller, whom the service sees as himself."""
        ours, theirs = socket.socketpair()
        try:
            self._admit(served, ours, who.uid, who.pid)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        theirs.setblocking(False)
        return theirs

    def _accept(self, served: Served, accepted: socket.SocketType) -> None:
        sock = socket.socket(fileno=accepted.detach())
        peer = peer_of(sock)
        try:
            self._admit(served, sock, peer.uid, peer.pid)
        except (BusworkError, OSError) as error:
            served.complain(peer.uid, error)
            sock.close()

    def _admit(self, served: Served, sock: socket.socket, uid: int, pid: int) -> None:
        """The socket is the service's, unless this raises."""
        refusal = served.refusal(uid)
        if refusal is not None:
            raise NotAllowed(f"{served.name!r} does not let it in: {refusal}")
        self._make_room(uid)
        line = Line(self._context.adopt(sock, form=served.form), self._charges(uid))
        guest = _Guest(uid)
        self._crowd.add(guest)
        guest.client = served.admit(line, uid, pid, partial(self._crowd.remove, guest))

    def _make_room(self, uid: int) -> None:
        """Whoever has most makes room for others; and for nobody, if that is the newcomer."""
        if self._crowd.is_full:
            oldest = self._crowd.oldest_of_most()
            if oldest.uid == uid or oldest.client is None:
                raise LimitsExceeded(f"there are {self._crowd.most} clients of services already")
            oldest.client.end()

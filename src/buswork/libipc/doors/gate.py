"""Who comes in, from where, and how many at a time.

A program of this machine is known by the uid that owns its socket: it is served if that user was
named. One of another host is nobody, and gets the rights of the user that was named for all of
them, if its address is on the list. It is decided before anything is read. A program of this
machine that has left meanwhile does not pass for another host's: it may have said something before.
"""

import logging
import socket
from collections import Counter
from ipaddress import ip_address
from typing import Final

from buswork.errors import AccessDenied, BusworkError, LimitsExceeded
from buswork.libipc.doors import passage
from buswork.libipc.doors.options import Settings
from buswork.libipc.wire.forms import Form
from buswork.log import SparingByUid
from buswork.native.loopback import PortOwner, SocketAddress, is_here, tcp_owner

log = logging.getLogger(__name__)

# Connections at all doors: two descriptors each, of the 2,048 that the process has.
MAX_GUESTS = 128
# And of one user, so that he leaves room for others; also in memory, where a message of two million
# bytes may wait several times over on each way.
MAX_GUESTS_PER_UID = 32

NOBODY: Final = -1


class Guest:
    """Whose rights a connection has, and the place that it takes."""

    def __init__(self, gate: "Gate", uid: int, *, is_remote: bool) -> None:
        self.uid = uid
        self.is_remote = is_remote
        self._gate = gate
        self._is_here = True

    def leave(self) -> None:
        if self._is_here:
            self._is_here = False
            self._gate.left(self)


class Gate:
    """For all doors together."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Those of other hosts take none of the places of the user whose rights they have.
        self._guests: Counter[tuple[int, bool]] = Counter()
        self._sparing = SparingByUid("programs at the doors of libipc that were sent away")

    def __len__(self) -> int:
        return self._guests.total()

    def enter(self, sock: socket.socket) -> Guest | None:
        """Who is at the other end; None: somebody who is not let in, and the log says why."""
        try:
            theirs, ours = sock.getpeername(), sock.getsockname()
            owner = tcp_owner(theirs, ours)
            sock.getpeername()  # still connected, so the port did not change hands meanwhile
        except OSError as error:  # it has left, or there is no descriptor to ask with
            self.complain(NOBODY, error)
            return None
        uid = NOBODY
        try:
            uid = self._remote(theirs) if owner is None else self._local(owner)
            self._find_room(uid, is_remote=owner is None)
        except BusworkError as error:
            self.complain(uid if owner is None else owner.uid, error)
            return None
        self._guests[uid, owner is None] += 1
        return Guest(self, uid, is_remote=owner is None)

    def left(self, guest: Guest) -> None:
        self._guests[guest.uid, guest.is_remote] -= 1

    async def connect(self, guest: Guest, form: Form, service: str) -> socket.socket:
        """The service, as this guest may reach it."""
        if service not in self.settings.services:
            raise AccessDenied("these doors do not lead there (--ipc-service)")
        return await passage.connect(self.settings.passage, guest.uid, form, service)

    def complain(self, uid: int, why: object) -> None:
        if self._sparing.allows(log, uid):
            who = "somebody" if uid == NOBODY else f"uid {uid}"
            log.warning("the doors of libipc: %s: %s", who, why)

    def _local(self, owner: PortOwner) -> int:
        if owner.uid not in self.settings.uids:
            raise AccessDenied("is not served here (--serve-uid)")
        return owner.uid

    def _remote(self, theirs: SocketAddress) -> int:
        address = ip_address(theirs[0].partition("%")[0])
        uid = self.settings.remote_uid
        if is_here(theirs):
            raise AccessDenied("nobody knows who it is, or it has left")
        if uid is None:
            raise AccessDenied(f"{address} is another host, and none is let in (--ipc-remote-user)")
        peers = self.settings.peers
        if peers and not any(address in network for network in peers):
            raise AccessDenied(f"{address} is not let in (--ipc-peer)")
        return uid

    def _find_room(self, uid: int, *, is_remote: bool) -> None:
        if self._guests[uid, is_remote] >= MAX_GUESTS_PER_UID:
            raise LimitsExceeded(f"has {MAX_GUESTS_PER_UID} connections here, and may have no more")
        if len(self) >= MAX_GUESTS:
            raise LimitsExceeded(f"{MAX_GUESTS} connections are all that there may be")

"""The services `network` and `ipc`: connected descriptors for clients with IPC_NETWORK set.

Rules (section 8)
* A client asks once. A request that can't be met ends that client's connection, and nothing else: a
  C client then connects by itself, a Zig client has failed, as with the original daemon.
* The last entry with the service's name counts. unix://NAME is a service right here, tcp:// goes
  through the doors, any other scheme through the service of that name: the original's protocol
  daemons. Those see what the client says, so only root's or the client's own is asked; such a
  daemon for tcp comes before the doors.
* A Zig client asks for every service: one without an entry is right here.
* A C client takes the descriptor only after it has read that it gets one; a Zig client takes both
  at once.
* The client gets what it might have connected to by itself. For other hosts polkit is asked.
"""

import asyncio
import logging
import socket
from typing import Final, Protocol

from buswork.authority import Authority, Lease
from buswork.errors import BusworkError
from buswork.libipc.errors import NoSuchService
from buswork.libipc.library.contexts import Context
from buswork.libipc.library.contexts import Limits as LineLimits
from buswork.libipc.model.terms import RunDirectory, Who
from buswork.libipc.native.channels import READ_BYTES
from buswork.libipc.native.groups import groups_of_peer
from buswork.libipc.wire import lookups as wire
from buswork.libipc.wire.forms import Form, Message
from buswork.libipc.wire.lookups import AGREED, DESCRIPTOR_BYTE, MAX_REQUEST_BYTES, Uri
from buswork.libipc.wire.names import check
from buswork.log import SparingByUid
from buswork.native.accept import Acceptor
from buswork.native.commons import Commons
from buswork.native.credentials import peer_of
from buswork.native.inflight import InFlight
from buswork.native.peers import Known, Peers
from buswork.native.room import Crowd

log = logging.getLogger(__name__)

# From connecting to having the descriptor; most of it is for far hosts, as dialling has it.
LOOKUP_SECONDS: Final = 20.0
# Clients at once. Each may bring 128 KiB, which is what an environment variable can hold.
MOST_CLIENTS: Final = 128

DIAL: Final = "org.libipc.dial"
UNIX, TCP = "unix", "tcp"


class Targets(Protocol):
    """Connects for others. All sockets don't block."""

    async def connect_in(self, directory: RunDirectory, name: str, who: Who) -> socket.socket: ...

    async def connect_to_trusted(
        self, directory: RunDirectory, name: str, who: Who
    ) -> socket.socket:
        """NoSuchService: neither root nor `who` has one of this name."""

    async def dial_to(self, form: Form, uri: Uri, who: Who) -> socket.socket: ...


class Client:
    """One look-up."""

    def __init__(
        self, lookups: "Lookups", sock: socket.socket, directory: RunDirectory, known: Known
    ) -> None:
        self.uid = known.peer.uid
        self.known = known
        self._lookups = lookups
        self._directory = directory
        groups = groups_of_peer(sock)
        self._who = Who(self.uid, groups, f"pid:{known.peer.pid}", known.peer.pid)
        self._connection = lookups.context.adopt(sock, form=directory.form, pull=True)
        self.task = asyncio.create_task(self._run(), name="libipc look-up")

    def close(self) -> None:
        self.task.cancel()

    def ended(self) -> None:
        """Its task may never have begun."""
        self._connection.close()

    async def _run(self) -> None:
        async with asyncio.timeout(LOOKUP_SECONDS):
            message = await self._connection.receive()
            commons = self._lookups.commons
            request, uri = await commons.shares.turn(self.uid, lambda: self._understood(message))
            target = await self._target(request.service, uri)
            with target:
                await self._hand_over(target)

    def _understood(self, message: Message) -> tuple[wire.Request, Uri | None]:
        request = wire.parse_request(self._directory.form, message)
        return request, wire.target(request)

    async def _target(self, service: str, uri: Uri | None) -> socket.socket:
        targets, directory, who = self._lookups.targets, self._directory, self._who
        if uri is None:
            if directory.form is Form.C:
                raise NoSuchService(f"IPC_NETWORK says nothing of {service!r}")
            return await targets.connect_in(directory, service, who)
        if uri.scheme == UNIX:
            return await targets.connect_in(directory, check(uri.address), who)
        try:
            daemon = await targets.connect_to_trusted(directory, check(uri.scheme), who)
        except NoSuchService:
            if uri.scheme != TCP:
                raise
            await self._lookups.authority.require_peer(self.known.peer, DIAL)
            return await targets.dial_to(directory.form, uri, who)
        return await self._taken_through(daemon, uri)

    async def _taken_through(self, daemon: socket.socket, uri: Uri) -> socket.socket:
        """A protocol daemon's connection is the client's, once it has taken the URI."""
        connection = self._lookups.context.adopt(daemon, form=self._directory.form, pull=True)
        try:
            connection.send(str(uri).encode())
            answer = await connection.receive()
            if answer.payload.lower() != wire.TAKEN:
                raise NoSuchService(f"the service {uri.scheme!r} does not reach {uri}")
            return connection.detach()
        except BaseException:
            connection.close()
            raise

    async def _hand_over(self, target: socket.socket) -> None:
        form = self._directory.form
        reply = AGREED[form]
        if form is Form.C:
            self._connection.send(b"OK")
            await self._connection.consumed()
            reply = DESCRIPTOR_BYTE
        target.setblocking(True)  # for all who have it
        with self._connection.detach() as sock:
            self._lookups.in_flight.send(self.uid, sock, reply, target.fileno())


class Lookups:
    def __init__(self, targets: Targets, authority: Authority, commons: Commons) -> None:
        self.targets = targets
        self.authority = authority
        self.commons = commons
        self.in_flight = InFlight()
        self.context = Context(limits=LineLimits(message=MAX_REQUEST_BYTES, read_bytes=READ_BYTES))
        self.crowd: Crowd[Client] = Crowd(MOST_CLIENTS)
        self._peers = Peers(authority.forget_peer)
        self._acceptor = Acceptor()
        self._complaints = SparingByUid("complaints about look-ups")

    def open(self, directory: RunDirectory, listener: socket.socket) -> None:
        """The listening socket is ours from now on."""
        self._acceptor.open(listener, lambda accepted: self._serve(directory, accepted))

    async def stop(self) -> None:
        self._acceptor.close()
        tasks = [client.task for client in self.crowd.all]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.context.close()
        self.in_flight.close()
        self._peers.close()

    def _serve(self, directory: RunDirectory, accepted: socket.SocketType) -> None:
        sock = socket.socket(fileno=accepted.detach())
        try:
            known = self._peers.of(sock)
            lease = self.authority.quotas.take(known.peer.uid, "native_connections")
            try:
                client = Client(self, sock, directory, known)
            except BaseException:
                lease.release()
                raise
        except (BusworkError, OSError) as error:
            self._complain(peer_of(sock).uid, error)
            sock.close()
            return
        if self.crowd.is_full:
            self.crowd.oldest_of_most().close()
        self.crowd.add(client)
        self._peers.hold(known)
        client.task.add_done_callback(lambda task: self._ended(client, lease))

    def _ended(self, client: Client, lease: Lease) -> None:
        client.ended()
        self.crowd.remove(client)
        self._peers.let_go(client.known)
        lease.release()
        task = client.task
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, (BusworkError, OSError, ValueError)):
            self._complain(client.uid, error)
        elif error is not None:
            log.error("a look-up failed", exc_info=error)

    def _complain(self, uid: int, why: object) -> None:
        if self._complaints.allows(log, uid):
            log.info("look-up of uid %d: %s", uid, why)

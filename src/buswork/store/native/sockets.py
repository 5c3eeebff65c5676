"""mapipcd's sockets, mapipc_set and mapipc_get: one connection for each request.

The short road: a connection whose request is there already, from a process that polkit has
allowed a moment ago, is read, answered and closed in one go. Everybody else becomes a
`_Connection`, counts against the quota of its uid, and has a deadline for each of its steps.

A get is answered in any case, with a member `error` in place of `value` when it is refused: an
unmodified client then ends with status 1. A set is echoed when it has been done; one that is
refused is closed without a word, because unmodified clients take any answer for a yes.
"""

import array
import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from buswork.authority import Authority, Lease
from buswork.errors import BusworkError, InvalidArgs, LimitsExceeded, TimedOut
from buswork.log import Sparing
from buswork.native.peers import Known, Peers
from buswork.store.model import Store
from buswork.store.native.memory import SharedMemory
from buswork.store.wire.requests import (
    NULL_REPLY,
    READER_REQUEST,
    Assembly,
    Malformed,
    SetRequest,
    error_reply,
    parse_get,
    parse_set,
    value_reply,
)

log = logging.getLogger(__name__)

READ = "org.mapipc.store.read"
WRITE = "org.mapipc.store.write"

SET_NAME = "mapipc_set"
GET_NAME = "mapipc_get"

# As many connections are accepted before others have their turn: about half a millisecond.
TURN_CONNECTIONS = 16
# Read at a time; small enough for the allocator's quick lists.
CHUNK_BYTES = 64 * 1024
TURN_CHUNKS = 16
# Every byte of a key or value may be written as \u0000; and something for the rest.
ESCAPED = 6
ROOM_BYTES = 4096
# Clients that wait while we are busy (the original had 50): one that does not block, and finds
# the line full, fails.
BACKLOG = 1024
# How long we do not accept when no descriptor is left.
PAUSE_SECONDS = 0.2

# Called for every connection, and an enum's value is looked up each time.
_UNIX = int(socket.AF_UNIX)
_STREAM = int(socket.SOCK_STREAM)
_DONTWAIT = int(socket.MSG_DONTWAIT)
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


@dataclass(frozen=True, slots=True)
class Patience:
    """Until when something must have happened; a test may have less."""

    # From connecting to the end of the request: a person with `nc` is fast enough.
    request_seconds: float = 30.0
    # From our first byte to the client's having read the last one.
    reply_seconds: float = 30.0


class _Connection:
    """One client that is not yet answered: its request is on the way, polkit thinks, or it does
    not read."""

    __slots__ = ("_assembly", "_charged", "_door", "_leases", "_rest", "_task", "_timer", "known",
                 "sock")  # fmt: skip

    def __init__(self, door: "_Door", sock: socket.SocketType, known: Known, lease: Lease) -> None:
        self._door = door
        self.sock = sock
        self.known = known
        self._leases = [lease]
        self._charged = CHUNK_BYTES  # the lease for the connection pays for so much
        self._assembly = door.assembly()
        self._rest = memoryview(b"")
        self._task: asyncio.Task[None] | None = None
        self._timer = door.loop.call_later(door.patience.request_seconds, self._too_late)
        door.doors.peers.hold(known)

    # -- reading -------------------------------------------------------------------------------

    def await_request(self, data: bytes | None) -> None:
        """Goes on with what has been read so far (None: nothing was there)."""
        if data is None or not self._take(data):
            self._door.loop.add_reader(self.sock.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(TURN_CHUNKS):
            try:
                data = self.sock.recv(CHUNK_BYTES, _DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            if self._take(data):
                return

    def _take(self, data: bytes) -> bool:
        """Whether that was all that is needed."""
        self._door.doors.no_longer_silent(self)
        try:
            request = self._door.more(self._assembly, data)
            self._charge(self._assembly.size)
        except (BusworkError, Malformed) as error:
            self._refuse(error)
            return True
        if request is None:
            return False
        self._door.loop.remove_reader(self.sock.fileno())
        self._timer.cancel()
        if self._door.may(self.known) and request != READER_REQUEST:
            self._send(self._door.reply(self.known, request))
        else:
            self._task = asyncio.create_task(self._authorise(request))
        return True

    def _charge(self, size: int) -> None:
        """What waits here in memory counts as waiting bytes of its uid, in steps."""
        if size > self._charged:
            amount = max(size, self._charged)
            self._leases.append(self._door.quotas.take(self.uid, "waiting_bytes", amount))
            self._charged += amount

    @property
    def uid(self) -> int:
        return self.known.peer.uid

    # -- answering -----------------------------------------------------------------------------

    async def _authorise(self, request: Any) -> None:
        try:
            await self._door.authority.require_peer(self.known.peer, self._door.action)
        except BusworkError as error:  # the authority has logged it
            reply = self._door.refusal(error)
        except Exception as error:
            log.exception("%s: no decision about pid %d", self._door.name, self.known.peer.pid)
            reply = self._door.refusal(error)
        else:
            if request == READER_REQUEST:
                await self._hand_over_memory()
                return
            reply = self._door.reply(self.known, request)
        self._task = None
        self._send(reply)

    async def _hand_over_memory(self) -> None:
        """The descriptor goes with a null reply, and counts until the process ends."""
        lease, memory = None, -1
        try:
            lease = self._door.quotas.take(self.uid, "descriptors")
            memory = await self._door.doors.memory.open_reader()
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (memory,)))
            self.sock.sendmsg((NULL_REPLY,), (rights,), _SEND)  # a new socket has room
            if self.known.is_kept:  # else it ended meanwhile, and nobody would give this back
                self.known.leases.append(lease)
                lease = None
        except (BusworkError, OSError) as error:
            self._task = None
            if isinstance(error, BusworkError):
                self._refuse(error)
            else:  # there is no such memory to be had
                self._door.complain(self.known, error)
                self._send(NULL_REPLY)
            return
        finally:
            if lease is not None:
                lease.release()
            if memory >= 0:
                os.close(memory)
        self._task = None
        self.close()

    def _refuse(self, error: Exception) -> None:
        self._door.complain(self.known, error)
        self._send(self._door.refusal(error))

    def _send(self, reply: bytes) -> None:
        """Sends and closes, now or when the client has read."""
        self._timer.cancel()
        self._door.loop.remove_reader(self.sock.fileno())
        sent = _send(self.sock, reply)
        if sent == len(reply):
            self.close()
        else:
            self.send_rest(reply, sent)

    def send_rest(self, reply: bytes, sent: int) -> None:
        self._timer.cancel()
        try:
            self._charge(len(reply))
        except LimitsExceeded as error:
            self._door.complain(self.known, error)
            self.close()
            return
        self._rest = memoryview(reply)[sent:]
        loop = self._door.loop
        loop.add_writer(self.sock.fileno(), self._writable)
        self._timer = loop.call_later(self._door.patience.reply_seconds, self._too_late)

    def _writable(self) -> None:
        self._rest = self._rest[_send(self.sock, self._rest) :]
        if not self._rest:
            self.close()

    # -- ending --------------------------------------------------------------------------------

    def _too_late(self) -> None:
        if self._rest:
            self.close()
        else:
            seconds = self._door.patience.request_seconds
            self._refuse(TimedOut(f"no whole request within {seconds:g} s"))

    def close(self) -> None:
        if self.sock.fileno() < 0:
            return
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        loop, doors = self._door.loop, self._door.doors
        loop.remove_reader(self.sock.fileno())
        loop.remove_writer(self.sock.fileno())
        self.sock.close()
        for lease in self._leases:
            lease.release()
        doors.peers.let_go(self.known)
        doors.forget(self)


def _send(sock: socket.SocketType, data: bytes | memoryview) -> int:
    """How much went out; everything, when there is nobody to read it."""
    try:
        return sock.send(data, _SEND)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)


class _Door:
    """One kind of socket. Several listeners may lead to it (/run/buswork, /tmp)."""

    name: ClassVar[str]
    action: ClassVar[str]

    def __init__(self, doors: "Doors") -> None:
        self.doors = doors
        self.authority = doors.authority
        self.quotas = doors.authority.quotas
        self.patience = doors.patience
        self.loop = doors.loop
        self.store = doors.store
        self._sparing = Sparing(f"complaints about {self.name}")

    # What the two kinds do differently.

    def first(self, data: bytes) -> Any:
        """The request, if all of it is in the first packet; None: take the long road."""
        raise NotImplementedError

    def more(self, assembly: Assembly, data: bytes) -> Any:
        """The request when this piece (empty: the last one) completes it."""
        raise NotImplementedError

    def carry_out(self, known: Known, request: Any) -> bytes:
        raise NotImplementedError

    def refusal(self, error: Exception) -> bytes:
        raise NotImplementedError

    # What they have in common.

    def assembly(self) -> Assembly:
        limits = self.store.limits
        return Assembly(ESCAPED * (limits.key_bytes + limits.value_bytes) + ROOM_BYTES)

    def may(self, known: Known) -> bool:
        """Whether it is allowed without asking anybody."""
        return self.authority.peer_is_known(known.peer, self.action)

    def serve(self, sock: socket.SocketType) -> None:
        """The short road, or the beginning of the long one."""
        try:
            known = self.doors.peers.of(sock)
        except BusworkError as error:
            self._turn_away(sock, error)
            return
        data = request = None
        try:
            data = sock.recv(CHUNK_BYTES, _DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            sock.close()
            return
        if data and self.may(known):
            request = self.first(data)
        if request is None:
            self._begin(sock, known, data)
            return
        reply = self.reply(known, request)
        sent = _send(sock, reply)
        if sent == len(reply):
            sock.close()
        elif (connection := self.doors.connection(self, sock, known)) is not None:
            connection.send_rest(reply, sent)

    def _begin(self, sock: socket.SocketType, known: Known, data: bytes | None) -> None:
        connection = self.doors.connection(self, sock, known)
        if connection is not None:
            connection.await_request(data)

    def reply(self, known: Known, request: Any) -> bytes:
        try:
            return self.carry_out(known, request)
        except BusworkError as error:
            self.complain(known, error)
            return self.refusal(error)
        except Exception as error:
            log.exception("%s failed", self.name)
            return self.refusal(error)

    def complain(self, known: Known, error: object) -> None:
        if self._sparing.allows(log):
            peer = known.peer
            log.warning("%s: uid %d, pid %d: %s", self.name, peer.uid, peer.pid, error)

    def _turn_away(self, sock: socket.SocketType, error: BusworkError) -> None:
        """For those of whom it is not even known who they are."""
        if self._sparing.allows(log):
            log.warning("%s: %s", self.name, error)
        _send(sock, self.refusal(error))
        sock.close()


class _GetDoor(_Door):
    """The request is the key, as it comes with the first packet."""

    name = GET_NAME
    action = READ

    def first(self, data: bytes) -> bytes | None:
        return None if data == READER_REQUEST else data

    def more(self, assembly: Assembly, data: bytes) -> bytes:
        return data

    def carry_out(self, known: Known, request: bytes) -> bytes:
        try:
            key = parse_get(request, self.store.limits.key_bytes)
        except Malformed as error:
            self.complain(known, error)
            return NULL_REPLY
        return value_reply(self.store.get(known.peer.uid, key))

    def refusal(self, error: Exception) -> bytes:
        name = error.name if isinstance(error, BusworkError) else BusworkError.name
        text = str(error) if isinstance(error, (BusworkError, Malformed)) else "see the log"
        return error_reply(name, text)


class _SetDoor(_Door):
    """The request is a JSON object, which may come in pieces; the answer is its echo."""

    name = SET_NAME
    action = WRITE

    def first(self, data: bytes) -> tuple[bytes, SetRequest] | None:
        if data[-1] != 0x7D and not data.rstrip().endswith(b"}"):
            return None
        try:
            return data, parse_set(data)
        except Malformed:
            return None  # or not complete: the long road finds out

    def more(self, assembly: Assembly, data: bytes) -> tuple[bytes, SetRequest] | None:
        if data:
            assembly.feed(data)
            if not assembly.complete:
                return None
        request = assembly.request()
        if not assembly.complete:
            raise Malformed(f"the request ended after {len(request)} bytes, before its end")
        return request, parse_set(request)

    def carry_out(self, known: Known, request: tuple[bytes, SetRequest]) -> bytes:
        data, (key, value, complaint) = request
        if complaint:
            self.complain(known, complaint)
        if key:
            # An empty value clears the key; the empty string of JSON is a value of its own.
            self.store.set(known.peer.uid, key, value or b"")
        elif not complaint:
            self.complain(known, "the key is empty, nothing was stored")
        return data

    def refusal(self, error: Exception) -> bytes:
        return b""


class Doors:
    """All native connections of the store."""

    def __init__(
        self,
        store: Store,
        authority: Authority,
        patience: Patience | None = None,
        *,
        memory: SharedMemory,
    ) -> None:
        self.store = store
        self.memory = memory
        self.authority = authority
        self.patience = patience or Patience()
        self.loop = asyncio.get_running_loop()
        self.peers = Peers(authority.forget_peer)
        self._connections: set[_Connection] = set()
        # By uid, those that have not sent anything, the oldest first.
        self._silent: dict[int, dict[_Connection, None]] = {}
        self._doors = {door.name: door for door in (_GetDoor(self), _SetDoor(self))}
        self._listeners: list[socket.socket] = []
        self._sparing = Sparing("failures to accept")

    def __len__(self) -> int:
        return len(self._connections)

    def open(self, listener: socket.socket) -> None:
        """Serves a listening socket as the name of its file says; it is ours from now on."""
        name = str(listener.getsockname()).rpartition("/")[2]
        door = self._doors.get(name)
        if door is None:
            listener.close()
            raise InvalidArgs(f"{name!r} is neither {SET_NAME} nor {GET_NAME}")
        listener.setblocking(False)
        self._listeners.append(listener)
        self._listen(listener, door.serve)

    def _listen(self, listener: socket.socket, serve: Callable[[socket.SocketType], None]) -> None:
        if listener.fileno() >= 0:
            self.loop.add_reader(listener.fileno(), self._accept, listener, serve)

    def _accept(self, listener: socket.socket, serve: Callable[[socket.SocketType], None]) -> None:
        for _ in range(TURN_CONNECTIONS):
            try:
                # Not accept(), which wraps the descriptor in layers that take as long as all else.
                fd, _ = listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                self._could_not_accept(listener, serve, error)
                return
            serve(socket.SocketType(_UNIX, _STREAM, 0, fd))

    def _could_not_accept(
        self,
        listener: socket.socket,
        serve: Callable[[socket.SocketType], None],
        error: OSError,
    ) -> None:
        if error.errno == errno.ECONNABORTED:
            return
        if self._sparing.allows(log):
            log.error("can't accept native clients for a moment: %s", error)
        # The socket stays readable; looking again at once would turn the loop in circles.
        self.loop.remove_reader(listener.fileno())
        self.loop.call_later(PAUSE_SECONDS, self._listen, listener, serve)

    def connection(self, door: _Door, sock: socket.SocketType, known: Known) -> _Connection | None:
        """A connection that takes its time; None: its uid has too many that do."""
        uid = known.peer.uid
        try:
            lease = self._lease(door, known)
        except LimitsExceeded as error:
            door.complain(known, error)
            _send(sock, door.refusal(error))
            sock.close()
            return None
        connection = _Connection(door, sock, known, lease)
        self._connections.add(connection)
        self._silent.setdefault(uid, {})[connection] = None
        return connection

    def _lease(self, door: _Door, known: Known) -> Lease:
        """A place; if need be that of the uid's oldest connection that never said a word."""
        uid = known.peer.uid
        try:
            return self.authority.quotas.take(uid, "native_connections")
        except LimitsExceeded as error:
            silent = self._silent.get(uid)
            if not silent:
                raise
            door.complain(known, f"a silent connection was closed: {error}")
            next(iter(silent)).close()
            return self.authority.quotas.take(uid, "native_connections")

    def no_longer_silent(self, connection: _Connection) -> None:
        silent = self._silent.get(connection.uid)
        if silent is not None:
            silent.pop(connection, None)
            if not silent:
                del self._silent[connection.uid]

    def forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self.no_longer_silent(connection)

    def close(self) -> None:
        for listener in self._listeners:
            self.loop.remove_reader(listener.fileno())
            listener.close()
        for connection in tuple(self._connections):
            connection.close()
        self.peers.close()

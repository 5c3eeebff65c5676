"""mapipcd's sockets, mapipc_set and mapipc_get: one connection for each request.

The short road: a connection whose request is there already, from a process that polkit has
allowed a moment ago, is read, answered and closed in one go. Everybody else becomes a
`_Connection`, counts against the quota of its uid, and has a deadline for each of its steps.

A get is answered in any case, with a member `error` in place of `value` when it is refused: an
unmodified client then ends with status 1. A set is echoed when it has been done; one that is
refused is closed without a word, because unmodified clients take any answer for a yes.
"""

import asyncio
import errno
import logging
import os
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from buswork.authority import Authority, Lease
from buswork.errors import BusworkError, InvalidArgs, LimitsExceeded, TimedOut
from buswork.log import Sparing, SparingByUid
from buswork.native.accept import Acceptor
from buswork.native.commons import Commons
from buswork.native.inflight import InFlight
from buswork.native.peers import Known, Peers
from buswork.native.room import Charges, Crowd
from buswork.native.shares import CHEAP_SECONDS
from buswork.store.model.store import Store
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
NAMES = (SET_NAME, GET_NAME)

# Read at a time; small enough for the allocator's quick lists.
CHUNK_BYTES = 64 * 1024
# How long one connection's request is read before others have their turn.
TURN_SECONDS = 0.002
# Longer requests and values wait for their turn: a list of numbers takes 0.2 us for each byte,
# text a hundredth of that.
LONG_REQUEST = 4096
LONG_VALUE = 64 * 1024
# What a client may have sent that we did not want: thrown away before the end, because it would
# hear of a broken connection in place of our answer. As much as its socket holds, and more.
UNWANTED_CHUNKS = 16
# Every byte of a key or value may be written as \u0000; and something for the rest.
ESCAPED = 6
ROOM_BYTES = 4096

# Looked up for every connection, and an enum's value is computed each time.
_BOTH = int(socket.SHUT_RDWR)
_DONTWAIT = int(socket.MSG_DONTWAIT)
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_EXHAUSTED = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True)
class Patience:
    """Until when something must have happened; a test may have less."""

    # From connecting to the end of the request: a person with `nc` is fast enough.
    request_seconds: float = 30.0
    # From there to our first byte, polkit's decision and the memory's building included; and from
    # that one to the client's having read the last one.
    reply_seconds: float = 30.0


class _Connection:
    """One client that is not yet answered: its request is on the way, polkit thinks, others have
    their turn, or it does not read."""

    __slots__ = ("_assembly", "_charges", "_door", "_doors", "_lease", "_loop", "_rest", "_task",
                 "_timer", "known", "sock")  # fmt: skip

    def __init__(self, door: "_Door", sock: socket.SocketType, known: Known, lease: Lease) -> None:
        self._door = door
        self._doors = door.doors
        self._loop = door.loop
        self.sock = sock
        self.known = known
        self._lease = lease
        self._charges = Charges(door.quotas, self._doors.buffers, known.peer.uid, CHUNK_BYTES)
        self._assembly = door.assembly()
        self._rest = memoryview(b"")
        self._task: asyncio.Task[None] | None = None
        seconds = door.patience.request_seconds
        self._timer = self._loop.call_later(seconds, self._too_late, "no whole request", seconds)
        self._doors.peers.hold(known)

    @property
    def uid(self) -> int:
        return self.known.peer.uid

    # -- reading -------------------------------------------------------------------------------

    def await_request(self, data: bytes | None) -> None:
        """Goes on with what has been read so far (None: nothing was there)."""
        if data is None or not self._take(data):
            self._loop.add_reader(self.sock.fileno(), self._readable)

    def await_turn(self) -> None:
        """Its uid has had its share: nothing is read before others have had theirs."""
        self._doors.crowd.heard(self)
        self._loop.remove_reader(self.sock.fileno())
        self._doors.shares.later(self.uid, self._read_in_turn)

    def _read_in_turn(self) -> None:
        if self.sock.fileno() >= 0 and not self._read():
            self._loop.add_reader(self.sock.fileno(), self._readable)

    def _readable(self) -> None:
        begin, shares = time.monotonic(), self._doors.shares
        is_over = self._read()
        shares.charge(self.uid, time.monotonic() - begin)
        if not is_over and shares.is_over(self.uid):
            self.await_turn()

    def _read(self) -> bool:
        """Whether there is nothing more to read, for good."""
        until = time.monotonic() + TURN_SECONDS
        try:
            while not self._take(self.sock.recv(CHUNK_BYTES, _DONTWAIT)):
                if time.monotonic() > until:
                    return False
        except BlockingIOError:
            return False
        except OSError:
            self.close()
        return True

    def _take(self, data: bytes) -> bool:
        """Whether that was all that is needed."""
        self._doors.crowd.heard(self)
        try:
            request = self._door.more(self._assembly, data)
            self._charges.cover(self._assembly.size)
        except (BusworkError, Malformed) as error:
            self._refuse(error)
            return True
        if request is None:
            return False
        self._loop.remove_reader(self.sock.fileno())
        self._expect("no answer", self._door.patience.reply_seconds)
        if self._door.may(self.known) and request != READER_REQUEST:
            self._answer(request)
        else:
            self._task = asyncio.create_task(self._authorise(request))
        return True

    # -- answering -----------------------------------------------------------------------------

    async def _authorise(self, request: Any) -> None:
        try:
            await self._door.authority.require_peer(self.known.peer, self._door.action)
            if request == READER_REQUEST:
                await self._hand_over_memory()
            refused: Exception | None = None
        except BusworkError as error:  # the authority has logged what it denied
            refused = error
        except Exception as error:
            log.exception("%s failed for pid %d", self._door.name, self.known.peer.pid)
            refused = error
        self._task = None
        if refused is None:
            self._answer(request)
        else:
            self._send(self._door.refusal(refused))

    def _answer(self, request: Any) -> None:
        if request == READER_REQUEST:
            self.close()
            return
        reply = self._door.reply(self.known, request, at_once=True)
        if reply is not None:
            self._send(reply)
        else:
            self._doors.shares.later(self.uid, partial(self._answer_in_turn, request))

    def _answer_in_turn(self, request: Any) -> None:
        if self.sock.fileno() < 0:
            return
        try:
            self._charges.cover(self._door.reply_size(self.known, request))
        except LimitsExceeded as error:
            self._refuse(error)
        else:
            self._send(self._door.reply(self.known, request) or b"")

    async def _hand_over_memory(self) -> None:
        """The descriptor goes with a null reply, and counts until the process ends."""
        lease, memory = None, -1
        try:
            self._doors.in_flight.check(self.uid)
            lease = self._door.quotas.take(self.uid, "descriptors")
            memory = await self._doors.memory.open_reader()
            self._doors.in_flight.send(self.uid, self.sock, NULL_REPLY, memory)
            if self.known.is_kept:  # else it ended meanwhile, and nobody would give this back
                self.known.leases.append(lease)
                lease = None
        except BusworkError as error:
            self._door.complain(self.known, error)
            raise
        except OSError as error:
            self._door.complain(self.known, error)
            if error.errno in _EXHAUSTED:
                raise LimitsExceeded(f"no descriptor is left: {error.strerror}") from error
            _send(self.sock, NULL_REPLY)  # there is no such memory to be had
        finally:
            if lease is not None:
                lease.release()
            if memory >= 0:
                os.close(memory)

    def _refuse(self, error: Exception) -> None:
        self._door.complain(self.known, error)
        self._send(self._door.refusal(error))

    def _send(self, reply: bytes) -> None:
        """Sends and closes, now or when the client has read."""
        self._loop.remove_reader(self.sock.fileno())
        sent = _send(self.sock, reply)
        if sent == len(reply):
            self.close()
        else:
            self.send_rest(reply, sent)

    def send_rest(self, reply: bytes, sent: int) -> None:
        self._doors.crowd.heard(self)
        try:
            self._charges.cover(len(reply))
        except LimitsExceeded as error:
            self._door.complain(self.known, error)
            self.close()
            return
        self._rest = memoryview(reply)[sent:]
        self._expect("the reply was not read", self._door.patience.reply_seconds)
        self._loop.add_writer(self.sock.fileno(), self._writable)

    def _writable(self) -> None:
        self._rest = self._rest[_send(self.sock, self._rest) :]
        if not self._rest:
            self.close()

    # -- ending --------------------------------------------------------------------------------

    def _expect(self, what: str, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._too_late, what, seconds)

    def _too_late(self, what: str, seconds: float) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        error = TimedOut(f"{what} within {seconds:g} s")
        if self._rest:
            self._door.complain(self.known, error)
            self.close()
        else:
            self._refuse(error)

    def close(self) -> None:
        if not self._doors.crowd.remove(self):
            return
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self.sock.fileno() >= 0:  # else it went on as one of the descriptors in flight
            self._loop.remove_reader(self.sock.fileno())
            self._loop.remove_writer(self.sock.fileno())
            _close(self.sock)
        self._lease.release()
        self._charges.release()
        self._doors.peers.let_go(self.known)


def _close(sock: socket.SocketType) -> None:
    """Throws away what the client has sent besides: unread, it would break the connection before
    the client has our answer."""
    try:
        sock.shutdown(_BOTH)  # no more comes
        for _ in range(UNWANTED_CHUNKS):
            if not sock.recv(CHUNK_BYTES, _DONTWAIT):
                break
    except OSError:
        pass
    sock.close()


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
        self._complaints = SparingByUid(f"complaints about {self.name}")
        self._strangers = Sparing(f"connections to {self.name} of processes that can't be known")

    # What the two kinds do differently.

    def first(self, data: bytes) -> Any:
        """The request, if all of it is in the first packet; None: take the long road."""
        raise NotImplementedError

    def more(self, assembly: Assembly, data: bytes) -> Any:
        """The request when this piece (empty: the last one) completes it."""
        raise NotImplementedError

    def carry_out(self, known: Known, request: Any, at_once: bool) -> bytes | None:
        """The reply; None where that would take long, and it is to be at once."""
        raise NotImplementedError

    def reply_size(self, known: Known, request: Any) -> int:
        """How long the reply will be, or a little more; found out before it is made."""
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
        begin = time.monotonic()
        try:
            known = self.doors.peers.of(sock)
        except BusworkError as error:
            self._turn_away(sock, error)
            return
        uid = known.peer.uid
        if self.doors.shares.is_over(uid):
            connection = self.doors.connection(self, sock, known)
            if connection is not None:
                connection.await_turn()
            return
        self._serve(sock, known)
        taken = time.monotonic() - begin
        if taken > CHEAP_SECONDS:
            self.doors.shares.charge(uid, taken)

    def _serve(self, sock: socket.SocketType, known: Known) -> None:
        """The short road, or the beginning of the long one."""
        data = request = reply = None
        try:
            data = sock.recv(CHUNK_BYTES, _DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            sock.close()
            return
        if data and self.may(known):
            request = self.first(data)
            if request is not None:
                reply = self.reply(known, request, at_once=True)
        if reply is None:
            connection = self.doors.connection(self, sock, known)
            if connection is not None:
                connection.await_request(data)
            return
        sent = _send(sock, reply)
        if sent == len(reply):
            sock.close()
        elif (connection := self.doors.connection(self, sock, known)) is not None:
            connection.send_rest(reply, sent)

    def reply(self, known: Known, request: Any, *, at_once: bool = False) -> bytes | None:
        try:
            return self.carry_out(known, request, at_once)
        except (BusworkError, Malformed) as error:
            self.complain(known, error)
            return self.refusal(error)
        except Exception as error:
            log.exception("%s failed", self.name)
            return self.refusal(error)

    def complain(self, known: Known, error: object) -> None:
        peer = known.peer
        if self._complaints.allows(log, peer.uid):
            log.warning("%s: uid %d, pid %d: %s", self.name, peer.uid, peer.pid, error)

    def _turn_away(self, sock: socket.SocketType, error: BusworkError) -> None:
        """For those of whom it is not even known who they are."""
        if self._strangers.allows(log):
            log.warning("%s: %s", self.name, error)
        _send(sock, self.refusal(error))
        _close(sock)


class _GetDoor(_Door):
    """The request is the key, as it comes with the first packet."""

    name = GET_NAME
    action = READ

    def first(self, data: bytes) -> bytes | None:
        return None if data == READER_REQUEST else data

    def more(self, assembly: Assembly, data: bytes) -> bytes:
        return data

    def carry_out(self, known: Known, request: bytes, at_once: bool) -> bytes | None:
        try:
            key = parse_get(request, self.store.limits.key_bytes)
        except Malformed as error:
            self.complain(known, error)
            return NULL_REPLY
        value = self.store.get(known.peer.uid, key)
        return None if at_once and len(value) > LONG_VALUE else value_reply(value)

    def reply_size(self, known: Known, request: bytes) -> int:
        key = parse_get(request, self.store.limits.key_bytes)
        return len(self.store.get(known.peer.uid, key)) + len(NULL_REPLY)

    def refusal(self, error: Exception) -> bytes:
        name = error.name if isinstance(error, BusworkError) else BusworkError.name
        text = str(error) if isinstance(error, (BusworkError, Malformed)) else "see the log"
        return error_reply(name, text)


class _SetDoor(_Door):
    """The request is a JSON object, which may come in pieces; the answer is its echo."""

    name = SET_NAME
    action = WRITE

    def first(self, data: bytes) -> tuple[bytes, SetRequest | None] | None:
        if len(data) > LONG_REQUEST or (data[-1] != 0x7D and not data.rstrip().endswith(b"}")):
            return None
        try:
            return data, parse_set(data)
        except Malformed:
            return None  # or not complete: the long road finds out

    def more(self, assembly: Assembly, data: bytes) -> tuple[bytes, SetRequest | None] | None:
        if data:
            assembly.feed(data)
            if not assembly.complete:
                return None
        request = assembly.request()
        if not assembly.complete:
            raise Malformed(f"the request ended after {len(request)} bytes, before its end")
        return request, None

    def carry_out(
        self, known: Known, request: tuple[bytes, SetRequest | None], at_once: bool
    ) -> bytes | None:
        data, parsed = request
        if parsed is None:
            if at_once and len(data) > LONG_REQUEST:
                return None
            limits = self.store.limits
            parsed = parse_set(data, limits.key_bytes + limits.value_bytes + ROOM_BYTES)
        key, value, complaint = parsed
        if complaint:
            self.complain(known, complaint)
        if key:
            # An empty value clears the key; the empty string of JSON is a value of its own.
            self.store.set(known.peer.uid, key, value or b"")
        elif not complaint:
            self.complain(known, "the key is empty, nothing was stored")
        return data

    def reply_size(self, known: Known, request: tuple[bytes, SetRequest | None]) -> int:
        return len(request[0])

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
        commons: Commons | None = None,
    ) -> None:
        """commons: what the native sockets of other wings have a part of too."""
        self.store = store
        self.memory = memory
        self.authority = authority
        self.patience = patience or Patience()
        self.loop = asyncio.get_running_loop()
        self.peers = Peers(authority.forget_peer)
        commons = commons or Commons()
        self.shares = commons.shares
        self.buffers = commons.buffers
        self.in_flight = InFlight()
        self.crowd: Crowd[_Connection] = Crowd()
        self._doors = {door.name: door for door in (_GetDoor(self), _SetDoor(self))}
        self._acceptor = Acceptor()

    def __len__(self) -> int:
        return len(self.crowd)

    def open(self, listener: socket.socket) -> None:
        """Serves a listening socket as the name of its file says; it is ours from now on."""
        name = str(listener.getsockname()).rpartition("/")[2]
        door = self._doors.get(name)
        if door is None:
            listener.close()
            raise InvalidArgs(f"{name!r} is neither {SET_NAME} nor {GET_NAME}")
        self._acceptor.open(listener, door.serve)

    def connection(self, door: _Door, sock: socket.SocketType, known: Known) -> _Connection | None:
        """A connection that takes its time; None: its uid has too many that do."""
        try:
            lease = self._lease(door, known)
        except LimitsExceeded as error:
            door.complain(known, error)
            _send(sock, door.refusal(error))
            _close(sock)
            return None
        if self.crowd.is_full:
            door.complain(known, f"{self.crowd.most} connections wait already: one was closed")
            self.crowd.oldest_of_most().close()
        connection = _Connection(door, sock, known, lease)
        self.crowd.add(connection)
        return connection

    def _lease(self, door: _Door, known: Known) -> Lease:
        """A place; if need be that of the uid's oldest connection that never said a word."""
        uid = known.peer.uid
        try:
            return self.authority.quotas.take(uid, "native_connections")
        except LimitsExceeded as error:
            silent = self.crowd.oldest_silent(uid)
            if silent is None:
                raise
            door.complain(known, f"a silent connection was closed: {error}")
            silent.close()
            return self.authority.quotas.take(uid, "native_connections")

    def close(self) -> None:
        self._acceptor.close()
        for connection in self.crowd.all:
            connection.close()
        self.in_flight.close()
        self.peers.close()

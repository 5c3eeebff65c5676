"""A client of mapipcd's sockets that is not answered at once, and how any of them is let go."""

import asyncio
import errno
import logging
import os
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from buswork.authority import Authority, Lease
from buswork.errors import BusworkError, LimitsExceeded, TimedOut
from buswork.native.inflight import InFlight
from buswork.native.peers import Known, Peers
from buswork.native.room import Buffers, Charges, Crowd
from buswork.native.shares import Shares
from buswork.store.native.memory import SharedMemory
from buswork.store.native.requests import Requests
from buswork.store.wire.requests import NULL_REPLY, READER_REQUEST, Malformed

log = logging.getLogger(__name__)

# Read at a time; small enough for the allocator's quick lists.
CHUNK_BYTES = 64 * 1024
# How long one connection's request is read before others have their turn.
TURN_SECONDS = 0.002
# What a client may have sent that we did not want: thrown away before the end, because it would
# hear of a broken connection in place of our answer. As much as its socket holds, and more.
UNWANTED_CHUNKS = 16
# Looked up for every connection, and an enum's value is computed each time.
_BOTH = int(socket.SHUT_RDWR)
DONTWAIT = int(socket.MSG_DONTWAIT)
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


class Doors(Protocol):
    """What a connection needs of those who let it in."""

    authority: Authority
    patience: Patience
    loop: asyncio.AbstractEventLoop
    memory: SharedMemory
    peers: Peers
    shares: Shares
    buffers: Buffers
    in_flight: InFlight
    crowd: "Crowd[Connection]"


class Connection:
    """One client that is not yet answered: its request is on the way, polkit thinks, others have
    their turn, or it does not read."""

    __slots__ = ("_assembly", "_charges", "_doors", "_lease", "_loop", "_requests", "_rest",
                 "_task", "_timer", "known", "sock")  # fmt: skip

    def __init__(
        self,
        doors: Doors,
        requests: Requests,
        sock: socket.SocketType,
        known: Known,
        lease: Lease,
    ) -> None:
        self._doors = doors
        self._requests = requests
        self._loop = doors.loop
        self.sock = sock
        self.known = known
        self._lease = lease
        self._charges = Charges(doors.authority.quotas, doors.buffers, known.peer.uid, CHUNK_BYTES)
        self._assembly = requests.assembly()
        self._rest = memoryview(b"")
        self._task: asyncio.Task[None] | None = None
        seconds = doors.patience.request_seconds
        self._timer = self._loop.call_later(seconds, self._too_late, "no whole request", seconds)
        doors.peers.hold(known)

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
            while not self._take(self.sock.recv(CHUNK_BYTES, DONTWAIT)):
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
            request = self._requests.more(self._assembly, data)
            self._charges.cover(self._assembly.size)
        except (BusworkError, Malformed) as error:
            self._refuse(error)
            return True
        if request is None:
            return False
        self._loop.remove_reader(self.sock.fileno())
        self._expect("no answer", self._doors.patience.reply_seconds)
        peer, action = self.known.peer, self._requests.action
        if self._doors.authority.peer_is_known(peer, action) and request != READER_REQUEST:
            self._answer(request)
        else:
            self._task = asyncio.create_task(self._authorise(request))
        return True

    # -- answering -----------------------------------------------------------------------------

    async def _authorise(self, request: Any) -> None:
        try:
            await self._doors.authority.require_peer(self.known.peer, self._requests.action)
            if request == READER_REQUEST:
                await self._hand_over_memory()
            refused: Exception | None = None
        except BusworkError as error:  # the authority has logged what it denied
            refused = error
        except Exception as error:
            log.exception("%s failed for pid %d", self._requests.name, self.known.peer.pid)
            refused = error
        self._task = None
        if refused is None:
            self._answer(request)
        else:
            self._send(self._requests.refusal(refused))

    def _answer(self, request: Any) -> None:
        if request == READER_REQUEST:
            self.close()
            return
        reply = self._requests.reply(self.known, request, at_once=True)
        if reply is not None:
            self._send(reply)
        else:
            self._doors.shares.later(self.uid, partial(self._answer_in_turn, request))

    def _answer_in_turn(self, request: Any) -> None:
        if self.sock.fileno() < 0:
            return
        try:
            self._charges.cover(self._requests.reply_size(self.known, request))
        except LimitsExceeded as error:
            self._refuse(error)
        else:
            self._send(self._requests.reply(self.known, request) or b"")

    async def _hand_over_memory(self) -> None:
        """The descriptor goes with a null reply, and counts until the process ends."""
        lease, memory = None, -1
        try:
            self._doors.in_flight.check(self.uid)
            lease = self._doors.authority.quotas.take(self.uid, "descriptors")
            memory = await self._doors.memory.open_reader()
            self._doors.in_flight.send(self.uid, self.sock, NULL_REPLY, memory)
            if self.known.is_kept:  # else it ended meanwhile, and nobody would give this back
                self.known.leases.append(lease)
                lease = None
        except BusworkError as error:
            self._requests.complain(self.known, error)
            raise
        except OSError as error:
            self._requests.complain(self.known, error)
            if error.errno in _EXHAUSTED:
                raise LimitsExceeded(f"no descriptor is left: {error.strerror}") from error
            send(self.sock, NULL_REPLY)  # there is no such memory to be had
        finally:
            if lease is not None:
                lease.release()
            if memory >= 0:
                os.close(memory)

    def _refuse(self, error: Exception) -> None:
        self._requests.complain(self.known, error)
        self._send(self._requests.refusal(error))

    def _send(self, reply: bytes) -> None:
        """Sends and closes, now or when the client has read."""
        self._loop.remove_reader(self.sock.fileno())
        sent = send(self.sock, reply)
        if sent == len(reply):
            self.close()
        else:
            self.send_rest(reply, sent)

    def send_rest(self, reply: bytes, sent: int) -> None:
        self._doors.crowd.heard(self)
        try:
            self._charges.cover(len(reply))
        except LimitsExceeded as error:
            self._requests.complain(self.known, error)
            self.close()
            return
        self._rest = memoryview(reply)[sent:]
        self._expect("the reply was not read", self._doors.patience.reply_seconds)
        self._loop.add_writer(self.sock.fileno(), self._writable)

    def _writable(self) -> None:
        self._rest = self._rest[send(self.sock, self._rest) :]
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
            self._requests.complain(self.known, error)
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
            hang_up(self.sock)
        self._lease.release()
        self._charges.release()
        self._doors.peers.let_go(self.known)


def hang_up(sock: socket.SocketType) -> None:
    """Throws away what the client has sent besides: unread, it would break the connection before
    the client has our answer."""
    try:
        sock.shutdown(_BOTH)  # no more comes
        for _ in range(UNWANTED_CHUNKS):
            if not sock.recv(CHUNK_BYTES, DONTWAIT):
                break
    except OSError:
        pass
    sock.close()


def send(sock: socket.SocketType, data: bytes | memoryview) -> int:
    """How much went out; everything, when there is nobody to read it."""
    try:
        return sock.send(data, _SEND)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)

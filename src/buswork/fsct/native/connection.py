"""One client of the driver's socket: what comes is read, answered in its order, and sent.

Its memory is what came and is not read yet, requests that wait for polkit, and what the client
has not read; all of that is charged to its uid.
"""

import asyncio
import logging
import select
import socket
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from buswork.authority import Lease
from buswork.errors import BusworkError, LimitsExceeded, TimedOut
from buswork.fsct.native.calls import OBSERVE
from buswork.fsct.native.tongues import TOLD, Tongue, request_or_answer, tongue_of
from buswork.fsct.wire.protocol import Broken
from buswork.native.peers import Known
from buswork.native.room import Charges, size_of

if TYPE_CHECKING:
    from buswork.fsct.native.rpc import RpcServer

log = logging.getLogger(__name__)

# Requests of a connection that wait for their answer; who sends more has to wait.
MAX_IN_FLIGHT = 64
# Read at a time before others have their turn: eighty small requests, about two milliseconds.
CHUNK_BYTES = 4 * 1024
# What is longer is read in turns: a line of 1 MiB, which is read at once when all of it is there,
# takes up to ten milliseconds.
LONG_BYTES = 16 * 1024
# What a client has not read; then its requests are not read either, and it is told no more.
MAX_UNREAD_BYTES = 256 * 1024
# What a connection may keep in memory without being charged for it.
FREE_BYTES = 64 * 1024

_DONTWAIT = int(socket.MSG_DONTWAIT)
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take; a test may have less."""

    # From the first byte of a message to its last.
    message_seconds: float = 30.0
    # How long a client may leave its answers unread.
    unread_seconds: float = 30.0
    # From a request's coming to its answer. Longer than polkit is waited for.
    request_seconds: float = 25.0
    # What is in flight at the end has so long.
    drain_seconds: float = 5.0


class _Waiting(NamedTuple):
    """A request that is not answered yet, or an answer (bytes) that others stand in front of."""

    message: Any
    until: float  # when it has to be answered
    size: int


class Connection:
    """One client, for as long as it is connected."""

    def __init__(
        self, server: "RpcServer", sock: socket.SocketType, known: Known, lease: Lease
    ) -> None:
        self.known = known
        self._server = server
        self._patience = server.patience
        self._shares = server.commons.shares
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._lease = lease
        buffers = server.commons.buffers
        self._charges = Charges(server.quotas, buffers, known.peer.uid, FREE_BYTES)
        self._tongue: Tongue | None = None
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._pump: asyncio.Task[None] | None = None
        # Word of devices, until it is known whether the client may observe.
        self._news = bytearray()
        self._teller: asyncio.Task[None] | None = None
        self._unsent = bytearray()
        self._message_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._reads = False
        self._in_line = False  # for a turn of its uid
        self._ends = False  # as soon as everything is answered
        self._broken = False  # what else it sent can't be read
        self._read_on()

    @property
    def uid(self) -> int:
        return self.known.peer.uid

    @property
    def is_open(self) -> bool:
        return self._sock.fileno() >= 0

    # -- reading -------------------------------------------------------------------------------

    @property
    def _has_room(self) -> bool:
        """Whether there is room for what comes of reading."""
        return (
            not self._ends
            and len(self._waiting) < MAX_IN_FLIGHT
            and len(self._unsent) <= MAX_UNREAD_BYTES
        )

    def _read_on(self) -> None:
        may = self._has_room and not self._in_line
        if may and not self._reads:
            self._loop.add_reader(self._sock.fileno(), self._readable)
        elif self._reads and not may:
            self._loop.remove_reader(self._sock.fileno())
        self._reads = may

    def _readable(self) -> None:
        if self._is_long or self._shares.is_over(self.uid):
            self._in_line = True
            self._read_on()
            self._shares.later(self.uid, self._read_in_turn)
            return
        begin = time.monotonic()
        self._read()
        self._shares.charge(self.uid, time.monotonic() - begin)

    @property
    def _is_long(self) -> bool:
        """Whether what comes may end a message that takes long to be read."""
        return self._tongue is not None and self._tongue.decoder.buffered > LONG_BYTES

    def _read_in_turn(self) -> None:
        self._in_line = False
        if self.is_open and self._has_room:
            self._read()
        if self.is_open:
            self._read_on()

    def _read(self) -> None:
        try:
            data = self._sock.recv(CHUNK_BYTES, _DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            if not self.close_if_left():
                self.end()
            return
        if self._tongue is None:
            self._tongue = tongue_of(data[0])
        self._tongue.decoder.feed(data)
        self._take_messages(self._tongue, b"")

    def _take_messages(self, tongue: Tongue, answer: bytes | bytearray) -> None:
        """Answers what can be answered at once, behind the answer that there is; the rest waits."""
        answers = bytearray(answer)
        taken = False
        try:
            while not self._broken and len(self._waiting) < MAX_IN_FLIGHT:
                message = tongue.decoder.next()
                if message is None:
                    break
                taken = True
                answers += self._answer_or_wait(tongue, request_or_answer(tongue, message))
            is_partial = tongue.decoder.partial and not self._waiting
            if is_partial or self._message_timer is not None:
                self._look_at_time(is_partial, begun=taken)
            if tongue.decoder.buffered:
                self._charges.adjust(self._kept)
        except (Broken, LimitsExceeded) as error:
            last = error.answer if isinstance(error, Broken) else tongue.cut_off(str(error))
            self._break_off(tongue, error)
            answers += self._answer_or_wait(tongue, last)
        self._send(answers)

    @property
    def _kept(self) -> int:
        """The bytes that are kept in memory."""
        buffered = 0 if self._tongue is None else self._tongue.decoder.buffered
        return buffered + self._waiting_bytes + len(self._news) + len(self._unsent)

    def _break_off(self, tongue: Tongue, error: Exception) -> None:
        """Reads no more: what else it sent can't be read, or there is no room for it."""
        self._server.complain(self.known, error)
        self._ends = self._broken = True
        tongue.decoder.clear()

    def _look_at_time(self, partial: bool, *, begun: bool) -> None:
        """A message that has begun must end some time; begun: it is not the one of before."""
        if self._message_timer is not None and (begun or not partial):
            self._message_timer.cancel()
            self._message_timer = None
        if partial and self._message_timer is None:
            seconds = self._patience.message_seconds
            self._message_timer = self._loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        seconds = self._patience.message_seconds
        self._server.complain(self.known, f"no whole message within {seconds:g} s")
        self.close()

    # -- answering -----------------------------------------------------------------------------

    def _answer_or_wait(self, tongue: Tongue, message: Any) -> bytes:
        """The answer, unless it has to wait; then it will come in its turn."""
        if not self._waiting:
            answer = self._answer_now(tongue, message)
            if answer is not None:
                return answer
        self._wait(tongue, message)
        if self._pump is None:
            self._pump = self._loop.create_task(self._answer_waiting(tongue))
        return b""

    def _wait(self, tongue: Tongue, message: Any) -> None:
        """A request for which there is no room is answered so, and is the last one."""
        size = 0 if self._broken else size_of(message)  # the last word is not counted
        try:
            self._charges.adjust(self._kept + size)
        except LimitsExceeded as error:
            self._break_off(tongue, error)
            size = 0
            if not isinstance(message, bytes):
                message = tongue.error(message, error)
        until = self._loop.time() + self._patience.request_seconds
        self._waiting.append(_Waiting(message, until, size))
        self._waiting_bytes += size

    def _answer_now(self, tongue: Tongue, message: Any, allowed: str | None = None) -> bytes | None:
        """The answer; None: somebody must be asked first. allowed: an action that was asked for."""
        if isinstance(message, bytes):
            return message
        try:
            calls, method = self._server.calls, message.method
            arguments = tongue.arguments(message)
            action = calls.action(self.known, method, arguments)
            if action is not None and action != allowed and not calls.may(self.known, action):
                return None
            return tongue.result(message, calls.carry_out(self, method, arguments))
        except Exception as error:
            return self._failure(tongue, message, error)

    async def _answer_waiting(self, tongue: Tongue) -> None:
        allowed = None
        while self._waiting:
            work = partial(self._answer_allowed, tongue, allowed)
            await self._shares.turn(self.uid, work)
            if self._waiting:
                allowed = await self._ask(tongue)
        self._pump = None

    def _answer_allowed(self, tongue: Tongue, allowed: str | None) -> None:
        """Answers all in front for which nobody must be asked; allowed: for the first of them."""
        if self.close_if_left():
            return
        answers = bytearray()
        while self._waiting:
            answer = self._answer_now(tongue, self._waiting[0].message, allowed)
            if answer is None:
                break
            allowed = None
            answers += answer
            self._waiting_bytes -= self._waiting.popleft().size
        # Those that were left in the decoder come now, before anything ends.
        self._take_messages(tongue, answers)

    async def _ask(self, tongue: Tongue) -> str | None:
        """What the first that waits is allowed now; None: it has got its answer instead."""
        message, until, size = self._waiting[0]
        try:
            async with asyncio.timeout_at(until):
                action = self._action(tongue, message)
                await self._server.authority.require_peer(self.known.peer, action)
            return action
        except TimeoutError:
            seconds = self._patience.request_seconds
            late = TimedOut(f"{message.method} was not allowed within {seconds:g} s")
            answer = tongue.error(message, late)
        except Exception as error:
            answer = self._failure(tongue, message, error)
        self._waiting[0] = _Waiting(answer, until, size)
        return None

    def _action(self, tongue: Tongue, message: Any) -> str:
        action = self._server.calls.action(self.known, message.method, tongue.arguments(message))
        assert action is not None  # else there would be an answer
        return action

    def _failure(self, tongue: Tongue, message: Any, error: Exception) -> bytes:
        if not isinstance(error, TOLD):
            log.error("%s failed", message.method, exc_info=error)
        return tongue.error(message, error)

    # -- word of devices -----------------------------------------------------------------------

    def tell(self, news: bytes) -> None:
        """Sends it to a client that is told of devices, as soon as it is known that it may be."""
        if self._tongue is None or not self._tongue.is_told_of_devices or not self.is_open:
            return
        if len(self._unsent) + len(self._news) + len(news) > MAX_UNREAD_BYTES:
            return
        try:
            self._charges.adjust(self._kept + len(news))
        except LimitsExceeded:
            return
        if self._teller is None and self._server.calls.may(self.known, OBSERVE):
            self._send(news)
            return
        self._news += news
        if self._teller is None:
            self._teller = self._loop.create_task(self._tell_later())

    async def _tell_later(self) -> None:
        news = b""
        try:
            await self._server.authority.require_peer(self.known.peer, OBSERVE)
            news = bytes(self._news)
        except BusworkError:
            pass  # the authority has logged what it denied
        except Exception as error:
            log.error("nobody could say who may observe", exc_info=error)
        self._news.clear()
        self._teller = None
        self._send(news)

    # -- writing -------------------------------------------------------------------------------

    def _send(self, data: bytes | bytearray) -> None:
        if self._unsent:
            self._unsent += data
        elif data and self.is_open:
            sent = self._try(data)
            if sent < len(data):
                self._unsent += data[sent:]
                self._await_reader()
        if self.is_open:
            self._settle()

    def _write_on(self) -> None:
        """The client has read something."""
        sent = self._try(self._unsent)
        if not self.is_open:
            return
        del self._unsent[:sent]
        if sent and self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        if self._unsent:
            self._await_reader()
        else:
            self._loop.remove_writer(self._sock.fileno())
        self._settle()

    def _try(self, data: bytes | bytearray) -> int:
        """How much went out; the connection is closed when there is nobody to read it."""
        try:
            return self._sock.send(data, _SEND)
        except BlockingIOError:
            return 0
        except OSError:
            self.close()
            return len(data)

    def _await_reader(self) -> None:
        if self._unread_timer is None:
            self._loop.add_writer(self._sock.fileno(), self._write_on)
            self._unread_timer = self._loop.call_later(self._patience.unread_seconds, self.close)

    def _settle(self) -> None:
        """Goes on reading, or ends, as things are now."""
        try:
            self._charges.adjust(self._kept)
        except LimitsExceeded as error:
            self._server.complain(self.known, error)
            self.close()
            return
        if self._ends and not self._waiting and not self._unsent:
            self.close()
        else:
            self._read_on()

    # -- ending --------------------------------------------------------------------------------

    def finish(self) -> None:
        """Takes what has come by now, and ends."""
        if self._has_room:
            self._read()
        if self.is_open:
            self.end()

    def end(self) -> None:
        """Reads no more; ends when everything is answered."""
        self._ends = True
        self._settle()

    def close_if_left(self) -> bool:
        """Whether nobody is there who could read an answer; then there is no need to wait."""
        poll = select.poll()
        poll.register(self._sock.fileno(), 0)
        if any(found & select.POLLHUP for _, found in poll.poll(0)):
            self.close()
        return not self.is_open

    def close(self) -> None:
        if not self.is_open:
            return
        for timer in (self._message_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        for task in (self._pump, self._teller):
            if task is not None:
                task.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._waiting.clear()
        self._broken = True  # what is left of what it sent is nobody's
        self._lease.release()
        self._charges.release()
        self._server.forget(self)

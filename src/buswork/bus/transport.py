"""One connection to a message bus: socket, authentication, frames in, messages out.

What stock libraries get wrong and this does not: a full send buffer is no error; incoming
descriptors that nobody takes are closed; outgoing ones are duplicated when they are queued,
so the caller may close its own at once; one peer's flood can't hold the loop, because a turn
ends after a bounded time; and when the bus dies, everything that waits for it fails.
"""

import array
import asyncio
import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from buswork.bus.address import authenticate, connect
from buswork.bus.codec import Body, CodecError, body_encoder
from buswork.bus.library import is_bus_name_valid
from buswork.bus.message import (
    FieldCode,
    Flag,
    Frame,
    FrameBuffer,
    Kind,
    ProtocolError,
    RawFrame,
    encode_error,
    encode_message,
    parse_fields,
)
from buswork.bus.writer import Writer, close_all
from buswork.errors import BusworkError, Disconnected, LimitsExceeded, TimedOut, UnknownObject

log = logging.getLogger(__name__)

# The longest that one turn of the reader holds the loop: long enough for hundreds of short
# calls, short enough that timers and other descriptors never wait visibly.
TURN_SECONDS = 0.004
# Past this much unsent data we stop reading calls, so that the bus, not our memory, holds
# what the callers ask; 16 MiB is the largest single reply.
QUEUE_HIGH = 16 * 1024 * 1024
QUEUE_LOW = 4 * 1024 * 1024
# The largest body of a call. The system bus cuts off who sends a message above 32 MiB; the
# header fields need a little of that.
MAX_CALL = 32 * 1024 * 1024 - 64 * 1024
# Room for the most descriptors that the kernel passes in one message (SCM_MAX_FD).
_ANCILLARY = socket.CMSG_SPACE(253 * array.array("i").itemsize)
# As plain numbers: `&` on the enumerations takes half a microsecond.
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED = int(socket.MSG_CTRUNC)
DEFAULT_TIMEOUT = 25.0
CONNECT_TIMEOUT = 10.0

BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"


class Account(Protocol):
    """Whom the time of a call is charged to."""

    spent: float


# Gets a call and the time at which it came; says whom to charge for the time it took.
OnCall = Callable[[RawFrame, float], Account | None]
OnSignal = Callable[[Frame], None]


class Listener:
    """One subscription to a signal; counts only what the expected sender sent."""

    __slots__ = ("callback", "key", "path", "sender")

    def __init__(
        self, key: tuple[str, str], sender: str | None, path: str | None, callback: OnSignal
    ) -> None:
        self.key = key
        self.sender = sender
        self.path = path
        self.callback = callback


class Connection:
    """A connection that has said Hello; `open` makes one."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self.unique_name = ""
        self.on_call: OnCall = self._refuse_call
        self.closed: asyncio.Future[Exception | None] = loop.create_future()
        self.bytes_in = 0
        self.is_behind = False  # more has come than one turn could deal with
        self.writer = Writer(sock, loop, self._lose, self._has_room)
        self.send = self.writer.send
        self._sock = sock
        self._loop = loop
        self._buffer = FrameBuffer()
        self._fds: deque[int] = deque()
        self._serial = 0
        self._pending: dict[int, asyncio.Future[Frame]] = {}
        self._listeners: dict[tuple[str, str], list[Listener]] = {}
        self._matches: dict[str, int] = {}
        self._adding: dict[str, asyncio.Task[None]] = {}
        self._reading = False

    # -- opening and closing -------------------------------------------------------------------

    @classmethod
    async def open(cls, address: str) -> "Connection":
        """Connects, authenticates as the process's own uid and says Hello."""
        async with asyncio.timeout(CONNECT_TIMEOUT):
            sock = await connect(address)
            try:
                await authenticate(sock)
            except BaseException:
                sock.close()
                raise
            connection = cls(sock, asyncio.get_running_loop())
            connection._start_reading()
            (connection.unique_name,) = await connection.call_bus("Hello")
        return connection

    def close(self) -> None:
        self._lose(None)

    @property
    def is_open(self) -> bool:
        return not self.closed.done()

    def _lose(self, reason: Exception | None) -> None:
        """Ends the connection; all that waits for it fails now, for nothing will come."""
        if self.closed.done():
            return
        self._stop_reading()
        self.writer.close()
        self._sock.close()
        close_all(self._fds)
        self._fds.clear()
        self.closed.set_result(reason)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(Disconnected("the connection to the bus is gone"))
        self._pending.clear()

    # -- reading -------------------------------------------------------------------------------

    def _start_reading(self) -> None:
        if not self._reading and self.is_open:
            self._reading = True
            self._loop.add_reader(self._sock, self._readable)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock)

    def _readable(self) -> None:
        room = self._buffer.room()
        try:
            count, ancillary, flags, _ = self._sock.recvmsg_into(
                (room,), _ANCILLARY, _CLOSE_ON_EXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if ancillary:
            self._collect_fds(ancillary)
        if not count or flags & _TRUNCATED:
            self._lose(ProtocolError("the bus closed the connection"))
            return
        self.bytes_in += count
        self.is_behind = count == len(room)
        self._buffer.filled(count)
        self._turn()

    def _collect_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(data[: len(data) - len(data) % received.itemsize])
                self._fds.extend(received)

    def _turn(self) -> None:
        """Deals with the messages that have come, but not for longer than one turn."""
        now = time.monotonic()
        stop_at = now + TURN_SECONDS
        next_frame = self._buffer.next
        writer = self.writer
        writer.is_held = True
        try:
            while (frame := next_frame()) is not None:
                if frame[0] == 1:  # Kind.CALL, spelt out because this is the hot path
                    account = self.on_call(frame, now)
                    before, now = now, time.monotonic()
                    if account is not None:
                        account.spent += now - before
                else:
                    self._receive(frame)
                    now = time.monotonic()
                if now > stop_at:
                    self.is_behind = True
                    self._stop_reading()
                    self._loop.call_soon(self._resume)
                    break
            else:
                if self._fds and not self._buffer.partial:
                    self._close_stray_fds()
        except ProtocolError as error:
            self._lose(error)
        except Exception:
            self._loop.call_soon(self._resume)  # what came behind it is dealt with all the same
            raise
        finally:
            writer.is_held = False
            if writer.queued:
                writer.flush()
                if writer.is_blocked and writer.queued > QUEUE_HIGH:
                    self._stop_reading()

    def _resume(self) -> None:
        if not self.is_open:
            return
        if self.writer.is_blocked and self.writer.queued > QUEUE_HIGH:
            return  # the writer resumes us
        self.is_behind = False
        self._start_reading()
        self._turn()

    def _close_stray_fds(self) -> None:
        """Descriptors that no message claimed: the bus should not send such, so they go."""
        close_all(self._fds)
        self._fds.clear()

    def frame(self, raw: RawFrame) -> Frame:
        """Reads the header of a frame and hands its descriptors over to the caller."""
        kind, flags, serial, order, fields, body = raw
        try:
            header = parse_fields(fields, order)
        except (CodecError, BusworkError) as error:
            raise ProtocolError(f"header fields that make no sense: {error}") from error
        sender = header.sender  # it is the bus that writes it
        if kind == Kind.CALL and sender is not None and not is_bus_name_valid(sender):
            raise ProtocolError("a call of a sender whose name is none")
        if header.unix_fds > len(self._fds):
            raise ProtocolError("a message with fewer descriptors than it says")
        fds = tuple(self._fds.popleft() for _ in range(header.unix_fds))
        return Frame(kind, flags, serial, order, header, body, fds)

    def _receive(self, raw: RawFrame) -> None:
        frame = self.frame(raw)
        if frame.kind == Kind.SIGNAL:
            self._receive_signal(frame)
            close_all(frame.fds)
            return
        future = self._pending.get(frame.header.reply_serial)
        if frame.kind not in (Kind.RETURN, Kind.ERROR) or future is None or future.done():
            close_all(frame.fds)
            return
        future.set_result(frame)

    def _receive_signal(self, frame: Frame) -> None:
        header = frame.header
        if header.interface is None or header.member is None:
            return
        for listener in tuple(self._listeners.get((header.interface, header.member), ())):
            if listener.sender not in (None, header.sender):
                continue
            if listener.path not in (None, header.path):
                continue
            try:
                listener.callback(frame)
            except Exception:
                # One listener's defect must not keep the messages behind this one waiting.
                log.exception("a listener for %s failed", header.member)

    def _refuse_call(self, raw: RawFrame, now: float) -> Account | None:
        """A connection that exports nothing still answers."""
        frame = self.frame(raw)
        close_all(frame.fds)
        self.send_error(frame, UnknownObject("this connection exports no objects"))
        return None

    # -- writing -------------------------------------------------------------------------------

    def next_serial(self) -> int:
        self._serial = serial = self._serial % 0xFFFFFFFF + 1
        return serial

    def send_error(self, call: Frame, error: BusworkError) -> None:
        if not call.flags & Flag.NO_REPLY_EXPECTED:
            self.send(encode_error(self.next_serial(), call.serial, call.header.sender, error))

    def _has_room(self) -> None:
        """The writer got rid of something; perhaps enough to read on."""
        if self.writer.queued < QUEUE_LOW and not self._reading and self.is_open:
            self._loop.call_soon(self._resume)

    # -- calling others ------------------------------------------------------------------------

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
        *,
        flags: int = 0,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> Frame:
        """Calls a method; returns the reply's frame or raises BusworkError with its name."""
        target = (destination, path, interface, member)
        serial = self._begin_call(target, signature, values, flags)
        return await self._reply_to(serial, target, timeout)

    def _begin_call(
        self, target: tuple[str, str, str, str], signature: str, values: Sequence[Any], flags: int
    ) -> int:
        """Sends a call at once, so that calls leave in the order in which they were begun."""
        if not self.is_open:
            raise Disconnected("the connection to the bus is gone")
        serial = self.next_serial()
        self._send_call(serial, flags, target, signature, values)
        self._pending[serial] = self._loop.create_future()
        return serial

    async def _reply_to(
        self, serial: int, target: tuple[str, str, str, str], timeout: float | None
    ) -> Frame:
        future = self._pending[serial]
        try:
            async with asyncio.timeout(timeout):
                frame = await future
        except TimeoutError:
            _close_unread(future)
            text = f"{target[0]} did not answer {target[3]} in {timeout:g} s"
            raise TimedOut(text) from None
        except asyncio.CancelledError:
            _close_unread(future)
            raise
        finally:
            self._pending.pop(serial, None)
        if frame.kind == Kind.ERROR:
            raise _error_of(frame)
        return frame

    def tell(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
        *,
        flags: int = 0,
    ) -> None:
        """Calls a method and wants no reply."""
        if self.is_open:
            flags |= Flag.NO_REPLY_EXPECTED
            target = (destination, path, interface, member)
            self._send_call(self.next_serial(), flags, target, signature, values)

    def _send_call(
        self,
        serial: int,
        flags: int,
        target: tuple[str, str, str, str],
        signature: str,
        values: Sequence[Any],
    ) -> None:
        destination, path, interface, member = target
        fields: dict[FieldCode, Any] = {
            FieldCode.PATH: path,
            FieldCode.INTERFACE: interface,
            FieldCode.MEMBER: member,
            FieldCode.DESTINATION: destination,
        }
        body = body_encoder(signature)(values)
        if len(body) > MAX_CALL:
            raise LimitsExceeded(f"a call of {len(body)} bytes; {MAX_CALL} are the most")
        if signature:
            fields[FieldCode.SIGNATURE] = signature
        fds = body.fds if isinstance(body, Body) else ()
        if fds:
            fields[FieldCode.UNIX_FDS] = len(fds)
        self.send(encode_message(Kind.CALL, flags, serial, fields, body), fds)

    async def call_bus(
        self, member: str, signature: str = "", values: Sequence[Any] = ()
    ) -> Sequence[Any]:
        """Calls a method of the bus driver and returns its values.

        Newer buses send a descriptor of the process with its credentials (ProcessFD); whoever
        does not close it has none left after some hundred callers.
        """
        frame = await self.call(BUS, BUS_PATH, BUS, member, signature, values)
        close_all(frame.fds)
        return frame.values()

    # -- listening -----------------------------------------------------------------------------

    def listen(
        self,
        interface: str,
        member: str,
        callback: OnSignal,
        *,
        sender: str | None,
        path: str | None = None,
    ) -> Listener:
        """Calls back for signals that `sender` (a unique name or the bus) itself sent.

        Anybody may send us any signal; only the sender field, which the bus fills in, tells
        whose it is. Only clients that watch a whole bus pass None.
        """
        listener = Listener((interface, member), sender, path, callback)
        self._listeners.setdefault(listener.key, []).append(listener)
        return listener

    def unlisten(self, listener: Listener) -> None:
        listeners = self._listeners.get(listener.key, [])
        with contextlib.suppress(ValueError):
            listeners.remove(listener)
        if not listeners:
            self._listeners.pop(listener.key, None)

    async def add_match(self, rule: str) -> None:
        """Subscribes to what the rule describes; equal rules are counted, not repeated."""
        count = self._matches.get(rule, 0)
        if not count:
            # Sent here and now: a task might do so only after the rule was taken back.
            target = (BUS, BUS_PATH, BUS, "AddMatch")
            serial = self._begin_call(target, "s", (rule,), 0)
            task = self._adding[rule] = self._loop.create_task(self._added(rule, serial, target))
            task.add_done_callback(_look_at_failure)
        self._matches[rule] = count + 1
        if rule in self._adding:  # not before the bus has said yes to the first
            try:
                await asyncio.shield(self._adding[rule])
            except asyncio.CancelledError:
                self.remove_match(rule)
                raise

    async def _added(self, rule: str, serial: int, target: tuple[str, str, str, str]) -> None:
        try:
            await self._reply_to(serial, target, DEFAULT_TIMEOUT)
        except BaseException:
            if self._adding.get(rule) is asyncio.current_task():
                self._matches.pop(rule, None)
            raise
        finally:
            if self._adding.get(rule) is asyncio.current_task():
                del self._adding[rule]

    def remove_match(self, rule: str) -> None:
        """Takes a subscription back; nobody waits for the bus to do so."""
        if self._forget_match(rule):
            self.tell(BUS, BUS_PATH, BUS, "RemoveMatch", "s", (rule,))

    def _forget_match(self, rule: str) -> bool:
        """Counts one use less; True when that was the last."""
        count = self._matches.get(rule, 0)
        if count > 1:
            self._matches[rule] = count - 1
            return False
        self._adding.pop(rule, None)
        return self._matches.pop(rule, None) is not None


def _error_of(frame: Frame) -> BusworkError:
    """The exception for an error reply that we received."""
    text = ""
    with contextlib.suppress(CodecError, BusworkError):
        values = frame.values()
        text = values[0] if values and isinstance(values[0], str) else ""
    close_all(frame.fds)
    return BusworkError(text, frame.header.error_name or BusworkError.name)


def _look_at_failure(task: asyncio.Task[None]) -> None:
    """Whoever waits has it; if nobody does any more, it is no news."""
    if not task.cancelled():
        task.exception()


def _close_unread(future: asyncio.Future[Frame]) -> None:
    """For a reply that came when nobody waited for it any more."""
    if future.done() and not future.cancelled() and future.exception() is None:
        close_all(future.result().fds)

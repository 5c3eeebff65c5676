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
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from buswork.bus.codec import Body, CodecError, body_encoder
from buswork.bus.library import is_interface_name_valid
from buswork.bus.message import (
    FieldCode,
    Flag,
    Frame,
    FrameBuffer,
    Kind,
    ProtocolError,
    RawFrame,
    encode_message,
    parse_fields,
)
from buswork.errors import BusworkError, Disconnected, LimitsExceeded, TimedOut, UnknownObject

log = logging.getLogger(__name__)

# The longest that one turn of the reader holds the loop: long enough for hundreds of short
# calls, short enough that timers and other descriptors never wait visibly.
TURN_SECONDS = 0.004
# Past this much unsent data we stop reading calls, so that the bus, not our memory, holds
# what the callers ask; 16 MiB is the largest single reply.
QUEUE_HIGH = 16 * 1024 * 1024
QUEUE_LOW = 4 * 1024 * 1024
# Past this much, signals are dropped and large replies refused: somebody asks for more than
# the bus carries off. 64 calls in flight with replies of 1 MiB fit twice.
QUEUE_MAX = 128 * 1024 * 1024
# The largest body of a call. The system bus cuts off who sends a message above 32 MiB; the
# header fields need a little of that.
MAX_CALL = 32 * 1024 * 1024 - 64 * 1024
# How much output passes between two calls of `on_output`.
OUTPUT_STEP = 1024 * 1024
# How much goes into one send: more does not fit into a socket buffer anyway.
BATCH_BYTES = 128 * 1024
BATCH_PIECES = 256
# Room for the most descriptors that the kernel passes in one message (SCM_MAX_FD).
_ANCILLARY = socket.CMSG_SPACE(253 * array.array("i").itemsize)
# As plain numbers: `&` on the enumerations takes half a microsecond.
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED = int(socket.MSG_CTRUNC)
# A bus that answers a line of authentication with more than this is no bus.
MAX_AUTH_LINE = 16 * 1024
# An error's text is a sentence. It may quote what the caller sent, which may be as long as a
# message, and for a reply longer than that the bus would throw us out.
MAX_ERROR_TEXT = 1024
DEFAULT_TIMEOUT = 25.0
CONNECT_TIMEOUT = 10.0

BUS = "org.freedesktop.DBus"
FAILED = BusworkError.name
BUS_PATH = "/org/freedesktop/DBus"
SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"


class Account(Protocol):
    """Whom the time of a call is charged to."""

    spent: float


# Gets a call and the time at which it came; says whom to charge for the time it took.
OnCall = Callable[[RawFrame, float], Account | None]
OnSignal = Callable[[Frame], None]


def bus_address(bus: str) -> str:
    """The address that "system", "session" or an address in its own right stands for."""
    if bus == "system":
        return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", SYSTEM_BUS)
    if bus == "session":
        runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        return os.environ.get("DBUS_SESSION_BUS_ADDRESS", f"unix:path={runtime}/bus")
    return bus


def _socket_names(address: str) -> list[bytes]:
    """The unix socket names in a D-Bus address; those of other transports are passed over."""
    names = []
    for entry in address.split(";"):
        transport, _, options = entry.partition(":")
        if transport != "unix":
            continue
        for option in options.split(","):
            key, _, value = option.partition("=")
            if key == "path":
                names.append(unquote_to_bytes(value))
            elif key == "abstract":
                names.append(b"\0" + unquote_to_bytes(value))
    return names


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
        self.on_output: Callable[[], None] = lambda: None
        self.bytes_in = 0
        self.bytes_out = 0
        self._report_at = OUTPUT_STEP
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
        self._in_turn = False
        self._queue: deque[tuple[bytes, Sequence[int]]] = deque()
        self._queued = 0
        self._rest: bytes | memoryview | None = None
        self._flush_planned = False
        self._waiting_to_write = False
        self._drained: asyncio.Future[None] | None = None

    # -- opening and closing -------------------------------------------------------------------

    @classmethod
    async def open(cls, address: str) -> "Connection":
        """Connects, authenticates as the process's own uid and says Hello."""
        async with asyncio.timeout(CONNECT_TIMEOUT):
            sock = await _connect(address)
            try:
                await _authenticate(sock)
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
        if self._waiting_to_write:
            self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        close_all(self._fds)
        self._fds.clear()
        self.closed.set_result(reason)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(Disconnected("the connection to the bus is gone"))
        self._pending.clear()
        self._tell_drained()

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
        try:
            count, ancillary, flags, _ = self._sock.recvmsg_into(
                (self._buffer.room(),), _ANCILLARY, _CLOSE_ON_EXEC
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
        self._in_turn = True
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
            self._in_turn = False
            if self._queue:
                self._flush()

    def _resume(self) -> None:
        if not self.is_open:
            return
        if self._queued > QUEUE_HIGH and self._waiting_to_write:
            return  # the writer resumes us
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

    @property
    def queued(self) -> int:
        """How many bytes wait to be sent."""
        return self._queued

    @property
    def overfull(self) -> bool:
        """Whether nothing large should be queued any more."""
        return self._queued > QUEUE_MAX

    def send(self, message: bytes, fds: Sequence[int] = ()) -> None:
        """Queues a message; fds are duplicated and remain the caller's."""
        if self.closed.done():
            return
        if fds:
            fds = _duplicate(fds)
        self._queue.append((message, fds))
        self._queued += len(message)
        if not self._in_turn and not self._flush_planned and not self._waiting_to_write:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def send_error(self, call: Frame, error: BusworkError) -> None:
        if not call.flags & Flag.NO_REPLY_EXPECTED:
            self.send(encode_error(self.next_serial(), call.serial, call.header.sender, error))

    def _flush(self) -> None:
        self._flush_planned = False
        if self.closed.done():
            return
        if not self._waiting_to_write:
            self._send_all()
        if self._waiting_to_write and self._queued > QUEUE_HIGH:
            self._stop_reading()

    def _send_all(self) -> None:
        try:
            while self._send_some():
                pass
        except (BlockingIOError, InterruptedError):
            self._waiting_to_write = True
            self._loop.add_writer(self._sock, self._writable)
        except OSError as error:
            self._lose(error)
        else:
            self._tell_drained()

    def _tell_drained(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def _send_some(self) -> bool:
        """One send; whether there is more to send. Raises BlockingIOError when full."""
        if self._rest is None:
            if not self._queue:
                return False
            data, fds = self._next_batch()
            if fds:
                self._send_with_fds(data, fds)
                return True
            self._rest = data
        self._sent(self._rest, self._sock.send(self._rest))
        return self._rest is not None or bool(self._queue)

    def _next_batch(self) -> tuple[bytes, Sequence[int]]:
        """As many messages as go into one send; one with descriptors goes alone."""
        queue = self._queue
        data, fds = queue[0]
        if fds:
            return data, fds
        queue.popleft()
        if not queue or queue[0][1]:
            return data, ()
        pieces, size = [data], len(data)
        while queue and not queue[0][1] and size < BATCH_BYTES and len(pieces) < BATCH_PIECES:
            piece = queue.popleft()[0]
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces), ()

    def _send_with_fds(self, data: bytes, fds: Sequence[int]) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        sent = self._sock.sendmsg((data,), (rights,))
        self._queue.popleft()
        close_all(fds)
        self._sent(data, sent)

    def _sent(self, data: bytes | memoryview, count: int) -> None:
        self._queued -= count
        self.bytes_out += count
        self._rest = memoryview(data)[count:] if count < len(data) else None
        if self.bytes_out >= self._report_at:
            self._report_at = self.bytes_out + OUTPUT_STEP
            self.on_output()

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock)
        self._waiting_to_write = False
        self._flush()
        if self._queued < QUEUE_LOW and not self._reading and self.is_open:
            self._loop.call_soon(self._resume)

    async def drain(self) -> None:
        """Returns when all that was queued is with the bus (or the connection is gone)."""
        if self.is_open and (self._queue or self._rest is not None):
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

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
        if not self.is_open:
            raise Disconnected("the connection to the bus is gone")
        serial = self.next_serial()
        future: asyncio.Future[Frame] = self._loop.create_future()
        self._pending[serial] = future
        try:
            self._send_call(
                serial, flags, (destination, path, interface, member), signature, values
            )
            async with asyncio.timeout(timeout):
                frame = await future
        except TimeoutError:
            _close_unread(future)
            raise TimedOut(f"{destination} did not answer {member} in {timeout:g} s") from None
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
        """Calls a method of the bus driver and returns its values."""
        return (await self.call(BUS, BUS_PATH, BUS, member, signature, values)).values()

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
        self._matches[rule] = count + 1
        if not count:
            self._adding[rule] = self._loop.create_task(self._add_match(rule))
        if rule in self._adding:  # not before the bus has said yes to the first
            try:
                await asyncio.shield(self._adding[rule])
            except asyncio.CancelledError:
                self.remove_match(rule)
                raise

    async def _add_match(self, rule: str) -> None:
        try:
            await self.call_bus("AddMatch", "s", (rule,))
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


def encode_error(
    serial: int, reply_serial: int, destination: str | None, error: BusworkError
) -> bytes:
    """An error message; what D-Bus does not take of it is replaced or cut off."""
    fields: dict[FieldCode, Any] = {
        FieldCode.ERROR_NAME: error.name if is_interface_name_valid(error.name) else FAILED,
        FieldCode.REPLY_SERIAL: reply_serial,
        FieldCode.SIGNATURE: "s",
    }
    if destination is not None:
        fields[FieldCode.DESTINATION] = destination
    text = str(error)
    if len(text) > MAX_ERROR_TEXT:
        text = text[:MAX_ERROR_TEXT] + "..."
    text = text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    flags = Flag.NO_REPLY_EXPECTED
    return encode_message(Kind.ERROR, flags, serial, fields, body_encoder("s")((text,)))


def _error_of(frame: Frame) -> BusworkError:
    """The exception for an error reply that we received."""
    text = ""
    with contextlib.suppress(CodecError, BusworkError):
        values = frame.values()
        text = values[0] if values and isinstance(values[0], str) else ""
    close_all(frame.fds)
    return BusworkError(text, frame.header.error_name or FAILED)


def _close_unread(future: asyncio.Future[Frame]) -> None:
    """For a reply that came when nobody waited for it any more."""
    if future.done() and not future.cancelled() and future.exception() is None:
        close_all(future.result().fds)


def close_all(fds: Sequence[int] | deque[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _duplicate(fds: Sequence[int]) -> list[int]:
    copies: list[int] = []
    try:
        copies.extend(os.dup(fd) for fd in fds)
    except OSError:
        close_all(copies)
        raise
    return copies


async def _connect(address: str) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure: OSError = FileNotFoundError(f"no unix socket in the bus address {address!r}")
    for name in _socket_names(address):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, name)
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def _authenticate(sock: socket.socket) -> None:
    """SASL EXTERNAL: the kernel vouches for our uid ("Authentication Protocol")."""
    uid = str(os.geteuid()).encode().hex().encode()
    await _ask(sock, b"\0AUTH EXTERNAL " + uid, b"OK ")
    await _ask(sock, b"NEGOTIATE_UNIX_FD", b"AGREE_UNIX_FD")
    await asyncio.get_running_loop().sock_sendall(sock, b"BEGIN\r\n")


async def _ask(sock: socket.socket, line: bytes, expected: bytes) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, line + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n"):
        chunk = await loop.sock_recv(sock, MAX_AUTH_LINE)
        answer += chunk
        if not chunk or len(answer) > MAX_AUTH_LINE:
            raise ConnectionError("the bus ended the authentication")
    if not answer.startswith(expected):
        raise ConnectionError(f"the bus refused authentication: {answer!r}")

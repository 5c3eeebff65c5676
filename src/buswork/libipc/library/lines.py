"""Sockets that speak something else, as ends of a switch, with callbacks that know what."""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from buswork.libipc.errors import PeerGone
from buswork.libipc.library.leaving import leave
from buswork.libipc.library.readiness import Handler, Poll
from buswork.libipc.library.switching import Code, Side, Taken
from buswork.libipc.wire.forms import Assembler, BadMessage, Form, Message, encode

log = logging.getLogger(__name__)

# An end that holds this much unsent stops the reading of the other one. A message is pushed whole,
# so that one message more may be held.
FULL_BYTES: Final = 256 * 1024
READ_BYTES: Final = 64 * 1024
# Messages that one turn of the loop takes from one end, before others have theirs.
TURN_MESSAGES: Final = 64


class Line:
    """A stream socket as callbacks see it: nothing here waits, and what is written leaves in order.

    `data` is the callbacks' own, say a parser of what this line speaks.
    """

    def __init__(self, sock: socket.socket, data: object = None) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.data = data
        self.unsent = bytearray()
        self.failure: OSError | None = None

    def receive(self, size: int = READ_BYTES) -> bytes:
        """What has come; b"" when the other side is done; BlockingIOError when nothing has."""
        return self.socket.recv(size)

    def write(self, data: bytes) -> None:
        """Leaves when it can; the switch sees to it. What can't leave ends the switch."""
        if not self.unsent and self.failure is None:
            data = data[self._send(data) :]
        self.unsent += data

    def flush(self) -> None:
        if self.failure is None:
            del self.unsent[: self._send(self.unsent)]

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self.socket.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.failure = error
            return 0


In = Callable[[Line], Taken]
Out = Callable[[Line, Message], Code]


def plain_in(form: Form) -> In:
    """Takes the plain format; each line needs one of its own."""
    assembler = Assembler(form)
    ready: deque[Message] = deque()

    def take(line: Line) -> Taken:
        if not ready:
            assembler.check()
            data = line.receive()
            if not data:
                return Taken(Code.CLOSING)
            ready.extend(assembler.feed(data))
        if not ready:
            return Taken(Code.OK)
        message = ready.popleft()
        return Taken(Code.OK, message, more=bool(ready) or _has_failed(assembler))

    return take


def _has_failed(assembler: Assembler) -> bool:
    """What is to be told after what came whole."""
    if assembler.waiting:
        try:
            assembler.check()
        except BadMessage:
            return True
    return False


def plain_out(form: Form) -> Out:
    def give(line: Line, message: Message) -> Code:
        line.write(encode(form, message))
        return Code.OK

    return give


class _Loop:
    """Reads without a context, and so whether its events are taken or not."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def read(self, fd: int, handler: Handler) -> None:
        self._loop.add_reader(fd, handler, 0)

    def forget(self, fd: int) -> None:
        self._loop.remove_reader(fd)


class SocketEnd:
    """A stream socket, and the callbacks that know what it speaks.

    A callback that raises ends the switch: BadMessage is PARSING, all else ERROR; BlockingIOError
    alone, when reading, says that nothing is there. What callbacks write in answer to what they
    read is bounded too: an end that is full is read no more.
    """

    def __init__(
        self, line: Line, take: In, give: Out, form: Form | None, reading: Poll | None = None
    ) -> None:
        self.form = form
        self._line = line
        self._take = take
        self._give = give
        self._loop = asyncio.get_running_loop()
        self._reading = reading or _Loop(self._loop)
        self._side: Side
        self._is_wanted = False  # by the other end
        self._is_reading = False
        self._is_writing = False
        self._is_closed = False
        self._has_more = False
        self._again: asyncio.Handle | None = None

    @property
    def subject(self) -> object:
        return self._line.socket

    @property
    def full(self) -> bool:
        return len(self._line.unsent) >= FULL_BYTES

    @property
    def empty(self) -> bool:
        return not self._line.unsent

    def start(self, side: Side) -> None:
        self._side = side
        self.resume()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._line.unsent.clear()
        self._read_or_not()
        self._write_or_not()
        leave(self._line.socket)

    # -- in ------------------------------------------------------------------------------------

    def pause(self) -> None:
        self._is_wanted = False
        self._read_or_not()

    def resume(self) -> None:
        self._is_wanted = True
        self._read_or_not()

    def _read_or_not(self) -> None:
        should = self._is_wanted and not self.full and not self._is_closed
        if should == self._is_reading:
            return
        self._is_reading = should
        if not should:
            self._reading.forget(self._line.socket.fileno())
            self._forget_to_read_again()
            return
        self._reading.read(self._line.socket.fileno(), self._read)
        if self._has_more:
            self._again = self._loop.call_soon(self._read)

    def _forget_to_read_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _read(self, events: int = 0) -> None:
        self._forget_to_read_again()
        for _ in range(TURN_MESSAGES):
            self._read_one()
            self._read_or_not()
            if not self._is_reading or not self._has_more:
                break
        else:
            self._again = self._loop.call_soon(self._read)
        self._see_to_what_was_written()

    def _read_one(self) -> None:
        self._has_more = False
        try:
            taken = self._take(self._line)
        except BlockingIOError:
            return
        except Exception as error:
            self._fail(error)
            return
        self._has_more = taken.more
        if taken.code == Code.IGNORE:
            self._side.ignored()
        elif taken.code != Code.OK:
            self._side.ended(taken.code)
        elif taken.message is not None:
            self._side.took(taken.message)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, BadMessage):
            self._side.ended(Code.PARSING, error)
        elif isinstance(error, OSError):
            self._side.ended(Code.ERROR, PeerGone(f"the socket failed: {error}"))
        else:
            log.error("a callback failed, which ends its switch", exc_info=error)
            self._side.ended(Code.ERROR, error)

    # -- out -----------------------------------------------------------------------------------

    def push(self, message: Message) -> None:
        try:
            code = self._give(self._line, message)
        except Exception as error:
            self._fail(error)
            return
        if code not in (Code.OK, Code.IGNORE):
            self._side.ended(code)
        self._see_to_what_was_written()

    def _see_to_what_was_written(self) -> None:
        if self._line.failure is not None and not self._is_closed:
            self._fail(self._line.failure)
        self._write_or_not()
        self._read_or_not()

    def _write_or_not(self) -> None:
        should = not self.empty and not self._is_closed
        if should == self._is_writing:
            return
        self._is_writing = should
        if should:
            self._loop.add_writer(self._line.socket, self._write)
        else:
            self._loop.remove_writer(self._line.socket)

    def _write(self) -> None:
        was_full = self.full
        self._line.flush()
        self._see_to_what_was_written()
        if not self._is_closed and (self.empty or (was_full and not self.full)):
            self._side.room()

"""stdin and stdout as one end of a switch, and how messages stand there."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

from buswork.cli.ipc import plain
from buswork.cli.ipc_parser import MOST_BYTES
from buswork.cli.output import InputError, Output
from buswork.libipc import Code, Form, Message
from buswork.libipc.library.switching import Side
from buswork.libipc.wire.forms import Assembler, BadMessage, encode

READ_BYTES = 65_536
# In JSON, a byte may take six.
MOST_LINE_BYTES = 6 * MOST_BYTES + 1_000


class Framing(Protocol):
    def __init__(self, form: Form, user_type: int) -> None: ...

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are whole with these bytes; no bytes are the end. InputError."""

    def show(self, message: Message) -> None: ...


class Lines:
    """A line is a message."""

    def __init__(self, form: Form, user_type: int) -> None:
        self._user_type = user_type
        self._held = b""
        self._out = Output()

    def feed(self, data: bytes) -> list[Message]:
        if not data:
            lines, self._held = [self._held] if self._held else [], b""
        else:
            *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > MOST_LINE_BYTES:
            raise InputError(f"a line has at most {MOST_LINE_BYTES} bytes")
        return [self.message(line) for line in lines]

    def message(self, line: bytes) -> Message:
        return Message(line, self._user_type)

    def show(self, message: Message) -> None:
        self._out.payload(message.payload, line=True)


class Json(Lines):
    """A line is an object: {"user_type": 42, "payload": "text"}, or {"hex": ...} for a text."""

    def message(self, line: bytes) -> Message:
        try:
            return _message_of(json.loads(line))
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise InputError(f"a line is no message: {error}") from None

    def show(self, message: Message) -> None:
        self._out.document(plain(message))


def _message_of(value: Any) -> Message:
    payload, numbers = value["payload"], [value.get("user_type", 0), value.get("type", 2)]
    if not all(type(number) is int and 0 <= number <= 255 for number in numbers):
        raise ValueError("user_type and type are numbers from 0 to 255")
    data = payload.encode() if isinstance(payload, str) else bytes.fromhex(payload["hex"])
    return Message(data, *numbers)


class Wire:
    """Messages with their headers, as on the connection."""

    def __init__(self, form: Form, user_type: int) -> None:
        self._form = form
        self._assembler = Assembler(form)
        self._out = Output()

    def feed(self, data: bytes) -> list[Message]:
        try:
            if data:
                return self._assembler.feed(data)
            self._assembler.check()
        except BadMessage as error:
            raise InputError(str(error)) from None
        if self._assembler.waiting:
            raise InputError("stdin ended within a message")
        return []

    def show(self, message: Message) -> None:
        self._out.raw(encode(self._form, message))


FRAMINGS: dict[str, Callable[[Form, int], Framing]] = {"lines": Lines, "json": Json, "wire": Wire}


class Stdio:
    """It ends when it got so many messages, or when stdin has ended and nothing came for a while.

    Writing is not queued: a reader of stdout who is slow holds up all of it.
    """

    form = None
    full = False
    empty = True
    subject = "stdin and stdout"

    def __init__(
        self,
        framing: Framing,
        *,
        count: int | None,
        linger: float,
        is_sent: Callable[[], bool],
    ) -> None:
        """is_sent: whether all that was read here has left the other end."""
        self._framing = framing
        self._left = count
        self._linger = linger
        self._is_sent = is_sent
        self._loop = asyncio.get_running_loop()
        self._number = sys.stdin.fileno()
        self._next: asyncio.Handle | None = None  # what is to happen without being told
        self._side: Side
        self._has_ended = False

    def start(self, side: Side) -> None:
        self._side = side
        self.resume()

    def resume(self) -> None:
        if self._has_ended:
            return
        try:
            self._loop.add_reader(self._number, self._read)
        except PermissionError:  # a file can't be waited for, and need not
            self._next = self._loop.call_soon(self._read_file)

    def pause(self) -> None:
        self._loop.remove_reader(self._number)
        if self._next is not None and not self._has_ended:
            self._next.cancel()

    def close(self) -> None:
        self._has_ended = True
        self._loop.remove_reader(self._number)
        if self._next is not None:
            self._next.cancel()

    # -- stdin ---------------------------------------------------------------------------------

    def _read_file(self) -> None:
        self._next = self._loop.call_soon(self._read_file)
        self._read()

    def _read(self) -> None:
        try:
            data = os.read(self._number, READ_BYTES)
            if not data:
                self.close()
            for message in self._framing.feed(data):
                self._side.took(message)
        except (InputError, OSError) as error:
            self._side.ended(Code.PARSING, error)
            return
        if not data:
            self._wait_for_silence()

    def _wait_for_silence(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = self._loop.call_later(self._linger, self._end_of_silence)

    def _end_of_silence(self) -> None:
        if self._is_sent():
            self._side.ended(Code.CLOSING)
        else:
            self._wait_for_silence()

    # -- stdout --------------------------------------------------------------------------------

    def push(self, message: Message) -> None:
        try:
            self._framing.show(message)
        except OSError as error:
            self._side.ended(Code.ERROR, error)
            return
        if self._left is not None:
            self._left -= 1
        if self._left == 0:
            self._side.ended(Code.CLOSING)
        elif self._has_ended:
            self._wait_for_silence()

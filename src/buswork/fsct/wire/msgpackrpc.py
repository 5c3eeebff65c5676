"""MessagePack-RPC: messages in a stream of bytes, and back.

    [0, msgid, method, params]   a request        [1, msgid, error, result]   its response
    [2, method, params]          a notification

There is no length in front; each message is found by walking over its values once, in whatever
pieces it comes, and only then made into objects, if it is small in all but its texts. So neither
nesting nor announced sizes cost anything.

What has an id is answered. Values that are no message are skipped, as the original does, and
what follows them works. Nothing can be told any more about a stream after a message that is too
long, or has the byte 0xc1 inside, which nothing means: those end it.
"""

import re
from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]

from buswork.fsct.wire.checks import is_text
from buswork.fsct.wire.protocol import MAX_MESSAGE_BYTES, Broken

# Of a request to be read; the longest of sense, update_player_state, has 29, and five of arrays
# and maps that aren't empty. The depth can't be more than the number of these.
MAX_VALUES = 256
MAX_CONTAINERS = 32

# An array's length, the kind, and a msgid, each in its longest form.
_HEAD_BYTES = 5 + 9 + 9

_REQUEST, _RESPONSE, _NOTIFICATION = 0, 1, 2
_NEVER_USED = 0xC1


class Request(NamedTuple):
    msgid: int
    method: str
    params: list[Any]


class Response(NamedTuple):
    msgid: int
    error: Any  # None: there is a result
    result: Any


class Notification(NamedTuple):
    method: str
    params: list[Any]


class Refused(NamedTuple):
    """A request that is none; its sender waits for an answer all the same."""

    msgid: int
    text: str


Message = Request | Response | Notification | Refused


# -- where a message ends ------------------------------------------------------------------------


def _tables() -> tuple[list[int], list[int], dict[int, tuple[int, int, int]]]:
    """By first byte: the bytes of a value and how many values are in it; what needs a look."""
    sizes, children = [1] * 256, [0] * 256
    for count in range(16):
        children[0x80 + count], children[0x90 + count] = 2 * count, count
    for length in range(32):
        sizes[0xA0 + length] = 1 + length
    for width in range(4):
        for kind in (0xCC, 0xD0):  # unsigned, signed
            sizes[kind + width] = 1 + (1 << width)
    sizes[0xCA], sizes[0xCB] = 5, 9  # floats
    for power in range(5):  # extensions, with their type
        sizes[0xD4 + power] = 2 + (1 << power)
    # How many bytes the length has; what a unit of it stands for: bytes, values.
    looks: dict[int, tuple[int, int, int]] = {}
    for width in range(3):
        looks[0xC4 + width] = looks[0xD9 + width] = (1 << width, 1, 0)  # bin, str
        looks[0xC7 + width] = (1 << width, 1, 0)  # ext; its type is added below
    for width in (1, 2):
        looks[0xDB + width] = (1 << width, 0, 1)  # array
        looks[0xDD + width] = (1 << width, 0, 2)  # map
    for first in (*looks, _NEVER_USED):
        sizes[first] = 0
    return sizes, children, looks


_SIZES, _CHILDREN, _LOOKS = _tables()
_EXTENSIONS: Final = (0xC7, 0xC8, 0xC9)
# An array of more than nothing; what is worth a look. Anything else may be lone bytes.
_BEGINNINGS: Final = range(0x91, 0xA0)
# Values of one byte in a row: nothing that begins a message.
_LONE_BYTES = re.compile(rb"[\x00-\x80\x90\xa0\xc0-\xc3\xe0-\xff]*+")


class Decoder:
    """Finds the messages in what a connection sends."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets what there is."""
        self._buffer = bytearray()
        self._start = 0  # where the next message begins
        self._begin()

    def _begin(self) -> None:
        self._at = self._start  # how far the message was walked over; maybe beyond the buffer
        self._pending = 1  # values that are still to come
        self._values = 1
        self._containers = 0

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return len(self._buffer) > self._start

    @property
    def buffered(self) -> int:
        """How many bytes are kept here."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        if self._start:
            del self._buffer[: self._start]
            self._at -= self._start
            self._start = 0
        self._buffer += data

    def next(self) -> Message | None:
        """The next message, if all of it is there; Broken if there will be no more."""
        while self._walk():
            raw = self._buffer[self._start : self._at]
            readable = self._values <= MAX_VALUES and self._containers <= MAX_CONTAINERS
            self._start = self._at
            self._begin()
            message = _message(raw) if readable else _refusal(raw, "it has too many values")
            if message is not None:
                return message
        if not self.partial:
            self.clear()  # it may have been a long one
        return None

    def _walk(self) -> bool:
        """Goes on to the end of the message, or of what is there of it."""
        buffer, at, pending = self._buffer, self._at, self._pending
        end = len(buffer)
        if at == self._start and at < end and buffer[at] not in _BEGINNINGS:
            at = self._skip_lone_bytes()
        while pending and at < end:
            first = buffer[at]
            size = _SIZES[first]
            if size:
                at += size
                if children := _CHILDREN[first]:
                    self._containers += 1
                    self._values += children
                    pending += children
            else:
                header = self._look(first, at, end)
                if header is None:  # the length is not there yet
                    break
                at += header[0]
                pending += header[1]
            pending -= 1
        self._at, self._pending = at, pending
        # What is to come has a byte at the least for each of its values.
        if at + pending - self._start > MAX_MESSAGE_BYTES:
            raise self.broken(f"a message has {MAX_MESSAGE_BYTES} bytes at the most")
        return not pending and at <= end

    def _skip_lone_bytes(self) -> int:
        match = _LONE_BYTES.match(self._buffer, self._start)
        if match:
            self._start = match.end()
        return self._start

    def _look(self, first: int, at: int, end: int) -> tuple[int, int] | None:
        """How many bytes a value with a length has, and how many values are in it."""
        if first == _NEVER_USED:
            raise self.broken("the byte 0xc1 means nothing")
        width, unit_bytes, unit_values = _LOOKS[first]
        if at + 1 + width > end:
            return None
        length = int.from_bytes(self._buffer[at + 1 : at + 1 + width])
        if children := length * unit_values:
            self._containers += 1
            self._values += children
        return 1 + width + length * unit_bytes + (first in _EXTENSIONS), children

    def broken(self, text: str) -> Broken:
        """What ends the stream within the message that has begun, with the answer to that."""
        head = bytes(self._buffer[self._start : self._start + _HEAD_BYTES])
        refusal = _refusal(head, text)
        return Broken(text, encode_error(*refusal) if refusal else b"")


# -- what a message says -------------------------------------------------------------------------


def _message(raw: bytearray) -> Message | None:
    """None: it is a value like any other."""
    try:
        # Bytes that are no UTF-8 stay in the text as halves of characters: a UUID may be such.
        message = msgpack.unpackb(
            raw,
            strict_map_key=False,
            unicode_errors="surrogateescape",
            max_array_len=MAX_VALUES,
            max_map_len=MAX_VALUES,
        )
    except (ValueError, TypeError):  # a time that is none; a key of a map that can't be one
        return _refusal(raw, "it has a value that can't be read")
    if type(message) is not list or not message or type(message[0]) is not int:
        return None
    kind = message[0]
    if kind == _REQUEST:
        return _request(message)
    if kind == _RESPONSE and len(message) >= 4 and type(message[1]) is int:
        return Response(*message[1:4])
    if kind == _NOTIFICATION and len(message) >= 3:
        method, params = message[1:3]
        if is_text(method) and type(params) is list:
            return Notification(method, params)
    return None


def _request(message: list[Any]) -> Request | Refused | None:
    if len(message) < 2 or type(message[1]) is not int:
        return None
    msgid = message[1]
    # Of more than four, the original takes the first four.
    if msgid < 0:
        return _refused(msgid, "its msgid is negative")
    if len(message) < 4:
        return _refused(msgid, "it has no method or no params")
    method, params = message[2:4]
    if not is_text(method):
        return _refused(msgid, "its method must be string")
    if type(params) is not list:
        return _refused(msgid, "its params must be array")
    return Request(msgid, method, params)


def _refused(msgid: int, why: str) -> Refused:
    return Refused(msgid, f"invalid request: {why}")


def _refusal(raw: bytes | bytearray, why: str) -> Refused | None:
    """What to answer to a message of which only the beginning can be read."""
    unpacker = msgpack.Unpacker(max_buffer_size=_HEAD_BYTES)
    unpacker.feed(raw[:_HEAD_BYTES])
    try:
        if unpacker.read_array_header() < 2:
            return None
        kind, msgid = unpacker.unpack(), unpacker.unpack()
    except (ValueError, TypeError, msgpack.OutOfData):
        return None
    if type(kind) is not int or kind != _REQUEST or type(msgid) is not int:
        return None
    return _refused(msgid, why)


# -- to be sent ----------------------------------------------------------------------------------


def encode_request(msgid: int, method: str, params: list[Any]) -> bytes:
    return _packed([_REQUEST, msgid, method, params])


def encode_response(msgid: int, result: Any) -> bytes:
    return _packed([_RESPONSE, msgid, None, result])


def encode_error(msgid: int, text: str) -> bytes:
    return _packed([_RESPONSE, msgid, text, None])


def _packed(message: list[Any]) -> bytes:
    data: bytes = msgpack.packb(message)
    return data

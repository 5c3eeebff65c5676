"""Messages in the two forms that libipc's versions speak, out of streams and into them (section 2).

Neither says which one it is: the directory of a service's socket does, or whoever made the
connection. The originals take what one read brings for one message; what comes of that for
senders is section 3, and not for here: this side reassembles whatever comes, in any pieces.
"""

import enum
import struct
from typing import Final, NamedTuple

# One send of so many bytes, header included, is never seen in two pieces (section 2).
SAFE_BYTES: Final = 36_544


class Form(enum.StrEnum):
    C = "c"  # a type, the length, a user type
    ZIG = "zig"  # the length alone


# The types of messages of the form C. The originals interpret none of them.
SERVER_CLOSE: Final = 0
ERR: Final = 1
DATA: Final = 2
NETWORK_LOOKUP: Final = 3


class Message(NamedTuple):
    """The form ZIG carries the payload alone."""

    payload: bytes
    user_type: int = 0
    type: int = DATA


class BadMessage(ValueError):
    """A message that can't be sent, or a stream that brings none."""


_C: Final = struct.Struct(">BIB")
_ZIG: Final = struct.Struct(">I")
_C_BYTES: Final = _C.size
_ZIG_BYTES: Final = _ZIG.size

# What each message goes through, without the detours: these take a third of the time.
_c_header: Final = _C.pack
_c_parts: Final = _C.unpack_from
_zig_header: Final = _ZIG.pack
_zig_parts: Final = _ZIG.unpack_from
_new: Final = tuple.__new__
_FORM_C: Final = Form.C  # a member of an enum is slow to get

_MOST_SENT: Final = {Form.C: 1_999_988, Form.ZIG: 99_992}
# The last six bytes overrun a buffer in the C sender, and leave it intact nevertheless.
_MOST_TAKEN: Final = {Form.C: 1_999_994, Form.ZIG: 99_992}


def header_bytes(form: Form) -> int:
    return _C_BYTES if form is Form.C else _ZIG_BYTES


def most_payload(form: Form) -> int:
    """The longest payload that every receiver takes, so that it may be sent."""
    return _MOST_SENT[form]


def most_announced(form: Form) -> int:
    """The longest payload that an original may bring."""
    return _MOST_TAKEN[form]


def encode(form: Form, message: Message) -> bytes:
    """The bytes of a message, to go out in one send; BadMessage if the form has no such message."""
    return frame(form, *message)


def frame(form: Form, payload: bytes, user_type: int = 0, message_type: int = DATA) -> bytes:
    """What `encode` does, of the parts of a message."""
    length = len(payload)
    if length > _MOST_SENT[form]:
        text = f"a payload has at most {_MOST_SENT[form]} bytes in the form {form}, not {length}"
        raise BadMessage(text)
    if form is _FORM_C:
        try:
            return _c_header(message_type, length, user_type) + payload
        except struct.error:
            raise BadMessage("types and user types are numbers of 0 to 255") from None
    if user_type or message_type != DATA:
        raise BadMessage(f"the form {form} carries no types: they have to be left out")
    return _zig_header(length) + payload


class Assembler:
    """Messages out of one peer's stream, however it comes in pieces.

    No more is kept than has come: an announced length reserves nothing. The announcement of a
    message that is too long ends the stream: what was whole before it is handed out first, then
    `check`, and every `feed`, raises BadMessage. `waiting` tells both what is not whole yet and
    such an end, so that there is nothing to look after while it is 0.
    """

    __slots__ = ("_failed", "_held", "_is_c", "_most", "_wanted", "waiting")

    def __init__(self, form: Form, most: int | None = None) -> None:
        """`most` is the longest payload taken, at the most (and if not given) what may come."""
        allowed = _MOST_TAKEN[form]
        self._most = allowed if most is None else min(most, allowed)
        self._is_c = form is Form.C
        self._held = bytearray()
        self._wanted = 0  # bytes held that would make a header, or a whole message
        self._failed: str | None = None
        self.waiting = 0  # bytes held

    def feed(self, data: bytes | memoryview) -> list[Message]:
        """The messages that are whole with these bytes, of which nothing but copies is kept."""
        # Nearly always one read brings one message: that way has to be short.
        if not self.waiting:
            size = len(data)
            if self._is_c:
                if size >= _C_BYTES:
                    message_type, length, user_type = _c_parts(data)
                    if length == size - _C_BYTES and length <= self._most:
                        payload = bytes(data[_C_BYTES:])
                        return [_new(Message, (payload, user_type, message_type))]
            elif size >= _ZIG_BYTES and _zig_parts(data)[0] == size - _ZIG_BYTES <= self._most:
                return [_new(Message, (bytes(data[_ZIG_BYTES:]), 0, DATA))]
        return self._collect(data)

    def check(self) -> None:
        """BadMessage if the stream has ended in what is no message."""
        if self._failed is not None:
            raise BadMessage(self._failed)

    def _collect(self, data: bytes | memoryview) -> list[Message]:
        self.check()
        held = self._held
        held += data
        self.waiting = len(held)
        if self.waiting < self._wanted:
            return []
        messages, taken = self._whole_messages()
        self.waiting -= taken
        if self._failed is None:
            del held[:taken]
        else:
            held.clear()
            if not messages:
                self.check()
        return messages

    def _whole_messages(self) -> tuple[list[Message], int]:
        """Those that are held, and how many bytes they are."""
        messages: list[Message] = []
        header, header_bytes = (_C, _C_BYTES) if self._is_c else (_ZIG, _ZIG_BYTES)
        message_type, user_type = DATA, 0
        start = 0
        with memoryview(self._held) as held:
            while True:
                self._wanted = header_bytes
                if len(held) - start < header_bytes:
                    break
                if self._is_c:
                    message_type, length, user_type = header.unpack_from(held, start)
                else:
                    (length,) = header.unpack_from(held, start)
                if length > self._most:
                    text = f"a message of {length} bytes was announced; {self._most} are taken"
                    self._failed = text
                    break
                self._wanted += length
                end = start + self._wanted
                if len(held) < end:
                    break
                payload = bytes(held[start + header_bytes : end])
                messages.append(Message(payload, user_type, message_type))
                start = end
        return messages, start

"""D-Bus messages: header fields, whole messages as bytes, and templates for the hot ones.

Header fields come in any order and unknown ones are ignored, as the specification asks
("Message Protocol"). What leaves is checked here, because one bad message makes the bus
throw the whole service out.
"""

import enum
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from buswork.bus.codec import Body, CodecError, Parts, body_decoder, body_encoder, skip
from buswork.bus.library import (
    is_bus_name_valid,
    is_interface_name_valid,
    is_member_name_valid,
    is_object_path_valid,
)
from buswork.errors import BusworkError

# An error's text is a sentence. It may quote what the caller sent, which may be as long as a
# message, and for a reply longer than that the bus would throw us out.
MAX_ERROR_TEXT = 1024
# The specification's limit for one message; the system bus cuts senders off above 32 MiB.
MAX_MESSAGE = 128 * 1024 * 1024
FIXED_SIZE = 16
LITTLE, BIG = ord("l"), ord("B")
_FIXED = struct.Struct("<BBBBIII")
_unpack = _FIXED.unpack_from
_unpack_big = struct.Struct(">BBBBIII").unpack_from
_REPLY = struct.Struct("<4sIIIBB1sBI")
_PADDING = tuple(bytes(n) for n in range(8))


class Kind(enum.IntEnum):
    CALL = 1
    RETURN = 2
    ERROR = 3
    SIGNAL = 4


class Flag(enum.IntFlag):
    NO_REPLY_EXPECTED = 1
    NO_AUTO_START = 2
    ALLOW_INTERACTIVE_AUTHORIZATION = 4


class FieldCode(enum.IntEnum):
    PATH = 1
    INTERFACE = 2
    MEMBER = 3
    ERROR_NAME = 4
    REPLY_SERIAL = 5
    DESTINATION = 6
    SENDER = 7
    SIGNATURE = 8
    UNIX_FDS = 9


_FIELD_TYPES = {
    FieldCode.PATH: "o",
    FieldCode.INTERFACE: "s",
    FieldCode.MEMBER: "s",
    FieldCode.ERROR_NAME: "s",
    FieldCode.REPLY_SERIAL: "u",
    FieldCode.DESTINATION: "s",
    FieldCode.SENDER: "s",
    FieldCode.SIGNATURE: "g",
    FieldCode.UNIX_FDS: "u",
}
_VALID: dict[FieldCode, Callable[[str], bool]] = {
    FieldCode.PATH: is_object_path_valid,
    FieldCode.INTERFACE: is_interface_name_valid,
    FieldCode.MEMBER: is_member_name_valid,
    FieldCode.ERROR_NAME: is_interface_name_valid,
    FieldCode.DESTINATION: is_bus_name_valid,
}


class ProtocolError(Exception):
    """The stream of messages can't be followed any more; the connection must end."""


@dataclass(slots=True)
class Header:
    """The header fields of one message; cached and shared by all with the same bytes."""

    path: str | None = None
    interface: str | None = None
    member: str | None = None
    error_name: str | None = None
    reply_serial: int = 0
    destination: str | None = None
    sender: str | None = None
    signature: str = ""
    unix_fds: int = 0


_NAMES = {code.value: code.name.lower() for code in FieldCode}
_FIELD_SIGNATURES = {
    code.name.lower(): b"\1%b\0" % type_.encode() for code, type_ in _FIELD_TYPES.items()
}
_U32_OF = {order: struct.Struct(order + "I") for order in "<>"}


# (kind, flags, serial, byte order "<" or ">", header fields, body)
RawFrame = tuple[int, int, int, str, bytes, bytes]


@dataclass(slots=True)
class Frame:
    """A message as it came in, with its header fields read and its body still bytes.

    Whoever gets a frame owns its descriptors.
    """

    kind: int
    flags: int
    serial: int
    order: str
    header: Header
    body: bytes
    fds: Sequence[int] = ()

    def values(self) -> Sequence[Any]:
        return body_decoder(self.header.signature, self.order)(self.body, self.fds)


class FrameBuffer:
    """Bytes of the stream in, whole messages out, whatever pieces they come in.

    One buffer is filled over and over. As soon as it has what completes a message, everything
    in it is taken out in one piece, and the messages are slices of that. For a message that
    is larger the buffer is as large, so that its bytes are not copied anew with every read.
    """

    CAPACITY = 64 * 1024

    def __init__(self) -> None:
        self._usual = memoryview(bytearray(self.CAPACITY))
        self._view = self._usual
        self._filled = 0
        self._wanted = FIXED_SIZE
        self._data = b""
        self._at = 0

    def room(self) -> memoryview:
        """Where the next bytes of the stream go; never empty."""
        return self._view[self._filled :] if self._filled else self._view

    def filled(self, count: int) -> None:
        self._filled += count

    @property
    def partial(self) -> bool:
        """Whether bytes have come that no message has used yet."""
        return self._filled > 0 or self._at < len(self._data)

    def next(self) -> RawFrame | None:
        """The next whole message, or None when more must come first."""
        while True:
            data, start = self._data, self._at
            if len(data) - start >= FIXED_SIZE:
                order = data[start]
                if order == LITTLE:
                    fixed = _unpack(data, start)
                elif order == BIG:
                    fixed = _unpack_big(data, start)
                else:
                    raise ProtocolError(f"a message of byte order {order:#04x}")
                _, kind, flags, version, body_length, serial, fields_length = fixed
                fields_at = start + FIXED_SIZE
                fields_end = fields_at + fields_length
                body_at = fields_end + (-fields_length & 7)
                end = body_at + body_length
                if version != 1 or kind == 0 or serial == 0 or end - start > MAX_MESSAGE:
                    raise ProtocolError("a message header that makes no sense")
                if end <= len(data):
                    self._at = end
                    fields, body = data[fields_at:fields_end], data[body_at:end]
                    return kind, flags, serial, "<" if order == LITTLE else ">", fields, body
                self._wanted = end - start
            if not self._take_out():
                return None

    def _take_out(self) -> bool:
        """Moves what has come to `_data`, once that has all the wanted bytes."""
        if not self._filled and self._at == len(self._data):
            return False
        rest = self._data[self._at :]
        self._at = 0
        missing = self._wanted - len(rest)
        if self._filled < missing:
            self._data = rest
            if missing > len(self._view):
                self._grow(missing)
            return False
        self._data = b"".join((rest, self._view[: self._filled]))
        self._view, self._filled, self._wanted = self._usual, 0, FIXED_SIZE
        return True

    def _grow(self, size: int) -> None:
        view = memoryview(bytearray(size))
        view[: self._filled] = self._view[: self._filled]
        self._view = view


def parse_fields(fields: bytes, order: str = "<") -> Header:
    """The header fields array, given without its length; raises CodecError.

    Fields that we do not know are passed over unread, as the specification asks: they may hold
    whatever a sender likes, and some buses carry them. All this is written out instead of
    decoded as "a(yv)", in a quarter of the time: whoever sends ever new header fields must not
    keep us busier than himself.
    """
    header = Header()
    at, size = 0, len(fields)
    unpack = _U32_OF[order].unpack_from
    try:
        while at < size:
            at += -at & 7
            name, signature = _NAMES.get(fields[at]), fields[at + 1 : at + 4]
            if name is None:
                at = skip("v", fields, at + 1, order)
                continue
            at += 4
            if signature != _FIELD_SIGNATURES[name]:
                raise CodecError(f"header field {name} of type {signature!r}")
            if signature == b"\1u\0":
                setattr(header, name, unpack(fields, at)[0])
                at += 4
                continue
            if signature == b"\1g\0":
                start, end = at + 1, at + 1 + fields[at]
            else:
                start, end = at + 4, at + 4 + unpack(fields, at)[0]
            if fields.find(0, start) != end:
                raise CodecError(f"header field {name} with NUL, or without its end")
            setattr(header, name, fields[start:end].decode())
            at = end + 1
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise CodecError(f"header fields that end in the middle: {error}") from error
    if header.path is not None and not is_object_path_valid(header.path):
        raise CodecError(f"{header.path!r} is no object path")
    return header


def encode_fields(fields: dict[FieldCode, Any]) -> bytes:
    """The header fields array without its length and without the padding behind it."""
    out = Body()
    for code, value in fields.items():
        valid = _VALID.get(code)
        if valid is not None and not valid(value):
            raise CodecError(f"{value!r} is no {code.name.lower()}")
        out += _PADDING[-len(out) & 7]
        type_ = _FIELD_TYPES[code]
        out += bytes((code, 1))
        out += type_.encode() + b"\0"
        out += body_encoder(type_)((value,))
    return bytes(out)


def encode_message(
    kind: Kind, flags: int, serial: int, fields: dict[FieldCode, Any], body: bytes | Body
) -> bytes:
    """A whole message, little-endian; SIGNATURE must be among the fields if there is a body."""
    raw = encode_fields(fields)
    size = FIXED_SIZE + len(raw) + len(body) + 7
    if size > MAX_MESSAGE:
        raise CodecError(f"a message of {size} bytes")
    fixed = _FIXED.pack(108, kind, flags, 1, len(body), serial, len(raw))
    return b"".join((fixed, raw, _PADDING[-len(raw) & 7], body))


def encode_error(
    serial: int, reply_serial: int, destination: str | None, error: BusworkError
) -> bytes:
    """An error message; what D-Bus does not take of it is replaced or cut off."""
    fields: dict[FieldCode, Any] = {
        FieldCode.ERROR_NAME: error.name
        if is_interface_name_valid(error.name)
        else BusworkError.name,
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


class ReplyTemplate:
    """Method returns to one destination with one signature, all but serials and body made.

    The reply serial stands first among the fields, so what follows it never changes.
    """

    __slots__ = ("_fields_length", "_rest", "destination", "encode", "outputs", "signature")

    def __init__(self, destination: str, signature: str, outputs: int) -> None:
        self.destination = destination
        self.signature = signature
        self.outputs = outputs
        self.encode = body_encoder(signature)
        fields: dict[FieldCode, Any] = {
            FieldCode.REPLY_SERIAL: 0,
            FieldCode.DESTINATION: destination,
        }
        if signature:
            fields[FieldCode.SIGNATURE] = signature
        raw = encode_fields(fields)
        self._fields_length = len(raw)
        self._rest = (raw + _PADDING[-len(raw) & 7])[8:]

    def body(self, result: Any) -> bytes | Body | Parts:
        """What a handler returned, as the body of its reply."""
        if type(result) is Parts:
            return result
        if self.outputs == 1:
            return self.encode((result,))
        if not self.outputs and result is not None:
            raise CodecError(f"{result!r} returned where nothing is")
        return self.encode(result or ())

    def message(self, serial: int, reply_serial: int, body: bytes | Body) -> bytes:
        fixed = _REPLY.pack(
            b"l\2\1\1", len(body), serial, self._fields_length, 5, 1, b"u", 0, reply_serial
        )
        return fixed + self._rest + body

    def pieces(self, serial: int, reply_serial: int, parts: Parts) -> Iterator[bytes]:
        """What follows one another is the message; nothing of it was copied."""
        fixed = _REPLY.pack(
            b"l\2\1\1", parts.size, serial, self._fields_length, 5, 1, b"u", 0, reply_serial
        )
        yield fixed + self._rest
        yield from parts.pieces

    def message_with_fds(self, serial: int, reply_serial: int, body: Body) -> bytes:
        fields = {
            FieldCode.REPLY_SERIAL: reply_serial,
            FieldCode.DESTINATION: self.destination,
            FieldCode.SIGNATURE: self.signature,
            FieldCode.UNIX_FDS: len(body.fds),
        }
        return encode_message(Kind.RETURN, Flag.NO_REPLY_EXPECTED, serial, fields, body)


class SignalTemplate:
    """One signal from one path, all but serial and body made; its cost knows no other object."""

    __slots__ = ("_encode", "_fields_length", "_rest")

    def __init__(
        self, path: str, interface: str, member: str, signature: str, destination: str | None
    ) -> None:
        fields: dict[FieldCode, Any] = {
            FieldCode.PATH: path,
            FieldCode.INTERFACE: interface,
            FieldCode.MEMBER: member,
        }
        if destination is not None:
            fields[FieldCode.DESTINATION] = destination
        if signature:
            fields[FieldCode.SIGNATURE] = signature
        raw = encode_fields(fields)
        self._fields_length = len(raw)
        self._rest = raw + _PADDING[-len(raw) & 7]
        self._encode = body_encoder(signature)

    def message(self, serial: int, values: Sequence[Any]) -> bytes:
        body = self._encode(values)
        fixed = _FIXED.pack(108, 4, 1, 1, len(body), serial, self._fields_length)
        return b"".join((fixed, self._rest, body))

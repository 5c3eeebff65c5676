"""D-Bus messages written and read a second time, by the specification and in the plainest way.

It shares nothing with `buswork.bus.codec` but the Variant, so that the two can be compared. It
checks nothing: what it writes is as wrong as what it is given, which the tests of malformed
messages need. Strings may be given as bytes, so that they can be no UTF-8.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

from buswork.bus.library import Variant, variant

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL = 1, 2, 3, 4, 5
DESTINATION, SENDER, SIGNATURE, UNIX_FDS = 6, 7, 8, 9
FIELD_TYPES = dict(zip(range(1, 10), "osssussgu", strict=True))

NUMBERS = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
NUMBERS |= {"b": "I", "h": "I"}
ALIGNMENTS = dict.fromkeys("ygv", 1) | dict.fromkeys("nq", 2)
ALIGNMENTS |= dict.fromkeys("biuhsoa", 4) | dict.fromkeys("xtd({", 8)


def split(signature: str) -> list[str]:
    """The complete types of a valid signature."""
    types = []
    while signature:
        end = _end_of_first(signature)
        types.append(signature[:end])
        signature = signature[end:]
    return types


def _end_of_first(signature: str) -> int:
    if signature[0] == "a":
        return 1 + _end_of_first(signature[1:])
    if signature[0] not in "({":
        return 1
    depth = 0
    for position, token in enumerate(signature):
        depth += (token in "({") - (token in ")}")
        if not depth:
            return position + 1
    raise ValueError(signature)


class Writer:
    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.out = bytearray()

    def pad(self, alignment: int) -> None:
        while len(self.out) % alignment:
            self.out.append(0)

    def pack(self, letter: str, value: Any) -> None:
        self.pad(struct.calcsize(letter))
        self.out += struct.pack(self.order + letter, value)

    def write(self, type_: str, value: Any) -> None:
        token = type_[0]
        if token in NUMBERS:
            self.pack(NUMBERS[token], value)
        elif token in "so":
            raw = value if isinstance(value, bytes) else value.encode()
            self.pack("I", len(raw))
            self.out += raw + b"\0"
        elif token == "g":
            raw = value if isinstance(value, bytes) else value.encode()
            self.out += bytes((len(raw),)) + raw + b"\0"
        elif token == "v":
            self.write("g", value.signature)
            self.write(value.signature, value.value)
        elif token == "a":
            self.write_array(type_[1:], value)
        else:
            self.pad(8)
            for member, item in zip(split(type_[1:-1]), value, strict=True):
                self.write(member, item)

    def write_array(self, element: str, values: Any) -> None:
        self.pack("I", 0)
        length_at = len(self.out) - 4
        self.pad(ALIGNMENTS[element[0]])
        start = len(self.out)
        if element == "y":
            self.out += bytes(values)
            values = ()
        for value in values.items() if element[0] == "{" else values:
            self.write(element, value)
        struct.pack_into(self.order + "I", self.out, length_at, len(self.out) - start)


class Reader:
    def __init__(self, data: bytes, order: str = "<", position: int = 0) -> None:
        self.data = data
        self.order = order
        self.position = position

    def unpack(self, letter: str) -> Any:
        size = struct.calcsize(letter)
        self.position += -self.position % size
        (value,) = struct.unpack_from(self.order + letter, self.data, self.position)
        self.position += size
        return value

    def take(self, size: int) -> bytes:
        self.position += size + 1
        assert self.data[self.position - 1] == 0
        return bytes(self.data[self.position - size - 1 : self.position - 1])

    def read(self, type_: str) -> Any:
        token = type_[0]
        if token == "b":
            return bool(self.unpack("I"))
        if token in NUMBERS:
            return self.unpack(NUMBERS[token])
        if token in "so":
            return self.take(self.unpack("I")).decode()
        if token == "g":
            return self.take(self.unpack("B")).decode()
        if token == "v":
            signature = self.read("g")
            return variant(signature, self.read(signature))
        if token == "a":
            return self.read_array(type_[1:])
        self.position += -self.position % 8
        return tuple(self.read(member) for member in split(type_[1:-1]))

    def read_array(self, element: str) -> Any:
        end = self.unpack("I")
        self.position += -self.position % ALIGNMENTS[element[0]]
        end += self.position
        if element == "y":
            start, self.position = self.position, end
            return bytes(self.data[start:end])
        values = []
        while self.position < end:
            values.append(self.read(element))
        assert self.position == end
        return dict(values) if element[0] == "{" else values


def encode(signature: str, values: Any, order: str = "<") -> bytes:
    writer = Writer(order)
    for type_, value in zip(split(signature), values, strict=True):
        writer.write(type_, value)
    return bytes(writer.out)


def decode(signature: str, body: bytes, order: str = "<") -> list[Any]:
    reader = Reader(body, order)
    values = [reader.read(type_) for type_ in split(signature)]
    assert reader.position == len(body)
    return values


@dataclass
class Message:
    """One message, its fields by their number."""

    kind: int
    serial: int
    fields: dict[int, Any]
    body: bytes = b""
    flags: int = 0
    order: str = "<"
    fds: list[int] = field(default_factory=list)

    @property
    def values(self) -> list[Any]:
        return decode(self.fields.get(SIGNATURE, ""), self.body, self.order)

    @property
    def member(self) -> str:
        return self.fields.get(MEMBER, "")

    @property
    def error(self) -> str:
        return self.fields.get(ERROR_NAME, "")

    def write(self, more_fields: tuple[tuple[int, Variant], ...] = ()) -> bytes:
        """As bytes; more_fields are any (code, Variant) behind the known ones."""
        fields = [(code, variant(FIELD_TYPES[code], v)) for code, v in self.fields.items()]
        return frame(self, [*fields, *more_fields])


def frame(message: Message, fields: list[tuple[int, Variant]], version: int = 1) -> bytes:
    writer = Writer(message.order)
    writer.out += b"l" if message.order == "<" else b"B"
    writer.out += bytes((message.kind, message.flags, version))
    writer.pack("I", len(message.body))
    writer.pack("I", message.serial)
    writer.write("a(yv)", fields)
    writer.pad(8)
    return bytes(writer.out + message.body)


def length(data: bytes) -> int | None:
    """How long the message is that begins here; None while that can't be told."""
    if len(data) < 16:
        return None
    order = "<" if data[:1] == b"l" else ">"
    body, _, fields = struct.unpack_from(order + "III", data, 4)
    return 16 + fields + (-fields % 8) + body


def parse(data: bytes) -> Message:
    """One whole message."""
    order = "<" if data[:1] == b"l" else ">"
    _, kind, flags, _, body_length, serial = struct.unpack_from(order + "BBBBII", data)
    reader = Reader(data, order, 12)
    fields = {}
    for code, value in reader.read("a(yv)"):
        assert value.signature == FIELD_TYPES[code]
        fields[code] = value.value
    body_at = reader.position + -reader.position % 8
    assert not any(data[reader.position : body_at])
    assert len(data) == body_at + body_length
    return Message(kind, serial, fields, bytes(data[body_at:]), flags, order)

"""The requests of both generations as packets: a host encodes them, a board parses them.

A packet is read as boards read it (sections 3 and 4): the checksum covers as many bytes as the
header says, and the rest is read all the same. What is read is data; whether a board would
survive it is for checks.py to say.
"""

import re
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from buswork.flipper.wire.crc import crc16
from buswork.flipper.wire.errors import Error
from buswork.flipper.wire.terms import (
    PACKET_BYTES,
    SIGNED,
    WIDTHS,
    BadPacket,
    BadValue,
    Generation,
    Type,
)

MAGIC: Final = 0xFE
HEADER_BYTES: Final = 6

_HEADER = struct.Struct("<BHHB")
_CALL = struct.Struct("<BBBIB")
# A push or pull: the length, then a call of a function that takes a pointer and the length.
_TRANSFER = struct.Struct("<IBBBIBQI")
_POINTER_AND_LENGTH: Final = Type.PTR | Type.UINT32 << 4
_LENGTH = struct.Struct("<I")
_LONG = struct.Struct("<Q")
# The second generation's length and address; in the first, the same bytes are left free.
_MEMORY = struct.Struct("<IQ")
_RECEIVE = struct.Struct("<I8xQ")
# Types have 4 bits each, in 32.
_MAX_TOLD_TYPES: Final = 8
_TYPES: Final = {int(code): code for code in Type}
_NAME = re.compile(rb"[A-Za-z0-9_]{1,15}")  # and their NUL (section 8)


class Header(NamedTuple):
    checksum: int
    length: int  # what the checksum covers
    request_class: int


# -- requests ----------------------------------------------------------------------------------


class Argument(NamedTuple):
    type: Type
    value: int  # one that does not fit is cut to the width, as boards cut it


class Call(NamedTuple):
    """Of a function of a standard module or, with `user`, of one that was loaded."""

    module: int
    function: int
    returns: int  # a Type; strangers ask for others, too
    arguments: tuple[Argument, ...] = ()
    user: bool = False


class Push(NamedTuple):
    """A call with data: they follow the packet. The board puts its own pointer into it."""

    module: int
    function: int
    length: int
    pointer: int = 0


class Pull(NamedTuple):
    """A call for data: they come before the result."""

    module: int
    function: int
    length: int
    pointer: int = 0


class Send(NamedTuple):
    """Data for fresh memory of the 4S, which is never freed; the result is its address."""

    length: int


class Receive(NamedTuple):
    """Memory of the 4S, from any address."""

    length: int
    address: int


class Load(NamedTuple):
    """The image of a user module or application for the 4S (section 10)."""

    length: int


class Event(NamedTuple):
    """Does nothing (section 12)."""


class Lookup(NamedTuple):
    """Second generation: which index has the module of this name?"""

    name: str


class Allocate(NamedTuple):
    length: int


class Write(NamedTuple):
    """Data for memory at an address."""

    length: int
    address: int


class Read(NamedTuple):
    length: int
    address: int


class Free(NamedTuple):
    address: int


class Unknown(NamedTuple):
    """Of a class that the generation has not got: the first answers it, the second refuses it."""

    request_class: int
    payload: bytes = b""  # up to the header's length


Request = (
    Call | Push | Pull | Send | Receive | Load | Event | Lookup | Allocate | Write | Read | Free
    | Unknown
)  # fmt: skip

# The numbers of their classes; 1 of the first generation is a Call that has `user`.
_CLASSES: Final[dict[Generation, dict[type, int]]] = {
    Generation.G1: {Call: 0, Push: 2, Pull: 3, Send: 4, Receive: 5, Load: 6, Event: 7},
    Generation.G2: {Call: 0, Write: 1, Read: 2, Lookup: 3, Allocate: 4, Free: 5},
}
_USER_CALL: Final = 1


def data_to_board(request: Request) -> int:
    """How many bytes of data follow the packet."""
    return request.length if isinstance(request, Push | Send | Load | Write) else 0


def data_to_host(request: Request) -> int:
    """How many bytes of data come before the result."""
    return request.length if isinstance(request, Pull | Receive | Read) else 0


# -- a host's side -----------------------------------------------------------------------------


def encode_request(
    request: Request, generation: Generation = Generation.G1, length: int | None = None
) -> bytes:
    """A packet; `length` is for the header, where it shall not be what the original writes.

    The second generation's client writes too little: its checksums leave out the end of the
    call structure, and what is to be allocated and freed (section 4).
    """
    request_class = _class_of(request, generation)
    padded = True
    covered = 0  # all, unless a request says less
    try:
        match request:
            case Call():
                values = b"".join([_value(argument) for argument in request.arguments])
                payload = _structure(request) + values
                if generation is Generation.G2:
                    covered = HEADER_BYTES + len(values)
            case Push(module, function, transfer, pointer) | Pull(
                module, function, transfer, pointer
            ):
                call = module, function, Type.INT, _POINTER_AND_LENGTH, 2
                payload = _TRANSFER.pack(transfer, *call, pointer, transfer)
            case Send(transfer) | Load(transfer):
                payload = _MEMORY.pack(transfer, 0)
            case Receive():
                payload = _RECEIVE.pack(*request)
            case Write() | Read():
                payload, padded = _MEMORY.pack(*request), False
            case Allocate(transfer):
                payload, padded, covered = _MEMORY.pack(transfer, 0), False, HEADER_BYTES
            case Free(address):
                payload, padded, covered = _MEMORY.pack(0, address), False, HEADER_BYTES
            case Lookup(name):
                payload = _name(name)
                # A pointer's size where the header's is meant, as a host of 64 bits writes it.
                covered = _LONG.size + len(payload)
            case Event():
                payload = b""
            case Unknown(_, payload):
                pass
        if length is not None:
            covered = length
        elif not covered:
            covered = HEADER_BYTES + len(payload)
        packet = _HEADER.pack(MAGIC, 0, covered, request_class) + payload
    except struct.error:
        raise BadValue("request", f"a number in {request} does not fit its field") from None
    if len(packet) > PACKET_BYTES:
        text = f"the arguments have {len(packet) - PACKET_BYTES} bytes more than a packet holds"
        raise BadValue("arguments", text)
    if padded:
        packet = packet.ljust(PACKET_BYTES, b"\0")
    return packet[:1] + crc16(packet[:covered]).to_bytes(2, "little") + packet[3:]


def _class_of(request: Request, generation: Generation) -> int:
    if isinstance(request, Unknown):
        if request.request_class in _PARSERS[generation]:
            raise BadValue("request", f"the class {request.request_class} exists")
        return request.request_class
    number = _CLASSES[generation].get(type(request))
    if isinstance(request, Call) and request.user:
        number = _USER_CALL if generation is Generation.G1 else None
    if number is None:
        text = f"generation {int(generation)} has no request {request}"
        raise BadValue("request", text)
    return number


def _structure(call: Call) -> bytes:
    module, function, returns, arguments, _ = call
    if len(arguments) > _MAX_TOLD_TYPES:
        raise BadValue("arguments", f"a packet tells the types of {_MAX_TOLD_TYPES} arguments")
    types = 0
    for place, argument in enumerate(arguments):
        types |= argument.type << 4 * place
    return _CALL.pack(module, function, returns, types, len(arguments))


def _value(argument: Argument) -> bytes:
    width = WIDTHS[argument.type]
    return (argument.value & (1 << 8 * width) - 1).to_bytes(width, "little")


def _name(name: str) -> bytes:
    data = name.encode(errors="replace")
    if not _NAME.fullmatch(data):
        raise BadValue("name", "the name of a module has 1 to 15 letters, digits and _")
    return data + b"\0"


# -- a board's side ----------------------------------------------------------------------------


def parse_header(packet: bytes) -> Header:
    """Checked: magic number and checksum are right (BadPacket if not)."""
    size = len(packet)
    if not HEADER_BYTES <= size <= PACKET_BYTES:
        raise BadPacket(Error.E_CHECKSUM, f"a packet has 6 to {PACKET_BYTES} bytes, not {size}")
    magic, checksum, length, request_class = _HEADER.unpack_from(packet)
    if magic != MAGIC:
        raise BadPacket(Error.E_CHECKSUM, f"a packet begins with 0xfe, not {magic:#04x}")
    if length > size:
        text = f"the checksum should cover {length} bytes, and the packet has {size}"
        raise BadPacket(Error.E_CHECKSUM, text)
    # A length of 0 with a checksum of 0 is right, to boards as well (section 3).
    right = crc16((packet[:1] + b"\0\0" + packet[3:])[:length])
    if checksum != right:
        raise BadPacket(Error.E_CHECKSUM, f"the checksum is {checksum:#06x}, not {right:#06x}")
    return Header(checksum, length, request_class)


def parse_request(packet: bytes, generation: Generation = Generation.G1) -> Request:
    """What a packet asks for; BadPacket if that can't be told."""
    _, length, request_class = parse_header(packet)
    parse = _PARSERS[generation].get(request_class)
    if parse is None:
        return Unknown(request_class, packet[HEADER_BYTES:length])
    try:
        return parse(packet)
    except struct.error:
        raise BadPacket(Error.E_FMR_OVERFLOW, "the packet ends before what it asks for") from None


def _parse_call(packet: bytes, user: bool = False) -> Call:
    module, function, returns, types, count = _CALL.unpack_from(packet, HEADER_BYTES)
    if count > _MAX_TOLD_TYPES:
        text = f"the call has {count} arguments, and a packet tells the types of {_MAX_TOLD_TYPES}"
        raise BadPacket(Error.E_FMR_OVERFLOW, text)
    arguments = []
    at = HEADER_BYTES + _CALL.size
    for place in range(count):
        code = types >> 4 * place & 0xF
        argument_type = _TYPES.get(code)
        if argument_type is None:
            text = f"argument {place} has the type {code}, which does not exist"
            raise BadPacket(Error.E_TYPE, text)
        end = at + WIDTHS[argument_type]
        if end > len(packet):
            text = f"argument {place} begins at {at}, and the packet has {len(packet)} bytes"
            raise BadPacket(Error.E_FMR_OVERFLOW, text)
        value = int.from_bytes(packet[at:end], "little", signed=argument_type in SIGNED)
        arguments.append(Argument(argument_type, value))
        at = end
    return Call(module, function, returns, tuple(arguments), user)


def _parse_transfer(packet: bytes) -> tuple[int, int, int, int]:
    """Module, function, length and pointer of a push or a pull."""
    fields = _TRANSFER.unpack_from(packet, HEADER_BYTES)
    transfer, module, function, _, types, count, pointer, length = fields
    if (types, count) != (_POINTER_AND_LENGTH, 2):
        raise BadPacket(Error.E_TYPE, "a transfer has two arguments, a pointer and a uint32")
    if length != transfer:
        # Boards would call the function with a length that its memory has not got.
        text = f"the packet announces {transfer} bytes, and its argument says {length}"
        raise BadPacket(Error.E_BOUNDARY, text)
    return module, function, transfer, pointer


def _parse_lookup(packet: bytes) -> Lookup:
    name = packet[HEADER_BYTES:].partition(b"\0")[0]
    if not _NAME.fullmatch(name):
        raise BadPacket(Error.E_NAME, "the name of a module has 1 to 15 letters, digits and _")
    return Lookup(name.decode())


def _length(packet: bytes) -> int:
    return int(_LENGTH.unpack_from(packet, HEADER_BYTES)[0])


def _length_and_address(packet: bytes) -> tuple[int, int]:
    length, address = _MEMORY.unpack_from(packet, HEADER_BYTES)
    return length, address


_PARSERS: Final[dict[Generation, dict[int, Callable[[bytes], Request]]]] = {
    Generation.G1: {
        0: _parse_call,
        1: lambda packet: _parse_call(packet, user=True),
        2: lambda packet: Push(*_parse_transfer(packet)),
        3: lambda packet: Pull(*_parse_transfer(packet)),
        4: lambda packet: Send(_length(packet)),
        5: lambda packet: Receive(*_RECEIVE.unpack_from(packet, HEADER_BYTES)),
        6: lambda packet: Load(_length(packet)),
        7: lambda packet: Event(),
    },
    Generation.G2: {
        0: _parse_call,
        1: lambda packet: Write(*_length_and_address(packet)),
        2: lambda packet: Read(*_length_and_address(packet)),
        3: _parse_lookup,
        4: lambda packet: Allocate(_length_and_address(packet)[0]),
        5: lambda packet: Free(_length_and_address(packet)[1]),
    },
}

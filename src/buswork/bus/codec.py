"""D-Bus values as bytes and back. No socket, no loop: bytes in, values out.

A signature is compiled once into nested closures, one per type, so that a body costs a few
calls instead of a walk over the signature. Bodies start on a multiple of 8, so alignment is
counted from the start of the body.

Python values: str for s, o, g; int; bool; float; bytes for ay; list for other arrays; dict
for a{..}; tuple for structs (lists are taken too); Variant for v; a descriptor's number for h.
"""

import functools
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

from buswork.bus.library import (
    InvalidSignatureError,
    SignatureType,
    decoded_variant,
    parse_signature,
)
from buswork.errors import LimitsExceeded

# The specification's own limits ("Marshaling (Wire Format)").
MAX_ARRAY = 64 * 1024 * 1024
MAX_SIGNATURE = 255
MAX_NESTING = 32  # arrays, and structs, in one signature
MAX_DEPTH = 64  # variants and what they contain

# Elements that one body may hold: of arrays, of structs, of variants. The bus lets 32 MiB
# through; as an array of empty strings that would hold the loop for seconds. Four times the
# most keys that one uid can set at once.
MAX_ELEMENTS = 65_536
# So many numbers in a plain array count as one element: they are read faster, but each is an
# object all the same, and 32 MiB of them would take 800 MB. Bytes (ay) do not count.
NUMBERS_PER_ELEMENT = 16

_PATH = re.compile(r"/|(/[A-Za-z0-9_]+)+")
_U32 = struct.Struct("<I")
_U32_OF = {"<": _U32, ">": struct.Struct(">I")}
_PADDING = tuple(bytes(n) for n in range(8))
_NUMBERS = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
_ALIGNMENT = {
    "y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "b": 4, "i": 4, "u": 4, "h": 4, "s": 4, "o": 4,
    "a": 4, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8,
}  # fmt: skip
_BASIC = "ybnqiuxtdsogh"


class CodecError(ValueError):
    """These bytes or values are not what the signature says.

    `fds` are the descriptors that were among values which could not be encoded.
    """

    fds: Sequence[int] = ()


class Body(bytearray):
    """A body that is being written, with the descriptors that travel beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.fds: list[int] = []
        self.depth = 0


class Parts:
    """A body that is made already: pieces that follow one another."""

    __slots__ = ("pieces", "size")

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        self.size = sum(map(len, pieces))

    def __len__(self) -> int:
        return self.size


class Reading:
    """What decoding one body needs beside the bytes."""

    __slots__ = ("depth", "elements_left", "fds")

    def __init__(self, fds: Sequence[int] = ()) -> None:
        self.fds = fds
        self.elements_left = MAX_ELEMENTS
        self.depth = 0


Encode = Callable[[Body, Any], None]
Decode = Callable[[bytes, int, Reading], tuple[Any, int]]
BodyEncoder = Callable[[Sequence[Any]], bytes | Body]
BodyDecoder = Callable[[bytes, Sequence[int]], Sequence[Any]]

# What Python says of values that are not of the type that a signature asks for.
_NO_VALUE = (struct.error, TypeError, AttributeError, UnicodeEncodeError, OverflowError)


# -- bodies ------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def body_encoder(signature: str) -> BodyEncoder:
    """The function that turns the arguments of a message into its body."""
    if signature in _COMMON_ENCODERS:
        return _COMMON_ENCODERS[signature]
    encoders = [_encoder(type_) for type_ in _types(signature)]

    def encode_body(values: Sequence[Any]) -> Body:
        body = Body()
        try:
            if len(values) != len(encoders):
                raise CodecError(f"{len(values)} values for signature {signature!r}")
            for encode, value in zip(encoders, values, strict=True):
                encode(body, value)
        except CodecError as error:
            error.fds = body.fds
            raise
        except _NO_VALUE as cause:
            failure = CodecError(f"no value for signature {signature!r}: {cause}")
            failure.fds = body.fds
            raise failure from cause
        return body

    return encode_body


@functools.lru_cache(maxsize=1024)
def body_decoder(signature: str, order: str = "<") -> BodyDecoder:
    """The function that turns a body into arguments; order is "<" or ">"."""
    if order == "<" and signature in _COMMON_DECODERS:
        return _COMMON_DECODERS[signature]
    decoders = [_decoder(type_, order) for type_ in _types(signature)]

    def decode_body(body: bytes, fds: Sequence[int]) -> list[Any]:
        reading = Reading(fds)
        position = 0
        values = []
        try:
            for decode in decoders:
                value, position = decode(body, position, reading)
                values.append(value)
        except (struct.error, IndexError, UnicodeDecodeError, InvalidSignatureError) as error:
            raise CodecError(f"no body of signature {signature!r}: {error}") from error
        if position != len(body):
            raise CodecError(f"{len(body) - position} bytes too many for {signature!r}")
        return values

    return decode_body


def _types(signature: str) -> list[SignatureType]:
    if len(signature) > MAX_SIGNATURE:
        raise CodecError("a signature longer than 255 bytes")
    try:
        types = parse_signature(signature)
    except InvalidSignatureError as error:
        raise CodecError(str(error)) from error
    for type_ in types:
        _check_type(type_)
    return types


def _check_type(type_: SignatureType, arrays: int = 0, structs: int = 0) -> None:
    """The rules for signatures that the library's parser leaves out."""
    arrays += type_.token == "a"
    structs += type_.token == "("
    if arrays > MAX_NESTING or structs > MAX_NESTING:
        raise CodecError(f"arrays or structs nested deeper than {MAX_NESTING}")
    if type_.token == "{":
        raise CodecError("a dict entry outside an array")
    for child in type_.children:
        if child.token == "{":
            key, value = child.children
            if type_.token != "a" or key.token not in _BASIC:
                raise CodecError("a dict entry outside an array, or with a key of no basic type")
            _check_type(value, arrays, structs)
        else:
            _check_type(child, arrays, structs)


def _depth(type_: SignatureType) -> int:
    """How many containers lie in one another."""
    deepest = max(map(_depth, type_.children), default=0)
    return deepest + (type_.token in "a(")


# -- the bodies that nearly every call has, without the closures -------------------------------


def _encode_nothing(values: Sequence[Any]) -> bytes:
    if values:
        raise CodecError("values for an empty signature")
    return b""


def _encode_string_body(values: Sequence[Any]) -> bytes:
    try:
        (value,) = values
        raw: bytes = value.encode()
    except (AttributeError, TypeError, ValueError) as error:
        raise CodecError(f"no string: {error}") from error
    if 0 in raw:  # a quarter of the time of looking for b"\0"
        raise CodecError("a string with NUL")
    return _U32.pack(len(raw)) + raw + b"\0"


def _encode_u64_body(values: Sequence[Any]) -> bytes:
    try:
        (value,) = values
        return struct.pack("<Q", value)
    except (struct.error, TypeError, ValueError) as error:
        raise CodecError(str(error)) from error


def _decode_nothing(body: bytes, fds: Sequence[int]) -> Sequence[Any]:
    if body:
        raise CodecError("a body without a signature")
    return ()


def _decode_string_body(body: bytes, fds: Sequence[int]) -> Sequence[Any]:
    # One search proves the length, the final NUL and that there is no other.
    try:
        if body.find(b"\0", 4) + 1 != len(body) or _U32.unpack_from(body)[0] + 5 != len(body):
            raise CodecError("no string")
        return (body[4:-1].decode(),)
    except (struct.error, UnicodeDecodeError) as error:
        raise CodecError(str(error)) from error


def _decode_two_strings_body(body: bytes, fds: Sequence[int]) -> Sequence[Any]:
    try:
        first_end = _U32.unpack_from(body)[0] + 4
        second = (first_end + 4) & ~3
        if body.find(b"\0", 4) != first_end or body.find(b"\0", second + 4) + 1 != len(body):
            raise CodecError("not two strings")
        if _U32.unpack_from(body, second)[0] + second + 5 != len(body):
            raise CodecError("not two strings")
        return body[4:first_end].decode(), body[second + 4 : -1].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise CodecError(str(error)) from error


_COMMON_ENCODERS: dict[str, BodyEncoder] = {
    "": _encode_nothing,
    "s": _encode_string_body,
    "t": _encode_u64_body,
}
_COMMON_DECODERS: dict[str, BodyDecoder] = {
    "": _decode_nothing,
    "s": _decode_string_body,
    "ss": _decode_two_strings_body,
}


# -- encoders ----------------------------------------------------------------------------------


def _pad(out: bytearray, alignment: int) -> None:
    out += _PADDING[-len(out) % alignment]


@functools.lru_cache(maxsize=1024)
def _variant_encoder(signature: str) -> tuple[int, Encode]:
    type_ = _variant_type(signature)
    return 1 + _depth(type_), _encoder(type_)


def _variant_type(signature: str) -> SignatureType:
    types = _types(signature)
    if len(types) != 1:
        raise CodecError(f"a variant of signature {signature!r}")
    return types[0]


def _encoder(type_: SignatureType) -> Encode:
    token = type_.token
    if token in _NUMBERS:
        return _number_encoder(token)
    if token == "a":
        return _array_encoder(type_)
    if token == "(":
        return _struct_encoder([_encoder(child) for child in type_.children])
    return _ENCODERS[token]


def _number_encoder(token: str) -> Encode:
    pack = struct.Struct("<" + _NUMBERS[token]).pack
    alignment = _ALIGNMENT[token]

    def encode(out: Body, value: Any) -> None:
        out += _PADDING[-len(out) % alignment]
        out += pack(value)

    return encode


def _encode_bool(out: Body, value: Any) -> None:
    if not isinstance(value, bool):
        raise CodecError(f"{value!r} is no boolean")
    out += _PADDING[-len(out) % 4]
    out += b"\1\0\0\0" if value else b"\0\0\0\0"


def _encode_string(out: Body, value: Any) -> None:
    raw = value.encode()
    if 0 in raw:
        raise CodecError("a string with NUL")
    out += _PADDING[-len(out) % 4]
    out += _U32.pack(len(raw))
    out += raw
    out += b"\0"


def _encode_path(out: Body, value: Any) -> None:
    if not _PATH.fullmatch(value):
        raise CodecError(f"{value!r} is no object path")
    _encode_string(out, value)


def _encode_signature(out: Body, value: Any) -> None:
    _types(value)
    raw = value.encode()
    out.append(len(raw))
    out += raw
    out += b"\0"


def _encode_variant(out: Body, value: Any) -> None:
    depth, encode = _variant_encoder(value.signature)
    raw = value.signature.encode()
    out.append(len(raw))
    out += raw
    out += b"\0"
    out.depth += depth
    if out.depth > MAX_DEPTH:
        raise CodecError(f"variants nested deeper than {MAX_DEPTH}")
    encode(out, value.value)
    out.depth -= depth


def _encode_descriptor(out: Body, value: Any) -> None:
    if type(value) is not int or value < 0:
        raise CodecError(f"{value!r} is no descriptor")
    out += _PADDING[-len(out) % 4]
    out += _U32.pack(len(out.fds))
    out.fds.append(value)


_ENCODERS: dict[str, Encode] = {
    "b": _encode_bool,
    "s": _encode_string,
    "o": _encode_path,
    "g": _encode_signature,
    "v": _encode_variant,
    "h": _encode_descriptor,
}


def _struct_encoder(members: list[Encode]) -> Encode:
    def encode(out: Body, value: Any) -> None:
        if not isinstance(value, tuple | list):
            raise CodecError(f"{type(value).__name__} is no struct")
        if len(value) != len(members):
            raise CodecError(f"{len(value)} values for a struct of {len(members)}")
        _pad(out, 8)
        for encode_member, member in zip(members, value, strict=True):
            encode_member(out, member)

    return encode


def _array_encoder(type_: SignatureType) -> Encode:
    (child,) = type_.children
    if child.token == "y":
        return _encode_bytes
    alignment = _ALIGNMENT[child.token]
    write = (
        _entries_writer(*(_encoder(member) for member in child.children))
        if child.token == "{"
        else _elements_writer(_encoder(child))
    )

    def encode(out: Body, value: Any) -> None:
        _pad(out, 4)
        length_at = len(out)
        out += b"\0\0\0\0"
        _pad(out, alignment)
        start = len(out)
        write(out, value)
        length = len(out) - start
        if length > MAX_ARRAY:
            raise LimitsExceeded("an array of more than 64 MiB does not fit into a D-Bus message")
        _U32.pack_into(out, length_at, length)

    return encode


def _elements_writer(encode_element: Encode) -> Encode:
    def write(out: Body, values: Any) -> None:
        if isinstance(values, str | bytes | dict):  # their elements are not what is meant
            raise CodecError(f"{type(values).__name__} is no array")
        for value in values:
            encode_element(out, value)

    return write


def _entries_writer(encode_key: Encode, encode_value: Encode) -> Encode:
    def write(out: Body, values: Any) -> None:
        for key, value in values.items():
            out += _PADDING[-len(out) % 8]
            encode_key(out, key)
            encode_value(out, value)

    return write


def _encode_bytes(out: Body, value: Any) -> None:
    if isinstance(value, memoryview):
        value = value.tobytes()
    if not isinstance(value, bytes | bytearray):
        raise CodecError(f"{type(value).__name__} is no byte string")
    if len(value) > MAX_ARRAY:
        raise LimitsExceeded("an array of more than 64 MiB does not fit into a D-Bus message")
    _pad(out, 4)
    out += _U32.pack(len(value))
    out += value


# -- decoders ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _variant_decoder(signature: str, order: str) -> tuple[SignatureType, int, Decode]:
    type_ = _variant_type(signature)
    return type_, 1 + _depth(type_), _decoder(type_, order)


def skip(signature: str, data: bytes, position: int, order: str) -> int:
    """Where a value of a single complete type ends, found without reading what is in it."""
    return _skip(_single_type(signature), data, position, order, 0)


@functools.lru_cache(maxsize=1024)
def _single_type(signature: str) -> SignatureType:
    return _variant_type(signature)


def _skip(type_: SignatureType, data: bytes, position: int, order: str, depth: int) -> int:
    token = type_.token
    alignment = _ALIGNMENT[token]
    position += -position % alignment
    if token == "v":
        if depth > MAX_DEPTH:
            raise CodecError(f"variants nested deeper than {MAX_DEPTH}")
        signature, position = _read_signature(data, position)
        return _skip(_single_type(signature), data, position, order, depth + 1)
    if token == "(":
        for child in type_.children:
            position = _skip(child, data, position, order, depth)
    elif token == "g":
        position += data[position] + 2
    elif token in "so":
        position += _U32_OF[order].unpack_from(data, position)[0] + 5
    elif token == "a":
        length = _U32_OF[order].unpack_from(data, position)[0]
        position += 4
        position += -position % _ALIGNMENT[type_.children[0].token] + length
    else:
        position += alignment
    if position > len(data):
        raise CodecError("a value longer than its message")
    return position


def _decoder(type_: SignatureType, order: str) -> Decode:
    token = type_.token
    if token in _NUMBERS:
        return _number_decoder(token, order)
    if token == "a":
        return _array_decoder(type_, order)
    if token == "(":
        return _struct_decoder([_decoder(child, order) for child in type_.children])
    return _DECODER_MAKERS[token](order)


def _number_decoder(token: str, order: str) -> Decode:
    number = struct.Struct(order + _NUMBERS[token])
    unpack, size = number.unpack_from, number.size

    def decode(data: bytes, position: int, reading: Reading) -> tuple[Any, int]:
        position += -position % size
        return unpack(data, position)[0], position + size

    return decode


def _bool_decoder(order: str) -> Decode:
    decode_u32 = _number_decoder("u", order)

    def decode(data: bytes, position: int, reading: Reading) -> tuple[Any, int]:
        number, position = decode_u32(data, position, reading)
        if number > 1:
            raise CodecError(f"{number} is no boolean")
        return bool(number), position

    return decode


def _string_decoder(order: str) -> Decode:
    unpack = _U32_OF[order].unpack_from

    def decode(data: bytes, position: int, reading: Reading) -> tuple[Any, int]:
        position += -position & 3
        start = position + 4
        end = start + unpack(data, position)[0]
        if data.find(b"\0", start) != end:
            raise CodecError("a string with NUL, or without its end")
        return data[start:end].decode(), end + 1

    return decode


def _path_decoder(order: str) -> Decode:
    decode_string = _string_decoder(order)

    def decode(data: bytes, position: int, reading: Reading) -> tuple[Any, int]:
        path, position = decode_string(data, position, reading)
        if not _PATH.fullmatch(path):
            raise CodecError(f"{path!r} is no object path")
        return path, position

    return decode


def _read_signature(data: bytes, position: int) -> tuple[str, int]:
    start = position + 1
    end = start + data[position]
    if data.find(b"\0", start) != end:
        raise CodecError("a signature without its end")
    return data[start:end].decode("ascii"), end + 1


def _signature_decoder(order: str) -> Decode:
    def decode(data: bytes, position: int, reading: Reading) -> tuple[Any, int]:
        signature, position = _read_signature(data, position)
        _types(signature)
        return signature, position

    return decode


def _make_variant_decoder(order: str) -> Decode:
    def decode(data: bytes, position: int, reading: Reading) -> tuple[Any, int]:
        signature, position = _read_signature(data, position)
        type_, depth, decode_value = _variant_decoder(signature, order)
        reading.depth += depth
        if reading.depth > MAX_DEPTH:
            raise CodecError(f"variants nested deeper than {MAX_DEPTH}")
        _count_elements(reading, 1)
        value, position = decode_value(data, position, reading)
        reading.depth -= depth
        return decoded_variant(type_, value), position

    return decode


def _descriptor_decoder(order: str) -> Decode:
    decode_u32 = _number_decoder("u", order)

    def decode(data: bytes, position: int, reading: Reading) -> tuple[Any, int]:
        index, position = decode_u32(data, position, reading)
        if index >= len(reading.fds):
            raise CodecError(f"descriptor {index} of {len(reading.fds)}")
        return reading.fds[index], position

    return decode


_DECODER_MAKERS: dict[str, Callable[[str], Decode]] = {
    "b": _bool_decoder,
    "s": _string_decoder,
    "o": _path_decoder,
    "g": _signature_decoder,
    "v": _make_variant_decoder,
    "h": _descriptor_decoder,
}


def _struct_decoder(members: list[Decode]) -> Decode:
    def decode(data: bytes, position: int, reading: Reading) -> tuple[Any, int]:
        _count_elements(reading, len(members))
        position += -position & 7
        values = []
        for decode_member in members:
            value, position = decode_member(data, position, reading)
            values.append(value)
        return tuple(values), position

    return decode


def _array_decoder(type_: SignatureType, order: str) -> Decode:
    (child,) = type_.children
    alignment = _ALIGNMENT[child.token]
    unpack = _U32_OF[order].unpack_from
    read = _elements_reader(child, order)

    def decode(data: bytes, position: int, reading: Reading) -> tuple[Any, int]:
        position += -position & 3
        length = unpack(data, position)[0]
        start = position + 4
        start += -start % alignment
        end = start + length
        if length > MAX_ARRAY or end > len(data):
            raise CodecError("an array longer than its message")
        return read(data, start, end, reading), end

    return decode


def _elements_reader(child: SignatureType, order: str) -> Callable[[bytes, int, int, Reading], Any]:
    if child.token == "y":
        return lambda data, start, end, reading: data[start:end]
    if child.token in _NUMBERS:
        return _numbers_reader(struct.Struct(order + _NUMBERS[child.token]))
    if child.token == "{":
        key, value = (_decoder(member, order) for member in child.children)
        return _entries_reader(key, value)
    return _values_reader(_decoder(child, order))


def _numbers_reader(number: struct.Struct) -> Callable[[bytes, int, int, Reading], Any]:
    def read(data: bytes, start: int, end: int, reading: Reading) -> list[Any]:
        _count_elements(reading, (end - start) // (number.size * NUMBERS_PER_ELEMENT))
        return [item for (item,) in number.iter_unpack(data[start:end])]

    return read


def _values_reader(decode_element: Decode) -> Callable[[bytes, int, int, Reading], Any]:
    def read(data: bytes, start: int, end: int, reading: Reading) -> list[Any]:
        values = []
        position = start
        while position < end:
            value, position = decode_element(data, position, reading)
            values.append(value)
            _count_elements(reading, 1)
        _check_end(position, end)
        return values

    return read


def _entries_reader(
    decode_key: Decode, decode_value: Decode
) -> Callable[[bytes, int, int, Reading], Any]:
    def read(data: bytes, start: int, end: int, reading: Reading) -> dict[Any, Any]:
        values = {}
        position = start
        while position < end:
            position += -position & 7
            key, position = decode_key(data, position, reading)
            values[key], position = decode_value(data, position, reading)
            _count_elements(reading, 1)
        _check_end(position, end)
        return values

    return read


def _count_elements(reading: Reading, count: int) -> None:
    reading.elements_left -= count
    if reading.elements_left < 0:
        raise LimitsExceeded(f"a message may hold {MAX_ELEMENTS} elements at the most")


def _check_end(position: int, end: int) -> None:
    if position != end:
        raise CodecError("an array whose elements do not end where it does")

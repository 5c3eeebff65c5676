"""Objects of known classes as payloads, in JSON or CBOR.

A number tells the class: in the form C that is the user type; in the form ZIG, which has none,
the first byte of the payload, as the Crystal binding has it (section 2).

What comes is made into an object of the class that is registered for its number, or refused:
its members have the types that the class says, and nothing else is ever made of them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from io import BytesIO
from itertools import chain
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import cbor2

from buswork.libipc.wire.forms import Form, Message

Codec = Literal["json", "cbor"]
# What a payload is decoded to first; a reader makes of it what the class says.
Reader = Callable[[Any, str], object]
Readers = Mapping[type, Reader]
_T = TypeVar("_T")

MAX_DEPTH: Final = 64
MAX_TEXT_CHARACTERS: Final = 300
_HIGHEST: Final = 0xFF


class BadTyped(ValueError):
    """A payload that is no object of a registered class, or an object that can't be sent."""

    def __init__(self, text: str) -> None:
        super().__init__(text[:MAX_TEXT_CHARACTERS])  # it may repeat a peer's own words


class Registry:
    """Classes by their numbers: dataclasses, or `dict` for what is checked by nobody.

    Members may be texts, numbers, booleans, None, bytes (in CBOR alone), lists and dictionaries
    of such, other dataclasses, and unions of what can be told apart. Members that a class does
    not know are passed over, so that it may get new ones; those with a default may be missing.
    """

    def __init__(self, codec: Codec = "json") -> None:
        self._encode, self._decode = _CODECS[codec]
        self._readers: dict[int, Readers] = {}
        self._numbers: dict[type, int] = {}

    def register(self, number: int, cls: type) -> None:
        """Under this number, and no other, objects of this class come and go."""
        if not 0 <= number <= _HIGHEST:
            raise ValueError(f"a class has a number of 0 to {_HIGHEST}, not {number}")
        if number in self._readers or cls in self._numbers:
            raise ValueError(f"{number} or {cls.__name__} is registered already")
        if cls is not dict and not is_dataclass(cls):
            raise TypeError(f"{cls.__name__} is neither a dataclass nor dict")
        self._readers[number] = _readers(cls, {})
        self._numbers[cls] = number

    def typed(self, number: int) -> Callable[[type[_T]], type[_T]]:
        """Registers the class that it decorates."""

        def registered(cls: type[_T]) -> type[_T]:
            self.register(number, cls)
            return cls

        return registered

    def dump(self, form: Form, value: Any) -> tuple[bytes, int]:
        """The payload and user type for `connection.send(*...)`."""
        number = self._numbers.get(type(value))
        if number is None:
            raise BadTyped(f"{type(value).__name__} is not registered")
        try:
            payload = self._encode(value if type(value) is dict else asdict(value))
        except (TypeError, ValueError, RecursionError, cbor2.CBOREncodeError) as error:
            raise BadTyped(f"{type(value).__name__} can't be encoded: {error}") from error
        return (payload, number) if form is Form.C else (bytes((number,)) + payload, 0)

    def load(self, form: Form, message: Message) -> object:
        payload, number = message.payload, message.user_type
        if form is Form.ZIG:
            if not payload:
                raise BadTyped("an empty payload has no byte for the class")
            payload, number = payload[1:], payload[0]
        readers = self._readers.get(number)
        if readers is None:
            raise BadTyped(f"no class is registered for the number {number}")
        try:
            return _read(readers, self._decode(payload), "")
        except RecursionError:
            raise BadTyped("the payload is nested too deep") from None


# -- codecs ----------------------------------------------------------------------------------------


class _NoTags(dict[int, Callable[..., object]]):
    """Of all tags of CBOR: they stand for dates, expressions, references, and what is to come."""

    def __missing__(self, tag: int) -> Callable[..., object]:
        return _refused


def _refused(*_: object) -> object:
    raise cbor2.CBORDecodeError("tags are not taken")


def _to_json(value: object) -> bytes:
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.encode()


def _from_json(payload: bytes) -> object:
    try:
        return json.loads(payload.decode(), parse_constant=_no_number, parse_float=_finite)
    except ValueError as error:
        raise BadTyped(f"the payload is no JSON: {error}") from None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in it")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if isfinite(number) else _no_number("one that is infinite")


def _from_cbor(payload: bytes) -> object:
    stream = BytesIO(payload)
    decoder = cbor2.CBORDecoder(
        stream,
        semantic_decoders=_NoTags(),
        max_depth=MAX_DEPTH,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
    )
    try:
        value = decoder.decode()
    except cbor2.CBORDecodeError as error:
        raise BadTyped(f"the payload is no CBOR without tags: {error}") from None
    if stream.tell() != len(payload):
        raise BadTyped("the payload has something after its CBOR")
    return value


_CODECS: Final[dict[Codec, tuple[Callable[[object], bytes], Callable[[bytes], object]]]] = {
    "json": (_to_json, _from_json),
    "cbor": (cbor2.dumps, _from_cbor),
}


# -- what a class says -----------------------------------------------------------------------------


def _readers(kind: Any, makers: dict[type, "_Maker"]) -> Readers:
    """What becomes of each type that a codec may bring, where a class says this kind."""
    arguments = get_args(kind)
    match get_origin(kind) or kind:
        case origin if origin is Union or origin is UnionType:
            return _united(kind, [_readers(argument, makers) for argument in arguments])
        case scalar if scalar in _SCALARS:
            return _SCALARS[scalar]
        case origin if origin is object or origin is Any:
            return _PLAIN
        case origin if origin is list:
            of = _readers(arguments[0] if arguments else object, makers)
            return {list: lambda value, at: [_read(of, v, f"{at}[]") for v in value]}
        case origin if origin is dict and (not arguments or arguments[0] is str):
            of = _readers(arguments[1] if arguments else object, makers)
            return {
                dict: lambda value, at: {_text(k, at): _read(of, v, at) for k, v in value.items()}
            }
        case cls if is_dataclass(cls) and isinstance(cls, type):
            return {dict: makers.get(cls) or _Maker(cls, makers)}
    raise TypeError(f"{kind} can't be a member of what is sent")


def _united(kind: object, alternatives: list[Readers]) -> Readers:
    """By type alone, so that nothing has to be tried: that could take for ever where they nest."""
    united: dict[type, Reader] = {}
    for its, reader in chain.from_iterable(readers.items() for readers in alternatives):
        other = united.setdefault(its, reader)
        if other is not reader:
            # A whole number is an int where it may be one, else a float.
            if {other, reader} != {_same, _to_float}:
                raise TypeError(f"the alternatives of {kind} can't be told apart")
            united[its] = _same
    return united


class _Maker:
    """Makes objects of one dataclass."""

    def __init__(self, cls: type, makers: dict[type, "_Maker"]) -> None:
        makers[cls] = self  # first, for a class may have itself for a member
        self._cls = cls
        kinds = get_type_hints(cls)
        taken = [field for field in fields(cls) if field.init]
        self._members = {field.name: _readers(kinds[field.name], makers) for field in taken}
        self._needed = frozenset([
            field.name
            for field in taken
            if field.default is MISSING and field.default_factory is MISSING
        ])  # fmt: skip

    def __call__(self, value: dict[object, object], at: str) -> object:
        missing = self._needed - value.keys()
        if missing:
            raise BadTyped(f"{at or self._cls.__name__} has no {', '.join(sorted(missing))}")
        members = {
            name: _read(readers, value[name], f"{at}.{name}" if at else name)
            for name, readers in self._members.items()
            if name in value
        }
        try:
            return self._cls(**members)
        except ValueError as error:
            raise BadTyped(f"{at or self._cls.__name__}: {error}") from error


# -- readers ---------------------------------------------------------------------------------------


def _read(readers: Readers, value: object, at: str) -> object:
    reader = readers.get(type(value))
    if reader is None:
        wanted = " or ".join(sorted(kind.__name__ for kind in readers))
        raise BadTyped(f"{at or 'the payload'} must be {wanted}, not {type(value).__name__}")
    return reader(value, at)


def _same(value: object, _at: str) -> object:
    return value


def _to_float(value: int, at: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise BadTyped(f"{at} is too large") from None


def _text(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise BadTyped(f"a key of {at or 'the payload'} must be str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON may bring halves of characters
        raise BadTyped(f"{at or 'the payload'} is no Unicode text") from None
    return value


def _plain_list(value: list[object], at: str) -> list[object]:
    return [_read(_PLAIN, each, f"{at}[]") for each in value]


def _plain_dict(value: dict[object, object], at: str) -> dict[str, object]:
    return {_text(key, at): _read(_PLAIN, each, at) for key, each in value.items()}


_SCALARS: Final[dict[object, Readers]] = {
    str: {str: _text},
    float: {float: _same, int: _to_float},
    **{kind: {kind: _same} for kind in (bool, int, bytes, NoneType)},
}
# What both codecs know; CBOR has more.
_PLAIN: Final[Readers] = {
    str: _text,
    **dict.fromkeys((bool, int, float, bytes, NoneType), _same),
    list: _plain_list,
    dict: _plain_dict,
}

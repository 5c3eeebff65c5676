"""What JSON must look like: small descriptions, and one function that finds what is not so."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias


@dataclass(frozen=True, slots=True)
class Kind:
    """What one value may be; `called` as a person would call it."""

    called: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Each:
    """An object whose members may have any name."""

    shape: "Shape"


@dataclass(frozen=True, slots=True)
class Choice:
    """An object that looks as one member of it says."""

    by: str
    shapes: "Mapping[str, Mapping[str, Shape]]"


# A list of one shape is a list of such things; a mapping is an object with these members, of which
# those whose name ends in "?" may be left out.
Shape: TypeAlias = "Kind | Each | Choice | list[Shape] | Mapping[str, Shape]"

# In JSON, both may be in a text; but C ends there, and UTF-8 has no halves of characters.
_NO_TEXT: Final = re.compile("[\0\ud800-\udfff]")

TEXT: Final = Kind("a text", lambda value: isinstance(value, str) and not _NO_TEXT.search(value))
NUMBER: Final = Kind("a whole number", lambda value: type(value) is int)
BOOLEAN: Final = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT: Final = Kind("an object", lambda value: isinstance(value, dict))
LIST: Final = Kind("a list", lambda value: isinstance(value, list))


def one_of(*values: str) -> Kind:
    return Kind(" or ".join(values), lambda value: isinstance(value, str) and value in values)


def whole(least: int, most: int) -> Kind:
    return Kind(
        f"a whole number from {least} to {most}",
        lambda value: type(value) is int and least <= value <= most,
    )


def complaints(shape: Shape, value: Any, *, strict: bool = False, at: str = "") -> Iterator[str]:
    """What is wrong, each with the path of the member that it is wrong with.

    strict: members that are not named are wrong too.
    """
    match shape:
        case Kind():
            yield from _of_kind(shape, value, at)
        case list():
            yield from _of_kind(LIST, value, at)
            for number, each in enumerate(value if isinstance(value, list) else ()):
                yield from complaints(shape[0], each, strict=strict, at=f"{at}[{number}]")
        case Each():
            yield from _of_kind(OBJECT, value, at)
            for name, each in value.items() if isinstance(value, dict) else ():
                if not TEXT.fits(name):
                    yield f"{_below(at, name)} is no name"
                yield from complaints(shape.shape, each, strict=strict, at=_below(at, name))
        case _:
            yield from _of_kind(OBJECT, value, at)
            if isinstance(value, dict):
                yield from _of_members(shape, value, strict, at)


# Of a text in JSON: so many values take some 50 ms to be read, looked at and told again, and nobody
# else is served meanwhile. A configuration with 200 tags has some 300.
MOST_MARKS: Final = 16_384


def marks(text: str) -> int:
    """How many values there are at the most, before anything is read."""
    return sum(map(text.count, ",[{"))


def is_deeper(value: Any, than: int) -> bool:
    """Whether there are more than so many things in one another."""
    match value:
        case dict():
            inner: Iterable[Any] = value.values()
        case list():
            inner = value
        case _:
            return False
    return than < 1 or any(is_deeper(each, than - 1) for each in inner)


def _of_kind(kind: Kind, value: Any, at: str) -> Iterator[str]:
    if not kind.fits(value):
        yield f"{at or 'the whole'} is {shown(value)}, and should be {kind.called}"


def _of_members(
    shape: Choice | Mapping[str, Shape], value: Mapping[str, Any], strict: bool, at: str
) -> Iterator[str]:
    if isinstance(shape, Choice):
        chosen = value.get(shape.by)
        if not isinstance(chosen, str) or chosen not in shape.shapes:
            kind = one_of(*shape.shapes)
            yield from _of_kind(kind, chosen, _below(at, shape.by))
            return
        shape = {shape.by: TEXT, **shape.shapes[chosen]}
    known = {name.removesuffix("?"): each for name, each in shape.items()}
    for name in shape:
        if name not in value and not name.endswith("?"):
            yield f"{_below(at, name)} is missing"
    for name, each in value.items():
        if name in known:
            yield from complaints(known[name], each, strict=strict, at=_below(at, name))
        elif strict:
            yield f"{_below(at, name)} is not known; there are {', '.join(known)}"


def _below(at: str, name: str) -> str:
    name = name if len(name) <= 40 and TEXT.fits(name) else shown(name)
    return f"{at}.{name}" if at else name


def shown(value: Any) -> str:
    """A word for it, in a sentence."""
    match value:
        case None:
            return "not there"
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            text = repr(value)
            return text if len(text) <= 40 else f"{text[:36]} ..."

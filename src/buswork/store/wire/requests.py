"""The bytes on mapipcd's two sockets: what clients ask, and what they are answered.

    mapipc_set    {"key": "foo", "value": "bar"}    echoed unchanged; value null or absent: gone
    mapipc_get    foo                               {\\n    "value": "bar"\\n}\\n

The original is lenient, and so is this: any whitespace, order and further members, a byte order
mark, of duplicate members the last. A request ends where its JSON does; there is no other end.
Where the original reads numbers as doubles, so does this: what is stored comes back in the same
digits. It differs where the original takes what is no JSON number: "1." and "-.5" are malformed.
"""

import json
import re
from functools import lru_cache
from itertools import accumulate
from json.encoder import encode_basestring
from typing import Any, ClassVar, NamedTuple, NoReturn

from buswork.store.wire.values import Json

# What the original takes in one message. More is taken as well, but only as a flat object:
# a large value is text, and a bomb of small ones would cost hundreds of times its size.
MAX_NESTED_BYTES = 212_000
# Members of a flat object that is larger than that.
MAX_FLAT_MEMBERS = 16
# Of values that are no text; the original has 1,024. Python's recursion limit is not far above.
MAX_DEPTH = 512
# A longer value of JSON is sent as it is kept, without the original's indentation, and so is one
# whose indentation (depth times length) would be longer than this: unmodified clients read both,
# and it would take a third of a microsecond for each byte.
MAX_INDENTED_VALUE = 4096
MAX_INDENTED_BYTES = 64 * 1024
# The answers that are asked for again and again need not be made each time.
INDENTED_KEPT = 32
# Blanks before a request.
MAX_LEADING_BYTES = 4096

# Asks on the get socket for a descriptor of the shared memory. To the original this is the empty
# key, because a NUL ends a key; its answer, null, says that there is no such memory.
READER_REQUEST = b"\0mapipc-reader\n"
NULL_REPLY = b'{\n    "value": null\n}\n'

_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"
_STRING = r'"(?:[^"\\]++|\\.)*+"'
_FLAT = re.compile(
    rf'\s*+\{{\s*+(?:{_STRING}\s*+:\s*+(?:{_STRING}|[^\s"{{}}\[\],:]++)\s*+(?:,\s*+|(?=\}})))'
    rf"{{1,{MAX_FLAT_MEMBERS}}}\}}\s*+".encode(),
    re.DOTALL,
)
# The request that most clients send, in text that needs no escape.
_BLANK = r"[ \t\r\n]*+"
_MEMBER = rf'{_BLANK}"%s"{_BLANK}:{_BLANK}"([ !#-\[\]-~]++)"{_BLANK}'
_PLAIN = re.compile(rf"\{{{_MEMBER % 'key'},{_MEMBER % 'value'}\}}{_BLANK}".encode())
_TOKEN = re.compile(rf'{_STRING}|[\[\]{{}},:]|[^\[\]{{}},:"]++', re.DOTALL)
_STRINGS = re.compile(_STRING, re.DOTALL)
# To the original, a backslash before any other character says nothing.
_VAIN_BACKSLASH = re.compile(r'\\(?=[^"\\/bfnrtu])')
# Stands for an escaped backslash for a moment; it can't be in what was UTF-8.
_BACKSLASH = "\ud800"
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_NEWLINE = "\n"
_INDENT = "    "
_AFTER = {"[": "\n", "{": "\n", ",": "\n", ":": " "}
_INFINITY = float("inf")
_DEPTH = {"[": 1, "{": 1, "]": -1, "}": -1}


class Malformed(ValueError):
    """What came is no request; the text says why."""


class SetRequest(NamedTuple):
    key: str  # empty when there is none, or none that is a string
    value: bytes | None  # None: the key is to go
    complaint: str = ""  # what the client should have done better


# -- requests ----------------------------------------------------------------------------------


def _number(text: str) -> int | float:
    """A double; as an int where the original writes it without point and exponent."""
    number = float(text)
    if number in (_INFINITY, -_INFINITY) or (not number and _mantissa(text).strip("-0.")):
        raise ValueError("a number is out of range")
    if not number.is_integer():
        return number
    digits, _, exponent = repr(number).partition("e+")
    if not exponent:
        return int(number)
    whole, _, fraction = digits.partition(".")
    # Above 64 bits it takes the form that is shorter, and counts four places for the exponent.
    if abs(number) >= 2**64 and int(exponent) > len(whole.lstrip("-") + fraction) + 4:
        return number
    return int(whole + fraction.ljust(int(exponent), "0"))


def _mantissa(text: str) -> str:
    return text.lower().partition("e")[0]


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


# strict=False: the original takes control characters inside of strings.
_decoder = json.JSONDecoder(
    parse_int=_number, parse_float=_number, parse_constant=_refuse, strict=False
)
_scan = _decoder.scan_once  # type: ignore[attr-defined]
_encode = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":")
).encode


def parse_set(data: bytes, most: int | None = None) -> SetRequest:
    """What a complete set request says, which is `most` bytes at the most without its escapes."""
    plain = _PLAIN.fullmatch(data)
    if plain is not None:  # in half of the time that JSON takes
        key, value = plain.groups()
        return SetRequest(key.decode(), value)
    if len(data) > MAX_NESTED_BYTES:
        _check_large(data, most)
    return _parse_json(data)


def _check_large(data: bytes, most: int | None) -> None:
    """What would be refused after all is not parsed first, which takes fifty times as long."""
    # An escape is two bytes or six for what is one byte at least.
    if most is not None and len(data) - data.count(b"\\") - 4 * data.count(b"\\u") > most:
        raise Malformed(f"a request says {most} bytes at the most")
    if not _FLAT.fullmatch(data.removeprefix(_BOM)):
        raise Malformed(f"a request above {MAX_NESTED_BYTES} bytes is one flat object")


def _parse_json(data: bytes) -> SetRequest:
    try:
        members = _members((data[3:] if data[:3] == _BOM else data).decode())
        if type(members) is not dict:
            raise Malformed("a set request is a JSON object")
        key, value = members.get("key"), members.get("value")
        if type(key) is not str:
            complaint = "the key is no string" if "key" in members else "there is no key"
            return SetRequest("", _stored(value), complaint)
        if value is None and "value" not in members:
            return SetRequest(key, None, "there is no value, so the key goes")
        if type(value) is str and value and value.isascii() and "\0" not in value:
            return SetRequest(key, value.encode())
        return SetRequest(key, _stored(value))
    except RecursionError:
        raise Malformed("the JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise Malformed("the request is not UTF-8") from None
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(f"malformed JSON: {error}") from None


def _members(text: str) -> Any:
    try:
        if text[:1] == "{":  # in half of the time that decode() takes
            members, end = _scan(text, 0)
            if end == len(text) or not text[end:].strip(" \t\r\n"):
                return members
        return _decoder.decode(text)
    except (ValueError, StopIteration):  # the latter: a value is missing
        mended = _mended(text) if len(text) <= MAX_NESTED_BYTES else text
        if mended == text and text[:1] != "{":
            raise
        return _decoder.decode(mended)


def _mended(text: str) -> str:
    """The text without the backslashes that say nothing."""
    text = text.replace("\\\\", _BACKSLASH)  # so that each of the others begins an escape
    return _VAIN_BACKSLASH.sub("", text).replace(_BACKSLASH, "\\\\")


def _stored(value: Any) -> bytes | None:
    if type(value) is str:
        try:
            text = value.encode()
        except UnicodeEncodeError:
            return Json(_escape_halves(encode_basestring(value)))
        if not text or 0 in text:
            return Json(encode_basestring(value).encode())
        return text
    return None if value is None else _compact(value)


def _compact(value: Any) -> Json:
    text = _encode(value)
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise Malformed(f"a value has {MAX_DEPTH} levels at the most")
    try:
        return Json(text.encode())
    except UnicodeEncodeError:
        return Json(_escape_halves(text))


def _escape_halves(text: str) -> bytes:
    """Halves of characters (lone surrogates), which UTF-8 can't carry, as JSON's escapes."""
    return _HALF_CHARACTER.sub(lambda half: f"\\u{ord(half[0]):04x}", text).encode()


def _depth(text: str) -> int:
    return max(accumulate(_DEPTH.get(char, 0) for char in _STRINGS.sub("", text)))


def parse_get(data: bytes, max_bytes: int) -> str:
    """The key that a get request names: all of it, up to a NUL."""
    key = data.partition(b"\0")[0] if 0 in data else data
    if not key:
        raise Malformed("the key is empty")
    if len(key) > max_bytes:
        raise Malformed(f"the key has more than {max_bytes} bytes")
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise Malformed("the key is not UTF-8") from None


class Assembly:
    """Puts a set request together that came in pieces; each byte is looked at once.

    Complete is where the braces balance. Whether that is JSON only the parser knows.
    """

    # All up to a string that does not end here, a whole string, and what is within one.
    _WHOLE = re.compile(rf'(?:[^"]++|{_STRING})*+'.encode(), re.DOTALL)
    _STRINGS = re.compile(_STRING.encode(), re.DOTALL)
    _INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
    _NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
    _STEPS: ClassVar = {char: 1 if char in b"[{" else -1 for char in b"[]{}"}

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._request = bytearray()
        self._depth = 0
        self._tokens = 0
        self._in_string = False
        self._escaped = False
        self.complete = False

    def feed(self, piece: bytes) -> None:
        """Raises Malformed for what no further piece can make a request."""
        self._request += piece
        if self.size > self._max_bytes:
            raise Malformed(f"a request has {self._max_bytes} bytes at the most")
        if self.complete:
            self._check_blank(piece)
        elif not self._depth:
            self._begin(piece)
        else:
            self._scan(piece)

    @property
    def size(self) -> int:
        return len(self._request)

    def request(self) -> bytes:
        return bytes(self._request)

    def _begin(self, piece: bytes) -> None:
        """Looks for the opening brace, after a byte order mark and blanks."""
        head = self._request[:MAX_LEADING_BYTES]
        begin = head[3:] if head[:3] == _BOM[: len(head)] else head
        begin = begin.lstrip(_BLANKS)
        if not begin and self.size <= MAX_LEADING_BYTES:
            return
        if begin[:1] != b"{":
            raise Malformed("a set request is a JSON object")
        at = len(head) - len(begin)
        self._scan(piece[at - (self.size - len(piece)) :])

    def _scan(self, piece: bytes) -> None:
        piece = self._after_string(piece)
        match = self._WHOLE.match(piece)
        end = match.end() if match else 0
        if end < len(piece):
            self._enter_string(piece[end + 1 :])
        outside, strings = self._STRINGS.subn(b"", piece[:end])
        brackets = outside.translate(None, self._NO_BRACKETS)
        self._tokens += strings + len(brackets)
        if self._tokens > MAX_NESTED_BYTES:
            raise Malformed("the JSON has too many parts")
        if brackets:
            self._balance(brackets)
        if self.complete and (self._in_string or outside.rstrip(_BLANKS)[-1:] not in b"]}"):
            raise Malformed("something follows the JSON object")

    def _balance(self, brackets: bytes) -> None:
        steps = map(self._STEPS.__getitem__, brackets)
        depths = list(accumulate(steps, initial=self._depth))[1:]
        self._depth = depths[-1]
        if min(depths) <= 0:
            if depths.index(0) < len(depths) - 1:
                raise Malformed("something follows the JSON object")
            self.complete = True

    def _after_string(self, piece: bytes) -> bytes:
        """What comes after the string that an earlier piece began."""
        if not self._in_string or not piece:
            return piece
        at = 1 if self._escaped else 0
        match = self._INSIDE.match(piece, at)
        end = match.end() if match else at
        if end < len(piece) and piece[end : end + 1] == b'"':
            self._in_string = self._escaped = False
            return piece[end + 1 :]
        self._escaped = end < len(piece)  # a backslash, and what it escapes is yet to come
        return b""

    def _enter_string(self, inside: bytes) -> None:
        """The piece ends within a string."""
        self._in_string = True
        match = self._INSIDE.match(inside)
        self._escaped = match is not None and match.end() < len(inside)

    def _check_blank(self, rest: bytes) -> None:
        if rest.strip(_BLANKS):
            raise Malformed("something follows the JSON object")


# -- replies -----------------------------------------------------------------------------------


def value_reply(value: bytes) -> bytes:
    """The answer to a get; an empty value is one that is not set."""
    if not value:
        return NULL_REPLY
    if type(value) is Json:
        is_small = len(value) <= MAX_INDENTED_VALUE and not value.is_string
        return b'{\n    "value": %b\n}\n' % (_indented(value) if is_small else value)
    return b'{\n    "value": %b\n}\n' % encode_basestring(value.decode()).encode()


def error_reply(name: str, text: str) -> bytes:
    """The answer without a value, at which an unmodified client ends with status 1."""
    members = f'"error": {encode_basestring(name)},\n    "message": {encode_basestring(text)}'
    return f"{{\n    {members}\n}}\n".encode(errors="replace")


@lru_cache(INDENTED_KEPT)
def _indented(value: Json) -> bytes:
    """JSON in the original's layout, if that is not too long."""
    pieces: list[str] = []
    size, depth, at_line_start = 0, 1, False
    for match in _TOKEN.finditer(value.decode()):
        token = match[0]
        if token in "]}":
            depth -= 1
            piece = f"{'' if at_line_start else _NEWLINE}{_INDENT * depth}{token}"
        else:
            piece = f"{_INDENT * depth if at_line_start else ''}{token}{_AFTER.get(token, '')}"
            depth += token in "[{"
        at_line_start = token in "[{,"
        size += len(piece)
        if size > MAX_INDENTED_BYTES:
            return value
        pieces.append(piece)
    return "".join(pieces).encode()

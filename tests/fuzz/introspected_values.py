"""Values for any signature: the edges of numbers, odd texts, deep variants, odd descriptors; and
among them words that mean something there, which were heard before."""

import os
import re
import socket
import string
import struct
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any

from support.machine import Variant
from support.raw import split

# Of D-Bus: values within values, and bytes of a signature.
MOST_DEEP, MOST_SIGNATURE = 55, 255
BITS = {"y": (8, False), "n": (16, True), "q": (16, False), "i": (32, True), "u": (32, False),
        "x": (64, True), "t": (64, False)}  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.5, 1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan"))
BASIC = "ybnqiuxtdsog"
TEXTS = (
    "", " ", "/", ".", "..", "../../etc/passwd", "/dev/zero", "~0/x", "~/", "%s%n%x", "-1", "0",
    "18446744073709551616", "true", "null", "\x01\x1b[31m\x7f", "\r\n", "\t", "\u202e", "\ufeff",
    "\ufdd0\uffff\U0010ffff", "e\u0301\u0301", "🚌" * 20, "{}", "[" * 200, '{"a":' * 100, '"',
    '{"cfg":{}}', '{"tags":{"a":"b"}}', "localhost:1", "tcp://localhost:1/x", "a b", "a=b", "x\\",
    "00000000-0000-0000-0000-000000000000", "org.freedesktop.DBus", "a.b" * 80,
)  # fmt: skip
LENGTHS = (1, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025, 4096, 65_535, 65_537, 300_000)
CHARACTERS = string.ascii_letters + "0_~/.:=*\\\"'é€🚌\x01\n"
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_:.-]*")
_PATH = re.compile(r"/|(?:/[A-Za-z0-9_]+)+")
_NAMED = re.compile(r"\b([a-z][a-z_]{2,30}) \(([a-z{}()]{1,9})[,;)]")


class Words:
    """What was heard: of the contract's own texts, and of answers."""

    MOST, FEW = 3_000, 20

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.paths: list[str] = ["/"]
        # Options, with their types, as the texts for people name them.
        self.options: list[tuple[str, str]] = []
        # Values by the name that they had: of arguments and properties.
        self.named: dict[str, list[Any]] = {}
        # Texts that stood in a list under another: a module's functions.
        self.pairs: list[tuple[str, str]] = []
        self._known: set[str] = set()

    def hear(self, value: Any) -> None:
        """Whatever is in an answer."""
        if isinstance(value, Variant):
            self.hear(value.value)
        elif isinstance(value, str):
            self._keep(value)
        elif isinstance(value, dict):
            for entry in value.items():
                self.hear(entry)
                self._pair(*entry)
        elif isinstance(value, list | tuple):
            for each in value[:50]:
                self.hear(each)

    def hear_named(self, name: str, value: Any) -> None:
        """player_ids has some of what player_id takes."""
        if isinstance(value, Variant):
            self.hear_named(name, value.value)
        elif isinstance(value, dict):
            for key, each in [*value.items()][:20]:
                self.hear_named(name, key)
                self.hear_named(name, each)
        elif isinstance(value, list):
            for each in value[:20]:
                self.hear_named(name, each)
        elif isinstance(value, int | str):
            pool = self.named.setdefault(_name(name), [])
            if value not in pool:
                pool.append(value)
                del pool[: -self.FEW]

    def _keep(self, text: str) -> None:
        if text in self._known or len(text) > 300 or len(self._known) > self.MOST:
            return
        self._known.add(text)
        self.texts.append(text)
        if _PATH.fullmatch(text):
            self.paths.append(text)

    def _pair(self, key: Any, values: Any) -> None:
        if isinstance(key, str) and isinstance(values, list) and len(self.pairs) < self.MOST:
            texts = (value.partition("(")[0] for value in values if isinstance(value, str))
            self.pairs += [(key, text) for text in texts if (key, text) not in self.pairs]

    def read(self, text: str) -> None:
        """A text for people: ttl_ms (t), until_i_leave (b)."""
        for name, type_ in _NAMED.findall(text):
            with suppress(ValueError):
                if (name, type_) not in self.options and len(split(type_)) == 1:
                    self.options.append((name, type_))


def _name(text: str) -> str:
    return text.lower().replace("_", "").removesuffix("s").removesuffix("id")


class Descriptors:
    """Odd ones. Those that never end are for calls that need not be answered."""

    def __init__(self) -> None:
        self._open: list[int] = []
        self.is_endless = False

    def close(self) -> None:
        for fd in self._open:
            with suppress(OSError):
                os.close(fd)
        self._open.clear()
        self.is_endless = False

    def make(self, random: Random) -> int:
        kind = random.choice(KINDS)
        fds, keeps = kind(random)
        self.is_endless |= kind in ENDLESS
        self._open += fds
        for fd in [] if keeps else fds[1:]:
            os.close(fd)
            self._open.remove(fd)
        return fds[0]


def _pipe(random: Random) -> tuple[list[int], bool]:
    read, write = os.pipe()
    os.write(write, random.randbytes(random.randrange(2_000)))
    return ([read, write] if random.random() < 0.5 else [write, read]), False


def _endless_pipe(random: Random) -> tuple[list[int], bool]:
    read, write = os.pipe()
    return [read, write], True


def _pair(random: Random) -> tuple[list[int], bool]:
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
    ours, theirs = socket.socketpair(socket.AF_UNIX, random.choice(kinds))
    ours.send(random.randbytes(200))
    return [theirs.detach(), ours.detach()], False


def _endless_pair(random: Random) -> tuple[list[int], bool]:
    ours, theirs = socket.socketpair()
    return [theirs.detach(), ours.detach()], True


def _file(path: str, flags: int) -> Callable[[Random], tuple[list[int], bool]]:
    return lambda random: ([os.open(path, flags)], False)


def _memory(random: Random) -> tuple[list[int], bool]:
    fd = os.memfd_create("fuzz", os.MFD_ALLOW_SEALING)
    os.write(fd, random.randbytes(random.randrange(5_000)))
    os.lseek(fd, 0, os.SEEK_SET)
    return [fd], False


def _listener(random: Random) -> tuple[list[int], bool]:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"\0fuzz-{os.getpid()}-{random.getrandbits(64)}")
    sock.listen(1)
    return [sock.detach()], False


def _event(random: Random) -> tuple[list[int], bool]:
    return [os.eventfd(0)], False


_zero = _file("/dev/zero", os.O_RDWR)
ENDLESS = (_endless_pipe, _endless_pair, _zero, _listener, _event)
KINDS = (
    *(_pipe, _pipe, _pair, _pair, _memory, _memory),
    *(_file("/dev/null", os.O_RDWR), _file("/dev/full", os.O_WRONLY), _file("/etc/hostname", 0)),
    *(_file(tempfile.gettempdir(), os.O_RDONLY), _file("/", os.O_PATH), *ENDLESS),
)


class Values:
    """Of one call."""

    def __init__(
        self, random: Random, words: Words, descriptors: Descriptors, doc: str = ""
    ) -> None:
        """doc: what people are told of it, for its words."""
        self._random = random
        self._words = words
        self._descriptors = descriptors
        self._doc = _WORD.findall(doc)
        self.fds: list[int] = []

    def of(self, signature: str, names: Sequence[str] = ()) -> list[Any]:
        types = split(signature)
        known = [*names, *[""] * len(types)]
        made = [self._known(*each) for each in zip(types, known, strict=False)]
        if types[:2] == ["s", "s"] and self._words.pairs and self._random.random() < 0.6:
            made[:2] = self._random.choice(self._words.pairs)
        return made

    def _known(self, type_: str, name: str) -> Any:
        """Often one that somebody has heard by that name."""
        kinds = (str,) if type_ == "s" else (int,) if type_ in BITS else ()
        pool = [value for value in self._words.named.get(_name(name), ()) if type(value) in kinds]
        if pool and self._random.random() < 0.6:
            value = self._random.choice(pool)
            if kinds == (str,) or _fits(value, *BITS[type_]):
                return value
        return self.one(type_)

    def one(self, type_: str, deep: int = 0) -> Any:
        code = type_[0]
        if code in BITS:
            return self._number(*BITS[code])
        match code:
            case "b":
                return self._random.randrange(2)
            case "d":
                bits = struct.pack("=Q", self._random.getrandbits(64))
                return self._random.choice((*FLOATS, struct.unpack("=d", bits)[0]))
            case "s":
                return self.text()
            case "o":
                return self.path()
            case "g":
                return self.signature()
            case "h":
                self.fds.append(self._descriptors.make(self._random))
                return len(self.fds) - 1
            case "v":
                return self._variant(deep)
            case "(":
                return [self.one(member, deep + 1) for member in split(type_[1:-1])]
        return self._array(type_[1:], deep)

    def _number(self, bits: int, signed: bool) -> int:
        low = -(1 << bits - 1) if signed else 0
        high = low + (1 << bits) - 1
        near = self._random.choice((low, high, 0, 1, 2, 15, 16, 100, 1000, 1 << bits // 2))
        number = near + self._random.choice((-1, 0, 0, 1))
        return (
            min(max(number, low), high)
            if self._random.random() < 0.8
            else (self._random.randint(low, high))
        )

    def text(self) -> str:
        random, words = self._random, self._words.texts
        kind = random.random()
        if kind < 0.3 and self._doc:
            return random.choice(self._doc)
        if kind < 0.55 and words:
            return random.choice(words)
        if kind < 0.8:
            return random.choice(TEXTS)
        if kind < 0.97:
            return "".join(random.choices(CHARACTERS, k=random.randrange(40)))
        return random.choice(("a", "é", "/a", "\n")) * random.choice(LENGTHS)

    def path(self) -> str:
        random = self._random
        kind = random.random()
        if kind < 0.7:
            return random.choice(self._words.paths)
        parts = [
            random.choice(("a", "_", "_2d", "0", "org")) for _ in range(random.randrange(1, 6))
        ]
        return "/" + "/".join(parts * (1 if kind < 0.95 else 500))

    def signature(self) -> str:
        random = self._random
        simple = random.choice(("", "s", "a{sv}", "(ii)", "v" * MOST_SIGNATURE, "a" * 32 + "y"))
        return random.choice((simple, "(" * 32 + "y" + ")" * 32))

    def _type(self, deep: int = 0) -> str:
        random = self._random
        kind = random.random()
        if deep > 3 or kind < 0.6:
            return random.choice(BASIC)
        if kind < 0.7:
            return "v"
        if kind < 0.85:
            return "a" + self._type(deep + 1)
        if kind < 0.93:
            return "".join(
                ("(", *(self._type(deep + 1) for _ in range(random.randrange(1, 4))), ")")
            )
        return f"a{{{random.choice(BASIC)}{self._type(deep + 1)}}}"

    def _variant(self, deep: int) -> Variant:
        random = self._random
        if deep == 0 and random.random() < 0.03:
            return self._nested(random.randrange(MOST_DEEP))
        type_ = self._type() if deep < 4 else random.choice(BASIC)
        return Variant(type_, self.one(type_, deep + 1))

    def _nested(self, times: int) -> Variant:
        found = Variant("y", 0)
        for _ in range(times):
            found = Variant("v", found)
        return found

    def _array(self, child: str, deep: int) -> Any:
        random = self._random
        if child == "y":
            return random.randbytes(
                random.choice((0, 1, 3, 64, 127, 128, 129, 1000, *LENGTHS[-3:]))
            )
        few = (0, 0, 1, 1, 2, 3, 8) if deep else (0, 0, 1, 1, 2, 3, 8, 100)
        count = random.choice(few) if random.random() < 0.98 or deep else 3_000
        if child == "{sv}" and random.random() < 0.3:
            return {}
        if child == "{sv}":
            return dict(self._option(deep) for _ in range(min(count, 100)))
        if child[0] == "{":
            key, value = split(child[1:-1])
            made = ((self.one(key, deep), self.one(value, deep + 1)) for _ in range(count))
            return {key: value for key, value in made if key == key}  # no NaN twice
        return [self.one(child, deep + 1) for _ in range(count)]

    def _option(self, deep: int) -> tuple[str, Variant]:
        """Half of them with a name and type that somebody knows."""
        random, options = self._random, self._words.options
        if not options or random.random() < 0.3:
            return self.text(), self._variant(deep + 1)
        name, type_ = random.choice(options)
        if random.random() < 0.2:
            return name, self._variant(deep + 1)
        return name, Variant(type_, self.one(type_, deep + 1))


def _fits(number: int, bits: int, signed: bool) -> bool:
    low = -(1 << bits - 1) if signed else 0
    return low <= number < low + (1 << bits)


def busctl_words(signature: str, values: Sequence[Any]) -> list[str] | None:
    """As busctl takes them; None: it can't."""
    words: list[str] = []
    for type_, value in zip(split(signature), values, strict=True):
        more = _words(type_, value)
        if more is None:
            return None
        words += more
    return words


def _words(type_: str, value: Any) -> list[str] | None:
    code = type_[0]
    if code == "h" or (isinstance(value, str) and len(value) > 2_000):
        return None
    if code in "sog":
        return [value]
    if code == "b":
        return ["true" if value else "false"]
    if code == "v":
        inner = _words(value.signature, value.value)
        return None if inner is None else [value.signature, *inner]
    if code == "(":
        return busctl_words(type_[1:-1], value)
    if code != "a":
        return [repr(value)]
    if len(value) > 200:
        return None
    entries = value.items() if type_[1] == "{" else ((each,) for each in value)
    child = type_[2:-1] if type_[1] == "{" else type_[1:]
    found = [str(len(value))]
    for entry in entries:
        more = busctl_words(child, entry)
        if more is None:
            return None
        found += more
    return found

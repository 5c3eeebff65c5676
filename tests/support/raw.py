"""Connections to the bus that the test itself speaks, byte by byte, as any user of a machine.

    with Crowd(machine, "alice", 300) as crowd:
        serials = [one.call("/", PEER, "Ping") for one in crowd]
        answers = [one.answer(serial) for one, serial in zip(crowd, serials, strict=True)]

`support.machine.Client` is a process for each connection; a crowd is one process, however many
connections it has: it only opens them, which is when the bus asks the kernel who they are, and
hands them over. Nothing here checks what is sent, and it knows both byte orders: it is for what
a library would not send. It shares no code with the daemon or with a library, so that no fault
is answered by the same fault here.
"""

from __future__ import annotations

import array
import collections
import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from support.machine import BUS_NAME, CallError, Machine, Variant

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
NO_REPLY, NO_AUTO_START, INTERACTIVE = 1, 2, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE, UNIX_FDS = range(
    1, 10
)
FIELD_TYPES = {
    PATH: "o",
    INTERFACE: "s",
    MEMBER: "s",
    ERROR_NAME: "s",
    REPLY_SERIAL: "u",
    DESTINATION: "s",
    SENDER: "s",
    SIGNATURE: "g",
    UNIX_FDS: "u",
}
DRIVER = "org.freedesktop.DBus"
WAIT_SECONDS = 25.0
# As many descriptors as one message between processes takes, with some to spare.
BATCH = 200

NUMBERS = {
    "y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d",
    "h": "I",
}  # fmt: skip
ALIGNMENT = {"s": 4, "o": 4, "a": 4, "(": 8, "{": 8, "v": 1, "g": 1} | {
    code: struct.calcsize("<" + form) for code, form in NUMBERS.items()
}


# --- Values and bytes -----------------------------------------------------------------------------


def split(signature: str) -> list[str]:
    """The complete types of a signature."""
    types = []
    while signature:
        end = _end_of_type(signature)
        types.append(signature[:end])
        signature = signature[end:]
    return types


def _end_of_type(signature: str) -> int:
    if signature[0] == "a":
        return 1 + _end_of_type(signature[1:])
    if signature[0] not in "({":
        return 1
    depth = 0
    for at, char in enumerate(signature):
        depth += (char in "({") - (char in ")}")
        if not depth:
            return at + 1
    raise ValueError(signature)


def marshal(signature: str, values: Sequence[Any], order: str = "<", into: Any = None) -> bytearray:
    """Values as bytes; `into` is what stands before, which alignment is counted from."""
    out = bytearray() if into is None else into
    for type_, value in zip(split(signature), values, strict=True):
        _put(out, type_, value, order)
    return out


def _put(out: bytearray, type_: str, value: Any, order: str) -> None:
    code = type_[0]
    out += bytes(-len(out) % ALIGNMENT[code])
    if code in NUMBERS:
        out += struct.pack(order + NUMBERS[code], value)
    elif code in "so":
        raw = value if isinstance(value, bytes) else value.encode()
        out += struct.pack(order + "I", len(raw)) + raw + b"\0"
    elif code == "g":
        out += bytes((len(value),)) + value.encode() + b"\0"
    elif code == "v":
        _put(out, "g", value.signature, order)
        _put(out, value.signature, value.value, order)
    elif code == "(":
        marshal(type_[1:-1], value, order, out)
    else:
        _put_array(out, type_[1:], value, order)


def _put_array(out: bytearray, child: str, value: Any, order: str) -> None:
    length_at = len(out)
    out += bytes(4)
    out += bytes(-len(out) % ALIGNMENT[child[0]])
    start = len(out)
    if child == "y":
        out += bytes(value)
    elif child[0] == "{":
        for entry in value.items():
            out += bytes(-len(out) % 8)
            marshal(child[1:-1], entry, order, out)
    else:
        for item in value:
            _put(out, child, item, order)
    struct.pack_into(order + "I", out, length_at, len(out) - start)


def unmarshal(signature: str, data: bytes, order: str = "<") -> list[Any]:
    at = 0
    values = []
    for type_ in split(signature):
        value, at = _take(data, at, type_, order)
        values.append(value)
    return values


def _take(data: bytes, at: int, type_: str, order: str) -> tuple[Any, int]:
    code = type_[0]
    at += -at % ALIGNMENT[code]
    if code in NUMBERS:
        (number,) = struct.unpack_from(order + NUMBERS[code], data, at)
        return bool(number) if code == "b" else number, at + ALIGNMENT[code]
    if code in "so":
        (size,) = struct.unpack_from(order + "I", data, at)
        return data[at + 4 : at + 4 + size].decode(), at + 5 + size
    if code == "g":
        return data[at + 1 : at + 1 + data[at]].decode(), at + 2 + data[at]
    if code == "v":
        signature, at = _take(data, at, "g", order)
        value, at = _take(data, at, signature, order)
        return Variant(signature, value), at
    if code in "({":
        values = []
        for part in split(type_[1:-1]):
            value, at = _take(data, at, part, order)
            values.append(value)
        return values, at
    (size,) = struct.unpack_from(order + "I", data, at)
    at += 4
    at += -at % ALIGNMENT[type_[1]]
    end = at + size
    if type_ == "ay":
        return data[at:end], end
    items = []
    while at < end:
        value, at = _take(data, at, type_[1:], order)
        items.append(value)
    return (dict(items) if type_[1] == "{" else items), at


def message(
    kind: int,
    serial: int,
    fields: dict[int, Any],
    signature: str = "",
    values: Sequence[Any] = (),
    *,
    flags: int = 0,
    order: str = "<",
    body: bytes | None = None,
    strange: Sequence[tuple[int, Variant]] = (),
) -> bytes:
    """A whole message. `body` stands in for the values; `strange` are fields besides the usual."""
    if body is None:
        body = bytes(marshal(signature, values, order))
    if signature:
        fields = {**fields, SIGNATURE: signature}
    entries = [(code, Variant(FIELD_TYPES[code], value)) for code, value in fields.items()]
    head = bytearray(b"l" if order == "<" else b"B")
    head += bytes((kind, flags, 1)) + struct.pack(order + "II", len(body), serial)
    marshal("a(yv)", [[*strange, *entries]], order, head)
    return bytes(head + bytes(-len(head) % 8)) + body


# --- One connection -------------------------------------------------------------------------------


@dataclass
class Heard:
    """A message that arrived."""

    kind: int
    fields: dict[int, Any]
    body: list[Any]
    size: int
    serial: int = 0

    @property
    def value(self) -> Any:
        """The only value of a reply. Raises CallError for an error reply."""
        if self.kind == ERROR:
            raise CallError(self.error, self.text)
        return self.body[0] if self.body else None

    @property
    def error(self) -> str:
        """The name of the error, empty for what is none."""
        return str(self.fields.get(ERROR_NAME, ""))

    @property
    def text(self) -> str:
        return str(self.body[0]) if self.body else ""

    @property
    def member(self) -> str:
        return str(self.fields.get(MEMBER, ""))

    @property
    def sender(self) -> str:
        return str(self.fields.get(SENDER, ""))


class Raw:
    """One connection. What arrives is read when something is waited for, and only then."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(WAIT_SECONDS)
        self.signals: list[Heard] = []
        self.calls: list[Heard] = []
        self.name = ""
        self._input = bytearray()
        self._answers: dict[int, Heard] = {}
        self._serial = 0

    def log_in(self, uid: int, *, descriptors: bool = True) -> None:
        """Authenticates and says Hello."""
        self.begin_log_in(uid, descriptors=descriptors)
        self.end_log_in()

    def begin_log_in(self, uid: int, *, descriptors: bool = True) -> None:
        lines = [b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode()]
        if descriptors:
            lines.append(b"NEGOTIATE_UNIX_FD")
        self.sock.sendall(b"\r\n".join([*lines, b"BEGIN", b""]))
        self._lines_expected = len(lines)
        self._hello = self.call_bus("Hello")

    def end_log_in(self) -> None:
        while self._input.count(b"\r\n") < self._lines_expected:
            self._more(time.monotonic() + WAIT_SECONDS)
        for _ in range(self._lines_expected):
            line, _, self._input = self._input.partition(b"\r\n")
            assert line.startswith((b"OK", b"AGREE")), line
        self.name = self.answer(self._hello).value

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        if fds:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
            sent = self.sock.sendmsg([data], [rights])
            data = data[sent:]
        if data:
            self.sock.sendall(data)

    def call(
        self,
        path: str,
        interface: str | None,
        member: str,
        signature: str = "",
        *values: Any,
        destination: str = BUS_NAME,
        flags: int = 0,
        order: str = "<",
        fds: Sequence[int] = (),
        body: bytes | None = None,
        strange: Sequence[tuple[int, Variant]] = (),
    ) -> int:
        """Sends a call and returns its serial, which `answer` takes."""
        serial = self.next_serial()
        fields: dict[int, Any] = {PATH: path, MEMBER: member, DESTINATION: destination}
        if interface is not None:
            fields[INTERFACE] = interface
        if fds:
            fields[UNIX_FDS] = len(fds)
        data = message(
            CALL,
            serial,
            fields,
            signature,
            values,
            flags=flags,
            order=order,
            body=body,
            strange=strange,
        )
        self.send(data, fds)
        return serial

    def call_bus(self, member: str, signature: str = "", *values: Any) -> int:
        path = "/org/freedesktop/DBus"
        return self.call(path, DRIVER, member, signature, *values, destination=DRIVER)

    def ask(self, path: str, interface: str | None, member: str, *rest: Any, **more: Any) -> Any:
        """Calls and waits. Returns the reply's only value, raises CallError for an error."""
        return self.answer(self.call(path, interface, member, *rest, **more)).value

    def answer(self, serial: int, timeout: float = WAIT_SECONDS) -> Heard:
        deadline = time.monotonic() + timeout
        while serial not in self._answers:
            self._hear(deadline)
        return self._answers.pop(serial)

    def in_turn(self, calls: Iterable[tuple[Any, ...]], under_way: int = 100) -> Iterator[Heard]:
        """Makes many calls, so many at once: the bus allows 128. Yields the answers in order."""
        serials: collections.deque[int] = collections.deque()
        for arguments in calls:
            if len(serials) == under_way:
                yield self.answer(serials.popleft())
            serials.append(self.call(*arguments))
        for serial in serials:
            yield self.answer(serial)

    def has_answer(self, serial: int) -> bool:
        """Whether the answer is among what the bus has sent so far."""
        self.answer(self.call_bus("GetId"))
        return serial in self._answers

    def signal(self, member: str, timeout: float = WAIT_SECONDS) -> Heard:
        """The next signal of that name; others before it are dropped."""
        deadline = time.monotonic() + timeout
        while True:
            while self.signals:
                heard = self.signals.pop(0)
                if heard.member == member:
                    return heard
            self._hear(deadline)

    def next_call(self, timeout: float = WAIT_SECONDS) -> Heard:
        """The next call that somebody made to us."""
        deadline = time.monotonic() + timeout
        while not self.calls:
            self._hear(deadline)
        return self.calls.pop(0)

    def reply(self, to: Heard, signature: str = "", *values: Any, error: str = "") -> None:
        fields: dict[int, Any] = {REPLY_SERIAL: to.serial, DESTINATION: to.sender}
        if error:
            fields[ERROR_NAME] = error
        kind = ERROR if error else RETURN
        self.send(message(kind, self.next_serial(), fields, signature, values, flags=NO_REPLY))

    def emit(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *values: Any,
        destination: str | None = None,
    ) -> None:
        """Sends a signal, to everybody or to one."""
        fields: dict[int, Any] = {PATH: path, INTERFACE: interface, MEMBER: member}
        if destination is not None:
            fields[DESTINATION] = destination
        self.send(message(SIGNAL, self.next_serial(), fields, signature, values))

    def is_cut_off(self, timeout: float = WAIT_SECONDS) -> bool:
        """Waits until the bus ends the connection; False when time is over."""
        deadline = time.monotonic() + timeout
        try:
            while True:
                self._hear(deadline)
        except TimeoutError:
            return False
        except (ConnectionError, EOFError):
            return True

    def close(self) -> None:
        self.sock.close()

    def _hear(self, deadline: float) -> None:
        while (heard := self._parse()) is None:
            self._more(deadline)
        if heard.kind == SIGNAL:
            self.signals.append(heard)
        elif heard.kind == CALL:
            self.calls.append(heard)
        else:
            self._answers[heard.fields[REPLY_SERIAL]] = heard

    def _more(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("nothing came in time")
        self.sock.settimeout(left)
        data, fds, _, _ = socket.recv_fds(self.sock, 1 << 18, 64)
        for fd in fds:
            os.close(fd)
        if not data:
            raise EOFError("the bus closed the connection")
        self._input += data

    def _parse(self) -> Heard | None:
        data = self._input
        if len(data) < 16:
            return None
        order = "<" if data[:1] == b"l" else ">"
        body_size, serial, fields_size = struct.unpack_from(order + "III", data, 4)
        start = 16 + fields_size + (-fields_size % 8)
        if len(data) < start + body_size:
            return None
        whole = bytes(data[: start + body_size])
        del data[: len(whole)]
        entries, _ = _take(whole[: 16 + fields_size], 12, "a(yv)", order)
        fields = {code: variant.value for code, variant in entries}
        body = unmarshal(fields.get(SIGNATURE, ""), whole[start:], order)
        return Heard(whole[1], fields, body, len(whole), serial)


# --- Many ----------------------------------------------------------------------------------------

OPENER = """
import array, socket, sys
number, path, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
back = socket.socket(fileno=number)
while count:
    batch = []
    for _ in range(min(count, %d)):
        batch.append(socket.socket(socket.AF_UNIX))
        batch[-1].connect(path)
    rights = array.array("i", [one.fileno() for one in batch])
    back.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    count -= len(batch)
    for one in batch:
        one.close()
back.recv(1)  # stays, for polkit looks at the process, until the test is done
"""


class Crowd:
    """Connections of one user, all from one process, whose pid is `pid`."""

    def __init__(
        self, machine: Machine, user: str, count: int = 1, *, log_in: bool = True, fds: bool = True
    ) -> None:
        here, there = socket.socketpair()
        self._socket = here
        self.user = user
        opener = [sys.executable, "-I", "-S", "-c", OPENER % BATCH]
        with there:
            self.process = machine.popen(
                [*opener, str(there.fileno()), "/run/dbus/system_bus_socket", str(count)],
                user=user,
                pass_fds=[there.fileno()],
                stderr=subprocess.PIPE,
            )
        self.all: list[Raw] = []
        while len(self.all) < count:
            _, numbers, _, _ = socket.recv_fds(here, 1, BATCH)
            if not numbers:
                assert self.process.stderr is not None
                raise RuntimeError(self.process.stderr.read().decode())
            self.all += [Raw(socket.socket(fileno=number)) for number in numbers]
        if log_in:
            for one in self.all:
                one.begin_log_in(machine.uid(user), descriptors=fds)
            for one in self.all:
                one.end_log_in()

    @property
    def pid(self) -> int:
        return self.process.pid

    def __iter__(self) -> Iterator[Raw]:
        return iter(self.all)

    def __getitem__(self, number: int) -> Raw:
        return self.all[number]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        """The process dies, and its connections with it."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        for one in self.all:
            one.close()
        with contextlib.suppress(OSError):
            self._socket.close()
        self.process.wait(WAIT_SECONDS)
        if self.process.stderr is not None:
            self.process.stderr.close()

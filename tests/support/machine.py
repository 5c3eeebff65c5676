"""A machine for tests: a real system bus, real polkit, real users, and nothing of the host changed.

    with Machine() as machine:
        machine.start_daemon()
        alice = machine.client("alice")
        reply = alice.call("/org/mapipc/Store", "org.mapipc.Store", "Set", "ss", "key", "value")

All of it lives in a mount namespace of its own, with stock limits and the *shipped* bus policy and
polkit actions. No process namespace: pids are those of the host, so that polkit, the bus and a test
mean the same process by the same number. Nothing here waits by sleeping.

What to know before writing a test (each of these was measured):

* uid 0 is always allowed by polkit, and its rules are not asked. Test denials as alice or bob.
* Nobody here has a session, so `allow_any` applies, as for ssh, cron and services.
* polkit refuses a service that is not root and not owner of the action ("Only trusted callers").
  The mock (`polkit="mock"`) does not know this rule, nor challenges: use it for delays only.
* The shipped policy stops calls without an interface and signals addressed to the daemon before
  they arrive. A test of the daemon's own defence against these needs `add_policy(OPEN_POLICY)`.
* dbus-daemon ignores a bad policy file as a whole and says so in `dbus_log()` only.
* `/root` and other closed directories on the way to the interpreter or to the repository are
  covered inside, and only these two shown; a test's own `tmp_path` is not: use `machine.tmp`.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import grp
import itertools
import json
import os
import pathlib
import pwd
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Literal, Self

from support import caller

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SUPPORT = pathlib.Path(__file__).resolve().parent
BUS_NAME = "org.buswork"
POLKIT_NAME = "org.freedesktop.PolicyKit1"
SERVICE_USER = "buswork"
# Of the process that looks into viewed processes; see start_appview.
APPVIEW_NAME, APPVIEW_USER = "org.buswork.AppView", "buswork-appview"
APPVIEW_CAPABILITIES = ("sys_ptrace", "sys_admin", "chown", "fowner")

# Bounds for a busy CI machine. Whatever is waited for arrives within milliseconds.
START_SECONDS = 10.0
CALL_SECONDS = 25.0

# A user's number must be free on the host and outside of what systemd hands out by itself.
FIRST_UID = 54_000

POLKITD_PLACES = (
    "/usr/lib/polkit-1/polkitd",
    "/usr/libexec/polkitd",
    "/usr/libexec/polkit-1/polkitd",
)

# Lets everything through to org.buswork, for tests of what the daemon does without the policy.
OPEN_POLICY = """\
<busconfig>
  <policy context="mandatory">
    <allow send_destination="org.buswork"/>
  </policy>
</busconfig>
"""


class MachineError(Exception):
    """The machine itself did not do what was asked of it; the text has the log that tells why."""


class CallError(Exception):
    """An error reply to a call that a Client made."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text


# --- Can it run here? ---------------------------------------------------------------------------


def polkitd_path() -> str | None:
    return next((place for place in POLKITD_PLACES if os.access(place, os.X_OK)), None)


def has_dbusmock() -> bool:
    return os.path.isdir("/usr/lib/python3/dist-packages/dbusmock")


@functools.cache
def why_not(
    bus: Literal["daemon", "broker"] = "daemon",
    polkit: Literal["real", "mock", "none"] = "real",
) -> str | None:
    """Why no Machine can run here, in one line; None if it can."""
    if os.geteuid() != 0:
        return "tier 2 (real bus and polkit) needs root"
    programs = ["nsenter", "setpriv", "bash", "dbus-daemon" if bus == "daemon" else "dbus-broker"]
    missing = [program for program in programs if shutil.which(program) is None]
    if polkit == "real" and polkitd_path() is None:
        missing.append("polkitd")
    if polkit == "mock" and not has_dbusmock():
        missing.append("python3-dbusmock")
    if missing:
        return f"tier 2 (real bus and polkit) needs {', '.join(missing)}: not installed"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        return f"tier 2 (real bus and polkit) needs a mount namespace: {tried.stderr.strip()}"
    return None


def which_tiers_run() -> dict[str, str | None]:
    """Each kind of Machine with the reason why it can't run here, or None."""
    return {
        "dbus-daemon, real polkit": why_not(),
        "dbus-broker, real polkit": why_not(bus="broker"),
        "dbus-daemon, mock polkit": why_not(polkit="mock"),
    }


# --- The harness's own connection to the bus ------------------------------------------------------


@dataclass
class Heard:
    """A message that arrived, as far as the harness reads it."""

    kind: int
    fields: dict[int, Any]
    body: list[Any]

    INTERFACE, MEMBER, ERROR, REPLY_SERIAL, SENDER, SIGNATURE = 2, 3, 4, 5, 7, 8

    @property
    def member(self) -> str:
        return str(self.fields.get(self.MEMBER, ""))

    @property
    def sender(self) -> str:
        return str(self.fields.get(self.SENDER, ""))


class Line:
    """A blocking connection of root that speaks to the bus driver only, with strings only.

    Written out by hand so that the harness depends neither on the library under test nor on an
    event loop, and can wait for a signal and for the end of a process at once.
    """

    RETURN, ERROR, SIGNAL = 2, 3, 4

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(START_SECONDS)
        self._socket.connect(path)
        self._socket.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode())
        self._socket.sendall(b"\r\nBEGIN\r\n")
        self._input = bytearray()
        while b"\r\n" not in self._input:
            self._more()
        answer, _, self._input = self._input.partition(b"\r\n")
        if not answer.startswith(b"OK"):
            raise MachineError(f"the bus refused root: {answer!r}")
        self._serial = 0
        self._signals: collections.deque[Heard] = collections.deque()
        self.name = self.call("Hello")[0]

    def close(self) -> None:
        self._socket.close()

    def call(self, member: str, *arguments: str) -> list[Any]:
        """Calls a method of the bus driver. Raises CallError for an error reply."""
        driver = "org.freedesktop.DBus"
        return self._call(driver, "/org/freedesktop/DBus", driver, member, arguments)

    def ping(self, name: str) -> None:
        """Returns when a service has dealt with what it was sent before."""
        self._call(name, "/", "org.freedesktop.DBus.Peer", "Ping", ())

    def _call(
        self, destination: str, path: str, interface: str, member: str, arguments: Sequence[str]
    ) -> list[Any]:
        self._serial += 1
        body = b""
        for argument in arguments:
            raw = argument.encode()
            body += b"\0" * (-len(body) % 4) + struct.pack("<I", len(raw)) + raw + b"\0"
        fields = b""
        for code, kind, value in (
            (1, "o", path),
            (2, "s", interface),
            (3, "s", member),
            (6, "s", destination),
            (8, "g", "s" * len(arguments)),
        ):
            raw = value.encode()
            fields += b"\0" * (-len(fields) % 8) + bytes((code, 1)) + kind.encode() + b"\0"
            fields += bytes((len(raw),)) if kind == "g" else struct.pack("<I", len(raw))
            fields += raw + b"\0"
        head = struct.pack("<cBBBIII", b"l", 1, 0, 1, len(body), self._serial, len(fields))
        self._socket.sendall(head + fields + b"\0" * (-len(fields) % 8) + body)
        deadline = time.monotonic() + START_SECONDS
        while True:
            heard = self._next(deadline)
            if heard is None:
                raise MachineError(f"the bus did not answer {member}")
            if heard.kind == self.SIGNAL:
                self._signals.append(heard)
            elif heard.fields.get(Heard.REPLY_SERIAL) == self._serial:
                if heard.kind == self.ERROR:
                    text = str(heard.body[0]) if heard.body else ""
                    raise CallError(str(heard.fields[Heard.ERROR]), text)
                return heard.body

    def owner(self, name: str) -> str:
        """The unique name behind a well-known one; empty if nobody has it."""
        try:
            return str(self.call("GetNameOwner", name)[0])
        except CallError:
            return ""

    def forget(self) -> None:
        """Drops the signals that have arrived so far."""
        self.call("GetId")
        self._signals.clear()

    def wait(
        self, wanted: Callable[[Heard], bool], timeout: float, process: Process | None = None
    ) -> bool:
        """Waits for a signal; False when time is over or `process` ended before it came."""
        deadline = time.monotonic() + timeout
        while True:
            while self._signals:
                if wanted(self._signals.popleft()):
                    return True
            heard = self._next(deadline, process)
            if heard is None:
                return False
            if heard.kind == self.SIGNAL:
                self._signals.append(heard)

    def _next(self, deadline: float, process: Process | None = None) -> Heard | None:
        watch = os.pidfd_open(process.pid) if process and process.poll() is None else None
        try:
            while (heard := self._parse()) is None:
                if process is not None and watch is None:
                    return None
                left = max(0.0, deadline - time.monotonic())
                sources = [self._socket.fileno()] + ([] if watch is None else [watch])
                if self._socket.fileno() in select.select(sources, [], [], left)[0]:
                    self._more()
                else:
                    return None
            return heard
        finally:
            if watch is not None:
                os.close(watch)

    def _more(self) -> None:
        piece = self._socket.recv(1 << 16)
        if not piece:
            raise MachineError("the bus closed the harness's connection")
        self._input += piece

    def _parse(self) -> Heard | None:
        data = self._input
        if len(data) < 16:
            return None
        order = "<" if data[0:1] == b"l" else ">"
        kind = data[1]
        body_size, _serial, fields_size = struct.unpack_from(order + "III", data, 4)
        start = 16 + fields_size + (-fields_size % 8)
        if len(data) < start + body_size:
            return None
        fields: dict[int, Any] = {}
        at = 16
        while at < 16 + fields_size:
            at += -at % 8
            code, kind_of_value = data[at], chr(data[at + 2])
            fields[code], at = self._value(order, data, at + 4, kind_of_value)
        body: list[Any] = []
        at = 0
        content = bytes(data[start : start + body_size])
        for kind_of_value in str(fields.get(Heard.SIGNATURE, "")):
            if kind_of_value not in "sogu":
                break  # nothing that the harness asks for
            value, at = self._value(order, content, at, kind_of_value)
            body.append(value)
        del self._input[: start + body_size]
        return Heard(kind, fields, body)

    @staticmethod
    def _value(order: str, data: bytes | bytearray, at: int, kind: str) -> tuple[Any, int]:
        if kind == "g":
            size = data[at]
            return data[at + 1 : at + 1 + size].decode(), at + size + 2
        at += -at % 4
        (number,) = struct.unpack_from(order + "I", data, at)
        if kind == "u":
            return number, at + 4
        return data[at + 4 : at + 4 + number].decode(), at + 4 + number + 1


# --- What runs on a machine -----------------------------------------------------------------------

Process = subprocess.Popen[Any]


class Notifications:
    """The socket behind $NOTIFY_SOCKET, as systemd has it: states, and descriptors to keep.

    A thread reads it, because a full one would stop the daemon.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        os.chmod(path, 0o666)
        self._changed = threading.Condition()
        self.lines: list[str] = []
        self.stored: list[tuple[str, int]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 16, 256)
            except OSError:
                return
            if not data and not descriptors:
                return
            lines = data.decode(errors="replace").splitlines()
            with self._changed:
                self._keep(lines, descriptors)
                self.lines += lines
                self._changed.notify_all()

    def _keep(self, lines: list[str], descriptors: list[int]) -> None:
        values = dict(line.split("=", 1) for line in lines if "=" in line)
        name = values.get("FDNAME", "stored")
        if "FDSTOREREMOVE" in values:
            for entry in [entry for entry in self.stored if entry[0] == name]:
                self.stored.remove(entry)
                os.close(entry[1])
        elif "FDSTORE" in values:
            self.stored += [(name, descriptor) for descriptor in descriptors]
        else:
            for descriptor in descriptors:  # BARRIER=1: closing is the answer
                os.close(descriptor)

    def wait(self, line: str, timeout: float, process: Process) -> bool:
        """Waits for a line such as READY=1; False when time is over or the process ended."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while line not in self.lines:
                left = deadline - time.monotonic()
                if left <= 0 or process.poll() is not None:
                    return line in self.lines
                # The end of a process makes no noise here, so it is looked for now and then.
                self._changed.wait(min(left, 0.05))
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)  # wakes the thread
        self._socket.close()
        for _, descriptor in self.stored:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.stored.clear()


@dataclass
class Daemon:
    """A running daemon with what it said to the service manager and to its log."""

    process: Process
    notifications: Notifications
    log_path: pathlib.Path
    was_killed: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """What it has written so far; what it logs now may come a moment later."""
        return self.log_path.read_text(errors="replace")

    def says(self, words: str, timeout: float = START_SECONDS) -> str:
        """The log, once these words are in it: a thread writes it, in order."""
        deadline = time.monotonic() + timeout
        while words not in (log := self.log()):
            if time.monotonic() > deadline:
                raise MachineError(f"the daemon never said {words!r}; its log:\n{log}")
            time.sleep(0.005)
        return log

    def stop(self, timeout: float = START_SECONDS) -> int:
        """Asks it to end, as systemctl stop does, and returns its status."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        return self.process.wait(timeout)

    def kill(self) -> None:
        self.was_killed = True
        self.process.kill()
        self.process.wait()


@dataclass
class Reply:
    """The reply to a call. `fds` belong to whoever reads it; `h` values are places in `fds`."""

    signature: str
    body: list[Any]
    fds: list[int] = field(default_factory=list)

    @property
    def value(self) -> Any:
        """The only value of the reply; None for an empty one. An `h` is the descriptor itself."""
        if not self.body:
            return None
        assert len(self.body) == 1, self
        return self.fds[self.body[0]] if self.signature == "h" else self.body[0]


@dataclass(frozen=True)
class Variant:
    """A variant in what a Client sends or receives."""

    signature: str
    value: Any


@dataclass(frozen=True)
class Signal:
    """A signal that a Client received."""

    sender: str
    destination: str | None
    path: str
    interface: str
    member: str
    body: list[Any]


class Client:
    """A connection to the bus in a process of its own, as a user of the machine.

    It reads from the bus for as long as the test takes what it read, and some 200 kB more: one
    that is left alone is a slow reader. `freeze` makes it one at once."""

    INTERACTIVE = 0x4
    NO_REPLY = 0x1

    def __init__(self, machine: Machine, user: str) -> None:
        self.user = user
        here, there = socket.socketpair()
        self._socket = here
        self._socket.settimeout(CALL_SECONDS + 5)
        with there:
            self.process = machine.popen(
                [sys.executable, str(SUPPORT / "caller.py"), str(there.fileno())],
                user=user,
                pass_fds=[there.fileno()],
            )
        self._numbers = itertools.count(1)
        self._answers: dict[int, tuple[dict[str, Any], list[int]]] = {}
        self._signals: collections.deque[Signal] = collections.deque()
        self.name = str(caller.receive(self._socket)[0]["name"])

    @property
    def pid(self) -> int:
        return self.process.pid

    def call(
        self,
        path: str,
        interface: str | None,
        member: str,
        signature: str = "",
        *arguments: Any,
        destination: str = BUS_NAME,
        interactive: bool = False,
        timeout: float = CALL_SECONDS,
        fds: Sequence[int] = (),
    ) -> Reply:
        """Calls a method and waits. Raises CallError for an error reply, TimeoutError for none."""
        ticket = self.begin(
            path,
            interface,
            member,
            signature,
            *arguments,
            destination=destination,
            flags=self.INTERACTIVE if interactive else 0,
            fds=fds,
        )
        return self.end(ticket, timeout)

    def begin(
        self,
        path: str,
        interface: str | None,
        member: str,
        signature: str = "",
        *arguments: Any,
        destination: str | None = BUS_NAME,
        flags: int = 0,
        kind: Literal["METHOD_CALL", "SIGNAL"] = "METHOD_CALL",
        fds: Sequence[int] = (),
    ) -> int:
        """Sends a call (or a signal) and returns at once, with a ticket for `end`."""
        number = next(self._numbers)
        request = {
            "number": number,
            "type": kind,
            "flags": flags,
            "destination": destination,
            "path": path,
            "interface": interface,
            "member": member,
            "signature": signature,
            "body": caller.plain(list(arguments)),
        }
        try:
            caller.send(self._socket, request, list(fds))
        except ConnectionError:
            raise self._gone() from None
        return number

    def end(self, ticket: int, timeout: float = CALL_SECONDS) -> Reply:
        """The reply to what `begin` sent."""
        deadline = time.monotonic() + timeout
        while ticket not in self._answers:
            if not self._hear(deadline):
                raise TimeoutError(f"no reply within {timeout} s")
        answer, descriptors = self._answers.pop(ticket)
        if "broken" in answer:
            raise MachineError(f"the caller of {self.user} failed: {answer['broken']}")
        body = caller.rich(answer["body"], Variant)
        if answer.get("error"):
            raise CallError(answer["error"], str(body[0]) if body else "")
        return Reply(answer["signature"], body, descriptors)

    def answered(self, ticket: int) -> bool:
        """Whether the reply is here already."""
        while self._hear(0.0):
            pass
        return ticket in self._answers

    def get(self, path: str, interface: str, name: str) -> Any:
        """A property's value."""
        properties = "org.freedesktop.DBus.Properties"
        return self.call(path, properties, "Get", "ss", interface, name).value.value

    def emit(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *arguments: Any,
        destination: str | None = None,
    ) -> None:
        """Sends a signal, to everybody or to one."""
        self.begin(
            path,
            interface,
            member,
            signature,
            *arguments,
            destination=destination,
            kind="SIGNAL",
        )

    def bus(self, member: str, signature: str = "", *arguments: Any) -> Reply:
        """Calls a method of the bus driver."""
        name = "org.freedesktop.DBus"
        path = "/org/freedesktop/DBus"
        return self.call(path, name, member, signature, *arguments, destination=name)

    def add_match(self, rule: str) -> None:
        self.bus("AddMatch", "s", rule)

    def request_name(self, name: str, flags: int = 0x4) -> int:
        """1: the name is ours; 3: somebody else has it (flags 0x4: do not queue)."""
        return int(self.bus("RequestName", "su", name, flags).value)

    def wait_signal(self, member: str, timeout: float = CALL_SECONDS) -> Signal:
        """The next signal of that name, earlier ones included; others before it are dropped."""
        deadline = time.monotonic() + timeout
        while True:
            while self._signals:
                heard = self._signals.popleft()
                if heard.member == member:
                    return heard
            if not self._hear(deadline):
                raise TimeoutError(f"no signal {member} within {timeout} s")

    def signals(self) -> list[Signal]:
        """The signals that have arrived, in order; the next time only newer ones.

        The bus greets every caller with NameAcquired, which some hear and some just miss.
        """
        with contextlib.suppress(CallError):
            self.bus("GetId")  # whatever the bus sent before its answer is here now
        found = [signal for signal in self._signals if signal.member != "NameAcquired"]
        self._signals.clear()
        return found

    def _hear(self, deadline: float) -> bool:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([self._socket], [], [], left)[0]:
            return False
        try:
            heard, descriptors = caller.receive(self._socket)
        except (EOFError, ConnectionError):
            raise self._gone() from None
        if "answer" in heard:
            self._answers[heard["answer"]] = heard, descriptors
            return True
        for descriptor in descriptors:
            os.close(descriptor)
        event = heard["signal"]
        self._signals.append(
            Signal(
                event["sender"],
                event["destination"],
                event["path"],
                event["interface"],
                event["member"],
                caller.rich(event["body"], Variant),
            )
        )
        return True

    def _gone(self) -> MachineError:
        return MachineError(f"the caller of {self.user} has left the bus")

    def close(self) -> None:
        """Leaves the bus in good order."""
        self.hang_up()
        self.process.wait(START_SECONDS)

    def freeze(self) -> None:
        """Reads nothing more, until thaw."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Dies without a word."""
        self.process.kill()
        self.process.wait()
        self.hang_up()

    def hang_up(self) -> None:
        """What close does, without waiting for the end; descriptors nobody took are closed."""
        self._socket.close()
        for _, descriptors in self._answers.values():
            for descriptor in descriptors:
                os.close(descriptor)
        self._answers.clear()


# --- The machine ----------------------------------------------------------------------------------


class Machine:
    """See the top of this file. A context manager; all that it started ends with it."""

    def __init__(
        self,
        *,
        bus: Literal["daemon", "broker"] = "daemon",
        polkit: Literal["real", "mock", "none"] = "real",
        users: Sequence[str] = ("alice", "bob"),
        groups: Mapping[str, Sequence[str]] | None = None,
        policies: Sequence[str] = (),
        activation: Mapping[str, str] | None = None,
        rules: Sequence[str] = (),
    ) -> None:
        """groups: more groups with their members. policies: host policy files to have besides
        polkit's, by name (org.freedesktop.login1.conf for a mock of logind). activation: D-Bus
        activation files, name to text. rules: polkit rules that are there from the start."""
        self.bus_kind = bus
        self.polkit_kind = polkit
        self._users = list(users)
        self._groups = dict(groups or {})
        self._policies = list(policies)
        self._activation = dict(activation or {})
        self._rules = list(rules)
        self._numbers = itertools.count(1)
        self._processes: list[Process] = []
        self._notifications: list[Notifications] = []
        self._clients: list[Client] = []
        self._files: list[IO[bytes]] = []
        self._line: Line | None = None
        self._bus: Process | None = None
        self._polkit: Process | None = None
        self._guardian: Process | None = None
        self._uids: dict[str, int] = {"root": 0}

    # Set up and clear away

    def __enter__(self) -> Self:
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="buswork-machine-"))
        try:
            self.base.chmod(0o755)
            self._start_guardian(self._furnish())
            self.start_bus()
            if self.polkit_kind != "none":
                self.start_polkit()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.hang_up()
        if self._line is not None:
            self._line.close()
        if self._bus is not None and self._bus.poll() is None:
            self._end_bus()
        if self._guardian is not None:
            assert self._guardian.stdin is not None
            self._guardian.stdin.close()  # ends everything, see guardian.py
            self._processes.append(self._guardian)
            self._guardian.wait()
            self._guardian = None
        for process in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        for notifications in self._notifications:
            notifications.close()
        for file in self._files:
            file.close()
        shutil.rmtree(self.base, ignore_errors=True)

    def _furnish(self) -> dict[str, list[list[str]]]:
        """Writes what the machine has of its own, and says what goes where."""
        base = self.base
        for name in ("run", "etc-dbus/system.d", "policy", "services", "actions", "journal"):
            (base / name).mkdir(parents=True)
        self.tmp = base / "tmp"
        self.tmp.mkdir()
        self.tmp.chmod(0o1777)
        bound = [
            ("run", "/run/dbus"),
            ("journal", "/run/systemd/journal"),
            ("etc-dbus", "/etc/dbus-1"),
            ("policy", "/usr/share/dbus-1/system.d"),
            ("services", "/usr/share/dbus-1/system-services"),
        ]
        self._write_users()
        bound += [("passwd", "/etc/passwd"), ("group", "/etc/group")]
        for policy in (REPOSITORY / "dbus").glob("*.conf"):
            shutil.copyfile(policy, base / "policy" / policy.name)
        for name in [f"{POLKIT_NAME}.conf", *self._policies]:
            stock = pathlib.Path("/usr/share/dbus-1/system.d", name)
            if stock.exists():
                shutil.copyfile(stock, base / "policy" / name)
        for name, text in self._activation.items():
            (base / "services" / name).write_text(text)
        for action in (REPOSITORY / "polkit").glob("*.policy"):
            shutil.copyfile(action, base / "actions" / action.name)
        if polkitd_path() is not None:
            polkitd = pwd.getpwnam("polkitd")
            for name, target in (("rules", "/etc"), ("rules-stock", "/usr/share")):
                (base / name).mkdir(0o700)
                os.chown(base / name, polkitd.pw_uid, polkitd.pw_gid)
                bound.append((name, f"{target}/polkit-1/rules.d"))
            bound.append(("actions", "/usr/share/polkit-1/actions"))
            stock = pathlib.Path("/usr/share/polkit-1/rules.d/50-default.rules")
            if stock.exists():
                shutil.copyfile(stock, base / "rules-stock" / stock.name)
            for rule in self._rules:
                self._write_rule(rule)
        return {
            "reveal": [list(entry) for entry in _closed_places()],
            "mkdir": [["/run/dbus"], ["/run/systemd/journal"], ["/run/buswork"]],
            "bind": [[str(base / source), target] for source, target in bound],
        }

    def _write_users(self) -> None:
        taken = {entry.pw_uid for entry in pwd.getpwall()} | {e.gr_gid for e in grp.getgrall()}
        free = (uid for uid in itertools.count(FIRST_UID) if uid not in taken)
        # The host's own entries of these names, if buswork is installed here, give way to ours.
        ours = {SERVICE_USER, APPVIEW_USER, *self._users, *self._groups}
        passwd, group = (
            [line for line in _lines(f"/etc/{name}") if line.split(":", 1)[0] not in ours]
            for name in ("passwd", "group")
        )
        for user in [SERVICE_USER, APPVIEW_USER, *self._users]:
            uid = self._uids[user] = next(free)
            passwd.append(f"{user}:x:{uid}:{uid}::/nonexistent:/bin/sh")
            group.append(f"{user}:x:{uid}:")
        for name, members in self._groups.items():
            group.append(f"{name}:x:{next(free)}:{','.join(members)}")
        (self.base / "passwd").write_text("\n".join(passwd) + "\n")
        (self.base / "group").write_text("\n".join(group) + "\n")

    def _start_guardian(self, plan: dict[str, list[list[str]]]) -> None:
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", SUPPORT / "guardian.py", self.base, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests; the guardian cleans up after them
            cwd="/",
        )
        assert self._guardian.stdout is not None
        assert self._guardian.stderr is not None
        if self._guardian.stdout.readline() != b"ready\n":
            raise MachineError(self._guardian.stderr.read().decode())

    # Running things

    def uid(self, user: str) -> int:
        """The number of a user of this machine."""
        return self._uids[user] if user in self._uids else pwd.getpwnam(user).pw_uid

    def command(self, command: Sequence[str | os.PathLike[str]], user: str = "root") -> list[str]:
        """The command line that runs `command` inside, as `user`. The process keeps its pid."""
        assert self._guardian is not None, "the machine is not running"
        inside = ["nsenter", f"--mount=/proc/{self._guardian.pid}/ns/mnt", "--"]
        if user != "root":
            uid = str(self.uid(user))
            gid = uid if user in self._uids else str(pwd.getpwnam(user).pw_gid)
            inside += ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "--"]
        return inside + [os.fspath(part) for part in command]

    def environment(self, user: str = "root") -> dict[str, str]:
        """What a process inside gets: nothing of the tests' own but where the project is."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "USER": user,
            "LOGNAME": user,
            "HOME": "/nonexistent",
            "TMPDIR": str(self.tmp),
            "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY / 'tests'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def popen(
        self,
        command: Sequence[str | os.PathLike[str]],
        user: str = "root",
        *,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Process:
        """Starts a command inside, as `user`; options are Popen's. It ends with the machine.

        Its working directory is /. `env` is added to `environment`."""
        process: Process = subprocess.Popen(
            self.command(command, user), env=self.environment(user) | dict(env or {}), **options
        )
        self._processes.append(process)
        return process

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        user: str = "root",
        *,
        check: bool = True,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, as `user`, and returns its output; a failure shows all of it."""
        done = subprocess.run(
            self.command(command, user),
            env=self.environment(user) | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            input=stdin,
        )
        if check and done.returncode != 0:
            raise MachineError(
                f"{user}: {list(map(str, command))} ended with {done.returncode}\n"
                f"{done.stdout}{done.stderr}"
            )
        return done

    def client(self, user: str = "root") -> Client:
        """A connection to the bus as `user`."""
        client = Client(self, user)
        self._clients.append(client)
        return client

    def start_daemon(
        self,
        *arguments: str,
        user: str = SERVICE_USER,
        command: Sequence[str | os.PathLike[str]] | None = None,
        fds: Sequence[tuple[str, int]] = (),
        env: Mapping[str, str] | None = None,
        timeout: float = START_SECONDS,
        name: str = BUS_NAME,
    ) -> Daemon:
        """Starts the daemon as systemd would and waits for READY=1, and that it has its name.

        `command` runs something else instead (and `arguments` are then its own). `fds` are passed
        as systemd passes sockets and what a crashed daemon had stored (`notifications.stored`)."""
        number = next(self._numbers)
        path = self.base / f"notify-{number}"
        log_path = self.base / f"daemon-{number}.log"
        notifications = Notifications(str(path))
        self._notifications.append(notifications)
        if command is None:
            command = [sys.executable, "-m", "buswork.daemon", "--bus", "system"]
        extra = {"NOTIFY_SOCKET": str(path), **(env or {})}
        with log_path.open("wb") as log:
            process = self._popen_with_fds(
                [*command, *arguments], user, extra, fds, stdout=log, stderr=log
            )
        daemon = Daemon(process, notifications, log_path)
        if not notifications.wait("READY=1", timeout, process):
            status = process.poll()
            fate = "is not ready" if status is None else f"ended with {status}"
            raise MachineError(f"the daemon {fate}; its log:\n{daemon.log()}")
        if not self._bus_line().owner(name):
            raise MachineError(f"the daemon is ready without {name}; its log:\n{daemon.log()}")
        return daemon

    def start_appview(self, program: Sequence[str] = ()) -> Daemon:
        """Starts buswork-appview as systemd would: as its user, with its capabilities alone.

        `program` runs something else instead."""
        uid = self.uid(APPVIEW_USER)
        names = ",".join(f"+{name}" for name in APPVIEW_CAPABILITIES)
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        command += [f"--{kind}=-all,{names}" for kind in ("inh-caps", "ambient-caps")]
        command += [f"--bounding-set=-all,{names}", "--no-new-privs", "--"]
        command += program or [sys.executable, "-m", "buswork.appviewd", "--bus", "system"]
        return self.start_daemon(command=command, user="root", name=APPVIEW_NAME)

    def _popen_with_fds(
        self,
        command: Sequence[str | os.PathLike[str]],
        user: str,
        env: Mapping[str, str],
        fds: Sequence[tuple[str, int]],
        **options: Any,
    ) -> Process:
        if not fds:
            return self.popen(command, user, env=env, **options)
        # sd_listen_fds(3): from descriptor 3 on, and only the process itself knows LISTEN_PID.
        # First away from these numbers, so that no duplicate lands on one that is still needed.
        spare = [_duplicate_above(descriptor, 100) for _, descriptor in fds]
        moves = "".join(f" {at}<&{from_} {from_}<&-" for at, from_ in enumerate(spare, 3))
        script = f'export LISTEN_PID=$$; exec{moves}; exec "$@"'
        names = {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(name for name, _ in fds)}
        try:
            return self.popen(
                ["bash", "-c", script, "bash", *command],
                user,
                env={**env, **names},
                pass_fds=spare,
                **options,
            )
        finally:
            for descriptor in spare:
                os.close(descriptor)

    # The bus

    @property
    def socket_path(self) -> str:
        """The bus's socket, as seen from outside as well as from inside."""
        return str(self.base / "run" / "system_bus_socket")

    @property
    def address(self) -> str:
        """The bus's address, for the test process itself (which is root there)."""
        return f"unix:path={self.socket_path}"

    def start_bus(self) -> None:
        """Starts the bus; after kill_bus, once more on the same socket."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket_path)
        log = (self.base / "dbus.log").open("ab")
        self._files.append(log)
        if self.bus_kind == "daemon":
            self._start_dbus_daemon(log)
        else:
            self._start_broker(log)
        self._line = Line(self.socket_path)
        rule = "type='signal',sender='{}',interface='{}',member='{}'"
        for sender, interface, member in (
            ("org.freedesktop.DBus", "org.freedesktop.DBus", "NameOwnerChanged"),
            (POLKIT_NAME, f"{POLKIT_NAME}.Authority", "Changed"),
        ):
            self._line.call("AddMatch", rule.format(sender, interface, member))

    def _start_dbus_daemon(self, log: IO[bytes]) -> None:
        told, tell = os.pipe()
        with open(told, "rb") as ready:
            # The stock system.conf, with the limits that it has.
            self._bus = self.popen(
                [
                    "dbus-daemon",
                    "--system",
                    "--nofork",
                    "--nopidfile",
                    "--nosyslog",
                    f"--print-address={tell}",
                ],
                pass_fds=[tell],
                stdout=log,
                stderr=log,
            )
            os.close(tell)
            if not ready.readline():
                raise MachineError(f"dbus-daemon did not start:\n{self.dbus_log()}")

    def _start_broker(self, log: IO[bytes]) -> None:
        # dbus-broker-launch takes its socket from systemd and logs to the journal, or not at all.
        journal = self.base / "journal" / "socket"
        if not journal.exists():
            receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            receiver.bind(str(journal))
            threading.Thread(target=_read_journal, args=(receiver, log), daemon=True).start()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.socket_path)
            os.chmod(self.socket_path, 0o666)
            listener.listen(64)
            self._bus = self._popen_with_fds(
                ["dbus-broker-launch", "--scope", "system"],
                "root",
                {},
                [("dbus.socket", listener.fileno())],
                stdout=log,
                stderr=log,
            )

    def kill_bus(self) -> None:
        """Kills the bus: everybody loses the connection. `start_bus` gives a new one."""
        assert self._bus is not None
        if self._line is not None:
            self._line.close()
            self._line = None
        self._end_bus()

    def _end_bus(self) -> None:
        assert self._bus is not None
        if self.bus_kind == "daemon":
            self._bus.kill()
        else:  # the bus is its child, which it should collect itself
            for child in _children(self._bus.pid):
                os.kill(child, signal.SIGKILL)
        self._bus.wait()

    def add_policy(self, xml: str) -> None:
        """Adds a bus policy on top of the shipped one, and has the bus read it.

        A policy that the bus does not like would change nothing, so that raises MachineError."""
        before = self.complaints()
        path = self.base / "etc-dbus" / "system.d" / f"test-{next(self._numbers)}.conf"
        path.write_text(xml)
        self._bus_line().call("ReloadConfig")
        if after := self.complaints()[len(before) :]:
            raise MachineError("\n".join(after))

    def dbus_log(self) -> str:
        """What the bus wrote to its log."""
        return (self.base / "dbus.log").read_text(errors="replace")

    def complaints(self) -> list[str]:
        """What the bus did not like: a bad policy file shows here only."""
        # A container without CAP_SYS_RESOURCE can't raise the bus's limit; the rest is routine.
        harmless = (
            "Failed to set fd limit",
            "Reloaded configuration",
            "Ready",
            "Noticed file-system modification",
        )
        lines = self.dbus_log().splitlines()
        return [line for line in lines if not any(text in line for text in harmless)]

    def owner(self, name: str) -> str:
        """The unique name that has a well-known one; empty if none has."""
        return self._bus_line().owner(name)

    def wait_owner(self, name: str, *, owned: bool = True, timeout: float = START_SECONDS) -> str:
        """Waits until a name is owned (or no longer), and returns its owner."""
        return self._wait_owner(name, owned, timeout, None)

    def _wait_owner(self, name: str, owned: bool, timeout: float, process: Process | None) -> str:
        line = self._bus_line()
        line.forget()
        owner = line.owner(name)
        if bool(owner) is owned:
            return owner

        def wanted(heard: Heard) -> bool:
            match heard.member, heard.body:
                case "NameOwnerChanged", [changed, _, new]:
                    return bool(changed == name and bool(new) is owned)
            return False

        if not line.wait(wanted, timeout, process):
            state = "was not taken" if owned else "was not given back"
            raise MachineError(f"{name} {state} within {timeout} s")
        return line.owner(name)

    def _bus_line(self) -> Line:
        if self._line is None:
            raise MachineError("the bus of this machine is not running")
        return self._line

    # polkit

    def start_polkit(self) -> None:
        """Starts polkit and waits until it answers."""
        if self.polkit_kind == "mock":
            command = ["/usr/bin/python3", "-m", "dbusmock", "--system", "-t", "polkitd"]
            user = "polkitd"
        else:
            path = polkitd_path()
            assert path is not None
            command = [path, "--no-debug"]
            user = "root"
        with (self.base / "polkit.log").open("ab") as log:
            self._polkit = self.popen(
                command, user, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._wait_owner(POLKIT_NAME, True, START_SECONDS, self._polkit)
        except MachineError as error:
            raise MachineError(f"polkit did not start: {error}\n{self.polkit_log()}") from None

    def stop_polkit(self) -> None:
        """Ends polkit, frozen or not. Its temporary authorisations are gone with it."""
        assert self._polkit is not None
        self._polkit.kill()
        self._polkit.wait()
        self.wait_owner(POLKIT_NAME, owned=False)

    def restart_polkit(self) -> None:
        self.stop_polkit()
        self.start_polkit()

    def freeze_polkit(self) -> None:
        """polkit keeps its name and answers nothing, until thaw_polkit."""
        assert self._polkit is not None
        self._polkit.send_signal(signal.SIGSTOP)

    def thaw_polkit(self) -> None:
        assert self._polkit is not None
        self._polkit.send_signal(signal.SIGCONT)

    def polkit_log(self) -> str:
        path = self.base / "polkit.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def add_rule(self, javascript: str, name: str | None = None) -> str:
        """Adds a polkit rule and waits until polkit has read it. Returns the file's name.

        `name` sorts it among the others (it must end in .rules); an earlier rule wins."""
        with self._rules_change():
            return self._write_rule(javascript, name)

    def remove_rule(self, name: str) -> None:
        """Removes a rule that add_rule added, and waits until polkit has noticed."""
        with self._rules_change():
            (self.base / "rules" / name).unlink()

    @contextlib.contextmanager
    def _rules_change(self) -> Iterator[None]:
        assert self.polkit_kind == "real", "only a real polkit has rules"
        line = self._bus_line()
        line.forget()
        yield
        if not line.wait(lambda heard: heard.member == "Changed", START_SECONDS):
            raise MachineError(f"polkit did not notice the rules:\n{self.polkit_log()}")
        line.ping(POLKIT_NAME)  # it says Changed twice for a new file; now both have been said

    def _write_rule(self, javascript: str, name: str | None = None) -> str:
        name = name or f"10-test-{next(self._numbers):04}.rules"
        draft = self.base / name
        draft.write_text(javascript)
        draft.chmod(0o644)
        draft.rename(self.base / "rules" / name)  # polkit sees it whole or not at all
        return name

    def mock_polkit(self, member: str, signature: str = "", *arguments: str) -> None:
        """Calls a method of the mock: SetAllowed as 1 org..., AllowUnknown b true, SetDelay d 0.5,
        SimulateHang b true. Arguments are written as for busctl."""
        path = "/org/freedesktop/PolicyKit1/Authority"
        command = ["busctl", "--system", "call", POLKIT_NAME, path, "org.freedesktop.DBus.Mock"]
        self.run([*command, member, *([signature, *arguments] if signature else [])])


def _lines(path: str) -> list[str]:
    return pathlib.Path(path).read_text().splitlines()


def _children(pid: int) -> list[int]:
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def _duplicate_above(descriptor: int, lowest: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)


def _read_journal(receiver: socket.socket, log: IO[bytes]) -> None:
    """Writes the messages of journal entries to a log, one a line."""
    with receiver:
        while True:
            try:
                entry = receiver.recv(1 << 16)
            except OSError:
                return
            for line in entry.split(b"\n"):
                if line.startswith(b"MESSAGE="):
                    try:
                        log.write(line.removeprefix(b"MESSAGE=") + b"\n")
                        log.flush()
                    except ValueError:  # the machine is gone
                        return


def _closed_places() -> list[tuple[str, ...]]:
    """Directories that other users may not enter, each with what they need from within it.

    An interpreter under /root and a check-out under a closed home are the usual cases."""
    needed = {pathlib.Path(sys.base_prefix), pathlib.Path(sys.prefix), REPOSITORY}
    needed |= {path.resolve() for path in needed}
    places: dict[str, list[str]] = {}
    for path in sorted(needed):
        closed = next(
            (up for up in reversed(path.parents) if not up.stat().st_mode & 0o001),
            None,
        )
        if closed is None:
            continue
        wanted = places.setdefault(str(closed), [])
        if not any(path.is_relative_to(shown) for shown in wanted):
            wanted.append(str(path))
    return [(cover, *wanted) for cover, wanted in places.items()]

"""How fast messages between programs are: every goal, in one run.

    ./dev bench libipc [--quick] [--only PART ...] [--update-docs]

Needs a C compiler and dbus-daemon. Everything is started for the run and ends with it. Status 0:
every goal was met.
"""

import asyncio
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import timeit
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import report
from command import Part, run
from edge_rig import BUS_CONFIGURATION, HERE, SOURCES, BenchError, Process
from report import Goal, Result, Table
from store_reader import one_cpu
from store_sockets import daemon

from buswork.client import Client
from buswork.libipc.wire.forms import Assembler, Form, frame

METHOD = """\
An echo service in Python on `buswork.libipc`, and a server in C that sends back what it reads, and
knows of no messages: with one client its ping-pong is the unit. The same clients in C use both,
with one message in flight each; rounds take turns, and medians count: of rates, and of the ratios
in each round. Clients and server have one CPU, for else it is measured how virtual processors wake
each other. The originals' figures are not of this run: they were measured with the originals' own
servers (C libipc 0.7.2, `examples/pongd`; Zig libipc 0.1.0, the binding's echo loop) and a client
in C of the same kind, on a machine with two virtual CPUs that it shared; they vary by a factor of
two. Written by `./dev bench libipc --update-docs`."""

FORM, NAME = "c", "echo"
SIZES = {"2 B": 2, "1 KiB": 1 << 10, "64 KiB": 64 << 10}
CLIENTS = (1, 10)
IDLE = 2_000
HELD = 10_000
# What else a process has open.
SPARE_DESCRIPTORS = 200

# The originals' round trips per second, see METHOD: C, Zig.
ORIGINALS = {
    ("2 B", 1): ("6,703", "100,732"),
    ("2 B", 10): ("6,480", "82,867"),
    ("1 KiB", 1): ("6,536", "77,491"),
    ("1 KiB", 10): ("5,942", "79,566"),
    ("64 KiB", 1): ("6,452", "30,874, ended in 2 of 5 runs"),
    ("64 KiB", 10): ("6,489", "24,446, ended in 2 of 5 runs"),
}
ORIGINAL_RATE = 6_700
# Round trips per second with 0 and with 2,000 idle connections held.
ORIGINALS_IDLE = {"C": (4_441, 542), "Zig": (69_899, 683)}


ECHO_HEAD = (
    "payload", "clients", "buswork.libipc, /s", "p50 / p99, us", "the server in C, /s", "to it",
    "failed", "C original, elsewhere, /s", "Zig original, elsewhere, /s",
)  # fmt: skip


class Figures(NamedTuple):
    """What a run of clients found."""

    rate: float
    p50_us: float
    p99_us: float
    failed: int


class Runs:
    """The same again and again; of what others did meanwhile, medians know little."""

    def __init__(self) -> None:
        self._figures: list[Figures] = []

    def add(self, figures: Figures) -> None:
        self._figures.append(figures)

    def median(self, name: str) -> float:
        return statistics.median(getattr(figures, name) for figures in self._figures)

    @property
    def rate(self) -> str:
        return f"{self.median('rate'):,.0f}"

    @property
    def failed(self) -> int:
        return sum(figures.failed for figures in self._figures)

    def to(self, other: "Runs") -> float:
        """The ratio of the rates, of runs in the same round."""
        pairs = zip(self._figures, other._figures, strict=True)
        return statistics.median(ours.rate / theirs.rate for ours, theirs in pairs)


# -- programs --------------------------------------------------------------------------------------


class Rig:
    """A directory with the compiled programs, and what is started there."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self._stack = stack
        self._programs = {
            name: compiled(name, directory) for name in ("libipc_load", "libipc_echo")
        }

    def server_in_c(self) -> Path:
        """The path of its socket."""
        path = self.directory / "plain"
        self.ready([str(self._programs["libipc_echo"]), str(path)])
        return path

    def service(self) -> tuple[Path, Process]:
        """The service on buswork.libipc."""
        argv = [str(HERE / "libipc_service.py"), str(self.directory), FORM, NAME]
        return self.directory / NAME, self.ready([sys.executable, *argv])

    def clients(
        self, target: Path, size: int, clients: int, seconds: float, idle: int = 0
    ) -> Process:
        """Connected, and ready to begin."""
        return self._load([str(target), FORM, *map(str, (size, clients, seconds, idle))])

    def client_of(self, sock: socket.socket, size: int, seconds: float) -> Figures:
        """One client that has been connected by somebody else."""
        argv = [str(self._programs["libipc_load"]), f"fd:{sock.fileno()}", FORM]
        argv += [str(size), "1", str(seconds), "0"]
        done = subprocess.run(
            argv, input="\n", capture_output=True, text=True, pass_fds=[sock.fileno()], check=True
        )
        return Figures(**json.loads(done.stdout.splitlines()[-1]))

    def measure(
        self, target: Path, size: int, clients: int, seconds: float, idle: int = 0
    ) -> Figures:
        return begun(self.clients(target, size, clients, seconds, idle))

    def ready(self, argv: list[str]) -> Process:
        process = self.start(argv)
        if process.read_line() != "READY":
            raise BenchError(f"{argv} does not start: {(self.directory / 'log').read_text()}")
        return process

    def start(self, argv: list[str]) -> Process:
        process = Process(argv, self.directory / "log", dict(os.environ))
        self._stack.callback(process.stop)
        return process

    def _load(self, arguments: list[str]) -> Process:
        return self.ready([str(self._programs["libipc_load"]), *arguments])


def begun(clients: Process) -> Figures:
    """Lets them begin; what they found."""
    line = clients.ask()
    clients.stop()
    if not line:
        raise BenchError("the clients have ended without a word")
    return Figures(**json.loads(line))


def compiled(name: str, directory: Path) -> Path:
    program = directory / name
    flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra"]
    subprocess.run(["gcc", *flags, SOURCES / f"{name}.c", "-o", program], check=True)
    return program


@contextmanager
def open_rig() -> Iterator[Rig]:
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="buswork-bench-"))
        yield Rig(Path(name), stack)


@contextmanager
def descriptors(count: int) -> Iterator[bool]:
    """Whether programs that are started now may have so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_DESCRIPTORS
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
    except (ValueError, PermissionError):
        yield False
        return
    try:
        yield True
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- round trips -----------------------------------------------------------------------------------


def echo(quick: bool) -> Iterator[Result]:
    seconds, rounds = how_long(quick)
    runs: defaultdict[tuple[str, str, int], Runs] = defaultdict(Runs)
    with open_rig() as rig, one_cpu():
        targets = {"C": rig.server_in_c(), "service": rig.service()[0]}
        for _ in range(rounds):
            for title, size in SIZES.items():
                for clients in CLIENTS:
                    for key, target in targets.items():
                        figures = rig.measure(target, size, clients, seconds)
                        runs[key, title, clients].add(figures)
    goals, rows = [], []
    for title in SIZES:
        for clients in CLIENTS:
            ours = runs["service", title, clients]
            goals += echo_goals(title, clients, ours, runs["C", title, 1])
            rows.append(echo_row(title, clients, ours, runs["C", title, clients]))
    failed = sum(runs["service", "64 KiB", clients].failed for clients in CLIENTS)
    goals.append(Goal("clients that fail at 64 KiB, in all rounds", "0", f"{failed}", failed == 0))
    yield Result(goals, [Table("Round trips", ECHO_HEAD, rows)])


def how_long(quick: bool) -> tuple[float, int]:
    """Of a run, in seconds; and how many rounds."""
    return (0.3, 3) if quick else (0.5, 11)


def echo_goals(title: str, clients: int, ours: Runs, unit: Runs) -> list[Goal]:
    ratio = ours.to(unit)
    name = f"echo, {title}, {clients} client{'s' if clients > 1 else ''}"
    goals = [
        Goal(f"{name}, to one ping-pong in C", ">= 0.35 x", f"{ratio:.2f} x", ratio >= 0.35),
    ]
    if clients == 1:
        wanted = 2 * ORIGINAL_RATE
        goal = f">= {wanted:,}/s (2 x the C original, elsewhere)"
        goals.append(Goal(name, goal, f"{ours.rate}/s", ours.median("rate") >= wanted))
    return goals


def echo_row(title: str, clients: int, ours: Runs, same: Runs) -> list[str]:
    return [
        title,
        f"{clients}",
        ours.rate,
        f"{ours.median('p50_us'):,.0f} / {ours.median('p99_us'):,.0f}",
        same.rate,
        f"{ours.to(same):.2f} x",
        f"{ours.failed}",
        *ORIGINALS[title, clients],
    ]


# -- idle connections ------------------------------------------------------------------------------


def idle(quick: bool) -> Iterator[Result]:
    seconds, rounds = how_long(quick)
    alone, crowded = Runs(), Runs()
    name = f"what {IDLE:,} idle connections cost another client's rate"
    goal = "<= 10 %"
    with descriptors(IDLE) as allowed, open_rig() as rig, one_cpu():
        if not allowed:
            yield Result([Goal(name, goal)])
            return
        target, _ = rig.service()
        for _ in range(rounds):
            alone.add(rig.measure(target, 2, 1, seconds))
            crowded.add(rig.measure(target, 2, 1, seconds, IDLE))
    left = crowded.to(alone)
    lost = 100 * (1 - left)
    rows = [["buswork.libipc", alone.rate, crowded.rate, f"{left:.0%}"]]
    for original, rates in ORIGINALS_IDLE.items():
        kept = f"{rates[1] / rates[0]:.0%}"
        rows.append([f"{original} original, elsewhere", *(f"{rate:,}" for rate in rates), kept])
    head = ["", "nobody else, /s", f"{IDLE:,} idle, /s", "kept"]
    yield Result(
        [Goal(name, goal, f"{lost:.1f} %", lost <= 10)],
        [Table("One client beside idle ones, 2 B", head, rows)],
    )


# -- what Connect hands out ------------------------------------------------------------------------


def connect(quick: bool) -> Iterator[Result]:
    """With the server in C: the less a round trip takes, the more a difference would show."""
    seconds, rounds = how_long(quick)
    direct: defaultdict[str, Runs] = defaultdict(Runs)
    handed: defaultdict[str, Runs] = defaultdict(Runs)
    with open_rig() as rig, bus(rig) as address, one_cpu():
        target = rig.server_in_c()
        for _ in range(rounds):
            for title, size in SIZES.items():
                direct[title].add(rig.measure(target, size, 1, seconds))
                with handed_out(address, target.name) as sock:
                    handed[title].add(rig.client_of(sock, size, seconds))
    goals, rows = [], []
    for title in SIZES:
        ratio = handed[title].to(direct[title])
        figure = f"{title} over what Connect handed out, to a direct connection"
        goals.append(Goal(figure, ">= 0.95 x (equal)", f"{ratio:.2f} x", ratio >= 0.95))
        rows.append([title, direct[title].rate, handed[title].rate])
    table = Table("Round trips with the server in C", ["", "direct, /s", "Connect, /s"], rows)
    yield Result(goals, [table])


@contextmanager
def bus(rig: Rig) -> Iterator[str]:
    """A private bus with the daemon on it, whose run directory is the rig's: its address."""
    path = rig.directory / "bus"
    configuration = rig.directory / "bus.conf"
    configuration.write_text(BUS_CONFIGURATION.format(socket=path))
    started = rig.start(
        ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"]
    )
    started.read_line()
    address = f"unix:path={path}"
    sockets = rig.directory / "sockets"
    sockets.mkdir()
    with daemon(sockets, address, "--wings", "libipc", "--ipc-rundir", f"{FORM}={rig.directory}"):
        yield address


@contextmanager
def handed_out(address: str, name: str) -> Iterator[socket.socket]:
    async def ask() -> socket.socket:
        async with Client(address) as client:
            return await client.libipc.connect_socket(name)

    with asyncio.run(ask()) as sock:
        yield sock


# -- many connections ------------------------------------------------------------------------------


def held(quick: bool) -> Iterator[Result]:
    count = HELD // 10 if quick else HELD
    name = f"{count:,} connections held, and a client served beside them"
    with descriptors(count) as allowed, open_rig() as rig, one_cpu():
        if not allowed:
            yield Result([Goal(name, "served")])
            return
        target, service = rig.service()
        rig.measure(target, 2, 1, 0.1)  # what the first one takes is not the connection's
        before = service.resident_bytes()
        clients = rig.clients(target, 2, 1, 0.5, count)
        per_connection = (service.resident_bytes() - before) / count
        figures = begun(clients)
    served = f"{count:,} held; {figures.rate:,.0f} round trips/s"
    goal = Goal(name, "served", served, not figures.failed)
    rows = [["resident memory of the service per connection", f"{per_connection:,.0f} bytes"]]
    yield Result([goal], [Table("Many connections", ["figure", "measured"], rows)])


# -- the wire --------------------------------------------------------------------------------------


def wire(quick: bool) -> Iterator[Result]:
    """What a message takes before and after its system calls."""
    rows = []
    for form in Form:
        for title, size in SIZES.items():
            data = frame(form, bytes(size))
            assembler = Assembler(form)
            (message,) = assembler.feed(data)
            times = [
                nanoseconds(partial(assembler.feed, data), quick),
                nanoseconds(partial(frame, form, *message), quick),
            ]
            rows.append([f"form {form}, {title}", *(f"{time:,.0f}" for time in times)])
    head = ["one message", "a whole one read, ns", "one to be written, ns"]
    yield Result(tables=[Table("The wire alone", head, rows)])


def nanoseconds(call: Callable[[], object], quick: bool) -> float:
    number = 10_000 if quick else 50_000
    return min(timeit.repeat(call, number=number, repeat=7)) / number * 1e9


# -- the bench -------------------------------------------------------------------------------------

PARTS: dict[str, Part] = {
    "echo": echo,
    "idle": idle,
    "connect": connect,
    "held": held,
    "wire": wire,
}


def machine_facts() -> dict[str, str]:
    return report.machine_facts() | {"gcc": report.last_word("gcc", "--version")}


if __name__ == "__main__":
    sys.exit(run("libipc", __doc__, PARTS, METHOD, machine_facts))

"""The native sockets and the thin commands, beside what they are compared with. A part of store.py.

    PYTHONPATH=src:tests python tests/bench/store_sockets.py

* get and set with a connection for each request, by a client in C: busworkd on a private bus,
  and a server of the same shape in C, in turns.
* 20 clients that connect at once: how many are answered.
* 100,000 connections that are opened and left half open, over time.
* the whole time of `globstash get` (C, Python), `busctl call`, and `python3 -I -c pass`.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from edge_rig import BUS_CONFIGURATION
from report import Goal, Result, Table
from store_reader import one_cpu

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
ROUNDS = 5
SECONDS = 1.0
STARTS = 60
HALF_OPEN = 100_000
CLIENTS = 20
ORIGINAL = {"get": 23_300, "set": 22_648}  # peer figures: medians of another, shared machine
KEY, VALUE = "bench", "##########"  # digits of a number that is another one each time
REQUESTS = {
    "get": ("mapipc_get", KEY),
    "set": ("mapipc_set", f'{{\n    "key": "{KEY}",\n    "value": "{VALUE}"\n}}\n'),
}


def compile_c(directory: Path, source: Path) -> Path:
    program = directory / source.stem
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", f"-I{PROJECT / 'src/include'}"]
    subprocess.run(["cc", *flags, "-o", program, source], check=True)
    return program


@contextmanager
def running(
    argv: Sequence[str | Path], says: str, environment: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if says not in line:
            raise SystemExit(f"{argv[0]} said {line!r}")
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=10)


@contextmanager
def daemon(directory: Path, address: str, *options: str) -> Iterator[int]:
    """busworkd with its sockets in `directory`, ready: its pid."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
        notes.bind(str(directory / "notify"))
        notes.settimeout(10)
        environment = os.environ | {"NOTIFY_SOCKET": str(directory / "notify")}
        command = [sys.executable, "-m", "buswork.daemon", "--bus", address]
        process = subprocess.Popen(
            [*command, "--socket-dir", str(directory), "--log-level", "err", *options],
            env=environment,
        )
        try:
            while b"READY=1" not in notes.recv(4096):
                pass
            notes.settimeout(None)
            threading.Thread(target=drop, args=[notes], daemon=True).start()
            yield process.pid
        finally:
            process.terminate()
            process.wait(10)


def drop(notes: socket.socket) -> None:
    """Unread notes would hold up the daemon."""
    with suppress(OSError):
        while True:
            notes.recv(4096)


def rate(client: Path, directory: Path, kind: str) -> tuple[float, int]:
    name, request = REQUESTS[kind]
    done = subprocess.run(
        [client, directory / name, request, str(SECONDS)], capture_output=True, check=True
    )
    figures = json.loads(done.stdout)
    return figures["rate"], figures["lost"]


def rates(client: Path, unit: Path, contender: Path) -> Result:
    result = Result()
    rows = []
    for kind in REQUESTS:
        taken: dict[Path, list[float]] = {unit: [], contender: []}
        lost = 0
        for _ in range(ROUNDS):
            for place, samples in taken.items():
                one, missing = rate(client, place, kind)
                samples.append(one)
                lost += missing
        ours, theirs = (statistics.median(taken[place]) for place in (unit, contender))
        result.goals.append(
            Goal(
                f"native {kind}, connecting each time, to a server of the same shape in C",
                ">= 0.5 x",
                f"{ours / theirs:.2f} x",
                ours >= 0.5 * theirs and not lost,
            )
        )
        rows.append([kind, f"{ours:,.0f}", f"{theirs:,.0f}", f"{ORIGINAL[kind]:,}", str(lost)])
    head = ["request", "busworkd /s", "server in C /s", "the original, elsewhere, /s", "lost"]
    result.tables.append(Table("Native requests, a connection each, client in C", head, rows))
    return result


def answered_at_once(unit: Path) -> int:
    """All connect, then all send: the original answers 10 of 20."""
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(CLIENTS)]
        for client in clients:
            client.connect(str(unit / "mapipc_get"))  # waits where the line is full
            client.settimeout(2)
        for client in clients:
            client.send(KEY.encode())
        return sum(client.recv(100).startswith(b'{\n    "value"') for client in clients)


def half_open(unit: Path) -> tuple[float, float]:
    """Seconds for so many half-open connections, and of a get right after them."""
    kept: list[socket.socket] = []
    begin = time.perf_counter()
    for number in range(HALF_OPEN):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(unit / ("mapipc_get" if number % 2 else "mapipc_set")))
        kept.append(sock)
        if len(kept) > 200:
            kept.pop(0).close()
    taken = time.perf_counter() - begin
    begin = time.perf_counter()
    answered_at_once(unit)
    for sock in kept:
        sock.close()
    return taken, time.perf_counter() - begin


def start_times(commands: dict[str, list[str]], environment: dict[str, str]) -> dict[str, float]:
    """Median milliseconds of a whole process, in turns."""
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(STARTS):
        for name, command in commands.items():
            begin = time.perf_counter()
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            samples[name].append((time.perf_counter() - begin) * 1000)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def commands(tmp: Path, unit: Path, address: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    entry = tmp / "globstash.py"  # what the installed command is
    entry.write_text("import sys\nfrom buswork.thin.globstash import main\nsys.exit(main())\n")
    found = {
        "python3 -I -c pass": [sys.executable, "-I", "-c", "pass"],
        "globstash get (C)": [str(tmp / "globstash"), "get", KEY],
        "globstash get (Python)": [sys.executable, str(entry), "get", KEY],
    }
    if shutil.which("busctl"):
        call = ["call", "org.buswork", "/org/mapipc/Store", "org.mapipc.Store", "Get", "s", KEY]
        found["busctl call"] = ["busctl", f"--address={address}", *call]
    places = {name.upper(): str(unit / name) for name in ("mapipc_set", "mapipc_get")}
    return found, os.environ | places


def starts(times: dict[str, float]) -> Result:
    bare, program = times["python3 -I -c pass"], times["globstash get (Python)"]
    most = 1.3 * bare + 10
    goals = [
        Goal(
            "globstash get in Python, the whole process",
            f"<= {most:.1f} ms (1.3 x python3 -I -c pass, and 10 ms)",
            f"{program:.1f} ms",
            program <= most,
        )
    ]
    if "busctl call" in times:
        ratio = times["globstash get (C)"] / times["busctl call"]
        what = "globstash get in C, the whole process, to busctl call"
        goals.append(Goal(what, "<= 0.5 x", f"{ratio:.2f} x", ratio <= 0.5))
    rows = [[name, f"{taken:.2f}"] for name, taken in times.items()]
    return Result(goals, [Table("Whole processes", ["command", "ms"], rows)])


def crowd(unit: Path) -> Result:
    """Those who come at once, and those who never say what they came for."""
    count = answered_at_once(unit)
    goals = [
        Goal(f"{CLIENTS} clients at once", f"{CLIENTS} answered", str(count), count == CLIENTS)
    ]
    taken, after = half_open(unit)
    goals.append(
        Goal(
            f"{HALF_OPEN:,} half-open connections over time; then {CLIENTS} gets at once",
            "served",
            f"in {taken:.1f} s; then {after * 1000:.0f} ms",
            answered_at_once(unit) == CLIENTS,
        )
    )
    return Result(goals)


@contextmanager
def private_bus(tmp: Path) -> Iterator[str]:
    """Its address."""
    (tmp / "bus.conf").write_text(BUS_CONFIGURATION.format(socket=tmp / "bus"))
    bus = ["dbus-daemon", f"--config-file={tmp}/bus.conf", "--nofork", "--print-address=1"]
    with running(bus, "unix:", dict(os.environ)):
        yield f"unix:path={tmp}/bus"


def sockets() -> Iterator[Result]:
    with ExitStack() as stack:
        stack.enter_context(one_cpu())
        tmp = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        unit, contender = tmp / "unit", tmp / "c"
        unit.mkdir()
        contender.mkdir()
        client = compile_c(tmp, HERE / "c/store_sockets_client.c")
        server = compile_c(tmp, HERE / "c/store_sockets_server.c")
        compile_c(tmp, PROJECT / "src/globstash/globstash.c")
        address = stack.enter_context(private_bus(tmp))
        stack.enter_context(daemon(unit, address))
        stack.enter_context(running([server, contender], "READY", dict(os.environ)))
        yield rates(client, unit, contender)
        yield starts(start_times(*commands(tmp, unit, address)))
        yield crowd(unit)


if __name__ == "__main__":
    for result in sockets():
        for goal in result.goals:
            print(f"{goal.figure}: {goal.measured} ({goal.goal}): {goal.verdict}", flush=True)

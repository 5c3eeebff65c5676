"""The native sockets and the thin commands, beside what they are compared with.

    ./dev bench store_sockets

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

from bench.edge_rig import BUS_CONFIGURATION

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
ROUNDS = 5
SECONDS = 1.0
STARTS = 60
HALF_OPEN = 100_000
CLIENTS = 20
ORIGINAL = {"get": 23_300, "set": 22_648}  # peer figures: medians of another, shared machine
KEY, VALUE = "bench", "0123456789"
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
def daemon(directory: Path, address: str) -> Iterator[None]:
    """busworkd with its sockets in `directory`; ready when it says so."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
        notes.bind(str(directory / "notify"))
        notes.settimeout(10)
        environment = os.environ | {"NOTIFY_SOCKET": str(directory / "notify")}
        command = [sys.executable, "-m", "buswork.daemon", "--bus", address]
        process = subprocess.Popen(
            [*command, "--socket-dir", str(directory), "--log-level", "err"], env=environment
        )
        try:
            while b"READY=1" not in notes.recv(4096):
                pass
            notes.settimeout(None)
            threading.Thread(target=drop, args=[notes], daemon=True).start()
            yield
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


def rates(client: Path, unit: Path, contender: Path) -> list[list[str]]:
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
        ratio = ours / theirs
        rows.append(
            [f"native {kind}/s, connecting each time", f"{ours:,.0f}", f"C server {theirs:,.0f}",
             f"{ratio:.2f} x (goal 0.5), lost {lost}; the original, elsewhere: {ORIGINAL[kind]:,}"]
        )  # fmt: skip
    return rows


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


def start_rows(times: dict[str, float]) -> list[list[str]]:
    bare, program = times["python3 -I -c pass"], times["globstash get (Python)"]
    rows = [
        ["globstash get, Python, ms", f"{program:.1f}", f"python3 -I -c pass {bare:.1f}",
         f"goal <= {1.3 * bare + 10:.1f}"],
    ]  # fmt: skip
    if "busctl call" in times:
        small, call = times["globstash get (C)"], times["busctl call"]
        rows.append(
            ["globstash get, C, ms", f"{small:.2f}", f"busctl call {call:.2f}",
             f"{small / call:.2f} x (goal 0.5)"]
        )  # fmt: skip
    return rows


def main() -> None:
    with ExitStack() as stack:
        tmp = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        unit, contender = tmp / "unit", tmp / "c"
        unit.mkdir()
        contender.mkdir()
        client = compile_c(tmp, HERE / "c/store_sockets_client.c")
        server = compile_c(tmp, HERE / "c/store_sockets_server.c")
        compile_c(tmp, PROJECT / "src/globstash/globstash.c")
        address = f"unix:path={tmp}/bus"
        (tmp / "bus.conf").write_text(BUS_CONFIGURATION.format(socket=tmp / "bus"))
        bus = ["dbus-daemon", f"--config-file={tmp}/bus.conf", "--nofork", "--print-address=1"]
        stack.enter_context(running(bus, "unix:", dict(os.environ)))
        stack.enter_context(daemon(unit, address))
        stack.enter_context(running([server, contender], "READY", dict(os.environ)))
        rows = rates(client, unit, contender)
        count = answered_at_once(unit)
        rows.append([f"{CLIENTS} clients at once", f"{count} answered", "the original 10", ""])
        rows += start_rows(start_times(*commands(tmp, unit, address)))
        taken, after = half_open(unit)
        rows.append(
            [f"{HALF_OPEN:,} half-open connections, s", f"{taken:.1f}", "",
             f"{CLIENTS} gets right after them: {after * 1000:.0f} ms"]
        )  # fmt: skip
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()

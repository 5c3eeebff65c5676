"""How fast the driver of players and displays is: every goal, in one run.

    ./dev bench fsct [--quick] [--only PART ...] [--update-docs]

Needs dbus-daemon, and aio-msgpack-rpc and pynvim, which are servers too. Everything is started for
the run and ends with it. Status 0: every goal was met.
"""

import asyncio
import bisect
import importlib.metadata
import importlib.util
import itertools
import json
import os
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
from typing import Any

import msgpack  # type: ignore[import-untyped]
import report
from command import Part, run
from edge_rig import BUS_CONFIGURATION, Process
from report import Goal, Result, Table
from store_reader import one_cpu
from support.displays import device, device_id

from buswork.bus.transport import Connection
from buswork.fsct.model.driver import Driver
from buswork.fsct.wire.msgpackrpc import encode_request
from buswork.fsct.wire.terms import Status
from buswork.fsct.wire.uuids import device_uuid
from buswork.sim.dac import SimDac

HERE = Path(__file__).resolve().parent
METHOD = """\
The daemon on a private dbus-daemon, with simulated displays that note when they are asked; both
processes read the same monotonic clock. A reaction ends when the control transfer begins; the time
that a device takes for it is not in it. Round trips: medians of rounds that take turns, one client
in Python for both servers, on one CPU with them. Written by `./dev bench fsct --update-docs`."""

NAME, PATH, INTERFACE = "org.buswork", "/org/fsct/Driver", "org.fsct.Driver"
STATUS, TEXT = 0x04, 0x10
TITLE = 1
BURST = 600
SLOW_SECONDS = 0.05
# The bursts go to one device; another one hears of something this often meanwhile.
BESIDE_SECONDS = 0.001
BESIDE_CHANGES = 100
EVENTS = 1_000_000
PLAYERS, DEVICES = 200, 20


Stamp = tuple[int, str, int, int, str]

# -- what is measured ------------------------------------------------------------------------------


class Rpc:
    """A client of the socket, as simple as can be."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(path))
        self._unpacker = msgpack.Unpacker()
        self._msgid = 0

    def send(self, method: str, *params: Any) -> None:
        self._msgid += 1
        self._sock.sendall(encode_request(self._msgid, method, list(params)))

    def send_raw(self, data: bytes) -> None:
        self._sock.sendall(data)

    def answer(self) -> Any:
        while True:
            for _, _, error, result in self._unpacker:
                if error is not None:
                    raise SystemExit(f"the driver answers: {error}")
                return result
            self._unpacker.feed(self._sock.recv(65536))

    def call(self, method: str, *params: Any) -> Any:
        self.send(method, *params)
        return self.answer()

    def close(self) -> None:
        self._sock.close()


class Service:
    """The daemon, its displays and its bus."""

    def __init__(self, directory: Path, displays: int) -> None:
        self.path = directory / "fsct.sock"
        self.address = f"unix:path={directory / 'bus'}"
        config = directory / "bus.conf"
        config.write_text(BUS_CONFIGURATION.format(socket=directory / "bus"))
        command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"]
        self._bus = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._bus.stdout is not None
        self._bus.stdout.readline()
        environment = os.environ | {"RUNTIME_DIRECTORY": ""}
        argv = [sys.executable, str(HERE / "fsct_service.py"), str(displays)]
        argv += ["--bus", self.address, "--socket-dir", str(directory)]
        self._daemon = Process(argv, directory / "log", environment)
        self._wait(directory / "log")

    def _wait(self, log: Path) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until and self._daemon.alive:
            with suppress(OSError):
                Rpc(self.path).close()
                return
            time.sleep(0.02)
        raise SystemExit(f"the daemon did not start: {log.read_text()}")

    def stamps(self) -> list[Stamp]:
        return [tuple(stamp) for stamp in json.loads(self._daemon.ask("stamps"))]

    def slow(self, serial: str, seconds: float) -> None:
        self._daemon.ask(f"slow {serial} {seconds}")

    def settle(self) -> None:
        """Until the displays are asked for nothing any more."""
        while True:
            time.sleep(0.2)
            if not self.stamps():
                return

    def stop(self) -> None:
        self._daemon.stop()
        self._bus.terminate()
        self._bus.wait()


@contextmanager
def service(displays: int) -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="buswork-bench-") as name:
        running = Service(Path(name), displays)
        try:
            yield running
        finally:
            running.stop()


def ms(ns: float) -> str:
    return f"{ns / 1e6:.2f} ms"


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


# -- from a call to the transfer -------------------------------------------------------------------


def reaction(quick: bool) -> Iterator[Result]:
    changes = 100 if quick else 1000
    with service(1) as running:
        by = {"MessagePack-RPC": over_socket(running, changes), "D-Bus": over_bus(running, changes)}
    goals, rows = [], []
    for face, taken in by.items():
        middle = statistics.median(taken)
        figure = f"UpdatePlayerStatus over {face} to its control transfer, p50"
        goals.append(Goal(figure, "<= 2 ms", ms(middle), middle <= 2e6))
        rows.append([face, *(ms(percentile(taken, part)) for part in (0.5, 0.9, 0.99))])
    yield Result(goals, [Table("From a call to the transfer", ["over", "p50", "p90", "p99"], rows)])


def changing() -> Iterator[int]:
    """Statuses of which the one before is never the one after, were one left out."""
    return itertools.cycle(map(int, (Status.STOPPED, Status.PAUSED, Status.SEEKING)))


def reactions(sent: list[int], stamps: list[Stamp], serial: str) -> list[float]:
    """Of two changes in a moment, the device may be told the second alone."""
    seen = [at for at, who, request, _, _ in stamps if (who, request) == (serial, STATUS)]
    return [seen[bisect.bisect(seen, at)] - at for at in sent]


def over_socket(running: Service, changes: int) -> list[float]:
    rpc = Rpc(running.path)
    player = rpc.call("register_player", "bench")
    running.settle()
    sent, statuses = [], changing()
    for _ in range(changes):
        sent.append(time.monotonic_ns())
        rpc.call("update_player_status", player, next(statuses))
        time.sleep(0.004)
    stamps = running.stamps()
    rpc.close()
    running.settle()
    return reactions(sent, stamps, "SIM-0")


def over_bus(running: Service, changes: int) -> list[float]:
    return asyncio.run(_over_bus(running, changes))


async def _over_bus(running: Service, changes: int) -> list[float]:
    connection = await Connection.open(running.address)
    (player,) = (
        await connection.call(NAME, PATH, INTERFACE, "RegisterPlayer", "s", ("b",))
    ).values()
    await asyncio.to_thread(running.settle)
    sent, statuses = [], changing()
    for _ in range(changes):
        arguments = (player, next(statuses))
        sent.append(time.monotonic_ns())
        await connection.call(NAME, PATH, INTERFACE, "UpdatePlayerStatus", "uu", arguments)
        await asyncio.sleep(0.004)
    stamps = running.stamps()
    connection.close()
    await asyncio.to_thread(running.settle)
    return reactions(sent, stamps, "SIM-0")


# -- a burst to a slow device ----------------------------------------------------------------------


def burst(quick: bool) -> Iterator[Result]:
    with service(2) as running:
        slow, other = Rpc(running.path), Rpc(running.path)
        players = []
        for rpc, serial in ((slow, "SIM-0"), (other, "SIM-1")):
            player = rpc.call("register_player", serial)
            device = device_uuid(SimDac.vendor, SimDac.product, serial)
            rpc.call("assign_player_to_device", player, device.bytes)
            rpc.call("update_player_status", player, int(Status.PLAYING))
            players.append(player)
        running.settle()
        statuses = changing()
        running.slow("SIM-0", SLOW_SECONDS)
        alone, during, after, counts = [], [], [], []
        for _ in range(3 if quick else 11):
            alone.append(beside(running, other, players[1], statuses))
            sending = Sending(slow, players[0])
            during.append(beside(running, other, players[1], statuses, sending))
            shown = titles_in(during[-1].stamps)
            if not shown or shown[-1][1] != titles()[-1]:
                raise SystemExit(f"the last title is not shown: {shown[-3:]}")
            after.append(sum(at > sending.answered for at, _ in shown))
            counts.append(len(shown))
            slow.call("update_player_metadata", players[0], TITLE, "another")
    worst, calm = (
        statistics.median(max(found.taken) for found in founds) for founds in (during, alone)
    )
    goals = [
        Goal(
            f"{BURST} texts to a device of 50 ms: transfers after them until the last is shown",
            "<= 2",
            f"{max(after)} ({max(counts)} in all)",
            max(after) <= 2,
        ),
        Goal(
            "another device's slowest reaction meanwhile, to that when nothing else happens",
            "<= 5 ms more",
            f"{ms(worst)}, else {ms(calm)}",
            worst - calm <= 5e6,
        ),
    ]
    rows = []
    for name, founds in (("alone", alone), ("during a burst", during)):
        taken = [each for found in founds for each in found.taken]
        rows.append([name, *(ms(percentile(taken, part)) for part in (0.5, 0.99)), ms(max(taken))])
    yield Result(goals, [Table("Another device's reaction", ["", "p50", "p99", "highest"], rows)])


def titles_in(stamps: list[Stamp]) -> list[tuple[int, str]]:
    return [
        (at, data)
        for at, serial, request, index, data in stamps
        if (serial, request, index >> 8) == ("SIM-0", TEXT, TITLE)
    ]


def titles() -> list[str]:
    return [f"title {number}" for number in range(BURST)]


class Sending(threading.Thread):
    """The burst, in one piece; `answered` is when the driver had taken the last of it."""

    def __init__(self, rpc: Rpc, player: int) -> None:
        super().__init__()
        self._rpc = rpc
        self._data = b"".join(
            encode_request(1, "update_player_metadata", [player, TITLE, title])
            for title in titles()
        )
        self.answered = 0

    def run(self) -> None:
        self._rpc.send_raw(self._data)
        for _ in range(BURST):
            self._rpc.answer()
        self.answered = time.monotonic_ns()


class Beside:
    """What another device saw, and all displays' stamps."""

    def __init__(self, taken: list[float], stamps: list[Stamp]) -> None:
        self.taken = taken
        self.stamps = stamps


def beside(
    running: Service,
    rpc: Rpc,
    player: int,
    statuses: Iterator[int],
    sending: Sending | None = None,
) -> Beside:
    """Changes another player all the time, while the burst is on its way."""
    sent = []
    for number in range(BESIDE_CHANGES):
        if sending is not None and number == BESIDE_CHANGES // 10:
            sending.start()
        sent.append(time.monotonic_ns())
        rpc.call("update_player_status", player, next(statuses))
        time.sleep(BESIDE_SECONDS)
    if sending is not None:
        sending.join()
    time.sleep(10 * SLOW_SECONDS)
    stamps = running.stamps()
    return Beside(reactions(sent, stamps, "SIM-1"), stamps)


# -- round trips -----------------------------------------------------------------------------------


def trips(quick: bool) -> Iterator[Result]:
    seconds, rounds = (0.2, 3) if quick else (1.0, 7)
    taken: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        stack.enter_context(one_cpu())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="buswork-bench-")))
        running = stack.enter_context(service(1))
        socks = {
            "busworkd": stack.enter_context(connected(running.path)),
            "aio-msgpack-rpc": stack.enter_context(aio_msgpack_rpc(directory)),
            "pynvim": stack.enter_context(pynvim(directory)),
        }
        for _ in range(rounds):
            for in_flight in (1, 64):
                for server, sock in socks.items():
                    figure = round_trips(sock, seconds, in_flight)
                    taken.setdefault((server, in_flight), []).append(figure)
    figures = {key: statistics.median(values) for key, values in taken.items()}
    goals, rows = [], []
    for in_flight, what, other in (
        (1, "one at a time", "pynvim"),
        (64, "64 in flight", "aio-msgpack-rpc"),
    ):
        ratio = figures["busworkd", in_flight] / figures[other, in_flight]
        goal = f"get_protocol_version, {what}, to {other} as the server"
        goals.append(Goal(goal, ">= 2 x", f"{ratio:.2f} x", ratio >= 2))
        rows.append([what, *(f"{figures[server, in_flight]:,.0f}" for server in socks)])
    head = ["get_protocol_version", *(f"{server} /s" for server in socks)]
    yield Result(goals, [Table("Round trips, a client in Python", head, rows)])


@contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        yield sock


@contextmanager
def rival(name: str, path: Path) -> Iterator[Process]:
    argv = [sys.executable, str(HERE / "fsct_rival.py"), name, str(path)]
    process = Process(argv, path.with_suffix(".log"), dict(os.environ))
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def aio_msgpack_rpc(directory: Path) -> Iterator[socket.socket]:
    path = directory / "aio"
    with rival("aio-msgpack-rpc", path) as process:
        if process.read_line() != "READY":
            raise SystemExit(f"aio-msgpack-rpc: {path.with_suffix('.log').read_text()}")
        with connected(path) as sock:
            yield sock


@contextmanager
def pynvim(directory: Path) -> Iterator[socket.socket]:
    path = directory / "pynvim"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(30)
        with rival("pynvim", path):
            sock, _ = listener.accept()
            with sock:
                sock.recv(4096)  # it introduces itself
                yield sock


def round_trips(sock: socket.socket, seconds: float, in_flight: int) -> float:
    """Answers a second, of which each is waited for in full before the next requests go."""
    request = encode_request(1, "get_protocol_version", [])
    sock.sendall(request)
    batch, expected = request * in_flight, len(sock.recv(4096)) * in_flight
    count, begin = 0, time.perf_counter()
    until = begin + seconds
    while time.perf_counter() < until:
        sock.sendall(batch)
        left = expected
        while left:
            left -= len(sock.recv(left))
        count += in_flight
    return count / (time.perf_counter() - begin)


# -- the choice ------------------------------------------------------------------------------------


def choice(quick: bool) -> Iterator[Result]:
    changes = 2000 if quick else 20_000
    sizes = [
        (PLAYERS, 1),
        (PLAYERS, DEVICES),
        (10, DEVICES),
        (10 * PLAYERS, DEVICES),
        (PLAYERS, 80),
    ]
    taken = {size: status_change(*size, changes) for size in sizes}
    rows = [[f"{p:,}", str(d), f"{taken[p, d] / 1000:.1f} us"] for p, d in sizes]
    few, many = taken[10, DEVICES], taken[10 * PLAYERS, DEVICES]
    goals = [
        Goal(
            f"a status change, {10 * PLAYERS:,} players x {DEVICES} devices to 10 players",
            "<= 1.5 x (O(devices))",
            f"{many / few:.2f} x ({PLAYERS} players: {taken[PLAYERS, DEVICES] / 1000:.1f} us)",
            many <= 1.5 * few,
        ),
        oracle(EVENTS // 20 if quick else EVENTS),
    ]
    yield Result(goals, [Table("A status change", ["players", "devices", "takes"], rows)])


def status_change(players: int, devices: int, changes: int) -> float:
    """Nanoseconds, the median of batches."""
    driver = Driver()
    for number in range(devices):
        driver.add_device(device(number + 1))
    registered = [driver.register(str(at), 1000 + at % 3, at) for at in range(players)]
    for at, player in enumerate(registered):
        if at % 3 == 0:
            driver.assign(player.id, device_id(1 + at % devices))
        driver.update_status(player.id, Status.PLAYING if at % 2 else Status.PAUSED)
    batches = []
    for batch in range(20):
        begin = time.perf_counter_ns()
        for at in range(changes // 20):
            player = registered[(batch + 7 * at) % players]
            playing = player.status is Status.PLAYING
            driver.update_status(player.id, Status.PAUSED if playing else Status.PLAYING)
        batches.append((time.perf_counter_ns() - begin) / (changes // 20))
    return statistics.median(batches)


def oracle(events: int) -> Goal:
    """The test's own slow way to choose, and as many random events."""
    path = HERE.parent / "fsct" / "model" / "test_selection.py"
    spec = importlib.util.spec_from_file_location("test_selection", path)
    assert spec is not None
    assert spec.loader is not None
    test = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(test)
    differs = ""
    done = 0
    try:
        for seed in range(10):
            test.Events(1000 + seed).run(events // 10)
            done += events // 10
    except AssertionError as error:
        differs = f"; then they differ: {error}"
    figure = "the choice after random events, against a slow and simple one"
    return Goal(figure, f"equal for {events:,}", f"{done:,}{differs}", done == events)


# -- the bench -------------------------------------------------------------------------------------

PARTS: dict[str, Part] = {
    "reaction": reaction,
    "burst": burst,
    "trips": trips,
    "choice": choice,
}


def machine_facts() -> dict[str, str]:
    return report.machine_facts("dbus-next", "aio-msgpack-rpc", "pynvim")


if __name__ == "__main__":
    sys.exit(run("fsct", __doc__, PARTS, METHOD, machine_facts))

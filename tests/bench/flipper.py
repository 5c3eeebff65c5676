"""How fast boards are that several programs use at once: every goal, in one run.

    ./dev bench flipper [--quick] [--only PART ...] [--update-docs]

Needs dbus-daemon, a C compiler, and umockdev with the system's own Python. Everything is started
for the run and ends with it. Status 0: every goal was met.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import report
from command import Part, run
from flipper_rig import Rig, open_rig
from report import Goal, Result, Table

METHOD = """\
Boards of an emulated kernel (umockdev), whose transfers are made by the real libusb: the daemon's,
and those of a loop with pyusb that does the same transfers with the same board, which is lent to
it in turns with the daemon. The emulation has a thread of its own for all boards, in Python. Calls
come over a private dbus-daemon from programs in C, one process each. Rates: medians of rounds.
Written by `./dev bench flipper --update-docs`."""

PORT = "1-2"
U2, S4 = ("led", "rgb", 1, 2, 3), ("gpio", "read", 1)
FUNCTIONS = {"u2": U2, "4s": S4}
TITLES = {"u2": "a call of the U2", "4s": "a call of the 4S"}
IN_FLIGHT = 4
CALLERS = 10
BLOCK_BYTES = 128
TRANSFER_BYTES = 1 << 20
# Of a loop's transfer: what it answers for in one go.
PIECE_BYTES = 64 << 10
LEASE_SECONDS = 600
BOARDS = 32
# A board that takes its time; the emulation has enough of it for all of them.
ANSWER_SECONDS = 0.1


# -- what is measured ------------------------------------------------------------------------------


class Direct:
    """The loop; it has the board while it is asked."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._process = rig.direct(PORT)

    @contextmanager
    def lent(self) -> Iterator[None]:
        token = self._rig.caller.call(PORT, "Lend", "su", "a bench", LEASE_SECONDS)
        self._process.ask("open")
        try:
            yield
        finally:
            self._process.ask("close")
            self._rig.caller.call(PORT, "Release", "s", token)

    def rate(self, function: str, seconds: float) -> float:
        with self.lent():
            return float(self._process.ask(f"{function} {seconds}"))

    def throughput(self, function: str, size: int) -> float:
        with self.lent():
            pieces = size // PIECE_BYTES
            rates = [float(self._process.ask(f"{function} {PIECE_BYTES}")) for _ in range(pieces)]
        return statistics.harmonic_mean(rates)


@contextmanager
def one_board() -> Iterator[tuple[Rig, Direct]]:
    with open_rig() as rig:
        rig.plug(PORT)
        yield rig, Direct(rig)


def at_least(figure: str, ratio: float, goal: float, more: str = "") -> Goal:
    return Goal(figure, f">= {goal} x", f"{ratio:.2f} x{more}", ratio >= goal)


# -- one caller ------------------------------------------------------------------------------------


def single(quick: bool) -> Iterator[Result]:
    seconds, rounds = (0.5, 3) if quick else (1.0, 9)
    rates: dict[tuple[str, str], list[float]] = {}
    with one_board() as (rig, direct):
        for _ in range(rounds):
            for key, function in FUNCTIONS.items():
                for title, window in (("one at a time", 1), (f"{IN_FLIGHT} in flight", IN_FLIGHT)):
                    rate, _ = rig.run([rig.calling(PORT, function, seconds, window)])
                    rates.setdefault((key, title), []).append(rate)
                rates.setdefault((key, "pyusb"), []).append(direct.rate(key, seconds))
    median = {key: statistics.median(values) for key, values in rates.items()}
    goals = [
        at_least(f"{TITLES[key]}, {how}, to a loop with pyusb", value / median[key, "pyusb"], 0.9)
        for (key, how), value in median.items()
        if how != "pyusb"
    ]
    hows = list(dict.fromkeys(how for _, how in median))
    rows = [[TITLES[key], *(f"{median[key, how]:,.0f}" for how in hows)] for key in FUNCTIONS]
    yield Result(goals, [Table("One caller, calls per second", ["", *hows], rows)])


# -- ten callers -----------------------------------------------------------------------------------


def several(quick: bool) -> Iterator[Result]:
    seconds, rounds = (0.5, 3) if quick else (2.0, 7)
    alone, rates, waits = [], [], []
    taken = [0.0] * CALLERS
    with one_board() as (rig, _):
        for _ in range(rounds):
            alone.append(rig.run([rig.calling(PORT, U2, seconds)])[0])
            rate, each = rig.run([rig.calling(PORT, U2, seconds) for _ in range(CALLERS)])
            rates.append(rate)
            taken = [before + one["calls"] for before, one in zip(taken, each, strict=True)]
            waits.append(max(one["p99_ns"] for one in each) / 1e9 * rate)
    ratio = statistics.median(rates) / statistics.median(alone)
    low, high = (share(taken) / statistics.mean(taken) for share in (min, max))
    wait = statistics.median(waits)
    yield Result(
        [
            at_least(f"{CALLERS} callers: their calls a second, to one caller's", ratio, 0.9),
            Goal(
                "the share of each, to a fair tenth",
                "0.8 to 1.2",
                f"{low:.2f} to {high:.2f}",
                0.8 <= low <= high <= 1.2,
            ),
            Goal("p99 of a call", "<= 15 turns", f"{wait:.1f}", wait <= 15),
        ]
    )


# -- a mebibyte ------------------------------------------------------------------------------------


def bulk(quick: bool) -> Iterator[Result]:
    size = TRANSFER_BYTES >> 3 if quick else TRANSFER_BYTES
    goals, rows = [], []
    with one_board() as (rig, direct):
        for function in ("push", "pull"):
            before = direct.throughput(function, size // 2)
            begin = time.perf_counter()
            transfer(rig, function, size)
            ours = size / (time.perf_counter() - begin)
            after = direct.throughput(function, size // 2)
            theirs = statistics.harmonic_mean([before, after])
            name = f"{function} of {size >> 10} KiB over D-Bus, to a loop with pyusb"
            goals.append(at_least(name, ours / theirs, 0.9))
            rows.append([function, f"{ours / 1024:.1f}", f"{theirs / 1024:.1f}"])
            goals.append(beside(rig, function, size // 4))
    yield Result(goals, [Table("KiB per second", ["", "busworkd", "pyusb"], rows)])


def transfer(rig: Rig, function: str, size: int) -> None:
    if function == "push":
        rig.caller.call(PORT, "Push", "ssay", "spi", "push", bytes(size))
    else:
        rig.caller.call(PORT, "Pull", "ssu", "spi", "pull", size)


def beside(rig: Rig, function: str, size: int) -> Goal:
    """Another caller's single calls meanwhile, and what they wait beyond their own time."""
    _, (alone,) = rig.run([rig.calling(PORT, U2, 1.0, pause_us=20_000)])
    seconds = 1.0
    caller = rig.calling(PORT, U2, seconds, pause_us=20_000)
    with ThreadPoolExecutor(1) as pool:
        begin = time.perf_counter()
        meanwhile = pool.submit(rig.run, [caller])
        transfer(rig, function, size)
        turn_ns = (time.perf_counter() - begin) / (size / BLOCK_BYTES) * 1e9
        _, (busy,) = meanwhile.result()
    waits = [(busy[at] - alone["median_ns"]) / turn_ns for at in ("median_ns", "p99_ns")]
    return Goal(
        f"another caller's call in the middle of a {function} waits, median (p99)",
        "<= 2 turns of 128 bytes",
        f"{waits[0]:.1f} ({waits[1]:.1f})",
        waits[0] <= 2,
    )


# -- many boards -----------------------------------------------------------------------------------


def many(quick: bool) -> Iterator[Result]:
    seconds = 2.0 if quick else 5.0
    with open_rig() as rig:
        before = rig.daemon.resident_bytes()
        ports = [f"1-{number}" for number in range(1, BOARDS + 1)]
        rig.plug(*ports)
        _, (quick_one,) = rig.run([rig.calling(ports[0], U2, seconds)])
        for port in ports[1:]:
            rig.kernel.trouble(port=port, name="answer_seconds", value=ANSWER_SECONDS)
        _, (slow_alone,) = rig.run([rig.calling(ports[1], U2, seconds)])
        _, each = rig.run([rig.calling(port, U2, seconds) for port in ports])
        per_board = (rig.daemon.resident_bytes() - before) / BOARDS
    slowest = max(one["median_ns"] for one in each[1:])
    yield Result(
        [
            Goal(
                f"{BOARDS} boards at once, {BOARDS - 1} of them of {ANSWER_SECONDS * 1e3:.0f} ms: "
                "the slowest one's call, median, to a slow one's alone",
                "<= 1.1 x",
                f"{slowest / slow_alone['median_ns']:.2f} x",
                slowest <= 1.1 * slow_alone["median_ns"],
            ),
            Goal(
                "the quick one's call meanwhile, median, to a slow board's",
                "<= 0.1 x",
                f"{each[0]['median_ns'] / slow_alone['median_ns']:.2f} x",
                each[0]["median_ns"] <= 0.1 * slow_alone["median_ns"],
            ),
        ],
        [
            Table(
                "Many boards",
                ["figure", "measured"],
                [
                    ["a quick board's call, median, alone", ms(quick_one["median_ns"])],
                    [f"the same while {BOARDS - 1} slow ones are called", ms(each[0]["median_ns"])],
                    ["resident memory per board, in use", f"{per_board / 1024:.0f} KiB"],
                ],
            )
        ],
    )


def ms(ns: float) -> str:
    return f"{ns / 1e6:.2f} ms"


# -- the bench -------------------------------------------------------------------------------------

PARTS: dict[str, Part] = {"single": single, "several": several, "bulk": bulk, "many": many}


def machine_facts() -> dict[str, str]:
    umockdev = report.last_word("umockdev-run", "--version")
    return report.machine_facts("pyusb") | {"umockdev": umockdev}


if __name__ == "__main__":
    sys.exit(run("flipper", __doc__, PARTS, METHOD, machine_facts))

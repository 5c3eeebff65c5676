"""Round trips: what a call of Get costs the service."""

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_rig import BUSWORK, FAST, NEXT, SDBUS, Contender, Outcome, Rig, Service
from edge_rounds import Settings, rotated, serving
from report import Goal, Result, Table


@dataclass(frozen=True)
class Case:
    """A way to call Get."""

    title: str
    size: int
    window: int
    calls: int
    one_cpu: bool = False


SMALL_ALONE = Case("16 B, one at a time", 16, 1, 4_000, one_cpu=True)
SMALL_ALONE_FREE = Case("the same on all CPUs", 16, 1, 4_000)
SMALL_PIPELINED = Case("16 B, 64 in flight", 16, 64, 20_000)
LARGE_ALONE = Case("4 KiB, one at a time", 4096, 1, 4_000, one_cpu=True)
LARGE_PIPELINED = Case("4 KiB, 64 in flight", 4096, 64, 10_000)
CASES = (SMALL_ALONE, SMALL_ALONE_FREE, SMALL_PIPELINED, LARGE_ALONE, LARGE_PIPELINED)

# Stock dbus-next takes 30 times as long as the others: the same figures from fewer calls.
SLOW_SHARE = 5

PIPELINED_TO_C = 1.3
PIPELINED_TO_NEXT = 20.0
ALONE_TO_C = 2.5


class RoundTrips:
    """Samples of the calls program, by contender and case."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, str], list[Outcome]] = {}

    def add(self, contender: Contender, case: Case, outcome: Outcome) -> None:
        self.samples.setdefault((contender.key, case.title), []).append(outcome)

    def of(self, contender: Contender, case: Case) -> list[Outcome]:
        return self.samples.get((contender.key, case.title), [])

    def cpu(self, contender: Contender, case: Case) -> list[float]:
        """Service CPU in s per 10,000 calls, of the rounds in which nothing was lost."""
        return [_cpu_per_10k(outcome) for outcome in self.of(contender, case) if not outcome.lost]

    def cell(self, contender: Contender, case: Case) -> str:
        outcomes, cpu = self.of(contender, case), self.cpu(contender, case)
        died = sum(outcome.lost for outcome in outcomes)
        told = [f"DIED {died} of {len(outcomes)}"] if died else []
        if cpu:
            rate = statistics.median(
                o["calls"] / o["wall_ns"] * 1e9 for o in outcomes if not o.lost
            )
            told.append(f"{statistics.median(cpu):.3f} ({min(cpu):.3f}), {rate:,.0f}/s")
        return "; ".join(told)


def _cpu_per_10k(outcome: Outcome) -> float:
    return float(outcome["service_ns"]) / float(outcome["calls"]) * 10_000 / 1e9


def round_trips(rig: Rig, settings: Settings) -> Result:
    contenders = settings.chosen(BUSWORK, SDBUS, NEXT, FAST)
    trips = RoundTrips()
    asked = rig.questions()
    with serving(rig, contenders) as services:
        for number, case, contender in _case_rounds(contenders, settings.rounds):
            service = services[contender.key]
            placed = rig.on_one_cpu(service, number) if case.one_cpu else contextlib.nullcontext()
            with placed:
                outcome = _call(rig, service, case)
            if outcome.lost:
                service.restart()
            trips.add(contender, case, outcome)
    asked = rig.questions() - asked
    rows = [
        [contender.title, *(trips.cell(contender, case) for case in CASES)]
        for contender in contenders
    ]
    table = Table(
        "Service CPU in s per 10,000 calls of Get(s)->s, median (best round), and calls per second",
        ["service", *(case.title for case in CASES)],
        rows,
    )
    samples = {
        f"{key}, {title}": [o.figures for o in outcomes]
        for (key, title), outcomes in trips.samples.items()
    }
    return Result(_trip_goals(trips, asked), [table], samples)


def _case_rounds(
    contenders: Sequence[Contender], rounds: int
) -> Iterator[tuple[int, Case, Contender]]:
    for number in range(rounds):
        for case in CASES:
            for contender in rotated(contenders, number):
                yield number, case, contender


def _call(rig: Rig, service: Service, case: Case) -> Outcome:
    calls = case.calls // SLOW_SHARE if service.contender is NEXT else case.calls
    figures = (case.size, calls, case.window, service.pid, rig.bus_pid, 0)
    return rig.run("calls", *service.address, *figures)


def _trip_goals(trips: RoundTrips, asked: int) -> list[Goal]:
    calls = sum(
        outcome["calls"]
        for case in CASES
        for outcome in trips.of(BUSWORK, case)
        if not outcome.lost
    )
    lost = sum(outcome.lost for case in CASES for outcome in trips.of(BUSWORK, case))
    return [
        _at_most(trips, SMALL_PIPELINED, SDBUS, PIPELINED_TO_C),
        _at_most(trips, SMALL_PIPELINED, NEXT, 1 / PIPELINED_TO_NEXT),
        _at_most(trips, SMALL_ALONE, SDBUS, ALONE_TO_C),
        Goal(
            "every answer right, decisions of polkit kept for a while",
            "0 runs with a loss; polkit asked, but less than once in 100 calls",
            f"{lost} runs; asked {asked} times in {calls:,} calls" if calls or lost else "-",
            lost == 0 and 0 < asked < calls / 100 if calls or lost else None,
        ),
    ]


def _at_most(trips: RoundTrips, case: Case, rival: Contender, share: float) -> Goal:
    title = f"service CPU per call, {case.title}, to {rival.title}"
    goal = f"<= {share:g} x" if share >= 1 else f"<= 1/{1 / share:g}"
    ours, theirs = trips.cpu(BUSWORK, case), trips.cpu(rival, case)
    if not ours or not theirs:
        return Goal(title, goal)
    ratio, best = statistics.median(ours) / statistics.median(theirs), min(ours) / min(theirs)
    told = [f"{value:.2f}" if share >= 1 else f"1/{1 / value:.1f}" for value in (ratio, best)]
    cpu = f"{statistics.median(ours):.3f} s to {statistics.median(theirs):.3f} s per 10,000"
    return Goal(title, goal, f"{told[0]} (best rounds {told[1]}): {cpu}", ratio <= share)

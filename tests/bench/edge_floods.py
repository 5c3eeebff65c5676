"""Floods: one caller gives the service all it can, and another one waits."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from edge_rig import BUSWORK, SDBUS, BenchError, Contender, Outcome, Rig, Service
from edge_rounds import Settings, milliseconds, rotated, serving
from report import Goal, Result, Table

SLOW_POLKIT_MS = 300
STALL_SECONDS = 0.5


@dataclass(frozen=True)
class Kind:
    """A way to flood; what the flood program is told, and what happens besides."""

    title: str
    program: str
    polkit_ms: int = 0
    stall_seconds: float = 0.0


KINDS = (
    Kind("128 Gets always in flight", "get"),
    Kind("128 Sets of 64 KiB always in flight", "set"),
    Kind("Gets that want no reply", "noreply"),
    Kind(f"the same, polkit takes {SLOW_POLKIT_MS} ms", "noreply", polkit_ms=SLOW_POLKIT_MS),
    Kind(f"the same, service held for {STALL_SECONDS} s", "noreply", stall_seconds=STALL_SECONDS),
)
OTHERS_WAIT_NS = 10e6
# Six seconds: a decision of polkit is kept for five, so each flood outlives one.
PROBES, PROBE_PAUSE_US = 600, 10_000
FLOOD_ROUNDS = 3


@dataclass(frozen=True)
class Flood:
    """One flood, and what another caller met meanwhile."""

    flood: dict[str, int]
    probe: Outcome

    def facts(self) -> dict[str, object]:
        return {"flood": self.flood, "probe": self.probe.figures, "lost": self.probe.lost}


Found = dict[tuple[str, str], list[Flood]]


def floods(rig: Rig, settings: Settings) -> Result:
    contenders = settings.chosen(BUSWORK, SDBUS)
    found: Found = {(c.key, kind.title): [] for c in contenders for kind in KINDS}
    with serving(rig, contenders) as services:
        for number in range(min(settings.rounds, FLOOD_ROUNDS)):
            for kind in KINDS:
                for contender in rotated(contenders, number):
                    flood = _flood(rig, services[contender.key], kind)
                    found[contender.key, kind.title].append(flood)
    return Result(
        [_flood_goal(kind, found) for kind in KINDS],
        [_flood_table(contenders, found)],
        {
            f"{key}, {title}": [flood.facts() for flood in runs]
            for (key, title), runs in found.items()
        },
    )


def _flood(rig: Rig, service: Service, kind: Kind) -> Flood:
    with rig.slow_polkit(kind.polkit_ms):
        flooder = rig.spawn([rig.program("flood"), *service.address, kind.program])
        try:
            flooder.read_line()
            if kind.stall_seconds:
                service.stall(kind.stall_seconds)
            figures = (16, PROBES, 1, service.pid, rig.bus_pid, PROBE_PAUSE_US)
            probe = rig.run("calls", *service.address, *figures)
        finally:
            said = flooder.stop()
    service.restart()  # what it owes to one flood is no part of the next
    if not said:
        raise BenchError(f"the flood ended early:\n{rig.log_tail()}")
    return Flood(json.loads(said), probe)


def _flood_goal(kind: Kind, found: Found) -> Goal:
    title = f"another caller's wait, median, while one floods: {kind.title}"
    goal = f"<= {OTHERS_WAIT_NS / 1e6:.0f} ms"
    ours, sdbus = found.get((BUSWORK.key, kind.title)), found.get((SDBUS.key, kind.title))
    if not ours:
        return Goal(title, goal)
    median = _wait(ours, "median_ns")
    met = all(not flood.probe.lost for flood in ours) and median <= OTHERS_WAIT_NS
    beside = f" ({SDBUS.title}: {_waits(sdbus, 'median_ns')})" if sdbus else ""
    return Goal(title, goal, _waits(ours, "median_ns") + beside, met)


def _flood_table(contenders: Sequence[Contender], found: Found) -> Table:
    rows = [
        [kind.title, contender.title, *_flood_cells(found[contender.key, kind.title])]
        for kind in KINDS
        for contender in contenders
    ]
    head = ["flood", "service", "wait, median", "95 %", "worst", "flood calls/s", "its errors"]
    return Table("One caller floods for 6 s, another calls Get every 10 ms", head, rows)


def _flood_cells(floods: Sequence[Flood]) -> list[str]:
    rate = statistics.median(each.flood["calls"] / each.flood["wall_ns"] * 1e9 for each in floods)
    errors = sum(each.flood["errors"] for each in floods)
    waits = [_waits(floods, figure) for figure in ("median_ns", "p95_ns", "worst_ns")]
    return [*waits, f"{rate:,.0f}", str(errors)]


def _waits(floods: Sequence[Flood], figure: str) -> str:
    """The median over the rounds, and how many of them had no answer at all."""
    lost = sum(flood.probe.lost for flood in floods)
    told = [f"no answer in {lost} of {len(floods)} rounds"] if lost else []
    if lost < len(floods):
        told.append(milliseconds(_wait(floods, figure)))
    return "; ".join(told)


def _wait(floods: Sequence[Flood], figure: str) -> float:
    """A caller that got no answer waited for ever."""
    return statistics.median(
        float("inf") if flood.probe.lost else flood.probe[figure] for flood in floods
    )

"""Floods: one caller gives the service all it can, and another one waits."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from edge_report import Goal, Result, Table
from edge_rig import BUSWORK, SDBUS, BenchError, Contender, Outcome, Rig, Service
from edge_rounds import Settings, milliseconds, rotated, serving

SLOW_POLKIT_MS = 300
FLOODS = {
    "get": "128 Gets always in flight",
    "noreply": "Gets that want no reply",
    "noreply, polkit slow": f"the same, and polkit takes {SLOW_POLKIT_MS} ms for an answer",
    "set": "128 Sets of 64 KiB always in flight",
}
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


def floods(rig: Rig, settings: Settings) -> Result:
    contenders = settings.chosen(BUSWORK, SDBUS)
    found: dict[str, list[Flood]] = {f"{c.key}, {kind}": [] for c in contenders for kind in FLOODS}
    with serving(rig, contenders) as services:
        for number in range(min(settings.rounds, FLOOD_ROUNDS)):
            for kind in FLOODS:
                for contender in rotated(contenders, number):
                    slow = SLOW_POLKIT_MS if "slow" in kind else 0
                    with rig.slow_polkit(slow):
                        flood = _flood(rig, services[contender.key], kind)
                    found[f"{contender.key}, {kind}"].append(flood)
    return Result(
        [_flood_goal(kind, found) for kind in FLOODS],
        [_flood_table(contenders, found)],
        {label: [flood.facts() for flood in runs] for label, runs in found.items()},
    )


def _flood(rig: Rig, service: Service, kind: str) -> Flood:
    flooder = rig.spawn([rig.program("flood"), *service.address, kind.split(",")[0]])
    try:
        flooder.read_line()
        probe = rig.run(
            "calls", *service.address, 16, PROBES, 1, service.pid, rig.bus_pid, PROBE_PAUSE_US
        )
    finally:
        said = flooder.stop()
    if probe.lost:
        service.restart()
    if not said:
        raise BenchError(f"the flood ended early:\n{rig.log_tail()}")
    return Flood(json.loads(said), probe)


def _flood_goal(kind: str, found: dict[str, list[Flood]]) -> Goal:
    title = f"another caller's wait, median, while one floods: {FLOODS[kind]}"
    goal = f"<= {OTHERS_WAIT_NS / 1e6:.0f} ms"
    ours, sdbus = found.get(f"{BUSWORK.key}, {kind}"), found.get(f"{SDBUS.key}, {kind}")
    if not ours:
        return Goal(title, goal)
    median = _wait(ours, "median_ns")
    met = all(not flood.probe.lost for flood in ours) and median <= OTHERS_WAIT_NS
    beside = f" ({SDBUS.title}: {_waits(sdbus, 'median_ns')})" if sdbus else ""
    return Goal(title, goal, _waits(ours, "median_ns") + beside, met)


def _flood_table(contenders: Sequence[Contender], found: dict[str, list[Flood]]) -> Table:
    rows = [
        [FLOODS[kind], contender.title, *_flood_cells(found[f"{contender.key}, {kind}"])]
        for kind in FLOODS
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

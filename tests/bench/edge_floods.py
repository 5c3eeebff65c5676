"""Floods: one caller gives the service all it can, and another one waits."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from edge_report import Goal, Result, Table
from edge_rig import BUSWORK, SDBUS, Contender, Outcome, Rig, Service
from edge_rounds import Settings, milliseconds, rotated, serving

FLOODS = {
    "get": "128 Gets always in flight",
    "noreply": "Gets that want no reply",
    "set": "128 Sets of 64 KiB always in flight",
}
OTHERS_WAIT_NS = 10e6
PROBES, PROBE_PAUSE_US = 200, 2_000


@dataclass(frozen=True)
class Flood:
    """One flood and what another caller met meanwhile."""

    median_ns: int
    p95_ns: int
    flood_calls_per_second: float
    flood_errors: int


def floods(rig: Rig, settings: Settings) -> Result:
    contenders = settings.chosen(BUSWORK, SDBUS)
    found: dict[str, list[Flood]] = {f"{c.key}, {kind}": [] for c in contenders for kind in FLOODS}
    with serving(rig, contenders) as services:
        for number in range(settings.rounds):
            for kind in FLOODS:
                for contender in rotated(contenders, number):
                    flood = _flood(rig, services[contender.key], kind)
                    if flood:
                        found[f"{contender.key}, {kind}"].append(flood)
    return Result(
        [
            _flood_goal(kind, found.get(f"{BUSWORK.key}, {kind}"), settings.rounds)
            for kind in FLOODS
        ],
        [_flood_table(contenders, found)],
        {label: [vars(flood) for flood in runs] for label, runs in found.items()},
    )


def _flood(rig: Rig, service: Service, kind: str) -> Flood | None:
    flooder = rig.spawn([rig.program("flood"), *service.address, kind])
    try:
        flooder.read_line()
        probe = rig.run(
            "calls", *service.address, 16, PROBES, 1, service.pid, rig.bus_pid, PROBE_PAUSE_US
        )
    finally:
        said = flooder.stop()
    if probe.lost or not said:
        service.restart()
        return None
    return _flood_figures(probe, said)


def _flood_figures(probe: Outcome, said: str) -> Flood:
    flood = json.loads(said)
    return Flood(
        probe["median_ns"],
        probe["p95_ns"],
        flood["calls"] / flood["wall_ns"] * 1e9,
        flood["errors"],
    )


def _flood_goal(kind: str, floods: Sequence[Flood] | None, rounds: int) -> Goal:
    title = f"another caller's wait, median, while one floods: {FLOODS[kind]}"
    goal = f"<= {OTHERS_WAIT_NS / 1e6:.0f} ms"
    if floods is None:
        return Goal(title, goal)
    if len(floods) < rounds:
        return Goal(
            title, goal, f"service lost in {rounds - len(floods)} of {rounds} rounds", False
        )
    median = statistics.median(flood.median_ns for flood in floods)
    return Goal(title, goal, milliseconds(median), median <= OTHERS_WAIT_NS)


def _flood_table(contenders: Sequence[Contender], found: dict[str, list[Flood]]) -> Table:
    rows = [
        [FLOODS[kind], contender.title, *_flood_cells(found[f"{contender.key}, {kind}"])]
        for kind in FLOODS
        for contender in contenders
    ]
    head = ["flood", "service", "wait, median", "wait, 95 %", "flood calls/s", "flood errors"]
    return Table("One caller floods, another calls Get every 2 ms", head, rows)


def _flood_cells(floods: Sequence[Flood]) -> list[str]:
    if not floods:
        return ["DIED"]
    return [
        milliseconds(statistics.median(flood.median_ns for flood in floods)),
        milliseconds(statistics.median(flood.p95_ns for flood in floods)),
        f"{statistics.median(flood.flood_calls_per_second for flood in floods):,.0f}",
        str(sum(flood.flood_errors for flood in floods)),
    ]

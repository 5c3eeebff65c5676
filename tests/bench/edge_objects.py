"""Many objects: what they add to a signal, and what listing them takes."""

import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import replace

from edge_rig import EDGE, FAST, NEXT, SDBUS, Contender, Outcome, Rig
from edge_rounds import Settings, interleaved, milliseconds, serving
from report import Goal, Result, Table

FEW, MANY = 0, 3_000
SIGNALS = 10_000
MANY_TO_FEW = 1.2
MANAGED, MANAGED_PROPERTIES = 1_000, 10
MANAGED_NS = 40e6


def signal_cost(rig: Rig, settings: Settings) -> Result:
    """What a signal costs with many exported objects, to what it costs with none."""
    contenders = settings.chosen(EDGE, SDBUS)
    cpu: dict[str, list[float]] = {
        f"{c.key}, {n} objects": [] for c in contenders for n in (FEW, MANY)
    }
    with contextlib.ExitStack() as stack:
        services = [
            (
                f"{contender.key}, {objects} objects",
                stack.enter_context(rig.serve(_renamed(contender, objects), objects)),
            )
            for contender in contenders
            for objects in (FEW, MANY)
        ]
        for label, service in interleaved(services, settings.rounds):
            outcome = rig.run("burst", *service.address, SIGNALS, service.pid)
            if outcome.lost:
                service.restart()
            else:
                cpu[label].append(outcome["service_ns"] / 1e9)
    return Result([_signal_goal(cpu)], [_signal_table(contenders, cpu)], {"cpu_s": cpu})


def _renamed(contender: Contender, objects: int) -> Contender:
    return replace(contender, name=f"{contender.name}.with{objects}")


def _signal_goal(cpu: dict[str, list[float]]) -> Goal:
    title = f"service CPU per signal, {MANY:,} exported objects to none"
    goal = f"<= {MANY_TO_FEW} x"
    few, many = cpu.get(f"edge, {FEW} objects"), cpu.get(f"edge, {MANY} objects")
    if not few or not many:
        return Goal(title, goal)
    ratio = statistics.median(many) / statistics.median(few)
    told = f"{_median_seconds(many)} s to {_median_seconds(few)} s per 10,000"
    return Goal(title, goal, f"{ratio:.2f}: {told}", ratio <= MANY_TO_FEW)


def _signal_table(contenders: Sequence[Contender], cpu: dict[str, list[float]]) -> Table:
    rows = [
        [
            contender.title,
            *(
                _median_seconds(cpu[f"{contender.key}, {objects} objects"])
                for objects in (FEW, MANY)
            ),
        ]
        for contender in contenders
    ]
    return Table(
        "Service CPU in s per 10,000 signals", ["service", "no objects", f"{MANY:,} objects"], rows
    )


def _median_seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f}" if values else "DIED"


def managed_objects(rig: Rig, settings: Settings) -> Result:
    contenders = settings.chosen(EDGE, SDBUS, NEXT, FAST)
    outcomes: dict[str, list[Outcome]] = {contender.key: [] for contender in contenders}
    with serving(rig, contenders, MANAGED) as services:
        for contender in interleaved(contenders, settings.rounds):
            service = services[contender.key]
            outcomes[contender.key].append(
                rig.run("objects", *service.address, service.pid, MANAGED, MANAGED_PROPERTIES)
            )
    whole = {
        key: [outcome for outcome in runs if not outcome.lost] for key, runs in outcomes.items()
    }
    rows = [
        [c.title, *(_median_of(whole[c.key], field) for field in ("wall_ns", "service_ns"))]
        for c in contenders
    ]
    title = f"GetManagedObjects, {MANAGED:,} objects x {MANAGED_PROPERTIES} properties"
    return Result(
        [
            _managed_goal(f"{title}, wait of the caller", whole.get(EDGE.key, []), "wall_ns"),
            _managed_goal(f"{title}, service CPU", whole.get(EDGE.key, []), "service_ns"),
        ],
        [Table(title, ["service", "wait", "service CPU"], rows)],
        {key: [outcome.figures for outcome in runs] for key, runs in outcomes.items()},
    )


def _median_of(outcomes: Sequence[Outcome], field: str) -> str:
    return (
        milliseconds(statistics.median(outcome[field] for outcome in outcomes))
        if outcomes
        else "failed"
    )


def _managed_goal(title: str, outcomes: Sequence[Outcome], field: str) -> Goal:
    goal = f"<= {MANAGED_NS / 1e6:.0f} ms"
    if not outcomes:
        return Goal(title, goal)
    median = statistics.median(outcome[field] for outcome in outcomes)
    return Goal(title, goal, milliseconds(median), median <= MANAGED_NS)

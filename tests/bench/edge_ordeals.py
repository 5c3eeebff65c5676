"""Ordeals: full sockets, after which nothing may be lost."""

from collections.abc import Sequence
from dataclasses import dataclass

from edge_rig import BUSWORK, EDGE, FAST, NEXT, SDBUS, Contender, Rig, Service
from edge_rounds import Settings, rotated, serving
from report import Goal, Result, Table


@dataclass(frozen=True)
class Ordeal:
    """A run after which nothing may be missing; `ours` is who answers for buswork."""

    title: str
    program: str
    arguments: tuple[object, ...]
    ours: Contender
    wants_pid: bool = False

    def run(self, rig: Rig, service: Service) -> bool:
        pid = (service.pid,) if self.wants_pid else ()
        outcome = rig.run(self.program, *service.address, *self.arguments, *pid)
        if outcome.lost:
            service.restart()
        return not outcome.lost


ORDEALS = (
    Ordeal("10,000 signals in one burst", "burst", (10_000,), EDGE, wants_pid=True),
    Ordeal(
        "10 connections x 100 pipelined replies of 4 KiB",
        "pipeline",
        ("get", 10, 100, 4096),
        BUSWORK,
    ),
    Ordeal("50 replies of 1 MiB", "pipeline", ("blob", 1, 50, 1 << 20), EDGE),
)


def robustness(rig: Rig, settings: Settings) -> Result:
    contenders = settings.chosen(BUSWORK, EDGE, SDBUS, NEXT, FAST)
    survived: dict[str, dict[str, list[bool]]] = {ordeal.title: {} for ordeal in ORDEALS}
    with serving(rig, contenders) as services:
        for number in range(settings.robust_runs):
            for ordeal in ORDEALS:
                for contender in rotated(_entrants(ordeal, contenders), number):
                    runs = survived[ordeal.title].setdefault(contender.key, [])
                    if contender not in (NEXT, FAST) or number < settings.rival_runs:
                        runs.append(ordeal.run(rig, services[contender.key]))
    return Result(
        [
            _survival_goal(ordeal, survived[ordeal.title], settings.robust_runs)
            for ordeal in ORDEALS
        ],
        [_survival_table(survived, settings)],
        {"survived": survived},
    )


def _entrants(ordeal: Ordeal, contenders: Sequence[Contender]) -> list[Contender]:
    return [
        contender
        for contender in contenders
        if contender not in (BUSWORK, EDGE) or contender is ordeal.ours
    ]


def _survival_goal(ordeal: Ordeal, survived: dict[str, list[bool]], wanted: int) -> Goal:
    runs = survived.get(ordeal.ours.key)
    title, goal = f"{ordeal.title}: nothing lost, connection kept", f"{wanted} of {wanted} runs"
    return Goal(title, goal, _share(runs), all(runs)) if runs else Goal(title, goal)


def _survival_table(survived: dict[str, dict[str, list[bool]]], settings: Settings) -> Table:
    rivals = settings.chosen(SDBUS, NEXT, FAST)
    rows = [
        [
            ordeal.title,
            *(_share(survived[ordeal.title].get(c.key, [])) for c in (ordeal.ours, *rivals)),
        ]
        for ordeal in ORDEALS
    ]
    return Table(
        "Runs survived", ["run", "buswork", *(contender.title for contender in rivals)], rows
    )


def _share(runs: Sequence[bool]) -> str:
    return f"{sum(runs)} of {len(runs)}" if runs else "-"

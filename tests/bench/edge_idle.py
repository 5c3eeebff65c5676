"""Doing nothing: the memory of an idle service, and the time until it can be called."""

import statistics
import sys
import time

from edge_rig import BUSWORK, FAST, NEXT, SDBUS, Contender, Rig
from edge_rounds import Settings, interleaved, serving
from report import Goal, Result, Table

RESIDENT_BYTES = 30 << 20
START_NS = 0.4e9
SETTLE_SECONDS = 2.0


def memory(rig: Rig, settings: Settings) -> Result:
    contenders = settings.chosen(BUSWORK, SDBUS, NEXT, FAST)
    with serving(rig, contenders) as services:
        time.sleep(SETTLE_SECONDS)
        resident = {
            contender.key: services[contender.key].resident_bytes() for contender in contenders
        }
    rows = [
        [contender.title, f"{resident[contender.key] / (1 << 20):.1f}"] for contender in contenders
    ]
    table = Table("Resident memory of an idle service in MiB", ["service", "MiB"], rows)
    return Result([_memory_goal(resident.get(BUSWORK.key))], [table], {"resident_bytes": resident})


def _memory_goal(resident: int | None) -> Goal:
    title, goal = "idle daemon with the store, resident memory", f"<= {RESIDENT_BYTES >> 20} MiB"
    if resident is None:
        return Goal(title, goal)
    return Goal(title, goal, f"{resident / (1 << 20):.1f} MiB", resident <= RESIDENT_BYTES)


def starts(rig: Rig, settings: Settings) -> Result:
    """From the start of a process until its name is owned; of Python alone, until it ends."""
    commands = {
        "python -c pass": ["-", "-", sys.executable, "-c", "pass"],
        "python -c 'import asyncio'": ["-", "-", sys.executable, "-c", "import asyncio"],
    }
    commands |= {c.title: _until_owned(rig, c) for c in settings.chosen(BUSWORK, SDBUS, NEXT, FAST)}
    times: dict[str, list[int]] = {title: [] for title in commands}
    for title in interleaved(list(commands), settings.starts):
        outcome = rig.run("await", *commands[title])
        if not outcome.lost:
            times[title].append(outcome["wall_ns"])
    rows = [[title, _seconds(times[title])] for title in commands]
    table = Table(f"Start in s, median of {settings.starts}", ["program", "s"], rows)
    return Result(
        [_start_goal(times.get(BUSWORK.title), settings.starts)], [table], {"wall_ns": times}
    )


def _until_owned(rig: Rig, contender: Contender) -> list[str]:
    return [rig.address, contender.name, *rig.command(contender, 0)]


def _seconds(times: list[int]) -> str:
    return f"{statistics.median(times) / 1e9:.3f}" if times else "failed"


def _start_goal(times: list[int] | None, wanted: int) -> Goal:
    title, goal = (
        "daemon with the store, from its start until it owns its name",
        f"<= {START_NS / 1e9} s",
    )
    if times is None:
        return Goal(title, goal)
    if len(times) < wanted:
        return Goal(title, goal, f"{wanted - len(times)} of {wanted} starts failed", False)
    return Goal(
        title,
        goal,
        f"{_seconds(times)} s (median of {wanted})",
        statistics.median(times) <= START_NS,
    )

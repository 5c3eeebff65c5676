"""How fast the store's doors are, beside what they are compared with: every goal, in one run.

    ./dev bench store [--quick] [--only PART ...] [--update-docs]

Needs gcc, dbus-daemon, busctl and redis-server. Everything is started for the run and ends with it.
Status 0: every goal was met.
"""

import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import report
import store_reader
from command import Part, run
from report import Goal, Result, Table
from store_growth import SIZES, growth
from store_sockets import sockets

METHOD = """\
Medians of rounds that take turns, on a private dbus-daemon. Redis and the original's
stand-in, a server in C of the same shape, run on the same machine in the same run, over unix
sockets, with one request in flight, client and server on one CPU. Memory per key is what Python
allocates for the store (tracemalloc); resident memory, which a thousand keys hardly move,
is in the tables. The time of a set is the daemon's processor time. Written
by `./dev bench store --update-docs`."""


def reader(quick: bool) -> Iterator[Result]:
    """Shared memory against Redis, and its writer against its readers."""
    with tempfile.TemporaryDirectory(prefix="buswork-bench-") as name:
        for part, title in (
            (store_reader.cost_figures, ""),
            (store_reader.c_figures, "Reads from C"),
            (store_reader.python_figures, "Reads from Python"),
            (store_reader.contention_figures, "Readers and the writer"),
        ):
            goals, rows = [], []
            for figure in part(Path(name), quick):
                shown = f"{figure.value:,.2f}" if figure.value < 1000 else f"{figure.value:,.0f}"
                shown = (
                    figure.unit if math.isnan(figure.value) else f"{shown} {figure.unit}".strip()
                )
                if figure.goal:
                    goals.append(Goal(figure.what.strip(), figure.goal, shown, figure.met))
                else:
                    rows.append([figure.what.strip(), shown])
            tables = [Table(title, ["figure", "measured"], rows)] if rows else []
            yield Result(goals, tables)


PARTS: dict[str, Part] = {
    "reader": reader,
    "sockets": lambda quick: sockets(),
    "growth": lambda quick: growth(SIZES[:3] if quick else SIZES),
}


def machine_facts() -> dict[str, str]:
    facts = report.machine_facts("dbus-next")
    if shutil.which("redis-server"):
        done = subprocess.run(["redis-server", "--version"], capture_output=True, text=True)
        facts["Redis"] = done.stdout.partition("v=")[2].partition(" ")[0]
    return facts


if __name__ == "__main__":
    sys.exit(run("store", __doc__, PARTS, METHOD, machine_facts))

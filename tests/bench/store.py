"""How fast the store's doors are, beside what they are compared with: every goal, in one run.

    ./dev bench store [--quick] [--only PART ...] [--update-docs]

Needs gcc, dbus-daemon, busctl and redis-server. Everything is started for the run and ends with it.
Status 0: every goal was met.
"""

import argparse
import math
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import edge_report
import store_reader
from edge_report import Goal, Result, Table
from edge_rig import PROJECT
from store_growth import SIZES, growth
from store_sockets import sockets

DOCUMENT = PROJECT / "docs" / "performance.md"
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


PARTS: dict[str, Callable[[bool], Iterator[Result]]] = {
    "reader": reader,
    "sockets": lambda quick: sockets(),
    "growth": lambda quick: growth(SIZES[:3] if quick else SIZES),
}


def machine_facts() -> dict[str, str]:
    facts = edge_report.machine_facts()
    if shutil.which("redis-server"):
        done = subprocess.run(["redis-server", "--version"], capture_output=True, text=True)
        facts["Redis"] = done.stdout.partition("v=")[2].partition(" ")[0]
    return {name: fact for name, fact in facts.items() if name not in ("dbus-fast", "libsystemd")}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, for a first look")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="some parts only"
    )
    parser.add_argument(
        "--update-docs", action="store_true", help=f"writes the section of {DOCUMENT.name}"
    )
    options = parser.parse_args(arguments)
    if options.update_docs and (options.quick or options.only != list(PARTS)):
        parser.error("--update-docs wants the whole bench: no --quick or --only")
    if options.update_docs and not edge_report.has_markers(DOCUMENT, "store"):
        parser.error(f"{DOCUMENT} lacks the markers of a section bench:store")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started goes too
    results = []
    for name in options.only:
        for result in PARTS[name](options.quick):
            results.append(result)
            for goal in result.goals:
                print(f"{name}: {goal.figure}: {goal.measured}", file=sys.stderr, flush=True)
    text = edge_report.page(results, METHOD, machine_facts())
    print(text)
    if options.update_docs:
        edge_report.update(DOCUMENT, "store", text)
    return 0 if all(goal.met for result in results for goal in result.goals) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

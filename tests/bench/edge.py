"""How fast and how tough the D-Bus edge is: every figure with its goal, in one run.

    python tests/bench/edge.py [--quick] [--rounds N] [--json FILE] [--update-docs]

Needs gcc, the headers of libsystemd, and dbus-daemon. The bus, a polkit that says yes, the services
and the clients are started for the run and ended with it. Status 0: every goal was met.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import edge_report
from edge_floods import floods
from edge_idle import memory, starts
from edge_objects import managed_objects, signal_cost
from edge_ordeals import robustness
from edge_report import Result
from edge_rig import BUSWORK, EDGE, FAST, NEXT, PROJECT, SDBUS, Rig, open_rig
from edge_rounds import Settings
from edge_trips import round_trips

DOCUMENT = PROJECT / "docs" / "performance.md"
CONTENDERS = (BUSWORK, EDGE, SDBUS, NEXT, FAST)
PARTS: dict[str, Callable[[Rig, Settings], Result]] = {
    "trips": round_trips,
    "ordeals": robustness,
    "signals": signal_cost,
    "objects": managed_objects,
    "floods": floods,
    "memory": memory,
    "starts": starts,
}
PROFILE_SECONDS = 5


def settings_of(options: argparse.Namespace) -> Settings:
    return Settings(
        rounds=options.rounds or (3 if options.quick else 7),
        robust_runs=5 if options.quick else 20,
        rival_runs=1 if options.quick else 5,
        starts=3 if options.quick else 10,
        contenders=frozenset(options.contenders),
    )


def method(settings: Settings) -> str:
    return (
        f"Medians of {settings.rounds} interleaved rounds, the order rotated every round, "
        "on a private dbus-daemon with the limits of a system bus; the client is written in C "
        "with sd-bus. CPU is the time on a processor of all threads of the service. Where calls go "
        "one at a time, client, bus and service share one CPU: what is measured is the work, not "
        "the interrupts by which virtual CPUs wake each other. "
        "Written by `python tests/bench/edge.py --update-docs`."
    )


def run_parts(names: list[str], settings: Settings) -> dict[str, Result]:
    results = {}
    with open_rig() as rig:
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            results[name] = PARTS[name](rig, settings)
    return results


def profile(target: Path) -> None:
    """Draws a flame graph of the daemon while it answers pipelined calls."""
    with open_rig() as rig, rig.serve(BUSWORK) as service:
        flood = rig.spawn([rig.program("flood"), *service.address, "get"])
        try:
            flood.read_line()
            command = ["py-spy", "record", "--output", str(target), "--pid", str(service.pid)]
            subprocess.run([*command, "--duration", str(PROFILE_SECONDS)], check=True)
        finally:
            flood.stop()


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    keys = [contender.key for contender in CONTENDERS]
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a first look")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="rounds instead of 7 (3 with --quick)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="some parts only"
    )
    parser.add_argument(
        "--contenders", nargs="+", choices=keys, default=keys, help="some services only"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every sample to FILE")
    parser.add_argument(
        "--update-docs", action="store_true", help=f"writes the section of {DOCUMENT.name}"
    )
    parser.add_argument(
        "--profile", type=Path, metavar="SVG", help="only draws a flame graph, with py-spy"
    )
    options = parser.parse_args(arguments)
    partial = options.quick or options.only != list(PARTS) or options.contenders != keys
    if options.update_docs and partial:
        parser.error("--update-docs wants the whole bench: no --quick, --only or --contenders")
    if options.update_docs and not edge_report.has_markers(DOCUMENT, "edge"):
        parser.error(f"{DOCUMENT} lacks the markers of a section bench:edge")
    if options.profile and not shutil.which("py-spy"):
        parser.error("--profile wants py-spy on the PATH")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the bus and the services go too
    if options.profile:
        profile(options.profile)
        return 0
    settings, machine = settings_of(options), edge_report.machine_facts()
    results = run_parts(options.only, settings)
    text = edge_report.page(results.values(), method(settings), machine)
    print(text)
    if options.json:
        options.json.write_text(json.dumps(edge_report.as_json(results, machine), indent=1) + "\n")
    if options.update_docs:
        edge_report.update(DOCUMENT, "edge", text)
    return 0 if all(goal.met for result in results.values() for goal in result.goals) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

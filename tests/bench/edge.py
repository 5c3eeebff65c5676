"""How fast and how tough the D-Bus edge is: every figure with its goal, in one run.

    python tests/bench/edge.py [--quick] [--rounds N] [--json FILE] [--update-docs]

Needs gcc, the headers of libsystemd, and dbus-daemon. The bus, a polkit that says yes, the services
and the clients are started for the run and ended with it. Status 0: every goal was met.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import command
import report
from edge_floods import floods
from edge_idle import memory, starts
from edge_objects import managed_objects, signal_cost
from edge_ordeals import robustness
from edge_rig import BUSWORK, EDGE, FAST, NEXT, SDBUS, Rig, open_rig
from edge_rounds import Settings
from edge_trips import round_trips
from report import Result

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


def machine_facts() -> dict[str, str]:
    facts = report.machine_facts("dbus-next", "dbus-fast")
    return facts | {"libsystemd": report.last_word("pkg-config", "--modversion", "libsystemd")}


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
    parser = command.make_parser(__doc__, PARTS)
    keys = [contender.key for contender in CONTENDERS]
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="rounds instead of 7 (3 with --quick)"
    )
    parser.add_argument(
        "--contenders", nargs="+", choices=keys, default=keys, help="some services only"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every sample to FILE")
    parser.add_argument(
        "--profile", type=Path, metavar="SVG", help="only draws a flame graph, with py-spy"
    )
    whole = {"only": list(PARTS), "contenders": keys}
    options = command.parse(parser, "edge", whole, arguments)
    if options.profile and not shutil.which("py-spy"):
        parser.error("--profile wants py-spy on the PATH")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    command.end_in_order()
    if options.profile:
        profile(options.profile)
        return 0
    settings, machine = settings_of(options), machine_facts()
    results = run_parts(options.only, settings)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(results, machine), indent=1) + "\n")
    return command.conclude(options, "edge", results.values(), method(settings), machine)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

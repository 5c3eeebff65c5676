"""The command that every bench is: its options, what it prints, its section of the documents."""

import argparse
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import report
from edge_rig import PROJECT
from report import Result

DOCUMENT = PROJECT / "docs" / "performance.md"
# Measures one part, less of it if asked to be quick.
Part = Callable[[bool], Iterator[Result]]


def make_parser(doc: str | None, parts: Collection[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, for a first look")
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=list(parts), help="some parts only"
    )
    parser.add_argument(
        "--update-docs", action="store_true", help=f"writes the section of {DOCUMENT.name}"
    )
    return parser


def parse(
    parser: argparse.ArgumentParser, bench: str, whole: Mapping[str, object], arguments: list[str]
) -> argparse.Namespace:
    """whole: the options, with their values, without which it is not the whole bench."""
    options = parser.parse_args(arguments)
    whole = {"quick": False, **whole}
    if options.update_docs and any(getattr(options, name) != whole[name] for name in whole):
        parser.error(f"--update-docs wants the whole bench: no --{', --'.join(whole)}")
    if options.update_docs and not report.has_markers(DOCUMENT, bench):
        parser.error(f"{DOCUMENT} lacks the markers of a section bench:{bench}")
    return options


def end_in_order() -> None:
    """So that what was started goes too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def conclude(
    options: argparse.Namespace,
    bench: str,
    results: Iterable[Result],
    method: str,
    machine: dict[str, str],
) -> int:
    """Prints the page, and writes it down if asked to; status 0: every goal was met."""
    results = list(results)
    text = report.page(results, method, machine)
    print(text)
    if options.update_docs:
        report.update(DOCUMENT, bench, text)
    return 0 if all(goal.met for result in results for goal in result.goals) else 1


def run(
    bench: str,
    doc: str | None,
    parts: Mapping[str, Part],
    method: str,
    machine_facts: Callable[[], dict[str, str]],
) -> int:
    """A bench of parts that know nothing of each other, from its arguments to its status."""
    parser = make_parser(doc, parts)
    options = parse(parser, bench, {"only": list(parts)}, sys.argv[1:])
    end_in_order()
    results = []
    for name in options.only:
        for result in parts[name](options.quick):
            results.append(result)
            for goal in result.goals:
                print(f"{name}: {goal.figure}: {goal.measured}", file=sys.stderr, flush=True)
    return conclude(options, bench, results, method, machine_facts())

"""Every bench, one after the other, and one table of all their figures.

    ./dev bench all [--quick] [--update-docs] [--table]

Each prints its own page. With --update-docs each writes its section of docs/performance.md, and the
table on top of that is made of them; --table makes the table alone, of what is written there.
Status 0: every goal of every bench was met. Half an hour; the soak is not among them.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import report
from command import DOCUMENT

BENCHES = ("edge", "store", "fsct", "flipper", "libipc", "appview", "start")
HEAD = ("figure", "goal", "measured", "verdict")
SECTION = re.compile(
    rf"{report.START.format('([a-z]+)')}\n(.*?){report.END.format('[a-z]+')}", re.DOTALL
)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    passed = [f"--{name.replace('_', '-')}" for name in ("quick", "update_docs")
              if getattr(options, name)]  # fmt: skip
    failed = [] if options.table else [name for name in BENCHES if not measure(name, passed)]
    if options.table or options.update_docs:
        report.update(DOCUMENT, "all", table(DOCUMENT.read_text()))
    if failed:
        print(f"a goal was missed in: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--update-docs", action="store_true", help=f"writes {DOCUMENT.name}")
    parser.add_argument("--table", action="store_true", help="measures nothing, writes the table")
    options = parser.parse_args(arguments)
    if options.quick and options.update_docs:
        parser.error("--update-docs wants the whole benches: no --quick")
    return options


def measure(name: str, arguments: list[str]) -> bool:
    print(f"\n# {name}\n", flush=True)
    script = Path(__file__).with_name(f"{name}.py")
    return subprocess.run([sys.executable, str(script), *arguments], check=False).returncode == 0


def table(text: str) -> str:
    """Of all figures that have a goal, in the order of the sections."""
    rows = list(figures(text))
    missed = sum("missed" in row[-1] for row in rows)
    found = report.markdown_table(("bench", *HEAD), rows)
    return f"{len(rows)} figures, of which {missed} missed their goal.\n\n{found}\n"


def figures(text: str) -> Iterator[tuple[str, ...]]:
    for name, section in SECTION.findall(text):
        if name == "all":
            continue
        lines = iter(section.splitlines())
        for line in lines:
            if line == row_of(HEAD):
                next(lines)  # the rule below the head
                break
        for line in lines:
            if not line.startswith("| "):
                break
            yield name, *line.strip("| ").split(" | ")


def row_of(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

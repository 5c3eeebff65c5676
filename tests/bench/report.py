"""Goals, tables, and the page that they make."""

import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

START = "<!-- bench:{} -->"
END = "<!-- /bench:{} -->"


@dataclass(frozen=True)
class Goal:
    """One figure with the goal it was held against; `met` is None when it was not measured."""

    figure: str
    goal: str
    measured: str = "-"
    met: bool | None = None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "**missed**", None: "not run"}[self.met]


@dataclass(frozen=True)
class Table:
    """Figures without a goal, for comparison."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Result:
    """What one part of the bench found."""

    goals: list[Goal] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(results: Iterable[Result], method: str, machine: dict[str, str]) -> str:
    """The whole section in Markdown."""
    results = list(results)
    goals = [
        (goal.figure, goal.goal, goal.measured, goal.verdict)
        for result in results
        for goal in result.goals
    ]
    parts = [
        ", ".join(f"{name} {value}" for name, value in machine.items()) + ".",
        method,
        markdown_table(("figure", "goal", "measured", "verdict"), goals),
    ]
    for table in (table for result in results for table in result.tables):
        parts += [f"**{table.title}**", markdown_table(table.head, table.rows)]
    return "\n\n".join(parts) + "\n"


def as_json(results: dict[str, Result], machine: dict[str, str]) -> dict[str, Any]:
    return {"machine": machine, "parts": {name: asdict(result) for name, result in results.items()}}


def machine_facts(*libraries: str) -> dict[str, str]:
    """What the figures depend on, these libraries of Python too; not the name of the host."""
    processors = Path("/proc/cpuinfo").read_text()
    models = re.findall(r"^model name\s*: (.*)$", processors, re.MULTILINE)
    facts = {
        "CPU": f"{models[0] if models else platform.machine()} x {len(models) or '?'}",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "dbus-daemon": last_word("dbus-daemon", "--version"),
    }
    return facts | {name: importlib.metadata.version(name) for name in libraries}


def has_markers(document: Path, bench: str) -> bool:
    """Whether the document has a section for this bench, whose name is in the markers."""
    start, end = START.format(bench), END.format(bench)
    return document.is_file() and start in (text := document.read_text()) and end in text


def update(document: Path, bench: str, text: str) -> None:
    """Replaces what stands between the markers."""
    start, end = START.format(bench), END.format(bench)
    before, _, rest = document.read_text().partition(start)
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{start}\n\n{text}\n{end}{after}")


def last_word(*command: str) -> str:
    """Of the first line that this prints: as a rule, its version."""
    first_line = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]
    return first_line.split()[-1]

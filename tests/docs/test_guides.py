"""What the guides say, done: every command, in order, on one bus, prints what the guide prints."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from client.private_bus import PrivateBus

pytestmark = pytest.mark.tools

ROOT = Path(__file__).parents[2]
READY = ROOT / ".venv/.ready-run"
GUIDES = ["docs/guide-store.md", "README.md"]
# Fenced blocks are written to these files, which the commands after them use.
FILES = {"c": "example.c", "python": "example.py"}
# A shell that goes on for ever, and what says something in its own time.
NOT_RUN = re.compile(r"\./dev run$|.*&$")
# What they print is another thing each time; the guide does not show it.
SAYS_MORE = {"buswork status"}
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
COMMAND = "    $ "
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@dataclass
class Step:
    """A command and what it prints; or a file, for the commands after it."""

    command: str = ""
    printed: list[str] = field(default_factory=list)
    file: str = ""
    content: str = ""


def steps(text: str) -> Iterator[Step]:
    at = 0
    for fence in FENCE.finditer(text):
        yield from _commands(text[at : fence.start()])
        if fence[1] in FILES:
            yield Step(file=FILES[fence[1]], content=fence[2])
        at = fence.end()
    yield from _commands(text[at:])


def _commands(text: str) -> Iterator[Step]:
    step: Step | None = None
    for line in [*text.splitlines(), ""]:
        if step is not None and line.startswith("    ") and not line.startswith(COMMAND):
            step.printed.append(line[4:])
            continue
        if step is not None and not NOT_RUN.match(step.command):
            yield step
        step = Step(line.removeprefix(COMMAND)) if line.startswith(COMMAND) else None


def script(guide: list[Step], folder: Path) -> str:
    """One shell for all; what each command prints is kept apart."""
    lines = []
    for number, step in enumerate(guide):
        if step.file:
            (folder / f"{number}").write_text(step.content)
            lines.append(f"cp {number} {step.file}")
        else:
            lines.append(
                f"{{ {step.command}\n}} >{number}.out 2>&1 </dev/null; echo $? >{number}.status"
            )
    return "\n".join(lines)


def on_a_private_bus(folder: Path, text: str) -> None:
    """With what ./dev gives to a shell."""
    with PrivateBus() as bus:
        bus.start_daemon()
        environment = bus.environment | {
            "MAPIPC_SET": f"{bus.folder}/mapipc_set",
            "MAPIPC_GET": f"{bus.folder}/mapipc_get",
            "PATH": PATH,
        }
        subprocess.run(["sh", "-c", text], cwd=folder, env=environment, check=True, timeout=60)


def by_dev(folder: Path, text: str) -> None:
    if not READY.exists():
        pytest.skip("./dev run was never used here, and would install something first")
    command = [ROOT / "dev", "run", "--", "sh", "-c", text]
    subprocess.run(command, cwd=folder, check=True, timeout=120, stdin=subprocess.DEVNULL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the reader of a guide is: beside src."""
    (tmp_path / "src").symlink_to(ROOT / "src")
    return tmp_path


@pytest.mark.parametrize("run", [on_a_private_bus, by_dev], ids=lambda run: run.__name__)
@pytest.mark.parametrize("guide", GUIDES)
def test_the_commands_print_what_the_guide_says(guide, run, folder):
    found = list(steps((ROOT / guide).read_text()))
    commands = [step for step in found if step.command]
    assert len(commands) >= 4, "the guide lost its commands"
    programs = {step.command.split()[0] for step in commands}
    missing = {
        each for each in programs if "/" not in each and shutil.which(each, path=PATH) is None
    }
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")
    run(folder, script(found, folder))
    for number, step in enumerate(found):
        if not step.command:
            continue
        printed = (folder / f"{number}.out").read_text().splitlines()
        status = int((folder / f"{number}.status").read_text())
        if step.command in SAYS_MORE and not step.printed:
            assert (status, bool(printed)) == (0, True), step.command
        else:
            assert (step.command, printed, status) == (step.command, step.printed, 0)


def test_the_programs_of_the_readme_run(folder):
    programs = [step for step in steps((ROOT / "README.md").read_text()) if step.file]
    assert len(programs) == 2
    for program in programs:
        (folder / program.file).write_text(program.content)
        on_a_private_bus(folder, f"python {program.file} >printed")
        assert (folder / "printed").read_text() == "hello\n"


def test_a_guide_is_read_as_people_read_it():
    text = "# T\n\n    $ a b\n    1\n    2\n    $ c &\n\n```c\nint x;\n```\n\n    no\n    $ d\n"
    assert list(steps(text)) == [
        Step("a b", ["1", "2"]),
        Step(file="example.c", content="int x;\n"),
        Step("d"),
    ]

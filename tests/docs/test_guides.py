"""What the guides say, done: every command, in order, on one bus, prints what the guide prints."""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from client.private_bus import PrivateBus
from support.alone import alone_with_processes
from support.machine import CallError, Machine

from buswork import __version__

pytestmark = pytest.mark.tools

ROOT = Path(__file__).parents[2]
READY = ROOT / ".venv/.ready-run"
GUIDES = [
    "docs/guide-store.md",
    "docs/guide-fsct.md",
    "docs/guide-flipper.md",
    "docs/guide-libipc.md",
    "docs/guide-appview.md",
    "README.md",
]
# Shows what it may look like on some machine.
SHOWS_AN_EXAMPLE = {"docs/doctor.md"}
# Fenced blocks are written to these files, which the commands after them use.
FILES = {"c": "example.c", "python": "example.py", "js": "example.js"}
# A shell that goes on for ever, and what was done before the tests began.
NOT_RUN = re.compile(r"\./dev run$|npm install ")
# What they print is another thing each time; the guide does not show it.
SAYS_MORE = {
    "buswork status",
    "buswork flipper info",
    "buswork ipc list",
    "buswork ipc pong --measure --count 1000",
    "buswork view ps",
    "buswork view ps --all",
    "buswork view inspect $VIEWED_PID",
    "buswork fsct players",
    "buswork fsct devices",
    "buswork fsct play --title Clocks --while buswork fsct display 1-1",
    "buswork fsct play --title Clocks --duration 307 --while buswork fsct display --watch",
    "dbus-run-session sh -c 'buswork-agent & sleep 1; exec mpv --no-video FILE'",
}
# A word for the commands after it, or one of the shell's own.
SETS = re.compile(r"\w+=|until |wait\b")
# What goes on until Ctrl-C: it is ended when it has shown something.
WATCHES = re.compile(r" --watch$")
# Displays show a moment later what they are told.
FILLS = re.compile(r"buswork fsct play ")
# Who tried more, or could try less, has other numbers.
PLAYER = re.compile(r"\bplayer \d+\b")
# Any file will do; there need not be a loudspeaker.
SONG = ("FILE'", "--ao=null song.wav'")
# Modules of other people's that an example may import: where they are missing, it is left out.
MODULES = re.compile(r"^(?:from|import) (pynvim)\b", re.MULTILINE)
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
COMMAND = "    $ "

TECHNOLOGY = "Ferrum Streaming Control Technology™"
ATTRIBUTION = [f"Supports {TECHNOLOGY}.", f"{TECHNOLOGY} is a trademark of HEM Sp. z o.o."]
DOCUMENTS = [ROOT / "README.md", ROOT / "NOTICE", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")]
RUN_BY = tuple(f" {name}" for name in FILES.values())
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
UNICODE = {"LC_ALL": "C.UTF-8"}  # trees are drawn with lines, as on most terminals


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
        if step is not None and _is_run(step):
            yield step
        step = Step(line.removeprefix(COMMAND)) if line.startswith(COMMAND) else None


def _is_run(step: Step) -> bool:
    """What goes on in the background and says nothing first says something in its own time."""
    is_background = step.command.endswith("&")
    return not NOT_RUN.match(step.command) and (bool(step.printed) or not is_background)


def without_missing(guide: list[Step], *, node: bool) -> Iterator[Step]:
    """Leaves out examples that take what is not installed, and the commands that run them."""
    lacks = False
    for step in guide:
        if step.file:
            modules = MODULES.findall(step.content)
            lacks = any(importlib.util.find_spec(name) is None for name in modules)
            lacks = lacks or (step.file.endswith(".js") and not node)
        is_left_out = lacks and (step.file or step.command.endswith(RUN_BY))
        if not is_left_out and ("mpv" not in step.command or shutil.which("mpv")):
            yield step


def script(guide: list[Step], folder: Path) -> str:
    """One shell for all; what each command prints is kept apart."""
    lines = []
    for number, step in enumerate(guide):
        if step.file:
            (folder / f"{number}").write_text(step.content)
            lines.append(f"cp {number} {step.file}")
        elif WATCHES.search(step.command):
            lines += [
                f"( {step.command} >{number}.out 2>&1 </dev/null &",
                f"until [ -s {number}.out ]; do sleep 0.1; done; kill $!; wait $! )",
                f"echo 0 >{number}.status",
            ]
        elif step.command.endswith("&"):
            # The next command comes when this one has said what the guide shows.
            said = f"$(wc -l <{number}.out) -ge {len(step.printed)}"
            moment = 0.5 if FILLS.match(step.command) else 0
            lines += [
                f": >{number}.out; >{number}.out 2>&1 </dev/null {step.command}",
                f"until [ {said} ]; do sleep 0.1; done; sleep {moment}",
                f"echo 0 >{number}.status",
            ]
        else:
            command = step.command.replace(*SONG)
            lines.append(
                f"{{ {command}\n}} >{number}.out 2>&1 </dev/null; echo $? >{number}.status"
            )
    return "\n".join(lines)


def free_port(kind: int = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def doors(bus: PrivateBus) -> Iterator[dict[str, str]]:
    """The process that has the IP sockets, with a board and doors; what tells where they are."""
    board, door, me = free_port(), free_port(), str(os.getuid())
    tcp, websocket = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)
    words = ["--daemon", me, "--serve-uid", me, "--socket", f"{bus.folder}/doors.sock"]
    words += ["--fmr-socket", f"{bus.folder}/fmr.sock"]
    words += ["--simulate-board", str(board), "--fmr-door", f"bench={door}"]
    words += ["--ipc-tcp", f"{tcp}=c", "--ipc-ws", str(websocket), "--ipc-service", "pong"]
    words += ["--ipc-dial", f"localhost:{tcp}", "--ipc-socket", f"{bus.folder}/ipc.sock"]
    with service(bus, "buswork.doors", *words):
        yield {
            "FLIPPER_BOARD": f"localhost:{board}",
            "FLIPPER_DOOR": f"localhost:{door}",
            "IPC_TCP": f"localhost:{tcp}",
            "IPC_WS": f"ws://localhost:{websocket}",
        }


@contextlib.contextmanager
def viewed(bus: PrivateBus) -> Iterator[dict[str, str]]:
    """The process that asks viewed processes, with one of them; what tells which it is."""
    simulated = subprocess.Popen(
        [sys.executable, "-m", "buswork.sim.viewed", "--period", "1"],
        env=bus.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert simulated.stdout is not None
        pid = simulated.stdout.readline().strip()
        with alone_with_processes(), service(bus, "buswork.appviewd"):
            yield {"VIEWED_PID": pid}
    finally:
        simulated.communicate()


@contextlib.contextmanager
def service(bus: PrivateBus, module: str, *words: str) -> Iterator[None]:
    """While this runs beside the daemon."""
    told = bus.folder / f"{module}-notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
        notes.bind(str(told))
        notes.settimeout(20)
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            env=bus.environment | {"NOTIFY_SOCKET": str(told)},
        )
        try:
            while b"READY=1" not in notes.recv(65536):
                pass
            yield
        finally:
            process.terminate()
            process.wait()


def on_a_private_bus(folder: Path, text: str) -> None:
    """With what ./dev gives to a shell."""
    with PrivateBus() as bus:
        bus.start_daemon("--simulate")
        is_about_processes = "buswork view" in text
        with (
            doors(bus) as boards,
            viewed(bus) if is_about_processes else contextlib.nullcontext({}) as processes,
        ):
            _run(folder, text, bus, boards | processes)


def _run(folder: Path, text: str, bus: PrivateBus, places: dict[str, str]) -> None:
    environment = bus.environment | {
        "FSCT_IPC_ENDPOINT": f"{bus.folder}/fsct.sock",
        "MAPIPC_SET": f"{bus.folder}/mapipc_set",
        "MAPIPC_GET": f"{bus.folder}/mapipc_get",
        "IPC_RUNDIR": f"{bus.folder}/ipc-c",
        "RUNDIR": f"{bus.folder}/ipc-zig",
        "PATH": PATH,
        **UNICODE,
        **places,
    }
    subprocess.run(["sh", "-c", text], cwd=folder, env=environment, check=True, timeout=120)


def is_ready() -> bool:
    """Whether ./dev run would start at once here, and install nothing first; see its `ensure`."""
    files = [ROOT / name for name in ("dev", "pyproject.toml", "requirements-dev.txt")]
    content = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    state = f"{ROOT} {os.geteuid()} {content}  -\n"
    return READY.exists() and READY.read_text() == state


def by_dev(folder: Path, text: str) -> None:
    """As its reader does it."""
    command = [ROOT / "dev", "run", "--", "sh", "-c", text]
    environment = os.environ | UNICODE
    subprocess.run(
        command, cwd=folder, env=environment, check=True, timeout=120, stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """What the guides install with npm; None where that is not possible."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return None
    folder = tmp_path_factory.mktemp("node")
    texts = "".join((ROOT / guide).read_text() for guide in GUIDES)
    packages = re.findall(r"^    \$ npm install (\S+)$", texts, re.MULTILINE)
    options = ["--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--prefix", folder]
    done = subprocess.run(["npm", "install", *options, *packages], check=False, timeout=300)
    return folder / "node_modules" if done.returncode == 0 else None


@pytest.fixture
def folder(tmp_path: Path, node_modules: Path | None) -> Path:
    """Where the reader of a guide is: beside src, and after npm."""
    for name in ("src", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    with wave.open(str(tmp_path / "song.wav"), "wb") as song:
        song.setparams((1, 1, 8000, 0, "NONE", ""))
        song.writeframes(bytes([128]) * 8000)
    if node_modules is not None:
        (tmp_path / "node_modules").symlink_to(node_modules)
    return tmp_path


@pytest.mark.parametrize("guide", GUIDES)
def test_the_commands_print_what_the_guide_says(guide, folder):
    found = list(steps((ROOT / guide).read_text()))
    found = list(without_missing(found, node=(folder / "node_modules").exists()))
    commands = [step for step in found if step.command]
    assert len(commands) >= 4, "the guide lost its commands"
    programs = {step.command.split()[0] for step in commands if not SETS.match(step.command)}
    missing = {
        each for each in programs if "/" not in each and shutil.which(each, path=PATH) is None
    }
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")
    run = by_dev if is_ready() else on_a_private_bus
    run(folder, script(found, folder))
    for number, step in enumerate(found):
        if not step.command:
            continue
        printed = (folder / f"{number}.out").read_text().splitlines()
        status = int((folder / f"{number}.status").read_text())
        if step.command in SAYS_MORE and not step.printed:
            assert (status, bool(printed)) == (0, True), step.command
        else:
            said, shown = (
                [PLAYER.sub("player N", line) for line in lines]
                for lines in (printed, step.printed)
            )
            assert (step.command, said, status) == (step.command, shown, 0)


def test_it_is_known_when_dev_would_start_at_once(tmp_path, monkeypatch):
    (state,) = re.findall(r"^ +state=(.*)$", (ROOT / "dev").read_text(), re.MULTILINE)
    script = f"printf '%s\\n' {state}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, check=True)
    stamp = tmp_path / "stamp"
    monkeypatch.setattr(sys.modules[__name__], "READY", stamp)
    assert not is_ready()
    stamp.write_bytes(done.stdout)
    assert is_ready()
    stamp.write_bytes(done.stdout + b"x")
    assert not is_ready()


def test_whatever_shows_commands_is_among_them():
    shown = {
        str(path.relative_to(ROOT))
        for path in [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
        if any(line.startswith(COMMAND) for line in path.read_text().splitlines())
    }
    assert shown == set(GUIDES) | SHOWS_AN_EXAMPLE


def test_the_programs_of_the_readme_run(folder):
    programs = [step for step in steps((ROOT / "README.md").read_text()) if step.file]
    assert len(programs) == 2
    for number, program in enumerate(programs):
        (folder / f"{number}.py").write_text(program.content)
    with PrivateBus() as bus:
        bus.start_daemon()
        _run(folder, "python 0.py >printed; python 1.py >>printed", bus, {})
    assert (folder / "printed").read_text() == "hello\nhello\n"


def test_a_guide_is_read_as_people_read_it():
    text = "# T\n\n    $ a b\n    1\n    2\n    $ c &\n\n```c\nint x;\n```\n\n"
    text += "    no\n    $ d &\n    3\n"
    assert list(steps(text)) == [
        Step("a b", ["1", "2"]),
        Step(file="example.c", content="int x;\n"),
        Step("d &", ["3"]),
    ]


def test_examples_for_what_is_missing_are_left_out():
    script = Step(file="example.js", content="x")
    rest = [Step("a"), Step(file="example.py", content="import os\n"), Step("python example.py")]
    guide = [Step("b"), script, Step("node example.js"), *rest]
    assert list(without_missing(guide, node=True)) == guide
    assert list(without_missing(guide, node=False)) == [Step("b"), *rest]


@pytest.mark.parametrize(("where", "left"), [("/usr/bin/mpv", 2), (None, 1)])
def test_songs_are_played_where_there_is_a_player(where, left, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: where)
    guide = [Step("sh -c 'mpv FILE'"), Step("b")]
    assert list(without_missing(guide, node=True)) == guide[-left:]
    assert "mpv --ao=null song.wav'" in script(guide, ROOT)


def test_what_goes_on_for_ever_is_ended_when_it_has_shown_something(tmp_path):
    shown = "sh -c 'echo shown; exec sleep 1000' --watch"
    text = script([Step(shown), Step("kill $!")], tmp_path)
    command = f"sleep 1000 >/dev/null 2>&1 &\n{text}"
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=30)
    assert (tmp_path / "0.out").read_text() == "shown\n"
    assert (tmp_path / "1.status").read_text() == "0\n"  # still of the one before


@pytest.mark.system
def test_the_rule_of_the_guide_lets_a_service_choose():
    guide = (ROOT / "docs/guide-fsct.md").read_text()
    (rule,) = re.findall(r"```javascript\n(.*?)```", guide, re.DOTALL)
    driver = ("/org/fsct/Driver", "org.fsct.Driver")
    with Machine() as machine:
        machine.start_daemon("--simulate")
        alice, bob = machine.client("alice"), machine.client("bob")
        (player,) = alice.call(*driver, "RegisterPlayer", "s", "server").body
        with pytest.raises(CallError, match=r"driver\.route"):
            alice.call(*driver, "SetPreferredPlayer", "u", player)
        machine.add_rule(rule.replace('"mpd"', '"alice"'))
        alice.call(*driver, "SetPreferredPlayer", "u", player)
        (other,) = bob.call(*driver, "RegisterPlayer", "s", "other").body
        with pytest.raises(CallError, match=r"driver\.route"):
            bob.call(*driver, "SetPreferredPlayer", "u", other)
        with pytest.raises(CallError, match=r"driver\.manage"):
            alice.call(*driver, "SetPreferredPlayer", "u", other)


# -- what the owner of a technology wants ----------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_names_the_technology_before_it_abbreviates(document):
    text = " ".join(document.read_text().split())
    abbreviated = re.search(r"\bFSCT\b", text)
    assert abbreviated is None or TECHNOLOGY in text[: abbreviated.start()]


@pytest.mark.parametrize("name", ["README.md", "NOTICE", "docs/guide-fsct.md"])
def test_the_owner_is_named(name):
    text = " ".join((ROOT / name).read_text().split())
    assert all(sentence in text for sentence in ATTRIBUTION)


@pytest.mark.parametrize(("encoding", "mark"), [("utf-8", "™"), ("latin-1", "(TM)")])
def test_the_command_names_the_owner_below_its_version(encoding, mark):
    command = [sys.executable, "-m", "buswork.cli", "--version"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    first, *rest = done.stdout.decode(encoding).splitlines()
    assert first == f"buswork {__version__}"
    assert rest[-2:] == [sentence.replace("™", mark) for sentence in ATTRIBUTION]

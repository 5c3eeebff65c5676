import importlib
import os
import pathlib
import pty
import select
import shutil
import subprocess
import sys
import time
import tomllib

import pytest
from cli.services import Services

from buswork.cli import generate
from buswork.cli.exits import MEANINGS

# Keys that would run something, or be an option, if they came onto a command line.
EVIL = ["lamp/$(touch /tmp/buswork-pwned)", "lamp/`id`", "lamp/;id", "lamp/a b", "-rf", "~root/x"]
BIN = pathlib.Path(sys.executable).parent
REPOSITORY = pathlib.Path(__file__).parents[2]


def test_man_pages(tmp_path):
    command, daemon, appview, doors, *others = generate.write("man", tmp_path / "man")
    names = (command.name, daemon.name, appview.name, doors.name)
    assert names == ("buswork.1", "busworkd.8", "buswork-appview.8", "buswork-doors.8")
    assert {other.name for other in others} == {
        "buswork-agent.1",
        "globstash.1",
        "mapipc.1",
        "buswork-probe-fsct.8",
    }
    text = command.read_text()
    assert ".SH EXIT STATUS" in text
    for meaning in MEANINGS.values():
        assert meaning.split(" ")[0] in text
    assert "buswork store set" in text
    assert r"\-\-limit" in daemon.read_text()
    assert r"\-\-tmp\-sockets" not in appview.read_text()
    assert r"\-\-fmr\-door" in doors.read_text()


def test_every_program_has_a_man_page():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert {*generate.PROGRAMS, *generate.SMALL_PROGRAMS} == {*project["scripts"]}


@pytest.mark.skipif(not shutil.which("groff"), reason="not installed: groff")
@pytest.mark.parametrize("program", generate.SMALL_PROGRAMS)
def test_man_pages_of_small_programs(program, tmp_path):
    """What they say is there, and nothing of it is taken for a command of roff."""
    argv = ["groff", "-man", "-Tascii", "-ww", "-P-cbou"]
    page = generate.small_man_page(program)
    done = subprocess.run(argv, input=page, capture_output=True, text=True, check=True)
    assert not done.stderr
    module = importlib.import_module(generate.SMALL_PROGRAMS[program][0])
    said = module.__doc__ + getattr(module, "USAGE", "") + getattr(module, "HELP", "")
    for word in said.split("\n", 1)[1].split():
        assert word in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_read_it(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"not installed: {shell}")
    for file in generate.write(shell, tmp_path):
        subprocess.run([shell, "-n", file], check=True)


@pytest.fixture(scope="module")
def keys(shared_bus):
    for key in ("lamp/1", "lamp/2", "lantern/only", *EVIL):
        shared_bus.run("store", "set", "-k", key, "--", "the light is on")
    return shared_bus


def environment(bus):
    return bus.environment | {"PATH": f"{BIN}:{os.environ['PATH']}"}


def complete_in_bash(bus, folder, *words):
    script = 'source "$1/buswork"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
    script += '_shtab_buswork; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", folder, *words],
        env=environment(bus),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_bash(keys, tmp_path):
    generate.write("bash", tmp_path)
    assert complete_in_bash(keys, tmp_path, "buswork", "st") == ["status", "store"]
    words = ("buswork", "store", "get")
    assert complete_in_bash(keys, tmp_path, *words, "lam") == ["lamp/1", "lamp/2"]
    assert "--require" in complete_in_bash(keys, tmp_path, *words, "--")
    offered = complete_in_bash(keys, tmp_path, *words, "")
    assert not set(offered) & set(EVIL)
    assert not os.path.exists("/tmp/buswork-pwned")


def test_boards_and_modules(boards, tmp_path):
    generate.write("bash", tmp_path)
    words = ("buswork", "flipper")
    offered = complete_in_bash(boards, tmp_path, *words, "lend", "")
    assert sorted(offered) == ["bench", "carbon-1-3"]
    assert complete_in_bash(boards, tmp_path, *words, "call", "le") == ["led"]
    assert complete_in_bash(boards, tmp_path, *words, "info", "--board", "car") == ["carbon-1-3"]


def test_services(tmp_path):
    generate.write("bash", tmp_path)
    with Services() as services, services.running("pong"), services.running("pong", "zig:echo"):
        for words in (("send",), ("listen",), ("bridge", "-")):
            offered = complete_in_bash(services, tmp_path, "buswork", "ipc", *words, "")
            assert {"echo", "pong"} <= set(offered)
        assert complete_in_bash(services, tmp_path, "buswork", "ipc", "li") == ["list", "listen"]


def test_fish(keys, tmp_path):
    if shutil.which("fish") is None:
        pytest.skip("not installed: fish")
    generate.write("fish", tmp_path)
    script = f'source {tmp_path}/buswork.fish; complete -C "buswork store get lam"'
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env=environment(keys) | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["lamp/1", "lamp/2"]


def test_zsh(keys, tmp_path):
    """As people have it: a terminal, compinit, and the tabulator key."""
    if shutil.which("zsh") is None:
        pytest.skip("not installed: zsh")
    generate.write("zsh", tmp_path)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["zsh", "-f", "-i"],
        env=environment(keys) | {"TERM": "xterm", "HOME": str(tmp_path), "PS1": "% "},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as shell:
        os.close(theirs)
        os.write(
            ours,
            b"fpath=(%s $fpath); autoload -U compinit; compinit -u -D; echo re''ady\n"
            % bytes(tmp_path),
        )
        read_until(ours, b"ready")
        os.write(ours, b"buswork store get lant\t\n")
        assert b"the light is on" in read_until(ours, b"the light is on")
        shell.kill()
    os.close(ours)


def read_until(terminal: int, text: bytes) -> bytes:
    seen, deadline = b"", time.monotonic() + 20
    while text not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, seen
        seen += os.read(terminal, 4096)
    return seen

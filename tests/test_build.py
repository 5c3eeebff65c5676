"""packaging/build.py. What it builds, tests/system/test_package.py installs."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

from buswork.installation import activation
from buswork.installation.activation import Step

FILE = Path(__file__).parents[1] / "packaging/build.py"
SCRIPTS = ("postinst", "prerm", "postrm")


@pytest.fixture
def build():
    spec = importlib.util.spec_from_file_location("build", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_shell_can_read_the_scripts(build, name):
    text = build.script(name)
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    assert text.startswith("#!/bin/sh\nset -e\n")
    assert "@" not in text


def test_they_have_the_steps_of_install(build):
    text = "".join(map(build.script, SCRIPTS))
    for steps in (activation.AFTER_INSTALL, activation.AFTER_REMOVAL, activation.PURGE):
        for step in steps:
            assert f"        {' '.join(step.words)} || echo " in text
    for unit in (*activation.SOCKETS, *activation.OFF_AT_FIRST, *activation.SERVICES):
        assert text.count(unit) > 1


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Step(("echo", "it's done")), "it's done\n"),
        (Step(("false",)), "buswork: failed: false\n"),
        (Step(("echo", "no"), ("/no/such file",)), ""),
        (Step(("no-such-tool",)), ""),
    ],
)
def test_a_step_in_a_script(build, step, said):
    """It is left out, or complained about; the script goes on."""
    text = f"set -e\n{build._shell([step])}\necho end"
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.removesuffix("end\n") + done.stderr == said
    assert done.stdout.endswith("end\n")


TOOLS = ("deb-systemd-helper", "deb-systemd-invoke", "py3clean", "py3compile", "systemd-sysusers")


@pytest.fixture
def called(build, tmp_path):
    """What a script calls when dpkg runs it with these words; no other command is there for it."""
    for tool in TOOLS:
        (tmp_path / tool).write_text(f'#!/bin/sh\necho "{tool} $*" >>"$PATH/calls"\n')
        (tmp_path / tool).chmod(0o755)

    def called(name, words):
        command = ["/bin/sh", "-c", build.script(name), name, *words.split()]
        (tmp_path / "calls").write_text("")
        done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return (tmp_path / "calls").read_text().splitlines()

    return called


GIVEN_UP = ["abort-upgrade 2", "abort-remove", "abort-remove in-favour x 1"]
GIVEN_UP += ["abort-deconfigure in-favour x 1 removing y 1"]


@pytest.mark.parametrize("words", GIVEN_UP)
def test_what_was_given_up_is_put_back(called, words):
    """A removal has stopped the sockets, and an upgrade has removed what was compiled."""
    calls = called("postinst", words)
    assert calls == called("postinst", f"configure {words.partition(' ')[2]}")
    assert f"deb-systemd-helper enable {activation.SOCKETS[0]}" in calls


def test_what_is_no_removal_stops_nothing(called):
    for words in ("upgrade 2", "deconfigure in-favour x 1", "failed-upgrade 1"):
        assert called("prerm", words) == ["py3clean -p buswork"]
    for words in ("upgrade 2", "failed-upgrade 1", "abort-install", "abort-upgrade 1", "disappear"):
        assert called("postrm", words) == []
    assert called("postinst", "triggered x") == []


def test_a_purge_forgets_what_was_enabled(called):
    system, users = called("postrm", "purge")
    for unit in (*activation.SOCKETS, *activation.ENABLED_BY_HAND):
        assert f" {unit}" in system
    assert users == f"deb-systemd-helper --user purge {' '.join(activation.OF_SESSIONS)}"


def test_dependencies_are_debians_or_as_they_are_pinned(build, monkeypatch):
    assert list(build._carried()) == ["cbor2", "websockets"]

    class Other:
        version = "0"

    monkeypatch.setattr(build, "distribution", lambda name: Other)
    with pytest.raises(build.BuildError, match=r"cbor2 is 0 here, and not \d"):
        list(build._carried())


def test_what_is_compiled_has_to_fit(build, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "_debians_python", lambda: ("3", "10"))
    with pytest.raises(build.BuildError, match="cbor2 is compiled, and for another Python"):
        build._copy(build.distribution("cbor2"), tmp_path)


def test_why_it_can_not_be_built(build, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(build.sys, "argv", ["build.py", "--output", str(tmp_path)])
    monkeypatch.setattr(build, "PYTHON", "/no/such/python")
    monkeypatch.setattr(build, "_unpack_wheel", lambda *_: None)
    assert build.main() == 69
    said = capsys.readouterr().err
    assert said.startswith("build.py: ")
    assert "/no/such/python" in said


def test_what_fails_is_shown(build):
    with pytest.raises(build.BuildError, match=r"(?s)sh -c .* failed:\noops"):
        build._run("sh", "-c", "echo oops; exit 1")

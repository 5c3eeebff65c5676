import argparse
from pathlib import Path

import pytest

from buswork.cli.ipc_reach import named, rundirs
from buswork.libipc import Form, RunDir

BOTH = [Form.C, Form.ZIG]


@pytest.mark.parametrize(
    ("form", "word", "forms", "name"),
    [
        (None, "pong", BOTH, "pong"),
        (None, "c:pong", [Form.C], "pong"),
        (None, "zig:a:b", [Form.ZIG], "a:b"),
        (None, "tcp:pong", BOTH, "tcp:pong"),
        (None, "zig:", BOTH, "zig:"),
        ("c", "zig:pong", [Form.C], "zig:pong"),
        ("zig", "pong", [Form.ZIG], "pong"),
    ],
)
def test_a_name_may_say_its_form(form, word, forms, name):
    assert named(word, argparse.Namespace(form=form)) == (forms, name)


def test_directories_are_those_of_the_environment(monkeypatch):
    monkeypatch.setenv("IPC_RUNDIR", "/run/other")
    monkeypatch.setenv("RUNDIR", "")
    assert rundirs(Form.C) == [RunDir(Path("/run/other"), Form.C)]
    found = [str(rundir.path) for rundir in rundirs(Form.ZIG)]
    assert found == ["/tmp/.libipc-run", "/tmp/libipc-run"]

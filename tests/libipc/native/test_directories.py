"""Where run directories are."""

import argparse
import os

import pytest

from buswork.libipc.model.terms import RunDirectory
from buswork.libipc.native.directories import (
    DEFAULTS,
    add_options,
    directories,
    make,
    named,
    unusable,
)
from buswork.libipc.wire.forms import Form


def test_where_the_originals_have_them():
    assert directories(None, []) == directories([], []) == list(DEFAULTS)
    assert [path for form, path in DEFAULTS if form is Form.C] == ["/run/ipc"]


def test_beside_the_other_native_sockets(tmp_path):
    assert directories([tmp_path, tmp_path / "x"], []) == [
        RunDirectory(Form.C, f"{tmp_path}/ipc-c"),
        RunDirectory(Form.ZIG, f"{tmp_path}/ipc-zig"),
    ]


def test_those_that_are_named_and_no_others(tmp_path):
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(["--ipc-rundir", "c=/a//b/", "--ipc-rundir", "zig=/c"])
    wanted = [RunDirectory(Form.C, "/a/b"), RunDirectory(Form.ZIG, "/c")]
    assert directories([tmp_path], options.ipc_rundir) == wanted
    assert directories(None, parser.parse_args([]).ipc_rundir) == list(DEFAULTS)


@pytest.mark.parametrize("text", ["", "c", "c=", "c=relative", "d=/x", "/x", "=/x"])
def test_what_names_none(text):
    with pytest.raises(argparse.ArgumentTypeError):
        named(text)


def test_what_is_missing_is_made_for_everybody(tmp_path):
    places = directories([tmp_path], [])
    os.mkdir(places[0].path, 0o750)
    make(places)
    assert [os.stat(place.path).st_mode & 0o7777 for place in places] == [0o750, 0o1777]


def test_what_can_not_be_made_is_left(tmp_path, caplog):
    caplog.set_level("INFO")
    make([RunDirectory(Form.C, f"{tmp_path}/none/ipc")])
    assert "can't be made" in caplog.text


def test_where_nobody_can_be_served(tmp_path, monkeypatch):
    places = [RunDirectory(Form.C, f"{tmp_path}/{name}") for name in ("good", "closed", "none")]
    for place in places[:2]:
        os.mkdir(place.path)
    # Root may write everywhere, whatever the mode.
    monkeypatch.setattr(os, "access", lambda path, *_, **__: not path.endswith("closed"))
    closed, none = unusable(places)
    assert closed == f"nothing can be served in {tmp_path}/closed: it is not ours to write to"
    assert none == f"nothing can be served in {tmp_path}/none: there is no such directory"

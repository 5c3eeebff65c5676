"""busworkd: its arguments, and the wings that it has."""

import dataclasses
import logging
from pathlib import Path

import pytest

from buswork import __version__, daemon
from buswork.authority import Limits
from buswork.daemon import make_parser
from buswork.service import DRAIN_SECONDS
from buswork.store.model.limits import Limits as StoreLimits


@pytest.fixture
def root_logger():
    """The root logger, which is as it was when the test is over."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_without_arguments_all_wings_serve_the_system_bus():
    options = make_parser().parse_args([])
    assert options.wings == list(daemon.WINGS)
    assert (options.bus, options.log_level) == ("system", "info")
    assert options.limits[""] == Limits()
    assert options.limits["store"] == StoreLimits()


def test_wings_are_named_once():
    assert make_parser().parse_args(["--wings", "store,store"]).wings == ["store"]


def test_limits_are_lifted_one_by_one():
    options = make_parser().parse_args(["--limit", "calls=1000", "--limit", "objects=5"])
    assert options.limits[""] == dataclasses.replace(Limits(), calls=1000, objects=5)
    assert make_parser().parse_args([]).limits[""] == Limits()


def test_every_limit_can_be_lifted():
    before = make_parser().parse_args([]).limits
    words = [
        f"{wing}.{field.name}".removeprefix(".")
        for wing, limits in before.items()
        for field in dataclasses.fields(limits)
    ]
    after = make_parser().parse_args([f"--limit={word}=7" for word in words]).limits
    assert set(after) == {"", *daemon.WINGS}
    for wing, limits in after.items():
        assert set(dataclasses.asdict(limits).values()) <= {7}, wing


@pytest.mark.parametrize(
    "arguments",
    [
        ["--limit", "calls"],
        ["--limit", "calls="],
        ["--limit", "calls=-1"],
        ["--limit", "calls=1.5"],
        ["--limit", "calls=x"],
        ["--limit", "nothing=5"],
        ["--limit", "=5"],
        ["--limit", "store.calls=5"],
        ["--limit", "keys_per_uid=5"],
        ["--limit", "store.=5"],
        ["--wings", "nothing"],
        ["--wings", ""],
        ["--wings", "store,"],
        ["--log-level", "loud"],
        ["--bsu", "system"],
        ["more"],
    ],
)
def test_wrong_arguments_are_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        daemon.main(arguments)
    assert caught.value.code == 2
    assert "usage: busworkd" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--limit", "x=1"], ["--wings", "x"]])
def test_wrong_arguments_are_told_what_there_is(capsys, arguments):
    with pytest.raises(SystemExit):
        make_parser().parse_args(arguments)
    known = "native_connections" if arguments[0] == "--limit" else "store"
    assert known in capsys.readouterr().err


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        daemon.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"busworkd {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "places"),
    [
        ([], {}, None),
        ([], {"NOTIFY_SOCKET": "/run/systemd/notify"}, []),
        ([], {"RUNTIME_DIRECTORY": "/run/a:/run/b"}, ["/run/a", "/run/b"]),
        (["--socket-dir", "/x"], {"RUNTIME_DIRECTORY": "/run/a"}, ["/x"]),
        (["--socket-dir", "/x", "--socket-dir", "/y"], {}, ["/x", "/y"]),
    ],
)
def test_where_sockets_are_made(monkeypatch, arguments, environment, places):
    for name in ("RUNTIME_DIRECTORY", "TMPDIR", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = make_parser().parse_args(arguments)
    found = daemon._socket_dirs(options)
    assert found == (None if places is None else [Path(place) for place in places])


@pytest.mark.parametrize("address", ["unix:path=/nonexistent/bus", "tcp:host=x", "nonsense"])
def test_without_a_bus_the_status_is_1(root_logger, capsys, address):
    assert daemon.main(["--bus", address]) == 1
    err = capsys.readouterr().err
    assert "no connection to the bus" in err
    assert "Traceback" not in err


def test_the_unit_waits_longer_than_calls_are_drained():
    unit = (Path(__file__).parents[1] / "systemd" / "buswork.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("TimeoutStopSec=")]
    assert int(line.removeprefix("TimeoutStopSec=").removesuffix("s")) > 2 * DRAIN_SECONDS

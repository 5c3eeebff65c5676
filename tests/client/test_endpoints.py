import logging
import os
import socket
import stat
from pathlib import Path

import pytest
from support.fakedriver import FakeDriver

from buswork.client import Disconnected
from buswork.client import endpoints as module
from buswork.client.endpoints import endpoints
from buswork.client.errors import AccessDenied
from buswork.client.fsct import IpcDriver
from buswork.client.link import Link


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The three usual places, in a folder of the test; nothing is at any of them."""
    monkeypatch.delenv("FSCT_IPC_ENDPOINT", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "user"))
    monkeypatch.setattr(module, "SYSTEM_SOCKET", str(tmp_path / "run.sock"))
    monkeypatch.setattr(module, "TMP_SOCKET", str(tmp_path / "tmp.sock"))
    (tmp_path / "user" / "fsct").mkdir(parents=True)
    return tmp_path / "user" / "fsct" / "fsct.sock", tmp_path / "run.sock", tmp_path / "tmp.sock"


def make_socket(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    return sock


def test_the_variable_is_before_all_else(places, monkeypatch):
    with make_socket(places[0]):
        monkeypatch.setenv("FSCT_IPC_ENDPOINT", "/some/where")
        assert endpoints() == ["/some/where"]
        monkeypatch.setenv("FSCT_IPC_ENDPOINT", "  ")
        assert endpoints() == [str(places[0])]


def test_the_users_socket_then_the_systems_then_the_plans(places):
    assert endpoints() == []
    for path in reversed(places):
        make_socket(path).close()
    assert endpoints() == [str(path) for path in places]
    places[0].unlink()
    assert endpoints() == [str(path) for path in places[1:]]


def test_without_a_runtime_directory(places, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    make_socket(places[0]).close()
    make_socket(places[1]).close()
    assert endpoints() == [str(places[1])]


async def test_a_socket_that_nobody_serves_is_passed_over(places):
    make_socket(places[0]).close()
    async with FakeDriver(places[1]) as server, IpcDriver() as driver:
        await driver.register_player("radio")
        assert server.names() == ["radio"]


async def test_no_socket_anywhere(places):
    with pytest.raises(Disconnected, match="there is no socket of a driver"):
        await IpcDriver().open()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_in_tmp_only_a_socket_counts(places, kind):
    *_, path = places
    if kind == "file":
        path.write_bytes(b"")
    else:
        make_socket(path.with_name("elsewhere")).close()
        path.symlink_to(path.with_name("elsewhere"))
    assert endpoints() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_in_tmp_only_root_the_service_and_ourselves_are_trusted(places, monkeypatch, caplog):
    *_, path = places
    make_socket(path).close()
    assert endpoints() == [str(path)]
    os.chown(path, 12345, 12345)
    with caplog.at_level(logging.WARNING):
        assert endpoints() == []
    assert "it belongs to uid 12345" in caplog.text
    assert stat.S_ISSOCK(path.lstat().st_mode)

    class Entry:
        pw_uid = 12345

    monkeypatch.setattr(module.pwd, "getpwnam", lambda name: Entry)
    assert endpoints() == [str(path)]


async def test_whoever_answers_in_tmp_must_be_trusted_too(places, monkeypatch):
    """The name may have passed into other hands since it was looked at."""
    *_, path = places
    async with FakeDriver(path) as server:
        async with IpcDriver() as driver:
            assert await driver.get_protocol_version() == (1, 0)
        monkeypatch.setattr(module, "_is_trusted_file", lambda path: True)
        monkeypatch.setattr(module, "is_trusted", lambda uid: uid != os.geteuid())
        with pytest.raises(AccessDenied, match="not trusted"):
            await Link.open(str(path))
        with pytest.raises(Disconnected, match="not trusted"):
            await IpcDriver().open()
        await server.until(lambda: server.connections == 3 and not server._clients)
        assert len(server.log) == 2  # it was asked nothing

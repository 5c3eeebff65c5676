import asyncio
import os
import socket

import pytest

from buswork import systemd


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_what_is_said_is_one_datagram(manager):
    assert systemd.notify("READY=1", "STATUS=serving")
    assert manager.recv(1000) == b"READY=1\nSTATUS=serving"
    with pytest.raises(BlockingIOError):
        manager.recv(1000)


def test_an_abstract_socket_will_do(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"buswork-test-{os.getpid()}"
        sock.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert systemd.notify("WATCHDOG=1")
        assert sock.recv(1000) == b"WATCHDOG=1"


@pytest.mark.parametrize("name", ["", "/nonexistent/socket", "@buswork-test-nobody"])
def test_nobody_need_be_there(monkeypatch, name):
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert not systemd.notify("READY=1")


def test_no_manager_at_all(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", None, 30.0),
        ("500000", "own", 0.5),
        ("30000000", "1", None),
        (None, None, None),
        ("", None, None),
        ("soon", None, None),
        ("-5", None, None),
    ],
)
def test_how_often_the_manager_wants_to_hear_of_us(monkeypatch, usec, pid, seconds):
    values = {"WATCHDOG_USEC": usec, "WATCHDOG_PID": str(os.getpid()) if pid == "own" else pid}
    for name, value in values.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert systemd.watchdog_seconds() == seconds


class Full:
    """A manager whose queue is full until a test says otherwise."""

    def __init__(self, monkeypatch):
        self.is_full = True
        self.heard = []
        monkeypatch.setattr(systemd, "notify", self.notify)
        monkeypatch.setattr(systemd, "AGAIN_SECONDS", 0.005)

    def notify(self, *assignments, fds=()):
        if not self.is_full:
            self.heard.append((assignments[0].partition("=")[0], assignments[1][7:], *fds))
        return not self.is_full


async def test_descriptors_are_stored_and_taken_back_when_the_manager_has_room(monkeypatch):
    full, held = Full(monkeypatch), []
    store = systemd.DescriptorStore()

    def replace():
        held.append("new")
        store.remove("old")

    store.put("new", 5, replace)
    store.remove("older")
    store.put("never mind", 6, lambda: held.append("never mind"))
    store.remove("never mind")
    await asyncio.sleep(0.02)
    assert (full.heard, held) == ([], [])
    full.is_full = False
    while len(full.heard) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    stored, *removed = full.heard
    assert stored == ("FDSTORE", "new", 5)
    assert sorted(removed) == [("FDSTOREREMOVE", "old"), ("FDSTOREREMOVE", "older")]
    assert held == ["new"]
    store.close()


async def test_taking_back_twice_is_taking_back(monkeypatch):
    full = Full(monkeypatch)
    store = systemd.DescriptorStore()
    store.remove("a")
    store.remove("a")
    full.is_full = False
    store.close()
    assert full.heard == [("FDSTOREREMOVE", "a")]


async def test_in_the_end_what_is_not_heard_is_left(monkeypatch):
    full = Full(monkeypatch)
    store = systemd.DescriptorStore()
    store.remove("a")
    store.close()
    full.is_full = False
    await asyncio.sleep(0.02)
    assert full.heard == []


def test_a_status_is_never_so_long_that_the_rest_is_lost():
    assert systemd.status("serving \udcff") == "STATUS=serving ?"
    long = systemd.status("é" * systemd.STATUS_BYTES)
    assert long == "STATUS=" + "é" * (systemd.STATUS_BYTES // 2)

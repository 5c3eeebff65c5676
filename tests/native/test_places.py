"""buswork.native.places: when several want one name."""

import fcntl
import os
import socket
import threading
from pathlib import Path

import pytest

from buswork.native import places
from buswork.native.places import PlaceTaken, SocketFile, make_sockets
from buswork.store.native.requests import GET_NAME, NAMES, SET_NAME


def leave_stale(path: Path) -> None:
    SocketFile(path).listener.close()


def is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def test_what_came_since_we_looked_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / SET_NAME
    leave_stale(path)
    make_way = places._make_way

    def make_way_for_another(path: Path) -> None:
        make_way(path)
        path.write_text("mine")

    monkeypatch.setattr(places, "_make_way", make_way_for_another)
    with pytest.raises(PlaceTaken, match="faster"):
        SocketFile(path)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_while_one_makes_it_another_leaves_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / SET_NAME
    leave_stale(path)
    make_way = places._make_way

    def make_way_and_look(path: Path) -> None:
        with pytest.raises(PlaceTaken, match="another process is making"):
            SocketFile(path)
        make_way(path)

    monkeypatch.setattr(places, "_make_way", make_way_and_look)
    file = SocketFile(path)
    assert is_served(path)
    file.close()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_taken_away_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / SET_NAME
    lock = fcntl.flock

    def take_away_and_lock(fd: int, how: int) -> None:
        (tmp_path / f".{SET_NAME}.lock").unlink()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", take_away_and_lock)
    with pytest.raises(PlaceTaken, match="another process is making"):
        SocketFile(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make another user's file")
def test_a_lock_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    lock = tmp_path / f".{SET_NAME}.lock"
    lock.touch()
    os.chown(lock, 65534, 65534)
    with pytest.raises(PlaceTaken, match="not ours"):
        SocketFile(tmp_path / SET_NAME)
    assert list(tmp_path.iterdir()) == [lock]


def test_a_killed_daemons_lock_hinders_nobody(tmp_path: Path) -> None:
    (tmp_path / f".{SET_NAME}.lock").touch()
    SocketFile(tmp_path / SET_NAME).close()
    assert not list(tmp_path.iterdir())


def test_of_three_at_once_one_serves(tmp_path: Path) -> None:
    path = tmp_path / SET_NAME
    for _ in range(50):
        leave_stale(path)
        made: list[SocketFile] = []
        start = threading.Barrier(3)

        def make(made: list[SocketFile] = made, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                made.append(SocketFile(path))
            except PlaceTaken:
                pass

        threads = [threading.Thread(target=make) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1
        assert is_served(path)
        for file in made:
            file.close()
        assert not list(tmp_path.iterdir())


def test_a_name_may_be_as_long_as_clients_reach(tmp_path: Path) -> None:
    path = tmp_path / ("s" * (places.PATH_BYTES - len(os.fsencode(tmp_path)) - 1))
    made = SocketFile(path)
    assert is_served(path)
    made.close()
    assert not list(tmp_path.iterdir())


def test_sockets_that_keep_messages_apart(tmp_path: Path) -> None:
    SocketFile(tmp_path / "s").listener.close()  # of another kind, and nobody's
    (file,) = make_sockets(tmp_path, ["s"], socket.SOCK_SEQPACKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(tmp_path / "s"))
    with pytest.raises(PlaceTaken, match="served"):
        SocketFile(tmp_path / "s")
    file.close()


@pytest.mark.parametrize("taken", [SET_NAME, GET_NAME])
def test_beside_a_name_of_somebody_else_neither_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, taken: str
) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    (tmp_path / taken).write_text("mine")
    assert make_sockets(tmp_path, NAMES) == []
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    (said,) = caplog.messages
    assert f"in {tmp_path}, by mapipc_set and mapipc_get: " in said
    assert taken in said
    assert len(os.listdir("/proc/self/fd")) == fds

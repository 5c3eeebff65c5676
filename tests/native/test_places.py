"""buswork.native.places: when several want one name."""

import os
import socket
import threading
from pathlib import Path

import pytest

from buswork.native import places
from buswork.native.places import PlaceTaken, SocketFile, make_sockets
from buswork.store.native.sockets import GET_NAME, NAMES, SET_NAME


def leave_stale(path: Path) -> None:
    SocketFile(path).listener.close()


def is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def test_of_two_that_find_a_stale_socket_the_slower_leaves_the_other_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / SET_NAME
    leave_stale(path)
    find, faster = places._find_stale, []

    def find_and_wait(path: Path) -> tuple[int, int] | None:
        found = find(path)
        monkeypatch.setattr(places, "_find_stale", find)
        faster.append(SocketFile(path))
        return found

    monkeypatch.setattr(places, "_find_stale", find_and_wait)
    with pytest.raises(PlaceTaken, match="faster"):
        SocketFile(path)
    assert is_served(path)
    assert list(tmp_path.iterdir()) == [path]
    faster[0].close()
    assert not path.exists()


def test_who_took_the_stale_socket_away_gets_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / SET_NAME
    leave_stale(path)
    find = places._find_stale

    def find_and_remove(path: Path) -> tuple[int, int] | None:
        found = find(path)
        path.unlink()
        return found

    monkeypatch.setattr(places, "_find_stale", find_and_remove)
    with pytest.raises(PlaceTaken, match="making way"):
        SocketFile(path)
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

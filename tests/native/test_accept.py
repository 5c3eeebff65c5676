"""buswork.native.accept: some at a time, and no circles."""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buswork.native import accept
from buswork.native.accept import Acceptor


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen(100)
        yield sock


def connect(listener: socket.socket, count: int) -> list[socket.socket]:
    clients = []
    for _ in range(count):
        clients.append(socket.socket(socket.AF_UNIX))
        clients[-1].connect(listener.getsockname())
    return clients


async def served(listener: socket.socket, serve: Callable[[], None]) -> list[int]:
    """How many were accepted in each turn."""
    per_turn, count = [], 0
    acceptor = Acceptor()

    def serve_one(sock: socket.SocketType) -> None:
        nonlocal count
        count += 1
        serve()
        sock.close()

    clients = connect(listener, 40)
    acceptor.open(listener, serve_one)
    while sum(per_turn) < 40:
        await asyncio.sleep(0)
        per_turn.append(count)
        count = 0
    acceptor.close()
    for client in clients:
        client.close()
    return [taken for taken in per_turn if taken]


async def test_others_have_their_turn(listener: socket.socket) -> None:
    assert await served(listener, lambda: None) == [16, 16, 8]


async def test_what_takes_long_is_served_alone(listener: socket.socket) -> None:
    assert await served(listener, lambda: time.sleep(0.003)) == [1] * 40


class Full:
    """A listener that says no."""

    def __init__(self, listener: socket.socket, error: int) -> None:
        self._listener = listener
        self._error = error

    def _accept(self) -> None:
        raise OSError(self._error, "no")

    def fileno(self) -> int:
        return self._listener.fileno()


async def test_without_descriptors_it_waits_for_some(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 0.01)
    acceptor, came = Acceptor(), asyncio.Event()
    acceptor.open(listener, lambda sock: (sock.close(), came.set()))  # type: ignore[func-returns-value, arg-type, return-value]
    acceptor._accept(Full(listener, errno.EMFILE), lambda sock: None)  # type: ignore[arg-type]
    assert "can't accept" in caplog.text
    (client,) = connect(listener, 1)
    await asyncio.sleep(0)
    assert not came.is_set()
    acceptor._listen(listener, lambda sock: (sock.close(), came.set()))  # type: ignore[func-returns-value, arg-type, return-value]
    await came.wait()
    client.close()
    acceptor.close()


async def test_who_gave_up_while_waiting_is_nobody(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    Acceptor()._accept(Full(listener, errno.ECONNABORTED), lambda sock: None)  # type: ignore[arg-type]
    assert caplog.records == []

"""buswork.native.accept: some at a time, and no circles."""

import asyncio
import errno
import logging
import os
import resource
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


class Failing(Full):
    """A listener that fails for some time, and is counted."""

    def __init__(self, listener, errors):
        super().__init__(listener, 0)
        self.errors = errors
        self.asked = 0
        self.was_asked = asyncio.Event()

    def setblocking(self, flag):
        self._listener.setblocking(flag)

    def close(self):
        self._listener.close()

    def _accept(self):
        self.asked += 1
        self.was_asked.set()
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return self._listener._accept()


@pytest.fixture
async def acceptor():
    acceptor = Acceptor()
    yield acceptor
    acceptor.close()


@pytest.fixture
def own(tmp_path):
    """A listener that its acceptor closes."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "own"))
    sock.listen(100)
    return sock


class Came:
    """What was accepted."""

    def __init__(self):
        self.queue = asyncio.Queue()

    def __call__(self, sock):
        self.queue.put_nowait(sock)

    async def one(self):
        async with asyncio.timeout(30):
            return await self.queue.get()


async def test_a_connection_is_a_plain_socket_that_no_child_inherits(acceptor, own):
    came = Came()
    acceptor.open(own, came)
    (client,) = connect(own, 1)
    sock = await came.one()
    assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
    assert not os.get_inheritable(sock.fileno())
    client.send(b"x")
    assert sock.recv(10) == b"x"
    sock.close()
    client.close()


async def test_each_listener_has_its_own_service(acceptor, own, tmp_path):
    other, theirs, ours = socket.socket(socket.AF_UNIX), Came(), Came()
    other.bind(str(tmp_path / "other"))
    other.listen()
    acceptor.open(own, ours)
    acceptor.open(other, theirs)
    (client,) = connect(other, 1)
    (await theirs.one()).close()
    assert ours.queue.empty()
    client.close()


async def test_the_end_closes_the_listeners(acceptor, own):
    name = own.getsockname()
    acceptor.open(own, Came())
    acceptor.close()
    assert own.fileno() == -1
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(name)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
async def test_while_it_rests_it_does_not_look(acceptor, own, caplog, monkeypatch, number):
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 0.01)
    failing, came = Failing(own, [number] * 3), Came()
    acceptor.open(failing, came)
    (client,) = connect(own, 1)
    (await came.one()).close()
    assert failing.asked in (4, 5)
    assert caplog.text.count(os.strerror(number)) == 3
    client.close()


async def test_a_real_lack_of_descriptors(acceptor, own, monkeypatch):
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 0.01)
    came = Came()
    acceptor.open(own, came)
    (client,) = connect(own, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        for _ in range(10):
            await asyncio.sleep(0)
        assert came.queue.empty()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (await came.one()).close()
    client.close()


async def test_until_its_rest_is_over_it_does_not_look_at_all(acceptor, own):
    failing = Failing(own, [errno.EMFILE] * 1000)
    acceptor.open(failing, Came())
    (client,) = connect(own, 1)
    await failing.was_asked.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert failing.asked == 1
    client.close()


async def test_closed_while_it_rests(acceptor, own, caplog, monkeypatch):
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 0)
    failing = Failing(own, [errno.EMFILE] * 1000)
    acceptor.open(failing, Came())
    (client,) = connect(own, 1)
    await failing.was_asked.wait()
    acceptor.close()
    asked = failing.asked
    for _ in range(5):
        await asyncio.sleep(0)
    assert failing.asked == asked
    assert {record.name for record in caplog.records} == {"buswork.native.accept"}
    client.close()


async def test_many_failures_are_few_lines(acceptor, own, caplog, monkeypatch):
    monkeypatch.setattr(accept, "PAUSE_SECONDS", 0)
    came = Came()
    acceptor.open(Failing(own, [errno.EMFILE] * 1000), came)
    (client,) = connect(own, 1)
    (await came.one()).close()
    assert len(caplog.records) == 10
    client.close()


async def test_where_clients_come_one_by_one_no_second_one_is_looked_for(
    listener: socket.socket,
) -> None:
    looks, served = 0, 0

    class Counting(Full):
        def _accept(self) -> tuple[int, None]:
            nonlocal looks
            looks += 1
            return self._listener._accept()

    def serve(sock: socket.SocketType) -> None:
        nonlocal served
        served += 1
        sock.close()

    listener.setblocking(False)
    acceptor = Acceptor()
    for _ in range(80):
        clients = connect(listener, 1)
        acceptor._accept(Counting(listener, 0), serve)  # type: ignore[arg-type]
        clients[0].close()
    assert served == 80
    assert looks < 95
    clients = connect(listener, 40)
    turns = 0
    while served < 120:
        turns += 1
        acceptor._accept(Counting(listener, 0), serve)  # type: ignore[arg-type]
    assert turns < 12
    for client in clients:
        client.close()

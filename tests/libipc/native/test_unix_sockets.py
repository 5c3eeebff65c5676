"""What the kernel tells of unix sockets."""

import os
import socket

import pytest

from buswork.libipc.native import unix_sockets
from buswork.libipc.native.unix_sockets import Dump, File, Seen, State, Table, all_sockets


@pytest.fixture
def sockets():
    made = []

    def make():
        made.append(socket.socket(socket.AF_UNIX))
        return made[-1]

    yield make
    for sock in made:
        sock.close()


def file_of(path):
    status = path.lstat()
    return File(str(path.parent), path.name, status.st_dev, status.st_ino)


@pytest.fixture
def served(tmp_path, sockets):
    """A service that has accepted two clients, and one that was killed."""
    listener, dead = sockets(), sockets()
    listener.bind(f"{tmp_path}//pong")
    listener.listen()
    dead.bind(f"{tmp_path}/dead")
    dead.close()
    clients = [sockets() for _ in range(2)]
    for client in clients:
        client.connect(f"{tmp_path}/pong")
    accepted = [listener.accept()[0] for _ in clients]
    yield tmp_path
    for sock in accepted:
        sock.close()


async def test_who_listens_and_how_many_are_connected(served):
    known = await all_sockets()
    assert isinstance(known, Dump)
    assert known.of(file_of(served / "pong")) == State(True, 2)
    assert known.of(file_of(served / "dead")) == State(False, 0)


async def test_a_file_that_was_renamed_is_still_known(served):
    os.rename(served / "pong", served / "other")
    assert (await all_sockets()).of(file_of(served / "other")) == State(True, 2)


async def test_many_sockets_take_many_chunks(served, sockets, monkeypatch):
    chunks = []
    original = unix_sockets.answers

    def answers(read):
        chunks.append(len(read))
        return original(read)

    monkeypatch.setattr(unix_sockets, "answers", answers)
    for number in range(600):
        sock = sockets()
        sock.bind(f"{served}/{number}")
        sock.listen()
    known = await all_sockets()
    assert len(chunks) > 2
    assert all(known.of(file_of(served / str(number))).listens for number in range(600))


def test_a_device_that_the_kernel_calls_otherwise_is_known_by_the_name():
    dump = Dump()
    dump.add(7, Seen(1 << 20 | 2, b"pong", True))
    assert dump.of(File("/run/ipc", "pong", os.makedev(9, 9), 7)).listens
    assert dump.of(File("/run/ipc", "other", os.makedev(1, 2), 7)).listens
    assert not dump.of(File("/run/ipc", "other", os.makedev(9, 9), 7)).listens


def test_an_inode_is_told_by_its_lower_half():
    dump = Dump()
    dump.add(7, Seen(0, b"pong", True))
    assert dump.of(File("/run/ipc", "pong", 0, (5 << 32) + 7)).listens


async def test_where_the_kernel_has_no_answer_its_table_has(served, monkeypatch):
    async def asked():
        raise OSError("no such thing")

    monkeypatch.setattr(unix_sockets, "_asked", asked)
    known = await all_sockets()
    assert isinstance(known, Table)
    assert known.of(file_of(served / "pong")) == State(True, 2)
    assert known.of(file_of(served / "dead")) == State(False, 0)


async def test_where_there_is_no_table_either_nobody_lives(served, monkeypatch):
    async def asked():
        raise OSError("no such thing")

    monkeypatch.setattr(unix_sockets, "_asked", asked)
    monkeypatch.setattr(unix_sockets, "TABLE", served / "none")
    assert (await all_sockets()).of(file_of(served / "pong")) == State(False, 0)

"""The doors of libipc as the process runs them."""

import asyncio
import socket
import subprocess
import sys

import pytest
from libipc.doors.house import (
    HOST,
    UID,
    message,
    parsed,
    received,
    received_exactly,
    sent,
    tcp_client,
)

from buswork.doors import Doors
from buswork.libipc.doors import IpcDoors, Unsafe
from buswork.libipc.wire.forms import Form
from buswork.native.places import SocketFile

PATIENCE = 10


def free_port():
    with socket.create_server((HOST, 0)) as sock:
        return sock.getsockname()[1]


class House:
    """The process's inside, with a daemon before it."""

    def __init__(self, path, *words):
        self.path = path
        self.file = SocketFile(path / "doors.sock", 0o600, socket.SOCK_SEQPACKET)
        self.wing = IpcDoors(parsed(*words))
        self.doors = Doors([self.wing], UID)

    async def __aenter__(self):
        await self.doors.start([self.file.listener])
        return self

    async def __aexit__(self, *_):
        await self.doors.close()
        self.file.remove()

    async def ask(self, line):
        """The connection, the answer and what came with it."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        sock.connect(str(self.path / "doors.sock"))
        sock.send(line)
        while True:
            try:
                answer, found, _, _ = socket.recv_fds(sock, 4096, 1)
                return sock, answer, [socket.socket(fileno=fd) for fd in found]
            except BlockingIOError:
                await asyncio.sleep(0.001)


def words_of(daemon, port, *more):
    return (
        *("--serve-uid", UID, "--ipc-service", "pong", "--ipc-socket", daemon.path),
        *("--ipc-tcp", f"{port}=zig", "--ipc-dial", f"{HOST}:{port}", *more),
    )


async def test_from_a_dialled_door_to_a_service_behind_one(daemon, tmp_path):
    """Two hosts in one: the daemon dials, and the door that answers asks the daemon."""
    port = free_port()
    async with House(tmp_path, *words_of(daemon, port)) as house:
        asked, answer, (handed,) = await house.ask(f"ipc zig tcp://{HOST}:{port}/pong\n".encode())
        with asked, handed:
            assert answer == f"ok {HOST}:{port}\n".encode()
            handed.setblocking(False)
            for text in b"one", bytes(60_000), b"three":
                await sent(handed, message(Form.ZIG, text))
                whole = message(Form.ZIG, text)
                assert await received_exactly(handed, len(whole)) == whole
            handed.close()
            assert await received(asked) == b""  # so that the daemon knows of the end
    assert daemon.asked == [f"connect {UID} zig pong\n"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"ipc zig tcp://192.0.2.1:9000/pong\n", b"denied 192.0.2.1:9000 is no door"),
        (b"ipc zig tcp://127.0.0.1:9/pong", b"denied"),
        (b"ipc\n", b"error say the form"),
    ],
)
async def test_what_is_refused(daemon, tmp_path, line, word):
    async with House(tmp_path, *words_of(daemon, free_port())) as house:
        asked, answer, found = await house.ask(line)
        with asked:
            assert answer.startswith(word)
            assert found == []


async def test_all_ends_with_the_doors(daemon, tmp_path):
    port = free_port()
    async with House(tmp_path, *words_of(daemon, port)) as house:
        asked, _, (handed,) = await house.ask(f"ipc zig tcp://{HOST}:{port}/pong\n".encode())
        handed.setblocking(False)
    with asked, handed:
        assert await received(handed) == b""


async def test_a_port_that_is_taken_closes_no_other_door():
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        wing = IpcDoors(parsed("--ipc-ws", free_port(), "--ipc-ws", port))
        (trouble,) = await wing.start()
        assert trouble.startswith(f"the door at {HOST}:{port}: ")
        assert "in use" in trouble
        assert wing.has_any
        await wing.close()


async def test_whether_there_is_anything_to_do():
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        for words, answer in (
            ((), False),
            (("--ipc-tcp", f"{port}=c"), False),
            (("--ipc-tcp", f"{port}=c", "--ipc-dial", "192.168.1.8:9000"), True),
        ):
            wing = IpcDoors(parsed(*words))
            await wing.start()
            assert wing.has_any is answer
            await wing.close()


async def test_doors_that_were_never_opened():
    await IpcDoors(parsed()).close()


def test_what_is_unsafe():
    with pytest.raises(Unsafe):
        IpcDoors(parsed("--ipc-tcp", "0.0.0.0:9000=c"))


async def test_the_process_itself(daemon, tmp_path):
    port = free_port()
    words = ("--daemon", UID, "--socket", tmp_path / "doors.sock", *words_of(daemon, port))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "buswork.doors", *map(str, words)), stderr=subprocess.PIPE
    )
    said = b""
    async with asyncio.timeout(PATIENCE):
        while b"hello, world" not in said:
            said += await process.stderr.readline()
    async with tcp_client((HOST, port)) as sock:
        await sent(sock, b"pong")
        assert await received_exactly(sock, 2) == b"ok"
        process.terminate()
        async with asyncio.timeout(PATIENCE):
            _, said = await process.communicate()
        assert process.returncode == 0, said
        assert b"goodbye" in said
        assert b"Traceback" not in said

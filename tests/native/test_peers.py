"""buswork.native.peers: who is remembered, and what is said of those who are not any more."""

import asyncio
import errno
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from buswork.authority import Limits, Quotas
from buswork.bus.caller import Peer
from buswork.errors import AccessDenied, LimitsExceeded
from buswork.native import peers as module
from buswork.native.credentials import CREDENTIALS
from buswork.native.peers import Known, Peers

UID = os.geteuid()
CLIENT = (
    "import socket, sys\n"
    "for _ in range(2):\n"
    "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)\n"
)


class Host:
    """Processes that connect, one after the other."""

    def __init__(self, path: Path, most: int) -> None:
        self.path = path
        self.ended: list[Peer] = []
        self.peers = Peers(self.ended.append, most)
        self.processes: list[asyncio.subprocess.Process] = []
        self.connections: list[socket.socket] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()

    async def meet(self) -> Known:
        """A process that lives on, and connects once more when it is spoken to."""
        command = [sys.executable, "-I", "-S", "-c", CLIENT, str(self.path)]
        self.processes.append(
            await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL)
        )
        known = await self.meet_again()
        assert known.peer.pid == self.processes[-1].pid
        return known

    async def meet_again(self) -> Known:
        sock, _ = await asyncio.to_thread(self.listener.accept)
        self.connections.append(sock)
        return self.peers.of(sock)

    async def close(self) -> None:
        for process in self.processes:
            process.kill()
            await process.wait()
        self.peers.close()
        for sock in (*self.connections, self.listener):
            sock.close()


@asynccontextmanager
async def a_host(path: Path, most: int) -> AsyncIterator[Host]:
    host = Host(path, most)
    try:
        yield host
    finally:
        await host.close()


async def test_processes_are_remembered_up_to_a_number(tmp_path: Path) -> None:
    async with a_host(tmp_path / "s", 2) as host:
        met = []
        for _ in range(4):
            met.append(await host.meet())
            assert len(host.peers) <= 2
        assert [known.is_kept for known in met] == [False, False, True, True]
        # Decisions about those who were forgotten: their descriptors' numbers are somebody else's.
        assert host.ended == [known.peer for known in met[:2]]
        host.connections[3].close()
        assert await host.meet_again() is met[3]
    assert len(host.peers) == 0


async def test_who_has_something_of_ours_is_not_forgotten(tmp_path: Path) -> None:
    quotas = Quotas(Limits(descriptors=1))
    async with a_host(tmp_path / "s", 2) as host:
        first = await host.meet()
        first.leases.append(quotas.take(UID, "descriptors"))
        second = await host.meet()
        host.peers.hold(second)
        third = await host.meet()
        fourth = await host.meet()
        assert [known.is_kept for known in (first, second, third, fourth)] == [
            True, True, False, True,
        ]  # fmt: skip
        with pytest.raises(LimitsExceeded):
            quotas.take(UID, "descriptors")
        host.processes[0].kill()
        while first.is_kept:  # noqa: ASYNC110
            await asyncio.sleep(0)
        quotas.take(UID, "descriptors").release()
        assert first.peer in host.ended
        host.peers.let_go(second)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EMFILE, LimitsExceeded), (errno.ESRCH, AccessDenied), (errno.ENOPROTOOPT, None)],
)
async def test_kernels_without_the_peers_pidfd(
    number: int, expected: type[Exception] | None
) -> None:
    class Sock:
        def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:
            if option == module.SO_PEERPIDFD:
                raise OSError(number, "no")
            return CREDENTIALS.pack(os.getpid(), UID, 0)

    peers = Peers(lambda peer: None)
    if expected is None:
        assert peers.of(Sock()).peer.pid == os.getpid()  # type: ignore[arg-type]
    else:
        with pytest.raises(expected):
            peers.of(Sock())  # type: ignore[arg-type]
    peers.close()


async def test_who_hears_of_an_end_may_let_go(tmp_path: Path) -> None:
    """Its descriptor is closed once: a moment later the number is somebody else's."""
    async with a_host(tmp_path / "socket", 10) as host:
        known = await host.meet()
        host.peers.hold(known)
        heard = asyncio.Event()

        def on_end(peer: Peer) -> None:
            host.peers.let_go(known)
            taken.append(os.dup(0))  # by the same number, had it been closed already
            heard.set()

        taken: list[int] = []
        host.peers._on_end = on_end
        process = host.processes.pop()
        process.kill()
        await process.wait()
        await heard.wait()
        os.fstat(taken[0])
        os.close(taken[0])

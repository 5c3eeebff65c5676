import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from client.private_bus import PrivateBus
from support.fakedriver import FakeDriver

from buswork.client import fsct
from buswork.client.fsct import IpcDriver


@pytest.fixture(scope="module")
def shared_bus() -> Iterator[PrivateBus]:
    """For tests that leave the daemon alive."""
    with PrivateBus() as bus:
        bus.start_daemon()
        yield bus


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with PrivateBus() as bus:
        bus.start_daemon()
        yield bus


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsct, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(fsct, "LONGEST_PAUSE", 0.01)


@pytest.fixture
async def server(tmp_path: Path, short_pauses: None) -> AsyncIterator[FakeDriver]:
    async with FakeDriver(tmp_path / "fsct.sock") as server:
        yield server


@pytest.fixture
async def driver(server: FakeDriver) -> AsyncIterator[IpcDriver]:
    async with IpcDriver(server.path) as driver:
        yield driver


@pytest.fixture
def back(server: FakeDriver) -> Callable[[IpcDriver, int], Awaitable[None]]:
    async def back(driver: IpcDriver, connections: int) -> None:
        """The driver has been found again."""
        async with asyncio.timeout(10):
            while server.connections < connections:
                await server.until(lambda: server.connections >= connections)
            await driver.wait_connected()

    return back

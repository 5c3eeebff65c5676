import os

import pytest
from support.fakebus import FakeBus, FakePolkit
from support.toyface import Stack

from buswork.bus import dispatch


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Nobody goes to the background because the machine is slow, but only where a test says so."""
    monkeypatch.setattr(dispatch, "SHARE_SECONDS", 1e6)
    monkeypatch.setattr(dispatch, "LANE_SECONDS", 1e6)


@pytest.fixture
async def bus():
    async with FakeBus() as bus:
        yield bus


@pytest.fixture
def polkit(bus):
    return FakePolkit(bus)


@pytest.fixture
def open_fds():
    """Counts this process's descriptors."""
    return lambda: len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def stack(bus, polkit):
    return await Stack.make(bus)


@pytest.fixture
def toy(stack):
    return stack.toy()

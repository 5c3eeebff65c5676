import os

import pytest
from support.fakebus import FakeBus, FakePolkit
from support.toyface import Stack


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

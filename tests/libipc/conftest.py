import pytest
from support.fakebus import FakeBus, FakePolkit
from support.toyface import Stack


@pytest.fixture
async def world():
    """The wing's objects on a scripted bus."""
    # Who tests the library alone needs nothing of the daemon.
    from libipc.bus_world import World

    async with FakeBus() as bus:
        world = World(bus, FakePolkit(bus), await Stack.make(bus))
        yield world
        world.faces.close()
        world.outboxes.close()

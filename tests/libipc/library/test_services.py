import asyncio
import errno
import os
import resource
import sys
import tracemalloc
from unittest.mock import Mock

import pytest
from libipc.world import c

from buswork.libipc.library import services
from buswork.libipc.library.contexts import Limits
from buswork.libipc.library.events import Connected, Disconnected, Received

HELD = 10_000
MEMORY_EACH = 2_000  # bytes, of Python's; half of it is what is measured
CLIENTS = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]) + 100,) * 2)
held = []
for number in range(int(sys.argv[2])):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(sys.argv[1])
sys.stdin.read()
"""


@pytest.fixture
def descriptors():
    """For so many connections; and the bound as it was, afterwards."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < HELD + 500:
        pytest.skip(f"{hard} descriptors at the most")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, HELD + 500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def turns():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_service_tells_of_its_clients(world):
    service = await world.context.serve("pong")
    assert (service.name, service.context) == ("pong", world.context)
    assert service.path == world.rundir.path / "pong"
    peer = world.dial("pong")
    connection = (await world.event()).connection
    assert connection.service is service
    assert connection.peer.pid == os.getpid()
    await peer.write(c(b"hello"))
    assert (await world.event()).connection is connection
    peer.close()
    assert await world.event() == Disconnected(connection, None)


async def test_clients_that_come_together_all_come(world):
    await world.context.serve("pong")
    for _ in range(50):
        world.dial("pong")
    events = [await world.event() for _ in range(50)]
    assert {type(event) for event in events} == {Connected}
    assert len(world.context.connections) == 50


async def test_a_service_that_is_closed_keeps_its_clients(world):
    service = await world.context.serve("pong")
    peer = world.dial("pong")
    await world.event()
    service.close()
    service.close()
    with pytest.raises(OSError, match="No such file"):
        world.dial("pong")
    await peer.write(c(b"hello"))
    assert isinstance(await world.event(), Received)


async def test_it_may_be_closed_by_the_first_client(make_world):
    seen = []

    def happened(event):
        seen.append(event)
        event.connection.service.close()

    world = make_world(on_event=happened)
    await world.context.serve("pong")
    world.dial("pong")
    second = world.dial("pong")
    with pytest.raises(ConnectionResetError):
        await second.read()
    assert len(seen) == 1


async def test_more_clients_than_it_may_have_wait(make_world):
    world = make_world(limits=Limits(connections=2))
    await world.context.serve("pong")
    peers = [world.dial("pong") for _ in range(3)]
    for _ in range(2):
        assert isinstance(await world.event(), Connected)
    await peers[2].write(c(b"waiting"))
    await turns()
    assert not world.context._events
    peers[0].close()
    assert isinstance(await world.event(), Disconnected)
    assert isinstance(await world.event(), Connected)
    assert (await world.event()).message.payload == b"waiting"


async def test_without_descriptors_it_waits_for_some(world, monkeypatch):
    """And does not turn in circles meanwhile."""
    monkeypatch.setattr(services, "PAUSE_SECONDS", 0.01)
    service = await world.context.serve("pong")
    real, tries = service._place.sock, []

    def accept():
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.EMFILE, "too many")
        return real.accept()

    service._place.sock = Mock(wraps=real, accept=accept)
    world.dial("pong")
    await turns()
    assert len(tries) == 1
    assert isinstance(await world.event(), Connected)
    service._place.sock = real


async def test_a_client_that_left_before_it_was_accepted_is_no_failure(world):
    service = await world.context.serve("pong")
    real = service._place.sock
    refusals = [OSError(errno.ECONNABORTED, "aborted")]

    def accept():
        if refusals:
            raise refusals.pop()
        return real.accept()

    service._place.sock = Mock(wraps=real, accept=accept)
    world.dial("pong")
    assert isinstance(await world.event(), Connected)
    service._place.sock = real


async def test_ten_thousand_clients_are_held_with_little_memory(world, descriptors):
    service = await world.context.serve("pong")
    clients = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENTS, str(service.path), str(HELD), stdin=asyncio.subprocess.PIPE
    )
    tracemalloc.start()
    try:
        for _ in range(HELD):
            assert isinstance(await world.event(), Connected)
        each = tracemalloc.get_traced_memory()[0] / HELD
    finally:
        tracemalloc.stop()
    assert len(world.context.connections) == HELD
    assert each < MEMORY_EACH
    peer = world.dial("pong")
    await world.event()
    await peer.write(c(b"one more"))
    assert (await world.event()).message.payload == b"one more"
    await clients.communicate(b"")
    for _ in range(HELD):
        assert isinstance(await world.event(), Disconnected)

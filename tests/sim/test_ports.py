import asyncio

import pytest

from buswork.sim.dac import SimDac
from buswork.sim.ports import NoSuchPort, SimPorts

PORT = "1-1"
PATIENCE = 10.0


@pytest.fixture
def dac():
    return SimDac()


@pytest.fixture
def ports(dac):
    return SimPorts({PORT: dac, "1-2": SimDac()})


def test_a_port_has_its_device_whether_it_is_plugged_in_or_not(ports, dac):
    assert ports.of(PORT) is dac
    assert not ports.is_plugged(PORT)
    ports.backend.plug(dac, PORT)
    assert (ports.is_plugged(PORT), ports.is_plugged("1-2")) == (True, False)
    assert ports.of(PORT) is dac


def test_other_ports_have_none(ports):
    with pytest.raises(NoSuchPort, match="there are 1-1, 1-2"):
        ports.of("1-3")


async def test_what_is_plugged_in_is_found_and_opened(ports, dac):
    found = asyncio.Queue()
    ports.backend.plug(dac, PORT)
    discovery = ports.discovery()
    await discovery.start(found.put_nowait, found.put_nowait)
    async with asyncio.timeout(PATIENCE):
        worker = ports.worker(await found.get())
    discovery.stop()
    await worker.open()
    assert worker.is_open
    await worker.close()

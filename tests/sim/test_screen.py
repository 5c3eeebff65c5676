import asyncio
import struct

import pytest

from buswork.sim import screen as module
from buswork.sim.dac import OFF, SimDac
from buswork.sim.screen import Screen, Simulation

OUT = 0x41


@pytest.fixture
def simulation():
    return Simulation()


async def test_a_program_drives_a_display_and_sees_it(simulation):
    found, pictures = asyncio.Queue(), asyncio.Queue()
    dac = SimDac()
    screen = Screen(dac, pictures.put_nowait)
    screen.start()
    assert await pictures.get() == OFF
    await simulation.discovery.start(found.put_nowait, found.put_nowait)
    simulation.plug_dac(dac)
    device = await found.get()
    assert device.properties["ID_FSCT"] == "1"
    worker = simulation.worker(device)
    await worker.open()
    await worker.control_out(OUT, 1, 1, 1)
    assert (await pictures.get())[0] == "· Unknown"
    await worker.control_out(OUT, 4, 1, 1)
    assert (await pictures.get())[0] == "▶ Playing"
    await worker.control_out(OUT, 0x10, 0, 0x0101, b"Title")
    assert (await pictures.get())[1] == "Title"
    await worker.close()
    simulation.unplug("1-1")
    assert (await found.get(), simulation.dacs) == ("1-1", {})
    simulation.discovery.stop()
    screen.stop()


async def test_time_goes_on_by_itself(simulation, monkeypatch):
    monkeypatch.setattr(module, "SHORTEST_SECONDS", 0.001)
    dac, pictures = SimDac(), asyncio.Queue()
    worker = simulation.worker(simulation.plug_dac(dac))
    await worker.open()
    await worker.control_out(OUT, 1, 1, 1)
    await worker.control_out(OUT, 3, 0, 1, struct.pack("<IiQf", 90, 0, 0, 500.0))
    screen = Screen(dac, pictures.put_nowait)
    screen.start()
    times = [(await pictures.get())[5].split()[1] for _ in range(5)]
    assert times == sorted(set(times))
    await worker.close()
    screen.stop()
    screen.stop()


@pytest.mark.parametrize("rate", [1e30, 1e-30, float("inf"), float("nan")])
async def test_no_rate_keeps_the_loop_busy(rate):
    dac, seen = SimDac(), []
    dac.is_enabled = True
    dac.timeline = (90, 0, 0, rate)
    screen = Screen(dac, seen.append)
    screen.start()
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(seen) == 1
    screen.stop()


async def test_a_screen_that_was_stopped_shows_nothing(simulation):
    dac, seen = SimDac(), []
    screen = Screen(dac, seen.append)
    screen.start()
    worker = simulation.worker(simulation.plug_dac(dac))
    await worker.open()
    dac.on_display(["late"])
    screen.stop()
    await worker.control_out(OUT, 1, 1, 1)
    await worker.close()
    assert seen == [OFF]

import asyncio
import struct

import pytest

from buswork.fsct import simulator as module
from buswork.fsct.simulator import LONGEST_SECONDS, SHORTEST_SECONDS, Simulator
from buswork.sim.dac import OFF

OUT = 0x41
ENABLE, PROGRESS, STATUS, TEXT = 1, 3, 4, 0x10
PORT = "1-1"


@pytest.fixture
async def simulator():
    simulator = Simulator()
    yield simulator
    simulator.close()


@pytest.fixture
async def worker(simulator):
    device = next(each for each in simulator.backend.devices if each.port == PORT)
    worker = simulator.worker(device)
    await worker.open()
    yield worker
    await worker.close()


@pytest.fixture
def pictures(simulator):
    """What the display at PORT shows, whenever it shows something else."""
    pictures = asyncio.Queue()
    simulator.on_display = lambda port: pictures.put_nowait(simulator.lines(port))
    return pictures


async def test_a_display_is_told_of_when_it_is_driven(simulator, worker, pictures):
    assert simulator.lines(PORT) == OFF
    await worker.control_out(OUT, ENABLE, 1, 1)
    assert (await pictures.get())[0] == "· Unknown"
    await worker.control_out(OUT, STATUS, 1, 1)
    assert (await pictures.get())[0] == "▶ Playing"
    await worker.control_out(OUT, TEXT, 0, 0x0101, b"Title")
    assert (await pictures.get())[1] == "Title"
    simulator.unplug(PORT)
    assert await pictures.get() == []


async def test_time_goes_on_by_itself(monkeypatch, worker, pictures):
    monkeypatch.setattr(module, "SHORTEST_SECONDS", 0.001)
    await worker.control_out(OUT, ENABLE, 1, 1)
    await pictures.get()
    await worker.control_out(OUT, PROGRESS, 0, 1, struct.pack("<IiQf", 90, 0, 0, 500.0))
    times = [(await pictures.get())[5].split()[1] for _ in range(5)]
    assert times == sorted(set(times))


@pytest.mark.parametrize(
    ("rate", "wait"),
    [
        (1e30, SHORTEST_SECONDS),
        (-1e30, SHORTEST_SECONDS),
        (1e-30, LONGEST_SECONDS),
        (float("inf"), None),
        (float("nan"), None),
    ],
)
async def test_no_rate_keeps_the_loop_busy(simulator, pictures, rate, wait):
    display = simulator.displays[PORT]
    display.is_enabled = True
    display.timeline = (90, 0, 0, rate)
    check_wait(simulator, wait)
    assert pictures.qsize() == 1


def check_wait(simulator, seconds):
    """It looks at the display, and again after so long; None: not again."""
    now = asyncio.get_running_loop().time
    before = now()
    simulator._look(PORT)
    timer = simulator._timers.get(PORT)
    assert (timer is None) == (seconds is None)
    if timer is not None:
        assert before + seconds <= timer.when() <= now() + seconds


async def test_what_is_drawn_after_the_end_is_not_told(simulator, worker, pictures):
    simulator.displays[PORT].on_display(["late"])
    simulator.close()
    await worker.control_out(OUT, ENABLE, 1, 1)
    await worker.close()
    assert pictures.empty()


@pytest.mark.parametrize(
    ("seconds", "expected"), [(1e-6, SHORTEST_SECONDS), (2.0, 2.0), (1e12, LONGEST_SECONDS)]
)
async def test_a_display_is_looked_at_in_a_pace_of_its_own(
    simulator, monkeypatch, seconds, expected
):
    monkeypatch.setattr(simulator.displays[PORT], "seconds_to_change", lambda: seconds)
    check_wait(simulator, expected)

"""One thread for each port, whatever hangs there."""

import asyncio
import threading

import pytest

from buswork.sim.dac import SimDac
from buswork.sim.device import Fault, How
from buswork.sim.usb import SimBackend
from buswork.usb.link import BUSY, GONE, UsbError
from buswork.usb.worker import Worker
from buswork.usb.workers import Workers

OUT, ENABLE = 0x41, 1


class Bench:
    def __init__(self):
        self.backend = SimBackend()
        self.made = []
        self.workers = Workers(self.make)
        self.close_seconds = 0.01

    def make(self, device):
        self.made.append(Worker(device, self.backend, close_seconds=self.close_seconds))
        return self.made[-1]

    def plug(self, port="1-1", hangs=False):
        dac = SimDac()
        dac.faults = [Fault(How.HANG, request=ENABLE)] if hangs else []
        return self.backend.plug(dac, port)

    async def enable(self, device):
        async with self.workers.opened(device) as worker:
            await worker.control_out(OUT, ENABLE, 1, 1)

    async def hang(self, device):
        """Until the thread is left behind; returns what ends its transfer."""
        plug = self.backend.plug_at(device.port)
        task = asyncio.create_task(self.enable(device))
        await until(lambda: plug.device.record)
        task.cancel()
        await asyncio.wait([task])
        assert self.made[-1].is_left
        return plug.release


async def until(condition):
    """What another thread does soon."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.fixture
def bench():
    return Bench()


async def test_a_worker_is_closed_in_the_end(bench):
    device = bench.plug()
    async with bench.workers.opened(device) as worker:
        assert worker.is_open
    assert not worker.is_open
    with pytest.raises(ZeroDivisionError):
        async with bench.workers.opened(device):
            raise ZeroDivisionError
    assert bench.backend.plug_at("1-1").opened == 0
    assert bench.workers._running == {}


async def test_a_device_that_hangs_has_one_thread_however_often_it_is_tried(bench):
    device = bench.plug(hangs=True)
    release = await bench.hang(device)
    for _ in range(3):
        with pytest.raises(UsbError, match="has not ended") as caught:
            await bench.enable(device)
        assert caught.value.kind == BUSY
    assert len(bench.made) == 1
    bench.backend.plug_at("1-1").device.faults = []
    release.set()
    await until(lambda: not bench.made[0].is_left)
    await bench.enable(device)
    assert len(bench.made) == 2
    assert bench.workers._running == {}


async def test_nor_has_what_is_plugged_in_there_next(bench):
    release = await bench.hang(bench.plug(hangs=True))
    for _ in range(3):
        bench.backend.unplug("1-1")
        with pytest.raises(UsbError, match="has not ended"):
            await bench.enable(bench.plug(hangs=True))
    assert len(bench.made) == 1
    await bench.enable(bench.plug("1-2"))  # other ports go on
    release.set()


async def test_a_thread_that_ends_soon_is_waited_for(bench, monkeypatch):
    device = bench.plug()
    dac, go_on, entered = bench.backend.plug_at("1-1").device, threading.Event(), []
    transfer = dac.transfer

    def held(*arguments):
        entered.append(arguments)
        go_on.wait()
        return transfer(*arguments)

    monkeypatch.setattr(dac, "transfer", held)
    bench.close_seconds = 30
    first = asyncio.create_task(bench.enable(device))
    await until(lambda: entered)
    first.cancel()
    await asyncio.sleep(0)
    first.cancel()  # it does not even wait for its thread
    await asyncio.wait([first])
    second = asyncio.create_task(bench.enable(device))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(entered) == 1
    go_on.set()
    await second
    assert len(entered) == 2


async def test_a_device_that_can_not_be_opened_leaves_nothing(bench):
    device = bench.plug()
    bench.backend.unplug("1-1")
    with pytest.raises(UsbError) as caught:
        await bench.enable(device)
    assert caught.value.kind == GONE
    assert bench.workers._running == {}

"""Cases for tests/usb/test_real_libusb.py: coroutines, each for a process of its own, in which
libusb, libudev, pyusb and pyudev are the real ones and the kernel is emulated."""

import asyncio
import os

import pytest

from buswork.usb.discovery import UdevDiscovery
from buswork.usb.link import UsbError
from buswork.usb.worker import Worker

OUT, IN = 0x41, 0xC1
ENABLE, TIMESTAMP, STATUS = 1, 2, 4


class Events:
    """What discovery tells."""

    def __init__(self):
        self.discovery = UdevDiscovery()
        self.queue = asyncio.Queue()

    async def __aenter__(self):
        await self.discovery.start(self.queue.put_nowait, self.queue.put_nowait)
        return self

    async def __aexit__(self, *_):
        self.discovery.stop()

    async def any(self):
        async with asyncio.timeout(20):
            return await self.queue.get()

    async def next(self):
        """Without the root hubs, which are read when they are, beside all others."""
        while getattr(told := await self.any(), "port", "").startswith("usb"):
            pass
        return told

    async def device(self, port):
        """The device at a port; others are passed over."""
        while getattr(device := await self.any(), "port", None) != port:
            pass
        return device


async def fails(kind, awaitable):
    with pytest.raises(UsbError) as caught:
        await awaitable
    assert caught.value.kind == kind, caught.value
    return str(caught.value)


async def opened(device):
    worker = Worker(device)
    await worker.open()
    return worker


async def finds_a_dac_and_drives_it(kernel):
    kernel.plug(port="1-2", kind="board")  # as good as a hub
    kernel.plug(port="1-2.3", properties={"ID_FSCT": "1", "OTHER": "x"})
    async with Events() as events:
        device = await events.device("1-2.3")
        assert (device.vendor, device.product, device.version) == (0x1209, 1, 0x0201)
        assert (device.manufacturer, device.product_name) == ("buswork", "Simulated DAC")
        assert (device.serial, device.bus, device.address) == ("SIM-1", 1, 3)
        assert dict(device.properties) == {"ID_FSCT": "1"}
        assert [i.subclass for i in device.interfaces] == [1, 0x42]
        worker = await opened(device)
        await worker.claim(1)
        bos = await worker.control_in(0x80, 6, 0x0F00, 0, 4096)
        assert bos[:5].hex() == "050f230002"
        assert len(await worker.control_in(0x81, 6, 0x3100, 1, 20)) == 20
        assert len(await worker.control_in(IN, TIMESTAMP, 0, 1, 8)) == 8
        await worker.control_out(OUT, ENABLE, 1, 1)
        await worker.control_out(OUT, STATUS, 1, 1)
        await worker.control_out(OUT, 0x10, 0, 0x0101, "Title żółw".encode())
        await worker.close()
    assert kernel.lines(port="1-2.3")[:2] == ["▶ Playing", "Title żółw"]
    ours = [entry for entry in kernel.record(port="1-2.3") if entry["bmRequestType"] == "0x41"]
    assert [entry["bRequest"] for entry in ours] == ["0x01", "0x04", "0x10"]


async def moves_bytes_through_endpoints(kernel):
    kernel.plug(port="1-1", kind="board")
    async with Events() as events:
        worker = await opened(await events.device("1-1"))
        await worker.claim(0)
        sent = os.urandom(20_000)
        await worker.write(0x02, sent)
        got = b""
        while len(got) < len(sent):
            got += await worker.read(0x81, 4096)
        assert got == sent[::-1]
        await worker.write(0x02, b"log")
        assert await worker.read(0x83, 32) == b"gol"
        await fails("timeout", worker.read(0x81, 64, timeout=0.05))
        await fails("io", worker.read(0x85, 64))
        await worker.close()


async def survives_refusals_silence_and_delays(kernel):
    kernel.plug(port="1-1")
    async with Events() as events:
        worker = await opened(await events.device("1-1"))
        faults = [
            {"how": "stall", "request": ENABLE, "times": 1},
            {"how": "silence", "request": STATUS, "times": 1},
            {"how": "done", "request": 5, "delay": 0.05},
            {"how": "done", "request": TIMESTAMP, "length": 3},
        ]
        kernel.faults(port="1-1", faults=faults)
        assert "refused" in await fails("stall", worker.control_out(OUT, ENABLE, 1, 1))
        await worker.control_out(OUT, ENABLE, 1, 1)
        await fails("timeout", worker.control_out(OUT, STATUS, 1, 1, timeout=0.05))
        await worker.control_out(OUT, STATUS, 1, 1)
        await worker.control_out(OUT, 5, 0, 1)
        await fails("timeout", worker.control_out(OUT, 5, 0, 1, timeout=0.01))
        assert len(await worker.control_in(IN, TIMESTAMP, 0, 1, 8)) == 3
        assert not worker.is_gone
        await worker.close()


async def leaves_interfaces_of_others_alone(kernel):
    kernel.plug(port="1-1")
    async with Events() as events:
        device = await events.device("1-1")
        worker = await opened(device)
        kernel.driver(port="1-1", interface=0)
        await fails("busy", worker.claim(0))
        await worker.claim(1)
        other = await opened(device)
        await fails("busy", other.claim(1))
        await worker.close()
        await other.claim(1)
        await fails("io", other.claim(9))
        await other.close()


async def hears_of_devices_that_come_and_go(kernel):
    async with Events() as events:
        await events.device("usb1")
        kernel.plug(port="1-1")
        before = await events.device("1-1")
        worker = await opened(before)
        kernel.unplug(port="1-1")
        assert await events.next() == "1-1"
        await fails("gone", worker.control_out(OUT, ENABLE, 1, 1))
        assert worker.is_gone
        kernel.plug(port="1-1", options={"serial": "again"})
        after = await events.device("1-1")
        assert (after.serial, after.address) == ("again", before.address + 1)
        await fails("gone", Worker(before).open())
        again = await opened(after)
        await again.control_out(OUT, ENABLE, 1, 1)
        await again.close()
        await worker.close()


async def loses_a_device_in_the_middle_of_a_transfer(kernel):
    kernel.plug(port="1-1")
    async with Events() as events:
        worker = await opened(await events.device("1-1"))
        kernel.faults(port="1-1", faults=[{"how": "silence", "request": STATUS}])
        waiting = asyncio.create_task(worker.control_out(OUT, STATUS, 1, 1, timeout=5.0))
        behind = asyncio.create_task(worker.control_out(OUT, ENABLE, 1, 1))
        while not kernel.pending(port="1-1"):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        kernel.unplug(port="1-1")
        await fails("gone", waiting)
        await fails("gone", behind)
        assert await events.next() == "1-1"
        await worker.close()


async def loses_a_device_by_a_transfer(kernel):
    kernel.plug(port="1-1", kind="board")
    async with Events() as events:
        worker = await opened(await events.device("1-1"))
        await worker.claim(0)
        kernel.faults(port="1-1", faults=[{"how": "vanish", "endpoint": 0x02}])
        await fails("gone", worker.write(0x02, b"bye"))
        assert await events.next() == "1-1"
        await worker.close()


async def leaves_a_transfer_behind_that_never_ends(kernel):
    kernel.plug(port="1-1")
    async with Events() as events:
        worker = await opened(await events.device("1-1"))
        kernel.faults(port="1-1", faults=[{"how": "hang", "request": STATUS}])
        await fails("timeout", worker.control_out(OUT, STATUS, 1, 1, timeout=0.05))
        assert worker.is_gone
        await worker.close()
        # And the process ends all the same.


async def counts_a_device_once_however_often_it_is_told_of(kernel):
    kernel.plug(port="1-1")
    async with Events() as events:
        await events.device("1-1")
        for action in ("add", "bind", "change", "unbind"):
            kernel.uevent(port="1-1", action=action)
        kernel.plug(port="1-2")
        assert (await events.next()).port == "1-2"
        kernel.uevent(port="1-2", action="remove")
        kernel.uevent(port="1-2", action="remove")
        assert await events.next() == "1-2"
        kernel.unplug(port="1-1")
        assert await events.next() == "1-1"


async def hears_that_a_device_was_marked(kernel):
    kernel.plug(port="1-1")
    async with Events() as events:
        assert not (await events.device("1-1")).properties
        kernel.change(port="1-1", name="ID_FSCT", value="1")
        assert await events.next() == "1-1"
        assert (await events.device("1-1")).properties["ID_FSCT"] == "1"
        kernel.change(port="1-1", name="BUSWORK_IGNORE", value="1")
        assert await events.next() == "1-1"
        kernel.plug(port="1-3", properties={"BUSWORK_IGNORE": "1"})
        kernel.plug(port="1-4")
        assert (await events.next()).port == "1-4"


async def takes_hostile_words_for_what_they_are(kernel):
    kernel.plug(port="1-1")
    kernel.attribute(port="1-1", name="serial", value="  \x1b[2J\n" + "x" * 3000 + "\n")
    kernel.attribute(port="1-1", name="manufacturer", value="\n")
    kernel.plug(port="1-2")
    kernel.attribute(port="1-2", name="idVendor", value="none")
    async with Events() as events:
        device = await events.next()
        assert device.port == "1-1"
        assert device.serial.startswith("\x1b[2J\nxxx")
        assert (len(device.serial), device.manufacturer) == (256, "")
        kernel.plug(port="1-3")
        assert (await events.next()).port == "1-3"  # nothing of 1-2


async def serves_many_devices_at_once(kernel):
    ports = [f"1-{n}" for n in range(1, 9)]
    for port in ports:
        kernel.plug(port=port)
    async with Events() as events:
        found = {}
        while len(found) < len(ports):
            device = await events.next()
            found[device.port] = device
        workers = await asyncio.gather(*(opened(found[port]) for port in ports))

        async def drive(worker):
            for n in range(20):
                await worker.control_out(OUT, STATUS, n % 6, 1)

        await asyncio.gather(*map(drive, workers))
        await asyncio.gather(*(worker.close() for worker in workers))
    assert all(len(kernel.record(port=port)) == 20 for port in ports)

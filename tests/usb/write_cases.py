"""Cases for tests/usb/test_writes.py: coroutines, each for a process of its own, in which pyusb and
libusb are the real ones and the kernel is emulated. The device sends back what it got, reversed."""

import asyncio
import os
from contextlib import contextmanager

import pytest

from buswork.usb.devices import UsbDevice
from buswork.usb.link import Link, Transfers, UsbError

PORT = "1-1"
OUT, BACK = 0x02, 0x81
VENDORS = {"board": (0x1209, 1), "carbon": (0x16C0, 0x0480)}
PATIENCE = 20.0


@contextmanager
def plugged(kernel, kind="board"):
    address = kernel.plug(port=PORT, kind=kind)
    device = UsbDevice(PORT, 1, address, *VENDORS[kind], version=0)
    link = Link(device, None)
    link.open()
    link.claim(0)
    yield Transfers(link, device, PATIENCE)
    link.close()


def fault(kernel, how, endpoint, **more):
    kernel.faults(port=PORT, faults=[{"how": how, "endpoint": endpoint, **more}])


def fails(kind, text, function, *arguments):
    with pytest.raises(UsbError, match=text) as caught:
        function(*arguments)
    assert caught.value.kind == kind


async def waiting(kernel, function, *arguments):
    """The task of a thread in which the kernel has a write and a read that don't end yet."""
    task = asyncio.create_task(asyncio.to_thread(function, *arguments))
    async with asyncio.timeout(PATIENCE):
        while kernel.pending(port=PORT) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return task


async def brings_the_answer(kernel):
    with plugged(kernel) as transfers:
        assert transfers.exchange(OUT, b"abc", BACK, 64, 5.0) == b"cba"
        sent = os.urandom(40_000)
        assert transfers.exchange(OUT, sent, BACK, len(sent), 5.0) == sent[::-1]
        transfers.write(OUT, b"de", 5.0)
        assert transfers.read(BACK, 64, 5.0) == b"ed"


async def is_known_to_the_kernel_together_with_the_read(kernel):
    with plugged(kernel) as transfers:
        fault(kernel, "silence", OUT)
        task = await waiting(kernel, transfers.exchange, OUT, b"abc", BACK, 64, 5.0)
        kernel.faults(port=PORT, faults=[])
        assert await task == b"cba"


async def ends_before_an_answer_counts(kernel):
    """What is read while the write has not ended answers something else."""
    with plugged(kernel) as transfers:
        transfers.write(OUT, b"stale", 5.0)
        fault(kernel, "silence", OUT)
        fails("timeout", "writing to", transfers.exchange, OUT, b"abc", BACK, 64, 0.05)
        kernel.faults(port=PORT, faults=[])
        assert transfers.exchange(OUT, b"abc", BACK, 64, 5.0) == b"cba"


async def fails_as_a_write_and_a_read_do(kernel):
    with plugged(kernel) as transfers:
        fault(kernel, "stall", OUT, times=1)
        fails("stall", "writing to", transfers.exchange, OUT, b"1", BACK, 64, 0.05)
        fault(kernel, "silence", OUT)
        fails("timeout", "writing to", transfers.write, OUT, b"2", 0.05)
        fault(kernel, "stall", BACK, times=1)
        fails("stall", "reading from", transfers.exchange, OUT, b"3", BACK, 64, 5.0)
        assert transfers.read(BACK, 64, 5.0) == b"3"
        fault(kernel, "silence", BACK)
        fails("timeout", "reading from", transfers.exchange, OUT, b"4", BACK, 64, 0.05)
        kernel.faults(port=PORT, faults=[])
        assert transfers.exchange(OUT, b"5", BACK, 64, 5.0) == b"45"
        assert kernel.pending(port=PORT) == 0


async def says_how_much_was_sent(kernel):
    with plugged(kernel, "carbon") as transfers:
        kernel.trouble(port=PORT, name="has_watchdog", value=False)
        kernel.board(port=PORT, name="hang")
        fails("timeout", "took 64 of 128", transfers.exchange, OUT, bytes(128), BACK, 64, 0.05)


async def loses_its_device(kernel):
    with plugged(kernel) as transfers:
        fault(kernel, "vanish", OUT)
        fails("gone", "writing to", transfers.exchange, OUT, b"abc", BACK, 64, 5.0)
        fails("gone", "writing to", transfers.exchange, OUT, b"abc", BACK, 64, 5.0)


async def loses_its_device_while_both_wait(kernel):
    with plugged(kernel) as transfers:
        fault(kernel, "silence", OUT)
        task = await waiting(kernel, transfers.exchange, OUT, b"abc", BACK, 64, 5.0)
        kernel.unplug(port=PORT)
        with pytest.raises(UsbError, match="writing to") as caught:
            await task
        assert caught.value.kind == "gone"


async def is_made_by_its_endpoint(kernel):
    with plugged(kernel) as transfers:
        fails("io", "have no endpoint 0x04", transfers.write, 0x04, b"abc", 5.0)
        with pytest.raises(ValueError, match="from the device"):
            transfers.exchange(OUT, b"abc", OUT, 64, 5.0)
        assert transfers.read(BACK, 64, 5.0) == b"cba"

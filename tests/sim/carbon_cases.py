"""Cases for tests/sim/test_carbon_libusb.py: coroutines, each for a process of its own, in which
pyusb and libusb are the real ones and the kernel is emulated."""

import time
from contextlib import suppress

import pytest
import usb.backend.libusb1
import usb.core
import usb.util
from flipper.wire.vectors import vectors
from sim.boards import PACKET_BYTES, call, padded, result, transfer

PORT = "1-2"
OUT, IN, DEBUG = 0x02, 0x81, 0x83
ALIVE, FINE = call(0, 0), padded(result())
RGB = call(2, 1, 1, 2, 3, types=0, width=1, returns=2)
PIND, PIND_IS = call(1, 3, 0xFF, returns=3), padded(result(0x12))


def libusb():
    return usb.backend.libusb1.get_backend(find_library=lambda name: "libusb-1.0.so.0")


def plugged(kernel):
    kernel.plug(port=PORT, kind="carbon")
    return found()


def found():
    """libusb hears of it from udev, which takes a moment."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        device = usb.core.find(idVendor=0x16C0, idProduct=0x0480, backend=libusb())
        with suppress(usb.core.USBError):  # one that is gone
            if device is not None and device.product:
                return device
        time.sleep(0.01)
    raise AssertionError("libusb sees no board")


def asked(device, packet, length=PACKET_BYTES, timeout=5000):
    assert device.write(OUT, packet, timeout) == len(packet)
    return device.read(IN, length, timeout).tobytes()


async def answers_as_recorded(kernel):
    for course in ("gen1_usb_board", "gen1_usb_load"):
        device = plugged(kernel)
        assert (device.manufacturer, device.product) == ("flipper.io", "Flipper: Carbon")
        for vector in vectors(course):
            for step in vector.all_steps:
                data = bytes.fromhex(step.get("hex", ""))
                if step["dir"] == "h2d":
                    assert device.write(OUT, data, 5000) == len(data)
                elif step["dir"] == "d2h":
                    assert device.read(IN, len(data), 5000).tobytes() == data, vector.name
        usb.util.dispose_resources(device)
        kernel.unplug(port=PORT)


async def moves_several_packets_in_one_transfer(kernel):
    device = plugged(kernel)
    packet = call(4, 3, 1, returns=3)
    assert asked(device, transfer(2, 3, 2, 64) + packet) == FINE
    assert asked(device, transfer(3, 3, 3, 5), 128) == padded(result(1)) + FINE
    # The U2 waits for a byte that does not come, and then says so.
    failed = padded(result(0xFFFF, 31))
    assert asked(device, transfer(3, 3, 3, 70), 192) == bytes(128) + failed


async def leaves_a_result_to_the_next_client(kernel):
    device = plugged(kernel)
    kernel.clock(port=PORT, seconds=0)
    device.write(OUT, RGB)
    usb.util.dispose_resources(device)
    other = found()
    assert asked(other, PIND) == FINE
    assert other.read(IN, PACKET_BYTES).tobytes() == PIND_IS


async def takes_a_packet_for_data_that_did_not_come(kernel):
    device = plugged(kernel)
    kernel.clock(port=PORT, seconds=0)
    device.write(OUT, transfer(2, 3, 2, 128))
    device.write(OUT, PIND)
    with pytest.raises(usb.core.USBTimeoutError):
        device.read(IN, PACKET_BYTES, 20)
    kernel.clock(port=PORT, seconds=0.25)
    assert device.read(IN, PACKET_BYTES).tobytes() == FINE
    with pytest.raises(usb.core.USBTimeoutError):
        device.read(IN, PACKET_BYTES, 20)
    assert asked(device, PIND) == PIND_IS


async def makes_a_host_wait_while_it_is_busy(kernel):
    device = plugged(kernel)
    kernel.trouble(port=PORT, name="has_watchdog", value=False)
    kernel.board(port=PORT, name="hang")
    assert device.write(OUT, PIND + PIND, 50) == PACKET_BYTES  # its endpoint holds one
    with pytest.raises(usb.core.USBTimeoutError):
        device.write(OUT, PIND, 50)
    with pytest.raises(usb.core.USBTimeoutError):
        device.read(IN, PACKET_BYTES, 50)


async def starts_anew_when_it_is_configured(kernel):
    device = plugged(kernel)
    assert asked(device, PIND) == PIND_IS
    kernel.board(port=PORT, name="stumble")
    device.write(OUT, PIND, 50)
    with pytest.raises(usb.core.USBTimeoutError):
        device.write(OUT, PIND, 50)
    device.ctrl_transfer(0x00, 9, 1, 0)
    assert asked(device, PIND) == PIND_IS
    kernel.board(port=PORT, name="stumble")
    device.reset()
    assert asked(device, PIND) == PIND_IS
    kernel.board(port=PORT, name="stumble")
    with pytest.raises(usb.core.USBError, match="busy"):
        libusb().set_configuration(device._ctx.handle, 1)
    usb.util.release_interface(device, 0)
    libusb().set_configuration(device._ctx.handle, 1)
    assert asked(device, PIND) == PIND_IS


async def leaves_the_bus_and_comes_back(kernel):
    device = plugged(kernel)
    kernel.clock(port=PORT, seconds=0)
    assert asked(device, call(4, 1)) == padded(result(0x0818))
    assert asked(device, ALIVE) == FINE
    kernel.clock(port=PORT, seconds=0.02)
    with pytest.raises(usb.core.USBError, match="No such device"):
        asked(device, ALIVE)
    usb.util.dispose_resources(device)
    assert asked(plugged(kernel), ALIVE) == FINE


async def tells_at_its_other_interface(kernel):
    device = plugged(kernel)
    kernel.board(port=PORT, name="say", text="started\n")
    usb.util.claim_interface(device, 1)
    buffer = usb.util.create_buffer(32)
    libusb().intr_read(device._ctx.handle, DEBUG, 1, buffer, 5000)
    assert buffer.tobytes() == b"started\n".ljust(32, b"\0")
    assert asked(device, ALIVE) == FINE

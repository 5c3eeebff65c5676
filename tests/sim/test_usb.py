"""The simulated bus as pyusb sees it. What workers make of it: tests/usb/test_worker.py."""

import asyncio
import threading

import pytest
import usb.core
import usb.util

from buswork.sim.dac import SimDac
from buswork.sim.device import Fault, How, SimDevice, SimEndpoint, SimInterface
from buswork.sim.usb import SimBackend, SimDiscovery
from buswork.usb.devices import UsbInterface


class Echo(SimDevice):
    """Sends back what it was sent."""

    serial = "ECHO"

    def __init__(self):
        ends = (SimEndpoint(0x81), SimEndpoint(0x02), SimEndpoint(0x83, 3, 32, 1))
        super().__init__([SimInterface(0, 0xFF, 1, 1, ends)])
        self.held = b""

    def receive(self, endpoint, data):
        self.held += data
        return True

    def send(self, endpoint, length):
        data, self.held = self.held[:length], self.held[length:]
        return data or None


@pytest.fixture
def backend():
    return SimBackend()


def test_pyusb_finds_and_describes_it(backend):
    backend.plug(SimDac(), port="1-2.3")
    backend.plug(Echo(), port="2-1")
    dac, echo = usb.core.find(find_all=True, backend=backend)
    assert (dac.bus, dac.address, dac.port_numbers) == (1, 2, (2, 3))
    assert (echo.bus, echo.address, echo.port_number) == (2, 3, 1)
    assert (dac.idVendor, dac.idProduct, dac.bcdUSB) == (0x1209, 1, 0x0201)
    assert (dac.manufacturer, dac.product, dac.serial_number) == (
        "buswork",
        "Simulated DAC",
        "SIM-1",
    )
    assert [i.bInterfaceSubClass for i in dac.get_active_configuration()] == [1, 0x42]
    assert "ENDPOINT 0x83: Interrupt IN" in str(echo)


def test_pyusb_talks_to_it(backend):
    backend.plug(Echo())
    echo = usb.core.find(backend=backend)
    assert echo.write(0x02, b"hello") == 5
    assert echo.read(0x81, 3).tobytes() == b"hel"
    assert echo.read(0x83, 64).tobytes() == b"lo"
    with pytest.raises(usb.core.USBTimeoutError):
        echo.read(0x81, 3, timeout=5)
    with pytest.raises(usb.core.USBError) as caught:
        echo.ctrl_transfer(0xC0, 0x33, 0, 0, 4)
    assert (caught.value.errno, caught.value.backend_error_code) == (32, -9)
    echo.reset()


class Narrow(Echo):
    """Has room for some bytes, and sends a packet at a time; it is emptied when it is looked at."""

    room, packets = 70, ()

    def take(self, endpoint, data):
        taken = min(len(data), self.room - len(self.held))
        self.held += data[:taken]
        return taken

    def send(self, endpoint, length):
        self.packets, sent = self.packets[1:], self.packets[:1]
        return sent[0] if sent else None


def test_what_a_device_has_no_room_for_waits(backend):
    backend.plug(narrow := Narrow())
    host = usb.core.find(backend=backend)
    assert host.write(0x02, bytes(100), 5) == 70
    with pytest.raises(usb.core.USBTimeoutError):
        host.write(0x02, bytes(100), 5)
    narrow.room = 80
    threading.Timer(0.01, lambda: setattr(narrow, "room", 200)).start()
    assert host.write(0x02, bytes(100), 5000) == 100
    narrow.faults = [Fault(How.DONE, endpoint=0x02, delay=0.01)]
    with pytest.raises(usb.core.USBTimeoutError):
        host.write(0x02, bytes(10), 5)
    threading.Timer(0.01, backend.unplug, ("1-1",)).start()
    with pytest.raises(usb.core.USBError) as caught:
        host.write(0x02, bytes(100), 5000)
    assert caught.value.errno == 19


def test_a_short_packet_ends_a_read(backend):
    backend.plug(narrow := Narrow())
    host = usb.core.find(backend=backend)
    full = bytes(range(64))
    narrow.packets = [full, full, b"end", full]
    assert host.read(0x81, 512).tobytes() == full + full + b"end"
    narrow.packets = [full, b"", full]
    assert host.read(0x81, 512).tobytes() == full
    narrow.packets = [full, full, full]
    assert host.read(0x81, 128).tobytes() == full + full
    # What came counts, however much more was to come.
    assert host.read(0x81, 128, 5).tobytes() == full
    narrow.packets = [full, full]
    with pytest.raises(usb.core.USBError, match="Overflow"):
        host.read(0x81, 100)


def test_a_configuration_is_chosen_while_nobody_has_an_interface(backend):
    backend.plug(Echo())
    host = usb.core.find(backend=backend)
    host.set_configuration(1)
    usb.util.claim_interface(host, 0)
    with pytest.raises(usb.core.USBError) as caught:
        host.set_configuration(1)
    assert caught.value.errno == 16


def test_an_interface_belongs_to_one(backend):
    backend.plug(Echo())
    one, other = (usb.core.find(backend=backend) for _ in range(2))
    usb.util.claim_interface(one, 0)
    with pytest.raises(usb.core.USBError) as caught:
        usb.util.claim_interface(other, 0)
    assert caught.value.errno == 16
    usb.util.dispose_resources(one)
    usb.util.claim_interface(other, 0)
    assert not other.is_kernel_driver_active(0)
    backend.plug_at("1-1").claims[0] = None
    assert other.is_kernel_driver_active(0)


def test_ports_are_checked(backend):
    backend.plug(Echo(), port="1-1")
    for port in ("1-1", "1-01", "1", "x-1", "1-1.x"):
        with pytest.raises(ValueError, match=r"."):
            backend.plug(Echo(), port=port)


async def test_discovery_tells_of_devices_that_are_there_come_and_go(backend):
    seen = asyncio.Queue()
    marked = backend.plug(SimDac(), port="1-1", properties={"ID_FSCT": "1"})
    discovery = SimDiscovery(backend)
    await discovery.start(seen.put_nowait, seen.put_nowait)
    assert await seen.get() is marked
    assert (marked.port, marked.serial, marked.properties["ID_FSCT"]) == ("1-1", "SIM-1", "1")
    assert marked.interfaces == (UsbInterface(0, 0, 255, 1, 0), UsbInterface(1, 0, 255, 0x42, 1))
    other = await asyncio.to_thread(backend.plug, Echo(), "1-2")
    assert await seen.get() is other
    backend.unplug("1-1")
    assert await seen.get() == "1-1"
    again = backend.plug(SimDac(), port="1-1")
    assert await seen.get() is again
    assert again.address not in (marked.address, other.address)
    backend.unplug("1-2")
    discovery.stop()
    discovery.stop()
    backend.plug(Echo(), "1-3")
    await asyncio.sleep(0)
    assert seen.empty()

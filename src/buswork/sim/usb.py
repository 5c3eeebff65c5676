"""Simulated devices where pyusb looks for real ones, and the hotplug events to them.

    backend = SimBackend()
    backend.plug(SimDac(), port="1-1")
    worker = Worker(device, backend)        # and SimDiscovery(backend) where udev would be

The errors are those that pyusb raises on top of libusb, with the same numbers.
"""

import asyncio
import errno
import itertools
import struct
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace

from usb.backend import IBackend
from usb.core import USBError, USBTimeoutError

from buswork.sim.device import IN, How, Outcome, Setup, SimDevice, SimInterface
from buswork.usb.devices import UsbDevice, interfaces_of, port_name, text_of
from buswork.usb.discovery import OnAdd, OnRemove

_RECIPIENT, _TYPE, _INTERFACE, _VENDOR = 0x1F, 0x60, 0x01, 0x40
_DEVICE_FIELDS = (
    "bLength",
    "bDescriptorType",
    "bcdUSB",
    "bDeviceClass",
    "bDeviceSubClass",
    "bDeviceProtocol",
    "bMaxPacketSize0",
    "idVendor",
    "idProduct",
    "bcdDevice",
    "iManufacturer",
    "iProduct",
    "iSerialNumber",
    "bNumConfigurations",
)
_CONFIGURATION_FIELDS = (
    "bLength",
    "bDescriptorType",
    "wTotalLength",
    "bNumInterfaces",
    "bConfigurationValue",
    "iConfiguration",
    "bmAttributes",
    "bMaxPower",
)
# How often a read looks for what the device has to send.
_POLL_SECONDS = 0.002


def _error(number: int, code: int, text: str) -> USBError:
    kind = USBTimeoutError if number == errno.ETIMEDOUT else USBError
    return kind(text, code, number)


def _no_device() -> USBError:
    return _error(errno.ENODEV, -4, "No such device (it may have been disconnected)")


def _timed_out() -> USBError:
    return _error(errno.ETIMEDOUT, -7, "Operation timed out")


@dataclass(eq=False)
class Plug:
    """A device in its port, from plugging it in to taking it out."""

    device: SimDevice
    facts: UsbDevice
    path: tuple[int, ...]
    gone: threading.Event = field(default_factory=threading.Event)
    # By interface: who has claimed it; a kernel driver is None.
    claims: dict[int, "Handle | None"] = field(default_factory=dict)
    opened: int = 0
    may_be_opened: bool = True
    # Set to end transfers that hang.
    release: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class Handle:
    plug: Plug
    is_closed: bool = False


class SimBackend(IBackend):  # type: ignore[misc]
    """A bus of simulated devices."""

    def __init__(self) -> None:
        super().__init__()
        self._plugs: dict[str, Plug] = {}  # by port
        self._addresses = itertools.count(2)
        self._lock = threading.RLock()
        self.on_add: list[Callable[[UsbDevice], None]] = []
        self.on_remove: list[Callable[[str], None]] = []

    # Plugging

    def plug(
        self, device: SimDevice, port: str = "1-1", properties: Mapping[str, str] | None = None
    ) -> UsbDevice:
        """Plugs it in; properties: what udev's rules say of it."""
        bus, _, rest = port.partition("-")
        path = tuple(map(int, rest.split(".")))
        if port_name(int(bus), path) != port:
            raise ValueError(f"{port!r} is no port")
        with self._lock:
            if port in self._plugs:
                raise ValueError(f"there is a device at {port}")
            facts = _facts(device, port, int(bus), next(self._addresses), properties or {})
            device.power_on()
            self._plugs[port] = Plug(device, facts, path)
        for listener in tuple(self.on_add):
            listener(facts)
        return facts

    def unplug(self, port: str) -> None:
        with self._lock:
            plug = self._plugs.pop(port)
        plug.gone.set()
        for listener in tuple(self.on_remove):
            listener(port)

    def plug_at(self, port: str) -> Plug:
        return self._plugs[port]

    @property
    def devices(self) -> list[UsbDevice]:
        with self._lock:
            return [plug.facts for plug in self._plugs.values()]

    # What pyusb asks

    def enumerate_devices(self) -> Iterator[Plug]:
        with self._lock:
            return iter(list(self._plugs.values()))

    def get_parent(self, dev: Plug) -> None:
        return None

    def get_device_descriptor(self, dev: Plug) -> SimpleNamespace:
        values = struct.unpack("<BBHBBBBHHHBBBB", dev.device.device_descriptor())
        return SimpleNamespace(
            **dict(zip(_DEVICE_FIELDS, values, strict=True)),
            bus=dev.facts.bus,
            address=dev.facts.address,
            port_number=dev.path[-1],
            port_numbers=dev.path,
            speed=3,
        )

    def get_configuration_descriptor(self, dev: Plug, config: int) -> SimpleNamespace:
        if config != 0:
            raise IndexError(f"Invalid configuration index {config}")
        values = struct.unpack_from("<BBHBBBBB", dev.device.configuration())
        fields = dict(zip(_CONFIGURATION_FIELDS, values, strict=True))
        return SimpleNamespace(**fields, extra_descriptors=[])

    def get_interface_descriptor(
        self, dev: Plug, intf: int, alt: int, config: int
    ) -> SimpleNamespace:
        interface = _interface(dev, intf)
        if alt != 0:
            raise IndexError(f"Invalid alternate setting index {alt}")
        return SimpleNamespace(
            bLength=9,
            bDescriptorType=4,
            bInterfaceNumber=interface.number,
            bAlternateSetting=0,
            bNumEndpoints=len(interface.endpoints),
            bInterfaceClass=interface.interface_class,
            bInterfaceSubClass=interface.subclass,
            bInterfaceProtocol=interface.protocol,
            iInterface=0,
            extra_descriptors=[],
        )

    def get_endpoint_descriptor(
        self, dev: Plug, ep: int, intf: int, alt: int, config: int
    ) -> SimpleNamespace:
        endpoint = _interface(dev, intf).endpoints[ep]
        return SimpleNamespace(
            bLength=7,
            bDescriptorType=5,
            bEndpointAddress=endpoint.address,
            bmAttributes=endpoint.attributes,
            wMaxPacketSize=endpoint.max_packet,
            bInterval=endpoint.interval,
            bRefresh=0,
            bSynchAddress=0,
            extra_descriptors=[],
        )

    def open_device(self, dev: Plug) -> Handle:
        if dev.gone.is_set():
            raise _no_device()
        if not dev.may_be_opened:
            raise _error(errno.EACCES, -3, "Access denied (insufficient permissions)")
        dev.opened += 1
        return Handle(dev)

    def close_device(self, dev_handle: Handle) -> None:
        plug = dev_handle.plug
        if dev_handle in plug.claims.values() and not plug.gone.is_set():
            raise AssertionError("a device is closed with an interface that is not released")
        if not dev_handle.is_closed:
            dev_handle.is_closed = True
            plug.opened -= 1

    def set_configuration(self, dev_handle: Handle, config_value: int) -> None:
        if dev_handle.plug.claims:  # as the kernel does
            raise _error(errno.EBUSY, -6, "Resource busy")
        self._transfer(dev_handle, Setup(0, 9, config_value, 0, 0), b"", 1000)

    def get_configuration(self, dev_handle: Handle) -> int:
        self._check(dev_handle)
        return 1

    def claim_interface(self, dev_handle: Handle, intf: int) -> None:
        self._check(dev_handle)
        plug = dev_handle.plug
        if intf not in (interface.number for interface in plug.device.interfaces):
            raise _error(errno.ENOENT, -5, "Entity not found")
        with self._lock:
            if plug.claims.get(intf, dev_handle) is not dev_handle:
                raise _error(errno.EBUSY, -6, "Resource busy")
            plug.claims[intf] = dev_handle

    def release_interface(self, dev_handle: Handle, intf: int) -> None:
        self._check(dev_handle)
        with self._lock:
            if dev_handle.plug.claims.get(intf) is dev_handle:
                del dev_handle.plug.claims[intf]

    def ctrl_transfer(
        self,
        dev_handle: Handle,
        bmRequestType: int,  # noqa: N803 - pyusb's names
        bRequest: int,  # noqa: N803
        wValue: int,  # noqa: N803
        wIndex: int,  # noqa: N803
        data: "array[int]",
        timeout: int,
    ) -> int:
        setup = Setup(bmRequestType, bRequest, wValue, wIndex, len(data))
        if bmRequestType & _RECIPIENT == _INTERFACE and bmRequestType & _TYPE != _VENDOR:
            # As the kernel does with a program that forgot it.
            self.claim_interface(dev_handle, wIndex & 0xFF)
        if bmRequestType & IN:
            answer = self._transfer(dev_handle, setup, b"", timeout)
            data[: len(answer)] = array("B", answer)
            return len(answer)
        self._transfer(dev_handle, setup, data.tobytes(), timeout)
        return len(data)

    def bulk_write(
        self, dev_handle: Handle, ep: int, intf: int, data: "array[int]", timeout: int
    ) -> int:
        self._check_claim(dev_handle, intf)
        plug, left = dev_handle.plug, timeout / 1000
        outcome = plug.device.write(ep, data.tobytes())
        while outcome.how is How.PARTLY:
            if left <= 0:
                return _partly(len(data) - len(outcome.data))
            if plug.gone.wait(_POLL_SECONDS):
                raise _no_device()
            left -= _POLL_SECONDS
            outcome = plug.device.write(ep, outcome.data)
        self._await(dev_handle, outcome, max(0.0, left * 1000))
        return len(data)

    def bulk_read(
        self, dev_handle: Handle, ep: int, intf: int, buff: "array[int]", timeout: int
    ) -> int:
        self._check_claim(dev_handle, intf)
        plug, left = dev_handle.plug, timeout / 1000
        size = _max_packet(plug, ep)
        data = b""
        while True:
            outcome = plug.device.read(ep, len(buff) - len(data))
            if outcome == Outcome(How.SILENCE) and left > 0:
                if plug.gone.wait(_POLL_SECONDS):
                    raise _no_device()
                left -= _POLL_SECONDS
                continue
            if outcome.how is How.SILENCE and data:
                break
            came = self._await(dev_handle, outcome, max(0.0, left * 1000))
            data += came
            # A short packet ends it.
            if len(data) >= len(buff) or not came or len(came) % size:
                break
        if len(data) > len(buff):
            raise _error(errno.EOVERFLOW, -8, "Overflow")
        buff[: len(data)] = array("B", data)
        return len(data)

    intr_write, intr_read = bulk_write, bulk_read

    def clear_halt(self, dev_handle: Handle, ep: int) -> None:
        self._check(dev_handle)

    def reset_device(self, dev_handle: Handle) -> None:
        self._check(dev_handle)
        dev_handle.plug.device.bus_reset()

    def is_kernel_driver_active(self, dev_handle: Handle, intf: int) -> bool:
        self._check(dev_handle)
        return dev_handle.plug.claims.get(intf, dev_handle) is None

    def detach_kernel_driver(self, dev_handle: Handle, intf: int) -> None:
        raise AssertionError("nobody here takes a device from its driver")

    # Inside

    def _transfer(self, handle: Handle, setup: Setup, data: bytes, timeout_ms: float) -> bytes:
        self._check(handle)
        outcome = handle.plug.device.transfer(setup, data)
        return self._await(handle, outcome, timeout_ms)

    def _await(self, handle: Handle, outcome: Outcome, timeout_ms: float) -> bytes:
        """Lets the time pass that the transfer takes."""
        plug = handle.plug
        seconds = timeout_ms / 1000
        if outcome.delay and plug.gone.wait(min(outcome.delay, seconds)):
            raise _no_device()
        if outcome.delay > seconds:
            raise _timed_out()
        match outcome.how:
            case How.VANISH:
                with suppress(KeyError):  # it is out already
                    self.unplug(plug.facts.port)
                raise _no_device()
            case How.HANG:
                plug.release.wait()
                raise _error(errno.EIO, -1, "Input/Output Error")
            case How.SILENCE:
                if plug.gone.wait(seconds - outcome.delay):
                    raise _no_device()
                raise _timed_out()
            case How.STALL:
                raise _error(errno.EPIPE, -9, "Pipe error")
        return outcome.data

    def _check(self, handle: Handle) -> None:
        if handle.is_closed:
            raise AssertionError("a closed device is used")
        if handle.plug.gone.is_set():
            raise _no_device()

    def _check_claim(self, handle: Handle, interface: int) -> None:
        self._check(handle)
        if handle.plug.claims.get(interface) is not handle:
            raise AssertionError("an interface is used that nobody claimed")


class SimDiscovery:
    """Tells of a SimBackend's devices, as udev does of real ones."""

    def __init__(self, backend: SimBackend) -> None:
        self._backend = backend
        self._is_on = False

    async def start(self, on_add: OnAdd, on_remove: OnRemove) -> None:
        self._loop = asyncio.get_running_loop()
        self._callbacks = on_add, on_remove
        self._is_on = True
        self._told: dict[str, UsbDevice] = {}
        self._backend.on_add.append(self._plugged)
        self._backend.on_remove.append(self._unplugged)
        for device in self._backend.devices:
            self._plugged(device)

    def stop(self) -> None:
        if self._is_on:
            self._is_on = False
            self._backend.on_add.remove(self._plugged)
            self._backend.on_remove.remove(self._unplugged)

    # Any thread may plug and unplug.

    def _plugged(self, device: UsbDevice) -> None:
        self._loop.call_soon_threadsafe(self._add, device)

    def _unplugged(self, port: str) -> None:
        self._loop.call_soon_threadsafe(self._remove, port)

    def _add(self, device: UsbDevice) -> None:
        if self._is_on and self._told.get(device.port) != device:
            self._told[device.port] = device
            self._callbacks[0](device)

    def _remove(self, port: str) -> None:
        if self._is_on and self._told.pop(port, None) is not None:
            self._callbacks[1](port)


def _partly(count: int) -> int:
    """The time is over; pyusb says so only if nothing was transferred."""
    if not count:
        raise _timed_out()
    return count


def _max_packet(plug: Plug, address: int) -> int:
    ends = (end for interface in plug.device.interfaces for end in interface.endpoints)
    return next((end.max_packet for end in ends if end.address == address), 64)


def _interface(plug: Plug, at: int) -> SimInterface:
    if not 0 <= at < len(plug.device.interfaces):
        raise IndexError(f"Invalid interface index {at}")
    return plug.device.interfaces[at]


def _facts(
    device: SimDevice, port: str, bus: int, address: int, properties: Mapping[str, str]
) -> UsbDevice:
    """What the kernel and udev would know of it."""
    manufacturer, product_name, serial = (
        text_of((text or "").encode(errors="replace")) for text in device.strings
    )
    return UsbDevice(
        port=port,
        bus=bus,
        address=address,
        vendor=device.vendor,
        product=device.product,
        version=device.version,
        manufacturer=manufacturer,
        product_name=product_name,
        serial=serial,
        interfaces=interfaces_of(1, device.device_descriptor() + device.configuration()),
        properties=MappingProxyType(dict(properties)),
    )

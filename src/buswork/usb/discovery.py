"""Which USB devices there are, and word of those that come and go.

Rules
* Events are udev's, not the kernel's: when one arrives, our rules have marked the device and its
  node has its group.
* We listen before we look, so nothing is missed in between; what is then seen twice counts once.
* The loop reads events only. A device's own words are read from sysfs by a thread that ends with
  it, because the kernel lets a reader wait while it is busy with the device, perhaps for ever.
* A port has one reader at a time; what udev says meanwhile is read after it, the newest alone.
"""

import asyncio
import errno
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import pyudev

from buswork.errors import BusworkError
from buswork.usb.devices import (
    IGNORE,
    MAX_DESCRIPTOR_BYTES,
    MAX_TEXT,
    PROPERTIES,
    UsbDevice,
    interfaces_of,
    text_of,
    usb_version_of,
)

log = logging.getLogger(__name__)

SUBSYSTEM, DEVICE_TYPE = "usb", "usb_device"
# Events read in one go; there may be more of them, and others wait for the loop.
TURN_EVENTS = 64
# Devices that are read at once. As many may keep their readers before the others have to wait.
MAX_READERS = 8
# When to try again after the system did not allow one more thread.
NO_THREAD_SECONDS = 1.0
# Any attribute but the descriptors is one page at most; what we keep of it is less.
ATTRIBUTE_BYTES = 4096

OnAdd = Callable[[UsbDevice], None]
OnRemove = Callable[[str], None]


class NoHotplug(BusworkError):
    """This machine does not tell of its USB devices."""

    name = "org.buswork.Error.Usb.NoHotplug"


class Discovery(Protocol):
    """Tells of devices, on the loop that started it.

    on_remove comes once for each on_add, with the port, unless stop() was called before. A device
    about which something has changed is removed and added.
    """

    async def start(self, on_add: OnAdd, on_remove: OnRemove) -> None: ...

    def stop(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Seen:
    """What an event says of a device: all that is known without touching it."""

    syspath: str
    port: str
    bus: int
    address: int
    properties: Mapping[str, str]


class UdevDiscovery:
    """The devices that udev knows."""

    def __init__(self) -> None:
        self._monitor: pyudev.Monitor | None = None
        self._seen: dict[str, _Seen] = {}  # by port: the newest word of a device
        self._told: dict[str, UsbDevice] = {}  # by port: what on_add was called with
        self._unread: dict[str, _Seen] = {}  # by port: the newest word, to be followed by facts
        self._reading: set[str] = set()  # the ports of the readers

    async def start(self, on_add: OnAdd, on_remove: OnRemove) -> None:
        self._on_add, self._on_remove = on_add, on_remove
        self._loop = asyncio.get_running_loop()
        try:
            # Finding the library takes a process or two.
            self._context = await asyncio.to_thread(pyudev.Context)
            monitor = pyudev.Monitor.from_netlink(self._context)
            monitor.filter_by(SUBSYSTEM, DEVICE_TYPE)
            monitor.start()
        except (OSError, ImportError) as error:
            raise NoHotplug(f"no word of USB devices from udev: {error}") from error
        self._monitor = monitor
        self._fd: int = monitor.fileno()
        self._loop.add_reader(self._fd, self._read_events)
        self._look()

    def stop(self) -> None:
        if self._monitor is not None:
            self._loop.remove_reader(self._fd)
            self._monitor = None
        self._seen.clear()
        self._unread.clear()
        self._told.clear()

    # Events

    def _read_events(self) -> None:
        for _ in range(TURN_EVENTS):
            if self._monitor is None:  # stopped by one who was told
                return
            try:
                device = self._monitor.poll(timeout=0)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    log.warning("events of udev were lost; looking at all devices")
                    self._look()
                else:
                    log.error("can't read udev's events: %s", error)
                return
            if device is None:
                return
            self._event(device)

    def _event(self, device: pyudev.Device) -> None:
        if device.action == "remove":
            # Only sysfs knows the address, and there it is gone; udev keeps a port's events in
            # their order.
            self._gone(device.sys_name)
        else:
            self._notice(device)

    def _look(self) -> None:
        """Compares what is known with what is there."""
        there = set()
        found = self._context.list_devices(subsystem=SUBSYSTEM, DEVTYPE=DEVICE_TYPE)
        for device in found:
            there.add(device.sys_name)
            # If udev is not done with it yet, an event follows, and with it our mark.
            self._notice(device)
        for port in set(self._seen) - there:
            self._gone(port)

    def _notice(self, device: pyudev.Device) -> None:
        seen = _seen(device)
        if seen is None:
            return
        before = self._told.get(seen.port)
        ignored = seen.properties.get(IGNORE) == "1"
        if ignored or (before is not None and before.place != (seen.bus, seen.address)):
            self._gone(seen.port)
        if not ignored:
            # Even if it is known: only now it may have a configuration, or our mark.
            self._seen[seen.port] = seen
            self._unread[seen.port] = seen
            self._start_readers()

    def _gone(self, port: str) -> None:
        self._seen.pop(port, None)
        self._unread.pop(port, None)
        if self._told.pop(port, None) is not None:
            self._on_remove(port)

    # Facts

    def _start_readers(self) -> None:
        for port in [port for port in self._unread if port not in self._reading]:
            if len(self._reading) >= MAX_READERS:
                return
            reader = threading.Thread(
                target=self._read_facts, args=(self._unread[port],), name=f"usb {port}", daemon=True
            )
            try:
                reader.start()
            except RuntimeError as error:
                log.warning("can't look at the device at port %s now: %s", port, error)
                self._loop.call_later(NO_THREAD_SECONDS, self._start_readers)
                return
            self._reading.add(port)
            del self._unread[port]

    def _read_facts(self, seen: _Seen) -> None:
        """The thread: reads what the device says of itself."""
        device = None
        try:
            device = _facts(seen)
        except (OSError, ValueError) as error:
            log.debug("device at port %s left before it was known: %s", seen.port, error)
        finally:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._has_read, seen, device)

    def _has_read(self, seen: _Seen, device: UsbDevice | None) -> None:
        self._reading.remove(seen.port)
        self._start_readers()
        if device is not None:
            self._known(seen, device)

    def _known(self, seen: _Seen, device: UsbDevice) -> None:
        if self._seen.get(seen.port) is not seen or self._told.get(seen.port) == device:
            return
        if self._told.pop(seen.port, None) is not None:
            self._on_remove(seen.port)
        if self._monitor is not None:
            self._told[seen.port] = device
            self._on_add(device)


def _seen(device: pyudev.Device) -> _Seen | None:
    properties = device.properties
    try:
        bus, address = int(properties["BUSNUM"]), int(properties["DEVNUM"])
    except (KeyError, ValueError):
        return None
    ours = {name: properties[name][:MAX_TEXT] for name in PROPERTIES if name in properties}
    return _Seen(device.sys_path, device.sys_name, bus, address, MappingProxyType(ours))


def _facts(seen: _Seen) -> UsbDevice:
    def read(name: str, limit: int = ATTRIBUTE_BYTES) -> bytes:
        return _read(f"{seen.syspath}/{name}", limit)

    def text(name: str) -> str:
        try:
            return text_of(read(name))
        except FileNotFoundError:
            return ""  # the device has no such string

    descriptors = read("descriptors", MAX_DESCRIPTOR_BYTES)
    configuration = text("bConfigurationValue")
    device = UsbDevice(
        port=seen.port,
        bus=seen.bus,
        address=seen.address,
        vendor=int(read("idVendor"), 16),
        product=int(read("idProduct"), 16),
        version=usb_version_of(descriptors),
        manufacturer=text("manufacturer"),
        product_name=text("product"),
        serial=text("serial"),
        interfaces=interfaces_of(int(configuration or "0"), descriptors),
        properties=seen.properties,
        syspath=seen.syspath,
    )
    # Another device may have taken the port while we read.
    if int(read("busnum")) != seen.bus or int(read("devnum")) != seen.address:
        raise ValueError("another device is there now")
    return device


def _read(path: str, limit: int) -> bytes:
    """The beginning of a file; sysfs gives at most a page at a time."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while len(data) < limit and (part := os.read(fd, limit - len(data))):
            data += part
        return data
    finally:
        os.close(fd)

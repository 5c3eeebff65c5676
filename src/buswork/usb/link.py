"""A device itself, as the thread of its worker has it; and what may go wrong with it."""

import errno
import math
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import usb.backend.libusb1
from usb.backend import IBackend
from usb.core import USBError

from buswork.errors import BusworkError
from buswork.usb.devices import UsbDevice, port_name
from buswork.usb.writes import Write

# The longest transfer; while it lasts, nobody else has the device.
MAX_TIMEOUT = 5.0
# The kernel has no limit for these; this is ours.
MAX_BULK_BYTES = 64 * 1024

GONE: Final = "gone"  # unplugged, closed, or it no longer reacts at all
STALL: Final = "stall"  # the device refused the request
TIMED_OUT: Final = "timeout"
BUSY: Final = "busy"  # another program or a kernel driver has it
DENIED: Final = "denied"  # we may not open it
IO: Final = "io"  # anything else

_KINDS = {
    errno.ENODEV: GONE,
    errno.ESHUTDOWN: GONE,
    errno.EPIPE: STALL,
    errno.ETIMEDOUT: TIMED_OUT,
    errno.EBUSY: BUSY,
    errno.EACCES: DENIED,
    errno.EPERM: DENIED,
}
# libusb's own numbers, for a backend that has no errno to an error.
_CODES = {-3: DENIED, -4: GONE, -6: BUSY, -7: TIMED_OUT, -9: STALL}
_SENTENCES = {
    GONE: "the device is gone",
    STALL: "the device refused the request",
    TIMED_OUT: "the device did not answer in time",
    BUSY: "another program or a driver uses the device",
    DENIED: "the device may not be opened",
    IO: "the transfer failed",
}

IN = 0x80
_INTERRUPT = 3
_LIBRARY = "libusb-1.0.so.0"
_loading = threading.Lock()


class UsbError(BusworkError):
    """A device did not do what was asked; `kind` says how."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text, f"org.buswork.Error.Usb.{kind.capitalize()}")
        self.kind = kind


def libusb() -> IBackend:
    """The real thing; one for the process."""
    with _loading:
        backend = usb.backend.libusb1.get_backend(find_library=lambda name: _LIBRARY)
        if backend is None:
            raise UsbError(IO, f"{_LIBRARY} can't be used, so no USB device can")
        # Its last act would be libusb_exit(), under the feet of a thread that was left behind.
        backend._finalizer.atexit = False
    return backend


def libusb_apart() -> IBackend:
    """The same in a context of its own: threads that share one wake for each other's transfers."""
    shared: Any = libusb()
    backend: IBackend = type(shared)(shared.lib)
    backend._finalizer.atexit = False
    return backend


class Link:
    """The device itself. Only the worker's thread comes here."""

    def __init__(self, device: UsbDevice, backend: IBackend | None) -> None:
        self._facts = device
        self._backend: Any = backend
        self._is_libusb = backend is None
        self._device: Any = None
        self._handle: Any = None
        self._claimed: list[int] = []
        self._endpoints: dict[int, tuple[int, int]] = {}  # address: interface, kind

    def open(self) -> None:
        if self._backend is None:
            self._backend = libusb_apart()
        self._device = self._find()
        self._device.context = self._backend  # which has to be there until the device is let go
        self._handle = self._backend.open_device(self._device)

    def _find(self) -> Any:
        """The device, by its address; but only if it still is the one that we know."""
        facts = self._facts
        for device in self._backend.enumerate_devices():
            found = self._backend.get_device_descriptor(device)
            if (found.bus, found.address) != facts.place:
                continue
            path = found.port_numbers
            known = path is None or port_name(found.bus, tuple(path)) == facts.port
            if known and (found.idVendor, found.idProduct) == (facts.vendor, facts.product):
                return device
            break
        raise UsbError(GONE, f"{facts} is no longer there")

    def claim(self, interface: int, *unlisted: int) -> None:
        self._backend.claim_interface(self._handle, interface)
        self._claimed.append(interface)
        self._endpoints |= dict.fromkeys(unlisted, (interface, _INTERRUPT))

    def configure(self, value: int) -> None:
        self._backend.set_configuration(self._handle, value)

    def control(
        self, kind: int, request: int, value: int, index: int, data: "array[int]", time_ms: int
    ) -> int:
        backend, handle = self._backend, self._handle
        done: int = backend.ctrl_transfer(handle, kind, request, value, index, data, time_ms)
        return done

    def read(self, endpoint: int, length: int, time_ms: int) -> bytes:
        buffer = array("B", bytes(length))
        interface, kind = self._endpoint(endpoint)
        read = self._backend.intr_read if kind == _INTERRUPT else self._backend.bulk_read
        done: int = read(self._handle, endpoint, interface, buffer, time_ms)
        return buffer.tobytes()[:done]

    def write(self, endpoint: int, data: bytes, time_ms: int) -> Callable[[], int]:
        """Begins it; what is returned waits for its end, and says how much was sent."""
        interface, kind = self._endpoint(endpoint)
        backend, handle = self._backend, self._handle
        if self._is_libusb:
            return Write(backend, handle, endpoint, kind, data, time_ms).end
        write = backend.intr_write if kind == _INTERRUPT else backend.bulk_write
        done: int = write(handle, endpoint, interface, array("B", data), time_ms)
        return lambda: done

    def _endpoint(self, address: int) -> tuple[int, int]:
        if address not in self._endpoints:
            for interface in self._claimed:
                self._endpoints |= self._endpoints_of(interface)
        if address not in self._endpoints:
            raise UsbError(IO, f"the claimed interfaces have no endpoint {address:#04x}")
        return self._endpoints[address]

    def _endpoints_of(self, number: int) -> dict[int, tuple[int, int]]:
        """The endpoints of an interface's first setting."""
        backend, device = self._backend, self._device
        active = backend.get_configuration(self._handle)
        for at in range(backend.get_device_descriptor(device).bNumConfigurations):
            configuration = backend.get_configuration_descriptor(device, at)
            if configuration.bConfigurationValue != active:
                continue
            for place in range(configuration.bNumInterfaces):
                interface = backend.get_interface_descriptor(device, place, 0, at)
                if interface.bInterfaceNumber == number:
                    ends = range(interface.bNumEndpoints)
                    found = [backend.get_endpoint_descriptor(device, i, place, 0, at) for i in ends]
                    return {e.bEndpointAddress: (number, e.bmAttributes & 3) for e in found}
        return {}

    def close(self) -> None:
        if self._handle is None:
            return
        for interface in self._claimed:
            with suppress(USBError, NotImplementedError):  # unplugged
                self._backend.release_interface(self._handle, interface)
        self._backend.close_device(self._handle)
        self._handle = self._device = None


class Transfers:
    """What a piece of work may do with a device, in the worker's thread and by one deadline."""

    def __init__(self, link: Link, device: UsbDevice, seconds: float) -> None:
        self._link = link
        self._device = device
        self._until = time.monotonic() + seconds

    def write(self, endpoint: int, data: bytes, timeout: float) -> None:
        """Sends to a bulk or interrupt endpoint of a claimed interface, all of it or an error."""
        with self._writing(endpoint, data, timeout):
            pass

    def read(self, endpoint: int, length: int, timeout: float) -> bytes:
        """What the device sends, until it ends with a short packet or length is reached."""
        if not endpoint & IN or not 0 < length <= MAX_BULK_BYTES:
            raise ValueError("an endpoint from the device, and 64 KiB at most")
        what = f"reading from endpoint {endpoint:#04x}"
        ms = self._ms(timeout, what)
        with self._named(what):
            return self._link.read(endpoint, length, ms)

    def exchange(self, out: int, data: bytes, back: int, length: int, timeout: float) -> bytes:
        """Writes and reads the answer, for which the time begins with the write."""
        with self._writing(out, data, timeout):
            return self.read(back, length, timeout)

    @contextmanager
    def _writing(self, endpoint: int, data: bytes, timeout: float) -> Iterator[None]:
        """What goes wrong with it comes before what goes wrong inside."""
        if endpoint & IN or len(data) > MAX_BULK_BYTES:
            raise ValueError("an endpoint to the device, and 64 KiB at most")
        what = f"writing to endpoint {endpoint:#04x}"
        ms = self._ms(timeout, what)
        with self._named(what):
            end = self._link.write(endpoint, data, ms)
        try:
            yield
        finally:
            with self._named(what):
                done = end()
            all_sent(done, data)

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except (USBError, NotImplementedError) as error:
            raise usb_error(error, f"{self._device}, {what}") from error

    def pause(self, seconds: float) -> None:
        time.sleep(min(seconds, self._left("a pause")))

    def _ms(self, timeout: float, what: str) -> int:
        return min(milliseconds(timeout), math.ceil(self._left(what) * 1000))

    def _left(self, what: str) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise UsbError(TIMED_OUT, f"{self._device}: there is no time left for {what}")
        return left


def milliseconds(timeout: float) -> int:
    """pyusb's and libusb's way to say it; they take 0 for ever."""
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(f"a transfer takes more than 0 and at most {MAX_TIMEOUT} seconds")
    return math.ceil(timeout * 1000)


def all_sent(done: int, data: bytes) -> None:
    if done != len(data):
        raise UsbError(TIMED_OUT, f"the device took {done} of {len(data)} bytes")


def _kind(error: USBError | NotImplementedError) -> str:
    number = getattr(error, "errno", None)
    if number in _KINDS:
        return _KINDS[number]
    return _CODES.get(getattr(error, "backend_error_code", None) or 0, IO)


def usb_error(error: USBError | NotImplementedError, what: str) -> UsbError:
    kind = _kind(error)
    reason = f" ({error.strerror})" if isinstance(error, USBError) and kind == IO else ""
    return UsbError(kind, f"{what}: {_SENTENCES[kind]}{reason}")

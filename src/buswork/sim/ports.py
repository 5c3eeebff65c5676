"""Simulated devices at ports of their own, where people plug them in and take them out."""

from collections.abc import Mapping
from typing import Generic, TypeVar

from buswork.errors import BusworkError
from buswork.sim.device import SimDevice
from buswork.sim.usb import SimBackend, SimDiscovery
from buswork.usb.devices import UsbDevice
from buswork.usb.worker import Worker

D = TypeVar("D", bound=SimDevice)


class NoSuchPort(BusworkError):
    """There is no simulated device for this port."""

    name = "org.buswork.Error.Usb.NoSuchPort"


class SimPorts(Generic[D]):
    def __init__(self, devices: Mapping[str, D]) -> None:
        """devices: by port, whether they are plugged in or not."""
        self.backend = SimBackend()
        self._devices = devices

    def discovery(self) -> SimDiscovery:
        return SimDiscovery(self.backend)

    def worker(self, device: UsbDevice) -> Worker:
        return Worker(device, self.backend)

    def is_plugged(self, port: str) -> bool:
        return any(device.port == port for device in self.backend.devices)

    def of(self, port: str) -> D:
        """The device of a port, or NoSuchPort."""
        if port not in self._devices:
            ports = ", ".join(self._devices)
            raise NoSuchPort(f"no simulated device is ever at this port; there are {ports}")
        return self._devices[port]

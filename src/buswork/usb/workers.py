"""The workers of all devices: a port has one thread at the most, however often it is tried.

A thread that the kernel does not give back is waited for. Until it ends, whoever wants the device,
or another one that was plugged in there, is told that it is busy.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from buswork.usb.devices import UsbDevice
from buswork.usb.link import BUSY, UsbError
from buswork.usb.worker import Worker


class Workers:
    def __init__(self, make: Callable[[UsbDevice], Worker]) -> None:
        self._make = make
        self._running: dict[str, Worker] = {}  # by port: those whose thread may not have ended

    @asynccontextmanager
    async def opened(self, device: UsbDevice) -> AsyncIterator[Worker]:
        """A worker that is closed in the end; UsbError busy: the one before it still hangs."""
        while (before := self._running.get(device.port)) is not None:
            await self._close(before)
            if before.is_left:
                raise UsbError(BUSY, f"{device}: an earlier transfer has not ended")
        worker = self._running[device.port] = self._make(device)
        try:
            await worker.open()
            yield worker
        finally:
            await self._close(worker)

    async def _close(self, worker: Worker) -> None:
        await worker.close()
        port = worker.device.port
        if not worker.is_left and self._running.get(port) is worker:
            del self._running[port]

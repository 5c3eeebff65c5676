"""What boards print for people: the debug endpoint, read beside the line (section 2).

It has a thread and a handle of its own, since a board holds little of what it prints: who reads
it between turns loses most of it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from buswork.flipper.wire.carbon import (
    DEBUG_ENDPOINT,
    DEBUG_INTERFACE,
    DEBUG_PACKET_BYTES,
    debug_text,
)
from buswork.usb.devices import UsbDevice
from buswork.usb.link import TIMED_OUT, UsbError
from buswork.usb.worker import Worker
from buswork.usb.workers import Workers

log = logging.getLogger(__name__)

OnText = Callable[[str], None]

# Closing waits so long at the most.
READ_SECONDS = 0.25


class DebugTexts:
    def __init__(self, make_worker: Callable[[UsbDevice], Worker]) -> None:
        self._workers = Workers(make_worker)

    @asynccontextmanager
    async def read(
        self, device: UsbDevice, wanted: asyncio.Event, on_text: OnText
    ) -> AsyncIterator[None]:
        """on_text is called while it is wanted; not, if another program has the interface."""
        coroutine = self._read(device, wanted, on_text)
        reading = asyncio.create_task(coroutine, name=f"texts of {device}")
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    async def _read(self, device: UsbDevice, wanted: asyncio.Event, on_text: OnText) -> None:
        try:
            while await wanted.wait():
                async with self._workers.opened(device) as worker:
                    await worker.claim(DEBUG_INTERFACE, DEBUG_ENDPOINT)
                    await self._read_while(wanted, worker, on_text)
        except UsbError as error:
            log.debug("%s: what it prints is not read: %s", device, error)

    async def _read_while(self, wanted: asyncio.Event, worker: Worker, on_text: OnText) -> None:
        while wanted.is_set():
            packet = await self._packet(worker)
            if packet is not None:
                on_text(debug_text(packet))

    async def _packet(self, worker: Worker) -> bytes | None:
        try:
            return await worker.read(DEBUG_ENDPOINT, DEBUG_PACKET_BYTES, READ_SECONDS)
        except UsbError as error:
            if error.kind == TIMED_OUT:
                return None
            raise

"""What `--simulate` plugs in, and the picture of its displays."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from buswork.sim.dac import SimDac
from buswork.sim.usb import SimBackend, SimDiscovery
from buswork.usb.devices import ID_FSCT, UsbDevice
from buswork.usb.worker import Worker

# A display's own pace: a timeline that races makes no more pictures than this a second.
SHORTEST_SECONDS = 0.1
# A timeline that creeps is looked at again all the same.
LONGEST_SECONDS = 60.0


class Simulation:
    """Simulated hardware in the place of real one: a discovery, and workers for what it finds."""

    def __init__(self) -> None:
        self.backend = SimBackend()
        self.discovery = SimDiscovery(self.backend)
        self.dacs: dict[str, SimDac] = {}  # by port

    def plug_dac(self, dac: SimDac, port: str = "1-1") -> UsbDevice:
        """Plugs a DAC in, with the mark that udev's rules give to it."""
        self.dacs[port] = dac
        return self.backend.plug(dac, port, {ID_FSCT: "1"})

    def unplug(self, port: str) -> None:
        self.dacs.pop(port, None)
        self.backend.unplug(port)

    def worker(self, device: UsbDevice) -> Worker:
        return Worker(device, self.backend)


class Screen:
    """Watches a DAC's display: on_lines is called on the loop with every picture that is new, also
    when it is only the time that goes on."""

    def __init__(self, dac: SimDac, on_lines: Callable[[list[str]], None]) -> None:
        self._dac = dac
        self._on_lines = on_lines
        self._timer: asyncio.TimerHandle | None = None
        self._is_on = False
        self.lines: list[str] = []

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_on = True
        self._dac.on_display = self._drawn
        self._look()

    def stop(self) -> None:
        self._is_on = False
        self._dac.on_display = lambda lines: None
        if self._timer is not None:
            self._timer.cancel()

    def _drawn(self, lines: list[str]) -> None:
        """The thread of a worker has changed something."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        if not self._is_on:
            return
        if self._timer is not None:
            self._timer.cancel()
        lines, wait = self._dac.lines(), self._dac.seconds_to_change()
        if wait is not None:
            wait = min(max(wait, SHORTEST_SECONDS), LONGEST_SECONDS)
            self._timer = self._loop.call_later(wait, self._look)
        if lines != self.lines:
            self.lines = lines
            self._on_lines(lines)

"""Simulated displays instead of real ones, and the object that shows them to people.

The driver meets them as it meets real ones: through the sessions, pyusb and their faults.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from buswork.bus.caller import Call
from buswork.bus.export import Edge
from buswork.bus.objects import Face
from buswork.sim import dac
from buswork.sim.dac import SimDac
from buswork.sim.ports import SimPorts
from buswork.usb.devices import ID_FSCT

INTERFACE = "org.buswork.Simulator"
# A display's own pace: a timeline that races makes no more pictures than this a second.
SHORTEST_SECONDS = 0.1
# A timeline that creeps is looked at again all the same.
LONGEST_SECONDS = 60.0


def _displays() -> dict[str, SimDac]:
    """One that shows all there is, and one with little room, in another coding."""
    small = SimDac(
        "SIM-2",
        functionality=dac.METADATA | dac.STATUS,
        coding=dac.UTF16,
        texts={dac.TITLE: 32, dac.AUTHOR: 32},
    )
    small.product, small.product_name = 0x0002, "Simulated DAC with a small display"
    return {"1-1": SimDac("SIM-1"), "1-2": small}


class Simulator(SimPorts[SimDac]):
    """The ports, and what is plugged in there."""

    def __init__(self) -> None:
        self.displays = _displays()
        super().__init__(self.displays)
        self.on_display: Callable[[str], None] = lambda port: None
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        self._drawn: dict[str, list[str]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        for port, display in self.displays.items():
            display.on_display = lambda lines, port=port: self._changed(port)  # type: ignore[misc]
            self.plug(port)

    def plug(self, port: str) -> None:
        if not self.is_plugged(port):
            self.backend.plug(self.displays[port], port, {ID_FSCT: "1"})
            self._look(port)

    def unplug(self, port: str) -> None:
        if self.is_plugged(port):
            self.backend.unplug(port)
            self._look(port)

    def lines(self, port: str) -> list[str]:
        return self.displays[port].lines() if self.is_plugged(port) else []

    def close(self) -> None:
        self._is_open = False
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _changed(self, port: str) -> None:
        """A request changed the display; the thread is a worker's."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._look, port)

    def _look(self, port: str) -> None:
        """Tells if the display shows something else; looks again when its clock goes on."""
        if not self._is_open:
            return
        timer = self._timers.pop(port, None)
        if timer is not None:
            timer.cancel()
        lines = self.lines(port)
        if lines != self._drawn.get(port):
            self._drawn[port] = lines
            self.on_display(port)
        seconds = self.displays[port].seconds_to_change() if lines else None
        if seconds is not None:
            seconds = min(max(seconds, SHORTEST_SECONDS), LONGEST_SECONDS)
            self._timers[port] = self._loop.call_later(seconds, self._look, port)


class SimulatorFace(Face):
    interface = INTERFACE

    def __init__(self, edge: Edge, path: str, simulator: Simulator) -> None:
        self._simulator = simulator
        simulator.on_display = lambda port: edge.emit(path, INTERFACE, "DisplayChanged", port)

    def list_displays(self, call: Call) -> list[str]:
        return list(self._simulator.displays)

    def get_display(self, call: Call, port: str) -> list[str]:
        self._simulator.of(port)
        return self._simulator.lines(port)

    def plug(self, call: Call, port: str) -> None:
        self._simulator.of(port)
        self._simulator.plug(port)

    def unplug(self, call: Call, port: str) -> None:
        self._simulator.of(port)
        self._simulator.unplug(port)

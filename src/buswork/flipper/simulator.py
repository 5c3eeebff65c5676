"""Simulated boards instead of real ones, and the object through which people handle them.

The wing meets them as it meets real ones: through the sessions, pyusb and their faults.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from buswork.bus.caller import Call
from buswork.bus.export import Edge
from buswork.bus.objects import Face
from buswork.errors import InvalidArgs
from buswork.sim.carbon import SimCarbon
from buswork.sim.ports import SimPorts
from buswork.usb.devices import NAME

PATH = "/org/buswork/simulator/boards"
INTERFACE = "org.buswork.Simulator.Boards"
# Beside the simulated displays; the second one has got a name from an administrator.
PORTS: Mapping[str, Mapping[str, str]] = {"1-3": {}, "1-4": {NAME: "bench"}}
# A board that was reset is back so soon (section 15 of the protocol).
AWAY_SECONDS = 0.5


class Simulator(SimPorts[SimCarbon]):
    """The ports, and what is plugged in there."""

    def __init__(self) -> None:
        self.boards = {port: SimCarbon() for port in PORTS}
        super().__init__(self.boards)
        self.on_change: Callable[[str], None] = lambda port: None
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        # What a board that was reset does next: it leaves the bus, or comes back.
        self._timers: dict[str, asyncio.TimerHandle] = {}
        for port, board in self.boards.items():
            self._listen(port, board)
            self.plug(port)

    def plug(self, port: str) -> None:
        self._cancel(port)
        if not self.is_plugged(port):
            self.backend.plug(self.boards[port], port, PORTS[port])
            self.on_change(port)

    def unplug(self, port: str) -> None:
        self._cancel(port)
        self._take_out(port)

    def crash(self, port: str, processor: str) -> None:
        """The U2 leaves the bus, and comes back; the 4S is silent until somebody resets it."""
        board = self.boards[port]
        if processor not in ("u2", "4s"):
            raise InvalidArgs("a board has two processors, u2 and 4s")
        if processor == "4s":
            board.s4.crash()
            self.on_change(port)
        elif self.is_plugged(port):
            board.crash()

    def lines(self, port: str) -> list[str]:
        return self.boards[port].lines() if self.is_plugged(port) else []

    def close(self) -> None:
        self._is_open = False
        for port in self.boards:
            self._cancel(port)

    # Boards tell in the threads of their workers.

    def _listen(self, port: str, board: SimCarbon) -> None:
        def soon(callback: Callable[..., None], *arguments: object) -> None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(callback, port, *arguments)

        board.on_change = lambda: soon(self._changed)
        board.on_reset = lambda seconds: soon(self._reset, seconds)

    def _changed(self, port: str) -> None:
        if self._is_open:
            self.on_change(port)

    def _reset(self, port: str, seconds: float) -> None:
        self._later(port, seconds, self._leave)

    def _leave(self, port: str) -> None:
        self._take_out(port)
        self._later(port, AWAY_SECONDS, self.plug)

    def _take_out(self, port: str) -> None:
        with suppress(KeyError):  # a transfer has noticed already
            self.backend.unplug(port)
        self.on_change(port)

    def _later(self, port: str, seconds: float, callback: Callable[[str], None]) -> None:
        self._cancel(port)
        if self._is_open:
            self._timers[port] = self._loop.call_later(seconds, callback, port)

    def _cancel(self, port: str) -> None:
        timer = self._timers.pop(port, None)
        if timer is not None:
            timer.cancel()


class SimulatorFace(Face):
    interface = INTERFACE

    def __init__(self, edge: Edge, path: str, simulator: Simulator) -> None:
        self._simulator = simulator
        simulator.on_change = lambda port: edge.emit(path, INTERFACE, "BoardChanged", port)

    def list_boards(self, call: Call) -> list[str]:
        return list(self._simulator.boards)

    def get_board(self, call: Call, port: str) -> list[str]:
        self._simulator.of(port)
        return self._simulator.lines(port)

    def set_button(self, call: Call, port: str, pressed: bool) -> None:
        self._simulator.of(port).button.pressed = pressed
        self._simulator.on_change(port)

    def set_inputs(self, call: Call, port: str, pins: int) -> None:
        self._simulator.of(port).s4.gpio.inputs = pins
        self._simulator.on_change(port)

    def send_serial(self, call: Call, port: str, data: bytes) -> None:
        board = self._simulator.of(port)
        with board.lock:
            board.s4.usart.receive(data)

    def crash(self, call: Call, port: str, processor: str) -> None:
        self._simulator.of(port)
        self._simulator.crash(port, processor)

    def plug(self, call: Call, port: str) -> None:
        self._simulator.of(port)
        self._simulator.plug(port)

    def unplug(self, call: Call, port: str) -> None:
        self._simulator.of(port)
        self._simulator.unplug(port)

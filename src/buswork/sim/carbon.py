"""A simulated Flipper "Carbon": what a host sees on USB of a real one with its original firmware,
mistakes included, and what somebody in front of it sees and does.

    board = SimCarbon()
    board.button.pressed = True
    board.s4.gpio.inputs = 1 << 22

The U2, which is on USB, does one thing after the other, and each of its endpoints holds one packet.
So what goes wrong with a real one goes wrong here in the same way, without a switch: a result that
nobody reads waits for the next client, data that don't come are waited for, and what came too much
is taken for packets (section 15 of the protocol). What a healthy board does not do is in `trouble`.
"""

import math
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from buswork.sim.device import How, Outcome, Setup, SimDevice, SimEndpoint, SimInterface
from buswork.sim.fmr import MAX_CALLS, PACKET_BYTES, Crash, Hang, Pause, Say, Step, Want
from buswork.sim.parts import Button, Led
from buswork.sim.u2 import U2, UART_BYTES, PortD, Uart

OUT, IN, DEBUG = 0x02, 0x81, 0x83
DEBUG_PACKET_BYTES: Final = 32
# The firmware's own limits, in seconds.
PACKET_SECONDS = 0.2
WATCHDOG_SECONDS = 0.5
FIRE_SECONDS = 0.015
# A transfer of 256 bytes was fine, one of 288 was not.
MEMORY_BYTES: Final = 256

_SET_CONFIGURATION, _SET_INTERFACE = 9, 11

_DEVICE = bytes.fromhex("12010002ff000010c0168004000101020001")
_CONFIGURATION = bytes.fromhex(
    "09023000010100c0fa"
    "0904000002ff010100" "07058102400001" "07050202400001"
    "0904010001ff010100" "07058303200001"
)  # fmt: skip


class Called(NamedTuple):
    processor: str
    module: str
    function: str
    values: tuple[int, ...]


@dataclass
class Trouble:
    """What a board does that a healthy one does not; numbers of times count down."""

    late_answers: int = 0  # of the 4S: they come when a pull has begun, which then fails
    lost_answers: int = 0  # of the U2: they never come
    damaged_packets: int = 0  # on their way to the U2
    answer_seconds: float = 0.0  # how long each packet takes
    memory: int = MEMORY_BYTES
    has_watchdog: bool = True  # else a hang lasts


class _Wait(NamedTuple):
    until: float
    is_over: Callable[[], bool]


_Waiting = Generator[_Wait, bool, Any]


class SimCarbon(SimDevice):
    """on_reset is told when it leaves the bus by itself, in so many seconds, to come back as one
    does that was plugged in; on_change, when it looks different. Both come in any thread."""

    vendor, product, release = 0x16C0, 0x0480, 0x0100
    manufacturer, product_name = "flipper.io", "Flipper: Carbon"

    def __init__(self) -> None:
        self.trouble = Trouble()
        self.led, self.button = Led(), Button()
        self._uart = Uart(lambda: self._counted("late_answers"))
        self.s4 = self._uart.s4
        self.gpio = PortD(self.s4)
        self._u2 = U2(
            (self.button.part(), self.gpio.part(), self.led.part(), self._uart.part()),
            memory=lambda: self.trouble.memory,
            say=self.say,
            fire=lambda: self._leave(FIRE_SECONDS),
        )
        self._u2.called = lambda *what: self._called("u2", *what)
        self.s4.called = lambda *what: self._called("4s", *what)
        self.calls: deque[Called] = deque(maxlen=MAX_CALLS)
        self.on_reset: Callable[[float], None] = lambda seconds: None
        self.on_change: Callable[[], None] | None = None
        fmr = SimInterface(0, 0xFF, 1, 1, (SimEndpoint(IN, 2, 64, 1), SimEndpoint(OUT, 2, 64, 1)))
        debug = SimInterface(1, 0xFF, 1, 1, (SimEndpoint(DEBUG, 3, DEBUG_PACKET_BYTES, 1),))
        super().__init__((fmr, debug))

    def power_on(self) -> None:
        super().power_on()
        self._out: bytes | None = None
        self._in: bytes | None = None
        self._leaves_at = math.inf
        self._seen: object = None
        self._restart()

    # What it says of itself

    def device_descriptor(self) -> bytes:
        return _DEVICE

    def configuration(self) -> bytes:
        """It counts one interface, and two follow."""
        return _CONFIGURATION

    def lines(self) -> list[str]:
        """How it looks, for people."""
        s4 = self.s4
        with self.lock:
            red, green, blue = self.led.colour
            modules = ", ".join(each.shown for each in s4.modules)
            tasks = ", ".join(f"{pid} {state}" for pid, state in s4.tasks.states.items())
            return [
                f"light: {f'#{red:02x}{green:02x}{blue:02x}' if any(self.led.colour) else 'off'}",
                f"button: {'pressed' if self.button.pressed else 'released'}",
                f"main processor: {s4.state}",
                f"pins: {s4.gpio.levels:#010x}",
                f"user modules: {modules or 'none'}",
                f"tasks: {tasks or 'none'}",
            ]

    # What happens to it

    def crash(self) -> None:
        """The watchdog bites: it leaves the bus now."""
        with self.lock:
            self._leave(0.0)

    def hang(self) -> None:
        """Silence, until the watchdog bites."""
        with self.lock:
            if self.trouble.has_watchdog:
                self._leave(WATCHDOG_SECONDS)
            self._begin(_for_ever())

    def stumble(self) -> None:
        """It starts anew without leaving the bus, and waits to be configured (pitfall 6)."""
        with self.lock:
            self._restart()
            self._unconfigure()

    def say(self, text: str) -> None:
        """At its debug endpoint; what nobody reads is lost in the end."""
        with self.lock:
            data = text.encode()
            self._debug += data + bytes(-len(data) % DEBUG_PACKET_BYTES)
            del self._debug[UART_BYTES:]

    def bus_reset(self) -> None:
        """Of its USB alone: what it does beside goes on."""
        with self.lock:
            if not self._configured:
                self._configured = 1
                self._start()

    # USB

    def transfer(self, setup: Setup, data: bytes = b"") -> Outcome:
        return Outcome(How.VANISH) if self._has_left() else super().transfer(setup, data)

    def write(self, endpoint: int, data: bytes) -> Outcome:
        if self._has_left():
            return Outcome(How.VANISH)
        outcome = super().write(endpoint, data)
        self._look()
        return outcome

    def read(self, endpoint: int, length: int) -> Outcome:
        return Outcome(How.VANISH) if self._has_left() else super().read(endpoint, length)

    def take(self, endpoint: int, data: bytes) -> int | None:
        if endpoint != OUT:
            return None
        taken = 0
        self._run()
        for at in range(0, len(data), PACKET_BYTES):
            if self._out is not None:
                break
            packet = data[at : at + PACKET_BYTES]
            self._out = packet.ljust(PACKET_BYTES, b"\0")
            taken += len(packet)
            self._run()
        return taken

    def send(self, endpoint: int, length: int) -> bytes | None:
        if endpoint == DEBUG:
            return self._debug_packet()
        if endpoint != IN:
            return None
        self._run()
        sent = bytearray()
        while self._in is not None and (not sent or len(sent) + PACKET_BYTES <= length):
            sent += self._in
            self._in = None
            self._run()
        return bytes(sent) or None

    def _debug_packet(self) -> bytes | None:
        packet = bytes(self._debug[:DEBUG_PACKET_BYTES])
        del self._debug[:DEBUG_PACKET_BYTES]
        return packet or None

    def _standard_out(self, setup: Setup) -> bytes | None:
        if setup.request == _SET_INTERFACE:
            return None
        was_configured = self._configured
        answer = super()._standard_out(setup)
        if setup.request == _SET_CONFIGURATION:
            self._out = self._in = None
            if not self._configured:
                self._unconfigure()
            elif not was_configured:
                self._start()
        return answer

    # The firmware's course

    def _restart(self) -> None:
        """The U2 begins, and with it the 4S."""
        self.led.colour = 0, 0, 0
        self.gpio.power_on()
        self._uart.power_on()
        self._debug = bytearray()
        self._start()

    def _start(self) -> None:
        self._out = self._in = None
        self._begin(self._live())

    def _unconfigure(self) -> None:
        """One packet is accepted, and nothing happens."""
        self._configured = 0
        self._out = self._in = None
        self._begin(_for_ever())

    def _begin(self, firmware: _Waiting) -> None:
        self._firmware = firmware
        self._waits = next(firmware)

    def _run(self) -> None:
        """Goes on as far as it gets by now."""
        try:
            while (over := self._waits.is_over()) or self.clock() >= self._waits.until:
                self._waits = self._firmware.send(over)
        except Hang:
            self.hang()
        except Crash:
            self.stumble()

    def _live(self) -> _Waiting:
        while True:
            yield from self._until(lambda: self._out is not None)
            packet = self._taken()
            if self._counted("damaged_packets"):
                packet = bytes((packet[0] ^ 0xFF,)) + packet[1:]
            yield from self._serve(packet)

    def _serve(self, packet: bytes) -> _Waiting:
        is_lost = self._counted("lost_answers")
        if self.trouble.answer_seconds:
            yield from self._pause(self.trouble.answer_seconds)
        steps = self._u2.serve(packet)
        given = None
        with suppress(StopIteration):
            while True:
                step: Step = steps.send(given)
                given = None
                match step:
                    case Want(length):
                        given = yield from self._received(length)
                    case Pause(seconds):
                        yield from self._pause(seconds)
                    case Say(data) if not is_lost:
                        yield from self._transmit(data)

    def _received(self, length: int) -> _Waiting:
        """The data of a packet; where they don't come, it is whatever was in the memory."""
        data = bytearray()
        while len(data) < length:
            if not (yield from self._until(lambda: self._out is not None, PACKET_SECONDS)):
                break
            data += self._taken()
        return bytes(data[:length].ljust(length, b"\0"))

    def _transmit(self, data: bytes) -> _Waiting:
        """What the host does not make room for is lost."""
        for at in range(0, len(data), PACKET_BYTES):
            if not (yield from self._until(lambda: self._in is None, PACKET_SECONDS)):
                return
            self._in = data[at : at + PACKET_BYTES].ljust(PACKET_BYTES, b"\0")

    def _taken(self) -> bytes:
        packet, self._out = self._out, None
        assert packet is not None
        return packet

    def _until(self, is_over: Callable[[], bool], seconds: float = math.inf) -> _Waiting:
        """Whether it is so in time."""
        return is_over() or (yield _Wait(self.clock() + seconds, is_over))

    def _pause(self, seconds: float) -> _Waiting:
        yield from self._until(_never, seconds)

    def _leave(self, seconds: float) -> None:
        self._leaves_at = self.clock() + seconds
        self.on_reset(seconds)

    def _has_left(self) -> bool:
        return self.clock() >= self._leaves_at

    def _look(self) -> None:
        if self.on_change is None:
            return
        seen = self.led.colour, self.s4.is_up, self.s4.gpio.levels, len(self.s4.modules)
        if seen != self._seen:
            self._seen = seen
            self.on_change()

    def _called(self, processor: str, module: str, function: str, values: tuple[int, ...]) -> None:
        self.calls.append(Called(processor, module, function, values))

    def _counted(self, trouble: str) -> bool:
        """Whether it is the turn of a trouble that is counted."""
        left: int = getattr(self.trouble, trouble)
        setattr(self.trouble, trouble, max(0, left - 1))
        return left > 0


def _never() -> bool:
    return False


def _for_ever() -> _Waiting:
    while True:
        yield _Wait(math.inf, _never)

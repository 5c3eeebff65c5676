"""The main processor of a simulated Carbon, the 4S: it is at the end of a UART.

There is no framing on the line: 64 bytes are a packet, whatever they are, until a reset. Without a
firmware, its boot ROM listens.
"""

import struct
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from buswork.sim.fmr import (
    E_OK,
    MAX_CALLS,
    MINUS_ONE,
    PACKET_BYTES,
    U16,
    Arm,
    Asked,
    Crash,
    Data,
    Function,
    Part,
    Runtime,
    Say,
    Step,
    Steps,
    Want,
    address_of,
    crc16,
    length_of,
    transfer,
)
from buswork.sim.fmr import INT as C_INT
from buswork.sim.parts import CONFIGURE, Button, Gpio, Led, Line, Spi, Tasks, plain
from buswork.sim.samba import SRAM_AT, SRAM_BYTES, Flash, Memory, Monitor

# Where memory begins that is given out; below, the firmware has its own.
_HEAP_AT: Final = 0x8000
MAX_MODULES: Final = 4
_SHOWN_BYTES: Final = 32
# FMR itself raises it while it handles a packet.
_FMR_PIN: Final = 1 << 0

_SEND, _RECEIVE, _LOAD = 4, 5, 6
# Name size and offset, entry, module-table size and offset; what follows is of no interest here.
_IMAGE = struct.Struct("<5I24x")


@dataclass
class Loaded:
    """A user module; its code is not run."""

    name: bytes
    functions: int
    # The function's number, arguments.
    calls: deque[tuple[int, ...]] = field(default_factory=lambda: deque(maxlen=MAX_CALLS))

    @property
    def shown(self) -> str:
        """Its name, for people; an image may call itself anything."""
        name = self.name[:_SHOWN_BYTES].decode(errors="replace")
        return "".join(char if char.isprintable() else "\ufffd" for char in name)

    @property
    def identifier(self) -> int:
        return crc16(self.name + b"\0")


class _Runtime(Runtime):
    """The 4S's own classes: memory, and user modules (sections 7 and 10)."""

    def __init__(self, s4: "S4") -> None:
        super().__init__(Arm(), s4.parts())
        self._s4 = s4

    def user(self, asked: Asked) -> Steps:
        """Its value is the error, as the original has it: every call that goes well returns 0."""
        yield from ()
        modules = self._s4.modules
        if asked.module >= len(modules) or asked.function >= modules[asked.module].functions:
            return MINUS_ONE, E_OK
        values = tuple(argument.value for argument in asked.arguments)
        modules[asked.module].calls.append((asked.function, *values))
        return E_OK, E_OK

    def other(self, request_class: int, packet: bytes) -> Steps:
        s4 = self._s4
        if request_class in (_SEND, _LOAD):
            address = s4.allocate(length_of(packet))
            data = yield Want(length_of(packet))
            s4.put(address, data)
            if request_class == _LOAD:
                s4.load(data)
            yield self.result(address if request_class == _SEND else 0)
        elif request_class == _RECEIVE:
            yield Say(s4.take(address_of(packet), length_of(packet)))
            yield self.result(0)
        else:
            yield from super().other(request_class, packet)

    def allocated(self, packet: bytes) -> int:
        # The original does not notice that it has no memory, and writes where none is.
        self._s4.check(length_of(packet))
        return super().allocated(packet)


class S4:
    """on_said is told what it says; what stays over a reset is what somebody outside holds."""

    def __init__(self, on_said: Callable[[bytes], None]) -> None:
        self._on_said = on_said
        self._is_held = False
        self.gpio = Gpio()
        self.led, self.button = Led(), Button()
        self.usart = Line()
        self.flash = Flash()
        self.called: Callable[[str, str, tuple[int, ...]], None] = lambda *what: None
        self.reset()

    def reset(self) -> None:
        """What was loaded is lost, and so is what was half received."""
        self.gpio.outputs = self.gpio.enabled = 0
        self.led.colour = 0, 0, 0
        self.usart.sent.clear()
        self.spi, self.tasks = Spi(), Tasks()
        self.modules: list[Loaded] = []
        self.memory = bytearray(SRAM_BYTES)
        self._used = _HEAP_AT
        # The boot ROM's, where no firmware is started; one that is none gets nowhere.
        self.monitor = None if self.flash.is_started_from else self._monitor()
        self.has_crashed = self.monitor is None and not self.flash.pages
        self._heard = bytearray()
        self._runtime = _Runtime(self)
        self._runtime.called = self._called
        self._firmware = self._live()
        self._needs = next(self._firmware)

    @property
    def is_up(self) -> bool:
        return not self.has_crashed and not self._is_held

    @property
    def state(self) -> str:
        """For people."""
        if not self.is_up:
            return "down"
        return "up" if self.monitor is None else "without firmware"

    def crash(self) -> None:
        """It says nothing more until it is reset (section 15, pitfall 7)."""
        self.has_crashed = True

    def erase(self) -> None:
        """Its erase pin is high; a real one takes some seconds."""
        self.flash.erase()
        self.crash()

    def hold(self, is_held: bool) -> None:
        """Its reset pin, or its power; it starts anew when it is let go."""
        if self._is_held and not is_held:
            self.reset()
        self._is_held = is_held

    def feed(self, data: bytes) -> None:
        """What comes over the UART."""
        if not self.is_up:
            return
        if self.monitor is not None:
            try:
                self.monitor.feed(data)
            except Crash:
                self.has_crashed = True
            return
        self._heard += data
        while len(self._heard) >= self._needs and not self.has_crashed:
            piece = bytes(self._heard[: self._needs])
            del self._heard[: self._needs]
            self._go_on(piece)

    # Memory

    def check(self, length: int) -> None:
        if self._used + length > SRAM_BYTES:
            raise Crash("there is no such memory")

    def allocate(self, length: int) -> int:
        """What a host sends is never freed."""
        self.check(length)
        address = SRAM_AT + self._used
        self._used += length + -length % 8
        return address

    def put(self, address: int, data: bytes) -> None:
        at = address - SRAM_AT
        self.memory[at : at + len(data)] = data

    def take(self, address: int, length: int) -> bytes:
        at = address - SRAM_AT
        if not 0 <= at <= SRAM_BYTES - length:
            raise Crash(f"there is no memory at {address:#x}")
        return bytes(self.memory[at : at + length])

    # User modules

    def load(self, image: bytes) -> None:
        if len(image) < _IMAGE.size:
            raise Crash("an image without a header")
        name_bytes, name_at, entry, table_bytes, _ = _IMAGE.unpack_from(image)
        if entry:
            self.tasks.start()
        elif len(self.modules) < MAX_MODULES:
            name = image[name_at : name_at + name_bytes].partition(b"\0")[0]
            self.modules.append(Loaded(name, table_bytes // 4))

    def _index(self, identifier: int) -> int:
        found = (at for at, each in enumerate(self.modules) if each.identifier == identifier)
        return next(found, -1)

    # The firmware

    def _monitor(self) -> Monitor:
        memory = Memory(self.memory, self.flash)
        return Monitor(memory, self.flash.trouble, self._on_said)

    def parts(self) -> tuple[Part, ...]:
        """In the order of their indices (section 8)."""
        fld = Part("fld", (CONFIGURE, Function("index", self._index, (U16,), C_INT)))
        uart0 = Part(
            "uart0",
            (
                CONFIGURE,
                Function("ready", lambda: 0, (), C_INT),
                transfer("push", self._push, Data.TAKES),
                transfer("pull", self._pull, Data.FILLS),
            ),
        )
        watchdog = Part("wdt", (CONFIGURE, Function("fire", self._fire)))
        return (
            plain("adc"), self.button.part(), plain("dac"), fld, self.gpio.part(), plain("i2c"),
            self.led.part(), plain("pwm"), plain("rtc"), self.spi.part(), plain("swd"),
            self.tasks.part(), plain("temp"), plain("timer"), uart0, self.usart.part("usart"),
            plain("usb"), watchdog,
        )  # fmt: skip

    def _push(self, buffer: bytearray) -> int:
        """It is the line to the U2, so this comes there beside the results."""
        self._on_said(bytes(buffer))
        return 0

    def _pull(self, buffer: bytearray) -> Steps:
        """And here, whatever comes next is taken for the data."""
        buffer[:] = yield Want(len(buffer))
        return 0

    def _fire(self) -> None:
        raise _Reset

    def _called(self, module: str, function: str, values: tuple[int, ...]) -> None:
        self.called(module, function, values)

    def _live(self) -> Generator[int, bytes, None]:
        """Yields how many bytes it waits for."""
        while True:
            packet = yield PACKET_BYTES
            self.gpio.outputs |= _FMR_PIN
            yield from self._steps(packet)
            self.gpio.outputs &= ~_FMR_PIN

    def _steps(self, packet: bytes) -> Generator[int, bytes, None]:
        steps = self._runtime.serve(packet)
        answer = None
        with suppress(StopIteration):
            while True:
                step: Step = steps.send(answer)
                answer = (yield step.length) if isinstance(step, Want) else None
                if isinstance(step, Say):
                    self._on_said(step.data)

    def _go_on(self, piece: bytes) -> None:
        try:
            self._needs = self._firmware.send(piece)
        except Crash:
            self.has_crashed = True
        except _Reset:
            self.reset()


class _Reset(Exception):
    """The watchdog bites."""

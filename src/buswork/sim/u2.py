"""The modules of a Carbon's U2, the processor that is on USB and carries what is for the 4S."""

from collections.abc import Callable
from typing import Final

from buswork.sim.fmr import (
    E_NULL,
    E_UART0_PULL_TIMEOUT,
    INT,
    U8,
    Asked,
    Avr,
    Data,
    Failed,
    Function,
    Part,
    Pause,
    Runtime,
    Steps,
    transfer,
)
from buswork.sim.parts import CONFIGURE, Gpio
from buswork.sim.s4 import S4

# Bits of its port D that hold the 4S, and what erases its flash.
POWER, RESET, ERASE = 1 << 1, 1 << 4, 1 << 6
UART_SECONDS: Final = 0.1
# What it keeps of what the 4S said.
UART_BYTES: Final = 256
_FMR_BAUD, _DFU_BAUD = 0, 8
# What a void function leaves where a value would be.
_GARBAGE: Final = 0x0818


class PortD(Gpio):
    """Its reads don't look at their mask."""

    def __init__(self, s4: S4) -> None:
        super().__init__(has_mask=False)
        self._s4 = s4

    def power_on(self) -> None:
        self.outputs, self.enabled = POWER | RESET, 0
        self._s4.hold(False)
        self._s4.reset()

    def _write(self, high: int, low: int) -> None:
        super()._write(high & 0xFF, low & 0xFF)
        self._s4.hold(self.outputs & (POWER | RESET) != POWER | RESET)
        if self.outputs & ERASE:
            self._s4.erase()


class Uart:
    """The line to the 4S."""

    def __init__(self, is_late: Callable[[], bool]) -> None:
        """is_late: whether an answer of the 4S comes when a pull has begun."""
        self.s4 = S4(self._said)
        self._is_late = is_late
        self.power_on()

    def power_on(self) -> None:
        self._baud, self._has_interrupts = _FMR_BAUD, True
        self._held = bytearray()
        self._late = bytearray()
        self._coming = bytearray()

    def part(self) -> Part:
        functions = (
            Function("configure", self._configure, (U8, U8), INT),
            Function("ready", self._ready, (), INT),
            transfer("push", self._push, Data.TAKES),
            transfer("pull", self._pull, Data.FILLS),
        )
        return Part("uart0", functions)

    def _configure(self, baud: int, interrupts: int) -> int:
        self._baud, self._has_interrupts = baud, bool(interrupts)
        return 0

    def _ready(self) -> int:
        """Interrupts take the bytes away from where it looks."""
        return int(bool(self._held) and not self._has_interrupts)

    def _push(self, buffer: bytearray) -> int:
        if self._baud == (_FMR_BAUD if self.s4.monitor is None else _DFU_BAUD):
            self.s4.feed(bytes(buffer))
        answer, self._coming = self._coming, bytearray()
        if answer and self._is_late():
            self._late += answer
        else:
            self._keep(answer)
        return 0

    def _pull(self, buffer: bytearray) -> Steps:
        """It has what was there at its beginning; what comes meanwhile stays (section 9)."""
        taken = self._held[: len(buffer)]
        del self._held[: len(taken)]
        buffer[: len(taken)] = taken
        if len(taken) == len(buffer):
            return 0
        self._keep(self._late)
        self._late.clear()
        yield Pause(UART_SECONDS)
        raise Failed(E_UART0_PULL_TIMEOUT)

    def _said(self, data: bytes) -> None:
        self._coming += data

    def _keep(self, data: bytearray) -> None:
        self._held += data
        del self._held[UART_BYTES:]


class U2(Runtime):
    def __init__(
        self,
        parts: tuple[Part, ...],
        *,
        memory: Callable[[], int],
        say: Callable[[str], None],
        fire: Callable[[], None],
    ) -> None:
        """parts: in the order of their indices (section 8), without the watchdog."""

        def fired() -> int:
            fire()
            return _GARBAGE

        watchdog = Part("wdt", (CONFIGURE, Function("fire", fired)))
        super().__init__(Avr(), (*parts, watchdog))
        self._memory = memory
        self._say = say

    @property
    def memory(self) -> int:
        return self._memory()

    def user(self, asked: Asked) -> Steps:
        self._say("no user modules\n")
        return (yield from super().user(asked))

    def find(self, module: int, number: int) -> tuple[str, Function]:
        if module == len(self.parts):  # by chance, there is a NULL
            raise Failed(E_NULL)
        return super().find(module, number)

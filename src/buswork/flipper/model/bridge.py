"""The U2's UART as the way to the 4S, and what is to be done before it can be trusted."""

from typing import Final

from buswork.flipper.model.work import Pause, Turn
from buswork.flipper.wire.exchanges import Answer, Exchange
from buswork.flipper.wire.modules import TABLES
from buswork.flipper.wire.plans import (
    RESET_MS,
    Plan,
    bridged,
    drained,
    hold_s4,
    release_s4,
    standard,
)
from buswork.flipper.wire.results import raise_for
from buswork.flipper.wire.terms import Generation, Processor

# The speed of FMR, and with interrupts (section 8).
_FOR_FMR: Final = Exchange(
    standard(*TABLES[Generation.G1, Processor.U2].find("uart0", "configure"), 0, 1)
)


class Bridge:
    """Touched by one turn at a time, and by nobody else but while none runs."""

    def __init__(self) -> None:
        # Whether the UART is set up for FMR, and whether nothing lies there from before.
        self._configured = False
        self._drained = False

    def doubt(self) -> None:
        """Somebody else may have used the UART, or has."""
        self._configured = self._drained = False

    def turn(self, exchange: Exchange) -> Turn:
        """An exchange with the 4S; whatever interrupts it, the next one begins with draining."""
        yield from self._mended()
        self._drained = False
        answer = yield from bridged(exchange)
        self._drained = True
        return answer

    def direct(self, exchange: Exchange) -> Turn:
        """An exchange with the U2 that uses or disturbs the UART (section 15, pitfall 22)."""
        self.doubt()
        return (yield exchange)

    def reset(self) -> Turn:
        """Starts the 4S afresh; what was loaded is lost (section 9)."""
        self._drained = False
        held = yield hold_s4()
        raise_for(held.result)
        yield Pause(RESET_MS / 1000)
        answer = yield release_s4()
        raise_for(answer.result)
        yield from self._mended()
        return answer

    def _mended(self) -> Plan[None]:
        if not self._configured:
            answer: Answer = yield _FOR_FMR
            raise_for(answer.result)
            self._configured = True
        if not self._drained:
            yield from drained()
            self._drained = True

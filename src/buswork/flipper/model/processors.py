"""What a board consists of, and which of its processors runs what (section 8)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from buswork.flipper.model.bridge import Bridge
from buswork.flipper.model.work import Turn, single
from buswork.flipper.wire.exchanges import Exchange
from buswork.flipper.wire.modules import TABLES, Function, Module, Table, processor_of
from buswork.flipper.wire.terms import BadValue, Generation, Processor, shown

# Which modules the calls of the 4S depend on; only what looks at them is for everybody (section
# 15, pitfall 22). The U2's gpio holds the power and the reset of the 4S.
_RESERVED: Final = frozenset((
    (Processor.U2, "uart0"), (Processor.U2, "gpio"), (Processor.S4, "uart0"),
))  # fmt: skip
_HARMLESS: Final = frozenset(("ready", "read"))
# Whatever was loaded is lost, and whatever was asked ends (section 15, pitfall 23).
_RESET: Final = frozenset(((Processor.U2, "wdt", "fire"), (Processor.S4, "wdt", "fire")))


class Processors:
    """The tables of a board; strangers' packets have the numbers of `numbering`.

    A module is known by its name, or by that of a processor and its own: "u2.gpio".
    """

    def __init__(self, generation: Generation, on_usb: bool) -> None:
        self.bridge = Bridge()
        mains = Processor.S4 if on_usb else Processor.FVM
        self.numbering = TABLES[generation, mains]
        self._tables = {mains: self.numbering}
        if on_usb:
            self._tables[Processor.U2] = TABLES[generation, Processor.U2]

    @property
    def main(self) -> Processor:
        """Which runs whatever the U2 does not."""
        return self.numbering.processor

    @property
    def modules(self) -> Mapping[str, Module]:
        """By name, each of the processor that runs it."""
        return MappingProxyType({
            name: self._table_of(name).modules[name] for name in self.numbering.modules
        })  # fmt: skip

    def has_only(self, indices: Mapping[str, int]) -> None:
        """A board of the second generation has said where its modules are."""
        self.numbering = self.numbering.renumbered(indices)
        self._tables[self.main] = self.numbering

    def table(self, module: str) -> tuple[Table, str]:
        """Whose module it is, and its name there."""
        prefix, _, name = module.rpartition(".")
        if not prefix:
            return self._table_of(module), module
        for processor, table in self._tables.items():
            if prefix == processor:
                return table, name
        have = ", ".join(self._tables)
        raise BadValue("module", f"there is no processor {shown(prefix)!r}; there are {have}")

    def find(self, module: str, function: str) -> tuple[Table, Module, Function]:
        """BadValue: there is no such thing."""
        table, name = self.table(module)
        return table, *table.find(name, function)

    def turn(self, processor: Processor, exchange: Exchange, reserved: bool = False) -> Turn:
        """One exchange with a processor."""
        if processor is Processor.S4:
            return self.bridge.turn(exchange)
        return self.bridge.direct(exchange) if reserved else single(exchange)

    def _table_of(self, module: str) -> Table:
        on_usb = self.main is Processor.S4
        return self._tables[processor_of(module)] if on_usb else self.numbering


def is_reserved(processor: Processor, module: Module, function: Function) -> bool:
    """Whether the calls of others would suffer: it is for who has the board to itself."""
    if (processor, module.name, function.name) in _RESET:
        return True
    return (processor, module.name) in _RESERVED and function.name not in _HARMLESS

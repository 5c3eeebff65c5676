"""busworkd with a wing more, which has a fault on purpose: python planted.py FAULT

It goes wrong only for what hardly anybody says: a text with a control character, a number at its
edge. The fuzzer has to find it.
"""

import asyncio
import os
import sys
from dataclasses import dataclass

from buswork import daemon
from buswork.bus.caller import Call
from buswork.bus.contract import Interface, parse
from buswork.bus.objects import Face
from buswork.errors import BusworkError
from buswork.host import Host, Kind

PATH = "/org/buswork/planted"
INTERFACE = "org.buswork.Planted"
NOTES = (
    '<annotation name="org.gtk.GDBus.DocString" value="A fault."/>'
    '<annotation name="org.buswork.Action" value="none"/>'
)
XML = f"""
<node><interface name="{INTERFACE}">{NOTES.partition("/>")[0]}/>
  <method name="Tell">{NOTES}
   <arg type="s" name="text" direction="in"/><arg type="u" name="length" direction="out"/>
  </method>
  <method name="Count">{NOTES}
   <arg type="a{{sx}}" name="numbers" direction="in"/><arg type="x" name="sum" direction="out"/>
  </method>
</interface></node>
"""
CONTRACT = parse(XML)[INTERFACE]
FAULTS = ("defect", "death", "silence", "wordless")


class PlantedFace(Face):
    interface = INTERFACE

    def __init__(self, fault: str) -> None:
        self._fault = fault

    def contract(self) -> Interface:
        return CONTRACT

    async def tell(self, call: Call, text: str) -> int:
        if any(character < " " for character in text):
            match self._fault:
                case "death":
                    os._exit(3)
                case "silence":
                    await asyncio.Event().wait()
                case "wordless":
                    raise BusworkError("")
        return len(text)

    def count(self, call: Call, numbers: dict[str, int]) -> int:
        if self._fault == "defect" and -(1 << 63) in numbers.values():
            raise OverflowError("it has no positive one")
        return max(-(1 << 63), min(sum(numbers.values()), (1 << 63) - 1))


@dataclass
class NoLimits:
    """It has none."""


class PlantedWing:
    def __init__(self, host: Host, fault: str) -> None:
        self._host = host
        self._fault = fault

    async def start(self) -> None:
        self._host.edge.export(PATH, PlantedFace(self._fault), wing=PATH, manager=True)

    async def stop(self, *, for_good: bool) -> None:
        pass


if __name__ == "__main__":
    fault = sys.argv[1]
    assert fault in FAULTS
    daemon.WINGS["planted"] = Kind(
        lambda host, limits, options: PlantedWing(host, fault), limits=NoLimits
    )
    sys.exit(daemon.main(["--bus", "system", "--wings", "store,planted"]))

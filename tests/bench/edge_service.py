"""A service on the real D-Bus edge for what no wing does: bursts of signals, many objects.

    python edge_service.py ADDRESS NAME OBJECTS

Prints READY once it owns NAME and has exported OBJECTS things of ten properties each.
"""

import asyncio
import os
import sys
from pathlib import Path

from edge_rivals import TICK_TEXT, blob

from buswork.authority import Authority, Limits
from buswork.bus import contract
from buswork.bus.caller import Call, Callers
from buswork.bus.export import Edge, Face
from buswork.bus.polkit import Polkit
from buswork.bus.transport import Connection

PATH = "/org/buswork/bench"
# As RequestName says: an owner that nobody may replace and that waits for nobody.
DO_NOT_QUEUE, PRIMARY_OWNER = 4, 1

CONTRACTS = {
    name: interface
    for file in Path(__file__).parent.glob("*.xml")
    for name, interface in contract.parse(file.read_text()).items()
}


class BenchFace(Face):
    """Whatever the C client asks for."""

    interface = "org.buswork.Bench"

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def contract(self) -> contract.Interface:
        return CONTRACTS[self.interface]

    def emit(self, call: Call, count: int) -> None:
        for number in range(count):
            self._edge.emit(PATH, self.interface, "Tick", number, TICK_TEXT)

    def blob(self, call: Call, size: int) -> str:
        return blob(size)


class ThingFace(Face):
    """One of many objects; its properties are plain attributes."""

    interface = "org.buswork.Bench.Thing"

    def __init__(self, number: int) -> None:
        self.name = f"thing-{number}"
        self.vendor = "Vendor Inc."
        self.product = "Product 3000"
        self.serial = "0123456789abcdef"
        self.state = "running"
        self.number = number
        self.size = 1 << 20
        self.offset = -5
        self.level = 0.5
        self.ready = True

    def contract(self) -> contract.Interface:
        return CONTRACTS[self.interface]


async def serve(address: str, name: str, objects: int) -> None:
    connection = await Connection.open(address)
    callers = Callers(connection)
    authority = Authority(Polkit(connection), callers, os.getuid(), Limits())
    await authority.start()
    edge = Edge(connection, callers, authority)
    edge.export(PATH, BenchFace(edge), wing=PATH, manager=True)
    for number in range(objects):
        edge.export(f"{PATH}/things/{number}", ThingFace(number), wing=PATH)
    (answer,) = await connection.call_bus("RequestName", "su", (name, DO_NOT_QUEUE))
    if answer != PRIMARY_OWNER:
        raise SystemExit(f"{name} is taken")
    print("READY", flush=True)
    await connection.closed


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))

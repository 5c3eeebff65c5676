"""One process of the soak's load: python tests/bench/soak_load.py LOAD SEED PLACES

PLACES is what soak.py writes in JSON. It goes on until SIGTERM, and then only waits for what it has
asked already.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import soak_appview
import soak_flipper
import soak_fsct
import soak_libipc
import soak_store
from soak_ledger import Counts, Cut, Desk, Remarks, Weather, name_of

Round = Callable[[Desk, Random, Mapping[str, Any]], Awaitable[None]]
# After what was cut off: whoever comes at once finds no more than before.
SOON = (0.2, 0.8)


class Load(NamedTuple):
    """user: who asks. rounds: what goes on beside each other, each with what may fail it."""

    wing: str
    user: str
    rounds: Mapping[Round, tuple[str, ...]]


DAEMON = ("daemon", "values")
BOARDS = ("daemon", "1-3", "1-4")
DOORS = ("daemon", "doors", "c", "1-4")
LOADS = {
    "store": Load(
        "store",
        "alice",
        {soak_store.writes: DAEMON, soak_store.watches: DAEMON, soak_store.leaves: DAEMON},
    ),
    "store, native": Load("store", "bob", {soak_store.native: DAEMON}),
    "fsct": Load("fsct", "alice", {soak_fsct.plays: ("daemon", "1-1", "1-2")}),
    "fsct, native": Load("fsct", "bob", {soak_fsct.native: ("daemon", "1-1", "1-2")}),
    "flipper": Load(
        "flipper",
        "alice",
        {
            soak_flipper.calls: BOARDS,
            soak_flipper.events: BOARDS,
            soak_flipper.claims: BOARDS,
            soak_flipper.attached: ("daemon", "doors"),
        },
    ),
    "flipper, native": Load(
        "flipper", "bob", {soak_flipper.native: BOARDS, soak_flipper.datagrams: DOORS}
    ),
    "libipc": Load(
        "libipc", "alice", {soak_libipc.serves: ("daemon",), soak_libipc.channels: ("daemon", "c")}
    ),
    "libipc, native": Load(
        "libipc",
        "bob",
        {
            soak_libipc.native: ("c", "zig"),
            soak_libipc.tcp: DOORS,
            soak_libipc.websocket: DOORS,
        },
    ),
    "appview": Load("appview", "alice", {soak_appview.views: ("appview",)}),
}


async def go_round(desk: Desk, round_: Round, random: Random, places: Mapping[str, Any]) -> None:
    while not desk.is_closing:
        desk.begin()
        try:
            await round_(desk, random, places)
        except Cut:
            await asyncio.sleep(random.uniform(*SOON))


async def go(load: str, seed: str, places: Mapping[str, Any]) -> None:
    folder = Path(places["ledger"])
    counts = Counts(folder / f"counts-{os.getpid()}", is_writer=True)
    weather, remarks = Weather(folder), Remarks(folder)
    desks = []
    tasks = []
    for number, (round_, targets) in enumerate(LOADS[load].rounds.items()):
        name = f"{load}: {getattr(round_, '__name__', number)}"
        desk = Desk(name, counts, weather, remarks, targets)
        desks.append(desk)
        tasks.append(go_round(desk, round_, Random(f"{seed} {number}"), places))

    def close() -> None:
        for desk in desks:
            desk.is_closing = True

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, close)
    try:
        await asyncio.gather(*tasks)
    except Exception as error:  # a mistake of the load itself, or an end that is not in order
        remarks.add(load, "lost", name_of(error), f"outside of a request: {error}")
        raise


if __name__ == "__main__":
    asyncio.run(go(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))

"""Load on the store: values that must be what was set, by every way there is."""

import asyncio
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from soak_ledger import Changed, Desk
from soak_steps import caller, pause, steps, word

from buswork.client import Client
from buswork.thin import wire

PACE = 0.05
KEYS = 200
# A key that goes with its owner goes as soon as the bus has told the daemon.
LEAVING_SECONDS = 20.0


class Known:
    """What this process has set, and nobody else sets; an orderly end of the daemon drops it."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._values: dict[str, str] = {}
        self._number = -1

    def key(self, random: Random) -> str:
        return f"soak/{self.prefix}/{random.randrange(KEYS)}"

    def get(self, desk: Desk, key: str) -> str | None:
        self._forget(desk)
        return self._values.get(key)

    def begin(self, key: str) -> None:
        """From now on until the answer nobody knows."""
        self._values.pop(key, None)

    def set(self, desk: Desk, key: str, value: str) -> None:
        self._forget(desk)
        self._values[key] = value

    def _forget(self, desk: Desk) -> None:
        if not desk.is_same("values", self._number):
            self._values.clear()
            self._number = desk.number("values")

    async def expect(self, desk: Desk, key: str, what: Any) -> None:
        wanted = self.get(desk, key)
        found = await what
        if wanted is not None and self.get(desk, key) == wanted != found:
            raise Changed(f"{key} is {found!r}, not {wanted!r}")


BUS, NATIVE = Known("bus"), Known("native")


async def writes(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    async with caller(desk) as client:
        reader = await desk.ask(client.store.open_reader()) if random.random() < 0.3 else None
        for _ in steps(desk, random, 20, 150):
            await one(desk, random, client)
            if reader is not None:
                await desk.ask(BUS.expect(desk, key := BUS.key(random), read(reader, key)))
            await pause(random, PACE)
        if reader is not None:
            reader.close()


async def read(reader: Any, key: str) -> str:
    found = reader.get(key)
    return "" if found is None else found.decode()


async def one(desk: Desk, random: Random, client: Client) -> None:
    store, key = client.store, BUS.key(random)
    match random.randrange(9):
        case 0 | 1:
            value = word(random)
            BUS.begin(key)
            await desk.ask(store.set(key, value))
            BUS.set(desk, key, value)
        case 2 | 3 | 4:
            await desk.ask(BUS.expect(desk, key, store.get(key)))
        case 5:
            found = await desk.ask(store.lookup(key))
            value = word(random)
            BUS.begin(key)
            swap = await desk.ask(store.compare_and_set(key, found.revision, value))
            if swap.changed:
                BUS.set(desk, key, value)
        case 6:
            values = {BUS.key(random): word(random) for _ in range(8)}
            for each in values:
                BUS.begin(each)
            await desk.ask(store.set_many(values))
            for each, value in values.items():
                BUS.set(desk, each, value)
        case 7:
            BUS.begin(key)
            await desk.ask(store.delete(key))
            BUS.set(desk, key, "")
        case 8:
            await desk.ask(store.describe(key))
            await desk.ask(store.list(f"soak/bus/{random.randrange(10)}"))


async def watches(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    """Every change arrives, in order, whatever was set."""
    key = f"soak/watched/{os.getpid()}"
    async with caller(desk) as client, caller(desk) as other:
        watch = client.store.watch(key)
        await desk.ask(watch.open())
        try:
            for number in steps(desk, random, 5, 60):
                value = f"{number} {word(random)}"
                revision = await desk.ask(other.store.set(key, value))
                await desk.ask(arrives(watch, revision, value))
                await pause(random, PACE)
        finally:
            await watch.close()
        await desk.ask(other.store.delete(key))


async def arrives(watch: Any, revision: int, value: str) -> None:
    change = await anext(watch)
    if (change.revision, change.value) != (revision, value):
        raise Changed(f"{change}, not {revision}: {value!r}")


async def leaves(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    """Keys that go with whoever set them, or after a while."""
    key = f"soak/leaves/{os.getpid()}"
    async with caller(desk) as witness:
        async with caller(desk) as client:
            await desk.ask(client.store.set(key, word(random), until_i_leave=True))
            await desk.ask(client.store.set(f"{key}/late", "x", ttl=random.uniform(0.1, 2)))
            await desk.ask(exists(witness, key))
            await pause(random, 5 * PACE)
        await desk.ask(goes(witness, key))
        await desk.ask(goes(witness, f"{key}/late"))


async def exists(client: Client, key: str) -> None:
    if not (await client.store.lookup(key)).exists:
        raise Changed(f"{key} is gone already")


async def goes(client: Client, key: str) -> None:
    async with asyncio.timeout(LEAVING_SECONDS):
        while (await client.store.lookup(key)).exists:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def native(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    """As mapipc does: a connection for each request."""
    exchange = partial(exchanged, Path(places["sockets"]))
    for _ in steps(desk, random, 20, 200):
        key = NATIVE.key(random)
        if random.random() < 0.4:
            value = word(random)
            NATIVE.begin(key)
            await desk.ask(exchange(wire.SET, wire.set_request(key, value)))
            NATIVE.set(desk, key, value)
        else:
            await desk.ask(NATIVE.expect(desk, key, value_of(exchange, key)))
        await pause(random, PACE)


async def value_of(exchange: Any, key: str) -> str:
    return wire.string_of(await exchange(wire.GET, wire.get_request(key))) or ""


async def exchanged(folder: Path, name: str, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(folder / name))
    try:
        writer.write(request)
        answer = await reader.read()
    finally:
        writer.transport.abort()
    if not answer:
        raise EOFError(name)
    return answer

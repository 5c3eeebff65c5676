import asyncio
import math

import pytest

from buswork.client import Client, Description, InvalidArgs, Lookup, Swap
from buswork.client.store import MAX_TTL_MS
from buswork.store.model import limits


async def test_values(shared_bus):
    async with Client(shared_bus.address) as client:
        store = client.store
        revision = await store.set("v/a", "1")
        assert await store.revision() == revision
        assert await store.get("v/a") == "1"
        assert await store.lookup("v/a") == Lookup(True, "1", revision)
        assert await store.lookup("v/none") == Lookup(False, "", 0)
        assert await store.set_many({"v/b": "2", "v/c": "3"}) == revision + 2
        assert await store.get_many(["v/a", "v/b", "v/none"]) == {"v/a": "1", "v/b": "2"}
        assert await store.list("v/") == ["v/a", "v/b", "v/c"]
        assert await store.delete("v/a")
        assert not await store.delete("v/a")


async def test_compare_and_set(shared_bus):
    async with Client(shared_bus.address) as client:
        swap = await client.store.compare_and_set("cas", 0, "first")
        assert swap.changed
        again = await client.store.compare_and_set("cas", 0, "second")
        assert again == Swap(False, swap.revision)
        assert await client.store.get("cas") == "first"


async def test_describe(shared_bus):
    async with Client(shared_bus.address) as client:
        assert await client.store.describe("d/none") is None
        revision = await client.store.set("d/a", "four", ttl=3600, until_i_leave=True)
        facts = await client.store.describe("d/a")
        assert isinstance(facts, Description)
        assert (facts.revision, facts.size) == (revision, 4)
        assert facts.until_leaves == client.connection.unique_name
        assert facts.expires_unix_us - facts.time_unix_us == pytest.approx(3600e6, abs=5e6)


async def test_a_key_goes_after_its_time_and_with_its_client(shared_bus):
    async with Client(shared_bus.address) as watcher, watcher.store.watch("go/") as changes:
        async with Client(shared_bus.address) as client:
            await client.store.set("go/ttl", "x", ttl=0.01)
            await client.store.set("go/left", "x", until_i_leave=True)
        gone = set()
        while gone != {"go/ttl", "go/left"}:
            change = await asyncio.wait_for(anext(changes), 10)
            if change.kind == "gone":
                gone.add(change.key)


@pytest.mark.parametrize(
    "ttl", [0, -1, MAX_TTL_MS / 1000 + 0.001, 1e300, 1.7e308, 10**400, math.inf, math.nan]
)
async def test_a_time_that_is_none(shared_bus, ttl):
    async with Client(shared_bus.address) as client:
        with pytest.raises(InvalidArgs, match="at most 3162240000 seconds"):
            await client.store.set("key", "value", ttl=ttl)


async def test_the_longest_and_the_shortest_time(shared_bus):
    assert MAX_TTL_MS == limits.MAX_TTL_MS
    async with Client(shared_bus.address) as client:
        assert await client.store.set("key", "value", ttl=MAX_TTL_MS / 1000)
        assert await client.store.set("key", "value", ttl=5e-324)


async def test_marks(shared_bus):
    async with Client(shared_bus.address) as client:
        constant = await client.store.mark()
        assert constant
        assert await client.store.mark("here") == "here"
        assert await client.store.last_mark() == "here"


async def test_clear(bus):
    async with Client(bus.address) as client:
        await client.store.set("a", "1")
        async with client.store.watch() as changes:
            revision = await client.store.clear()
            change = await anext(changes)
            assert (change.kind, change.revision, change.key) == ("clear", revision, None)
        assert await client.store.list() == []


async def test_a_reader_of_the_shared_memory(shared_bus):
    async with Client(shared_bus.address) as client:
        revision = await client.store.set("r/a", "grüße")
        reader = await client.store.open_reader()
        assert reader.lookup("r/a") == ("grüße".encode(), revision)
        later = await client.store.set("r/a", "2")
        assert reader.lookup("r/a") == (b"2", later)
        await client.store.delete("r/a")
        assert reader.get("r/a") is None
    with reader:  # it needs the bus no more
        assert reader.alive
        assert reader.sequence == later + 1

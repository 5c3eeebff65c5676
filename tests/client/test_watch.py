import asyncio
import os

import pytest

from buswork.client import Client, Disconnected, NotRunning, RevisionGone
from buswork.client.watch import LinePipe

SECONDS = 10


async def test_changes_come_in_order_without_gap_or_repeat(shared_bus):
    async with Client(shared_bus.address) as client, client.store.watch("w/") as changes:
        await client.store.set_many({f"w/{n}": "x" * 100 for n in range(3000)})
        await client.store.set("other", "unseen")
        await client.store.delete("w/0")
        seen = [await asyncio.wait_for(anext(changes), SECONDS) for _ in range(3001)]
    revisions = [change.revision for change in seen]
    assert revisions == sorted(set(revisions))
    assert [change.key for change in seen] == [f"w/{n}" for n in range(3000)] + ["w/0"]
    assert seen[-1].kind == "gone"


async def test_from_a_revision(shared_bus):
    async with Client(shared_bus.address) as client:
        before = await client.store.set("f/0", "a")
        after = await client.store.set("f/1", "b\n\u001b")
        async for change in client.store.watch("f/", before):
            assert (change.revision, change.key, change.value) == (after, "f/1", "b\n\u001b")
            break


async def test_a_revision_that_is_yet_to_come(shared_bus):
    async with Client(shared_bus.address) as client:
        with pytest.raises(RevisionGone):
            await client.store.watch("", 10**9).open()


async def test_a_wait_that_is_given_up_does_not_end_the_watch(shared_bus):
    async with Client(shared_bus.address) as client, client.store.watch("g/") as changes:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(changes), 0.01)
        await client.store.set("g/1", "x")
        assert (await asyncio.wait_for(anext(changes), SECONDS)).key == "g/1"


async def test_closing_gives_the_descriptor_back(shared_bus):
    async with Client(shared_bus.address) as client:
        before = os.listdir("/proc/self/fd")
        for _ in range(100):
            async with client.store.watch("fd/"):
                pass
        assert os.listdir("/proc/self/fd") == before
        watch = client.store.watch("fd/")
        await watch.open()
        waiting = asyncio.create_task(anext(watch))
        await asyncio.sleep(0)
        await watch.close()
        with pytest.raises(Disconnected):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


async def test_closing_the_client_ends_its_watches(shared_bus):
    before = os.listdir("/proc/self/fd")
    client = Client(shared_bus.address)
    await client.open()
    watch = client.store.watch()
    await watch.open()
    waiting = asyncio.create_task(anext(watch))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(Disconnected):
        await asyncio.wait_for(waiting, SECONDS)
    assert os.listdir("/proc/self/fd") == before


async def test_the_daemon_is_killed_and_starts_anew(bus):
    async with Client(bus.address) as client, client.store.watch() as changes:
        await client.store.set("a", "1")
        assert (await anext(changes)).value == "1"
        waiting = asyncio.create_task(anext(changes))
        bus.kill_daemon()
        await asyncio.to_thread(bus.start_daemon)
        with pytest.raises(RevisionGone, match="started anew"):
            await asyncio.wait_for(waiting, SECONDS)


async def test_the_daemon_does_not_come_back(bus, monkeypatch):
    monkeypatch.setattr("buswork.client.watch.RESTART_SECONDS", 0.05)
    async with Client(bus.address) as client, client.store.watch() as changes:
        bus.stop_daemon()
        with pytest.raises(NotRunning):
            await asyncio.wait_for(anext(changes), SECONDS)


async def test_a_watch_that_is_taken_away_stays_away(bus):
    async with Client(bus.address) as client, client.store.watch() as changes:
        (held,) = await client.daemon.list_clients()
        await client.daemon.force_release(held.path)
        with pytest.raises(Disconnected, match="took this watch away"):
            await asyncio.wait_for(anext(changes), SECONDS)


async def test_a_reader_that_falls_too_far_behind_is_told_so(bus):
    """More than the daemon keeps (16 MiB) while nobody reads; what was sent still comes."""
    async with Client(bus.address) as client, client.store.watch() as changes:
        big = "x" * 1_000_000
        last = 0
        for n in range(24):
            last = await client.store.set("big", f"{n}{big}")
        seen = []
        with pytest.raises(RevisionGone):
            await _read_to_the_end(changes, seen)
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) < last


async def _read_to_the_end(changes, seen):
    async for change in changes:
        seen.append(change.revision)


async def test_an_equal_epoch_at_another_owner_is_resumed(bus):
    """What a daemon that keeps its values over a restart would look like."""
    async with Client(bus.address) as client, client.store.watch() as changes:
        await client.store.set("a", "1")
        assert (await anext(changes)).revision == 1
        changes._pipe.close()
        changes._pipe = LinePipe(_ended_pipe())
        changes._owner, owner = ":1.99999", changes._owner
        await client.store.set("b", "2")
        change = await asyncio.wait_for(anext(changes), SECONDS)
        assert (change.key, changes._owner) == ("b", owner)


def _ended_pipe():
    reader, writer = os.pipe()
    os.close(writer)
    return reader


async def test_lines_in_any_pieces():
    reader, writer = os.pipe()
    pipe = LinePipe(reader)
    for piece in (b"on", b"e\ntwo\nth", b"ree\n", b"half"):
        os.write(writer, piece)
        await asyncio.sleep(0)
    assert [await pipe.line() for _ in range(3)] == [b"one\n", b"two\n", b"three\n"]
    waiting = asyncio.create_task(pipe.line())
    await asyncio.sleep(0)
    os.close(writer)
    assert await waiting is None
    pipe.close()
    pipe.close()

"""buswork.store.native.streams: what a watcher reads, and what becomes of one that does not."""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from buswork.store.model.history import RevisionGone
from buswork.store.model.limits import Limits
from buswork.store.model.store import Store
from buswork.store.native import streams as module
from buswork.store.native.streams import WatchStream, WatchStreams

UID = 7
HISTORY = 50


class Watcher:
    """A stream, its reader's end, and whether it has ended."""

    def __init__(self, streams: WatchStreams, prefix: str, revision: int) -> None:
        self.ended = 0
        self.stream: WatchStream = streams.open(UID, prefix, revision, self._end)
        self.fd = os.dup(self.stream.reader)
        self.stream.close_reader()
        os.set_blocking(self.fd, False)
        self._rest = b""

    def _end(self) -> None:
        self.ended += 1

    def read(self, size: int = 1 << 20) -> bytes | None:
        """None: nothing now."""
        try:
            return os.read(self.fd, size)
        except BlockingIOError:
            return None

    async def lines(self, turns: int = 20) -> list[dict[str, Any]]:
        """All that comes, until nothing came for so many turns."""
        idle = 0
        while idle < turns:
            piece = self.read()
            idle = 0 if piece else idle + 1
            self._rest += piece or b""
            await asyncio.sleep(0)
        whole, _, self._rest = self._rest.rpartition(b"\n")
        return [json.loads(line) for line in whole.split(b"\n") if line]

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class House:
    def __init__(self) -> None:
        self.store = Store(lambda: 0, Limits(history_changes=HISTORY))
        self.streams = WatchStreams(self.store)
        self.watchers: list[Watcher] = []

    def watch(self, prefix: str = "", revision: int = 0) -> Watcher:
        self.watchers.append(Watcher(self.streams, prefix, revision))
        return self.watchers[-1]


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.streams.close()
    for watcher in house.watchers:
        watcher.close()


async def test_changes_before_and_after_come_in_order(house: House) -> None:
    house.store.set(UID, "a", b"1")
    watcher = house.watch()
    house.store.delete(UID, "a")
    house.store.set(UID, "b", "zwei \N{SNOWMAN}".encode())
    house.store.clear()
    assert await watcher.lines() == [
        {"revision": 1, "key": "a", "value": "1"},
        {"revision": 2, "key": "a"},
        {"revision": 3, "key": "b", "value": "zwei \N{SNOWMAN}"},
        {"revision": 4, "kind": "clear"},
    ]
    house.store.set(UID, "c", b"3")
    assert [line["key"] for line in await watcher.lines()] == ["c"]


async def test_a_watcher_sees_its_prefix_and_no_foreign_secrets(house: House) -> None:
    some, all_ = house.watch("in/"), house.watch()
    for uid, key in ((UID, "in/a"), (UID, "out"), (8, "~8/secret"), (UID, "~7/own")):
        house.store.set(uid, key, b"v")
    assert [line["key"] for line in await some.lines()] == ["in/a"]
    assert [line["key"] for line in await all_.lines()] == ["in/a", "out", "~7/own"]


async def test_many_changes_are_woken_for_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = house.watch()
    await watcher.lines()
    pumped = []
    pump = WatchStream.pump
    monkeypatch.setattr(WatchStream, "pump", lambda stream: (pumped.append(1), pump(stream)))
    for number in range(40):
        house.store.set(UID, "k", b"%d" % number)
    assert len(await watcher.lines()) == 40
    assert len(pumped) <= 2


async def test_a_reader_that_pauses_loses_nothing(house: House) -> None:
    """Its pipe fills, and goes on when there is room: nothing is queued meanwhile."""
    watcher = house.watch()
    for number in range(20):
        house.store.set(UID, f"k{number}", b"x" * 20_000)
    await asyncio.sleep(0.01)
    assert [line["key"] for line in await watcher.lines()] == [f"k{n}" for n in range(20)]
    assert not watcher.ended


async def test_a_reader_that_falls_behind_is_told_and_cut_off(house: House) -> None:
    watcher = house.watch()
    for number in range(HISTORY + 1):
        house.store.set(UID, "k", b"%d" % number)
    (line,) = await watcher.lines()
    assert line == {"cut": {"revision": 0}}
    assert watcher.read() == b""
    assert watcher.ended == 1
    with pytest.raises(RevisionGone):
        house.store.watch_from(0)


@pytest.mark.attack(32)
async def test_a_reader_that_reads_nothing_is_let_go(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CUT_SECONDS", 0.02)
    watcher = house.watch()
    for _ in range(3):
        for number in range(HISTORY):
            house.store.set(UID, "k", b"%d" % number * 4000)
        await asyncio.sleep(0.001)
    assert not watcher.ended
    await asyncio.sleep(0.05)
    assert watcher.ended == 1


async def test_who_closes_the_reading_end_ends_the_stream(house: House) -> None:
    watcher, other = house.watch(), house.watch()
    await watcher.lines()
    watcher.close()
    house.store.set(UID, "k", b"v")
    await other.lines()
    assert (watcher.ended, other.ended) == (1, 0)
    watcher.stream.close()
    watcher.stream.pump()
    assert watcher.ended == 1


async def test_who_has_closed_before_the_first_line_ends_it_too(house: House) -> None:
    watcher = house.watch()
    house.store.set(UID, "k", b"v")
    watcher.close()
    watcher.stream.pump()
    assert watcher.ended == 1


async def test_streams_have_their_turns_in_pieces(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 0)
    watchers = [house.watch() for _ in range(10)]
    await watchers[0].lines()
    house.store.set(UID, "k", b"1")
    await asyncio.sleep(0)
    house.store.set(UID, "k", b"2")
    for watcher in watchers:
        assert [line["value"] for line in await watcher.lines()] == ["1", "2"]


async def test_the_end_of_all(house: House) -> None:
    watchers = [house.watch() for _ in range(3)]
    house.streams.close()
    assert [watcher.ended for watcher in watchers] == [1, 1, 1]
    await asyncio.sleep(0)
    assert [watcher.read() for watcher in watchers] == [b""] * 3

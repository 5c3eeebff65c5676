"""buswork.store.native.keep: what outlives a crash, and what does not."""

import array
import asyncio
import contextlib
import gc
import os
import re
import socket
from pathlib import Path

import pytest

from buswork.store.model import limits
from buswork.store.model.limits import Limits
from buswork.store.model.store import Store
from buswork.store.native import keep, memory
from buswork.store.native.keep import Keep, restore
from buswork.store.wire.kept import RECORD_BYTES


class Manager:
    """The service manager's side: holds descriptors by name, as systemd does."""

    def __init__(self, path: Path) -> None:
        self.held: dict[str, int] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def listen(self) -> dict[str, int]:
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(4096, 1024)
            except BlockingIOError:
                return self.held
            lines = dict(line.split("=", 1) for line in data.decode().split("\n"))
            if "FDNAME" not in lines:
                continue
            name = lines["FDNAME"]
            if "FDSTORE" in lines:
                fds = array.array("i", ancillary[0][2])
                self.held[name] = fds[0]
            else:
                os.close(self.held.pop(name))

    def fill(self) -> None:
        """Its queue takes no more until it listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(self._socket.getsockname())
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.send(b"WATCHDOG=1")

    def close(self) -> None:
        self._socket.close()
        for fd in self.held.values():
            os.close(fd)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    manager = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield manager
    manager.close()


def make_store() -> Store:
    return Store(lambda: 1_000_000)


def handed_over(manager: Manager) -> dict[str, list[int]]:
    return {name: [os.dup(fd)] for name, fd in manager.listen().items()}


def next_life(manager: Manager) -> Store:
    """A store as the daemon after this one finds it; nothing was said to the one before."""
    store, left = make_store(), handed_over(manager)
    restore(store, left)
    close(left)
    return store


def close(logs: dict[str, list[int]]) -> None:
    for (fd,) in logs.values():
        os.close(fd)


def contents(store: Store) -> dict[str, tuple]:
    return {
        key: (entry.value, entry.uid, entry.time_us, entry.expires_us)
        for key, entry in store.entries()
    }


def test_what_was_set_before_and_after_the_start_is_kept(manager: Manager) -> None:
    store = make_store()
    store.set(7, "before", b"1")
    Keep(store)
    store.set(8, "after", "zwei \N{SNOWMAN}".encode())
    store.set(8, "gone", b"3")
    store.delete(8, "gone")
    store.set(9, "dated", b"4", ttl_ms=5000)
    store.set(10, "~10/private", b"5")
    assert contents(next_life(manager)) == contents(store)
    assert len(contents(store)) == 4


def test_a_renewed_time_to_live_is_kept_though_it_is_no_change(manager: Manager) -> None:
    store = make_store()
    Keep(store)
    store.set(7, "key", b"1", ttl_ms=5000)
    store.set(7, "key", b"1")
    (kept,) = contents(next_life(manager)).values()
    assert kept == (b"1", 7, 1_000_000, None)


def test_clear_is_kept(manager: Manager) -> None:
    store = make_store()
    Keep(store)
    store.set(7, "a", b"1")
    store.clear()
    store.set(7, "b", b"2")
    assert list(contents(next_life(manager))) == ["b"]


def test_what_expired_while_nobody_ran_does_not_come_back(manager: Manager) -> None:
    store = make_store()
    Keep(store)
    store.set(7, "key", b"1", ttl_ms=1)
    late, left = Store(lambda: 2_000_000), handed_over(manager)
    restore(late, left)
    close(left)
    assert late.count == 0


def test_keys_that_go_with_a_client_are_not_kept(manager: Manager) -> None:
    store = make_store()
    Keep(store)
    store.set(7, "plain", b"1")
    store.set(7, "leased", b"1", leaves_with=":1.5")
    store.set(7, "plain", b"2", leaves_with=":1.5")
    assert contents(next_life(manager)) == {}


def test_an_orderly_end_leaves_nothing(manager: Manager) -> None:
    store = make_store()
    kept = Keep(store)
    store.set(7, "a", b"1")
    kept.close()
    store.set(7, "b", b"1")
    assert manager.listen() == {}


async def test_a_log_of_the_past_is_rewritten_while_changes_go_on(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "SMALL_LOG", 1000)
    monkeypatch.setattr(keep, "SLICE_BYTES", 100)
    store = make_store()
    kept = Keep(store)
    (first,) = manager.listen()
    for n in range(20):
        store.set(7, f"key {n}", b"x" * 20)
    number = 0
    while kept._copying is None:
        number += 1
        store.set(7, "key 0", b"%d" % number)
    await asyncio.sleep(0)
    store.set(7, "key 19", b"changed while it was copied")
    store.delete(7, "key 18")
    assert len(manager.listen()) == 2
    assert contents(next_life(manager)) == contents(store)  # the new log is not whole yet
    await kept._copying
    (second,) = manager.listen()
    assert second != first
    assert contents(next_life(manager)) == contents(store)
    assert os.fstat(manager.held[second]).st_size < 3000


async def test_a_full_memory_ends_the_keeping_and_not_the_store(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    Keep(store)

    def full(*_: object) -> int:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    store.set(7, "a", b"1")
    store.set(7, "b", b"1")
    assert store.get(7, "b") == b"1"
    assert manager.listen() == {}


def test_descriptors_that_are_no_logs_are_closed(manager: Manager) -> None:
    store = make_store()
    fd = os.memfd_create("junk")
    os.write(fd, b"junk")
    empty = os.memfd_create("empty")
    earlier = {"store-log-1": [fd], "store-log-2": [empty]}
    assert restore(store, earlier) == 0
    manager.held |= {name: os.dup(fds[0]) for name, fds in earlier.items()}
    Keep(store, earlier).close()
    for each in (fd, empty):
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(each)
    assert manager.listen() == {}


def test_after_two_crashes_the_younger_log_counts_and_the_older_is_taken_back(
    manager: Manager,
) -> None:
    first = make_store()
    Keep(first)
    first.set(7, "a", b"old")
    second = next_life(manager)
    Keep(second)
    second.set(7, "a", b"new")
    left = handed_over(manager)
    for order in (list, lambda items: reversed(list(items))):
        store = make_store()
        restore(store, dict(order(left.items())))
        assert store.get(7, "a") == b"new"
    kept = Keep(store, left)
    assert len(manager.listen()) == 1
    kept.close()
    assert manager.listen() == {}


async def test_a_rewrite_that_fails_leaves_the_old_log(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "SMALL_LOG", 1000)
    store = make_store()
    kept = Keep(store)
    (first,) = manager.listen()
    while kept._copying is None:
        store.set(7, "key", b"%d" % store.revision)

    def full(self: object, data: bytes) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(kept._next, "append", full.__get__(kept._next), raising=False)
    await kept._copying
    assert list(manager.listen()) == [first]
    assert kept._next is None
    kept.close()
    kept.close()


def test_the_unit_has_memory_for_what_may_be_full_at_once() -> None:
    unit = Path(__file__).parents[3] / "systemd/buswork.service"
    (most,) = re.findall(r"^MemoryMax=(\d+)M$", unit.read_text(), re.MULTILINE)
    live = limits.MAX_BYTES + 16 * limits.MAX_KEYS_PER_UID * RECORD_BYTES
    turn = limits.MAX_BYTES_PER_UID  # a SetMany
    # As the module says it; or the longest old log, where it had to wait for its successor.
    logs = 4 * live + keep.SMALL_LOG + 2 * turn
    logs = max(logs, int(keep.LONGEST * limits.MAX_BYTES) + live + 2 * (live // 2 + turn))
    objects, memories, unread, python = 64 << 20, 2 * memory.LARGEST, 128 << 20, 30 << 20
    values = limits.MAX_BYTES + objects + limits.MAX_HISTORY_BYTES
    # Of the socket's clients; and as tests/fsct/test_face.py measures them.
    requests, players = 64 << 20, 64 << 20
    counted = logs + values + memories + unread + requests + players + python
    assert counted <= int(most) << 20


class Full:
    """No descriptor is left, for as long as a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = True
        self.tries = 0
        self._create = os.memfd_create
        monkeypatch.setattr(os, "memfd_create", self._memfd_create)

    def _memfd_create(self, *arguments: object) -> int:
        self.tries += 1
        if self.is_full:
            raise OSError(24, "Too many open files")
        return self._create(*arguments)


async def test_without_a_descriptor_a_rewrite_waits_and_the_store_hears_nothing(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "SMALL_LOG", 1000)
    store = make_store()
    kept = Keep(store)
    first = list(manager.listen())
    full = Full(monkeypatch)
    revisions = [store.set(7, "key", b"%040d" % number) for number in range(100)]
    assert revisions == list(range(1, 101))
    assert 2 <= full.tries < 15  # once for each further 1000 bytes
    assert kept._copying is None
    assert contents(next_life(manager)) == contents(store)
    full.is_full = False
    while kept._copying is None:
        store.set(7, "key", b"%040d" % store.revision)
    await kept._copying
    assert list(manager.listen()) != first
    assert contents(next_life(manager)) == contents(store)
    assert kept._put_off_until == 0


async def test_a_log_that_the_manager_does_not_take_is_not_the_next_one(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "SMALL_LOG", 1000)
    store = make_store()
    kept = Keep(store)
    first = list(manager.listen())
    fds = len(os.listdir("/proc/self/fd"))
    manager.fill()
    for number in range(100):
        store.set(7, "key", b"%040d" % number)
    assert kept._copying is None
    assert list(manager.listen()) == first
    assert contents(next_life(manager)) == contents(store)
    assert len(os.listdir("/proc/self/fd")) == fds


@pytest.mark.parametrize("rewritten", [False, True])
async def test_earlier_logs_are_needed_until_the_manager_has_the_new_one(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, rewritten: bool
) -> None:
    monkeypatch.setattr("buswork.systemd.AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(keep, "SMALL_LOG", 1000)
    first = make_store()
    Keep(first)
    first.set(7, "a", b"acknowledged")
    left = handed_over(manager)
    store = make_store()
    restore(store, left)
    manager.fill()
    kept = Keep(store, left)
    await asyncio.sleep(0.05)
    while rewritten and kept._copying is None:
        store.set(7, "b", b"%d" % store.revision)
    if kept._copying is not None:
        await kept._copying
    manager.listen()
    assert contents(next_life(manager)) == contents(first)  # of all it never lost the earlier one
    while set(manager.listen()) & set(left):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    store.set(7, "c", b"new")
    assert contents(next_life(manager)) == contents(store)
    kept.close()
    assert manager.listen() == {}


async def test_logs_are_taken_back_as_soon_as_the_manager_listens(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buswork.systemd.AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(keep, "SMALL_LOG", 1000)
    store = make_store()
    kept = Keep(store)
    first = set(manager.listen())
    while kept._copying is None:
        store.set(7, "key", b"%d" % store.revision)
    manager.listen()
    manager.fill()
    await kept._copying
    assert contents(next_life(manager)) == contents(store)
    while first & set(manager.listen()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert contents(next_life(manager)) == contents(store)
    kept.stop()


async def test_an_orderly_end_leaves_nothing_whatever_the_manager_hears(manager: Manager) -> None:
    store = make_store()
    kept = Keep(store)
    store.set(7, "a", b"1")
    manager.listen()
    manager.fill()
    kept.close()
    assert contents(next_life(manager)) == {}


async def test_a_log_that_can_never_be_rewritten_ends_before_it_takes_all_memory(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "SMALL_LOG", 1000)
    store = Store(lambda: 1_000_000, Limits(total_bytes=10_000))
    kept = Keep(store)
    Full(monkeypatch)
    for number in range(2000):
        store.set(7, "key", b"%040d" % number)
    assert kept._log.size < keep.LONGEST * 10_000 + 3 * 1000
    assert manager.listen() == {}


def test_a_log_that_could_not_be_begun_gives_its_descriptor_back(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    fds = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no space"):
        Keep(make_store())
    assert len(os.listdir("/proc/self/fd")) == fds


@pytest.mark.parametrize("per_turn", [1, 8])
async def test_both_logs_together_have_a_bound(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, per_turn: int
) -> None:
    """However much is written while it is copied: the bound that the module states."""
    monkeypatch.setattr(keep, "SMALL_LOG", 1000)
    monkeypatch.setattr(keep, "SLICE_BYTES", 1000)
    store = make_store()
    kept = Keep(store)
    count, size = 200, 2000
    for n in range(count):
        store.set(7, f"key {n:03}", bytes([65]) * size)
    record = RECORD_BYTES + len("key 000") + size
    live, peak, rewritten = count * record, 0, 0
    for number in range(3000):
        copying = kept._copying
        store.set(7, f"key {number * 7 % count:03}", b"%05d" % number + b"x" * (size - 5))
        peak = max(peak, kept._log.size + (kept._next.size if kept._next else 0))
        rewritten += kept._copying is not copying
        if number % per_turn == 0:
            manager.listen()
            await asyncio.sleep(0)
    assert rewritten > 4
    assert peak <= 4 * live + 1000 + 2 * (per_turn + 1) * record
    assert peak > 3 * live  # it was put to the test
    kept.stop()
    assert contents(next_life(manager)) == contents(store)


async def test_what_is_copied_is_not_held(manager: Manager, monkeypatch: pytest.MonkeyPatch):
    """A step for each entry, and no container for each: else the collector would run for long."""
    monkeypatch.setattr(keep, "SMALL_LOG", 1000)
    store = Store(lambda: 1_000_000, Limits(keys_per_uid=100_000))
    kept = Keep(store)
    for n in range(20_000):
        store.set(7, f"key {n}", b"v")
    collections: list[str] = []
    while kept._copying is None:
        store.set(7, "key 0", b"%d" % store.revision)
    turns = 0
    gc.callbacks.append(lambda phase, info: collections.append(phase))
    try:
        keys = kept._copying
        await asyncio.sleep(0)
        assert len(collections) <= 4
        while not keys.done():
            turns += 1
            await asyncio.sleep(0)
    finally:
        gc.callbacks.pop()
    assert turns > 20_000 / keep.SLICE_RECORDS - 2


async def test_private_keys_are_copied_as_well(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "SMALL_LOG", 1000)
    store = make_store()
    kept = Keep(store)
    owner = "9" * 900
    store.restore(f"~{owner}/k", b"1", 7, 1, None)
    store.set(7, "~7/k", b"2")
    while kept._copying is None:
        store.set(7, "key", b"%d" % store.revision)
    await kept._copying
    assert contents(next_life(manager)) == contents(store)

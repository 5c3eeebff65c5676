"""buswork.client.reader: whatever the memory holds, get ends soon, in one of the ways it says."""

import asyncio
import fcntl
import mmap
import os
import random
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from zlib import adler32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buswork.client import reader as module
from buswork.client.errors import InvalidArgs
from buswork.client.reader import Again, Closed, Reader, Reopen, TooLarge
from buswork.store.model.keys import is_private
from buswork.store.model.limits import Limits
from buswork.store.model.store import Store
from buswork.store.native.memory import SharedMemory
from buswork.store.wire.memory import (
    FREED,
    MAX_PROBES,
    MIN_SIZE,
    OUTSIDE_AT,
    STATE_AT,
    encode_header,
    encode_record,
    layout_for,
    tag_of,
)
from buswork.store.wire.values import EMPTY, Json

KEYS = [f"key-{n}" for n in range(40)]


def sealed(content: bytes, seals: int = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


async def _copy_of_a_memory() -> bytes:
    store = Store(lambda: 0)
    for number, key in enumerate(KEYS):
        store.set(0, key, b"x" * (number * 97 + 1))
    memory = SharedMemory(store, b"e" * 16, smallest=4 * MIN_SIZE, largest=4 * MIN_SIZE)
    fd = await memory.open_reader()
    content = os.pread(fd, 4 * MIN_SIZE, 0)
    os.close(fd)
    memory.close()
    return content


@pytest.fixture(scope="module")
def content() -> bytes:
    """A real memory as bytes, to be spoilt."""
    return asyncio.run(_copy_of_a_memory())


class Spoilt:
    """A memory that a test writes into, and a reader on it."""

    def __init__(self, content: bytes) -> None:
        self.fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
        os.write(self.fd, content)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.memory = mmap.mmap(self.fd, len(content))
        self.reader = Reader(os.dup(self.fd))

    def put(self, at: int, number: int, form: str = "=Q") -> None:
        struct.pack_into(form, self.memory, at, number)

    def slot(self, key: str) -> int:
        layout = self.reader.layout
        at = tag_of(key.encode()) >> layout.shift
        while struct.unpack_from("=Q", self.memory, layout.table_offset + at * 8)[0] >> 32 != (
            tag_of(key.encode())
        ):
            at += 1
        return layout.table_offset + at * 8

    def close(self) -> None:
        self.reader.close()
        self.memory.close()
        os.close(self.fd)


@pytest.fixture
def spoilt(content: bytes) -> Iterator[Spoilt]:
    spoilt = Spoilt(content)
    yield spoilt
    spoilt.close()


def test_what_is_there(spoilt: Spoilt) -> None:
    for number, key in enumerate(KEYS):
        assert spoilt.reader.get(key) == b"x" * (number * 97 + 1)
        assert spoilt.reader.lookup(key) == (b"x" * (number * 97 + 1), number + 1)
    assert spoilt.reader.get("missing") is None
    assert spoilt.reader.get("") is None
    assert spoilt.reader.lookup("missing") is None
    assert {record.key for record in spoilt.reader.records()} == set(KEYS)


def test_the_states(spoilt: Spoilt) -> None:
    for state, error in ((2, Reopen), (3, Closed), (0, Closed), (2**64 - 1, Closed)):
        spoilt.put(STATE_AT, state)
        with pytest.raises(error):
            spoilt.reader.get("key-1")


def test_a_miss_where_a_key_has_no_slot(spoilt: Spoilt) -> None:
    spoilt.put(OUTSIDE_AT, 1)
    assert spoilt.reader.get("key-1") is not None
    with pytest.raises(TooLarge):
        spoilt.reader.get("missing")


@pytest.mark.parametrize("block", [2, 127, 10**6, 2**32 - 1])
def test_blocks_that_hold_no_such_record(spoilt: Spoilt, block: int) -> None:
    spoilt.put(spoilt.slot("key-1"), tag_of(b"key-1") << 32 | block)
    with pytest.raises(Again):
        spoilt.reader.get("key-1")


def test_a_table_without_an_end(spoilt: Spoilt) -> None:
    layout = spoilt.reader.layout
    for at in range(layout.table_offset, layout.heap_offset, 8):
        spoilt.put(at, 1 << 32)
    assert spoilt.reader.get("key-1") is None


def test_another_key_with_the_same_tag(spoilt: Spoilt) -> None:
    """CRC-32 of "plumless" is that of "buckeroo": both are in the chain, one after the other."""
    layout = spoilt.reader.layout
    assert tag_of(b"plumless") == tag_of(b"buckeroo")
    block, at = layout.blocks - 1, layout.table_offset + (tag_of(b"plumless") >> layout.shift) * 8
    record = encode_record(b"plumless", b"p", 1)
    heap = layout.heap_offset + block * 64
    spoilt.memory[heap : heap + len(record)] = record
    while struct.unpack_from("=Q", spoilt.memory, at)[0]:
        at += 8
    spoilt.put(at, tag_of(b"plumless") << 32 | block)
    assert spoilt.reader.get("buckeroo") is None
    assert spoilt.reader.get("plumless") == b"p"


@pytest.mark.parametrize("key", ["~7/k", "~0/", "~4294967296/k", "~7", "~/k", "~07/k", "7/k"])
def test_private_keys_are_elsewhere(spoilt: Spoilt, key: str) -> None:
    if is_private(key):
        with pytest.raises(TooLarge, match="private"):
            spoilt.reader.get(key)
    else:
        assert spoilt.reader.get(key) is None


def test_a_key_that_gets_its_slot_behind_a_reader(
    spoilt: Spoilt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was set all along, first outside of the table; that it is not set would be a lie."""
    layout, tag = spoilt.reader.layout, tag_of(b"buckeroo")
    block, slot = layout.blocks - 1, layout.table_offset + (tag >> layout.shift) * 8
    record, heap = encode_record(b"plumless", b"p", 1), layout.heap_offset + block * 64
    spoilt.memory[heap : heap + len(record)] = record
    for at, word in enumerate([FREED, tag << 32 | block, 0]):
        spoilt.put(slot + at * 8, word)
    spoilt.put(OUTSIDE_AT, 1)
    head: Callable[..., tuple[int, ...]] = module._head

    def slotted(*place: object) -> tuple[int, ...]:
        spoilt.put(slot, tag << 32 | 4)
        spoilt.put(OUTSIDE_AT, 0)
        return head(*place)

    monkeypatch.setattr(module, "_head", slotted)
    with pytest.raises(TooLarge):
        spoilt.reader.get("buckeroo")


class Counting:
    """Slots that count how often somebody looks."""

    def __init__(self, slots: memoryview) -> None:
        self._slots = slots
        self.looks = 0

    def __getitem__(self, at: int) -> int:
        self.looks += 1
        return int(self._slots[at])

    def release(self) -> None:
        self._slots.release()


def test_what_a_read_costs_at_most(spoilt: Spoilt, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = spoilt.reader.layout
    for at in range(layout.table_offset, layout.heap_offset, 8):
        spoilt.put(at, FREED)
    slots = Counting(spoilt.reader._slots)
    monkeypatch.setattr(spoilt.reader, "_slots", slots)
    assert spoilt.reader.get("key-1") is None
    assert slots.looks == 1 + MAX_PROBES


@pytest.mark.parametrize(
    "limits", [{"max_probes": 129}, {"max_probes": 0}, {"max_key": 1025}, {"max_value": 4097}]
)
def test_a_memory_that_asks_for_more_than_a_read_may_cost(limits: dict[str, int]) -> None:
    layout = replace(layout_for(MIN_SIZE, b"e" * 16, 1), **limits)
    with pytest.raises(InvalidArgs, match="no memory of a store"):
        Reader(sealed(encode_header(layout).ljust(MIN_SIZE, b"\0")))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_record_written_anew_with_the_same_sums(
    spoilt: Spoilt, monkeypatch: pytest.MonkeyPatch, ordered: bool
) -> None:
    """Half of it is old, half new; the sums are right, as somebody chose them; its check moved."""
    layout, tag = spoilt.reader.layout, tag_of(b"key-1")
    word = struct.unpack_from("=Q", spoilt.memory, spoilt.slot("key-1"))[0]
    at = layout.heap_offset + (word & 0xFFFF_FFFF) * 64
    check = struct.unpack_from("=Q", spoilt.memory, at)[0]
    times = 0

    def forged(body: bytes, start: int = 0) -> int:
        nonlocal times
        if start == tag and times < 3:
            times += 1
            spoilt.put(at, check + 1)
        elif start == tag:
            spoilt.put(at, check)
        return int(crc(body, start))

    crc = module.crc32
    monkeypatch.setattr(module, "STRONGLY_ORDERED", ordered)
    monkeypatch.setattr(module, "crc32", forged)
    monkeypatch.setattr(
        module, "check_of", lambda body, tag: forged(body, tag) | adler32(body) << 32
    )
    assert spoilt.reader.get("key-1") == b"x" * 98
    assert times == 3


WRONG = {
    "empty": b"",
    "short": bytes(100),
    "zeros": bytes(8192),
    "odd": bytes(8193),
    "magic alone": b"mapipcSM" + bytes(8184),
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_no_memories(content: bytes) -> None:
    with pytest.raises(InvalidArgs):
        Reader(sealed(content))


@pytest.mark.attack(44)
def test_a_memory_that_could_shrink(content: bytes) -> None:
    with pytest.raises(InvalidArgs):
        Reader(sealed(content, fcntl.F_SEAL_GROW))


def test_a_refused_descriptor_is_closed() -> None:
    fd, other = os.pipe()
    os.close(other)
    with pytest.raises(InvalidArgs):
        Reader(fd)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


@given(st.integers(0, 2**32), st.integers(0, 5), st.integers(1, 2000))
@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
def test_spoilt_memories(content: bytes, seed: int, what: int, changes: int) -> None:
    generator = random.Random(seed)
    memory = bytearray(content)
    ranges = [(0, 128), (128, 256), (4096, 4096 + 65536), (4096 + 65536, len(memory)),
              (0, len(memory)), (96, 4096 + 65536)]  # fmt: skip
    for _ in range(1 + changes % 8 if what == 0 else changes):
        at = generator.randrange(*ranges[what]) & ~3
        odd = generator.choice([0, 1, 63, 64, 0xFFFF, 0xFFFF_FFFF, generator.getrandbits(32)])
        struct.pack_into("=I", memory, at, odd)
    try:
        reader = Reader(sealed(bytes(memory)))
    except InvalidArgs:
        return
    with reader:
        for key in [*KEYS, "missing"]:
            try:
                reader.get(key)
            except (Again, TooLarge, Reopen):
                pass
        list(reader.records())


async def test_threads_share_a_reader_while_the_writer_writes() -> None:
    limits = Limits(bytes_per_uid=1 << 40, total_bytes=1 << 40)
    store = Store(lambda: 0, limits)
    for key in KEYS:
        store.set(0, key, b"00000000" * 8)
    memory = SharedMemory(store, b"e" * 16)
    reader = Reader(await memory.open_reader())
    torn: list[bytes] = []
    going = threading.Event()

    def read() -> None:
        while not going.is_set():
            for key in KEYS:
                value = reader.get(key)
                if value is None or value != value[:8] * (len(value) // 8):
                    torn.append(value or b"")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(60_000):
        store.set(0, KEYS[number % 40], b"%08d" % number * (1 + number % 30))
    going.set()
    for thread in threads:
        thread.join()
    reader.close()
    reader.close()
    memory.close()
    assert torn == []


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_reader_slowed_down_inside_its_copy(
    monkeypatch: pytest.MonkeyPatch, ordered: bool
) -> None:
    """The writer gets a turn, several times over, at each place where it could do harm."""
    store = Store(lambda: 0)
    store.set(0, "k", b"00000000" * 8)
    memory = SharedMemory(store, b"e" * 16)
    reader = Reader(await memory.open_reader())
    head: Callable[..., tuple[int, ...]] = module._head
    number = disturbed = 0

    def disturb(times: int) -> None:
        nonlocal number, disturbed
        if disturbed < 20:
            disturbed += 1
            for _ in range(times):
                number += 1
                store.set(0, "k", b"%08d" % number * 8)

    def slow_head(*place: object) -> tuple[int, ...]:
        found = head(*place)
        disturb(disturbed)
        return found

    def slow_crc(*data: object) -> int:
        disturb(disturbed)
        return int(crc(*data))

    crc = module.crc32
    monkeypatch.setattr(module, "STRONGLY_ORDERED", ordered)
    monkeypatch.setattr(module, "_head", slow_head)
    monkeypatch.setattr(module, "crc32", slow_crc)
    for _ in range(30):
        value = reader.get("k")
        assert value is not None
        assert value == value[:8] * 8
    assert disturbed == 20
    assert reader.get("k") == b"%08d" % number * 8
    reader.close()
    memory.close()


async def test_a_value_that_never_rests_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(lambda: 0)
    store.set(0, "k", b"v")
    memory = SharedMemory(store, b"e" * 16)
    reader = Reader(await memory.open_reader())
    head: Callable[..., tuple[int, ...]] = module._head

    def restless(*place: object) -> tuple[int, ...]:
        store.set(0, "k", b"%d" % store.revision)
        return head(*place)

    monkeypatch.setattr(module, "_head", restless)
    with pytest.raises(Again):
        reader.get("k")
    reader.close()
    memory.close()


async def test_whether_the_writer_lives() -> None:
    """The kernel says so; a copy of the memory has no writer."""
    store = Store(lambda: 0)
    store.set(0, "k", b"v")
    memory = SharedMemory(store, b"e" * 16)
    fd = await memory.open_reader()
    copy = sealed(os.pread(fd, os.fstat(fd).st_size, 0))
    with Reader(fd) as reader, Reader(copy) as lonely:
        assert reader.alive
        assert not lonely.alive
        assert lonely.get("k") == b"v"
        memory.close()
        assert not reader.alive
        with pytest.raises(Closed):
            reader.get("k")
        assert reader.sequence == 1


async def test_a_memory_that_has_moved_does_not_say_that_the_daemon_is_dead() -> None:
    store = Store(lambda: 0)
    memory = SharedMemory(store, b"e" * 16, smallest=MIN_SIZE)
    with Reader(await memory.open_reader()) as reader:
        number = 0
        while memory.facts()["generation"] == 1:
            assert reader.alive
            store.set(0, f"key-{number}", b"v" * 100)
            number += 1
            await asyncio.sleep(0)
        with pytest.raises(Reopen) as raised:
            _ = reader.alive
        assert not isinstance(raised.value, Closed)
    memory.close()


async def test_what_is_no_text_comes_as_json() -> None:
    store = Store(lambda: 0)
    for key, value in (("list", Json(b"[1]")), ("empty", EMPTY), ("text", b"[1]")):
        store.set(0, key, value)
    memory = SharedMemory(store, b"e" * 16)
    with Reader(await memory.open_reader()) as reader:
        found = reader.get("list")
        assert found == Json(b"[1]")
        assert found != reader.get("text") == b"[1]"
        assert reader.lookup("list") == (Json(b"[1]"), 1)
        assert reader.get("empty") == b""
        assert type(reader.get("empty")) is bytes
    memory.close()


async def test_the_memory_moves_and_the_values_with_it() -> None:
    """Who is told to reopen finds everything in the next one, by the same road."""
    store = Store(lambda: 0)
    memory = SharedMemory(store, b"e" * 16, smallest=MIN_SIZE)
    first = Reader(await memory.open_reader())
    number, moved = 0, False
    while not moved:
        store.set(0, f"key-{number}", b"%d" % number)
        try:
            assert first.get(f"key-{number}") == b"%d" % number
        except TooLarge:
            pass  # said to be elsewhere while the next one is made
        except Reopen as error:
            moved = not isinstance(error, Closed)
        number += 1
        await asyncio.sleep(0)
    first.close()
    with Reader(await memory.open_reader()) as second:
        assert second.layout.generation > first.layout.generation
        for each in range(number):
            assert second.get(f"key-{each}") == b"%d" % each
    memory.close()


async def test_a_closed_reader_gives_its_descriptor_back() -> None:
    store = Store(lambda: 0)
    memory = SharedMemory(store, b"e" * 16)
    fds = len(os.listdir("/proc/self/fd"))
    fd = await memory.open_reader()
    before = len(os.listdir("/proc/self/fd"))
    reader = Reader(fd)
    reader.close()
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    with pytest.raises(ValueError, match="released"):
        reader.get("k")
    assert before > fds
    memory.close()

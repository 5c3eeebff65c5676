"""The shared memory's only writer. The layout is store.wire.memory's; docs/shared-memory.md
says why no reader can be fooled.

Rules
* A record is written where nobody looks, then one word of the table is switched to it: whenever
  this process ends, each key has its old value or its new one.
* A record's blocks rest before they are written again, so that a reader that is slow finds them
  as they were.
* Nothing is here before the first reader asks. Who has read is not known, so it stays from then on.
* Work that grows with the number of keys is done in slices, while the loop turns.
"""

import asyncio
import errno
import fcntl
import logging
import mmap
import os
import platform
import struct
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from zlib import adler32, crc32

from buswork.store.model import Store, is_private
from buswork.store.wire.lines import Change
from buswork.store.wire.memory import (
    BLOCK_BYTES,
    CLOSED,
    COUNT_AT,
    ELSEWHERE,
    FREED,
    LIVE,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    MIN_SIZE,
    OUTSIDE_AT,
    RECORD_BYTES,
    RETIRED,
    SEQUENCE_AT,
    STATE_AT,
    VERSION,
    encode_header,
    layout_for,
    pack_body,
    stored,
)

log = logging.getLogger(__name__)

# The first generation has room for some ten thousand short values, and takes pages as they fill.
SMALLEST = 1024 * 1024
# Each generation is twice the one before, so that all that readers may still hold add up to less
# than twice this: 128 MiB of the unit's 512. It has room for 700,000 short values.
LARGEST = 64 * 1024 * 1024

# Growing begins with a quarter of the heap free, or the table half full, so that it ends
# before the rest is used.
HEAP_FULL = 0.75
TABLE_FULL = 0.5
# The part of a new memory that present entries may take: less than HEAP_FULL of its heap.
FIRST_FILL = 0.5

# Work at the side: at most half of the loop's time, in slices that nobody feels.
SLICE_SECONDS = 0.002
PAUSE_SECONDS = 0.002
COPY_BYTES = 256 * 1024  # a step of a slice: some 0.1 ms each
COPY_SLOTS = 2048
COPY_ENTRIES = 32

# As many writes of records of one size pass before blocks are written again.
SPARES = 8
# Blocks that rest; more go back to where larger records may have them.
MOST_SPARES = 64
# Records take 1, 2, 4 .. blocks; the longest key with the longest value takes 128.
ORDERS = 8
CHUNK = 1 << (ORDERS - 1)

# Dictionaries that share the keys: of a million, each grows at 16,000 in half a millisecond.
SHARDS = 64
SHARD_SHIFT = 26

# Processors that make stores visible in order, and loads too: nothing to do for the writer.
STRONGLY_ORDERED = platform.machine() in ("x86_64", "i686", "i386", "s390x")

# Not in Python 3.11's fcntl and os.
F_SEAL_FUTURE_WRITE = 0x10
MFD_NOEXEC_SEAL = 0x08
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL

_STATE = STATE_AT // 8
_OUTSIDE = OUTSIDE_AT // 8
_SEQUENCE = SEQUENCE_AT // 8
_COUNT = COUNT_AT // 8
_LOCK = struct.Struct("hhqqi4x")  # struct flock
_NOWHERE = ELSEWHERE << 3  # where a key is that has no record here


class Generation:
    """One sealed memory, and the views through which the writer stores into it."""

    def __init__(self, size: int, epoch: bytes, number: int) -> None:
        self.layout = layout = layout_for(size, epoch, number)
        self.number = number
        self._fd = _memfd()
        try:
            os.ftruncate(self._fd, size)
            # Seals hold for mappings to come; this one is the only one that can write.
            self.memory = mmap.mmap(self._fd, size)
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, SEALS)
            # Not even for reading, lest others take locks in our name; who is given a descriptor
            # has it open already.
            os.fchmod(self._fd, 0o400)
            _hold(self._fd)
        except BaseException:
            os.close(self._fd)
            raise
        self.words = memoryview(self.memory).cast("Q")
        table = layout.table_offset // 8
        self.slots = self.words[table : table + layout.slots]
        self.blocks = layout.blocks
        self.shift = layout.shift
        self._mask = layout.slots - 1
        header = encode_header(layout)
        self.memory[: len(header)] = header
        self.words[_STATE] = LIVE

    def descriptor(self) -> int:
        """A new descriptor for a reader: one that was never open for writing, where possible."""
        try:
            return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # Without /proc. The seals refuse every write through this one too.
            log.info("no read-only descriptor to be had; the sealed one is handed out itself")
            return fcntl.fcntl(self._fd, fcntl.F_DUPFD_CLOEXEC, 3)

    def insert(self, tag: int, word: int) -> int:
        """The slot where the word went, -1 when all that a reader would search are taken."""
        slots, mask = self.slots, self._mask
        at = tag >> self.shift
        for _ in range(self.layout.max_probes):
            if slots[at] in (0, FREED):
                slots[at] = word
                return at
            at = (at + 1) & mask
        return -1

    def replace(self, tag: int, was: int, word: int) -> int:
        """The slot where one word was and the other is now, -1 when it had none."""
        at = self._find(tag, was)
        if at >= 0:
            self.slots[at] = word
        return at

    def remove(self, tag: int, was: int) -> int:
        """The slot where the word was, -1 when it had none."""
        at = self._find(tag, was)
        if at < 0:
            return at
        slots, mask, here = self.slots, self._mask, at
        if slots[(at + 1) & mask]:
            slots[at] = FREED
            return at
        # The end of a chain: nobody's search goes on from here, nor from freed slots before.
        slots[at] = 0
        for _ in range(self.layout.max_probes):
            here = (here - 1) & mask
            if slots[here] != FREED:
                break
            slots[here] = 0
        return at

    def _find(self, tag: int, word: int) -> int:
        slots, mask = self.slots, self._mask
        at = tag >> self.shift
        for _ in range(self.layout.max_probes):
            found = slots[at]
            if found == word:
                return at
            if not found:
                break
            at = (at + 1) & mask
        return -1

    def empty(self) -> None:
        layout = self.layout
        zeros = bytes(COPY_BYTES)
        for at in range(layout.table_offset, layout.heap_offset, COPY_BYTES):
            end = min(layout.heap_offset, at + COPY_BYTES)
            self.memory[at:end] = zeros[: end - at]

    def close(self) -> None:
        """Lets go of it; the readers that have it keep it."""
        self.slots.release()
        self.words.release()
        self.memory.close()
        # Where no reader has it, this gives back every page: 10 ms for 64 MiB.
        threading.Thread(target=os.close, args=[self._fd], name="release").start()


class Heap:
    """Which blocks are free. A place is a block and an order in one number: block << 3 | order."""

    def __init__(self, blocks: int) -> None:
        self.spares: tuple[deque[int], ...] = tuple(deque() for _ in range(ORDERS))
        self._free: tuple[set[int], ...] = tuple(set() for _ in range(ORDERS))
        # The first chunk has the two numbers that mean something else; its pages are never used.
        self.used = CHUNK
        self.blocks = blocks

    @property
    def is_filling(self) -> bool:
        return self.used > self.blocks * HEAP_FULL

    def take(self, order: int, resting: int = 0) -> int:
        """A place for a record of this order, so that as many of each go on resting; 0 when
        there is none."""
        place = self._carve(order)
        if not place and len(self.spares[order]) > resting:
            place = self.spares[order].popleft()
        if not place:
            for spares in self.spares:
                while len(spares) > resting:
                    self.release(spares.popleft())
            place = self._carve(order)
        return place

    def rest(self, place: int) -> None:
        """This record is no longer the one to read."""
        spares = self.spares[place & 7]
        spares.append(place)
        if len(spares) > MOST_SPARES:
            self.release(spares.popleft())

    def release(self, place: int) -> None:
        """Joins neighbours that are both free: the buddy system."""
        block, order = place >> 3, place & 7
        while order < ORDERS - 1 and block ^ (1 << order) in self._free[order]:
            self._free[order].remove(block ^ (1 << order))
            block &= ~(1 << order)
            order += 1
        self._free[order].add(block)

    def _carve(self, order: int) -> int:
        larger = order
        while larger < ORDERS and not self._free[larger]:
            larger += 1
        if larger < ORDERS:
            block = self._free[larger].pop()
        elif self.used + CHUNK <= self.blocks:
            block, larger = self.used, ORDERS - 1
            self.used += CHUNK
        else:
            return 0
        while larger > order:
            larger -= 1
            self._free[larger].add(block + (1 << larger))
        return block << 3 | order


class SharedMemory:
    """The public keys of a store, for readers that make no call at all."""

    def __init__(
        self,
        store: Store,
        epoch: bytes,
        *,
        smallest: int = SMALLEST,
        largest: int = LARGEST,
    ) -> None:
        if len(epoch) != 16 or not MIN_SIZE <= smallest <= largest:
            raise ValueError("an epoch of 16 bytes, and 64 KiB <= smallest <= largest")
        self._store = store
        self._epoch = epoch
        self._smallest = smallest
        self._largest = largest
        self._generation: Generation | None = None
        self._next: Generation | None = None
        self._walked = 0  # the slots below are in the next generation too
        # By the upper bits of the tag, because one dictionary of all would hold the loop up for
        # 30 ms when it grows.
        self._places: tuple[dict[str, int], ...] = tuple({} for _ in range(SHARDS))
        self._count = 0
        self._heap = Heap(0)
        # Keys that found no room; they get another chance when there is more.
        self._displaced: set[str] = set()
        # Those of them that have no slot, and words that found none in a new generation: whose
        # they are is not known, so they count for as long as it is the present one.
        self._slotless: set[str] = set()
        self._lost = self._lost_next = 0
        self._work: Iterator[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._built: asyncio.Future[None] | None = None
        self._barrier = threading.Lock()
        self._barrier.acquire()

    # Readers

    async def open_reader(self) -> int:
        """A descriptor of the memory for one reader; whoever called closes it.

        The first call builds the memory. OSError: there is none to be had.
        """
        if self._built is None:
            self.start()
        built = self._built
        if built is not None and not built.done():
            await asyncio.shield(built)
        if self._generation is None:
            raise OSError(errno.ENOMEM, "the store has no shared memory now")
        return self._generation.descriptor()

    def facts(self) -> dict[str, int | str]:
        """What a reader may want to know of the memory that it got last."""
        generation = self._generation
        if generation is None:
            return {}
        layout = generation.layout
        return {
            "version": VERSION,
            "epoch": layout.epoch.hex(),
            "generation": layout.generation,
            "size": layout.size,
            "max_value_bytes": layout.max_value,
            "max_key_bytes": layout.max_key,
        }

    # Life

    def start(self) -> None:
        """Begins to build, without waiting for a first reader."""
        if self._built is None:
            self._loop = asyncio.get_running_loop()
            self._built = self._loop.create_future()
            self._begin(self._build(self._built))

    def close(self) -> None:
        """Tells readers that the values are gone, and lets go of all."""
        self._give_up_next()
        self._stop_work()
        if self._built is not None and not self._built.done():
            self._built.set_result(None)
        if self._generation is not None:
            self._store.on_change.remove(self.apply)
            self._generation.words[_STATE] = CLOSED
            self._generation.empty()
            self._generation.close()
            self._generation = None

    # Changes

    def apply(self, change: Change) -> None:
        """Takes part in every change of the store, as one of its listeners."""
        generation = self._generation
        if generation is None:
            return
        key, value = change.key, change.value
        if key is None:
            self._clear(generation)
        elif key[:1] == "~" and is_private(key):
            pass
        elif value is None:
            self._remove(generation, key)
        else:
            self._put(generation, key, value, change.revision)
        generation.words[_SEQUENCE] = change.revision

    def _put(self, generation: Generation, key: str, value: bytes, revision: int) -> None:
        # The one path of this module that every set of the daemon takes: it calls little.
        name = key.encode()
        tag = crc32(name)
        places = self._places[tag >> SHARD_SHIFT]
        old = places.get(key, 0)
        place = _NOWHERE
        if len(value) <= MAX_VALUE_BYTES and len(name) <= MAX_KEY_BYTES:
            order = ((RECORD_BYTES + len(name) + len(value) - 1) >> 6).bit_length()
            spares = self._heap.spares[order]
            if old > _NOWHERE and len(spares) > SPARES:
                place = spares.popleft()
            else:
                place = self._take(order, key, is_new=old <= _NOWHERE)
            if place != _NOWHERE:
                flags = 0
                if type(value) is not bytes:
                    value, flags = stored(value)
                body = pack_body(revision, len(value), len(name), flags) + value
                check = crc32(body, tag) | adler32(body) << 32
                at = generation.layout.heap_offset + (place >> 3 << 6)
                generation.words[at >> 3] = check
                generation.memory[at + 8 : at + 8 + len(body) + len(name)] = body + name
                if self._next is not None:
                    self._mirror(place, check, body + name)
                if not STRONGLY_ORDERED:
                    self._fence()
        places[key] = place
        word = tag << 32 | place >> 3
        if old:
            at = generation.replace(tag, was := tag << 32 | old >> 3, word)
            if at < 0:
                self._find_slot(generation, key, tag, word)
            elif at < self._walked:
                self._replace_in_next(tag, was, word)
            if old != _NOWHERE:
                self._heap.rest(old)
        else:
            self._find_slot(generation, key, tag, word)
            generation.words[_COUNT] = self._count = self._count + 1
            if self._count > generation.layout.slots * TABLE_FULL:
                self._want_room()

    def _find_slot(self, generation: Generation, key: str, tag: int, word: int) -> None:
        at = generation.insert(tag, word)
        if at < 0:
            self._displaced.add(key)
            self._slotless.add(key)
        else:
            self._slotless.discard(key)
            if at < self._walked:
                self._insert_in_next(tag, word)
        self._count_outside(generation)

    def _insert_in_next(self, tag: int, word: int) -> None:
        assert self._next is not None
        if self._next.insert(tag, word) < 0:
            self._lost_next += 1

    def _replace_in_next(self, tag: int, was: int, word: int) -> None:
        assert self._next is not None
        if self._next.replace(tag, was, word) < 0:
            self._insert_in_next(tag, word)

    def _count_outside(self, generation: Generation) -> None:
        generation.words[_OUTSIDE] = len(self._slotless) + self._lost

    def _remove(self, generation: Generation, key: str) -> None:
        tag = crc32(key.encode())
        place = self._places[tag >> SHARD_SHIFT].pop(key, 0)
        if not place:
            return
        word = tag << 32 | place >> 3
        at = generation.remove(tag, word)
        if self._next is not None and 0 <= at < self._walked:
            self._next.remove(tag, word)
        self._displaced.discard(key)
        self._slotless.discard(key)
        self._count_outside(generation)
        if place != _NOWHERE:
            self._heap.rest(place)
        generation.words[_COUNT] = self._count = self._count - 1

    def _clear(self, generation: Generation) -> None:
        self._give_up_next()
        generation.empty()
        for places in self._places:
            places.clear()
        self._count = 0
        self._displaced.clear()
        self._slotless.clear()
        self._lost = 0
        self._count_outside(generation)
        self._heap = Heap(generation.blocks)
        generation.words[_COUNT] = 0
        self._fence()

    def _take(self, order: int, key: str, *, is_new: bool) -> int:
        # In a full heap those that have a place keep the blocks that they write by turns: one
        # that a new key took would be missed at each write from then on.
        place = self._heap.take(order, SPARES + 1 if is_new else 0)
        if self._heap.is_filling:
            self._want_room()
        # It may have been in use a moment ago: the word that said so must be seen before.
        self._fence()
        if place:
            return place
        if self._may_grow():
            self._displaced.add(key)
        return _NOWHERE

    def _mirror(self, place: int, check: int, rest: bytes) -> None:
        assert self._next is not None
        at = self._next.layout.heap_offset + (place >> 3 << 6)
        self._next.words[at >> 3] = check
        self._next.memory[at + 8 : at + 8 + len(rest)] = rest

    def _fence(self) -> None:
        """What was stored before is seen before what will be.

        Python has no such word, but a release and an acquire of one lock order stores on every
        processor that CPython runs on.
        """
        self._barrier.release()
        self._barrier.acquire()

    # Growing

    def _build(self, built: asyncio.Future[None]) -> Iterator[None]:
        """Takes in what the store has, and hears of changes from then on."""
        blocks = yield from self._measure()
        size = self._smallest
        while size * 2 <= self._largest and blocks * BLOCK_BYTES > size * FIRST_FILL:
            size *= 2
        try:
            self._generation = Generation(size, self._epoch, 1)
        except OSError as error:
            log.warning("no shared memory of %d bytes: %s", size, error)
            self._built = None  # the next reader tries again
        else:
            self._heap = Heap(self._generation.blocks)
            self._store.on_change.append(self.apply)
            yield from self._take_in()
            if self._generation is not None:
                self._generation.words[_SEQUENCE] = self._store.revision
        built.set_result(None)

    def _measure(self) -> Generator[None, None, int]:
        """How many blocks the present entries take."""
        blocks = 0
        for index, (key, entry) in enumerate(list(self._store.entries())):
            if index % COPY_ENTRIES == 0:
                yield
            if len(entry.value) <= MAX_VALUE_BYTES:
                blocks += 1 << _order(len(key), len(entry.value))
        return blocks

    def _may_grow(self) -> bool:
        return self._generation is not None and self._generation.layout.size * 2 <= self._largest

    def _want_room(self) -> None:
        if self._work is None and self._may_grow():
            self._begin(self._grow())

    def _take_in(self) -> Iterator[None]:
        """What has changed since came by `apply`."""
        for index, (key, _) in enumerate(list(self._store.entries())):
            if index % COPY_ENTRIES == 0:
                yield
            if not is_private(key) and not self._place_of(key):
                self._put_present(key)

    def _place_of(self, key: str) -> int:
        return self._places[crc32(key.encode()) >> SHARD_SHIFT].get(key, 0)

    def _put_present(self, key: str) -> None:
        entry = self._store.describe(0, key)  # public keys are everybody's
        if entry is not None and self._generation is not None:
            self._put(self._generation, key, entry.value, entry.revision)

    def _take_in_displaced(self) -> Iterator[None]:
        displaced, self._displaced = self._displaced, set()
        for index, key in enumerate(displaced):
            if index % COPY_ENTRIES == 0:
                yield
            self._put_present(key)

    def _grow(self) -> Iterator[None]:
        """A generation of twice the size: the heap as it is, the table spread anew."""
        old = self._generation
        assert old is not None
        try:
            self._next = new = Generation(old.layout.size * 2, self._epoch, old.number + 1)
        except OSError as error:
            log.warning("the shared memory stays at %d bytes: %s", old.layout.size, error)
            self._largest = old.layout.size
            return
        yield from self._copy_heap(old, new)
        yield from self._copy_table(old, new)
        self._switch(old, new)
        yield from self._take_in_displaced()

    def _copy_heap(self, old: Generation, new: Generation) -> Iterator[None]:
        # What is written from now on is written to both.
        start, shift = old.layout.heap_offset, new.layout.heap_offset - old.layout.heap_offset
        end = start + self._heap.used * BLOCK_BYTES
        for at in range(start, end, COPY_BYTES):
            stop = min(end, at + COPY_BYTES)
            with memoryview(old.memory) as source, memoryview(new.memory) as target:
                target[at + shift : stop + shift] = source[at:stop]
            yield

    def _copy_table(self, old: Generation, new: Generation) -> Iterator[None]:
        for at in range(0, old.layout.slots, COPY_SLOTS):
            for word in old.slots[at : at + COPY_SLOTS].tolist():
                if word and word != FREED:
                    self._insert_in_next(word >> 32, word)
            self._walked = at + COPY_SLOTS
            yield

    def _switch(self, old: Generation, new: Generation) -> None:
        self._next = None
        self._walked = 0
        self._lost, self._lost_next = self._lost_next, 0
        new.words[_SEQUENCE] = old.words[_SEQUENCE]
        new.words[_COUNT] = old.words[_COUNT]
        self._count_outside(new)
        self._heap.blocks = new.blocks
        self._fence()
        self._generation = new
        # Before any further change, so that no reader takes the old values for the present ones.
        old.words[_STATE] = RETIRED
        old.close()
        log.info("the shared memory has %d bytes now", new.layout.size)

    def _give_up_next(self) -> None:
        if self._next is not None:
            self._stop_work()
            self._next.close()
            self._next = None
            self._walked = self._lost_next = 0

    # Work at the side

    def _begin(self, work: Iterator[None]) -> None:
        self._work = work
        self._timer = self._loop.call_later(0, self._work_on)

    def _work_on(self) -> None:
        assert self._work is not None
        until = time.perf_counter() + SLICE_SECONDS
        for _ in self._work:
            if time.perf_counter() > until:
                self._timer = self._loop.call_later(PAUSE_SECONDS, self._work_on)
                return
        self._work = self._timer = None
        if self._generation is not None and self._heap.is_filling:
            self._want_room()

    def _stop_work(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._work = self._timer = None


def _order(key_bytes: int, value_bytes: int) -> int:
    """A record of these takes 1 << order blocks."""
    return ((RECORD_BYTES + key_bytes + value_bytes - 1) >> 6).bit_length()


def _memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    with suppress(OSError):  # before Linux 6.3
        return os.memfd_create("buswork-store", flags | MFD_NOEXEC_SEAL)
    return os.memfd_create("buswork-store", flags)


def _hold(fd: int) -> None:
    """A lock that goes with this process, by which readers can tell that it is alive."""
    everything = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, everything)

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
import logging
import threading
import time
from collections.abc import Generator, Iterator
from zlib import crc32

from buswork.store.model.keys import is_private
from buswork.store.model.store import Store
from buswork.store.native.generation import COUNT, OUTSIDE, SEQUENCE, STATE, Generation
from buswork.store.native.heap import SPARES, Heap, block_of, order_of, place_at
from buswork.store.wire.lines import Change
from buswork.store.wire.memory import (
    BLOCK_BYTES,
    CLOSED,
    ELSEWHERE,
    FREED,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    MIN_SIZE,
    RECORD_BYTES,
    RETIRED,
    STRONGLY_ORDERED,
    VERSION,
    encode_record,
)

log = logging.getLogger(__name__)

# The first generation has room for some ten thousand short values, and takes pages as they fill.
SMALLEST = 1024 * 1024
# Each generation is twice the one before, so that all that readers may still hold add up to less
# than twice this: 128 MiB (systemd/buswork.service counts them). It has room for 700,000 short
# values.
LARGEST = 64 * 1024 * 1024

# Growing begins with a quarter of the heap free, or the table half full.
TABLE_FULL = 0.5
# The part of a new memory that present entries may take: less than its heap may be full.
FIRST_FILL = 0.5
# How long a memory that could not grow is as large as it may be: what was missing, a descriptor
# for instance, may be there again.
RETRY_SECONDS = 10.0
# When this part of the heap has come free since, those who found none are looked for.
RETAKEN_PART = 16

# Work at the side: at most half of the loop's time, in slices that nobody feels.
SLICE_SECONDS = 0.002
PAUSE_SECONDS = 0.002
COPY_BYTES = 256 * 1024  # a step of a slice: some 0.1 ms each
COPY_SLOTS = 2048
COPY_ENTRIES = 32

# Dictionaries that share the keys: of a million, each grows at 16,000 in half a millisecond.
SHARDS = 64
SHARD_SHIFT = 26

_NOWHERE = place_at(ELSEWHERE, 0)  # where a key is that has no record here


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
        self._number = 0  # of the last generation that was made
        self._generation: Generation | None = None
        self._next: Generation | None = None
        self._walked = 0  # the slots below are in the next generation too
        # By the upper bits of the tag, because one dictionary of all would hold the loop up for
        # 30 ms when it grows.
        self._places: tuple[dict[str, int], ...] = tuple({} for _ in range(SHARDS))
        self._count = 0
        self._heap = Heap(0)
        # Keys that have no slot. Where a new generation had none for a word, whose it is is not
        # known, and it is among those that are lost there.
        self._slotless: set[str] = set()
        # Whether the heap had no room for some key, and how many blocks have come free since.
        self._is_short = False
        self._freed = 0
        self._may_grow_at = 0.0
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
        self._let_go(CLOSED)

    def _give_up(self) -> None:
        """The next reader makes it anew."""
        self._let_go(RETIRED)
        self._built = None

    def _let_go(self, state: int) -> None:
        self._give_up_next()
        self._stop_work()
        if self._built is not None and not self._built.done():
            self._built.set_result(None)
        generation, self._generation = self._generation, None
        if generation is not None:
            self._store.on_change.remove(self.apply)
            generation.words[STATE] = state
            generation.empty()
            generation.close()
            self._forget_places()

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
        generation.words[SEQUENCE] = change.revision

    def _put(self, generation: Generation, key: str, value: bytes, revision: int) -> None:
        # The one path of this module that every set of the daemon takes: it calls little.
        name = key.encode()
        tag = crc32(name)
        places = self._places[tag >> SHARD_SHIFT]
        old = places.get(key, 0)
        place = _NOWHERE
        if len(value) <= MAX_VALUE_BYTES and len(name) <= MAX_KEY_BYTES:
            order = _order(len(name), len(value))
            spares = self._heap.spares[order]
            if old > _NOWHERE and len(spares) > SPARES:
                place = spares.popleft()
            else:
                place = self._take(order, is_new=old <= _NOWHERE)
            if place != _NOWHERE:
                record = encode_record(name, value, revision)
                generation.write(place, record)
                if self._next is not None:
                    self._next.write(place, record)
                if not STRONGLY_ORDERED:
                    self._fence()
        places[key] = place
        word = _word(tag, place)
        if old:
            was = _word(tag, old)
            # A key that has no slot must not be looked for: it would find, and take, that of
            # another one with the same tag that is elsewhere as well.
            at = -1
            if not self._has_no_slot(generation, key, was):
                at = generation.replace(tag, was, word)
            if at < 0:
                self._find_slot(generation, key, tag, word)
            elif at < self._walked:
                self._replace_in_next(tag, was, word)
            if old != _NOWHERE:
                self._heap.rest(old)
        else:
            self._find_slot(generation, key, tag, word)
            generation.words[COUNT] = self._count = self._count + 1
            if self._count > generation.layout.slots * TABLE_FULL:
                self._want_room()

    def _has_no_slot(self, generation: Generation, key: str, word: int) -> bool:
        """It has none from here on."""
        if self._slotless and key in self._slotless:
            return True
        return bool(generation.lost) and generation.lost.take(word)

    def _find_slot(self, generation: Generation, key: str, tag: int, word: int) -> None:
        at = generation.insert(tag, word)
        if at < 0:
            self._slotless.add(key)
            self._is_short = True
        else:
            self._slotless.discard(key)
            if at < self._walked:
                self._insert_in_next(tag, word)
        self._count_outside(generation)

    def _insert_in_next(self, tag: int, word: int) -> None:
        assert self._next is not None
        if self._next.insert(tag, word) < 0:
            self._next.lost.add(word)

    def _replace_in_next(self, tag: int, was: int, word: int) -> None:
        assert self._next is not None
        if self._next.lost.take(was) or self._next.replace(tag, was, word) < 0:
            self._insert_in_next(tag, word)

    def _remove_from_next(self, tag: int, word: int) -> None:
        assert self._next is not None
        if not self._next.lost.take(word):
            self._next.remove(tag, word)

    def _count_outside(self, generation: Generation) -> None:
        # A reader looks at the number, and then for the key: what found a slot must be seen there
        # before the number falls.
        if not STRONGLY_ORDERED:
            self._fence()
        generation.words[OUTSIDE] = len(self._slotless) + len(generation.lost)

    def _remove(self, generation: Generation, key: str) -> None:
        tag = crc32(key.encode())
        place = self._places[tag >> SHARD_SHIFT].pop(key, 0)
        if not place:
            return
        word = _word(tag, place)
        if self._has_no_slot(generation, key, word):
            self._slotless.discard(key)
            self._count_outside(generation)
        elif 0 <= generation.remove(tag, word) < self._walked:
            self._remove_from_next(tag, word)
        if place != _NOWHERE:
            self._heap.rest(place)
            self._has_come_free(1 << order_of(place))
        generation.words[COUNT] = self._count = self._count - 1

    def _clear(self, generation: Generation) -> None:
        self._give_up_next()
        generation.empty()
        self._forget_places()
        self._count_outside(generation)
        self._heap = Heap(generation.blocks)
        generation.words[COUNT] = 0
        self._fence()

    def _forget_places(self) -> None:
        for places in self._places:
            places.clear()
        self._count = 0
        self._slotless.clear()
        self._is_short, self._freed = False, 0

    def _take(self, order: int, *, is_new: bool) -> int:
        # In a full heap those that have a place keep the blocks that they write by turns: one
        # that a new key took would be missed at each write from then on.
        place = self._heap.take(order, SPARES + 1 if is_new else 0)
        if self._heap.is_filling:
            self._want_room()
        # It may have been in use a moment ago: the word that said so must be seen before.
        self._fence()
        if not place:
            self._is_short = True
        return place or _NOWHERE

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
            self._generation = self._make(size)
        except OSError as error:
            log.warning("no shared memory of %d bytes: %s", size, error)
            self._built = None  # the next reader tries again
        else:
            self._heap = Heap(self._generation.blocks)
            self._store.on_change.append(self.apply)
            yield from self._take_in()
            if self._generation is not None:
                self._generation.words[SEQUENCE] = self._store.revision
        built.set_result(None)

    def _make(self, size: int) -> Generation:
        generation = Generation(size, self._epoch, self._number + 1)
        self._number += 1
        return generation

    def _keys(self) -> Iterator[str]:
        """The public keys; those that come meanwhile are told by `apply`."""
        for keys in self._store.walk():
            yield from (key for key in keys if not is_private(key))

    def _measure(self) -> Generator[None, None, int]:
        """How many blocks the present entries take."""
        blocks = 0
        for index, key in enumerate(self._keys()):
            if index % COPY_ENTRIES == 0:
                yield
            entry = self._store.describe(0, key)
            if entry is not None and len(entry.value) <= MAX_VALUE_BYTES:
                blocks += 1 << _order(len(key), len(entry.value))
        return blocks

    def _may_grow(self) -> bool:
        return self._generation is not None and self._generation.layout.size * 2 <= self._largest

    def _want_room(self) -> None:
        if self._work is None and self._may_grow() and time.monotonic() >= self._may_grow_at:
            self._begin(self._grow())

    def _has_come_free(self, blocks: int) -> None:
        self._freed += blocks
        is_enough = self._freed > self._heap.blocks // RETAKEN_PART
        if self._is_short and is_enough and self._work is None:
            self._begin(self._retake())

    def _take_in(self) -> Iterator[None]:
        """What has changed since came by `apply`."""
        for index, key in enumerate(self._keys()):
            if index % COPY_ENTRIES == 0:
                yield
            if not self._place_of(key):
                self._put_present(key)

    def _retake(self) -> Iterator[None]:
        """Gives those another chance that found no room or no slot."""
        self._is_short, self._freed = False, 0
        for index, key in enumerate(self._keys()):
            if index % COPY_ENTRIES == 0:
                yield
            if self._is_elsewhere(key) and not self._put_present(key):
                return  # it is full again

    def _is_elsewhere(self, key: str) -> bool:
        place = self._place_of(key)
        if place == _NOWHERE or key in self._slotless:
            return True
        generation = self._generation
        return (
            generation is not None
            and bool(generation.lost)
            and _word(crc32(key.encode()), place) in generation.lost
        )

    def _place_of(self, key: str) -> int:
        return self._places[crc32(key.encode()) >> SHARD_SHIFT].get(key, 0)

    def _put_present(self, key: str) -> bool:
        """False: there is no room for a value that might be here."""
        entry = self._store.describe(0, key)  # public keys are everybody's
        if entry is None or self._generation is None:
            return True
        self._put(self._generation, key, entry.value, entry.revision)
        return len(entry.value) > MAX_VALUE_BYTES or self._place_of(key) != _NOWHERE

    def _grow(self) -> Iterator[None]:
        """A generation of twice the size: the heap as it is, the table spread anew."""
        old = self._generation
        assert old is not None
        try:
            self._next = new = self._make(old.layout.size * 2)
        except OSError as error:
            log.warning("the shared memory stays at %d bytes: %s", old.layout.size, error)
            self._may_grow_at = time.monotonic() + RETRY_SECONDS
            return
        yield from self._copy_heap(old, new)
        yield from self._copy_table(old, new)
        self._switch(old, new)
        if self._is_short:
            yield from self._retake()

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
        self._is_short = self._is_short or bool(new.lost)
        new.words[SEQUENCE] = old.words[SEQUENCE]
        new.words[COUNT] = old.words[COUNT]
        self._count_outside(new)
        self._heap.blocks = new.blocks
        self._fence()
        self._generation = new
        # Before any further change, so that no reader takes the old values for the present ones.
        old.words[STATE] = RETIRED
        old.close()
        log.info("the shared memory has %d bytes now", new.layout.size)

    def _give_up_next(self) -> None:
        if self._next is not None:
            self._stop_work()
            self._next.close()
            self._next = None
            self._walked = 0

    # Work at the side

    def _begin(self, work: Iterator[None]) -> None:
        self._work = work
        self._timer = self._loop.call_later(0, self._work_on)

    def _work_on(self) -> None:
        assert self._work is not None
        until = time.perf_counter() + SLICE_SECONDS
        try:
            for _ in self._work:
                if time.perf_counter() > until:
                    self._timer = self._loop.call_later(PAUSE_SECONDS, self._work_on)
                    return
        except Exception:
            log.exception("the shared memory is given up")
            self._give_up()
            return
        self._work = self._timer = None
        if self._generation is not None and self._heap.is_filling:
            self._want_room()

    def _stop_work(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._work = self._timer = None


def _word(tag: int, place: int) -> int:
    """What a slot says of a key."""
    return tag << 32 | block_of(place)


def _order(key_bytes: int, value_bytes: int) -> int:
    """A record of these takes 1 << order blocks."""
    return ((RECORD_BYTES + key_bytes + value_bytes - 1) // BLOCK_BYTES).bit_length()

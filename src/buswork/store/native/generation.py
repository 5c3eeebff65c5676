"""One sealed memory, and the views through which its only writer stores into it."""

import fcntl
import logging
import mmap
import os
import threading
from contextlib import suppress

from buswork.store.native.heap import block_of
from buswork.store.wire.memory import (
    BLOCK_BYTES,
    COUNT_AT,
    FLOCK,
    FREED,
    LIVE,
    OUTSIDE_AT,
    SEQUENCE_AT,
    STATE_AT,
    encode_header,
    layout_for,
)

log = logging.getLogger(__name__)

# Not in Python 3.11's fcntl and os.
F_SEAL_FUTURE_WRITE = 0x10
MFD_NOEXEC_SEAL = 0x08
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL

# Of the words that change.
STATE = STATE_AT // 8
OUTSIDE = OUTSIDE_AT // 8
SEQUENCE = SEQUENCE_AT // 8
COUNT = COUNT_AT // 8

ZEROS = bytes(256 * 1024)


class Lost:
    """Words that found no slot, where whose they are is not known. Several keys may share one: the
    word of those with the same tag that are elsewhere."""

    def __init__(self) -> None:
        self._count: dict[int, int] = {}
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def __contains__(self, word: int) -> bool:
        return word in self._count

    def add(self, word: int) -> None:
        self._count[word] = self._count.get(word, 0) + 1
        self._total += 1

    def take(self, word: int) -> bool:
        """Whether one of them was it: then no slot is its key's."""
        count = self._count.pop(word, 0)
        if not count:
            return False
        if count > 1:
            self._count[word] = count - 1
        self._total -= 1
        return True


class Generation:
    """Its table and its heap; what is where, the writer knows."""

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
        self.lost = Lost()
        self.shift = layout.shift
        self._mask = layout.slots - 1
        header = encode_header(layout)
        self.memory[: len(header)] = header
        self.words[STATE] = LIVE

    def descriptor(self) -> int:
        """A new descriptor for a reader: one that was never open for writing, where possible."""
        try:
            return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # Without /proc. The seals refuse every write through this one too.
            log.info("no read-only descriptor to be had; the sealed one is handed out itself")
            return fcntl.fcntl(self._fd, fcntl.F_DUPFD_CLOEXEC, 3)

    def write(self, place: int, record: bytes) -> None:
        at = self.layout.heap_offset + block_of(place) * BLOCK_BYTES
        self.memory[at : at + len(record)] = record

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
        for at in range(layout.table_offset, layout.heap_offset, len(ZEROS)):
            end = min(layout.heap_offset, at + len(ZEROS))
            self.memory[at:end] = ZEROS[: end - at]
        self.lost = Lost()

    def close(self) -> None:
        """Lets go of it; the readers that have it keep it."""
        self.slots.release()
        self.words.release()
        self.memory.close()
        # Where no reader has it, this gives back every page: 10 ms for 64 MiB.
        thread = threading.Thread(target=os.close, args=[self._fd], name="release")
        try:
            thread.start()
        except RuntimeError:  # there are as many as may be
            os.close(self._fd)


def _memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    with suppress(OSError):  # before Linux 6.3
        return os.memfd_create("buswork-store", flags | MFD_NOEXEC_SEAL)
    return os.memfd_create("buswork-store", flags)


def _hold(fd: int) -> None:
    """A lock that goes with this process, by which readers can tell that it is alive."""
    everything = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, everything)

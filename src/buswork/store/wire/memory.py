"""The layout of the shared memory: bytes to values and back. docs/shared-memory.md says why.

    header   one page: what never changes, then the few words that do
    table    words of 64 bits, open addressing: the key's tag above, its block below
    heap     blocks of 64 bytes; a record lies in consecutive ones

    record   check 8 | revision 8, value length 4, key length 2, flags 2 | value | key

Everything is in the machine's own byte order: nobody else can see it.
"""

import platform
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from zlib import adler32, crc32

from buswork.store.wire.values import EMPTY, Json

MAGIC = b"mapipcSM"
VERSION = 1

# Where things are, in bytes. The words that change have cache lines of their own, so that
# a reader's line with the geometry and the state stays in its cache while the writer writes.
HEADER_BYTES = 4096
STATE_AT = 128
OUTSIDE_AT = 136
SEQUENCE_AT = 192
COUNT_AT = 200

# What the state says.
LIVE = 1
RETIRED = 2  # there is a newer generation: ask for a reader again
CLOSED = 3  # the daemon ended in good order, and the values with it

# One cache line: a lookup of a short key and value touches one of these and one of the table's.
BLOCK_BYTES = 64
# A probe costs a reader about a nanosecond. With at most half of the slots taken, no honest key
# needs a third of these; they bound what chosen keys and a spoilt table can cost.
MAX_PROBES = 128
# A page: what can be copied and checked in a microsecond. Longer values are fetched by Get.
MAX_VALUE_BYTES = 4096
MAX_KEY_BYTES = 1024

# A word of the table is 0 where no key has ever been (a search ends there), or a tag and a block.
FREED = 1 << 32  # a key was here: a search goes on
BLOCK_MASK = 0xFFFF_FFFF
ELSEWHERE = 1  # in place of a block: the key is set, its value is to be fetched by Get
FIRST_BLOCK = 2

RECORD_BYTES = 24
IS_JSON = 1  # a flag: the value is the JSON of something that is no text

# What a memory is at least: room for the header, the table of such a size, and the longest record.
MIN_SIZE = 64 * 1024
MAX_SIZE = 1 << 32

# Processors on which stores are seen in the order of the program, and loads are made in it. On any
# other, who writes and who reads takes a fence between what must not change places.
STRONGLY_ORDERED = platform.machine() in ("x86_64", "i686", "i386", "s390x")

# The kernel's struct flock: type, whence, start, length, process.
FLOCK = struct.Struct("hhqqi4x")

# Keys of this form are never in the memory.
_PRIVATE = re.compile(rb"~(0|[1-9][0-9]*)/")

_HEADER = struct.Struct("=8sII16sQQQQQQIIII")
_BODY = struct.Struct("=QIHH")
_RECORD = struct.Struct("=QQIHH")
_WORD = struct.Struct("=Q")


class BadLayout(ValueError):
    """These bytes are no such memory, or one of a version that we don't know."""


class Record(NamedTuple):
    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of one generation are."""

    epoch: bytes  # 16, the daemon's
    generation: int
    size: int
    slots: int
    table_offset: int
    heap_offset: int
    blocks: int
    max_probes: int = MAX_PROBES
    max_value: int = MAX_VALUE_BYTES
    max_key: int = MAX_KEY_BYTES

    @property
    def shift(self) -> int:
        """A key's search begins at slot `tag >> shift`."""
        return 33 - self.slots.bit_length()


def layout_for(
    size: int, epoch: bytes, generation: int, max_value: int = MAX_VALUE_BYTES
) -> Layout:
    """A quarter for the table: full of the shortest records, it has three slots for each."""
    slots = size // 4 // _WORD.size
    heap_offset = HEADER_BYTES + slots * _WORD.size
    blocks = (size - heap_offset) // BLOCK_BYTES
    return Layout(
        epoch, generation, size, slots, HEADER_BYTES, heap_offset, blocks, max_value=max_value
    )


def encode_header(layout: Layout) -> bytes:
    return _HEADER.pack(
        MAGIC,
        VERSION,
        HEADER_BYTES,
        layout.epoch,
        layout.generation,
        layout.size,
        layout.table_offset,
        layout.slots,
        layout.heap_offset,
        layout.blocks,
        BLOCK_BYTES,
        layout.max_probes,
        layout.max_value,
        layout.max_key,
    )


def decode_header(header: bytes, size: int) -> Layout:
    """The layout of a memory of this size; BadLayout unless each part lies within it."""
    if len(header) < _HEADER.size:
        raise BadLayout("the memory is shorter than its header")
    magic, version, header_bytes, epoch, generation, *rest = _HEADER.unpack_from(header)
    total, table_offset, slots, heap_offset, blocks, block_bytes, *limits = rest
    if magic != MAGIC:
        raise BadLayout("this is no memory of the store")
    if version != VERSION:
        raise BadLayout(f"the memory has layout {version}, this reader knows {VERSION}")
    _check_parts(size, total, header_bytes, table_offset, slots, heap_offset, blocks, block_bytes)
    max_probes, max_value, max_key = limits
    # They bound what a read costs, whoever made the memory.
    if not 1 <= max_probes <= min(slots, MAX_PROBES):
        raise BadLayout(f"a search is to look at {max_probes} slots")
    if not 1 <= max_key <= MAX_KEY_BYTES or max_value > MAX_VALUE_BYTES:
        raise BadLayout("the memory's keys or values are too long")
    return Layout(
        epoch,
        generation,
        size,
        slots,
        table_offset,
        heap_offset,
        blocks,
        max_probes,
        max_value,
        max_key,
    )


def _check_parts(
    size: int,
    total: int,
    header_bytes: int,
    table_offset: int,
    slots: int,
    heap_offset: int,
    blocks: int,
    block_bytes: int,
) -> None:
    if total != size or size > MAX_SIZE or header_bytes < SEQUENCE_AT + 64:
        raise BadLayout("the memory has not the size that it says")
    # Two slots at least: the search begins at the uppermost bits of the tag.
    if not 2 <= slots <= MAX_SIZE // 8 or slots & (slots - 1):
        raise BadLayout("the table has not a power of two of slots")
    if table_offset % 8 or not header_bytes <= table_offset <= size - slots * 8:
        raise BadLayout("the table is not within the memory")
    if block_bytes != BLOCK_BYTES or heap_offset % 8 or blocks > MAX_SIZE // BLOCK_BYTES:
        raise BadLayout("the heap has not the form that this reader knows")
    if not table_offset + slots * 8 <= heap_offset <= size - blocks * BLOCK_BYTES:
        raise BadLayout("the heap is not within the memory")


def tag_of(key: bytes) -> int:
    return crc32(key)


def is_private(key: bytes) -> bool:
    return _PRIVATE.match(key) is not None


def check_of(body: bytes, tag: int) -> int:
    """What a record begins with. Of two torn halves, both sums would have to be right."""
    return crc32(body, tag) | adler32(body) << 32


def stored(value: bytes) -> tuple[bytes, int]:
    """The value's bytes and flags. An empty string is a text here, as it is to mapipc."""
    if type(value) is not Json:
        return value, 0
    return (b"", 0) if value == EMPTY else (value, IS_JSON)


def encode_record(key: bytes, value: bytes, revision: int) -> bytes:
    # What every set of the daemon takes as soon as there is a reader: it calls little.
    flags = 0
    if type(value) is Json:
        value, flags = stored(value)
    body = _BODY.pack(revision, len(value), len(key), flags) + value
    return _WORD.pack(crc32(body, crc32(key)) | adler32(body) << 32) + body + key


def decode_record(memory: memoryview, layout: Layout, block: int) -> Record | None:
    """The record that begins at this block; None when there is none that is whole."""
    if not FIRST_BLOCK <= block < layout.blocks:
        return None
    at = layout.heap_offset + block * BLOCK_BYTES
    end = layout.heap_offset + layout.blocks * BLOCK_BYTES
    check, revision, value_bytes, key_bytes, flags = _RECORD.unpack_from(memory, at)
    value_at = at + RECORD_BYTES
    key_at = value_at + value_bytes
    if value_bytes > layout.max_value or key_bytes > layout.max_key or key_at + key_bytes > end:
        return None
    key = bytes(memory[key_at : key_at + key_bytes])
    if check != check_of(bytes(memory[at + 8 : key_at]), tag_of(key)):
        return None
    value = bytes(memory[value_at:key_at])
    try:
        return Record(key.decode(), Json(value) if flags & IS_JSON else value, revision)
    except UnicodeDecodeError:
        return None


def records(memory: memoryview, layout: Layout) -> Iterator[Record]:
    """Every whole record, as far as it does not change meanwhile."""
    end = layout.table_offset + layout.slots * 8
    with memory[layout.table_offset : end] as table, table.cast("Q") as slots:
        for word in slots:
            record = decode_record(memory, layout, word & BLOCK_MASK) if word else None
            if record is not None and tag_of(record.key.encode()) == word >> 32:
                yield record

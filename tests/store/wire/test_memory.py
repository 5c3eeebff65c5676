"""buswork.store.wire.memory: bytes and back, and bytes that are neither."""

import random
import struct
from zlib import adler32, crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buswork.store.wire.memory import (
    BLOCK_BYTES,
    HEADER_BYTES,
    MIN_SIZE,
    BadLayout,
    Layout,
    check_of,
    decode_header,
    decode_record,
    encode_header,
    encode_record,
    layout_for,
    records,
    tag_of,
)
from buswork.store.wire.values import EMPTY, Json

EPOCH = bytes(range(16))
SIZES = [MIN_SIZE << n for n in range(12)]


@pytest.mark.parametrize("size", SIZES)
def test_the_parts_lie_side_by_side(size: int) -> None:
    layout = layout_for(size, EPOCH, 1)
    assert layout.table_offset == HEADER_BYTES
    assert layout.heap_offset == layout.table_offset + layout.slots * 8
    assert layout.heap_offset % BLOCK_BYTES == 0
    assert 0 <= size - layout.heap_offset - layout.blocks * BLOCK_BYTES < BLOCK_BYTES
    assert 1 << (32 - layout.shift) == layout.slots
    assert 0xFFFF_FFFF >> layout.shift == layout.slots - 1


@pytest.mark.parametrize("size", SIZES)
def test_a_header_comes_back(size: int) -> None:
    layout = layout_for(size, EPOCH, 7, max_value=1000)
    assert decode_header(encode_header(layout), size) == layout


# Published in docs/shared-memory.md: whoever reads by that document depends on them.
FIELDS = {
    "magic": (0, "8s", b"mapipcSM"),
    "version": (8, "I", 1),
    "header": (12, "I", 4096),
    "epoch": (16, "16s", EPOCH),
    "generation": (32, "Q", 3),
    "size": (40, "Q", MIN_SIZE),
    "table": (48, "Q", 4096),
    "slots": (56, "Q", 2048),
    "heap": (64, "Q", 4096 + 2048 * 8),
    "blocks": (72, "Q", (65536 - 20480) // 64),
    "block bytes": (80, "I", 64),
    "probes": (84, "I", 128),
    "value": (88, "I", 4096),
    "key": (92, "I", 1024),
}


@pytest.mark.parametrize(("at", "form", "expected"), FIELDS.values(), ids=FIELDS)
def test_where_the_fields_are(at: int, form: str, expected: object) -> None:
    header = encode_header(layout_for(MIN_SIZE, EPOCH, 3))
    assert struct.unpack_from("=" + form, header, at) == (expected,)


def test_where_a_record_has_what() -> None:
    record = encode_record(b"key", b"value", 9)
    assert record[8:] == struct.pack("=QIHH", 9, 5, 3, 0) + b"value" + b"key"
    crc = crc32(record[8:29], crc32(b"key"))
    assert struct.unpack_from("=II", record) == (crc, adler32(record[8:29]))


WRONG = [
    ("magic", b"mapipcSN"),
    ("version", 2),
    ("version", 1 << 24),  # the other byte order
    ("header", 128),
    ("size", MIN_SIZE * 2),
    ("table", 4100),
    ("table", MIN_SIZE),
    ("table", 2**64 - 8),
    ("slots", 0),
    ("slots", 1),
    ("slots", 2047),
    ("slots", 1 << 63),
    ("heap", 4096),
    ("heap", 2**64 - 64),
    ("blocks", 2**58),
    ("blocks", (65536 - 20480) // 64 + 1),
    ("block bytes", 128),
    ("probes", 0),
    ("probes", 4096),
    ("key", 0),
    ("key", 65536),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_headers_that_are_refused(field: str, value: object) -> None:
    header = bytearray(encode_header(layout_for(MIN_SIZE, EPOCH, 3)))
    at, form, _ = FIELDS[field]
    struct.pack_into("=" + form, header, at, value)
    with pytest.raises(BadLayout):
        decode_header(bytes(header), MIN_SIZE)


def test_a_header_that_is_cut_off() -> None:
    with pytest.raises(BadLayout):
        decode_header(encode_header(layout_for(MIN_SIZE, EPOCH, 3))[:95], MIN_SIZE)


@given(st.binary(max_size=200), st.integers(0, 2**33))
def test_any_bytes_are_a_header_or_bad(header: bytes, size: int) -> None:
    with pytest.raises(BadLayout):
        decode_header(header, size)


@given(st.binary(min_size=40, max_size=56), st.integers(0, 55))
def test_any_header_that_is_taken_stays_inside(noise: bytes, at: int) -> None:
    header = bytearray(encode_header(layout_for(MIN_SIZE, EPOCH, 3)))
    header[40 + at : 40 + at + len(noise)] = noise
    try:
        layout = decode_header(bytes(header), MIN_SIZE)
    except BadLayout:
        return
    assert layout.table_offset + layout.slots * 8 <= layout.heap_offset
    assert layout.heap_offset + layout.blocks * BLOCK_BYTES <= MIN_SIZE


def memory_with(*records: tuple[str, bytes, int]) -> tuple[bytearray, Layout]:
    """A memory as the writer would fill it; each record in the block of its number, times 100."""
    layout = layout_for(MIN_SIZE, EPOCH, 1)
    memory = bytearray(MIN_SIZE)
    memory[:96] = encode_header(layout)
    for number, (key, value, revision) in enumerate(records, 1):
        put = encode_record(key.encode(), value, revision)
        at = layout.heap_offset + number * 100 * BLOCK_BYTES
        memory[at : at + len(put)] = put
        tag = tag_of(key.encode())
        slot = layout.table_offset + (tag >> layout.shift) * 8
        memory[slot : slot + 8] = struct.pack("=Q", tag << 32 | number * 100)
    return memory, layout


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    st.one_of(st.binary(max_size=4096), st.just(Json(b"[5]"))),
    st.integers(0, 2**64 - 1),
)
def test_a_record_comes_back(key: str, value: bytes, revision: int) -> None:
    memory, layout = memory_with((key, value, revision))
    record = decode_record(memoryview(memory), layout, 100)
    assert record == (key, value, revision)
    assert type(record.value) is type(value)
    assert list(records(memoryview(memory), layout)) == [record]


def test_an_empty_string_is_text() -> None:
    memory, layout = memory_with(("k", EMPTY, 1))
    record = decode_record(memoryview(memory), layout, 100)
    assert record is not None
    assert type(record.value) is bytes
    assert record.value == b""


@pytest.mark.parametrize("block", [0, 1, 2, 99, 101, 10**6, 2**32 - 1])
def test_where_no_record_is(block: int) -> None:
    memory, layout = memory_with(("k", b"v", 1))
    assert decode_record(memoryview(memory), layout, block) is None


@given(st.integers(0, 31), st.integers(1, 255))
def test_every_changed_byte_is_noticed(at: int, change: int) -> None:
    memory, layout = memory_with(("k", b"12345678", 1))
    memory[layout.heap_offset + 100 * BLOCK_BYTES + at] ^= change
    assert decode_record(memoryview(memory), layout, 100) is None


def test_both_halves_of_a_torn_record_are_noticed() -> None:
    """Whatever words of eight bytes are old and whatever are new."""
    old = encode_record(b"k", b"A" * 64, 1)
    new = encode_record(b"k", b"B" * 64, 2)
    words = len(old) // 8
    for mix in range(1, 2**words - 1):
        mixed = b"".join((new if mix >> n & 1 else old)[n * 8 : n * 8 + 8] for n in range(words))
        if mixed not in (old[: words * 8], new[: words * 8]):
            (check,) = struct.unpack_from("=Q", mixed)
            assert check != check_of(mixed[8:], tag_of(b"k"))


@given(st.integers(0, 2**32), st.integers(0, 400))
def test_spoilt_memories_are_read_to_their_end(seed: int, changes: int) -> None:
    memory, layout = memory_with(("k", b"v", 1), ("l", b"w" * 3000, 2))
    generator = random.Random(seed)
    for _ in range(changes):
        memory[generator.randrange(96, MIN_SIZE)] = generator.randrange(256)
    for record in records(memoryview(memory), layout):
        assert record.key

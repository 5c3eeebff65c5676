"""buswork.store.wire.kept: records, and logs that end in the middle of one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buswork.store.wire.kept import (
    MAGIC,
    Operation,
    Record,
    ValueKind,
    encode_record,
    is_whole,
    read_records,
)
from buswork.store.wire.values import Json

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
numbers = st.integers(0, 2**64 - 1)
puts = st.builds(
    Record,
    operation=st.just(Operation.PUT),
    key=texts,
    value=st.binary(),
    kind=st.sampled_from(ValueKind),
    uid=st.integers(0, 2**32 - 1),
    time_us=numbers,
    expires_us=numbers,
)
events = st.builds(Record, st.sampled_from([Operation.REMOVE, Operation.CLEAR, Operation.WHOLE]))


def encode(record: Record) -> bytes:
    value = Json(record.value) if record.kind == ValueKind.JSON else record.value
    facts = record.uid, record.time_us, record.expires_us
    return encode_record(record.operation, record.key, value, *facts)


@given(st.lists(puts | events))
def test_what_is_written_is_read(written: list[Record]) -> None:
    log = MAGIC + b"".join(map(encode, written))
    assert list(read_records(log)) == written


def test_a_log_cut_at_any_byte_has_the_records_before_the_cut() -> None:
    written = [Record(Operation.PUT, f"key {n}", b"x" * n, uid=n) for n in range(5)]
    log, ends = MAGIC, []
    for record in written:
        log += encode(record)
        ends.append(len(log))
    for cut in range(len(MAGIC), len(log) + 1):
        assert list(read_records(log[:cut])) == written[: sum(end <= cut for end in ends)]


def test_a_damaged_record_and_what_follows_it_is_left_out() -> None:
    first, second, third = (encode(Record(Operation.PUT, key, b"v")) for key in ("a", "b", "c"))
    for at in range(len(second)):
        damaged = bytearray(second)
        damaged[at] ^= 1
        log = MAGIC + first + bytes(damaged) + third
        assert [record.key for record in read_records(log)] == ["a"]


@pytest.mark.parametrize("log", [b"", b"something else", MAGIC[:-1], b"\0" * 100])
def test_what_is_no_log_has_no_records(log: bytes) -> None:
    assert list(read_records(log)) == []


def test_only_a_finished_log_is_whole() -> None:
    log = MAGIC + encode(Record(Operation.PUT, "a", b"v"))
    assert not is_whole(log)
    assert is_whole(log + encode(Record(Operation.WHOLE)))

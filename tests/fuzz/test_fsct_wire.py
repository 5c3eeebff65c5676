"""Anything at all for the FSCT wire: it accepts, or refuses with what it says it refuses with.

Devices are attackers, clients are strangers. BUSWORK_FUZZ_EXAMPLES=100000 makes it long: ten
times as many descriptors.
"""

import os
import random
from collections import Counter

import msgpack
import pytest
from fuzz.fsct_contracts import (
    BLOBS,
    FSCT,
    LINES,
    MESSAGES,
    SETS,
    read_answers,
    read_bos,
    read_set,
    serve_json,
    serve_messagepack,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buswork.fsct.wire import msgpackrpc
from buswork.fsct.wire.descriptors import BadDescriptor, Capability, Interface, find_interface

EXAMPLES = int(os.environ.get("BUSWORK_FUZZ_EXAMPLES", "60"))
DESCRIPTORS = max(100_000, 10 * EXAMPLES)
fuzz = settings(
    max_examples=5 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

# -- hostile devices -----------------------------------------------------------------------------


def spoilt(generator, data):
    """These bytes as they are, or altered in up to three places."""
    raw = bytearray(data)
    for _ in range(generator.choice((0, 0, 1, 1, 2, 3))):
        at = generator.randrange(len(raw) + 1)
        match generator.randrange(5):
            case 0 if at < len(raw):
                raw[at] = generator.randrange(256)
            case 1 if at < len(raw):
                raw[at] = generator.choice((0, 1, 2, 3, 4, 5, 17, 18, 0x7F, 0x80, 0xFE, 0xFF))
            case 2:
                del raw[at : at + generator.randrange(1, 6)]
            case 3:
                raw[at:at] = generator.randbytes(generator.randrange(1, 6))
            case 4:
                raw[at:at] = raw[at : at + generator.randrange(40)]
    return bytes(raw)


def some_bos(generator):
    capabilities = []
    for _ in range(generator.choice((0, 1, 1, 2, 3, 8))):
        match generator.randrange(4):
            case 0:
                kind, content = 5, FSCT + b"\x00\x01" + generator.randbytes(1)
            case 1:
                kind, content = 5, FSCT + generator.randbytes(generator.randrange(4))
            case 2:
                kind, content = 5, generator.randbytes(generator.randrange(15, 25))
            case _:
                kind, content = generator.randrange(256), generator.randbytes(3)
        capabilities.append(bytes((3 + len(content), 0x10, kind)) + content)
    rest = b"".join(capabilities)
    header = bytes((5, 0x0F)) + (5 + len(rest)).to_bytes(2, "little")
    return spoilt(generator, header + bytes((len(capabilities),)) + rest)


def some_set(generator):
    rest = b""
    for _ in range(generator.choice((0, 1, 1, 2, 3, 8))):
        match generator.randrange(4):
            case 0:
                fields = b"".join(
                    bytes((generator.choice((1, 2, 3, 4, 0x31, 0x77)),)) + generator.randbytes(2)
                    for _ in range(generator.randrange(6))
                )
                rest += bytes((3 + len(fields), 0x32, generator.randrange(6))) + fields
            case 1:
                image = generator.randbytes(4) + bytes((generator.randrange(9),))
                rest += b"\x07\x33" + image
            case 2:
                rest += b"\x05\x31" + generator.randbytes(3)
            case _:
                content = generator.randbytes(generator.randrange(6))
                rest += bytes((2 + len(content), generator.randrange(256))) + content
    total = (5 + len(rest)).to_bytes(2, "little")
    return spoilt(generator, b"\x05\x31" + total + generator.randbytes(1) + rest)


@pytest.mark.attack(27)
def test_hostile_descriptors():
    generator = random.Random(20250825)
    verdicts = Counter()
    for _ in range(DESCRIPTORS // 2):
        verdicts["BOS " + read_bos(some_bos(generator))] += 1
        verdicts["set " + read_set(some_set(generator))] += 1
    # The generators reach every end.
    ends = ("BOS accepted", "BOS NotFsct", "BOS Unsupported", "BOS BadDescriptor", "set accepted",
            "set BadDescriptor")  # fmt: skip
    assert min(verdicts[end] for end in ends) > DESCRIPTORS // 100, verdicts


def test_every_recorded_descriptor_cut_and_with_each_byte_altered():
    for blobs, read in ((BLOBS, read_bos), (SETS, read_set)):
        for blob in blobs:
            for at in range(len(blob)):
                read(blob[:at])
                for value in (0, 1, 2, 3, blob[at] ^ 1, blob[at] ^ 0x80, 0xFF):
                    read(blob[:at] + bytes((value,)) + blob[at + 1 :])


@fuzz
@given(st.binary(max_size=100))
def test_any_bytes_of_a_device(data):
    read_bos(data)
    read_set(data)
    read_answers(data)


@fuzz
@given(st.lists(st.builds(Interface, *[st.integers(0, 255)] * 4)), st.integers(0, 255))
def test_any_interfaces(interfaces, subclass):
    try:
        number = find_interface(interfaces, Capability(subclass))
    except BadDescriptor:
        return
    wanted = [i for i in interfaces if (i.interface_class, i.subclass) == (0xFF, subclass)]
    assert number == (min(wanted).number if wanted else None)


# -- strange clients -----------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32)
FOLLOWING = msgpackrpc.encode_request(6, "m", [])


def one_value(data):
    """The first value in these bytes, as the C library walks over it; None: it can't."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    try:
        unpacker.skip()
    except (ValueError, msgpack.OutOfData):
        return None
    return data[: unpacker.tell()]


def test_values_end_where_the_c_library_says():
    generator = random.Random(20250826)
    walked = 0
    for _ in range(max(30_000, EXAMPLES)):
        first = bytes((generator.randrange(0x80, 0x100),))
        size = generator.choice((2, 5, 20, 60))
        few = bytes(generator.choice((0, 0, 1, 2, 5)) for _ in range(4))
        value = one_value(first + few + generator.randbytes(size))
        if value is not None:
            walked += 1
            decoder = msgpackrpc.Decoder()
            decoder.feed(b"\x94\x00\x05\xa1m\x91" + value + FOLLOWING)
            assert decoder.next().msgid == 5, value.hex()
            assert decoder.next() == msgpackrpc.Request(6, "m", []), value.hex()
            assert not decoder.partial
    assert walked > 10_000


@fuzz
@given(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=4), SEEDS)
def test_altered_messages(messages, seed):
    generator = random.Random(seed)
    stream = b"".join(spoilt(generator, message) for message in messages)
    serve_messagepack(stream, generator)


@fuzz
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=4), SEEDS)
def test_altered_lines(lines, seed):
    generator = random.Random(seed)
    stream = b"".join(spoilt(generator, line) for line in lines)
    serve_json(stream, generator)


def test_many_altered_messages():
    generator = random.Random(20260101)
    for _ in range(max(10_000, EXAMPLES)):
        stream = b"".join(spoilt(generator, generator.choice(MESSAGES)) for _ in range(3))
        serve_messagepack(stream, generator)
        stream = b"".join(spoilt(generator, generator.choice(LINES)) for _ in range(2))
        serve_json(stream, generator)


@fuzz
@given(st.binary(max_size=300), SEEDS)
def test_any_bytes_of_a_client(data, seed):
    generator = random.Random(seed)
    serve_messagepack(data, generator)
    serve_json(data, generator)

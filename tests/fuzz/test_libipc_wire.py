"""Hostile peers of libipc: streams in both forms however they are cut, look-ups, typed payloads.

BUSWORK_FUZZ_EXAMPLES=100000 makes a million cases of each.
"""

import os
import random
from collections import Counter

import pytest
from fuzz.libipc_contracts import (
    REQUESTS,
    STREAMS,
    TYPED,
    read_name,
    read_request,
    read_stream,
    read_typed,
    read_uri,
)
from fuzz.spoiling import spoilt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buswork.libipc.wire.forms import Form, Message, encode, header_bytes, most_announced

EXAMPLES = int(os.environ.get("BUSWORK_FUZZ_EXAMPLES", "60"))
CASES = max(100_000, 10 * EXAMPLES)
fuzz = settings(
    max_examples=5 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

INTERESTING = (0, 1, 2, 3, 4, 5, 6, 7, 0x1E, 0x20, 0x2F, 0x3B, 0x7F, 0x80, 0x84, 0x98, 0xFF)


def cut(generator, data):
    """In pieces, most often few."""
    places = sorted(
        generator.randrange(len(data) + 1) for _ in range(generator.choice((0, 1, 2, 3, 9)))
    )
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def some_stream(generator, form):
    match generator.randrange(8):
        case 0:
            return generator.randbytes(generator.randrange(40))
        case 1:
            length = most_announced(form) + generator.choice((-7, -1, 0, 1, 2, 10**9))
            header = length.to_bytes(4, "big")
            return (b"\2" + header + b"\0" if form is Form.C else header) + bytes(20)
        case _:
            seeds = generator.choices(STREAMS[form], k=generator.choice((1, 1, 2, 3)))
            return b"".join(spoilt(generator, seed, INTERESTING) for seed in seeds)


@pytest.mark.parametrize("form", Form)
def test_hostile_streams(form):
    generator = random.Random(20190117)
    ends = Counter()
    for _ in range(CASES):
        pieces = cut(generator, some_stream(generator, form))
        most = generator.choice((None, None, None, 0, 9, 600, 2**32))
        ends[read_stream(form, pieces, most)] += 1
    # The generator reaches every end.
    assert min(ends[end] for end in ("whole", "waiting", "BadMessage")) > CASES // 100, ends


SHORT = {
    Form.C: encode(Form.C, Message(b"ab", 1)) + b"\2\0\0\0\0\0\2\0",
    Form.ZIG: b"\0\0\0\2ab" + b"\0\0\0\0" + b"\0\0\0\1c\0",
}


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("refused", [False, True])
def test_a_short_stream_in_every_way_to_cut_it(form, refused):
    stream = SHORT[form]
    if refused:
        stream = stream[: header_bytes(form) + 2] + b"\xff" * (header_bytes(form) + 1)
    for cuts in range(1 << (len(stream) - 1)):
        pieces, start = [], 0
        for at in range(1, len(stream)):
            if cuts >> (at - 1) & 1:
                pieces.append(stream[start:at])
                start = at
        pieces.append(stream[start:])
        assert read_stream(form, pieces) == ("BadMessage" if refused else "waiting")


@pytest.mark.parametrize("form", Form)
def test_every_recorded_stream_cut_and_with_each_byte_altered(form):
    for stream in {stream for stream in STREAMS[form] if len(stream) < 40}:
        for at in range(len(stream) + 1):
            read_stream(form, [stream[:at], stream[at:]])
            read_stream(form, [stream[:at]])
        for at in range(len(stream)):
            for value in {*INTERESTING, stream[at] ^ 1, stream[at] ^ 0x80}:
                read_stream(form, [stream[:at] + bytes((value,)) + stream[at + 1 :]])


@fuzz
@given(
    st.sampled_from(Form), st.lists(st.binary(max_size=60)), st.one_of(st.none(), st.integers(0))
)
def test_any_bytes_of_a_peer(form, pieces, most):
    read_stream(form, pieces, most)


# -- look-ups --------------------------------------------------------------------------------------


def test_hostile_requests():
    generator = random.Random(20190118)
    seeds = [request for request in REQUESTS if len(request) < 300] + [
        b"pong;pong unix://pong",
        b"a;a tcp://[::1]:80/x;b y",
        b"audio;audio tor://some.example.com/audio ;pong tls://pong.example.com/pong",
    ]
    ends = Counter()
    for _ in range(CASES // 2):
        ends[read_request(spoilt(generator, generator.choice(seeds), INTERESTING, 4))] += 1
    wanted = ("BadRequest", "target: BadRequest", "elsewhere", "uri", "endpoint")
    assert min(ends[end] for end in wanted) > CASES // 1000, ends


@fuzz
@given(st.one_of(st.binary(), st.text().map(lambda text: text.encode(errors="replace"))))
def test_any_bytes_of_a_client(data):
    read_request(data)
    read_request(b"a;a " + data)
    read_name(data)


@fuzz
@given(st.one_of(st.text(), st.text(alphabet="ab:/0159[].-;é \n")))
def test_any_uri(text):
    read_uri(text)
    read_uri(f"a://{text}")


def test_a_request_full_of_entries_is_read_in_no_time():
    """What is slow here would be slow for everybody."""
    assert read_request(b"a;" + b"a unix://b;" * 11_000) == "uri"
    assert read_request(b"a;" + b";" * 130_000) == "elsewhere"
    assert read_request(b"a;" + b" " * 130_000) == "elsewhere"
    assert read_request(b"a;a b" + b":" * 130_000) == "target: BadRequest"


# -- typed payloads --------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["json", "cbor"])
def test_hostile_objects(codec):
    generator = random.Random(20190119)
    ends = Counter()
    for _ in range(CASES // 2):
        ends[read_typed(codec, spoilt(generator, generator.choice(TYPED[codec]), INTERESTING))] += 1
    wanted = ("BadTyped", "Leaf", "Branch", "dict")
    assert min(ends[end] for end in wanted) > CASES // 1000, ends


@fuzz
@given(st.sampled_from(["json", "cbor"]), st.binary(max_size=90))
def test_any_bytes_for_an_object(codec, payload):
    read_typed(codec, payload)
    for number in range(3):
        read_typed(codec, bytes((number,)) + payload)

import random
import time
from itertools import pairwise

import msgpack
import pytest
from fsct.wire.vectors import recorded, vectors
from hypothesis import given
from hypothesis import strategies as st

from buswork.fsct.wire.methods import encode_result, error_text, parse_params
from buswork.fsct.wire.msgpackrpc import (
    MAX_CONTAINERS,
    MAX_VALUES,
    Decoder,
    Notification,
    Refused,
    Request,
    Response,
    encode_error,
    encode_request,
    encode_response,
)
from buswork.fsct.wire.protocol import MAX_MESSAGE_BYTES, VERSION, Broken

VERSION_REQUEST = encode_request(7, "get_protocol_version", [])
VERSION_MESSAGE = Request(7, "get_protocol_version", [])


def messages(data):
    """All messages of a stream; the last is Broken if it is."""
    decoder = Decoder()
    decoder.feed(data)
    found = []
    try:
        while (message := decoder.next()) is not None:
            found.append(message)
    except Broken as broken:
        found.append(broken)
    return found


class Driver:
    """As much of a driver as the recorded requests need."""

    def __init__(self):
        self.players = {}

    def answer(self, message):
        if isinstance(message, Refused):
            return encode_error(*message)
        try:
            args = parse_params(message.method, message.params)
            result = getattr(self, message.method, self._update)(*args)
        except LookupError as error:
            return encode_error(message.msgid, error_text(message.method, error.args[0]))
        except ValueError as error:
            return encode_error(message.msgid, str(error))
        return encode_response(message.msgid, encode_result(result))

    def get_protocol_version(self):
        return VERSION

    def register_player(self, self_id):
        self.players[len(self.players) + 1] = self_id
        return len(self.players)

    def get_preferred_player(self):
        return None

    def get_player_assigned_device(self, player_id):
        return self._update(player_id)

    def _update(self, player_id, *args):
        if player_id is not None and player_id not in self.players:
            raise LookupError("Player not found")


# Where the original was silent, took what it ought not to, or refused what may be taken.
SKIPPED = None
OURS = {
    "version params as map (not array)": [1, "invalid request: its params must be array"],
    "method as bin": [1, "invalid request: its method must be string"],
    "method raw str invalid utf8": [1, "invalid request: its method must be string"],
    "2-element array": [1, "invalid request: it has no method or no params"],
    "empty array": SKIPPED,
    "top-level map": SKIPPED,
    "type 3": SKIPPED,
    "type as string": SKIPPED,
    "msgid negative": [-1, "invalid request: its msgid is negative"],
    "msgid string": SKIPPED,
    "msgid 2^32+5 (u64)": [2**32 + 5, None, {"major": 1, "minor": 0}],
    "status pid 2^32+1 (wraps to 1)": [41, "invalid player_id: must be at most 4294967295"],
    "status pid 2^32 (wraps to 0)": [42, "invalid player_id: must be at most 4294967295"],
    "status string": [45, None, None],
    "meta id 0x101 (wraps)": [55, "invalid text metadata id: 257"],
    "assign did str uuid": [82, None, None],
    "QUEUE title on player 1": [
        97,
        "invalid text metadata id: 49 is a text of the queue, which is not sent",
    ],
    "after: status": [98, None, None],
}
ENDS = {
    "array32 len 2^31 header only": b"",
    "str32 len 4GiB header only": encode_error(
        1, "invalid request: a message has 1048576 bytes at the most"
    ),
}


def test_every_malformed_message_is_answered_skipped_or_ends_its_connection():
    driver = Driver()
    cases = recorded("msgpack_rpc_malformed")["cases"]
    assert {*OURS, *ENDS} <= {case["label"] for case in cases}
    for case in cases:
        label = case["label"]
        found = messages(bytes.fromhex(case["request_hex"]) + VERSION_REQUEST)
        if label in ENDS:
            (broken,) = found
            assert isinstance(broken, Broken), label
            assert broken.answer == ENDS[label]
            continue
        assert found.pop() == VERSION_MESSAGE, label  # the next request is never harmed
        answers = [driver.answer(m) for m in found if not isinstance(m, Response)]
        if label not in OURS:
            assert b"".join(answers).hex() == case["response_hex"], label
        elif OURS[label] is SKIPPED:
            assert answers == [], label
        else:
            msgid, error, *result = OURS[label]
            assert answers == [msgpack.packb([1, msgid, error, *(result or [None])])], label


@pytest.mark.parametrize("vector", vectors("msgpack_rpc_methods"), ids=lambda v: v["label"])
def test_recorded_messages_are_made_byte_for_byte(vector):
    request, response = (bytes.fromhex(vector[n]) for n in ("request_hex", "response_hex"))
    (found,) = messages(request)
    assert found == Request(vector["msgid"], vector["method"], found.params)
    assert encode_request(*found) == request
    (answer,) = messages(response)
    assert isinstance(answer, Response)
    if answer.error is None:
        assert encode_response(answer.msgid, answer.result) == response
    else:
        assert encode_error(answer.msgid, answer.error) == response


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text(max_size=40) | st.binary(max_size=40)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
)  # fmt: skip
KEYS = st.text(max_size=5) | st.integers(-5, 300) | st.binary(max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(KEYS, inner, max_size=20),
    max_leaves=12,
)
MSGIDS = st.integers(0, 2**64 - 1)
MESSAGES = st.one_of(
    st.builds(Request, MSGIDS, st.text(max_size=40), st.lists(VALUES, max_size=4)),
    st.builds(Notification, st.text(max_size=40), st.lists(VALUES, max_size=4)),
    st.builds(Response, MSGIDS, st.text(), st.none()),
    st.builds(Response, MSGIDS, st.none(), VALUES),
)


def encode(message):
    match message:
        case Request():
            return encode_request(*message)
        case Notification():
            return msgpack.packb([2, *message])
        case Response(msgid, None, result):
            return encode_response(msgid, result)
        case Response(msgid, error, None):
            return encode_error(msgid, error)
    raise AssertionError(message)


@given(st.lists(MESSAGES, max_size=5), st.data())
def test_messages_come_through_in_any_pieces(sent, data):
    stream = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    decoder, received = Decoder(), []
    for begin, end in pairwise([0, *cuts, len(stream)]):
        decoder.feed(stream[begin:end])
        while (message := decoder.next()) is not None:
            received.append(message)
    assert received == sent
    assert not decoder.partial


@given(st.lists(VALUES.filter(lambda value: type(value) is not list), max_size=5))
def test_values_that_are_no_message_are_skipped(values):
    stream = b"".join(map(msgpack.packb, values))
    assert messages(stream + VERSION_REQUEST) == [VERSION_MESSAGE]


@given(st.binary(max_size=300), st.integers(1, 50))
def test_pieces_make_no_difference(data, size):
    """Not even to garbage: the same messages, the same end."""
    decoder, found, ended = Decoder(), [], False
    try:
        for at in range(0, len(data), size):
            decoder.feed(data[at : at + size])
            while (message := decoder.next()) is not None:
                found.append(message)
    except Broken:
        ended = True
    whole = messages(data)
    assert ended == (bool(whole) and isinstance(whole[-1], Broken))
    assert repr(found) == repr(whole[:-1] if ended else whole)


def test_each_form_of_a_length_is_walked_over():
    forms = [
        "c4 02 0000", "c5 0002 0000", "c6 00000002 0000", "c7 02 05 0000", "c8 0002 05 0000",
        "c9 00000002 05 0000", "ca 00000000", "cb 0000000000000000", "cc 00", "cd 0000",
        "ce 00000000", "cf 0000000000000000", "d0 00", "d1 0000", "d2 00000000",
        "d3 0000000000000000", "d4 05 00", "d5 05 0000", "d6 05 00000000",
        "d7 05 0000000000000000", "d8 05 00000000000000000000000000000000", "d9 02 6161",
        "da 0002 6161", "db 00000002 6161", "dc 0002 00 00", "dd 00000002 00 00",
        "de 0001 00 00", "df 00000001 00 00", "81 00 00", "92 00 00", "a2 6161", "00", "ff",
        "c0", "c2", "c3", "80", "90", "a0",
    ]  # fmt: skip
    for form in map(bytes.fromhex, forms):
        value = msgpack.unpackb(form, strict_map_key=False)
        request = b"\x94\x00\x05\xa1m\x91" + form
        assert messages(request + VERSION_REQUEST) == [Request(5, "m", [value]), VERSION_MESSAGE]
        for cut in range(len(form)):
            decoder = Decoder()
            decoder.feed(request[: len(request) - len(form) + cut])
            assert decoder.next() is None
            decoder.feed(request[len(request) - len(form) + cut :])
            assert decoder.next() == Request(5, "m", [value])


@pytest.mark.parametrize("lone", [b"\xc1", b"\x01\x02\x03", b"\xc1" * 5 + b"\x80\x90\xa0\xc0\xff"])
def test_single_bytes_between_messages_are_skipped(lone):
    """0xc1 too, as the original does."""
    decoder = Decoder()
    decoder.feed(VERSION_REQUEST + lone + VERSION_REQUEST + lone)
    assert [decoder.next(), decoder.next(), decoder.next()] == [*[VERSION_MESSAGE] * 2, None]


def test_a_byte_that_means_nothing_ends_a_message_and_its_connection():
    broken = messages(VERSION_REQUEST + b"\x94\x00\x09\xa1m\x91\xc1" + VERSION_REQUEST)
    assert broken[0] == VERSION_MESSAGE
    assert len(broken) == 2
    answer = encode_error(9, "invalid request: the byte 0xc1 means nothing")
    assert broken[1].answer == answer
    assert messages(b"\x91\xc1")[0].answer == b""


@pytest.mark.parametrize("depth", [100, 2000, 20_000, 200_000])
def test_nesting_is_walked_over(depth):
    """What killed or wedged the original: section f, fault 9."""
    assert messages(b"\x91" * depth + b"\xc0" + VERSION_REQUEST) == [VERSION_MESSAGE]
    request = b"\x94\x00\x05\xa1m\x91" + b"\x91" * depth + b"\xc0"
    refused, following = messages(request + VERSION_REQUEST)
    assert refused == Refused(5, "invalid request: it has too many values")
    assert following == VERSION_MESSAGE


@pytest.mark.parametrize(
    ("params", "taken"),
    [
        ([0] * (MAX_VALUES - 5), True),
        ([0] * (MAX_VALUES - 4), False),
        ([[0]] * (MAX_CONTAINERS - 2), True),
        ([[0]] * (MAX_CONTAINERS - 1), False),
        ([{0: 0}] * (MAX_CONTAINERS - 1), False),
        ([[]] * 200, True),
    ],
)
def test_how_much_a_request_may_hold(params, taken):
    (found,) = messages(encode_request(5, "m", params))
    assert isinstance(found, Request if taken else Refused)
    notified = messages(msgpack.packb([2, "m", [params] * 3]) + VERSION_REQUEST)
    assert notified[-1] == VERSION_MESSAGE


@pytest.mark.parametrize("head", [[1, 5, None], [2, 5], [3, 5], [0, None], [0.0, 5], [False, 5]])
def test_nobody_waits_for_an_answer_to_other_messages_that_hold_too_much(head):
    data = msgpack.packb([*head, [0] * 1000])
    assert messages(data + VERSION_REQUEST) == [VERSION_MESSAGE]


def test_the_longest_message():
    room = MAX_MESSAGE_BYTES - len(encode_request(5, "m", ["x" * 70_000])) + 70_000
    (found,) = messages(encode_request(5, "m", ["x" * room]))
    assert len(found.params[0]) == room
    (broken,) = messages(encode_request(5, "m", ["x" * (room + 1)]))
    assert isinstance(broken, Broken)
    (answer,) = messages(broken.answer)
    assert answer.msgid == 5
    assert "1048576" in answer.error


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\x00\x10\x00\x01",
        b"\xdf\x00\x08\x00\x01",
        b"\xc6\x00\x10\x00\x00",
        b"\xc9\xff\xff\xff\xff",
        b"\x91" * (MAX_MESSAGE_BYTES + 1),
        b"\x92\x00" * (MAX_MESSAGE_BYTES // 2 + 1),
    ],
)
def test_a_message_that_would_be_too_long_ends_at_once(data):
    (broken,) = messages(data)
    assert isinstance(broken, Broken)
    assert broken.answer == b""


def test_after_the_end_there_is_no_more():
    decoder = Decoder()
    decoder.feed(b"\x91\xc1")
    for _ in range(3):
        with pytest.raises(Broken):
            decoder.next()
        decoder.feed(VERSION_REQUEST)


@pytest.mark.parametrize(
    "value",
    [
        "81 90 00",  # a key that can't be one
        "d7ff ffffffff 00000000",  # a time that is none
        "c7 05 ff 0000000000",
    ],
)
def test_what_python_can_not_hold_is_refused(value):
    request = b"\x94\x00\x05\xa1m\x91" + bytes.fromhex(value)
    refused, following = messages(request + VERSION_REQUEST)
    assert refused == Refused(5, "invalid request: it has a value that can't be read")
    assert following == VERSION_MESSAGE
    assert messages(bytes.fromhex(value) + VERSION_REQUEST) == [VERSION_MESSAGE]


@pytest.mark.parametrize(
    "message",
    [
        [], [None], [0], [0, None, "m", []], [0, 1.0, "m", []], [0, True, "m", []], [False, 1],
        [0.0, 1, "m", []], [1], [1, 1, None], [1, "1", None, None], [2], [2, "m"], [2, b"m", []],
        [2, "m", {}], [2, 1, []], [3, 1, "m", []], [-1, 1, "m", []], {0: 1}, "x", 5, b"x", 1.5,
    ],
)  # fmt: skip
def test_other_values_are_no_message(message):
    decoder = Decoder()
    decoder.feed(msgpack.packb(message) + VERSION_REQUEST)
    assert decoder.next() == VERSION_MESSAGE


def test_more_than_four_elements_are_taken_as_the_original_takes_them():
    data = msgpack.packb([0, 1, "m", [], 9]) + msgpack.packb([2, "m", [], 9])
    assert messages(data) == [Request(1, "m", []), Notification("m", [])]


def test_the_work_grows_with_the_bytes_alone():
    """In pieces of few bytes, a long message takes no more than so many short ones."""

    def seconds(data, size):
        decoder, begin = Decoder(), time.perf_counter()
        for at in range(0, len(data), size):
            decoder.feed(data[at : at + size])
            decoder.next()
        return time.perf_counter() - begin

    long = encode_request(1, "m", ["x" * 1_000_000])
    nested = b"\x91" * 500_000
    assert seconds(long, 20) < 5
    assert seconds(nested, 20) < 5
    assert seconds(VERSION_REQUEST * 40_000, 1 << 20) < 5


def test_read_bytes_do_not_pile_up():
    decoder, generator = Decoder(), random.Random(4)
    stream = VERSION_REQUEST * 20_000
    at, found = 0, 0
    while at < len(stream):
        size = generator.randrange(1, 3000)
        decoder.feed(stream[at : at + size])
        at += size
        while decoder.next() is not None:
            found += 1
        assert decoder.buffered < 3000 + len(VERSION_REQUEST)
    assert found == 20_000


def test_nothing_is_kept_of_what_was_read():
    decoder, long = Decoder(), encode_request(5, "m", ["x" * 100_000])[:-1]
    decoder.feed(long)
    assert decoder.next() is None
    assert decoder.buffered == len(long)
    decoder.feed(b"x")
    assert decoder.next() is not None
    assert decoder.next() is None
    assert decoder.buffered == 0
    decoder.feed(long)
    decoder.clear()
    assert decoder.buffered == 0
    assert not decoder.partial

import json
import random

import pytest
from appview.wire.vectors import answered, asked, every, recorded

from buswork.appview.wire.frames import (
    FRAME_BYTES,
    MOST_REQUEST_BYTES,
    AnswerJoiner,
    BadFrame,
    Joined,
    OtherAnswer,
    RefusedFrame,
    RequestJoiner,
    Status,
    answer_frames,
    fault_frames,
    first_object,
    request_frames,
)

EVERY = every()
# Requests that the original client, or a script that does as it does, has cut.
AS_WE_DO = sorted(
    name
    for name, vector in EVERY.items()
    if asked(vector) and name.startswith(("01", "04", "07", "08", "09"))
    and not name.startswith("04/error")
)  # fmt: skip
# In these it is time that passed, or nobody read, or a script that answered.
ANSWERED = sorted(
    name
    for name, vector in EVERY.items()
    if asked(vector)
    and not name.startswith("10/go_client")
    and name.split("/")[1]
    not in ("partial_then_nothing", "late_second_frame_200ms", "reader_too_slow", "ipc_disabled",
            "no_trailing_nul_single", "protocol_same_name_crash")
)  # fmt: skip


def joined(frames):
    """All requests that the process finds in these."""
    found, joiner = [], RequestJoiner()
    for frame in frames:
        request = joiner.feed(frame)
        if request is not None:
            found.append(request)
            joiner = RequestJoiner()
    return found


def payloads(frames, uniqs):
    """The payloads of the answers, or what was said instead, each to the next of uniqs."""
    found, rest = [], iter(uniqs)
    joiner = None
    for frame in frames:
        joiner = joiner or AnswerJoiner(next(rest))
        try:
            payload = joiner.feed(frame)
        except RefusedFrame as refused:
            payload = refused.status
        if payload is not None:
            found.append(payload)
            joiner = None
    return found


# -- as recorded ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AS_WE_DO)
def test_requests_are_cut_as_the_original_does(name):
    vector = EVERY[name]
    for request in joined(asked(vector)):
        frames = request_frames(
            request.payload, request.uniq, vector.get("in_msgsize", FRAME_BYTES)
        )
        assert all(frame in asked(vector) for frame in frames)
    total = sum(len(list(request_frames(r.payload, r.uniq))) for r in joined(asked(vector)))
    assert total == len(asked(vector))


@pytest.mark.parametrize("name", ANSWERED)
def test_the_process_answers_as_the_real_one(name):
    vector = EVERY[name]
    requests = joined(asked(vector))
    answers = payloads(answered(vector), [request.uniq for request in requests])
    size = vector.get("out_msgsize", FRAME_BYTES)
    frames = []
    for request, answer in zip(requests, answers, strict=False):
        if request.fault:
            assert answer == request.fault
            frames += fault_frames(request, size)
        else:
            frames += answer_frames(answer, request.uniq, size)
    assert frames == answered(vector)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("ok", None),
        ("two_frames", None),
        ("meta_only_400", RefusedFrame),
        ("wrong_uniq", OtherAnswer),
        ("remain_rises", BadFrame),
        ("remain_lies", BadFrame),
        ("no_remain", BadFrame),
        ("empty_message", BadFrame),
        ("garbage", BadFrame),
        ("trailing_nul", BadFrame),
    ],
)
def test_answers_of_a_script(name, outcome):
    vector = recorded("10")[f"go_client_reads_{name}"]
    joiner = AnswerJoiner(7943)
    *first, last = answered(vector)
    assert [joiner.feed(frame) for frame in first] == [None] * len(first)
    if outcome is None:
        assert json.loads(joiner.feed(last)) == {"status": 200, "viewed": True}
    else:
        with pytest.raises(outcome):
            joiner.feed(last)


def test_a_stale_answer_is_nobodys():
    stale, own = answered(recorded("10")["stale_answer"])
    joiner = AnswerJoiner(2)
    with pytest.raises(OtherAnswer):
        joiner.feed(stale)
    assert b'"pid":14600' in joiner.feed(own)


# -- requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_bytes", [48, 64, 1000, FRAME_BYTES])
def test_a_request_fills_its_frames(frame_bytes):
    payload = bytes(random.Random(1).choices(b"abc", k=10_000))
    frames = list(request_frames(payload, 7, frame_bytes))
    assert {len(frame) for frame in frames[:-1]} == {frame_bytes}
    assert joined(frames) == [Joined(7, payload)]


def test_the_longest_request():
    payload = b"x" * MOST_REQUEST_BYTES
    frames = list(request_frames(payload, 9))
    assert len(frames) == 129
    assert joined(frames) == [Joined(9, payload)]
    with pytest.raises(BadFrame, match="1048576"):
        request_frames(payload + b"x", 9)


def test_the_process_joins_no_more():
    frames = list(request_frames(b"x" * MOST_REQUEST_BYTES, 9))
    frames[-1] = frames[-1][:-1] + b"x\0"
    assert joined(frames) == [Joined(9, fault=Status.BAD)]


@pytest.mark.parametrize(
    ("payload", "uniq", "frame_bytes"),
    [(b"", 1, 8192), (b"a\0b", 1, 8192), (b"a", -1, 8192), (b"a", 2**31, 8192), (b"a", 1, 31)],
)
def test_what_can_not_be_asked(payload, uniq, frame_bytes):
    with pytest.raises(BadFrame):
        request_frames(payload, uniq, frame_bytes)


def test_a_next_frame_that_does_not_come():
    joiner = RequestJoiner()
    first, _ = asked(EVERY["05/two_frames"])
    assert joiner.feed(first) is None
    late = joiner.failed(Status.FAILED)
    assert fault_frames(late, 8192) == answered(EVERY["05/partial_then_nothing"])


def test_a_frame_without_its_last_nul_loses_a_byte():
    frames = [frame[:-1] for frame in request_frames(b"abcdef", 1, 40)]
    (request,) = joined(frames)
    assert len(request.payload) == 6 - (len(frames) - 1)


# -- answers ---------------------------------------------------------------------------------------


def test_an_answer_cut_to_any_size():
    payload = bytes(random.Random(2).choices(b"abc", k=300))
    for frame_bytes in range(41, 400):
        frames = answer_frames(payload, 7, frame_bytes)
        assert max(map(len, frames)) <= frame_bytes
        assert payloads(frames, [7]) == [payload]


def frame(status=200, uniq=7, remain=2, part=b"{}"):
    head = json.dumps({"status": status, "uniq": uniq, "remain": remain}, separators=(",", ":"))
    return head.encode() + b"\0" + part


@pytest.mark.parametrize(
    "frames",
    [
        [frame(206, remain=4), frame(206, remain=4)],  # equal is an error
        [frame(206, remain=4), frame(200, remain=3)],
        [frame(206, remain=2)],  # nothing is left for a next one
        [frame(206, remain=2, part=b"")],
        [frame(206, remain=4), frame(206, remain=2)],  # the same of a later one
        [frame(206, remain=4), frame(206, remain=2, part=b"")],
        [frame(206, remain=4), frame(206, remain=2, part=b"{}}")],
        [frame(200, remain=3)],
        [frame(200, remain=-2)],
        [frame(200, remain=1)],
        [frame(206, remain=1 << 30)],
        [frame(206, remain=4), frame(200, uniq=8)],
        [frame(status="200")],
        [frame(status=True)],
        [frame(uniq=7.0)],
        [b'{"status":200,"uniq":7}\0{}'],
        [b"[]\0{}"],
        [b'{"status":200,"uniq":7,"remain":2,"x":"%b"}\0{}' % (b"x" * 256)],
        [b'{"status":NaN,"uniq":7,"remain":2}\0{}'],
        [b'{"status":200,"uniq":07,"remain":2}\0{}'],  # no JSON, if nearly as usual
        [b'{"status":200,"uniq":7,"remain":02}\0{}'],
        [b"[" * 100_000],
        [b"\xff\xff"],
    ],
)
def test_what_is_no_answer(frames):
    joiner = AnswerJoiner(7)
    *first, last = frames
    assert [joiner.feed(each) for each in first] == [None] * len(first)
    with pytest.raises(BadFrame):
        joiner.feed(last)


@pytest.mark.parametrize("status", [4, 400, 500, 501, 201, 0])
def test_a_status_that_is_none_of_an_answer(status):
    with pytest.raises(RefusedFrame) as refused:
        AnswerJoiner(7).feed(frame(status, remain=0, part=b""))
    assert refused.value.status == status


def test_an_empty_answer_is_one():
    assert AnswerJoiner(7).feed(frame(200, remain=0, part=b"")) == b""


def test_what_nobody_could_understand_is_answered_to_nobody():
    with pytest.raises(OtherAnswer):
        AnswerJoiner(7).feed(b'{"status":400,"uniq":-1,"remain":0}')


def test_of_two_members_of_one_name_the_first_counts():
    assert first_object(b' {"a":1,"b":2,"a":3} and more') == {"a": 1, "b": 2}

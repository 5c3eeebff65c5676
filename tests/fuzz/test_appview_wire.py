"""Anything at all for the wire of viewed processes: it reads it, or refuses as it says it does.

Processes are attackers, and so are those who send configurations. BUSWORK_FUZZ_EXAMPLES=100000
makes it long: a million frames, configurations and answers each.
"""

import json
import os
import random
from collections import Counter
from functools import cache

import pytest
from appview.wire.vectors import answered, asked, every

from buswork.appview.wire import requests
from buswork.appview.wire.configuration import (
    DEFAULTS,
    SHAPE,
    Died,
    Unusable,
    applied,
    check,
    merged,
    parsed,
    replacement,
)
from buswork.appview.wire.frames import (
    MOST_REQUEST_BYTES,
    MOST_UNIQ,
    NO_UNIQ,
    AnswerJoiner,
    BadFrame,
    OtherAnswer,
    RefusedFrame,
    RequestJoiner,
    Status,
    answer_frames,
    fault_frames,
    request_frames,
)
from buswork.appview.wire.requests import BadAnswer, Refused
from buswork.appview.wire.shapes import Choice, Each

EXAMPLES = int(os.environ.get("BUSWORK_FUZZ_EXAMPLES", "60"))
CASES = max(15_000, 10 * EXAMPLES)
MOST_ANSWER = 200

ASKED = sorted({frame for each in every().values() for frame in asked(each) if len(frame) < 2000})
ANSWERED = sorted(
    {frame for each in every().values() for frame in answered(each) if len(frame) < 2000}
)
WORDS = (b"{", b"}", b"[", b"]", b'"', b":", b",", b"\0", b" ", b"-1", b"0", b"1e3", b"206",
         b"200", b'"uniq":', b'"remain":', b'"req":', b'"status":', b"null", b"true", b"\\u0000",
         b"\\ud800", b"\xff", b"1e999", b"9" * 20, b"2147483648", b'"a"', b"[" * 40)  # fmt: skip


def spoilt(generator, data, most=3):
    """These bytes as they are, or altered in some places."""
    raw = bytearray(data)
    for _ in range(generator.randrange(most + 1)):
        at = generator.randrange(len(raw) + 1)
        match generator.randrange(5):
            case 0 if at < len(raw):
                raw[at] = generator.randrange(256)
            case 1:
                del raw[at : at + generator.randrange(1, 6)]
            case 2:
                raw[at:at] = generator.choice(WORDS)
            case 3:
                del raw[at:]
            case 4 if at < len(raw) and chr(raw[at]).isdigit():
                raw[at] = generator.choice(b"0123456789-")
    return bytes(raw)


# -- answers ---------------------------------------------------------------------------------------


# Of two members with one name, the first counts.
DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: dict(reversed(pairs)))


def some_answer(generator, uniq):
    """Frames of an answer, most of them as they should be."""
    if not generator.randrange(4):
        count = generator.randrange(1, 4)
        return [spoilt(generator, generator.choice(ANSWERED)) for _ in range(count)]
    payload = generator.choice((b'{"status":200}', generator.randbytes(generator.randrange(300))))
    number = uniq if generator.randrange(8) else generator.choice((uniq + 1, NO_UNIQ, 7943))
    frames = answer_frames(payload, number, generator.choice((41, 48, 60, 100, 8192)))
    if not generator.randrange(3):
        frames = [frame.replace(b'"remain":', b'"remain":1', 1) for frame in frames]
    match generator.randrange(4):
        case 0:
            generator.shuffle(frames)
        case 1:
            frames = frames[generator.randrange(2) : generator.randrange(1, len(frames) + 2)]
        case 2:
            frames = [spoilt(generator, frame, 1) for frame in frames]
    return frames


def named(error, most, *words):
    """Contract: a failure says what is wrong, and no more than people read."""
    assert 5 < len(str(error)) < most, error
    assert all(word in str(error) for word in words)
    return type(error).__name__


def join(frames, uniq):
    """Contract: a payload as long as its first frame said, or one of three errors."""
    joiner = AnswerJoiner(uniq, MOST_ANSWER)
    announced = taken = 0
    for frame in frames:
        try:
            payload = joiner.feed(frame)
        except OtherAnswer:
            assert taken == 0, "a part of it was taken already"
            continue
        except (BadFrame, RefusedFrame) as error:
            return named(error, 300)
        head, _, part = frame.partition(b"\0")
        announced = announced or DECODER.raw_decode(head.decode().lstrip())[0]["remain"]
        taken += len(part)
        assert taken <= announced <= MOST_ANSWER
        assert part or payload is not None, "it might go on for ever"
        if payload is not None:
            assert len(payload) == taken == announced
            return "whole"
    return "waits"


def test_hostile_answers():
    generator = random.Random(20240111)
    ends = Counter()
    for _ in range(CASES):
        uniq = generator.choice((7943, 0, MOST_UNIQ, 1234))
        ends[join(some_answer(generator, uniq), uniq)] += 1
    assert set(ends) == {"whole", "waits", "BadFrame", "RefusedFrame"}
    assert min(ends.values()) > CASES // 500, ends


def test_what_was_cut_is_joined_again():
    generator = random.Random(20240112)
    for _ in range(CASES // 20):
        payload = generator.randbytes(generator.choice((1, 30, generator.randrange(1, 20_000))))
        payload = payload.replace(b"\0", b"0")
        uniq, size = generator.randrange(MOST_UNIQ + 1), generator.randrange(64, 8193)
        assert join_all(RequestJoiner(), request_frames(payload, uniq, size)).payload == payload
        assert join_all(AnswerJoiner(uniq), answer_frames(payload, uniq, size)) == payload


def join_all(joiner, frames):
    *first, last = frames
    assert [joiner.feed(frame) for frame in first] == [None] * len(first)
    return joiner.feed(last)


# -- requests, to the simulated process -----------------------------------------------------------


class Process:
    """What the table asks a process for."""

    viewed = True
    details = {"pid": 1, "uuid": "u", "id": "i", "machine_id": "m"}  # noqa: RUF012
    interfaces: list[dict[str, object]] = []  # noqa: RUF012

    def __init__(self):
        self.configuration = DEFAULTS

    def configure(self, configuration):
        self.configuration = configuration


def some_request(generator):
    if generator.randrange(3):
        return [spoilt(generator, generator.choice(ASKED))]
    number = generator.choice((b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"-1", b"1e400", b'"1"'))
    configuration = json.dumps(some_configuration(generator)).encode()
    payload = spoilt(generator, b'{"req":%b,"cfg":%b}' % (number, configuration), 1)
    payload = payload.replace(b"\0", b"") or b"0"
    frames = request_frames(payload, generator.randrange(9999), generator.choice((64, 8192)))
    return [spoilt(generator, frame, 1) if not generator.randrange(8) else frame
            for frame in frames]  # fmt: skip


def serve(process, frames):
    """Contract: whatever comes, there is an answer that our side reads, or refuses by its name;
    and what is left of the configuration is one."""
    joiner = RequestJoiner()
    for frame in frames:
        request = joiner.feed(frame)
        if request is None:
            continue
        assert NO_UNIQ - MOST_UNIQ <= request.uniq <= MOST_UNIQ
        if request.fault:
            assert len(fault_frames(request, 100)) == 1
            return Status(request.fault).name
        try:
            payload = requests.answer(process, request.payload)
        except Died:
            return "died"
        if request.uniq < 0:
            return "done"
        frames = answer_frames(payload, request.uniq, 8192)
        assert join_all(AnswerJoiner(request.uniq), frames) == payload
        status = json.loads(payload)["status"]
        return "done" if status == Status.DONE else f"said {status}"
    return "waits"


def test_hostile_requests():
    generator = random.Random(20240113)
    ends = Counter()
    for case in range(CASES):
        if case % 100 == 0:
            process = Process()
        ends[serve(process, some_request(generator))] += 1
        if case % 100 == 99:
            check(process.configuration)
    known = {"done", "waits", "died", "BAD", "UNREACHABLE", "said 400", "said 500", "said 501"}
    assert set(ends) == known, ends
    assert min(ends.values()) > CASES // 5000, ends


# -- what answers say ------------------------------------------------------------------------------


def some_payload(generator):
    payloads = [frame.partition(b"\0")[2] for frame in ANSWERED]
    return spoilt(generator, generator.choice(payloads))


def test_hostile_payloads():
    """Contract: an answer that has what the table says, or one of two errors."""
    generator = random.Random(20240114)
    ends = Counter()
    for _ in range(CASES):
        request = generator.choice(requests.REQUESTS)
        try:
            answer = requests.read(request, some_payload(generator))
        except (BadAnswer, Refused) as error:
            ends[named(error, 300, request.name)] += 1
        else:
            assert set(request.answer) <= set(answer)
            ends["read"] += 1
    assert set(ends) == {"read", "BadAnswer", "Refused"}
    assert min(ends.values()) > CASES // 1000, ends


# -- configurations ------------------------------------------------------------------------------

# Each is right somewhere, or wrong in its own way.
VALUES = ("", "true", "false", "x", "udp", "file", "statsd", "ndjson", "8125", "1" * 5000, "٣",
          "a\0b", "\ud800", "\x1b[2J", True, False, None, 0, 1, 4, 9109, -1, 2**31, 2**70, 0.5,
          float("inf"), [], {}, ["x"], {"type": "udp"}, {"type": "edge"})  # fmt: skip
NAMES = ("protocol", "tags", "name", "type", "transport", "", "\0", "\ud800", "PROTOCOL", "x" * 999)


def some_configuration(generator, shape=SHAPE):
    """As its description has it, more or less."""
    if not generator.randrange(12):
        return generator.choice(VALUES)
    match shape:
        case list():
            return [some_configuration(generator, shape[0]) for _ in range(generator.randrange(3))]
        case Each():
            names = ("team", "host", *NAMES) if not generator.randrange(9) else ("team", "host")
            return {name: some_configuration(generator, shape.shape) for name in names}
        case Choice():
            kind = generator.choice(list(shape.shapes))
            return {shape.by: kind, **some_members(generator, shape.shapes[kind])}
        case dict():
            return some_members(generator, shape)
        case _:
            return generator.choice(fitting(shape))


@cache
def fitting(kind):
    return [value for value in VALUES if kind.fits(value)] or ["fs", "info", "line"]


def some_members(generator, shape):
    found = {
        name.removesuffix("?"): some_configuration(generator, each)
        for name, each in shape.items()
        if not generator.randrange(3) or not name.endswith("?")
    }
    if not generator.randrange(40):
        found[generator.choice(NAMES)] = generator.choice(VALUES)
    return found


def some_text(generator):
    text = json.dumps(some_configuration(generator))
    if generator.randrange(4):
        return text
    return spoilt(generator, text.encode(), 2).decode(errors="replace")


def read(text, current):
    """Contract: what is taken can be sent, and neither kills the process nor leaves it without a
    configuration; what is not is refused with what is wrong."""
    try:
        wanted = parsed(text)
        sent = replacement(wanted, current)
    except Unusable as error:
        named(error, 5000)
        return "refused"
    frames = request_frames(requests.ask(requests.SET_CONFIGURATION, cfg=sent), 1)
    assert json.loads(join_all(RequestJoiner(), frames).payload)["cfg"] == sent
    if text[-2] in '"}':  # some of them: it takes its time
        check(applied(sent, current))
    return "taken"


def test_hostile_configurations():
    generator = random.Random(20240115)
    ends = Counter()
    current = DEFAULTS | {"protocol": [{"name": "x", "regex": "y"}]}
    for _ in range(CASES):
        ends[read(some_text(generator), current)] += 1
    assert min(ends["taken"], ends["refused"]) > CASES // 100, ends


def test_merging_into_whatever_a_process_says_that_it_has():
    """Contract: what is left out stays as it was, and no protocol comes twice."""
    generator = random.Random(20240116)
    ends = Counter()
    for _ in range(CASES // 2):
        current = some_configuration(generator)
        current = current if isinstance(current, dict) else {}
        try:
            changes = parsed(some_text(generator))
            sent = replacement(merged(current | {"protocol": []}, changes), current)
        except Unusable:
            ends["refused"] += 1
            continue
        requests.ask(requests.SET_CONFIGURATION, cfg=sent)
        ends["taken"] += 1
        for name in current.keys() - changes.keys() - {"protocol"}:
            assert sent[name] == current[name]
        assert not names(sent) & names(current)
    assert min(ends["taken"], ends["refused"]) > CASES // 200, ends


def names(configuration):
    found = configuration.get("protocol")
    found = found if isinstance(found, list) else []
    return {str(each["name"]) for each in found if isinstance(each, dict) and "name" in each}


def listed(numbers, item):
    return ",".join(item.replace("N", str(number)) for number in numbers)


@pytest.mark.parametrize(
    "text",
    [
        '{"protocol":[' + listed(range(70_000), '{"name":"N"}') + "]}",
        '{"tags":{' + listed(range(90_000), '"N":""') + ',"9":""}}',
        '{"tags":' + "[" * 100_000,
        f'{{"tags":{{"{"x" * 500_000}":1}}}}',
        f'{{"tags":{{"a":"{"x" * MOST_REQUEST_BYTES}"}}}}',
        " " * (64 << 20),
    ],
    ids=["protocols", "names", "depth", "name", "value", "blanks"],
)
def test_nothing_takes_long_or_says_much(text):
    """Nobody else is served meanwhile."""
    assert read(text, DEFAULTS) in ("refused", "taken")

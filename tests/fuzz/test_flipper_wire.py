"""Anything at all for the Flipper wire: it reads it, or refuses with what it says it refuses with.

Boards are attackers, clients are strangers. BUSWORK_FUZZ_EXAMPLES=100000 makes it long: ten times
as many packets and answers.
"""

import os
import random
from collections import Counter

from flipper.wire.boards import run
from flipper.wire.vectors import vector, vectors
from fuzz.spoiling import spoilt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buswork.flipper.wire import checks
from buswork.flipper.wire.carbon import debug_text
from buswork.flipper.wire.crc import crc16
from buswork.flipper.wire.errors import BoardError, Error
from buswork.flipper.wire.exchanges import (
    Answer,
    AnswerReader,
    Exchange,
    Refused,
    RequestReader,
    answering,
    outgoing,
)
from buswork.flipper.wire.images import parse_image
from buswork.flipper.wire.modules import TABLES, Kind
from buswork.flipper.wire.packets import (
    Call,
    Lookup,
    Pull,
    Push,
    Read,
    data_to_board,
    data_to_host,
    encode_request,
    parse_request,
)
from buswork.flipper.wire.plans import BridgeError, bind, bridged, drained, pull2, push2
from buswork.flipper.wire.results import Result, encode_result, interpret
from buswork.flipper.wire.terms import (
    LIMITS,
    BadAnswer,
    BadPacket,
    BadValue,
    Generation,
    Processor,
    Type,
)

EXAMPLES = int(os.environ.get("BUSWORK_FUZZ_EXAMPLES", "60"))
PACKETS = ANSWERS = max(100_000, 10 * EXAMPLES)
fuzz = settings(
    max_examples=5 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

G1, G2 = Generation
LINES = sorted({(found.framing, found.generation) for found in vectors()}, key=str)
SENT = {
    generation: [
        data
        for found in vectors()
        for direction, data in found.steps
        if direction == "h2d" and found.generation is generation
    ]
    for generation in Generation
}
INTERESTING = (0, 1, 2, 3, 4, 5, 6, 7, 8, 14, 17, 18, 0x36, 0x40, 0x7F, 0x80, 0xFE, 0xFF)


def with_checksum(packet):
    """Nobody alters packets without this."""
    if len(packet) < 6:
        return packet
    length = int.from_bytes(packet[3:5], "little")
    checksum = crc16((packet[:1] + b"\0\0" + packet[3:])[:length])
    return packet[:1] + checksum.to_bytes(2, "little") + packet[3:]


def some_packet(generator, generation):
    packet = spoilt(generator, generator.choice(SENT[generation])[:64], INTERESTING)
    return with_checksum(packet) if generator.randrange(8) else packet


def named(error):
    """Contract: a failure says which field it is, if it is a caller's, and why."""
    assert not isinstance(error, BadValue) or error.field
    assert 5 < len(str(error).encode()) < 800, error


# -- strange clients -----------------------------------------------------------------------------


def read_packet(packet, generation):
    """Contract: a request that its own packet says again, or BadPacket."""
    try:
        request = parse_request(packet, generation)
    except BadPacket as error:
        return error.error.name
    assert parse_request(encode_request(request, generation), generation) == request
    return type(request).__name__


def understand(request, processor):
    """Contract: what the processor survives, or BadValue that names a field."""
    table = TABLES[G1, processor]
    try:
        meant = checks.understood(table, request)
    except BadValue as error:
        named(error)
        return "refused"
    if isinstance(meant, checks.Invocation):
        call = checks.call(table, meant.module, meant.function, meant.values)
        harmless(call, processor)
        encode_request(call)
    elif isinstance(meant, Call):
        harmless(meant, processor)
    else:
        most = LIMITS[processor].transfer_bytes
        kind = type(request).__name__
        assert kind == "Event" or 0 < request.length <= (32768 if kind == "Load" else most)
    return type(meant).__name__


def harmless(call, processor):
    limits = LIMITS[processor]
    assert len(call.arguments) <= 4
    assert {argument.type for argument in call.arguments} <= limits.arguments
    assert call.returns in limits.returns
    assert limits.user_modules > call.module or not call.user


def test_hostile_packets():
    generator = random.Random(20180110)
    verdicts = Counter()
    for place in range(PACKETS):
        generation = G1 if place % 4 else G2
        packet = some_packet(generator, generation)
        verdicts[read_packet(packet, generation)] += 1
        if generation is G1 and place % 2:
            try:
                request = parse_request(packet)
            except BadPacket:
                continue
            verdicts[understand(request, generator.choice(list(Processor)))] += 1
    # The generators reach every end.
    ends = ("E_CHECKSUM", "E_FMR_OVERFLOW", "E_TYPE", "E_BOUNDARY", "Call", "Push", "Pull",
            "Unknown", "Lookup", "Invocation", "Transfer", "refused")  # fmt: skip
    assert min(verdicts[end] for end in ends) > PACKETS // 1000, verdicts
    others = ("Load", "Receive", "Send", "Event", "Allocate", "Write", "Read", "Free", "E_NAME")
    assert all(verdicts[end] for end in others), verdicts


def test_every_recorded_packet_cut_and_with_each_byte_altered():
    for generation, sent in SENT.items():
        for packet in {packet for packet in sent if len(packet) <= 64}:
            for at in range(len(packet)):
                read_packet(packet[:at], generation)
                read_packet(with_checksum(packet[:at]), generation)
            for at in range(min(len(packet), 34)):
                for value in (0, 1, 5, packet[at] ^ 1, packet[at] ^ 0x80, 0xFF):
                    altered = packet[:at] + bytes((value,)) + packet[at + 1 :]
                    read_packet(altered, generation)
                    read_packet(with_checksum(altered), generation)


def listen(board, chunks, max_data):
    """Contract: whole exchanges, or Refused; no more is kept than was allowed."""
    told = Counter()
    for chunk in chunks:
        for complete in board.feed(chunk):
            if isinstance(complete, Refused):
                told["refused"] += 1
                assert isinstance(complete.error, Error)
            else:
                told["exchange"] += 1
                assert len(complete.data) == data_to_board(complete.request) <= max_data
                assert data_to_host(complete.request) <= max_data
        assert board.pending is None or 0 < data_to_board(board.pending) <= max_data
    return told


def test_hostile_clients():
    generator = random.Random(20180111)
    told = Counter()
    for _ in range(max(5_000, EXAMPLES // 2)):
        framing, generation = generator.choice(LINES)
        max_data = generator.choice((0, 64, 128, 300, 65507))
        board = RequestReader(framing, generation, max_data)
        chunks = []
        for _ in range(generator.randrange(1, 8)):
            match generator.randrange(4):
                case 0:
                    chunks.append(some_packet(generator, generation))
                case 1:
                    chunks.append(generator.randbytes(generator.choice((0, 1, 5, 64, 65, 200))))
                case _:
                    length = generator.choice((1, 5, 64, 65, 128, 200))
                    request = Push(3, 2, length) if generation is G1 else Lookup("led")
                    data = bytes(data_to_board(request))
                    chunks += outgoing(Exchange(request, data), framing, generation)
        if not generator.randrange(3):
            del chunks[generator.randrange(len(chunks))]
        told += listen(board, chunks, max_data)
        abandoned = board.abandon()
        if abandoned is not None:
            told["abandoned"] += 1
            assert len(abandoned.data) == data_to_board(abandoned.request)
    assert min(told[end] for end in ("refused", "exchange", "abandoned")) > 100, told


@fuzz
@given(st.lists(st.binary(max_size=130)), st.sampled_from(LINES), st.integers(0, 200))
def test_any_bytes_of_a_client(chunks, line, max_data):
    listen(RequestReader(*line, max_data), chunks, max_data)
    for chunk in chunks:
        read_packet(chunk, line[1])
        read_packet(with_checksum(b"\xfe" + chunk), line[1])


NUMBERS = st.one_of(
    st.integers(-2, 300), st.integers(-(2**64), 2**64), st.booleans(), st.floats(), st.text(),
    st.none(), st.binary(), st.lists(st.integers(), max_size=2),
)  # fmt: skip


@fuzz
@given(
    st.sampled_from([(table, *place) for table in TABLES.values() for place in table]),
    st.lists(NUMBERS, max_size=6),
    st.sampled_from(Kind),
    NUMBERS,
)
def test_any_values_of_a_caller(where, values, kind, length):
    table, module, function = where
    try:
        harmless(checks.call(table, module.name, function.name, values), table.processor)
    except BadValue as error:
        named(error)
    try:
        checks.transfer_request(table, module.name, function.name, kind, length)
    except BadValue as error:
        named(error)


@fuzz
@given(st.text(), st.text())
def test_any_names_of_a_caller(module, function):
    for table in TABLES.values():
        try:
            table.find(module, function)
        except BadValue as error:
            named(error)


# -- hostile boards ------------------------------------------------------------------------------

REQUESTS = {
    G1: [Call(0, 0, 4), Push(3, 2, 9), *(Pull(3, 3, length) for length in (1, 5, 64, 128))],
    G2: [Call(0, 0, 4), Lookup("led"), Read(9, 0), Read(64, 0), Read(100, 0)],
}  # fmt: skip


def read_answer(exchange, line, chunks):
    """Contract: an answer with all its data or none, BadAnswer, or more is wanted."""
    host = AnswerReader(exchange, *line)
    asked = data_to_host(exchange.request)
    for chunk in chunks:
        before = host.wanted
        assert before > 0
        try:
            answer = host.feed(chunk)
        except BadAnswer:
            return "BadAnswer"
        assert len(host.data_to_send()) <= 1
        if answer is not None:
            assert len(answer.data) in (0, asked)
            assert len(answer.data) == asked or answer.result.error
            interpret(answer.result, Type.INT, Processor.U2)
            return "answer"
        assert 0 < host.wanted <= before
    return "wanted" if host.give_up() is None else "given up"


def some_chunks(generator, exchange, line):
    framing, generation = line
    data = generator.randbytes(data_to_host(exchange.request))
    result = Result(generator.getrandbits(32), generator.choice((0, 0, 1, 18, 31, 200)))
    if not generator.randrange(6):
        data = b""
    chunks = answering(Answer(result, data), framing, generation)
    match generator.randrange(8):
        case 0:
            del chunks[generator.randrange(len(chunks))]
        case 1:
            chunks.insert(generator.randrange(len(chunks) + 1), generator.choice(SENT[generation]))
        case 2:
            at = generator.randrange(len(chunks))
            chunks[at] = spoilt(generator, chunks[at], INTERESTING)
        case 3:
            length = generator.choice((0, 1, 4, 5, 6, 8, 9, 10, 63, 64, 65, 128, 512))
            chunks = [generator.randbytes(length) for _ in range(3)]
        case 4:
            chunks.append(chunks[0])
        case 5:
            chunks.insert(0, encode_request(Lookup("led"), G2))
        case 6:
            generator.shuffle(chunks)
    return chunks


def test_hostile_answers():
    generator = random.Random(20180112)
    verdicts = Counter()
    for _ in range(ANSWERS):
        line = generator.choice(LINES)
        request = generator.choice(REQUESTS[line[1]])
        exchange = Exchange(request, bytes(data_to_board(request)))
        verdicts[read_answer(exchange, line, some_chunks(generator, exchange, line))] += 1
    ends = "BadAnswer", "answer", "wanted", "given up"
    assert min(verdicts[end] for end in ends) > ANSWERS // 1000, verdicts


@fuzz
@given(
    st.lists(st.one_of(st.binary(max_size=70), st.sampled_from([bytes(64), bytes(5), bytes(9)]))),
    st.sampled_from(LINES),
    st.data(),
)
def test_any_bytes_of_a_board(chunks, line, data):
    request = data.draw(st.sampled_from(REQUESTS[line[1]]))
    read_answer(Exchange(request, bytes(data_to_board(request))), line, chunks)


def test_hostile_boards_end_every_plan():
    """Contract: a plan ends, with a result or a failure that has a name."""
    generator = random.Random(20180113)
    ends = Counter()
    uart = {name: TABLES[G2, Processor.FVM].find("uart0", name) for name in ("read", "write")}

    def board(exchange):
        asked = data_to_host(exchange.request)
        lengths = (asked, asked, 0)
        data = generator.randbytes(generator.choice(lengths))
        if generator.randrange(3):
            data = data and encode_result(Result(0)).ljust(asked, b"\0")[:asked]
        value = generator.choice((0, 0, 0, 0, 0, 1, 0xFFFF, 0xFFFFFFFF, 2**64 - 1))
        return Answer(Result(value, generator.choice((0, 0, 0, 0, 0, 0, 31, 31, 1, 200))), data)

    for _ in range(max(5_000, EXAMPLES // 2)):
        length = generator.choice((1, 64, 129, 500))
        plan = generator.choice((
            lambda length: bridged(Exchange(Call(0, 0, 4))),
            lambda length: bridged(Exchange(Push(9, 6, length), bytes(length))),
            lambda length: bridged(Exchange(Pull(9, 7, length))),
            lambda length: drained(),
            lambda length: bind("mine", bytes(length)),
            lambda length: push2(*uart["write"], bytes(length)),
            lambda length: pull2(*uart["read"], length),
        ))(length)  # fmt: skip
        try:
            asked, _ = run(plan, board)
        except (BadAnswer, BoardError, BridgeError) as error:
            ends[type(error).__name__] += 1
            named(error)
        else:
            ends["ended"] += 1
            assert len(asked) <= 257
    assert min(ends[end] for end in ("BadAnswer", "BoardError", "BridgeError", "ended")) > 100, ends


IMAGE = bytes.fromhex(vector("gen1_usb_load/4s.bind.armtest").content["image"])


def test_hostile_images():
    generator = random.Random(20180114)
    read = Counter()
    for _ in range(max(20_000, EXAMPLES)):
        image = spoilt(generator, IMAGE, INTERESTING, 4)
        try:
            found = parse_image(image)
        except BadValue as error:
            named(error)
            read["refused"] += 1
            continue
        read["read"] += 1
        assert all(place & 1 and place < len(image) for place in found.functions)
        assert found.name.encode() + b"\0" in image
    assert min(read.values()) > 1000, read


@fuzz
@given(st.binary(max_size=100))
def test_any_debug_text(packet):
    text = debug_text(packet)
    assert all(c.isprintable() or c in "\n\t" for c in text)

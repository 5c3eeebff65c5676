import pytest
from flipper.wire.requests import requests
from hypothesis import given
from hypothesis import strategies as st

from buswork.flipper.wire.errors import Error
from buswork.flipper.wire.exchanges import (
    Answer,
    AnswerReader,
    Exchange,
    Refused,
    RequestReader,
    answering,
    blocks,
    frame,
    outgoing,
    packet_count,
)
from buswork.flipper.wire.packets import (
    Allocate,
    Call,
    Event,
    Load,
    Lookup,
    Pull,
    Push,
    Read,
    Receive,
    Send,
    Write,
    data_to_board,
    data_to_host,
    encode_request,
)
from buswork.flipper.wire.results import Result, encode_result
from buswork.flipper.wire.terms import BadAnswer, BadValue, Framing, Generation

G1, G2 = Generation
USB, UDP, UART = Framing
LINES = [(framing, generation) for framing in Framing for generation in Generation
         if (framing, generation) != (UART, G2)]  # fmt: skip
FAILED = Result(0xFFFFFFFF, 1)


def transfers(generation):
    """Requests whose data are short enough for a test."""

    def shortened(request):
        if data_to_board(request) or data_to_host(request):
            return request._replace(length=request.length % 300)
        return request

    return requests(generation).map(shortened)


@st.composite
def conversations(draw):
    """A line, an exchange over it, and its answer."""
    line = draw(st.sampled_from(LINES))
    request = draw(transfers(line[1]))
    payload = st.randoms(use_true_random=False)
    data = draw(payload).randbytes(data_to_board(request))
    result = Result(draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 255)))
    answer = Answer(result, draw(payload).randbytes(data_to_host(request)))
    return line, Exchange(request, data), answer


@given(conversations())
def test_both_ends_understand_each_other(conversation):
    line, exchange, answer = conversation
    board, host = RequestReader(*line), AnswerReader(exchange, *line)
    sent = outgoing(exchange, *line)
    # An empty transfer is never sent; a board takes it for one that is complete.
    *none, complete = [board.feed(packet) for packet in sent]
    assert (none, complete) == ([[]] * len(none), [exchange])
    received = answering(answer, *line)
    assert host.wanted == sum(map(len, received))
    *none, read = [host.feed(packet) for packet in received]
    if read is None:  # the data had the length of a result, or a result that of an error
        return
    assert not any(none)
    assert read == answer
    assert host.wanted == 0
    with pytest.raises(BadAnswer, match="more after the result"):
        host.feed(bytes(64))


@given(conversations(), st.randoms(use_true_random=False))
def test_a_stream_may_come_in_any_pieces(conversation, random):
    _, exchange, answer = conversation
    if data_to_board(exchange.request) != len(exchange.data):
        return
    try:
        sent = b"".join(outgoing(exchange, UART))
    except BadValue:  # of the second generation, which has no UART
        return
    board, host = RequestReader(UART), AnswerReader(exchange, UART)
    complete, read = [], []
    for stream, feed in (
        (sent * 2, lambda piece: complete.extend(board.feed(piece))),
        (b"".join(answering(answer, UART)), lambda piece: read.append(host.feed(piece))),
    ):
        while stream:
            size = random.randrange(1, 100)
            feed(stream[:size])
            stream = stream[size:]
    assert complete == [exchange] * 2
    assert read[-1] == answer
    assert not any(read[:-1])


def test_packets_are_counted_and_cut():
    assert [packet_count(length) for length in (0, 1, 63, 64, 65, 128)] == [0, 1, 1, 1, 2, 2]
    assert list(blocks(b"abcde", 2)) == [b"ab", b"cd", b"e"]
    assert frame(b"", USB) == frame(b"", UDP) == []
    assert frame(bytes(65), USB) == [bytes(64), bytes(64)]
    assert frame(b"x" * 65, USB, G2) == [b"x" * 64, b"x"]
    assert frame(bytes(64), USB, G2) == [bytes(64)]
    assert frame(bytes(65), UDP) == [bytes(65)]


@pytest.mark.parametrize("data", [b"", b"xx", b"xxxx"])
def test_data_have_the_length_that_is_announced(data):
    with pytest.raises(BadValue, match=f"announces 3 bytes, and {len(data)}") as caught:
        outgoing(Exchange(Push(3, 2, 3), data), USB)
    assert caught.value.field == "data"


# -- strange boards ------------------------------------------------------------------------------


def test_several_packets_may_come_at_once_over_usb():
    host = AnswerReader(Exchange(Pull(3, 3, 65)), USB)
    assert host.wanted == 192
    chunk = b"x" * 65 + bytes(63) + encode_result(Result(7)).ljust(64, b"\0")
    assert host.feed(chunk[:128]) is None
    assert host.wanted == 64
    assert host.feed(chunk[128:]) == Answer(Result(7), b"x" * 65)
    assert AnswerReader(Exchange(Pull(3, 3, 65)), USB).feed(chunk) == Answer(Result(7), b"x" * 65)


@pytest.mark.parametrize(
    ("request_", "framing", "generation", "chunks"),
    [
        (Event(), USB, G1, [b""]),
        (Event(), USB, G1, [bytes(5)]),
        (Event(), USB, G1, [bytes(63)]),
        (Event(), USB, G1, [bytes(65)]),
        (Event(), USB, G1, [bytes(128)]),
        (Pull(3, 3, 5), USB, G1, [bytes(64), bytes(5)]),
        (Event(), UDP, G1, [b""]),
        (Event(), UDP, G1, [bytes(4)]),
        (Event(), UDP, G1, [bytes(9)]),
        (Event(), UDP, G1, [bytes(64)]),
        (Pull(3, 3, 5), UDP, G1, [bytes(4)]),
        (Pull(3, 3, 5), UDP, G1, [bytes(5), bytes(4)]),
        (Pull(3, 3, 8), UDP, G1, [bytes(5)]),  # a result, but one that says that all went well
        (Event(), UART, G1, [bytes(6)]),
        (Lookup("led"), UDP, G2, [bytes(5)]),
        (Lookup("led"), UDP, G2, [bytes(64)]),
        (Lookup("led"), UDP, G2, [b"\xfe" + bytes(63)]),
        (Read(100, 0), USB, G2, [bytes(64), bytes(35)]),
        (Read(100, 0), USB, G2, [bytes(64), bytes(64)]),
        (Read(100, 0), UDP, G2, [encode_request(Lookup("led"), G2)]),
    ],
)
def test_what_is_no_answer_is_refused(request_, framing, generation, chunks):
    host = AnswerReader(Exchange(request_), framing, generation)
    *first, last = chunks
    assert not any(host.feed(chunk) for chunk in first)
    with pytest.raises(BadAnswer):
        host.feed(last)


@pytest.mark.parametrize(
    ("request_", "generation", "result"),
    [
        (Pull(3, 3, 300), G1, FAILED),
        (Receive(8, 0), G1, FAILED),
        (Read(16, 0), G2, Result(2**64 - 1, 11)),
    ],
)
def test_a_result_without_data_is_an_answer_over_udp(request_, generation, result):
    host = AnswerReader(Exchange(request_), UDP, generation)
    assert host.feed(encode_result(result, generation)) == Answer(result)
    assert not host.wanted


def test_data_of_the_length_of_a_result_are_data():
    host = AnswerReader(Exchange(Pull(3, 3, 5)), UDP)
    assert host.feed(encode_result(FAILED)) is None
    assert host.feed(encode_result(Result(0))) == Answer(Result(0), encode_result(FAILED))


def test_giving_up_finds_a_result_alone_and_nothing_else():
    padded = encode_result(FAILED).ljust(64, b"\0")
    for chunks, length, framing, expected in (
        ([padded], 64, USB, Answer(FAILED)),
        ([padded], 500, USB, Answer(FAILED)),
        ([padded, padded], 500, USB, None),
        ([], 64, USB, None),
        ([bytes(64)], 64, USB, None),
        ([padded[:-1] + b"x"], 64, USB, None),
        ([padded[:3]], 64, UART, None),
    ):
        host = AnswerReader(Exchange(Pull(3, 3, length)), framing)
        assert not any(host.feed(chunk) for chunk in chunks)
        assert host.give_up() == expected
    host = AnswerReader(Exchange(Event()), USB)
    host.feed(padded)
    assert host.give_up() is None


def test_boards_may_not_ask_back_for_ever():
    host = AnswerReader(Exchange(Lookup("led")), UDP, G2)
    question = encode_request(Lookup("led"), G2)
    for _ in range(4):
        assert host.feed(question) is None
        assert [answer.hex() for answer in host.data_to_send()] == ["ffffffffffffffff11"]
    with pytest.raises(BadAnswer, match="again and again"):
        host.feed(question)


def test_data_that_look_like_a_question_are_data():
    question = encode_request(Lookup("led"), G2)
    host = AnswerReader(Exchange(Read(64, 0)), UDP, G2)
    assert host.feed(question) is None
    assert host.data_to_send() == []
    assert host.feed(
        encode_result(Result(0), G2),
    ) == Answer(Result(0), question)


# -- strange clients -----------------------------------------------------------------------------

EVENT = Exchange(Event())
EVENT_PACKET = encode_request(Event())


def test_what_is_no_packet_is_refused_and_the_next_is_read():
    board = RequestReader(UDP)
    (refused,) = board.feed(b"hello")
    assert refused == Refused(Error.E_CHECKSUM, "a packet has 6 to 64 bytes, not 5")
    assert board.feed(EVENT_PACKET) == [EVENT]
    assert answering(refused, UDP) == [bytes.fromhex("ffffffff12")]


def test_too_much_data_are_refused_once_and_not_kept():
    board = RequestReader(UDP, max_data=100)
    assert board.feed(encode_request(Push(3, 2, 101))) == []
    assert board.feed(bytes(101)) == [Refused(Error.E_MALLOC, "one request may transfer 100 bytes")]
    assert board.feed(EVENT_PACKET) == [EVENT]
    nothing = RequestReader(UDP, max_data=0)
    assert nothing.feed(encode_request(Push(3, 2, 1))) == []
    assert nothing.feed(b"x")[0].error is Error.E_MALLOC
    # As much as no datagram has, and as much as would have to be answered.
    for request in (Push(3, 2, 65508), Push(3, 2, 2**32 - 1), Pull(3, 3, 101), Receive(101, 0)):
        (refused,) = board.feed(encode_request(request))
        assert refused.error is Error.E_MALLOC
        assert board.feed(EVENT_PACKET) == [EVENT]


def test_data_that_were_lost_are_not_taken_from_the_next_request():
    for lost in (Push(3, 2, 100), Push(3, 2, 101)):
        board = RequestReader(UDP, max_data=100)
        assert board.feed(encode_request(lost)) == []
        assert board.feed(EVENT_PACKET) == [EVENT]
        assert board.pending is None
        assert board.feed(encode_request(lost)) == []
        (refused,) = board.feed(bytes(99))
        assert refused.error is (Error.E_BOUNDARY if lost.length == 100 else Error.E_MALLOC)
        assert board.feed(encode_request(lost)) == []
        assert board.feed(encode_request(Load(9))) == []
        assert board.pending == Load(9)
        assert board.feed(bytes(9)) == [Exchange(Load(9), bytes(9))]


@pytest.mark.parametrize("framing", [USB, UART])
def test_a_stream_that_announces_too_much_is_refused_at_once(framing):
    board = RequestReader(framing, max_data=256)
    (refused,) = board.feed(encode_request(Push(3, 2, 288)))
    assert refused.error is Error.E_MALLOC
    assert board.pending is None
    (refused,) = board.feed(bytes(64))
    assert refused.error is Error.E_CHECKSUM


def test_packets_of_usb_are_whole():
    board = RequestReader(USB)
    assert board.feed(encode_request(Push(3, 2, 100)) + bytes(64)) == []
    assert board.pending == Push(3, 2, 100)
    (refused,) = board.feed(bytes(36))
    assert refused == Refused(Error.E_BOUNDARY, "36 bytes came for 64")
    assert board.pending is None
    board = RequestReader(USB, G2)
    assert board.feed(encode_request(Write(100, 5), G2)) == []
    assert board.feed(bytes(64)) == []
    assert board.feed(bytes(36)) == [Exchange(Write(100, 5), bytes(100))]


def test_abandoned_data_are_filled_with_zeros():
    board = RequestReader(USB)
    board.feed(encode_request(Send(70)))
    board.feed(b"x" * 64)
    assert board.abandon() == Exchange(Send(70), b"x" * 64 + bytes(6))
    assert board.abandon() is None
    assert board.feed(EVENT_PACKET) == [EVENT]


def test_several_packets_at_once_over_usb_are_several():
    board = RequestReader(USB)
    push = Exchange(Push(3, 2, 65), b"x" * 65)
    packets = b"".join(outgoing(push, USB))
    assert board.feed(packets + EVENT_PACKET) == [push, EVENT]
    assert board.feed(b"") == []


def test_calls_have_no_data():
    assert outgoing(Exchange(Call(0, 0, 4)), UDP) == [encode_request(Call(0, 0, 4))]
    assert outgoing(Exchange(Allocate(5)), UDP, G2) == [encode_request(Allocate(5), G2)]

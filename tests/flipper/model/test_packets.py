"""Tests of buswork.flipper.model.packets."""

import pytest
from flipper.model.bench import Bench, Carbon, Fvm, filled, run_job
from flipper.wire.requests import requests
from flipper.wire.vectors import vector, vectors
from hypothesis import given
from hypothesis import strategies as st

from buswork.flipper.errors import Claimed, NotClaimed
from buswork.flipper.model.boards import Transport
from buswork.flipper.model.packets import packet
from buswork.flipper.wire.errors import Error
from buswork.flipper.wire.exchanges import (
    Answer,
    AnswerReader,
    Exchange,
    Refused,
    RequestReader,
    answering,
    outgoing,
)
from buswork.flipper.wire.images import encode_image
from buswork.flipper.wire.modules import TABLES, Kind
from buswork.flipper.wire.packets import (
    Allocate,
    Argument,
    Call,
    Event,
    Load,
    Lookup,
    Pull,
    Push,
    Receive,
    Send,
    data_to_board,
    data_to_host,
)
from buswork.flipper.wire.results import Result, failed
from buswork.flipper.wire.terms import LIMITS, Framing, Generation, Processor, Type

G1, G2 = Generation
U2, S4, FVM = Processor
UDP = Transport.UDP
STRANGERS = TABLES[G1, FVM]
IMAGE = encode_image("mine", bytes(8), (0, 4))


def asked(bench, request, data=b"", may_load=False):
    return bench.result(packet(bench.board, Exchange(request, data), may_load))


def named(module, function, *values):
    """As a stranger calls it."""
    found, its = STRANGERS.find(module, function)
    arguments = [Argument(p.type, v) for p, v in zip(its.parameters, values, strict=True)]
    return Call(found.index, its.number, its.returns, tuple(arguments))


# -- what was recorded ---------------------------------------------------------------------------


def exchanges(found):
    """What was sent as a board reads it, and what was answered as a host does."""
    for sent, received in found.turns:
        board = RequestReader(found.framing, found.generation)
        for request in [read for chunk in sent for read in board.feed(chunk)]:
            if isinstance(request, Refused):
                yield request, None, received
                continue
            host = AnswerReader(request, found.framing, found.generation)
            answers = [host.feed(chunk) for chunk in received]
            yield request, answers[-1] if answers else None, received


class Replayed:
    """A board that answers as another one did, however the question is split."""

    def __init__(self, answer):
        self.answer = answer
        self.at = 0

    def __call__(self, exchange):
        length = data_to_host(exchange.request)
        data = self.answer.data[self.at : self.at + length]
        self.at += length
        return Answer(self.answer.result, data)


# They do harm to a board, or nobody knows what they mean.
REFUSED_BY_FVM = {
    "err.checksum": Error.E_CHECKSUM,
    "err.magic": Error.E_CHECKSUM,
    "err.class.9": Error.E_UNIMPLEMENTED,
    "err.module.18": Error.E_MODULE,
    "err.function.adc.5": Error.E_BOUNDARY,
    "err.function.gpio.200": Error.E_BOUNDARY,
    "err.type.5": Error.E_TYPE,
    "err.args.7": Error.E_BOUNDARY,
    "err.push.malloc": Error.E_MALLOC,
    "load.on.fvm": Error.E_UNIMPLEMENTED,
    "send.on.fvm": Error.E_UNIMPLEMENTED,
    "types.f_five": Error.E_BOUNDARY,
    "std.uart0.configure": Error.E_BOUNDARY,  # with numbers that mean nothing
}
RECORDED_OF_FVM = [
    found
    for found in vectors(
        "gen1_udp_errors",
        "gen1_udp_lookup",
        "gen1_udp_modules",
        "gen1_udp_pushpull",
        "gen1_udp_types",
    )
    if found.turns
]


def returns_nothing(request):
    return (
        isinstance(request, Call)
        and not request.user
        and STRANGERS.at(*request[:2])[1].returns is Type.VOID
    )


@pytest.mark.parametrize("found", RECORDED_OF_FVM, ids=lambda found: found.name)
def test_a_stranger_is_answered_as_the_virtual_machine_answered(found):
    ((request, recorded, received),) = exchanges(found)
    bench = Bench(Fvm(Replayed(recorded)), UDP)
    got = bench.result(packet(bench.board, request))
    expected = REFUSED_BY_FVM.get(found.content["id"])
    if expected is not None:
        assert (got.error, bench.line.seen) == (expected, [])
        return
    if returns_nothing(request.request):
        recorded = Answer(Result(0))  # where the original says what a register holds
    assert got == recorded
    if not returns_nothing(request.request):
        assert answering(got, Framing.UDP) == received


@pytest.mark.parametrize("found", RECORDED_OF_FVM, ids=lambda found: found.name)
def test_what_a_stranger_asks_reaches_a_virtual_machine_as_it_was(found):
    ((request, recorded, _),) = exchanges(found)
    bench = Bench(Fvm(Replayed(recorded or Answer(Result(0)))), UDP)
    bench.result(packet(bench.board, request))
    seen = bench.line.seen
    if isinstance(request, Refused) or not seen:
        return
    if isinstance(request.request, Push | Pull):
        assert sum(each.request.length for each in seen) == request.request.length
        assert b"".join(each.data for each in seen) == request.data
        return
    (got,) = seen
    ours, theirs = got.request, request.request
    if ours.user:
        assert ours == theirs
        return
    # But for the types, which are those of the prototype.
    assert ours._replace(returns=0) == theirs._replace(returns=0)
    assert ours.returns == STRANGERS.at(*ours[:2])[1].returns


REFUSED_BY_4S = {
    "4s.err.checksum": Error.E_CHECKSUM,
    "4s.err.module.18": Error.E_MODULE,
    "4s.err.function.adc.1": Error.E_BOUNDARY,
    "4s.args.5": Error.E_BOUNDARY,
}
RECORDED_OF_4S = vectors("gen1_4s_uart")


@pytest.mark.parametrize("found", RECORDED_OF_4S, ids=lambda found: found.name)
def test_what_the_4s_answers_comes_back_over_the_bridge(found):
    ((request, recorded, _),) = exchanges(found)
    bench = Bench(Carbon(on_s4=Replayed(recorded)))
    got = bench.result(packet(bench.board, request, may_load=True))
    expected = REFUSED_BY_4S.get(found.content["id"])
    if expected is not None:
        assert (got.error, bench.line.steps) == (expected, 0)
        return
    assert got == recorded
    (seen,) = bench.line.s4
    if isinstance(seen.request, Call):
        assert {code for code, _ in seen.request.arguments} <= LIMITS[S4].arguments
    else:
        assert seen.data == request.data
        assert type(seen.request) is type(request.request)


def test_calls_for_the_u2_are_the_recorded_bytes():
    for name, request in {
        "u2.led.rgb": named("led", "rgb", 10, 20, 30),
        "u2.button.read": named("button", "read"),
        "u2.led.configure": named("led", "configure"),
        "u2.uart0.ready": named("uart0", "ready"),
    }.items():
        ((sent, received),) = vector(f"gen1_usb_board/{name}").turns
        lines = []

        def line(exchange, lines=lines, received=received):
            lines.append(outgoing(exchange, Framing.USB))
            return AnswerReader(exchange, Framing.USB).feed(received[0])

        bench = Bench(line)
        asked(bench, request)
        if name == "u2.button.read":  # the original asks for a signed number
            lines[0][0] = lines[0][0][:8] + sent[0][8:]
            lines[0][0] = sent[0][:3] + lines[0][0][3:]
        assert lines == [sent], name


# -- which processor -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "function"),
    [(m, f) for m, f in STRANGERS if m.name != "uart0" and f.name != "fire"],
    ids=lambda each: each.name,
)
def test_each_number_of_a_strangers_reaches_its_processor(module, function):
    bench = Bench()
    values = [parameter.highest for parameter in function.parameters]
    match function.kind:
        case Kind.CALL:
            got = asked(bench, named(module.name, function.name, *values))
        case Kind.PUSH:
            got = asked(bench, Push(module.index, function.number, 4, 0x1234), b"data")
        case Kind.PULL:
            got = asked(bench, Pull(module.index, function.number, 4, 0x1234))
    assert got.result == Result(0)
    processor = U2 if module.name in ("led", "button", "wdt") else S4
    seen = bench.line.u2 if processor is U2 else bench.line.s4
    assert [exchange.request.function for exchange in seen][-1:] == [function.number]
    assert seen[-1].request.module == TABLES[G1, processor].modules[module.name].index
    if function.kind is not Kind.CALL:
        assert seen[-1].request.pointer == 0  # what a stranger's is, is nobody's business


def test_an_int_of_the_u2_has_the_width_of_others():
    bench = Bench(Carbon(on_u2=lambda exchange: Answer(Result(0xFFFF))))
    assert asked(bench, named("led", "configure")) == Answer(Result(0xFFFFFFFF))


def test_the_types_of_a_stranger_do_not_matter():
    bench = Bench()
    values = Argument(Type.UINT32, 1), Argument(Type.INT, 2), Argument(Type.INT8, -1)
    assert asked(bench, Call(6, 1, Type.INT64, values)) == Answer(Result(0))
    assert bench.line.u2 == [Exchange(Call(2, 1, Type.VOID, ((0, 1), (0, 2), (0, 255))))]


# -- what is too long ----------------------------------------------------------------------------


@given(st.integers(1, 2000), st.sampled_from(Transport))
def test_transfers_of_any_length_are_split(length, transport):
    bench = Bench(transport=transport)
    data = bytes(place % 251 for place in range(length))
    assert asked(bench, Push(9, 6, length, 7), data) == Answer(Result(0))
    seen = bench.line.s4 if transport is Transport.USB else bench.line.seen
    size = 128 if transport is Transport.USB else 1024
    assert b"".join(exchange.data for exchange in seen) == data
    assert len(bench.ran) == len(seen) == -(-length // size)


@pytest.mark.parametrize("result", [Result(0xFFFFFFFF, 31), Result(0xFFFFFFFF)])
def test_a_transfer_that_fails_has_the_result_of_its_last_turn(result):
    results = iter([Result(0), result])

    def s4(exchange):
        return Answer(next(results), b"x" * data_to_host(exchange.request))

    bench = Bench(Carbon(on_s4=s4))
    # All that was announced comes, so that the stranger reads its result as one.
    got = asked(bench, Pull(9, 7, 300))
    assert got == Answer(result, b"x" * 256 + bytes(44))
    assert len(bench.ran) == 2
    results = iter([Result(0), result])
    assert asked(bench, Push(9, 6, 300), bytes(300)) == Answer(result)
    assert len(bench.ran) == 4


# -- what is not for everybody -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "data"),
    [(Send(4), b"data"), (Receive(4, 0x20000000), b""), (Load(len(IMAGE)), IMAGE)],
)
def test_the_memory_of_the_4s_is_a_right_of_its_own(request_, data):
    bench = Bench()
    got = asked(bench, request_, data)
    assert (got.error, bench.line.steps) == (Error.E_UNIMPLEMENTED, 0)
    got = asked(bench, request_, data, may_load=True)
    assert got == filled(Exchange(request_))
    assert bench.line.s4 == [Exchange(request_, data)]


def test_images_of_strangers_are_checked():
    bench = Bench()
    got = asked(bench, Load(44), bytes(44), may_load=True)
    assert got.error is Error.E_BOUNDARY
    assert "no image" in got.reason
    assert bench.line.steps == 0


def test_user_modules_that_the_4s_has_freed_are_not_called():
    bench = Bench()
    assert asked(bench, Call(0, 3, Type.INT, (), user=True)) == Answer(Result(0))
    got = asked(bench, Call(1, 3, Type.INT, (), user=True))
    assert got.error is Error.E_MODULE
    assert len(bench.line.s4) == 1


def test_the_bridges_uart_is_for_who_has_claimed_the_board():
    bench = Bench()
    with pytest.raises(NotClaimed):
        asked(bench, named("uart0", "configure", 8, 0))
    with pytest.raises(NotClaimed):
        asked(bench, Push(14, 2, 1), b"#")
    assert bench.line.steps == 0
    bench.claim("somebody")
    assert asked(bench, named("uart0", "configure", 8, 0)) == Answer(Result(0))
    with pytest.raises(Claimed):
        bench.ask("another", packet(bench.board, Exchange(named("led", "configure"))))


# -- what needs no board -------------------------------------------------------------------------


@pytest.mark.parametrize("transport", Transport)
def test_an_event_does_nothing(transport):
    bench = Bench(transport=transport)
    assert asked(bench, Event()) == Answer(Result(0))
    assert bench.ran == []


def test_what_was_refused_already_is_answered_in_its_order():
    bench = Bench()
    told = []
    refused = Refused(Error.E_CHECKSUM, "damaged")
    light, button = Exchange(named("led", "configure")), Exchange(named("button", "read"))
    for request in (light, refused, button):
        bench.turns.ask("one", 1, packet(bench.board, request), lambda got, _: told.append(got))
    assert told == []
    bench.run()
    assert told == [Answer(Result(0)), refused, Answer(Result(0))]


# -- the second generation -----------------------------------------------------------------------


@pytest.mark.parametrize("found", vectors("gen2_udp"), ids=lambda found: found.name)
def test_a_stranger_of_the_second_generation_is_answered_as_it_was(found):
    for request, recorded, _ in exchanges(found):
        bench = Bench(Fvm(Replayed(recorded)), UDP, G2)
        got = bench.result(packet(bench.board, request))
        match request.request:
            case Lookup():
                assert (got, bench.ran) == (recorded, [])
            case Call(_, _, _, ((Type.UINT64, value),)):
                assert value > 2**32
                assert got.error is Error.E_BOUNDARY
            case Call(index, number):
                _, function = TABLES[G2, FVM].at(index, number)
                expected = recorded.result
                if function.returns is Type.VOID:
                    expected = Result(0)
                assert got == Answer(expected)
            case _:
                # Its memory is at addresses that nobody can check.
                assert got.error is Error.E_UNIMPLEMENTED
                assert bench.ran == []


def test_a_name_that_nobody_knows():
    bench = Bench(transport=UDP, generation=G2)
    got = asked(bench, Lookup("nope"))
    assert got == Answer(Result(2**64 - 1, 16))
    bench = Bench()
    assert asked(bench, Allocate(4)).error is Error.E_UNIMPLEMENTED


# -- what goes wrong -----------------------------------------------------------------------------


def test_a_silent_4s_is_an_answer():
    bench = Bench()
    bench.line.bridge.late = 1 + 3
    got = asked(bench, named("gpio", "read", 1))
    assert got.error is Error.E_TIMEOUT
    assert "could not read from the 4S" in got.reason


def test_a_bad_answer_is_one():
    def u2(exchange):
        drains = exchange.request == Pull(3, 3, 1)
        return Answer(Result(0, 31 if drains else 0))  # and no data at all

    bench = Bench(u2)
    assert asked(bench, named("gpio", "read", 1)).error is Error.E_COMMUNICATION


def test_an_error_of_the_board_is_passed_on_as_it_is():
    bench = Bench(Carbon(on_u2=lambda exchange: Answer(Result(77, 99))))
    assert asked(bench, named("led", "configure")) == Answer(Result(77, 99))


@given(requests(G1), st.booleans(), st.sampled_from(Transport))
def test_nothing_that_a_board_would_not_survive_reaches_it(request, may_load, transport):
    if data_to_board(request) > 70_000 or data_to_host(request) > 70_000:
        return
    check_survives(request, may_load, transport)


@given(
    st.integers(0, 18),
    st.integers(0, 8),
    st.integers(1, 3000),
    st.sampled_from([Push, Pull]),
    st.sampled_from(Transport),
)
def test_nor_any_transfer(module, function, length, make, transport):
    check_survives(make(module, function, length), False, transport)


def check_survives(request, may_load, transport):
    board = Bench(transport=transport).board
    seen = []

    def judged(processor):
        def answer(exchange):
            judge(processor, exchange, seen)
            return filled(exchange)

        return answer

    line = Carbon(judged(U2), judged(S4)) if transport is Transport.USB else judged(FVM)
    exchange = Exchange(request, bytes(data_to_board(request)))
    job = packet(board, exchange, may_load)
    if job.needs_service:
        return
    got = run_job(job, line)
    assert isinstance(got, Answer | Refused)
    if isinstance(got, Refused):
        assert not seen


def judge(processor, exchange, seen):
    request, limits = exchange.request, LIMITS[processor]
    if request[:2] != (3, 0) or processor is not U2:  # the bridge's own
        seen.append(request)
    match request:
        case Call(user=True):
            assert request.module < (limits.user_modules if processor is FVM else 1)
            assert {code for code, _ in request.arguments} <= limits.arguments
            assert len(request.arguments) <= 4
        case Call():
            _, function = TABLES[G1, processor].at(request.module, request.function)
            assert function.kind is Kind.CALL
            assert request.returns == function.returns
            for parameter, (code, value) in zip(
                function.parameters, request.arguments, strict=True
            ):
                assert code == parameter.type
                assert parameter.lowest <= value <= parameter.highest
        case Push() | Pull():
            _, function = TABLES[G1, processor].at(request.module, request.function)
            assert function.kind is (Kind.PUSH if isinstance(request, Push) else Kind.PULL)
            assert 1 <= request.length <= (1024 if processor is FVM else 128)
            assert request.pointer == 0
        case Send() | Receive() | Load():
            assert processor is S4
        case _:
            raise AssertionError(request)


def test_failed_is_what_boards_say_to_calls_that_they_do_not_make():
    bench = Bench(Carbon(on_s4=lambda exchange: Answer(failed())))
    assert asked(bench, named("fld", "index", 5)) == Answer(Result(0xFFFFFFFF))

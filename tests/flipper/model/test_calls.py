"""Tests of buswork.flipper.model.calls."""

import pytest
from flipper.model.bench import Bench, Carbon, Fvm, filled, run_job
from flipper.wire.vectors import vector
from hypothesis import given
from hypothesis import strategies as st

from buswork.errors import BusworkError
from buswork.flipper import errors
from buswork.flipper.errors import ModuleUnsafe, NotClaimed, TransferFailed
from buswork.flipper.model import calls
from buswork.flipper.model.boards import Transport
from buswork.flipper.wire.crc import identifier
from buswork.flipper.wire.errors import BoardError
from buswork.flipper.wire.exchanges import Answer, Exchange, RequestReader, outgoing
from buswork.flipper.wire.images import encode_image
from buswork.flipper.wire.modules import TABLES, Kind
from buswork.flipper.wire.packets import (
    Allocate,
    Call,
    Free,
    Load,
    Lookup,
    Pull,
    Push,
    Read,
    Write,
    data_to_host,
)
from buswork.flipper.wire.plans import hold_s4, release_s4
from buswork.flipper.wire.results import Result, failed
from buswork.flipper.wire.terms import (
    LIMITS,
    BadAnswer,
    BadValue,
    Framing,
    Generation,
    Processor,
    Type,
)

G1, G2 = Generation
U2, S4, FVM = Processor
UDP = Transport.UDP
IMAGE = encode_image("mine", bytes(8), (0, 4))
ALL = [
    (processor, module, function)
    for processor in (U2, S4)
    for module, function in TABLES[G1, processor]
]
ON_U2 = {"led", "button", "uart0", "wdt"}
# On the U2, there is another uart0 and another gpio.
PLAIN = [
    (processor, module, function)
    for processor, module, function in ALL
    if (module.name in ON_U2) is (processor is U2)
]


def counting(exchange):
    """Data that can be told apart."""
    length = data_to_host(exchange.request)
    return Answer(Result(0), bytes(place % 251 for place in range(length)))


# -- routing -------------------------------------------------------------------------------------


def job_of(board, name, function):
    match function.kind:
        case Kind.CALL:
            values = [parameter.highest for parameter in function.parameters]
            return calls.invoke(board, name, function.name, values)
        case Kind.PUSH:
            return calls.push(board, name, function.name, b"data")
        case Kind.PULL:
            return calls.pull(board, name, function.name, 4)


def reached(line):
    """The one that was asked, and what."""
    ((processor, seen),) = [(p, s) for p, s in ((U2, line.u2), (S4, line.s4)) if s]
    (exchange,) = seen
    return processor, exchange.request


@pytest.mark.parametrize(
    ("processor", "module", "function"),
    [each for each in PLAIN if each[1].name != "uart0" and each[2].name != "fire"],
    ids=lambda each: getattr(each, "name", str(each)),
)
def test_every_function_reaches_its_processor(processor, module, function):
    for prefix in ("", f"{processor}."):
        bench = Bench()
        job = job_of(bench.board, prefix + module.name, function)
        assert not job.needs_service
        # Without what it costs to trust the bridge.
        run_job(calls.invoke(bench.board, "gpio", "read", [1]), bench.line)
        bench.line.u2.clear()
        bench.line.s4.clear()
        run_job(job, bench.line)
        asked, request = reached(bench.line)
        assert asked is processor
        assert (request.module, request.function) == (module.index, function.number)
        if function.kind is Kind.CALL:
            assert request.returns == function.returns
            assert [a.type for a in request.arguments] == [p.type for p in function.parameters]
            assert [a.value for a in request.arguments] == [p.highest for p in function.parameters]


@pytest.mark.parametrize("generation", Generation)
def test_every_function_of_a_board_on_the_network(generation):
    for module, function in TABLES[generation, FVM]:
        bench = Bench(transport=UDP, generation=generation)
        job = job_of(bench.board, module.name, function)
        assert not job.needs_service
        if generation is G2 and function.kind is not Kind.CALL:
            continue  # it takes memory first
        run_job(job, bench.line)
        (exchange,) = bench.line.seen
        assert exchange.request[:2] == (module.index, function.number)


@pytest.mark.parametrize(
    ("module", "function", "values"),
    [
        ("uart0", "configure", [8, 0]),
        ("u2.uart0", "configure", [8, 0]),
        ("u2.gpio", "write", [0, 64]),
        ("u2.gpio", "enable", [64, 0]),
        ("4s.uart0", "configure", [0, 1]),
        ("wdt", "fire", []),
        ("4s.wdt", "fire", []),
    ],
)
def test_what_disturbs_others_needs_a_claim(module, function, values):
    bench = Bench()
    job = calls.invoke(bench.board, module, function, values)
    assert job.needs_service
    with pytest.raises(NotClaimed, match="claim the board for service"):
        bench.ask("somebody", job)
    assert bench.line.steps == 0
    claimed = bench.claim("somebody")
    assert claimed.is_told
    assert bench.result(calls.invoke(bench.board, module, function, values)) in (0, None)


def test_transfers_over_the_bridges_own_uart_need_a_claim():
    board = Bench().board
    assert calls.push(board, "uart0", "push", b"#").needs_service
    assert calls.pull(board, "uart0", "pull", 1).needs_service
    assert not calls.invoke(board, "uart0", "ready", []).needs_service
    assert not calls.push(board, "usart", "push", b"#").needs_service


def test_after_direct_use_the_bridge_is_set_up_again():
    bench = Bench()
    bench.result(calls.invoke(bench.board, "gpio", "read", [1]))
    bench.claim("somebody")
    bench.result(calls.invoke(bench.board, "uart0", "configure", [8, 0]))
    bench.line.u2.clear()
    bench.result(calls.invoke(bench.board, "gpio", "read", [1]))
    assert [exchange.request[3] for exchange in bench.line.u2] == [((0, 0), (0, 1))]


# -- calls ---------------------------------------------------------------------------------------


def answers(value, error=0):
    return lambda exchange: Answer(Result(value, error), bytes(data_to_host(exchange.request)))


@pytest.mark.parametrize(
    ("line", "module", "function", "values", "result"),
    [
        (Carbon(on_u2=answers(1)), "button", "read", [], 1),
        (Carbon(on_u2=answers(99)), "led", "rgb", [1, 2, 3], None),
        (Carbon(on_u2=answers(0xFFFF)), "led", "configure", [], -1),
        (Carbon(on_s4=answers(0xFFFFFFFF)), "gpio", "read", [0xFFFFFFFF], 0xFFFFFFFF),
        (Carbon(on_s4=answers(0xFFFFFFFF)), "fld", "index", [0xBEEF], -1),
    ],
)
def test_a_number_is_what_the_prototype_says(line, module, function, values, result):
    bench = Bench(line)
    assert bench.result(calls.invoke(bench.board, module, function, values)) == result


@pytest.mark.parametrize(("transport", "generation"), [("usb", G1), ("udp", G1), ("udp", G2)])
def test_an_error_is_the_boards(transport, generation):
    line = Carbon(on_u2=answers(0, 11)) if transport == "usb" else Fvm(answers(0, 11))
    bench = Bench(line, Transport(transport), generation)
    with pytest.raises(BoardError, match="E_ENDPOINT" if generation is G1 else "E_FMR"):
        bench.result(calls.invoke(bench.board, "led", "rgb", [1, 2, 3]))


@given(
    st.one_of(st.sampled_from(sorted(TABLES[G1, S4].modules)), st.text(max_size=12)),
    st.one_of(st.sampled_from(["rgb", "read", "write", "push", "configure"]), st.text(max_size=8)),
    st.lists(
        st.one_of(st.integers(), st.integers(0, 300), st.booleans(), st.none(), st.floats()),
        max_size=6,
    ),
)
def test_nothing_that_is_not_valid_becomes_a_turn(module, function, values):
    board = Bench().board
    try:
        job = calls.invoke(board, module, function, values)
    except BadValue:
        assert not is_valid(module, function, values)
    else:
        assert is_valid(module, function, values)
        run_job(job, Carbon())


def is_valid(module, function, values):
    table = TABLES[G1, U2 if module in ON_U2 else S4]
    found = table.modules.get(module)
    its = found.functions.get(function) if found else None
    if its is None or its.kind is not Kind.CALL or len(values) != len(its.parameters):
        return False
    return all(
        type(value) is int and parameter.lowest <= value <= parameter.highest
        for parameter, value in zip(its.parameters, values, strict=True)
    )


# -- transfers -----------------------------------------------------------------------------------


@given(st.integers(0, 1000))
def test_data_are_split_into_turns(length):
    data = bytes(place % 251 for place in range(length))
    bench = Bench()
    assert bench.result(calls.push(bench.board, "spi", "push", data)) == length
    turns = -(-length // 128)
    assert len(bench.ran) == turns
    assert [exchange.request[2] for exchange in bench.line.s4] == [
        min(128, length - at) for at in range(0, length, 128)
    ]
    assert b"".join(exchange.data for exchange in bench.line.s4) == data
    assert bench.line.bridge.longest <= 128


@given(st.integers(0, 1000))
def test_data_are_put_together_from_turns(length):
    sent = iter(range(10_000))

    def s4(exchange):
        return Answer(Result(0), bytes(next(sent) % 251 for _ in range(exchange.request.length)))

    bench = Bench(Carbon(on_s4=s4))
    expected = bytes(place % 251 for place in range(length))
    assert bench.result(calls.pull(bench.board, "spi", "pull", length)) == expected
    assert len(bench.ran) == -(-length // 128)


def test_the_u2s_own_transfers_are_split_too():
    seen = []

    def line(exchange):
        seen.append(exchange.request)
        return filled(exchange)

    bench = Bench(line)
    bench.claim("somebody")
    assert bench.result(calls.push(bench.board, "uart0", "push", bytes(300))) == 300
    assert bench.result(calls.pull(bench.board, "uart0", "pull", 129)) == bytes(129)
    assert seen == [Push(3, 2, 128), Push(3, 2, 128), Push(3, 2, 44), Pull(3, 3, 128),
                    Pull(3, 3, 1)]  # fmt: skip


def test_a_datagram_holds_more():
    bench = Bench(transport=UDP)
    assert bench.result(calls.push(bench.board, "uart0", "push", bytes(2049))) == 2049
    assert [exchange.request.length for exchange in bench.line.seen] == [1024, 1024, 1]


@pytest.mark.parametrize(
    ("answer", "text", "name"),
    [
        (Result(0xFFFFFFFF, 30), "E_UART0_PUSH_TIMEOUT", "org.flipper.Error.Uart0PushTimeout"),
        (Result(0xFFFFFFFF), "spi.* returned -1", "org.flipper.Error.TransferFailed"),
        (Result(0, 99), "E_99", "org.flipper.Error.Unknown"),
    ],
)
def test_a_transfer_stops_at_the_first_failure(answer, text, name):
    for make in (
        lambda board: calls.push(board, "spi", "push", bytes(500)),
        lambda board: calls.pull(board, "spi", "pull", 500),
    ):
        numbers = iter([Result(0), Result(0), answer])

        def s4(exchange, numbers=numbers):
            return Answer(next(numbers), bytes(data_to_host(exchange.request)))

        bench = Bench(Carbon(on_s4=s4))
        with pytest.raises(TransferFailed, match=f"{text}.*; 256 of 500 bytes") as caught:
            bench.result(make(bench.board))
        assert (caught.value.name, caught.value.done) == (name, 256)
        assert len(bench.ran) == 3


@pytest.mark.parametrize("length", [-1, (8 << 20) + 1, True, 1.0, "1", None, 2**70])
def test_lengths_are_checked(length):
    with pytest.raises(BadValue) as caught:
        calls.pull(Bench().board, "spi", "pull", length)
    assert caught.value.field == "length"


def test_what_transfers_no_data_is_no_push():
    board = Bench().board
    for wrong in ("configure", "pull", "nothing"):
        with pytest.raises(BadValue):
            calls.push(board, "spi", wrong, b"")
    for wrong in ("configure", "push", "nothing"):
        with pytest.raises(BadValue):
            calls.pull(board, "u2.uart0", wrong, 1)
    with pytest.raises(BadValue, match="no plain call"):
        calls.invoke(board, "spi", "push", [])
    with pytest.raises(BadValue, match="one call transfers"):
        calls.push(board, "spi", "push", bytes((8 << 20) + 1))


def test_a_transfer_says_what_it_keeps():
    board = Bench().board
    assert calls.push(board, "spi", "push", bytes(500)).size == 500
    assert calls.pull(board, "spi", "pull", 600).size == 600


class Memory:
    """A virtual machine of the second generation with a queue, and its memory."""

    def __init__(self):
        self.blocks, self.queue, self.steps = {}, b"", []

    def __call__(self, exchange):
        request, data = exchange
        self.steps.append(type(request))
        match request:
            case Allocate(length):
                self.blocks[0x5000] = bytes(length)
                return Answer(Result(0x5000))
            case Write(_, address):
                self.blocks[address] = data
            case Read(length, address):
                return Answer(Result(2**64 - 1), self.blocks[address][:length])
            case Free(address):
                del self.blocks[address]
            case Call(12, 9, _, ((_, address), _)):
                self.queue += self.blocks[address]
                return Answer(Result(1))
            case Call(12, 5, _, ((_, address), (_, length))):
                self.blocks[address], self.queue = self.queue[:length], self.queue[length:]
                return Answer(Result(1))
        return Answer(Result(2**64 - 1))


def test_bulk_data_of_the_second_generation_leave_no_memory_taken():
    bench = Bench(Memory(), UDP, G2)
    data = bytes(range(256)) * 5
    assert bench.result(calls.push(bench.board, "uart0", "write", data)) == len(data)
    assert bench.result(calls.pull(bench.board, "uart0", "read", len(data))) == data
    assert bench.line.blocks == {}
    assert len(bench.ran) == 4
    assert bench.line.steps[:4] == [Allocate, Write, Call, Free]


def test_a_function_of_the_second_generation_says_1():
    memory = Memory()

    def refusing(exchange):
        called = isinstance(exchange.request, Call)
        return Answer(Result(0)) if called else memory(exchange)

    bench = Bench(refusing, UDP, G2)
    with pytest.raises(TransferFailed, match="returned 0; 0 of 5 bytes"):
        bench.result(calls.push(bench.board, "uart0", "write", b"hello"))
    assert memory.blocks == {}


def test_a_pull_brings_what_was_asked_for():
    for line in (lambda exchange: Answer(Result(0)), lambda exchange: Answer(Result(0), b"123")):
        bench = Bench(line)
        bench.claim("somebody")
        with pytest.raises(BadAnswer, match="a pull of 2 bytes brought"):
            bench.result(calls.pull(bench.board, "uart0", "pull", 2))


# -- user modules --------------------------------------------------------------------------------


class Loader:
    """A 4S that keeps modules by their identifiers."""

    def __init__(self, *modules, keeps=True):
        self.modules = [identifier(name) for name in modules]
        self.keeps = keeps
        self.loaded = []

    def __call__(self, exchange):
        match exchange.request:
            case Call(3, 1, _, ((_, wanted),)):
                if wanted in self.modules:
                    return Answer(Result(self.modules.index(wanted)))
                return Answer(failed())
            case Load(_):
                self.loaded.append(exchange.data)
                if self.keeps:
                    self.modules.append(identifier("mine"))
                return Answer(Result(0))
            case Call(user=True):
                return Answer(Result(0))
        raise AssertionError(exchange)


def test_a_module_is_bound_in_turns():
    bench = Bench(Carbon(on_s4=Loader()))
    assert bench.result(calls.bind(bench.board, "mine", IMAGE)) == 0
    assert len(bench.ran) == 3
    assert bench.result(calls.bind(bench.board, "mine", None)) == 0
    assert len(bench.ran) == 4


def test_a_module_that_nobody_has_is_an_error():
    bench = Bench(Carbon(on_s4=Loader()))
    with pytest.raises(BoardError, match="E_MODULE"):
        bench.result(calls.bind(bench.board, "mine", None))


def test_a_module_whose_memory_is_free_is_not_used():
    bench = Bench(Carbon(on_s4=Loader("other", "mine")))
    with pytest.raises(ModuleUnsafe, match=r"mine has the index 1.*reset the 4S"):
        bench.result(calls.bind(bench.board, "mine", None))
    with pytest.raises(BadValue, match="first user module alone"):
        calls.user_call(bench.board, 1, 0, [])


def test_the_recorded_module_is_bound_and_called():
    found = vector("gen1_usb_load/4s.bind.armtest").content
    image = bytes.fromhex(found["image"])
    bench = Bench(Carbon(on_s4=Loader(found.get("name", "armtest"))))
    assert bench.result(calls.bind(bench.board, "armtest", image)) == 0


@pytest.mark.parametrize(
    ("name", "image", "field"),
    [
        ("", None, "name"),
        ("x" * 64, None, "name"),
        ("other", IMAGE, "image"),
        ("mine", IMAGE[:40], "image"),
        ("mine", bytes(44), "image"),
    ],
)
def test_images_are_checked(name, image, field):
    with pytest.raises(BadValue) as caught:
        calls.bind(Bench().board, name, image)
    assert caught.value.field == field


def test_the_virtual_machine_has_what_it_was_given():
    line = Fvm(lambda exchange: Answer(Result(0 if exchange.request.user else 3)))
    bench = Bench(line, UDP)
    assert bench.result(calls.bind(bench.board, "types", None)) == 3
    for refused in (
        lambda: calls.bind(bench.board, "mine", IMAGE),
        lambda: calls.load(bench.board, IMAGE),
        lambda: calls.reset(bench.board),
    ):
        with pytest.raises(BadValue):
            refused()


def test_the_second_generation_has_no_user_modules():
    board = Bench(transport=UDP, generation=G2).board
    for refused in (
        lambda: calls.bind(board, "mine", None),
        lambda: calls.load(board, IMAGE),
        lambda: calls.user_call(board, 0, 0, []),
    ):
        with pytest.raises(BadValue, match="second generation"):
            refused()


def test_user_functions_get_values_in_types_that_hold_them():
    bench = Bench(Carbon(on_s4=Loader("mine")))
    values = [0, 2**32 - 1, -1, -(2**31)]
    assert bench.result(calls.user_call(bench.board, 0, 7, values)) == 0
    (exchange,) = bench.line.s4
    types = [Type.UINT32, Type.UINT32, Type.INT, Type.INT]
    assert exchange.request == Call(0, 7, Type.INT, (*zip(types, values, strict=True),), user=True)
    line = Fvm(lambda exchange: Answer(Result(0xFFFFFFFE)))
    bench = Bench(line, UDP)
    assert bench.result(calls.user_call(bench.board, 5, 7, [2**40])) == -2
    assert bench.result(calls.user_call(bench.board, 5, 7, [], Type.UINT32)) == 0xFFFFFFFE
    assert bench.result(calls.user_call(bench.board, 5, 7, [], Type.VOID)) is None
    assert line.seen[0].request.arguments == ((Type.UINT64, 2**40),)


@pytest.mark.parametrize("value", [True, None, "1", 1.0])
def test_what_is_no_number_is_no_value(value):
    with pytest.raises(BadValue) as caught:
        calls.user_call(Bench().board, 0, 0, [1, value])
    assert caught.value.field == "values[1]"


@given(
    st.integers(-5, 300),
    st.integers(-5, 300),
    st.lists(st.one_of(st.integers(), st.integers(-(2**31), 2**32), st.booleans()), max_size=6),
    st.sampled_from(Type),
    st.sampled_from(Transport),
)
def test_user_calls_that_a_processor_can_not_take_become_no_turn(
    index, function, values, returns, transport
):
    board = Bench(transport=transport).board
    try:
        job = calls.user_call(board, index, function, values, returns)
    except BadValue:
        return
    limits = LIMITS[board.processors.main]
    (exchange,) = asked_by(job)
    assert 0 <= index < (1 if transport is Transport.USB else limits.user_modules)
    assert 0 <= function <= 255
    assert returns in limits.returns
    assert len(values) <= 4
    assert {argument.type for argument in exchange.request.arguments} <= limits.arguments
    (read,) = RequestReader(Framing.UDP).feed(outgoing(exchange, Framing.UDP)[0])
    assert [argument.value for argument in read.request.arguments] == values


def asked_by(job):
    line = Fvm()
    carbon = Carbon(on_s4=line)
    run_job(job, lambda exchange: carbon(exchange) if is_of_u2(exchange) else line(exchange))
    return line.seen


def is_of_u2(exchange):
    return exchange.request[0] == 3 and not getattr(exchange.request, "user", False)


def test_an_image_is_loaded_in_one_turn():
    loader = Loader()
    bench = Bench(Carbon(on_s4=loader))
    assert bench.result(calls.load(bench.board, IMAGE)) is None
    assert (loader.loaded, len(bench.ran)) == ([IMAGE], 1)
    with pytest.raises(BadValue):
        calls.load(bench.board, b"no image")


# -- the board as a whole ------------------------------------------------------------------------


def test_a_reset_is_one_turn():
    bench = Bench()
    assert bench.result(calls.reset(bench.board)) is None
    assert bench.line.u2[:2] == [hold_s4(), release_s4()]
    assert len(bench.ran) == 1


def test_a_board_of_the_second_generation_is_asked_for_its_modules():
    def answer(exchange):
        match exchange.request:
            case Lookup("led"):
                return Answer(Result(3))
            case Lookup("gpio"):
                return Answer(Result(0))
            case Lookup("wdt"):
                return Answer(Result(0xFF))
            case Lookup("adc"):
                return Answer(Result(2**64 - 1))
            case Lookup(_):
                return Answer(Result(2**64 - 1, 16))
            case Call(3, 1):
                return Answer(Result(0))
        raise AssertionError(exchange)

    bench = Bench(Fvm(answer), UDP, G2)
    assert bench.result(calls.look_up(bench.board)) is None
    assert {name: module.index for name, module in bench.board.modules.items()} == {
        "gpio": 0, "led": 3, "wdt": 0xFF,
    }  # fmt: skip
    assert bench.result(calls.invoke(bench.board, "led", "rgb", [1, 2, 3])) is None


def test_a_board_of_the_first_generation_is_not_asked():
    bench = Bench()
    assert bench.result(calls.look_up(bench.board)) is None
    assert bench.ran == []


JOBS = {
    "call": lambda board: calls.invoke(board, "gpio", "read", [1]),
    "light": lambda board: calls.invoke(board, "led", "rgb", [1, 2, 3]),
    "push": lambda board: calls.push(board, "spi", "push", bytes(300)),
    "pull": lambda board: calls.pull(board, "spi", "pull", 300),
    "direct pull": lambda board: calls.pull(board, "uart0", "pull", 300),
    "bind": lambda board: calls.bind(board, "mine", IMAGE),
    "load": lambda board: calls.load(board, IMAGE),
    "user call": lambda board: calls.user_call(board, 0, 1, [2]),
    "reset": calls.reset,
}
ANSWERS = st.builds(
    Answer,
    st.builds(Result, st.sampled_from([0, 0, 0xFFFF, 0xFFFFFFFF, 77]), st.sampled_from([0, 0, 0,
              0, 1, 18, 31, 99])),
    st.one_of(st.none(), st.binary(max_size=6)),
)  # fmt: skip


@given(st.sampled_from(sorted(JOBS)), st.lists(ANSWERS, max_size=30))
def test_whatever_a_board_answers_a_job_ends_with_a_result_or_a_named_error(name, answers):
    replies = iter(answers)

    def line(exchange):
        result, data = next(replies, Answer(Result(0, 31)))
        return Answer(result, bytes(data_to_host(exchange.request)) if data is None else data)

    bench = Bench(line)
    bench.claim("somebody")
    told = bench.ask("somebody", JOBS[name](bench.board))
    bench.run()
    ((_, error),) = told.results
    assert error is None or isinstance(errors.named(error), BusworkError)
    # And what comes after it is the next one's.
    bench.line = Carbon(on_s4=lambda exchange: Answer(Result(42)))
    assert bench.result(calls.invoke(bench.board, "gpio", "read", [1])) == 42


def test_an_exchange_is_made_when_the_job_is():
    """What is asked is not looked at again, whatever becomes of it."""
    values = [1, 2, 3]
    bench = Bench()
    job = calls.invoke(bench.board, "led", "rgb", values)
    values[:] = [999]
    bench.result(job)
    assert bench.line.u2 == [Exchange(Call(2, 1, Type.VOID, ((0, 1), (0, 2), (0, 3))))]

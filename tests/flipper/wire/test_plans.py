import pytest
from flipper.wire.boards import PULL_TIMEOUT, PUSH_TIMEOUT, Bridge, over_bridge, run
from flipper.wire.vectors import vector
from hypothesis import given
from hypothesis import strategies as st

from buswork.flipper.wire import plans
from buswork.flipper.wire.crc import identifier
from buswork.flipper.wire.errors import BoardError, Error
from buswork.flipper.wire.exchanges import Answer, Exchange
from buswork.flipper.wire.modules import TABLES
from buswork.flipper.wire.packets import (
    Allocate,
    Call,
    Free,
    Load,
    Pull,
    Push,
    Read,
    Write,
    data_to_host,
    encode_request,
)
from buswork.flipper.wire.plans import (
    BridgeError,
    bind,
    bridged,
    drained,
    hold_s4,
    pull2,
    push2,
    release_s4,
)
from buswork.flipper.wire.results import Result, failed
from buswork.flipper.wire.terms import BadAnswer, Generation, Processor, Type

G1, G2 = Generation
S4 = TABLES[G1, Processor.S4]
READ = Exchange(plans.standard(*S4.find("gpio", "read"), 0xFF))


def answering(result, data=b""):
    return lambda exchange: Answer(result, data[: data_to_host(exchange.request)])


# -- the bridge ----------------------------------------------------------------------------------


def test_a_call_of_the_4s_is_a_push_and_a_pull():
    board = Bridge(answering(Result(0x00400001)))
    asked, answer = run(bridged(READ), board)
    assert asked == [
        Exchange(Push(3, 2, 64), encode_request(READ.request)),
        Exchange(Pull(3, 3, 5)),
    ]
    assert answer == Answer(Result(0x00400001))


@given(st.integers(1, 1000))
def test_data_cross_the_bridge_in_blocks(length):
    data = bytes(place % 251 for place in range(length))
    for request, payload in ((Push(9, 6, length), data), (Pull(9, 7, length), b"")):
        got = []

        def s4(exchange, got=got):
            got.append(exchange)
            return Answer(Result(0), data[: data_to_host(exchange.request)])

        board = Bridge(s4)
        asked, answer = run(bridged(Exchange(request, payload)), board)
        assert got == [Exchange(request, payload)]
        assert answer == Answer(Result(0), b"" if payload else data)
        assert board.longest <= 128
        assert len(asked) == 2 + -(-length // 128)


@pytest.mark.parametrize("late", [1, 2])
def test_an_answer_that_lost_the_race_is_pulled_again(late):
    asked, answer = run(bridged(READ), Bridge(answering(Result(7)), late=late))
    assert answer == Answer(Result(7))
    assert asked[1:] == [Exchange(Pull(3, 3, 5))] * (1 + late)


def test_a_silent_4s_is_given_up():
    with pytest.raises(BridgeError, match=r"read from the 4S.*E_UART0_PULL_TI") as caught:
        run(bridged(READ), Bridge(answering(Result(7)), late=3))
    assert caught.value.timed_out
    assert caught.value.result == PULL_TIMEOUT
    _, answer = run(bridged(READ, attempts=4), Bridge(answering(Result(7)), late=3))
    assert answer == Answer(Result(7))


def test_a_push_that_fails_is_the_last():
    board = Bridge(answering(Result(0)), pushes=1)
    plan = bridged(Exchange(Push(9, 6, 200), bytes(200)))
    with pytest.raises(BridgeError, match="could not write to the 4S") as caught:
        run(plan, board)
    assert (caught.value.result, caught.value.timed_out) == (PUSH_TIMEOUT, False)
    assert board.pushes == -1


@pytest.mark.parametrize("result", [Result(1), Result(0xFFFFFFFF), Result(0, 30), Result(0, 1)])
def test_a_value_or_an_error_that_is_not_0_is_a_failure(result):
    with pytest.raises(BridgeError, match="write to"):
        run(bridged(READ), answering(result, bytes(5)))
    with pytest.raises(BridgeError, match="read from"):
        run(bridged(READ), lambda exchange: Answer(
            Result(0) if isinstance(exchange.request, Push) else result, bytes(5)))  # fmt: skip


def test_a_pull_brings_what_was_asked_for():
    with pytest.raises(BadAnswer, match="a pull of 5 bytes brought 0"):
        run(bridged(READ), answering(Result(0)))


def test_what_is_left_is_drained():
    board = Bridge(answering(Result(0)))
    board.said += bytes(7)
    asked, count = run(drained(), board)
    assert count == 7
    assert asked == [Exchange(Pull(3, 3, 1))] * 8
    board.said += bytes(256)
    assert run(drained(), board)[1] == 256
    board.said += bytes(257)
    with pytest.raises(BadAnswer, match="more than 256 bytes"):
        run(drained(), board)
    with pytest.raises(BadAnswer, match="more than 256 bytes"):
        run(drained(), answering(Result(0), b"x"))


def test_the_reset_of_the_4s_is_a_pin_of_the_u2():
    assert hold_s4().request == Call(
        1, 2, Type.VOID, ((Type.UINT32, 0), (Type.UINT32, 0x10))
    )  # fmt: skip
    assert release_s4().request == Call(
        1, 2, Type.VOID, ((Type.UINT32, 0x10), (Type.UINT32, 0))
    )  # fmt: skip


def test_a_sign_of_life_is_the_first_function_of_the_first_module():
    """As which adc.configure of the 4S was recorded; here it is button.configure of the U2."""
    ((_, packet), _), _ = vector("gen1_usb_board/4s.adc.configure").turns
    assert encode_request(plans.ALIVE.request) == packet


# -- user modules --------------------------------------------------------------------------------


class Loader:
    """A 4S that has modules."""

    def __init__(self, *modules, works=True):
        self.modules = [identifier(name) for name in modules]
        self.works = works
        self.loaded = []

    def __call__(self, exchange):
        match exchange.request:
            case Call(3, 1, Type.INT, ((Type.UINT16, wanted),)):
                if wanted in self.modules:
                    return Answer(Result(self.modules.index(wanted)))
                return Answer(failed())
            case Load(_):
                self.loaded.append(exchange.data)
                if self.works:
                    self.modules.append(identifier("mine"))
                return Answer(Result(0))
        raise AssertionError(exchange)


def test_a_module_that_is_there_is_not_loaded():
    board = Loader("other", "mine")
    assert run(bind("mine", b"image"), board)[1] == 1
    assert board.loaded == []


def test_a_module_that_is_not_there_is_loaded():
    board = Loader()
    asked, index = run(bind("mine", b"image"), board)
    assert (index, board.loaded, len(asked)) == (0, [b"image"], 3)
    board = Loader()
    assert run(over_bridge(bind("mine", b"x" * 200)), Bridge(board))[1] == 0
    assert board.loaded == [b"x" * 200]


@pytest.mark.parametrize(("image", "asked"), [(None, 1), (b"", 1), (b"image", 2)])
def test_a_module_that_can_not_be_had_is_an_error(image, asked):
    board = Loader(works=False)
    with pytest.raises(BoardError, match="E_MODULE") as caught:
        run(bind("mine", image), board)
    assert caught.value.number == 15
    assert len(board.loaded) == asked - 1


def test_errors_while_binding_are_the_boards():
    with pytest.raises(BoardError, match="E_NULL"):
        run(bind("mine", b"image"), answering(Result(0, 2)))
    with pytest.raises(BadAnswer, match="can't have the index 256"):
        run(bind("mine", None), answering(Result(256)))


# -- the second generation -----------------------------------------------------------------------


class Memory:
    """A virtual machine of the second generation whose uart0 is a queue."""

    def __init__(self, **fails):
        self.blocks = {}
        self.queue = b""
        self.fails = fails

    def __call__(self, exchange):
        request, data = exchange
        error = self.fails.get(type(request).__name__, 0)
        if error:
            return Answer(Result(2**64 - 1, error))
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
            case Call(12, 9, Type.INT, ((Type.PTR, address), (Type.UINT32, length))):
                assert len(self.blocks[address]) == length
                self.queue += self.blocks[address]
                return Answer(Result(1))
            case Call(12, 5, Type.INT, ((Type.PTR, address), (Type.UINT32, length))):
                self.blocks[address], self.queue = self.queue[:length], self.queue[length:]
                return Answer(Result(1))
            case _:
                raise AssertionError(exchange)
        return Answer(Result(2**64 - 1))


UART_READ, UART_WRITE = (
    TABLES[G2, Processor.FVM].find("uart0", name) for name in ("read", "write")
)


def test_bulk_data_of_the_second_generation():
    board = Memory()
    asked, answer = run(push2(*UART_WRITE, b"hello"), board)
    assert [type(exchange.request) for exchange in asked] == [Allocate, Write, Call, Free]
    assert answer == Answer(Result(1))
    asked, answer = run(pull2(*UART_READ, 5), board)
    assert [type(exchange.request) for exchange in asked] == [Allocate, Call, Read, Free]
    assert answer == Answer(Result(1), b"hello")
    assert board.blocks == {}


@pytest.mark.parametrize("step", ["Write", "Call", "Read"])
def test_memory_is_freed_whatever_failed(step):
    for plan in (push2(*UART_WRITE, b"hello"), pull2(*UART_READ, 5)):
        board = Memory(**{step: 11})
        if step != "Write":
            board.queue = b"hello"
        _, answer = run(plan, board)
        assert board.blocks == {}
        if (plan.__name__, step) not in (("push2", "Read"), ("pull2", "Write")):
            assert answer == Answer(Result(2**64 - 1, 11))


def test_boards_without_memory_say_so():
    for result in (Result(0), Result(2**64 - 1, 1)):
        with pytest.raises(BoardError, match="E_MALLOC") as caught:
            run(push2(*UART_WRITE, b"hello"), answering(result))
        assert caught.value.error is Error.E_MALLOC

"""Tests of buswork.flipper.model.bridge."""

import pytest
from flipper.model.bench import Carbon, filled, run_turn
from flipper.wire.boards import PULL_TIMEOUT

from buswork.flipper.model.bridge import Bridge
from buswork.flipper.model.work import Pause
from buswork.flipper.wire.errors import BoardError
from buswork.flipper.wire.exchanges import Answer, Exchange
from buswork.flipper.wire.modules import TABLES
from buswork.flipper.wire.packets import Argument, Call, Pull, Push, data_to_host
from buswork.flipper.wire.plans import BridgeError, hold_s4, release_s4, standard
from buswork.flipper.wire.results import Result
from buswork.flipper.wire.terms import BadAnswer, Generation, Processor, Type

U2 = TABLES[Generation.G1, Processor.U2]
READ = Exchange(standard(*TABLES[Generation.G1, Processor.S4].find("gpio", "read"), 0xFF))
CONFIGURE = Exchange(Call(3, 0, Type.INT, (Argument(Type.UINT8, 0), Argument(Type.UINT8, 1))))
DRAIN = Exchange(Pull(3, 3, 1))


class Recorder:
    """A line that keeps what went over it, and fails where it is told to."""

    def __init__(self, board=None, fails=()):
        self.board = board or Carbon()
        self.fails = set(fails)
        self.seen = []

    def __call__(self, exchange):
        self.seen.append(exchange)
        if len(self.seen) in self.fails:
            raise ConnectionResetError
        return self.board(exchange)

    def took(self):
        seen, self.seen = self.seen, []
        return seen


def ready(board=None):
    """A bridge that can be trusted, and its line."""
    bridge, line = Bridge(), Recorder(board)
    run_turn(bridge.turn(READ), line)
    line.took()
    return bridge, line


def is_plain(seen):
    """A packet and its result, and nothing else."""
    return [type(exchange.request) for exchange in seen] == [Push, Pull]


def test_at_first_nothing_is_trusted():
    bridge, line = Bridge(), Recorder()
    assert run_turn(bridge.turn(READ), line) == Answer(Result(0))
    assert line.seen[:2] == [CONFIGURE, DRAIN]
    assert is_plain(line.seen[2:])


def test_then_a_call_costs_what_it_must():
    bridge, line = ready()
    for _ in range(3):
        run_turn(bridge.turn(READ), line)
        assert is_plain(line.took())


def test_what_somebody_left_there_is_no_answer():
    line = Recorder(Carbon(on_s4=lambda exchange: Answer(Result(42))))
    line.board.bridge.said += b"\1\2\3\4\5"
    assert run_turn(Bridge().turn(READ), line) == Answer(Result(42))


def test_after_a_silent_4s_the_next_call_begins_with_draining():
    bridge, line = ready(Carbon(on_s4=lambda exchange: Answer(Result(42))))
    line.board.bridge.late = 3
    with pytest.raises(BridgeError):
        run_turn(bridge.turn(READ), line)
    line.took()
    # What came late is not the next one's answer.
    assert len(line.board.bridge.said) == 5
    assert run_turn(bridge.turn(READ), line) == Answer(Result(42))
    assert line.took()[:6] == [DRAIN] * 6
    assert line.board.bridge.said == b""


def test_after_a_bad_answer_too():
    board = Carbon()
    bridge, line = ready(board)
    line.board = lambda exchange: Answer(Result(0))  # a pull without data
    with pytest.raises(BadAnswer):
        run_turn(bridge.turn(READ), line)
    line.took()
    line.board = board
    run_turn(bridge.turn(READ), line)
    assert line.took()[0] == DRAIN


@pytest.mark.parametrize("step", [1, 2])
def test_wherever_the_line_breaks_the_next_call_begins_with_draining(step):
    bridge, line = ready()
    line.fails = {step}
    with pytest.raises(ConnectionResetError):
        run_turn(bridge.turn(READ), line)
    line.took()
    line.fails = ()
    run_turn(bridge.turn(READ), line)
    seen = line.took()
    assert seen[0] == DRAIN
    assert is_plain(seen[-2:])


@pytest.mark.parametrize("steps", [1, 2])
def test_a_turn_that_is_closed_leaves_the_same(steps):
    bridge, line = ready()
    turn = bridge.turn(READ)
    step = next(turn)
    for _ in range(steps - 1):
        step = turn.send(line(step))
    turn.close()
    line.took()
    run_turn(bridge.turn(READ), line)
    assert line.took()[0] == DRAIN


def test_draining_that_fails_is_done_again():
    bridge, line = ready()
    line.fails = {1, 2}
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            run_turn(bridge.turn(READ), line)
    assert line.took()[1:] == [DRAIN]
    line.fails = ()
    run_turn(bridge.turn(READ), line)
    assert line.took()[0] == DRAIN


def test_the_uart_is_set_up_again_for_who_was_not_told():
    bridge, line = ready()
    bridge.doubt()
    line.fails = {1}
    with pytest.raises(ConnectionResetError):
        run_turn(bridge.turn(READ), line)
    line.took()
    line.fails = ()
    run_turn(bridge.turn(READ), line)
    assert line.took()[:2] == [CONFIGURE, DRAIN]


def test_a_uart_that_can_not_be_set_up_is_an_error():
    line = Recorder(Carbon(on_u2=lambda exchange: Answer(Result(0, 20))))
    with pytest.raises(BoardError, match="E_CONFIGURATION"):
        run_turn(Bridge().turn(READ), line)
    assert line.seen == [CONFIGURE]


def test_who_uses_the_uart_directly_leaves_doubt():
    bridge, line = ready()
    direct = Exchange(Push(3, 2, 3), b"N#\n")
    line.board = filled
    assert run_turn(bridge.direct(direct), line) == Answer(Result(0))
    assert line.took() == [direct]
    line.board = Carbon()
    run_turn(bridge.turn(READ), line)
    assert line.took()[:2] == [CONFIGURE, DRAIN]


def test_a_reset_holds_the_4s_for_its_time():
    bridge, line = ready()
    turn = bridge.reset()
    assert next(turn) == hold_s4()
    pause = turn.send(Answer(Result(0)))
    assert pause == Pause(0.01)
    assert next(turn) == release_s4()
    assert turn.send(Answer(Result(0))) == DRAIN
    with pytest.raises(StopIteration) as done:
        turn.send(Answer(PULL_TIMEOUT, b"\0"))
    assert done.value.value == Answer(Result(0))
    run_turn(bridge.turn(READ), line)
    assert is_plain(line.took())


@pytest.mark.parametrize("answers", [[Result(0, 10)], [Result(0), Result(0, 10)]])
def test_a_reset_that_the_u2_refuses_is_an_error(answers):
    numbers = iter(answers)
    with pytest.raises(BoardError, match="E_FMR"):
        run_turn(Bridge().reset(), lambda exchange: Answer(next(numbers)))


def test_data_cross_whole():
    data = bytes(range(200))
    line = Recorder(
        Carbon(on_s4=lambda exchange: Answer(Result(0), data[: data_to_host(exchange.request)]))
    )
    bridge = Bridge()
    run_turn(bridge.turn(Exchange(Push(9, 6, 200), data)), line)
    assert line.board.s4 == [Exchange(Push(9, 6, 200), data)]
    assert run_turn(bridge.turn(Exchange(Pull(9, 7, 200))), line).data == data


def test_a_reset_that_breaks_off_leaves_nothing_trusted():
    bridge, line = ready()
    line.fails = {2}
    with pytest.raises(ConnectionResetError):
        run_turn(bridge.reset(), line)
    line.took()
    line.fails = ()
    run_turn(bridge.turn(READ), line)
    assert line.took()[0] == DRAIN

import pytest
from flipper.model.bench import run_job, run_turn

from buswork.flipper.model.work import Job, Pause, known, single
from buswork.flipper.wire.exchanges import Answer
from buswork.flipper.wire.plans import ALIVE
from buswork.flipper.wire.results import Result


def test_a_turn_of_one_exchange():
    seen = []

    def line(exchange):
        seen.append(exchange)
        return Answer(Result(7))

    assert run_turn(single(ALIVE), line) == Answer(Result(7))
    assert seen == [ALIVE]


def test_after_a_pause_a_turn_is_told_nothing():
    told = []

    def turn():
        told.append((yield Pause(0.01)))
        return (yield ALIVE)

    assert run_turn(turn(), lambda exchange: Answer(Result(1))) == Answer(Result(1))
    assert told == [None]


def test_what_is_known_needs_no_turn():
    def line(exchange):
        raise AssertionError(exchange)

    assert run_job(Job(known("this")), line) == "this"


def test_a_job_has_the_answers_of_its_turns():
    def turns():
        first = yield single(ALIVE)
        second = yield single(ALIVE)
        return first.result.value, second.result.value

    numbers = iter((1, 2))
    assert run_job(Job(turns()), lambda exchange: Answer(Result(next(numbers)))) == (1, 2)


def test_a_job_has_the_errors_of_its_turns():
    def broken(exchange):
        raise ConnectionResetError

    def turns():
        return (yield single(ALIVE))

    with pytest.raises(ConnectionResetError):
        run_job(Job(turns()), broken)

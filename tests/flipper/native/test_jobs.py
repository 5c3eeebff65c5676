"""Waiting for jobs."""

import asyncio
import gc

import pytest

from buswork.flipper.errors import Disconnected
from buswork.flipper.model.boards import Boards
from buswork.flipper.model.work import Job, single
from buswork.flipper.native.jobs import Waiting, finished
from buswork.flipper.wire.exchanges import Answer
from buswork.flipper.wire.plans import ALIVE
from buswork.flipper.wire.results import Result
from buswork.native.clock import Clock

ANSWER = Answer(Result(5))


@pytest.fixture
def boards():
    return Boards()


@pytest.fixture
def board(boards):
    return boards.attach("usb:1-1")


def job():
    def turns():
        answer = yield single(ALIVE)
        return answer.result.value

    return Job(turns())


async def begun(board):
    task = asyncio.create_task(finished(board, "me", 1000, job(), Clock()))
    await asyncio.sleep(0)
    return task


async def test_what_it_ends_with(board):
    task = await begun(board)
    board.turns.next().done(ANSWER, 0.0)
    assert await task == 5
    task = await begun(board)
    board.turns.next().failed(LookupError("of the board"), 0.0)
    with pytest.raises(LookupError, match="of the board"):
        await task


async def test_what_speaks_against_it(boards, board):
    boards.detach("usb:1-1")
    with pytest.raises(Disconnected):
        await finished(board, "me", 1000, job(), Clock())


async def test_who_leaves_takes_it_along(board):
    task = await begun(board)
    assert board.turns.has_work
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert not board.turns.has_work


async def test_who_leaves_at_the_last_moment(boards, board):
    """It ends while word of the leaving is on its way."""
    task = await begun(board)
    task.cancel()
    board.turns.next().done(ANSWER, 0.0)
    await asyncio.wait([task])
    assert task.cancelled()
    assert not board.turns.has_work


async def test_who_does_not_want_the_result_any_more(board, caplog):
    waiting = Waiting(board, "me", 1000, job(), Clock())
    waiting.cancel()
    assert not board.turns.has_work
    failed = Waiting(board, "me", 1000, job(), Clock())
    board.turns.next().failed(LookupError("of the board"), 0.0)
    failed.cancel()
    del failed
    gc.collect()
    assert caplog.messages == []

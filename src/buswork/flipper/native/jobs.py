"""Waiting for a job as coroutines do; who leaves takes it along."""

import asyncio
from typing import TypeVar

from buswork.flipper.model.boards import Board
from buswork.flipper.model.claims import Owner
from buswork.flipper.model.work import Job
from buswork.native.clock import Clock

T = TypeVar("T")


async def finished(board: Board, owner: Owner, uid: int, job: Job[T], clock: Clock) -> T:
    """What the job ends with, or at once what speaks against it."""
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def tell(result: T | None, error: Exception | None) -> None:
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    asked = board.turns.ask(owner, uid, job, tell)
    try:
        # Of a future that is cancelled itself, nobody could be told.
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        board.turns.cancel(asked, clock.now())
        raise

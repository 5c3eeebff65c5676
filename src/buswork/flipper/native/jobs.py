"""Waiting for a job as coroutines do; who leaves takes it along."""

import asyncio
from typing import Generic, TypeVar

from buswork.flipper.model.boards import Board
from buswork.flipper.model.claims import Owner
from buswork.flipper.model.work import Job
from buswork.native.clock import Clock

T = TypeVar("T")


class Waiting(Generic[T]):
    """For a job, which is asked for when this is made; that raises at once what speaks against it.

    Who makes it awaits its result, or cancels it.
    """

    def __init__(self, board: Board, owner: Owner, uid: int, job: Job[T], clock: Clock) -> None:
        self._turns = board.turns
        self._clock = clock
        self._done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asked = board.turns.ask(owner, uid, job, self._tell)

    async def result(self) -> T:
        try:
            # Of a future that is cancelled itself, nobody could be told.
            return await asyncio.shield(self._done)
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> None:
        self._turns.cancel(self._asked, self._clock.now())
        if self._done.done():
            self._done.exception()  # nobody asks for it any more

    def _tell(self, result: T | None, error: Exception | None) -> None:
        if error is not None:
            self._done.set_exception(error)
        else:
            self._done.set_result(result)  # type: ignore[arg-type]


async def finished(board: Board, owner: Owner, uid: int, job: Job[T], clock: Clock) -> T:
    """What the job ends with, or at once what speaks against it."""
    return await Waiting(board, owner, uid, job, clock).result()

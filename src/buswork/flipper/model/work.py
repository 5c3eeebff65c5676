"""Work for a board's line: a turn runs without interruption, a job is what one caller asked.

A line runs a turn so, in any thread, one at a time:

    step = next(turn)
    while True:                                              # until StopIteration, with the answer
        step = next(turn) if isinstance(step, Pause) else turn.send(transfer(step))

What fails is thrown into the turn, or the turn is closed.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from buswork.flipper.wire.exchanges import Answer, Exchange

T = TypeVar("T")


class Pause(NamedTuple):
    """The line waits, with nothing on its way."""

    seconds: float


Step = Exchange | Pause
Turn = Generator[Step, Answer, Answer]


def single(exchange: Exchange) -> Turn:
    return (yield exchange)


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """`turns` yields turns and is sent their answers; what it returns is the caller's."""

    turns: Generator[Turn, Answer, T]
    needs_service: bool = False
    size: int = 0  # how many bytes it keeps for the caller


def known(value: T) -> Generator[Turn, Answer, T]:
    """For a job that needs no turn."""
    yield from ()
    return value

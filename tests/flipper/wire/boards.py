"""Boards as far as plans see them: they take an exchange and answer it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from buswork.flipper.wire.exchanges import Answer, Exchange, Refused, RequestReader, answering
from buswork.flipper.wire.packets import Pull, Push
from buswork.flipper.wire.plans import bridged
from buswork.flipper.wire.results import Result, failed
from buswork.flipper.wire.terms import Framing

PULL_TIMEOUT = Result(0xFFFF, 31)
PUSH_TIMEOUT = Result(0xFFFF, 30)


def run(plan, board):
    """All exchanges of a plan, and what it returns."""
    asked = []
    answer = None
    while True:
        try:
            exchange = plan.send(answer)
        except StopIteration as done:
            return asked, done.value
        asked.append(exchange)
        answer = board(exchange)


def over_bridge(plan):
    """A plan for the 4S as one for the U2."""
    answer = None
    while True:
        try:
            exchange = plan.send(answer)
        except StopIteration as done:
            return done.value
        answer = yield from bridged(exchange)


@dataclass
class Bridge:
    """A U2 with a 4S behind it that answers by a function."""

    s4: Callable[[Exchange], Answer]
    late: int = 0  # so many pulls come too early
    pushes: int = 1000  # so many go well
    line: RequestReader = field(default_factory=lambda: RequestReader(Framing.UART))
    said: bytearray = field(default_factory=bytearray)
    longest: int = 0

    def __call__(self, exchange):
        request, data = exchange
        self.longest = max(self.longest, request.length)
        match request:
            case Push(3, 2):
                self.pushes -= 1
                if self.pushes < 0:
                    return Answer(PUSH_TIMEOUT)
                for asked in self.line.feed(data):
                    answer = Answer(failed()) if isinstance(asked, Refused) else self.s4(asked)
                    self.said += b"".join(answering(answer, Framing.UART))
                return Answer(Result(0))
            case Pull(3, 3, length):
                if len(self.said) < length or self.late > 0:
                    self.late -= 1
                    return Answer(PULL_TIMEOUT, bytes(length))
                pulled = bytes(self.said[:length])
                del self.said[:length]
                return Answer(Result(0), pulled)
        raise AssertionError(exchange)

"""Packets of strangers: what they mean is asked of the board, and answered as a board would.

To a stranger, every board is the virtual machine: it has the numbers of its modules, and what is
too long for one turn is split (section 8). A board on USB has the same modules, whichever of its
processors runs them.
"""

from collections.abc import Generator

from buswork.errors import BusworkError
from buswork.flipper.errors import refusal
from buswork.flipper.model.boards import Board
from buswork.flipper.model.calls import MAX_TRANSFER_BYTES, Target, check_safe, target
from buswork.flipper.model.work import Job, Turn, known
from buswork.flipper.wire.checks import Invocation, Transfer, understood
from buswork.flipper.wire.errors import BoardError, Error
from buswork.flipper.wire.exchanges import Answer, Exchange, Refused, blocks
from buswork.flipper.wire.images import parse_image
from buswork.flipper.wire.modules import Kind
from buswork.flipper.wire.packets import Call, Event, Load, Lookup, Push, Receive, Send
from buswork.flipper.wire.plans import BridgeError
from buswork.flipper.wire.results import Result, encode_value, refused
from buswork.flipper.wire.terms import BadAnswer, BadValue, Processor

# What reads and alters the memory of the 4S, or runs code there: a right of its own.
MEMORY_REQUESTS = Send | Receive | Load
_FAILURES = (BusworkError, BoardError, BridgeError, BadAnswer)


def packet(
    board: Board, request: Exchange | Refused, may_load: bool = False
) -> Job[Answer | Refused]:
    """Fails with nothing of the board's or the stranger's: that is its answer."""
    if isinstance(request, Refused):
        return Job(known(request))
    try:
        job = _understood(board, request, may_load)
    except BadValue as error:
        return Job(known(refusal(error)))
    return Job(_answered(job.turns), job.needs_service, job.size)


def _answered(turns: Generator[Turn, Answer, Answer]) -> Generator[Turn, Answer, Answer | Refused]:
    try:
        return (yield from turns)
    except _FAILURES as error:
        return refusal(error)


def _understood(board: Board, exchange: Exchange, may_load: bool) -> Job[Answer]:
    request, data = exchange
    if isinstance(request, Lookup):
        return Job(known(_looked_up(board, request)))
    match understood(board.processors.numbering, request, MAX_TRANSFER_BYTES):
        case Invocation(module, function, values):
            found = target(board, module, function)
            return Job(_called(found, found.called(values)), found.needs_service)
        case Transfer(module, function, length):
            kind = Kind.PUSH if isinstance(request, Push) else Kind.PULL
            found = target(board, module, function, kind)
            turns = _pushed(found, data) if kind is Kind.PUSH else _pulled(found, length)
            return Job(turns, found.needs_service, length)
        case Event():
            return Job(known(Answer(Result(0))))
        case other:
            return _raw(board, Exchange(other, data), may_load)


def _raw(board: Board, exchange: Exchange, may_load: bool) -> Job[Answer]:
    """As it is: a call of a user module, or what is done to memory."""
    request, data = exchange
    if isinstance(request, MEMORY_REQUESTS) and not may_load:
        raise BadValue("request", "you may not touch the memory of the 4S")
    if isinstance(request, Load):
        parse_image(data)
    if isinstance(request, Call):
        check_safe(board.processors.main, request.module)
    return Job(_passed(board, exchange), size=len(data))


def _looked_up(board: Board, request: Lookup) -> Answer:
    module = board.modules.get(request.name)
    return Answer(Result(module.index) if module else refused(Error.E_MODULE, board.generation))


def _passed(board: Board, exchange: Exchange) -> Generator[Turn, Answer, Answer]:
    return (yield board.processors.turn(board.processors.main, exchange))


def _called(found: Target, exchange: Exchange) -> Generator[Turn, Answer, Answer]:
    return _as_its_own(found, (yield found.turn(exchange)))


def _pushed(found: Target, data: bytes) -> Generator[Turn, Answer, Answer]:
    answer = Answer(Result(0))
    for block in blocks(data, found.block_bytes):
        answer = yield found.pushed(block)
        if found.failure(answer) is not None:
            break
    return _as_its_own(found, answer)


def _pulled(found: Target, length: int) -> Generator[Turn, Answer, Answer]:
    """All the data that were announced, or zeros for them: the stranger waits for as many."""
    data = bytearray()
    answer = Answer(Result(0))
    while len(data) < length:
        size = min(length - len(data), found.block_bytes)
        answer = yield found.pulled(size)
        data += answer.data
        if found.failure(answer, size) is not None:
            break
    return _as_its_own(found, answer, bytes(data.ljust(length, b"\0")))


def _as_its_own(found: Target, answer: Answer, data: bytes = b"") -> Answer:
    """The virtual machine's form of another processor's result."""
    value, error = answer.result
    if not error:
        value = encode_value(found.number(answer) or 0, found.function.returns, Processor.FVM)
    return Answer(Result(value, error), data)

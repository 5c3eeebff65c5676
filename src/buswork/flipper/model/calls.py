"""What callers ask of a board by names; all is checked before there is a job (section 15).

BadValue names the field that is wrong. The jobs raise BoardError for what the board refuses.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

from buswork.flipper.errors import ModuleUnsafe, TransferFailed
from buswork.flipper.model.boards import Board
from buswork.flipper.model.processors import is_reserved
from buswork.flipper.model.work import Job, Turn, known
from buswork.flipper.wire import checks, plans
from buswork.flipper.wire.crc import module_name
from buswork.flipper.wire.errors import BoardError
from buswork.flipper.wire.exchanges import Answer, Exchange, blocks
from buswork.flipper.wire.images import parse_image
from buswork.flipper.wire.modules import Function, Kind, Module, Table
from buswork.flipper.wire.packets import Argument, Load, Lookup, Pull, Push
from buswork.flipper.wire.results import interpret, raise_for
from buswork.flipper.wire.terms import (
    BLOCK_BYTES,
    BadAnswer,
    BadValue,
    Generation,
    Processor,
    Type,
    shown,
)

# Of a push or pull; what D-Bus brings in one message (16 MiB) has to hold it and a header.
MAX_TRANSFER_BYTES = 8 << 20
# One turn's data over UDP: they fit into one frame of any network.
UDP_BLOCK_BYTES = 1024
# What functions that transfer data return if all went well (section 6).
_SUCCESS: Final = {Generation.G1: 0, Generation.G2: 1}


@dataclass(frozen=True, slots=True)
class Target:
    """A function of a board, and the processor that runs it."""

    board: Board
    table: Table
    module: Module
    function: Function

    @property
    def processor(self) -> Processor:
        return self.table.processor

    @property
    def needs_service(self) -> bool:
        return is_reserved(self.processor, self.module, self.function)

    @property
    def block_bytes(self) -> int:
        """What one turn transfers."""
        return UDP_BLOCK_BYTES if self.processor is Processor.FVM else BLOCK_BYTES

    def turn(self, exchange: Exchange) -> Turn:
        return self.board.processors.turn(self.processor, exchange, self.needs_service)

    def called(self, values: Sequence[object]) -> Exchange:
        return Exchange(checks.call(self.table, self.module.name, self.function.name, values))

    def pushed(self, block: bytes) -> Turn:
        if self.board.generation is Generation.G2:
            return plans.push2(self.module, self.function, block)
        return self.turn(Exchange(self._transfer(Kind.PUSH, len(block)), block))

    def pulled(self, length: int) -> Turn:
        if self.board.generation is Generation.G2:
            return plans.pull2(self.module, self.function, length)
        return self.turn(Exchange(self._transfer(Kind.PULL, length)))

    def number(self, answer: Answer) -> int | None:
        """What the function returned; BoardError: it failed."""
        raise_for(answer.result, self.board.generation)
        return interpret(answer.result, self.function.returns, self.processor)

    def failure(self, answer: Answer, length: int = 0) -> BoardError | str | None:
        """Of a push, or of a pull of so much."""
        try:
            number = self.number(answer)
        except BoardError as error:
            return error
        if number != _SUCCESS[self.board.generation]:
            return f"{self.module.name}.{self.function.name} returned {number}"
        if len(answer.data) != length:
            raise BadAnswer(f"a pull of {length} bytes brought {len(answer.data)}")
        return None

    def _transfer(self, kind: Kind, length: int) -> Push | Pull:
        names = self.module.name, self.function.name
        return checks.transfer_request(self.table, *names, kind, length)


def target(board: Board, module: str, function: str, kind: Kind = Kind.CALL) -> Target:
    """What is meant by these names, which may be a push or pull."""
    found = Target(board, *board.processors.find(module, function))
    if kind is not Kind.CALL:
        checks.transfer(found.table, found.module.name, function, kind)
    return found


# -- calls -----------------------------------------------------------------------------------------


def invoke(board: Board, module: str, function: str, values: Sequence[object]) -> Job[int | None]:
    """Its result is the number that the function returned, None if it returns none."""
    found = target(board, module, function)
    return Job(_called(found, found.called(values)), found.needs_service)


def push(board: Board, module: str, function: str, data: bytes) -> Job[int]:
    """How many bytes went through: all, or it is TransferFailed."""
    found = target(board, module, function, Kind.PUSH)
    _check_length(len(data))
    return Job(_pushed(found, data), found.needs_service, len(data))


def pull(board: Board, module: str, function: str, length: object) -> Job[bytes]:
    found = target(board, module, function, Kind.PULL)
    size = _check_length(length)
    return Job(_pulled(found, size), found.needs_service, size)


def _called(found: Target, exchange: Exchange) -> Generator[Turn, Answer, int | None]:
    return found.number((yield found.turn(exchange)))


def _pushed(found: Target, data: bytes) -> Generator[Turn, Answer, int]:
    done = 0
    for block in blocks(data, found.block_bytes):
        failure = found.failure((yield found.pushed(block)))
        if failure is not None:
            raise TransferFailed(failure, done, len(data))
        done += len(block)
    return done


def _pulled(found: Target, length: int) -> Generator[Turn, Answer, bytes]:
    data = bytearray()
    while len(data) < length:
        size = min(length - len(data), found.block_bytes)
        answer = yield found.pulled(size)
        failure = found.failure(answer, size)
        if failure is not None:
            raise TransferFailed(failure, len(data), length)
        data += answer.data
    return bytes(data)


def _check_length(length: object) -> int:
    if isinstance(length, bool) or not isinstance(length, int):
        raise BadValue("length", "the length must be a whole number")
    if not 0 <= length <= MAX_TRANSFER_BYTES:
        raise BadValue("length", f"one call transfers 0 to {MAX_TRANSFER_BYTES} bytes")
    return length


# -- user modules (section 10) ---------------------------------------------------------------------


def bind(board: Board, name: str, image: bytes | None) -> Job[int]:
    """The index of a user module, which is loaded if it has to be and an image is there."""
    processor = _main_of_first(board)
    module_name(name)
    if image:
        _check_can_load(board)
        theirs = parse_image(image).name
        if theirs != name:
            # It would be loaded, and not be found.
            raise BadValue("image", f"the image is of {shown(theirs)!r}, not of {shown(name)!r}")
    return Job(_bound(board, processor, name, image), size=len(image or b""))


def user_call(
    board: Board, index: int, function: int, values: Sequence[int], returns: Type = Type.INT
) -> Job[int | None]:
    """Of a module that was bound. Whatever the function returns, the 4S says 0."""
    processor = _main_of_first(board)
    arguments = [_argument(place, value) for place, value in enumerate(values)]
    call = checks.user_call(processor, index, function, returns, arguments)
    check_safe(processor, index)
    return Job(_user_called(board, processor, Exchange(call), returns))


def load(board: Board, image: bytes) -> Job[None]:
    """A module or an application, which begins at once."""
    _main_of_first(board)
    _check_can_load(board)
    parse_image(image)
    return Job(_loaded(board, image), size=len(image))


def check_safe(processor: Processor, index: int) -> None:
    """The loader of the 4S keeps the first module alone, and frees others that it has told of."""
    if processor is Processor.S4 and index:
        raise BadValue("module", "the 4S keeps its first user module alone, which has the index 0")


def _bound(
    board: Board, processor: Processor, name: str, image: bytes | None
) -> Generator[Turn, Answer, int]:
    index = yield from _in_turns(board, processor, plans.bind(name, image, processor))
    try:
        check_safe(processor, index)
    except BadValue as error:
        raise ModuleUnsafe(f"{name} has the index {index}: {error}; reset the 4S first") from None
    return index


def _in_turns(
    board: Board, processor: Processor, plan: plans.Plan[int]
) -> Generator[Turn, Answer, int]:
    """Each exchange of a plan is a turn."""
    try:
        exchange = next(plan)
        while True:
            answer = yield board.processors.turn(processor, exchange)
            exchange = plan.send(answer)
    except StopIteration as done:
        index: int = done.value
        return index


def _user_called(
    board: Board, processor: Processor, exchange: Exchange, returns: Type
) -> Generator[Turn, Answer, int | None]:
    answer = yield board.processors.turn(processor, exchange)
    raise_for(answer.result, board.generation)
    return interpret(answer.result, returns, processor)


def _loaded(board: Board, image: bytes) -> Generator[Turn, Answer, None]:
    answer = yield board.processors.turn(Processor.S4, Exchange(Load(len(image)), image))
    raise_for(answer.result, board.generation)


def _argument(place: int, value: object) -> Argument:
    """The type that holds it: the prototypes of user modules are not known."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValue(f"values[{place}]", f"values[{place}] must be a whole number")
    if value < 0:
        return Argument(Type.INT, value)
    return Argument(Type.UINT32 if value <= Type.UINT32.highest else Type.UINT64, value)


def _main_of_first(board: Board) -> Processor:
    if board.generation is not Generation.G1:
        raise BadValue("module", "boards of the second generation have no user modules")
    return board.processors.main


def _check_can_load(board: Board) -> None:
    if board.processors.main is not Processor.S4:
        raise BadValue("image", "the virtual machine loads no images; it has what it was given")


# -- the board as a whole --------------------------------------------------------------------------


def reset(board: Board) -> Job[None]:
    """Starts the 4S afresh."""
    if board.processors.main is not Processor.S4:
        raise BadValue("request", "a board that is reached over the network has no reset")
    return Job(_reset(board))


def look_up(board: Board) -> Job[None]:
    """Which modules a board has; those of the first generation are known."""
    if board.generation is Generation.G1:
        return Job(known(None))
    return Job(_looked_up(board))


def _reset(board: Board) -> Generator[Turn, Answer, None]:
    yield board.processors.bridge.reset()


def _looked_up(board: Board) -> Generator[Turn, Answer, None]:
    indices = {}
    for name in board.modules:
        answer = yield board.processors.turn(board.processors.main, Exchange(Lookup(name)))
        if not answer.result.error and answer.result.value <= 0xFF:
            indices[name] = answer.result.value
    board.processors.has_only(indices)

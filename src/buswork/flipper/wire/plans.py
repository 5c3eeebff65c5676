"""What takes several exchanges, as generators: they yield an Exchange and are sent its Answer.

A plan does no I/O; who runs it does, in whatever way it likes:

    answer = plan.send(None)
    while True: answer = plan.send(transfer(exchange))      # until StopIteration, with the result
"""

from collections.abc import Generator
from typing import Final, TypeVar

from buswork.flipper.wire.crc import identifier
from buswork.flipper.wire.errors import BoardError, Error, number_of
from buswork.flipper.wire.exchanges import Answer, Exchange, blocks
from buswork.flipper.wire.modules import S4_RESET, TABLES, Function, Module
from buswork.flipper.wire.packets import (
    Allocate,
    Argument,
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
from buswork.flipper.wire.results import (
    RESULT_BYTES,
    Result,
    interpret,
    parse_result,
    raise_for,
)
from buswork.flipper.wire.terms import BLOCK_BYTES, BadAnswer, Generation, Processor, Type

T = TypeVar("T")
Plan = Generator[Exchange, Answer, T]

_U2: Final = TABLES[Generation.G1, Processor.U2]
_S4: Final = TABLES[Generation.G1, Processor.S4]
_E_PULL_TIMEOUT: Final = number_of(Error.E_UART0_PULL_TIMEOUT, Generation.G1)

# How often a pull of the bridge is tried before the 4S is taken for silent; each takes 100 ms.
# One would lose answers to the race of section 9, and calls that take their time.
PULL_ATTEMPTS: Final = 3
# The U2 keeps so much of what the 4S said.
UART_BUFFER_BYTES: Final = 256
# How long the reset is held (section 9).
RESET_MS: Final = 10


class BridgeError(Exception):
    """The U2 could not talk with the 4S: it is gone, busy or has crashed; a reset helps."""

    def __init__(self, result: Result, doing: str) -> None:
        why = BoardError(result.error, Generation.G1, result.value) if result.error else "it failed"
        super().__init__(f"the U2 could not {doing} the 4S: {why}")
        self.result = result
        self.timed_out = result.error == _E_PULL_TIMEOUT


def standard(module: Module, function: Function, *values: int) -> Call:
    """The call of a function with what it takes, which is not checked here."""
    arguments = [
        Argument(parameter.type, value)
        for parameter, value in zip(function.parameters, values, strict=True)
    ]
    return Call(module.index, function.number, function.returns, tuple(arguments))


# Does nothing, and so says that a U2 is alive: it answers with zeros (section 11).
ALIVE: Final = Exchange(standard(*_U2.find("button", "configure")))


# -- the bridge to the 4S --------------------------------------------------------------------------


def _place(name: str) -> tuple[int, int]:
    module, function = _U2.find("uart0", name)
    return module.index, function.number


_PUSH: Final = _place("push")
_PULL: Final = _place("pull")


def bridged(exchange: Exchange, attempts: int = PULL_ATTEMPTS) -> Plan[Answer]:
    """An exchange with the 4S as exchanges with the U2 (section 9); BridgeError if they fail.

    Whatever failed, drained() is to run before the next one.
    """
    request, data = exchange
    yield from _write(encode_request(request))
    yield from _write(data)
    pulled = yield from _read(data_to_host(request), attempts)
    result = parse_result((yield from _read(RESULT_BYTES[Generation.G1], attempts)))
    return Answer(result, pulled)


def drained() -> Plan[int]:
    """Takes from the U2 what it still has from the 4S; returns how many bytes that were."""
    for count in range(UART_BUFFER_BYTES + 1):
        answer = yield Exchange(Pull(*_PULL, 1))
        if answer.result.error or answer.result.value:
            return count
    raise BadAnswer(f"the U2 has more than {UART_BUFFER_BYTES} bytes from the 4S")


def _write(data: bytes) -> Plan[None]:
    for block in blocks(data, BLOCK_BYTES):
        answer = yield Exchange(Push(*_PUSH, len(block)), block)
        if answer.result.error or answer.result.value:
            raise BridgeError(answer.result, "write to")


def _read(length: int, attempts: int) -> Plan[bytes]:
    data = bytearray()
    while len(data) < length:
        block = min(length - len(data), BLOCK_BYTES)
        for _ in range(attempts):
            answer = yield Exchange(Pull(*_PULL, block))
            if answer.result.error != _E_PULL_TIMEOUT:
                break
        if answer.result.error or answer.result.value:
            raise BridgeError(answer.result, "read from")
        if len(answer.data) != block:
            raise BadAnswer(f"a pull of {block} bytes brought {len(answer.data)}")
        data += answer.data
    return bytes(data)


def hold_s4() -> Exchange:
    """Holds the reset of the 4S, for RESET_MS; then release_s4(). What was loaded is lost."""
    return Exchange(standard(*_U2.find("gpio", "write"), 0, 1 << S4_RESET))


def release_s4() -> Exchange:
    return Exchange(standard(*_U2.find("gpio", "write"), 1 << S4_RESET, 0))


# -- user modules (section 10) ---------------------------------------------------------------------


def bind(name: str, image: bytes | None, processor: Processor = Processor.S4) -> Plan[int]:
    """The index of a user module, which is loaded if it has to be and an image is there.

    BoardError E_MODULE if the board has not got it.
    """
    module, function = _S4.find("fld", "index")
    lookup = Exchange(standard(module, function, identifier(name)))
    index = yield from _index(lookup, function, processor)
    if index is None and image:
        answer = yield Exchange(Load(len(image)), image)
        raise_for(answer.result)
        index = yield from _index(lookup, function, processor)
    if index is None:
        raise BoardError(number_of(Error.E_MODULE, Generation.G1), Generation.G1)
    return index


def _index(lookup: Exchange, function: Function, processor: Processor) -> Plan[int | None]:
    answer = yield lookup
    raise_for(answer.result)
    index = interpret(answer.result, function.returns, processor)
    if index is None or index < 0:
        return None
    if index > 0xFF:
        raise BadAnswer(f"a module can't have the index {index}")
    return index


# -- bulk data of the second generation (section 7) ------------------------------------------------


def push2(module: Module, function: Function, data: bytes) -> Plan[Answer]:
    """Memory of the board is taken, filled, given to the function and freed."""
    address = yield from _allocate(len(data))
    answer = yield Exchange(Write(len(data), address), data)
    if not answer.result.error:
        answer = yield _bulk_call(module, function, address, len(data))
    yield Exchange(Free(address))
    return answer


def pull2(module: Module, function: Function, length: int) -> Plan[Answer]:
    """Memory of the board is taken, filled by the function, read and freed."""
    address = yield from _allocate(length)
    called = yield _bulk_call(module, function, address, length)
    if called.result.error:
        answer = called
    else:
        read = yield Exchange(Read(length, address))
        answer = read if read.result.error else Answer(called.result, read.data)
    yield Exchange(Free(address))
    return answer


def _allocate(length: int) -> Plan[int]:
    answer = yield Exchange(Allocate(length))
    raise_for(answer.result, Generation.G2)
    if not answer.result.value:
        raise BoardError(number_of(Error.E_MALLOC, Generation.G2), Generation.G2)
    return answer.result.value


def _bulk_call(module: Module, function: Function, address: int, length: int) -> Exchange:
    arguments = Argument(Type.PTR, address), Argument(Type.UINT32, length)
    return Exchange(Call(module.index, function.number, function.returns, arguments))

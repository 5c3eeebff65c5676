"""The message runtime of Flipper boards, as it runs on each of their processors.

It is written from the protocol's facts, not on top of the wing's code, so that a mistake there is
not made here as well. Like the original it looks up what it is asked for without checking bounds,
and each kind of processor makes calls in its own way, with its own mistakes (section 4).

    steps = Runtime(abi, modules).serve(packet)

A line runs the steps: it gives what is wanted, sends what is said, and lets time pass.
"""

import binascii
import enum
import struct
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple

PACKET_BYTES = 64
MAGIC = 0xFE
# The last ones that a board remembers, for who looks at it.
MAX_CALLS: Final = 10_000

E_OK, E_MALLOC, E_NULL, E_CHECKSUM = 0, 1, 2, 18
E_BOUNDARY, E_NO_PID, E_INVALID_TASK = 23, 26, 27
E_UART0_PUSH_TIMEOUT, E_UART0_PULL_TIMEOUT = 30, 31

MINUS_ONE: Final = 0xFFFFFFFF
# Where the device puts the data of a transfer; no function of the simulation looks there.
_BUFFER: Final = 0x20001000

_HEADER = struct.Struct("<BHHB")
_CALL = struct.Struct("<BBBIB")
_RESULT = struct.Struct("<IB")
_CALL_AT, _TRANSFER_AT, _VALUES_AT, _ADDRESS_AT = 6, 10, 14, 18
_CALL_CLASS, _USER, _PUSH, _PULL, _SEND, _RECEIVE, _LOAD = range(7)

# Types on the wire.
U8, U16, VOID, U32, INT, PTR, U64 = 0, 1, 2, 3, 4, 6, 7
I8, I16, I32, I64 = 8, 9, 11, 15
WIRE_BYTES: Final[Mapping[int, int]] = {
    U8: 1, I8: 1, U16: 2, I16: 2, U32: 4, I32: 4,
    VOID: 8, INT: 8, PTR: 8, U64: 8, I64: 8,
}  # fmt: skip


class Crash(Exception):
    """The processor runs into something that is no code."""


class Hang(Exception):
    """The processor does not come back from a call."""


class Failed(Exception):
    """A function returns -1, with an error."""

    def __init__(self, error: int) -> None:
        super().__init__(f"error {error}")
        self.error = error


# -- steps -----------------------------------------------------------------------------------------


class Want(NamedTuple):
    """So many bytes from the host; the answer to this step."""

    length: int


class Say(NamedTuple):
    data: bytes


class Pause(NamedTuple):
    seconds: float


Step = Want | Say | Pause
Steps = Generator[Step, Any, Any]


class Data(enum.Enum):
    """What a function does with the buffer that its two arguments tell of."""

    TAKES = "takes"
    FILLS = "fills"


class Function(NamedTuple):
    """run gets the C parameters; of a function with data, the buffer in place of them."""

    name: str
    run: Callable[..., int | Steps | None]
    parameters: tuple[int, ...] = ()
    returns: int = VOID
    data: Data | None = None


def transfer(name: str, run: Callable[[bytearray], int | Steps | None], data: Data) -> Function:
    return Function(name, run, (PTR, U32), INT, data)


class Part(NamedTuple):
    """A module: what it is called, and its functions in the order of their numbers."""

    name: str
    functions: Sequence[Function]


# -- how processors make calls ---------------------------------------------------------------------


class Argument(NamedTuple):
    type: int
    value: int


class Abi:
    """How a kind of processor passes arguments and values; this one is the virtual machine's."""

    arguments: frozenset[int] = frozenset((U8, U16, U32, INT, PTR, U64, I8, I16, I32, I64))
    returned: frozenset[int] = arguments | {VOID}
    registers = 6
    int_bytes = 4
    result_bytes = 4
    # The type word is cut to 16 bits on its way: from the fifth on, all are taken for bytes.
    told_types = 4
    # Whether a refused packet's result has the value of the one before.
    keeps_value = True

    def values(self, parameters: Sequence[int], given: Sequence[Argument]) -> list[int] | None:
        """What the function finds as its parameters; None: the call is not made."""
        if len(given) > self.registers or any(each.type not in self.arguments for each in given):
            return None
        values = [each.value for each in given]
        values += [0] * (len(parameters) - len(values))
        return [
            value & _mask(self.width(parameter))
            for parameter, value in zip(parameters, values, strict=False)
        ]

    def value(self, number: int, returns: int, asked: int) -> int:
        """What the result says of a number that the function returned."""
        if asked not in self.returned:
            return MINUS_ONE
        if asked == VOID:
            return 0
        return (
            number
            & _mask(self.width(returns) or 4)
            & _mask(min(self.result_bytes, self.width(asked)))
        )

    def width(self, kind: int) -> int:
        return {INT: self.int_bytes, VOID: 0}.get(kind, WIRE_BYTES.get(kind, 0))


class Arm(Abi):
    arguments = frozenset((U8, U16, U32, INT, PTR))
    returned = arguments | {VOID, U64}
    registers = 4
    keeps_value = False


class Avr(Abi):
    """Arguments lie in registers by their types, from r25 down to r8, and so do values."""

    arguments = frozenset((U8, U16, U32, INT, PTR, I8, I16, I32))
    returned = arguments | {VOID}
    int_bytes = 2
    told_types = 8

    def values(self, parameters: Sequence[int], given: Sequence[Argument]) -> list[int] | None:
        if any(each.type not in self.arguments for each in given):
            raise Hang("an argument that needs the stack")
        registers = bytearray(32)
        widths = [self.width(each.type) for each in given]
        for argument, (at, width) in zip(given, self._places(widths), strict=True):
            registers[at : at + width] = (argument.value & _mask(width)).to_bytes(width, "little")
        places = self._places([self.width(parameter) for parameter in parameters])
        return [int.from_bytes(registers[at : at + width], "little") for at, width in places]

    def value(self, number: int, returns: int, asked: int) -> int:
        if asked not in self.returned:
            return MINUS_ONE
        # r22 to r25; what is shorter than 32 bits begins at r24.
        width = self.width(returns) or 2
        at = 0 if width == 4 else 2
        registers = bytearray(4)
        registers[at : at + width] = (number & _mask(width)).to_bytes(width, "little")
        width = self.width(asked)
        at = 0 if width == 4 else 2
        return int.from_bytes(registers[at : at + width], "little")

    def width(self, kind: int) -> int:
        return 2 if kind == PTR else super().width(kind)

    def _places(self, widths: Sequence[int]) -> list[tuple[int, int]]:
        at = 26
        places = []
        for width in widths:
            at -= width + width % 2
            if at < 8:
                raise Hang("arguments beyond the registers")
            places.append((at, width))
        return places


def _mask(width: int) -> int:
    return (1 << 8 * width) - 1


# -- the runtime -----------------------------------------------------------------------------------


class Asked(NamedTuple):
    """A call as the packet has it."""

    module: int
    function: int
    returns: int
    arguments: tuple[Argument, ...]


class Runtime:
    """One processor; what others can do beyond calls and transfers is in their own classes."""

    def __init__(self, abi: Abi, parts: Sequence[Part]) -> None:
        self.abi = abi
        self.parts = tuple(parts)
        self.called: Callable[[str, str, tuple[int, ...]], None] = lambda *what: None
        self._value = 0  # of the last result

    def serve(self, packet: bytes) -> Steps:
        """Handles a packet and what belongs to it; its result is the last that is said."""
        if not is_whole(packet):
            yield self.result(self._value if self.abi.keeps_value else 0, E_CHECKSUM)
            return
        request_class = packet[5]
        try:
            yield from self._serve(request_class, packet)
        except Failed as failed:
            yield self.result(MINUS_ONE, failed.error)

    def _serve(self, request_class: int, packet: bytes) -> Steps:
        if request_class == _CALL_CLASS:
            asked = self.asked(packet, _CALL_AT)
            yield self.result(*(yield from self._call(asked)))
        elif request_class == _USER:
            yield self.result(*(yield from self.user(self.asked(packet, _CALL_AT))))
        elif request_class in (_PUSH, _PULL):
            length = self.allocated(packet)
            asked = self.asked(packet, _TRANSFER_AT)
            yield from self.transfer(asked, length, is_push=request_class == _PUSH)
        else:
            yield from self.other(request_class, packet)

    def user(self, asked: Asked) -> Steps:
        """A call of a user module; returns value and error."""
        yield from ()
        return MINUS_ONE, E_OK

    def other(self, request_class: int, packet: bytes) -> Steps:
        """Of a class that is not every processor's: no error, and the value of before."""
        yield self.result(self._value)

    @property
    def memory(self) -> int | None:
        """The most that a transfer may have, where the processor finds out in time."""
        return None

    def find(self, module: int, number: int) -> tuple[str, Function]:
        """By its place: behind a module's last function, the next one's first is found."""
        if module < len(self.parts):
            for part in self.parts[module:]:
                if number < len(part.functions):
                    return part.name, part.functions[number]
                number -= len(part.functions)
        raise Crash("what is behind the last function is none")

    # What every processor does

    def transfer(self, asked: Asked, length: int, *, is_push: bool) -> Steps:
        buffer = bytearray(length)
        if is_push:
            buffer[:] = yield Want(length)
        # The device puts its own buffer in the place of the host's.
        given = Argument(PTR, _BUFFER), *asked.arguments[1:]
        called = yield from self._call(asked._replace(arguments=given), buffer)
        if not is_push:
            yield Say(bytes(buffer))
        yield self.result(*called)

    def _call(self, asked: Asked, buffer: bytearray | None = None) -> Steps:
        part, function = self.find(asked.module, asked.function)
        return (yield from self.invoke(part, function, asked, buffer))

    def invoke(
        self, part: str, function: Function, asked: Asked, buffer: bytearray | None = None
    ) -> Steps:
        """Value and error."""
        values = self.abi.values(function.parameters, asked.arguments)
        if values is None:
            return MINUS_ONE, E_OK
        self.called(part, function.name, tuple(values))
        error = E_OK
        try:
            number = yield from self._run(function, values, buffer)
        except Failed as failed:
            number, error = -1, failed.error
        return self.abi.value(number, function.returns, asked.returns), error

    def _run(self, function: Function, values: Sequence[int], buffer: bytearray | None) -> Steps:
        if function.data is None:
            returned = function.run(*values)
        elif buffer is None:
            # By class 0, with a pointer to wherever; nobody has measured what happens.
            raise Crash(f"{function.name} by a call")
        else:
            returned = function.run(buffer)
        if isinstance(returned, Generator):
            returned = yield from returned
        return returned or 0

    def allocated(self, packet: bytes) -> int:
        length = length_of(packet)
        if self.memory is not None and length > self.memory:
            raise Failed(E_MALLOC)
        return length

    def result(self, value: int, error: int = E_OK) -> Say:
        self._value = value
        return Say(_RESULT.pack(value, error))

    def asked(self, packet: bytes, at: int) -> Asked:
        module, function, returns, types, count = _CALL.unpack_from(packet, at)
        at += _CALL.size
        arguments = []
        for place in range(count):
            told = place < self.abi.told_types
            code = types >> 4 * place & 0x0F if told else U8
            width = WIRE_BYTES.get(code, 1)
            value = int.from_bytes(packet[at : at + width], "little")
            arguments.append(Argument(code, value))
            at += width
        return Asked(module, function, returns, tuple(arguments))


def is_whole(packet: bytes) -> bool:
    """Whether magic and checksum are right; the header says how much that covers."""
    _, checksum, length, _ = _HEADER.unpack_from(packet)
    covered = (packet[:1] + b"\0\0" + packet[3:])[:length]
    return packet[0] == MAGIC and crc16(covered) == checksum


def length_of(packet: bytes) -> int:
    """How much a packet with data announces."""
    return int.from_bytes(packet[_CALL_AT:_TRANSFER_AT], "little")


def address_of(packet: bytes) -> int:
    return int.from_bytes(packet[_ADDRESS_AT : _ADDRESS_AT + 8], "little")


def crc16(data: bytes) -> int:
    """CRC-16/XMODEM."""
    return binascii.crc_hqx(data, 0)

"""A simulated board of the second generation on the network: its virtual machine.

Modules are asked for by name, functions are in alphabetical order, and bulk data go through
memory that the host takes and frees (sections 7 and 8).
"""

import enum
import struct
from typing import Final

from buswork.sim.fmr import (
    INT,
    U8,
    U32,
    Abi,
    Asked,
    Crash,
    Data,
    Failed,
    Function,
    Part,
    Runtime,
    Say,
    Steps,
    Want,
    crc16,
    is_whole,
    length_of,
    transfer,
)
from buswork.sim.fvm import MAX_DATA_BYTES, UdpBoard
from buswork.sim.parts import Button, Gpio, Led, Line, Spi

_E_FMR, _E_CHECKSUM = 11, 19
MINUS_ONE: Final = 0xFFFFFFFFFFFFFFFF
_RESULT = struct.Struct("<QB")
_CALL_AT: Final = 6
_ADDRESS_AT: Final = 10
_HEAP_AT: Final = 0x10000000

_CONFIGURE = Function("configure", lambda *_: 1, (), INT)


class _Class(enum.IntEnum):
    CALL, PUSH, PULL, LOOKUP, ALLOCATE, FREE = range(6)


class _Abi(Abi):
    result_bytes = 8


class _Runtime(Runtime):
    def __init__(self, fvm: "SimFvm2") -> None:
        super().__init__(_Abi(), fvm.parts())
        self._fvm = fvm

    def serve(self, packet: bytes) -> Steps:
        if not is_whole(packet):
            yield self.result(MINUS_ONE, _E_CHECKSUM)
            return
        try:
            yield from self._serve(packet[5], packet)
        except Failed as failed:
            yield self.result(MINUS_ONE, failed.error)

    def _serve(self, request_class: int, packet: bytes) -> Steps:
        length, address = length_of(packet), int.from_bytes(packet[_ADDRESS_AT:18], "little")
        match request_class:
            case _Class.CALL:
                yield self.result(*(yield from self._call(self.asked(packet, _CALL_AT))))
            case _Class.PUSH:
                self._fvm.check(address, length)
                self._fvm.memory[address] = bytearray((yield Want(length)))
                yield self.result(MINUS_ONE)
            case _Class.PULL:
                self._fvm.check(address, length)
                yield Say(bytes(self._fvm.memory[address][:length].ljust(length, b"\0")))
                yield self.result(MINUS_ONE)
            case _Class.LOOKUP:
                yield self.result((yield from self._index(packet)))
            case _Class.ALLOCATE:
                yield self.result(self._fvm.allocate())
            case _Class.FREE:
                self._fvm.memory.pop(address, None)
                yield self.result(MINUS_ONE)
            case _:
                raise Failed(_E_FMR)

    def _index(self, packet: bytes) -> Steps:
        """Whom it does not know it asks its host for, and waits, and does not know better then."""
        names = [part.name.encode() for part in self.parts]
        name = packet[_CALL_AT:].partition(b"\0")[0]
        if name in names:
            return names.index(name)
        yield Say(_lookup(name))
        yield Want(_RESULT.size)
        raise Failed(_E_FMR)

    def find(self, module: int, number: int) -> tuple[str, Function]:
        if module >= len(self.parts):
            raise Failed(_E_FMR)
        return super().find(module, number)

    def invoke(
        self, part: str, function: Function, asked: Asked, buffer: bytearray | None = None
    ) -> Steps:
        if function.data is not None and len(asked.arguments) == len(function.parameters):
            address, length = (argument.value for argument in asked.arguments)
            self._fvm.check(address, length)
            memory = self._fvm.memory
            buffer = memory[address][:length].ljust(length, b"\0")
            memory[address] = buffer
        return (yield from super().invoke(part, function, asked, buffer))

    def result(self, value: int, error: int = 0) -> Say:
        return Say(_RESULT.pack(value, error))


def _lookup(name: bytes) -> bytes:
    """Its length is the one that the original writes on a machine of 64 bits."""
    length = 9 + len(name)
    whole = (struct.pack("<BHHB", 0xFE, 0, length, _Class.LOOKUP) + name).ljust(64, b"\0")
    return whole[:1] + crc16(whole[:length]).to_bytes(2, "little") + whole[3:]


class SimFvm2(UdpBoard):
    def __init__(self) -> None:
        self.led, self.button, self.gpio = Led(), Button(), Gpio()
        self.uart0, self.usart, self.spi = Line(), Line(), Spi()
        self.memory: dict[int, bytearray] = {}  # by the address that the host was given
        self._next = _HEAP_AT
        super().__init__(_Runtime(self))

    def allocate(self) -> int:
        """However much it is; it is there when it is written to."""
        self._next += 1 << 32
        self.memory[self._next] = bytearray()
        return self._next

    def check(self, address: int, length: int) -> None:
        if not address:
            raise Failed(_E_FMR)
        if address not in self.memory or length > MAX_DATA_BYTES:
            raise Crash(f"there is no such memory at {address:#x}")

    def parts(self) -> tuple[Part, ...]:
        """In the order of their indices, and functions in alphabetical order."""
        gpio, spi = self.gpio.part(), self.spi.part()
        return (
            _plain("adc"), _second(self.button.part(), "read"), _plain("dac"),
            _second(gpio, "enable read write"),
            _plain("i2c", "read start_read start_write stop write"),
            _second(self.led.part(), "rgb"), _plain("pwm"), _plain("rtc"),
            _second(spi, "disable enable end get put ready"), _plain("swd"), _plain("temp"),
            _plain("timer", "register"), self._uart0(), self._usart(), _plain("usb"),
            _plain("wdt", "fire"),
        )  # fmt: skip

    def _uart0(self) -> Part:
        line, functions = self.uart0, _serial(self.uart0)
        more = [
            transfer("read", lambda buffer: line.pull(buffer) + 1, Data.FILLS),
            Function("reset", line.received.clear),
            Function("setbaud", lambda baud: None, (U32,)),
            transfer("write", lambda buffer: line.push(buffer) + 1, Data.TAKES),
        ]
        return Part("uart0", sorted([*functions, *more], key=lambda each: each.name))

    def _usart(self) -> Part:
        return Part("usart", _serial(self.usart))


def _plain(name: str, more: str = "") -> Part:
    return Part(name, (_CONFIGURE, *(Function(each, _nothing) for each in more.split())))


def _second(part: Part, names: str) -> Part:
    """A part of the first generation as the second one has it."""
    known = {each.name: each for each in part.functions}
    functions = (known.get(name, Function(name, _nothing)) for name in names.split())
    return Part(part.name, (_CONFIGURE, *functions))


def _serial(line: Line) -> list[Function]:
    def get() -> int:
        return line.received.pop(0) if line.received else 0

    def put(byte: int) -> None:
        line.push(bytearray((byte,)))

    return [
        _CONFIGURE,
        Function("disable", _nothing),
        Function("enable", _nothing),
        Function("get", get, (), U8),
        Function("put", put, (U8,)),
        Function("ready", line.ready, (), U8),
    ]


def _nothing(*values: int) -> None:
    return None

"""A simulated board on the network: what the original's virtual machine answers over UDP.

    board = SimFvm()
    await board.listen()            # board.address, until board.close()

It has no sessions: whatever comes next is what it waits for, and who sent last is answered.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from buswork.sim.fmr import (
    E_BOUNDARY,
    E_NULL,
    INT,
    MAX_CALLS,
    MINUS_ONE,
    PACKET_BYTES,
    U16,
    Abi,
    Asked,
    Crash,
    Failed,
    Function,
    Part,
    Runtime,
    Say,
    Step,
    Steps,
    Want,
    crc16,
)
from buswork.sim.parts import CONFIGURE, Button, Gpio, Led, Line, Spi, plain

# Memory behind a table is empty for a while, and then it is not its own.
_NULLS: Final = 64
# More fits into no datagram over IPv4.
MAX_DATA_BYTES: Final = 65507
_SEND, _RECEIVE, _LOAD = 4, 5, 6
_TRANSFER_AT: Final = 10

Address = tuple[str, int]


class _Runtime(Runtime):
    def __init__(self, fvm: "SimFvm") -> None:
        super().__init__(Abi(), fvm.parts())
        self._modules = fvm.modules

    def find(self, module: int, number: int) -> tuple[str, Function]:
        if module >= len(self.parts):
            raise Crash("what is behind the last module is none")
        return self._function(self.parts[module].name, self.parts[module].functions, number)

    def user(self, asked: Asked) -> Steps:
        """Unlike the 4S, it has the function's own value."""
        if asked.module >= len(self._modules):
            raise Failed(E_BOUNDARY)
        name, functions = list(self._modules.items())[asked.module]
        return (yield from self.invoke(*self._function(name, functions, asked.function), asked))

    def other(self, request_class: int, packet: bytes) -> Steps:
        """The 4S's own classes are transfers, here of the first function of all."""
        if request_class in (_SEND, _RECEIVE, _LOAD):
            asked = self.asked(packet, _TRANSFER_AT)
            is_push = request_class != _RECEIVE
            yield from self.transfer(asked, self.allocated(packet), is_push=is_push)
        else:
            yield from super().other(request_class, packet)

    def transfer(self, asked: Asked, length: int, *, is_push: bool) -> Steps:
        if length <= MAX_DATA_BYTES:
            yield from super().transfer(asked, length, is_push=is_push)
        elif is_push:
            yield Want(length)  # and takes what comes next for it
            yield self.result(MINUS_ONE)

    @staticmethod
    def _function(name: str, functions: Sequence[Function], number: int) -> tuple[str, Function]:
        if number < len(functions):
            return name, functions[number]
        if number < _NULLS:
            raise Failed(E_NULL)
        raise Crash(f"{name} has no function {number}")


class UdpBoard(asyncio.DatagramProtocol):
    """Whatever the board is, on a socket."""

    def __init__(self, runtime: Runtime) -> None:
        self.calls: deque[tuple[str, str, tuple[int, ...]]] = deque(maxlen=MAX_CALLS)
        self.is_lost: Callable[[bytes], bool] = lambda datagram: False  # either way
        self.has_died = False
        self.closed = asyncio.Event()
        self._transport: asyncio.DatagramTransport | None = None
        self._runtime = runtime
        self._runtime.called = lambda *what: self.calls.append(what)
        self._to_send: list[bytes] = []
        self._firmware = self._live()
        next(self._firmware)

    async def listen(self, host: str = "127.0.0.1", port: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=(host, port)
        )

    @property
    def address(self) -> Address:
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")[:2]
        return host, port

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert self._transport is not None
        if self.is_lost(data):
            return
        for answer in self.handle(data):
            if not self.is_lost(answer):
                self._transport.sendto(answer, addr)
        if self.has_died:
            self.close()

    def handle(self, datagram: bytes) -> list[bytes]:
        """What it sends after this one; it may die of it, as the original does."""
        if not self.has_died:
            try:
                self._firmware.send(datagram)
            except Crash:
                self.has_died = True
        sending, self._to_send = self._to_send, []
        return sending

    def _live(self) -> Generator[None, bytes, None]:
        """Is sent datagrams."""
        while True:
            packet = yield
            yield from self._serve(packet[:PACKET_BYTES].ljust(PACKET_BYTES, b"\0"))

    def _serve(self, packet: bytes) -> Generator[None, bytes, None]:
        steps = self._runtime.serve(packet)
        given = None
        with suppress(StopIteration):
            while True:
                step: Step = steps.send(given)
                given = None
                if isinstance(step, Want):
                    given = (yield)[: step.length]
                    if step.length <= MAX_DATA_BYTES:
                        given = given.ljust(step.length, b"\0")
                elif isinstance(step, Say) and step.data:
                    self._to_send.append(step.data)


class SimFvm(UdpBoard):
    """modules: user modules by their names; they are there from the beginning."""

    def __init__(self, modules: Mapping[str, Sequence[Function]] | None = None) -> None:
        self.modules = dict(modules or {})
        self.led, self.button, self.gpio = Led(), Button(), Gpio()
        self.uart0, self.usart, self.spi = Line(), Line(), Spi()
        super().__init__(_Runtime(self))

    def parts(self) -> tuple[Part, ...]:
        """In the order of their indices (section 8)."""
        fld = Part("fld", (CONFIGURE, Function("index", self._index, (U16,), INT)))
        tasks = [Function(name, lambda: 0, (), INT) for name in ("pause", "resume", "stop")]
        watchdog = Part("wdt", (CONFIGURE, Function("fire", lambda: None)))
        return (
            plain("adc"), self.button.part(), plain("dac"), fld, self.gpio.part(), plain("i2c"),
            self.led.part(), plain("pwm"), plain("rtc"), self.spi.part(), plain("swd"),
            Part("task", tasks), plain("temp"), plain("timer"), self.uart0.part("uart0"),
            self.usart.part("usart"), plain("usb"), watchdog,
        )  # fmt: skip

    def _index(self, identifier: int) -> int:
        names = enumerate(self.modules)
        return next((at for at, name in names if crc16(name.encode() + b"\0") == identifier), -1)

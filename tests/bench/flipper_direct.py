"""What a program does that has a board for itself: a loop of transfers with pyusb.

    python tests/bench/flipper_direct.py PORT

Takes commands, a line each, and answers each with a line: `open` and `close` the board; `u2
SECONDS` and `4s SECONDS`, how many calls a second it were; `push BYTES` and `pull BYTES`, how many
bytes a second. What it transfers is what the daemon does for the same: it is noted once, and then
said again and again; each answer has to be the one that was noted.
"""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import usb.backend.libusb1
import usb.core
import usb.util

from buswork.flipper.wire.carbon import ENDPOINT_IN, ENDPOINT_OUT, PRODUCT_ID, VENDOR_ID
from buswork.flipper.wire.checks import transfer_request
from buswork.flipper.wire.exchanges import Answer, AnswerReader, Exchange, outgoing
from buswork.flipper.wire.modules import TABLES, Kind
from buswork.flipper.wire.plans import Plan, bridged, standard
from buswork.flipper.wire.terms import BLOCK_BYTES, Framing, Generation, Processor

TIMEOUT_MS = 500

_U2, _S4 = (TABLES[Generation.G1, processor] for processor in (Processor.U2, Processor.S4))


def u2() -> Plan[Answer]:
    return (yield Exchange(standard(*_U2.find("led", "rgb"), 1, 2, 3)))


def s4() -> Plan[Answer]:
    return (yield from bridged(Exchange(standard(*_S4.find("gpio", "read"), 1))))


def push() -> Plan[Answer]:
    request = transfer_request(_S4, "spi", "push", Kind.PUSH, BLOCK_BYTES)
    return (yield from bridged(Exchange(request, bytes(BLOCK_BYTES))))


def pull() -> Plan[Answer]:
    request = transfer_request(_S4, "spi", "pull", Kind.PULL, BLOCK_BYTES)
    return (yield from bridged(Exchange(request)))


class Transfer(NamedTuple):
    sent: bytes
    answer: bytes


class Direct:
    def __init__(self, port: str) -> None:
        self._backend = usb.backend.libusb1.get_backend()
        self._path = tuple(map(int, port.partition("-")[2].split(".")))
        self._device: Any = None

    def open(self) -> None:
        found = usb.core.find(
            find_all=True, idVendor=VENDOR_ID, idProduct=PRODUCT_ID, backend=self._backend
        )
        (self._device,) = (device for device in found if device.port_numbers == self._path)
        usb.util.claim_interface(self._device, 0)

    def close(self) -> None:
        usb.util.dispose_resources(self._device)

    def rate(self, plan: Callable[[], Plan[Answer]], seconds: float) -> float:
        transfers = self._noted(plan)
        count, begin = 0, time.perf_counter()
        until = begin + seconds
        while time.perf_counter() < until:
            self._repeat(transfers)
            count += 1
        return count / (time.perf_counter() - begin)

    def throughput(self, plan: Callable[[], Plan[Answer]], size: int) -> float:
        transfers = self._noted(plan)
        begin = time.perf_counter()
        for _ in range(size // BLOCK_BYTES):
            self._repeat(transfers)
        return size / (time.perf_counter() - begin)

    def _repeat(self, transfers: list[Transfer]) -> None:
        device = self._device
        for sent, answer in transfers:
            device.write(ENDPOINT_OUT, sent, TIMEOUT_MS)
            if device.read(ENDPOINT_IN, len(answer), TIMEOUT_MS).tobytes() != answer:
                raise SystemExit("the board says something else")

    def _noted(self, plan: Callable[[], Plan[Answer]]) -> list[Transfer]:
        notes: list[Transfer] = []
        running = plan()
        exchange = next(running)
        try:
            while True:
                exchange = running.send(self._answered(exchange, notes))
        except StopIteration:
            return notes

    def _answered(self, exchange: Exchange, notes: list[Transfer]) -> Answer:
        reader = AnswerReader(exchange, Framing.USB)
        sent = b"".join(outgoing(exchange, Framing.USB))
        self._device.write(ENDPOINT_OUT, sent, TIMEOUT_MS)
        said = self._device.read(ENDPOINT_IN, reader.wanted, TIMEOUT_MS).tobytes()
        notes.append(Transfer(sent, said))
        answer = reader.feed(said)
        if answer is None or answer.result.error:
            raise SystemExit(f"the board says {answer}")
        return answer


def answers(direct: Direct) -> Iterator[object]:
    calls, transfers = {"u2": u2, "4s": s4}, {"push": push, "pull": pull}
    for line in sys.stdin:
        command, *arguments = line.split()
        if command in calls:
            yield direct.rate(calls[command], float(arguments[0]))
        elif command in transfers:
            yield direct.throughput(transfers[command], int(arguments[0]))
        else:
            getattr(direct, command)()
            yield "done"


if __name__ == "__main__":
    print("READY", flush=True)
    for answer in answers(Direct(sys.argv[1])):
        print(answer, flush=True)

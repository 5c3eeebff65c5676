"""Every signal of the daemon as it comes: what `buswork monitor` shows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from buswork.bus.codec import CodecError
from buswork.bus.contract import parse, xml_folder
from buswork.bus.library import Variant
from buswork.bus.standard import CONTRACTS
from buswork.client.errors import Disconnected

if TYPE_CHECKING:
    from buswork.bus.message import Frame
    from buswork.client.connection import Client

# Signals that may wait for a slow reader; the oldest of more are dropped and counted.
MAX_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class Signal:
    path: str
    interface: str
    member: str
    values: list[Any]


class Signals:
    """Signals of all wings, to be iterated over inside `async with`."""

    def __init__(self, client: Client) -> None:
        self.dropped = 0
        self._client = client
        self._waiting: deque[Signal] = deque()
        self._arrived = asyncio.Event()
        self._stop_hearing: list[Callable[[], None]] = []

    async def __aenter__(self) -> Self:
        for interface, member in _known_signals():
            self._stop_hearing.append(self._client.hear((interface, member), self._heard))
        self._client.connection.closed.add_done_callback(self._wake)
        await self._client.match("type='signal',sender='org.buswork'")
        return self

    async def __aexit__(self, *_: object) -> None:
        for stop in self._stop_hearing:
            stop()
        self._client.connection.closed.remove_done_callback(self._wake)
        self._client.connection.remove_match("type='signal',sender='org.buswork'")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Signal:
        while not self._waiting:
            if not self._client.connection.is_open:
                raise Disconnected("the connection to the bus is gone")
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def _heard(self, frame: Frame) -> None:
        try:
            values = [_plain(value) for value in frame.values()]
        except CodecError:
            return
        header = frame.header
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        signal = Signal(header.path or "", header.interface or "", header.member or "", values)
        self._waiting.append(signal)
        self._arrived.set()

    def _wake(self, _: Any) -> None:
        self._arrived.set()


def _known_signals() -> Iterator[tuple[str, str]]:
    """The signals of all contracts, those of the standard interfaces included."""
    contracts = dict(CONTRACTS)
    for file in sorted(xml_folder().glob("*.xml")):
        contracts.update(parse(file.read_text()))
    for interface in contracts.values():
        for member in interface.signals:
            yield interface.name, member


def _plain(value: Any) -> Any:
    """The value without the wrapping of variants."""
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value

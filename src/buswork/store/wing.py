"""Starts and stops the store, and joins its rooms."""

import asyncio
import time
from dataclasses import dataclass, field

from buswork.authority import Authority
from buswork.bus.export import Edge
from buswork.bus.ownership import Holdings
from buswork.store.face import PATH, Hints, StoreFace
from buswork.store.model import Limits, Store
from buswork.store.native.streams import WatchStreams


def _unix_us() -> int:
    return time.time_ns() // 1000


@dataclass
class StoreWing:
    """The wing as the daemon sees it."""

    edge: Edge
    authority: Authority
    holdings: Holdings
    limits: Limits = field(default_factory=Limits)

    async def start(self) -> None:
        self.store = Store(_unix_us, self.limits)
        self.streams = WatchStreams(self.store)
        self.hints = Hints(self.edge)
        self.store.on_change.append(self.hints.changed)
        self._expiry: asyncio.TimerHandle | None = None
        face = StoreFace(self.store, self.streams, self.authority, self.holdings, self._plan_expiry)
        self.edge.export(PATH, face, wing=PATH, manager=True)

    async def stop(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self.hints.close()
        self.streams.close()
        self.edge.unexport(PATH)

    def _plan_expiry(self) -> None:
        """One timer, for the key that goes first."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        due_us = self.store.next_expiry_us()
        if due_us is not None:
            delay = max(0.0, (due_us - _unix_us()) / 1_000_000)
            self._expiry = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self.store.expire(_unix_us())
        self._plan_expiry()

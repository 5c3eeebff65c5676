"""Starts and stops the store, and joins its rooms."""

import asyncio
import logging
import time
from pathlib import Path

from buswork.errors import BusworkError
from buswork.host import Host, Kind
from buswork.native.places import make_sockets
from buswork.store.face import PATH, Hints, StoreFace
from buswork.store.model.limits import Limits
from buswork.store.model.store import Store
from buswork.store.native.keep import NAME as KEPT_PREFIX
from buswork.store.native.keep import Keep, restore
from buswork.store.native.memory import SharedMemory
from buswork.store.native.requests import NAMES
from buswork.store.native.sockets import Doors
from buswork.store.native.streams import WatchStreams

log = logging.getLogger(__name__)

# As systemd/buswork-store.socket has it.
RUN_DIRECTORY = Path("/run/buswork")


def _unix_us() -> int:
    return time.time_ns() // 1000


class StoreWing:
    """The wing as the daemon sees it."""

    def __init__(self, host: Host, limits: Limits) -> None:
        self.host = host
        self.edge = host.edge
        self.limits = limits

    async def start(self) -> None:
        self.store = Store(_unix_us, self.limits)
        kept = self.host.descriptors(KEPT_PREFIX)
        if kept:
            log.info("%d keys outlived the daemon before", restore(self.store, kept))
        self.keep = Keep(self.store, kept) if self.host.has_manager else None
        self.memory = SharedMemory(self.store, self.host.epoch)
        self.streams = WatchStreams(self.store)
        self.hints = Hints(self.edge)
        self.store.on_change.append(self.hints.changed)
        self._expiry: asyncio.TimerHandle | None = None
        face = StoreFace(
            self.store,
            self.streams,
            self.memory,
            self.host.authority,
            self.host.holdings,
            self._plan_expiry,
        )
        self.edge.export(PATH, face, wing=PATH, manager=True)
        self._open_doors()
        self._plan_expiry()

    def _open_doors(self) -> None:
        host = self.host
        self.doors = Doors(self.store, host.authority, memory=self.memory, commons=host.commons)
        places = host.places(RUN_DIRECTORY, also_tmp=True)
        self._files = [
            made for place in places for made in make_sockets(place, NAMES, tell=host.lacks)
        ]
        passed = host.sockets("store")
        for listener in (*passed, *(made.listener for made in self._files)):
            try:
                self.doors.open(listener)
            except BusworkError as error:
                host.lacks(f"a socket that was passed is not used: {error}")

    async def stop(self, *, for_good: bool) -> None:
        if self.keep is not None and for_good:
            self.keep.close()
        elif self.keep is not None:
            self.keep.stop()
        self.memory.close()
        for made in self._files:
            made.remove()
        self.doors.close()
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


STORE = Kind(make=lambda host, limits, options: StoreWing(host, limits), limits=Limits)

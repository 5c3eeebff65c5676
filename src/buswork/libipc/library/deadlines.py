"""Many equal deadlines with one timer: who started first is late first."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, on_late: Callable[[T], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._on_late = on_late
        self._due: dict[T, float] = {}  # in order, the next one first
        self._timer: asyncio.TimerHandle | None = None

    def start(self, what: T) -> None:
        """From now on, also if it had begun before."""
        self._due.pop(what, None)
        self._due[what] = self._loop.time() + self._seconds
        if self._timer is None:
            self._arm()

    def stop(self, what: T) -> None:
        self._due.pop(what, None)

    def close(self) -> None:
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = None
        for due in self._due.values():
            self._timer = self._loop.call_at(due, self._expire)
            break

    def _expire(self) -> None:
        now = self._loop.time()
        late = []
        for what, due in self._due.items():
            if due > now:
                break
            late.append(what)
        for what in late:
            if self._due.pop(what, None) is not None:
                self._on_late(what)
        self._arm()

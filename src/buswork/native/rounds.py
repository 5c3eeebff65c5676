"""Work that many want at once, and that takes long: it is done for all of them."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any


class Rounds:
    """One round at a time, each for all who came before it began: what is true when somebody comes
    is seen by the round that he waits for."""

    def __init__(
        self, work: Callable[[], Coroutine[Any, Any, None]], *, most_rest: float = 0.0
    ) -> None:
        """Each is followed by a rest of the same length, of so many seconds at the most: so half
        of the time is free for other things, however often somebody comes."""
        self._work = work
        self._most_rest = most_rest
        self._rested_at = 0.0
        self._going: asyncio.Task[None] | None = None
        self._coming: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        return self._coming is None and (self._going is None or self._going.done())

    async def next(self) -> None:
        """Returns when a round has ended that began from now on; fails as that does."""
        if self._coming is None:
            self._coming = asyncio.create_task(self._round(self._going))
        await asyncio.shield(self._coming)

    async def _round(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        await asyncio.sleep(self._rested_at - time.monotonic())
        self._going, self._coming = self._coming, None
        began = time.monotonic()
        try:
            await self._work()
        finally:
            ended = time.monotonic()
            self._rested_at = ended + min(ended - began, self._most_rest)

    async def stop(self) -> None:
        tasks = [task for task in (self._going, self._coming) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

"""The time, as what waits for devices sees it; that of a test passes when the test says so."""

import asyncio
import time
from contextlib import suppress


class Clock:
    def now(self) -> float:
        """In seconds; nobody puts it forward or back."""
        return time.monotonic()

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        """Until something happens, or until this time (None: never) if that is earlier."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if until is None else until - self.now()):
                await event.wait()

    async def sleep(self, seconds: float) -> None:
        await self.wait(asyncio.Event(), self.now() + seconds)

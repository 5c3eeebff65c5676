"""Native clients' shares of the loop's time: a uid has one for the sockets of all wings.

What is cheap is done as it comes. What takes longer is charged to its uid, and a uid that has
had its share, like whatever is known to be long beforehand, waits in a line: of each uid in turn,
a little at a time, with rests in which everybody else is served.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

# The same share as D-Bus callers have (bus/dispatch.py): so much of each window.
SHARE_WINDOW = 0.05
SHARE_SECONDS = 0.02
# What takes less is not charged: whoever connects all the time is bounded by how many connections
# are accepted in a turn.
CHEAP_SECONDS = 0.0001
# The line goes on for so long, or for one piece of work that takes longer; and then rests for
# such a multiple of it: two fifths of the loop's time are the line's at the most.
TURN_SECONDS = 0.001
REST = 1.5

Work = Callable[[], None]
T = TypeVar("T")


class Shares:
    """Who has had too much of the loop lately, and the line in which they wait."""

    def __init__(self) -> None:
        self._spent: dict[int, float] = {}
        self._window_end = 0.0
        self._lines: dict[int, deque[Work]] = {}
        self._planned: asyncio.Handle | None = None

    def charge(self, uid: int, seconds: float) -> None:
        if seconds > CHEAP_SECONDS:
            self._spent[uid] = self._spent.get(uid, 0.0) + seconds

    def is_over(self, uid: int) -> bool:
        """Whether uid has had its share, or waits in the line already."""
        if uid in self._lines:
            return True
        if not self._spent:
            return False
        now = time.monotonic()
        if now > self._window_end:
            self._spent.clear()
            self._window_end = now + SHARE_WINDOW
        return self._spent.get(uid, 0.0) > SHARE_SECONDS

    def later(self, uid: int, work: Work) -> None:
        """Does it when it is its turn."""
        self._lines.setdefault(uid, deque()).append(work)
        if self._planned is None:
            self._planned = asyncio.get_running_loop().call_soon(self._go_on)

    async def turn(self, uid: int, work: Callable[[], T]) -> T:
        """Does it at once and charges it, or when it is its turn; not if nobody waits any more."""
        if not self.is_over(uid):
            begin = time.monotonic()
            try:
                return work()
            finally:
                self.charge(uid, time.monotonic() - begin)
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.later(uid, partial(_fulfil, done, work))
        return await done

    def _go_on(self) -> None:
        self._planned = None
        begin = before = time.monotonic()
        try:
            while self._lines and before - begin < TURN_SECONDS:
                uid, work = self._next()
                work()
                now = time.monotonic()
                self.charge(uid, now - before)
                before = now
        finally:
            self._rest(time.monotonic() - begin)

    def _next(self) -> tuple[int, Work]:
        """The first of the uid that has waited longest."""
        uid = next(iter(self._lines))
        line = self._lines.pop(uid)
        work = line.popleft()
        if line:
            self._lines[uid] = line
        return uid, work

    def _rest(self, taken: float) -> None:
        # Also when nobody waits: who comes next must not find the line rested.
        if taken > TURN_SECONDS / 2:
            loop = asyncio.get_running_loop()
            self._planned = loop.call_later(taken * REST, self._go_on)
        elif self._lines:
            self._planned = asyncio.get_running_loop().call_soon(self._go_on)


def _fulfil(done: "asyncio.Future[T]", work: Callable[[], T]) -> None:
    if done.done():
        return
    try:
        result = work()
    except Exception as error:
        if not done.done():
            done.set_exception(error)
    else:
        if not done.done():  # else the work itself has ended who waits for it
            done.set_result(result)

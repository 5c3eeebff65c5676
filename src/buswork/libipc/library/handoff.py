"""Events on their way from a loop to the threads that wait for them."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from buswork.errors import TimedOut
from buswork.libipc.errors import ClosedContext
from buswork.loopthread import LoopThread

T = TypeVar("T")

# So many events may wait here for a thread; the others stay with the context, which stops
# reading when it has many. Half of them have to be taken before more are fetched.
MOST_EVENTS: Final = 64
FEW_EVENTS: Final = MOST_EVENTS // 2


class Handoff(Generic[T]):
    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._changed = threading.Condition()
        self._events: deque[T] = deque()
        self._is_closed = False
        self._is_stalled = False
        self._room = asyncio.Event()

    # -- in the loop ---------------------------------------------------------------------------

    async def put(self, event: T) -> None:
        """Returns when there is room for another one."""
        self.put_now(event)
        if self._is_stalled:
            await self._room.wait()

    def put_now(self, event: T) -> None:
        with self._changed:
            self._events.append(event)
            if len(self._events) >= MOST_EVENTS:
                self._is_stalled = True
                self._room.clear()
            self._changed.notify()

    def holds(self, event: T) -> bool:
        with self._changed:
            return event in self._events

    def drop(self, event: T) -> None:
        with self._changed:
            if event in self._events:
                self._events.remove(event)

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._events.clear()
            self._changed.notify_all()

    # -- in any thread -------------------------------------------------------------------------

    def take(self, timeout: float | None) -> T:
        """ClosedContext at the end; TimedOut if none comes in so many seconds."""
        with self._changed:
            if not self._changed.wait_for(self._is_over, timeout):
                raise TimedOut(f"no event in {timeout:g} s")
            if self._is_closed:
                raise ClosedContext("the context was closed")
            event = self._events.popleft()
            is_room = self._is_stalled and len(self._events) <= FEW_EVENTS
            if is_room:
                self._is_stalled = False
        if is_room:
            self._thread.post(self._room.set)
        return event

    def _is_over(self) -> bool:
        return bool(self._events) or self._is_closed


class Externals:
    """Descriptors of others. Each is told to one thread, and again when that one waits again.

    Were it watched meanwhile, a second thread would be told of what the first is about to read.
    """

    def __init__(self, thread: LoopThread, tell: Callable[[int], None]) -> None:
        self._thread = thread
        self._tell = tell
        self._mine = threading.local()
        self._known: set[int] = set()  # in the loop alone

    # -- in the loop ---------------------------------------------------------------------------

    def add(self, fd: int) -> None:
        """OSError if nobody can wait for such a descriptor."""
        asyncio.get_running_loop().add_reader(fd, self._is_readable, fd)
        self._known.add(fd)

    def remove(self, fd: int) -> None:
        if fd in self._known:
            self._known.remove(fd)
            asyncio.get_running_loop().remove_reader(fd)

    def _is_readable(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        self._tell(fd)

    def _watch_again(self, fds: Iterable[int]) -> None:
        for fd in self._known.intersection(fds):
            try:
                self.add(fd)
            except (OSError, ValueError):  # closed before it was removed
                self._known.discard(fd)

    # -- in any thread -------------------------------------------------------------------------

    def taken(self, fd: int) -> None:
        """This thread was told."""
        self._mine.fds = [*getattr(self._mine, "fds", ()), fd]

    def release(self) -> None:
        """This thread waits again."""
        fds = getattr(self._mine, "fds", None)
        if fds:
            self._mine.fds = []
            self._thread.post(self._watch_again, fds)

"""What callers are told and must not miss: signals to one caller, in order, as fast as it reads.

The bus charges the daemon with what a caller leaves unread, and when that is much nobody is told
anything any more (buswork.bus.backlog). So each caller may leave only so much unread; then the bus
is asked how much of it was read, and meanwhile nothing is read from where its news come. Who has
nothing here any more is asked about until it has read all that it was told.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from buswork.bus.caller import Call
from buswork.bus.export import Edge

# Who leaves so much unread is told no more until it reads: 30 messages of the size that is never
# split, and one more, of 2 MB.
UNREAD_BYTES = 1 << 20
# The same of all callers of a uid, so that one that reads nothing does not stop the others.
UNREAD_BYTES_PER_UID = 2 * UNREAD_BYTES
# Of all uids; none may have more than is left free, so that whoever comes later finds some. Five
# that read nothing leave room for the longest message. It stays below where the bus gets careful.
MOST_UNREAD_BYTES = 24 << 20
# How often who leaves that much unread is looked at.
LOOK_SECONDS = 0.1
# What the bus counts of a signal beside its payload.
HEADER_BYTES = 256


class Source(Protocol):
    """Where news come from."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class _News(NamedTuple):
    path: str
    interface: str
    member: str
    values: tuple[Any, ...]
    told: Callable[[], None]

    @property
    def size(self) -> int:
        return HEADER_BYTES + sum(len(value) for value in self.values if isinstance(value, bytes))


def _nothing() -> None:
    """Nobody wants to know."""


class Outbox:
    """What one caller is told."""

    def __init__(self, edge: Edge, call: Call, unread_by_uid: Counter[int]) -> None:
        self._edge = edge
        self._name = call.sender
        self._uid = call.uid
        self._by_uid = unread_by_uid
        self._unread = 0  # at the most
        self._is_known = False  # it may have left something unread of an earlier box
        self._waiting: deque[_News] = deque()
        self._sources: set[Source] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        return not self._sources and self._task is None

    def join(self, source: Source) -> None:
        self._sources.add(source)
        if self._task is not None:
            source.pause()

    def leave(self, source: Source) -> None:
        self._sources.discard(source)
        if self._unread and not self._sources:
            self._hold_up()

    def tell(
        self,
        path: str,
        interface: str,
        member: str,
        *values: Any,
        told: Callable[[], None] = _nothing,
    ) -> None:
        """A signal to the caller, now or as soon as it has read; `told` is called then."""
        news = _News(path, interface, member, values, told)
        if self._task is None and self._tell(news):
            told()
        else:
            self._waiting.append(news)
            self._hold_up()

    def drop(self, path: str) -> None:
        """What waits of this object is not told any more."""
        self._waiting = deque(news for news in self._waiting if news.path != path)

    def close(self) -> None:
        self._set_unread(0)
        if self._task is not None:
            self._task.cancel()

    def _tell(self, news: _News) -> bool:
        if not self._is_known or self._has_enough(news.size):
            return False
        path, interface, member, values, _ = news
        if not self._edge.tell(path, interface, member, *values, to=self._name):
            return False
        self._set_unread(self._unread + news.size)
        return True

    def _has_enough(self, more: int) -> bool:
        of_uid = self._by_uid.get(self._uid, 0)
        if self._unread >= UNREAD_BYTES or of_uid >= UNREAD_BYTES_PER_UID:
            return True
        return of_uid + more > MOST_UNREAD_BYTES - self._by_uid.total()

    def _set_unread(self, size: int) -> None:
        self._by_uid[self._uid] += size - self._unread
        self._unread = size
        if not self._by_uid[self._uid]:
            del self._by_uid[self._uid]

    def _hold_up(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._catch_up())
            for source in self._sources:
                source.pause()

    async def _catch_up(self) -> None:
        while True:
            self._set_unread(await self._edge.unread(self._name))
            self._is_known = True
            while self._waiting and self._tell(self._waiting[0]):
                self._waiting.popleft().told()
            if not self._waiting and (self._sources or not self._unread):
                break
            await asyncio.sleep(LOOK_SECONDS)
        self._task = None
        for source in list(self._sources):
            if self._task is None:  # what one brings at once may be too much again
                source.resume()


class Outboxes:
    """Those of all callers that have something to be told of."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._boxes: dict[str, Outbox] = {}
        self._unread_by_uid: Counter[int] = Counter()

    def of(self, call: Call) -> Outbox:
        for name in [name for name, box in self._boxes.items() if box.is_idle]:
            self._boxes.pop(name).close()
        box = self._boxes.get(call.sender)
        if box is None:
            box = self._boxes[call.sender] = Outbox(self._edge, call, self._unread_by_uid)
        return box

    def close(self) -> None:
        for box in self._boxes.values():
            box.close()
        self._boxes.clear()

"""So many at once, and whoever waits has his turn by uid: many of one user hold up no other's."""

import asyncio
from collections import Counter, OrderedDict, deque


class Places:
    """What so many may have at once, and so many of one uid."""

    def __init__(self, places: int = 1, per_uid: int = 1) -> None:
        self._free = places
        self._per_uid = per_uid
        self._used: Counter[int] = Counter()
        self._waiting: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()

    def place(self, uid: int) -> "_Place":
        """For `async with`, that long."""
        return _Place(self, uid)

    async def take(self, uid: int) -> None:
        if self._free and self._used[uid] < self._per_uid:
            self._free -= 1
            self._used[uid] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(uid, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came in this very moment
                self.give_back(uid)
            raise

    def give_back(self, uid: int) -> None:
        self._free += 1
        self._used[uid] -= 1
        if not self._used[uid]:
            del self._used[uid]
        self._call_next()

    def _call_next(self) -> None:
        """Gives the free place to the first of the uid that has waited longest for a turn."""
        for uid in list(self._waiting):
            if self._used[uid] >= self._per_uid:
                continue
            line = self._waiting[uid]
            while line and line[0].done():  # given up meanwhile
                line.popleft()
            turn = line.popleft() if line else None
            if line:
                self._waiting.move_to_end(uid)
            else:
                del self._waiting[uid]
            if turn is not None:
                self._free -= 1
                self._used[uid] += 1
                turn.set_result(None)
                return


class _Place:
    """Without a generator, which takes several times as long."""

    __slots__ = ("_places", "_uid")

    def __init__(self, places: Places, uid: int) -> None:
        self._places = places
        self._uid = uid

    async def __aenter__(self) -> None:
        await self._places.take(self._uid)

    async def __aexit__(self, *_: object) -> None:
        self._places.give_back(self._uid)

"""Which key goes next, and when."""

import heapq
from collections.abc import Callable

# Below so many deadlines, tidying the heap is not worth the look.
SMALL_HEAP = 64


class Deadlines:
    """When which key is due. One that was put off or taken away stays until it is met or tidied."""

    __slots__ = ("_expiry_of", "_heap", "_tidy_above")

    def __init__(self, expiry_of: Callable[[str], int | None]) -> None:
        """expiry_of: when a key goes, in microseconds; None: never, or it is not there."""
        self._expiry_of = expiry_of
        self._heap: list[tuple[int, str]] = []
        self._tidy_above = SMALL_HEAP

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, expires_us: int, key: str) -> None:
        heapq.heappush(self._heap, (expires_us, key))
        if len(self._heap) > self._tidy_above:
            # Renewing one key for ever must not fill the memory.
            self._heap = list(set(filter(self._holds, self._heap)))
            heapq.heapify(self._heap)
            self._tidy_above = max(SMALL_HEAP, 2 * len(self._heap))

    def next_us(self) -> int | None:
        while self._heap and not self._holds(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_us: int) -> str | None:
        due_us = self.next_us()
        if due_us is None or due_us > now_us:
            return None
        return heapq.heappop(self._heap)[1]

    def clear(self) -> None:
        self._heap.clear()
        self._tidy_above = SMALL_HEAP

    def _holds(self, deadline: tuple[int, str]) -> bool:
        expires_us, key = deadline
        return self._expiry_of(key) == expires_us

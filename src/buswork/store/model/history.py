"""The latest changes, for those who were away for a while."""

from collections import deque

from buswork.errors import BusworkError
from buswork.store.wire.lines import Change

# What one change takes besides its key and value: measured on CPython 3.11, 64 bits.
CHANGE_OVERHEAD_BYTES = 224


class RevisionGone(BusworkError):
    """The changes after a revision are not kept, or the revision is of another epoch."""

    name = "org.mapipc.Error.RevisionGone"


class History:
    """The latest changes, found by revision in constant time.

    A dictionary is the ring: revisions are consecutive, so the oldest key is always known.
    """

    __slots__ = ("_bytes", "_changes", "_costs", "_max_bytes", "_max_changes", "oldest", "revision")

    def __init__(self, max_changes: int, max_bytes: int) -> None:
        self._changes: dict[int, Change] = {}
        self._costs: deque[int] = deque()
        self._bytes = 0
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        self.revision = 0
        self.oldest = 1  # one more than revision when nothing is kept

    def append(self, key: str | None, value: bytes | None, size: int) -> Change:
        """`size`: of key and value together."""
        self.revision = revision = self.revision + 1
        change = Change(revision, key, value)
        self._changes[revision] = change
        cost = CHANGE_OVERHEAD_BYTES + size
        self._costs.append(cost)
        self._bytes += cost
        while self._bytes > self._max_bytes or len(self._changes) > self._max_changes:
            del self._changes[self.oldest]
            self._bytes -= self._costs.popleft()
            self.oldest += 1
        return change

    def check(self, revision: int) -> None:
        """Raises RevisionGone unless every change after revision is known."""
        if revision > self.revision:
            raise RevisionGone(
                f"Revision {revision} is yet to come, the present one is {self.revision}; "
                "was it read before the daemon started anew?"
            )
        if revision < self.oldest - 1:
            raise RevisionGone(
                f"The changes after revision {revision} are not kept, only those after "
                f"{self.oldest - 1}; read the values again."
            )

    def next_after(self, revision: int) -> Change | None:
        change = self._changes.get(revision + 1)
        if change is None:
            self.check(revision)
        return change

    def after(self, revision: int) -> list[Change]:
        self.check(revision)
        return [self._changes[n] for n in range(revision + 1, self.revision + 1)]

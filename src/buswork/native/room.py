"""Room for native clients that wait: for their request, for polkit, for their turn, or to read.

Each uid has a quota (buswork.authority); these are the bounds over all uids together.
"""

import resource
from typing import Generic, Protocol, TypeVar

from buswork.errors import LimitsExceeded

# Each connection may hold a second descriptor, for its process: so half of all at the most.
PART = 4
# What requests and replies that wait may take: four uids with two of the largest each.
MOST_BYTES = 64 * 1024 * 1024


class Connection(Protocol):
    @property
    def uid(self) -> int: ...


Client = TypeVar("Client", bound=Connection)


class Crowd(Generic[Client]):
    """The connections that wait, those of each uid in the order in which they came."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most or resource.getrlimit(resource.RLIMIT_NOFILE)[0] // PART
        # Whether each has not said a word yet.
        self._silent: dict[int, dict[Client, bool]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def all(self) -> list[Client]:
        return [client for clients in self._silent.values() for client in clients]

    @property
    def is_full(self) -> bool:
        return self._count >= self.most

    def add(self, client: Client) -> None:
        self._silent.setdefault(client.uid, {})[client] = True
        self._count += 1

    def heard(self, client: Client) -> None:
        clients = self._silent.get(client.uid, {})
        if client in clients:
            clients[client] = False

    def remove(self, client: Client) -> bool:
        """False: it was not here any more."""
        clients = self._silent.get(client.uid, {})
        if clients.pop(client, None) is None:
            return False
        self._count -= 1
        if not clients:
            del self._silent[client.uid]
        return True

    def oldest_silent(self, uid: int) -> Client | None:
        clients = self._silent.get(uid, {})
        return next((client for client, is_silent in clients.items() if is_silent), None)

    def oldest_of_most(self) -> Client:
        """Of the uid that has most."""
        uid = max(self._silent, key=lambda uid: len(self._silent[uid]))
        return next(iter(self._silent[uid]))


class Buffers:
    """Bytes that wait in memory. No uid may have more than is left free: so the first has half at
    the most, and whoever comes later finds some."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._used: dict[int, int] = {}
        self._total = 0

    def take(self, uid: int, amount: int) -> None:
        own = self._used.get(uid, 0) + amount
        if own > self._most - self._total:
            raise LimitsExceeded(f"native clients have {self._total} bytes waiting already")
        self._used[uid] = own
        self._total += amount

    def give_back(self, uid: int, amount: int) -> None:
        self._total -= amount
        self._used[uid] -= amount
        if not self._used[uid]:
            del self._used[uid]

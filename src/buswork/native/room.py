"""Room for native clients that wait: for their request, for polkit, for their turn, or to read.

Each uid has a quota (buswork.authority); there are bounds over all uids together too.
"""

import resource
import sys
from typing import Generic, Protocol, TypeVar

from buswork.authority import Lease, Quotas
from buswork.errors import LimitsExceeded

# Each connection may hold a second descriptor, for its process, and there are crowds of the store,
# of the driver, of the boards and of libipc's services: so half of all at the most.
PART = 16
# What requests and replies that wait may take: half of it of one uid, a quarter of the next.
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
        own, total = self._used.get(uid, 0) + amount, self._total + amount
        if own > self._most - total:
            raise LimitsExceeded(f"there are {self._total} bytes waiting already")
        self._used[uid], self._total = own, total

    def give_back(self, uid: int, amount: int) -> None:
        self._total -= amount
        self._used[uid] -= amount
        if not self._used[uid]:
            del self._used[uid]


class Charges:
    """What a connection has waiting in memory, charged to its uid in steps, each twice the last."""

    __slots__ = ("_buffers", "_free", "_leases", "_paid", "_quotas", "_uid")

    def __init__(self, quotas: Quotas, buffers: Buffers, uid: int, free: int) -> None:
        """free: the lease for the connection pays for so much."""
        self._quotas = quotas
        self._buffers = buffers
        self._uid = uid
        self._free = self._paid = free
        self._leases: list[Lease] = []

    def cover(self, size: int) -> None:
        """LimitsExceeded: its uid, or all together, have too much already."""
        if size <= self._paid:
            return
        amount = max(size, self._paid)
        lease = self._quotas.take(self._uid, "waiting_bytes", amount)
        try:
            self._buffers.take(self._uid, amount)
        except LimitsExceeded:
            lease.release()
            raise
        self._leases.append(lease)
        self._paid += amount

    def release(self) -> None:
        if self._leases:
            for lease in self._leases:
                lease.release()
            self._leases.clear()
            self._buffers.give_back(self._uid, self._paid - self._free)
            self._paid = self._free

    def adjust(self, size: int) -> None:
        """As `cover`; and gives all back as soon as what is there is paid for without."""
        if size > self._free:
            self.cover(size)
        else:
            self.release()


def size_of(value: object) -> int:
    """What a request takes in memory once it has been read: more than the bytes that came."""
    size = sys.getsizeof(value)
    if isinstance(value, (list, tuple)):
        size += sum(map(size_of, value))
    elif isinstance(value, dict):
        size += sum(map(size_of, value)) + sum(map(size_of, value.values()))
    return size

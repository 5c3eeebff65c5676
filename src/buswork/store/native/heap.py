"""Which blocks of the shared memory are free. A place is a block and an order in one number."""

from collections import deque

# Records take 1, 2, 4 .. blocks; the longest key with the longest value takes 128.
ORDERS = 8
CHUNK = 1 << (ORDERS - 1)

# Growing begins with a quarter of the heap free, so that it ends before the rest is used.
FULL = 0.75

# As many writes of records of one size pass before blocks are written again.
SPARES = 8
# Blocks that rest; more go back to where larger records may have them.
MOST_SPARES = 64


def place_at(block: int, order: int) -> int:
    return block << 3 | order


def block_of(place: int) -> int:
    return place >> 3


def order_of(place: int) -> int:
    return place & 7


class Heap:
    """Hands out places by the buddy system, and lets them rest before they are used again."""

    def __init__(self, blocks: int) -> None:
        self.spares: tuple[deque[int], ...] = tuple(deque() for _ in range(ORDERS))
        self._free: tuple[set[int], ...] = tuple(set() for _ in range(ORDERS))
        # The first chunk has the two numbers that mean something else; its pages are never used.
        self.used = CHUNK
        self.blocks = blocks

    @property
    def is_filling(self) -> bool:
        return self.used > self.blocks * FULL

    def take(self, order: int, resting: int = 0) -> int:
        """A place for a record of this order, so that as many of each go on resting; 0 when
        there is none."""
        place = self._carve(order)
        if not place and len(self.spares[order]) > resting:
            place = self.spares[order].popleft()
        if not place:
            for spares in self.spares:
                while len(spares) > resting:
                    self.release(spares.popleft())
            place = self._carve(order)
        return place

    def rest(self, place: int) -> None:
        """This record is no longer the one to read."""
        spares = self.spares[place & 7]
        spares.append(place)
        if len(spares) > MOST_SPARES:
            self.release(spares.popleft())

    def release(self, place: int) -> None:
        """Joins neighbours that are both free."""
        block, order = block_of(place), order_of(place)
        while order < ORDERS - 1 and block ^ (1 << order) in self._free[order]:
            self._free[order].remove(block ^ (1 << order))
            block &= ~(1 << order)
            order += 1
        self._free[order].add(block)

    def _carve(self, order: int) -> int:
        larger = order
        while larger < ORDERS and not self._free[larger]:
            larger += 1
        if larger < ORDERS:
            block = self._free[larger].pop()
        elif self.used + CHUNK <= self.blocks:
            block, larger = self.used, ORDERS - 1
            self.used += CHUNK
        else:
            return 0
        while larger > order:
            larger -= 1
            self._free[larger].add(block + (1 << larger))
        return place_at(block, order)

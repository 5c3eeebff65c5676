"""How long to wait before something is tried again."""

import random
from collections.abc import Callable


class Backoff:
    """Pauses that double, each with some chance in it, so that not all clients come at once."""

    def __init__(
        self,
        first: float,
        longest: float,
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first = first
        self._longest = longest
        self._chance = chance
        self._pause = first

    def reset(self) -> None:
        self._pause = self._first

    def next(self) -> float:
        pause = self._pause
        self._pause = min(2 * pause, self._longest)
        return self._chance(pause / 2, pause)

"""How the parts of the bench are run: how much, by whom, in which order.

Every part runs its contenders in turn within each round and rotates their order from round to
round, so that a slow minute of the machine falls on all of them.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edge_rig import Contender, Rig, Service

Item = TypeVar("Item")


@dataclass(frozen=True)
class Settings:
    """How much is run."""

    rounds: int
    robust_runs: int
    rival_runs: int
    starts: int
    contenders: frozenset[str]

    def chosen(self, *contenders: Contender) -> list[Contender]:
        return [contender for contender in contenders if contender.key in self.contenders]


def rotated(items: Sequence[Item], by: int) -> list[Item]:
    by %= len(items) or 1
    return [*items[by:], *items[:by]]


def interleaved(items: Sequence[Item], rounds: int) -> Iterator[Item]:
    for number in range(rounds):
        yield from rotated(items, number)


@contextlib.contextmanager
def serving(
    rig: Rig, contenders: Sequence[Contender], objects: int = 0
) -> Iterator[dict[str, Service]]:
    """All the contenders at once, by key."""
    with contextlib.ExitStack() as stack:
        yield {
            contender.key: stack.enter_context(rig.serve(contender, objects))
            for contender in contenders
        }


def milliseconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:.2f} ms"

"""Looks through /proc for processes that have the library, and keeps what it saw of them.

That is done in a thread: with thousands of processes it takes its time. And by one at a time: who
began earlier and ended later would forget what the other has found.
"""

import asyncio
import os
from typing import Final, NamedTuple

from buswork.appview.model import Change, Process, Processes, Removed, State
from buswork.appview.native import owning, processes
from buswork.appview.native.processes import Seen
from buswork.native.rounds import Rounds

# Whoever looks at everything, and everybody may, leaves half of the time to others.
MOST_REST_SECONDS: Final = 1.0


class _Look(NamedTuple):
    """What one look through /proc has shown."""

    # Whoever has the library, with whose own it is.
    found: list[tuple[Seen, int | None]]
    unreadable: int
    # Who is there at all.
    there: set[int]


class Finder:
    def __init__(self, known: Processes) -> None:
        self._known = known
        self._known.on_change.append(self._changed)
        self._seen: dict[int, Seen] = {}
        # Who was looked at twice.
        self._old: set[int] = set()
        self._young: set[int] = set()
        self._looking = asyncio.Lock()
        self._rounds = Rounds(self._look_at_all, most_rest=MOST_REST_SECONDS)
        self.unreadable = 0

    async def stop(self) -> None:
        self._known.on_change.remove(self._changed)
        await self._rounds.stop()

    def seen(self, process: Process) -> Seen | None:
        """None: it is gone."""
        seen = self._seen.get(process.pid)
        return seen if seen is not None and seen.started_at == process.started_at else None

    async def look(self) -> None:
        """At everything anew. Who comes while this goes on shares the next look: his process may
        have come after this one went past."""
        await self._rounds.next()

    async def _look_at_all(self) -> None:
        async with self._looking:
            look = await asyncio.to_thread(_look, frozenset())
            self.unreadable = look.unreadable
            self._old, self._young = look.there, set()
            self._known.keep_only({(seen.pid, seen.started_at) for seen, _ in look.found})
            self._meet_all(look)

    async def look_for_new(self) -> list[Process]:
        """Those that came since the last look. Each is looked at twice: the first time, it may
        not have become the program yet that it was made for."""
        async with self._looking:
            look = await asyncio.to_thread(_look, frozenset(self._old))
            self._old = (self._old | self._young) & look.there
            self._young = look.there - self._old
            return self._meet_all(look)

    def _meet_all(self, look: _Look) -> list[Process]:
        met = (self._meet(seen, owner) for seen, owner in look.found)
        return [process for process in met if self._known.by_pid.get(process.pid) is process]

    def _meet(self, seen: Seen, owner: int | None) -> Process:
        state = State.SETUP if seen.is_setup else State.INERT
        self._seen[seen.pid] = seen
        process = self._known.meet(
            Process(
                seen.pid, seen.started_at, seen.uid, owner, seen.name, seen.command, state=state
            )
        )
        if self._known.by_pid.get(seen.pid) is not process:  # there is no room for it
            del self._seen[seen.pid]
        elif seen.is_setup or process.state is State.SETUP:  # it may have been attached meanwhile
            self._known.learn(process, state=state)
        return process

    def _changed(self, change: Change) -> None:
        if isinstance(change, Removed) and self.seen(change.process) is not None:
            del self._seen[change.process.pid]


def _look(but: frozenset[int]) -> _Look:
    there = processes.pids()
    found, unreadable = processes.scan(there - but - {os.getpid()})
    return _Look([(seen, owning.owner(seen)) for seen in found], unreadable, there)

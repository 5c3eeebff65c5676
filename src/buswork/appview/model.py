"""Processes that have the library, and what is known of them; says what changed. No I/O."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

# Of a machine, at once: each is an object on the bus. And of a user, who leaves room for others.
MAX_PROCESSES: Final = 4096
MAX_PROCESSES_PER_UID: Final = 1024


class State(StrEnum):
    """As the original has it (protocol section 5); INERT are those that have the library and do
    not answer: it has a list of programs that it does nothing in."""

    SETUP = "Setup"
    LATENT = "Latent"
    ACTIVE = "Active"
    INERT = "Inert"


class Asker(NamedTuple):
    """Who wants something of a process, and whether he was let in because it is his."""

    uid: int
    is_owner: bool


@dataclass(eq=False, slots=True)
class Process:
    """One process, for as long as it lives."""

    pid: int
    started_at: int
    uid: int
    # Whose own it is: who may ask it without being asked back.
    owner: int | None
    name: str
    command: str
    state: State = State.INERT
    uuid: str = ""
    id: str = ""
    machine_id: str = ""

    @property
    def is_viewed(self) -> bool:
        return self.state is State.ACTIVE

    def asker(self, uid: int) -> Asker:
        return Asker(uid, self.owner == uid)


@dataclass(frozen=True, slots=True)
class Added:
    process: Process


@dataclass(frozen=True, slots=True)
class Changed:
    process: Process
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    process: Process


Change = Added | Changed | Removed


class Processes:
    """All that are known, by pid."""

    def __init__(
        self, most: int = MAX_PROCESSES, most_per_uid: int = MAX_PROCESSES_PER_UID
    ) -> None:
        self.most = most
        self.most_per_uid = most_per_uid
        self.by_pid: dict[int, Process] = {}
        self.on_change: list[Callable[[Change], None]] = []
        # Those that there is no room for (pid, started_at).
        self.left_out: set[tuple[int, int]] = set()
        self._per_uid: Counter[int] = Counter()

    def meet(self, process: Process) -> Process:
        """The one that is known, if it is the same; else this one, and the other is gone."""
        known = self.by_pid.get(process.pid)
        if known is not None:
            if known.started_at == process.started_at:
                self.learn(known, uid=process.uid, owner=process.owner, name=process.name,
                           command=process.command)  # fmt: skip
                return known
            self.forget(known)
        key = process.pid, process.started_at
        if len(self.by_pid) < self.most and self._per_uid[process.uid] < self.most_per_uid:
            self.by_pid[process.pid] = process
            self._per_uid[process.uid] += 1
            self.left_out.discard(key)
            self._tell(Added(process))
        else:
            self.left_out.add(key)
        return process

    def learn(self, process: Process, **facts: object) -> None:
        """Facts by their names; those that are known already are no news."""
        news = [name for name, value in facts.items() if getattr(process, name) != value]
        is_known = self.by_pid.get(process.pid) is process
        self._per_uid[process.uid] -= is_known
        for name in news:
            setattr(process, name, facts[name])
        self._per_uid[process.uid] += is_known
        if news and is_known:
            self._tell(Changed(process, tuple(news)))

    def forget(self, process: Process) -> None:
        if self.by_pid.get(process.pid) is process:
            del self.by_pid[process.pid]
            self._per_uid[process.uid] -= 1
            self._tell(Removed(process))

    def keep_only(self, met: set[tuple[int, int]]) -> None:
        """Those that were not met any more (pid, started_at) are gone."""
        self.left_out &= met
        for process in [*self.by_pid.values()]:
            if (process.pid, process.started_at) not in met:
                self.forget(process)

    def _tell(self, change: Change) -> None:
        for told in [*self.on_change]:
            told(change)

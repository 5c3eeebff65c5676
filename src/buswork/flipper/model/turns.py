"""Whose turn it is at one board.

Rules
* One turn runs at a time, and nothing interrupts it.
* Turns go round the users that wait, and round each user's owners: who asks for much, or over many
  connections, takes nothing from others. An owner's jobs are done in their order.
* A job that is cancelled ends at once, or when its present turn does: the line is left clean.
  Nothing more is told of it.
* Of all else that was asked, exactly one result or error is told.
* A claim is a job of its owner's that waits until nobody else has anything to do, while others
  may ask for nothing more.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from buswork.errors import LimitsExceeded
from buswork.flipper.errors import Claimed, Disconnected, NotClaimed
from buswork.flipper.model.claims import Claim, Claims, Owner
from buswork.flipper.model.work import Job, Turn, known
from buswork.flipper.wire.exchanges import Answer

T = TypeVar("T")
Done = Callable[[T | None, Exception | None], None]

# Who polls for subscribers; its share is that of one more user.
POLLER = "the poller"
POLLER_UID = -1


@dataclass(frozen=True, slots=True)
class Limits:
    """How much waits at one board; a bench may lift them."""

    # A user's part is what one may have in flight over D-Bus; sixteen may have theirs at once.
    jobs: int = 1024
    jobs_per_uid: int = 64
    # What pushes and pulls keep until they are done.
    job_bytes: int = 64 << 20
    job_bytes_per_uid: int = 16 << 20


@dataclass(eq=False, slots=True)
class Asked(Generic[T]):
    """A job on its way; `turn` is what the line is to run now."""

    owner: Owner
    uid: int
    job: Job[T]
    on_done: Done[T]
    turns: "Turns" = field(repr=False)
    claim: Claim | None = None  # it is one that waits to be granted
    turn: Turn = field(init=False, repr=False)
    has_begun: bool = False
    # What it ends with, after the turn that runs.
    verdict: Exception | None = None

    def done(self, answer: Answer, now: float) -> None:
        """Its turn ran."""
        self.turns._ran(self, lambda: self.job.turns.send(answer), now)

    def failed(self, error: Exception, now: float) -> None:
        """Its turn could not be run to its end."""
        self.turns._ran(self, lambda: self.job.turns.throw(error), now)

    def _step(self, go_on: Callable[[], Turn]) -> "_Outcome[T] | None":
        """None: there is a turn to run."""
        self.has_begun = True
        try:
            self.turn = go_on()
        except StopIteration as ended:
            return ended.value, None
        except Exception as error:
            return None, error
        return None


_Outcome = tuple[T | None, Exception | None]
_CANCELLED = Exception("nobody waits for this any more")


def _nobody(result: object, error: Exception | None) -> None:
    """Nobody waits for this any more."""


class _Room:
    """How much waits, of each user and in all."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: Counter[int] = Counter()
        self._bytes: Counter[int] = Counter()

    def take(self, uid: int, size: int) -> None:
        limits = self._limits
        total, own = self._jobs.total(), self._jobs[uid]
        if total >= limits.jobs or own >= limits.jobs_per_uid:
            raise LimitsExceeded(f"{total} calls wait for this board, {own} of them yours.")
        mine, all_bytes = self._bytes[uid] + size, self._bytes.total() + size
        if mine > limits.job_bytes_per_uid or all_bytes > limits.job_bytes:
            raise LimitsExceeded(f"Too much data waits for this board to take {size} bytes more.")
        self._jobs[uid] += 1
        self._bytes[uid] += size

    def give(self, uid: int, size: int) -> None:
        self._jobs[uid] -= 1
        self._bytes[uid] -= size
        if not self._jobs[uid]:
            del self._jobs[uid], self._bytes[uid]


class Turns:
    """`on_work` is called when there may be something to do that was not there before."""

    def __init__(self, key: str, claims: Claims, limits: Limits | None = None) -> None:
        self.on_work: Callable[[], None] = lambda: None
        self._key = key
        self._claims = claims
        self._room = _Room(limits or Limits())
        self._queues: dict[Owner, deque[Asked[Any]]] = {}
        # Those that have a turn to run, in the order in which it comes.
        self._ready: dict[int, dict[Owner, Asked[Any]]] = {}
        self._running: Asked[Any] | None = None
        self._pending: Asked[Claim] | None = None
        self._why_closed = ""

    @property
    def has_work(self) -> bool:
        """Whether a turn runs or waits."""
        return self._running is not None or bool(self._ready)

    @property
    def holder(self) -> Claim | None:
        """Whose claim it is, or will be: others may ask for nothing."""
        return self._claims.at(self._key) or (self._pending.claim if self._pending else None)

    def waiting(self) -> list[tuple[Owner, int, int]]:
        """Owner, its uid, and how much it has asked for."""
        return [(owner, queue[0].uid, len(queue)) for owner, queue in self._queues.items()]

    # What callers do

    def ask(self, owner: Owner, uid: int, job: Job[T], on_done: Done[T]) -> Asked[T]:
        """`on_done` gets the job's result or error; before this returns if it needs no turn."""
        self._check(owner, job.needs_service)
        asked = Asked(owner, uid, job, on_done, self)
        self._add(asked)
        self._settle(owner)
        return asked

    def claim(self, claim: Claim, now: float, on_done: Done[Claim]) -> Asked[Claim]:
        """`on_done` gets the claim once all is done that was asked before."""
        self._check(claim.owner)
        if self.holder is not None:
            raise Claimed(f"You have claimed the board already: {self.holder.reason}")
        job: Job[Claim] = Job(known(claim))
        asked = self._pending = Asked(claim.owner, claim.uid, job, on_done, self, claim)
        try:
            self._add(asked)
        except LimitsExceeded:
            self._pending = None
            raise
        self._grant(now)
        return asked

    def cancel(self, asked: Asked[Any], now: float) -> None:
        asked.on_done = _nobody
        self._end([asked], _CANCELLED)
        self._end_what_needs_a_claim()  # which it may have been
        self._grant(now)

    # What the line does

    def next(self) -> Asked[Any] | None:
        """Whose turn it is: `turn` is to be run, and done() or failed() called."""
        assert self._running is None, "one turn at a time"
        if not self._ready:
            return None
        uid = next(iter(self._ready))
        owners = self._ready.pop(uid)
        owner = next(iter(owners))
        self._running = owners.pop(owner)
        if owners:
            self._ready[uid] = owners
        return self._running

    def fail(self, error: Exception, now: float) -> None:
        """Nothing of what was asked can be done; a claim is no matter of the line."""
        self._running = None
        self._end([asked for asked in self._all() if not asked.claim], error)
        self._grant(now)

    def close(self, why: str) -> None:
        """The board is gone."""
        self._why_closed = why
        self._running = None
        self._end(self._all(), Disconnected(why))

    def claim_changed(self) -> None:
        """It was granted or lent, or has ended."""
        self._end_what_needs_a_claim()
        self.on_work()

    # Inside

    def _all(self) -> list[Asked[Any]]:
        return [asked for queue in self._queues.values() for asked in queue]

    def _check(self, owner: Owner, needs_service: bool = False) -> None:
        if self._why_closed:
            raise Disconnected(self._why_closed)
        holder = self.holder
        if holder is not None and holder.lent:
            raise Claimed(f"The board is lent: {holder.reason}")
        if holder is not None and owner not in (holder.owner, POLLER):
            raise Claimed(f"Somebody has claimed the board: {holder.reason}")
        if needs_service and not (holder and holder.service):
            raise NotClaimed("This disturbs the calls of others: claim the board for service.")

    def _add(self, asked: Asked[Any]) -> None:
        self._room.take(asked.uid, asked.job.size)
        self._queues.setdefault(asked.owner, deque()).append(asked)

    def _settle(self, owner: Owner) -> None:
        """Begins what is first in the owner's queue; what needs no turn is done at once."""
        while first := self._first(owner):
            outcome = first._step(lambda: next(first.job.turns))
            if outcome is None:
                self._line_up(first)
                return
            self._remove(first)
            first.on_done(*outcome)

    def _first(self, owner: Owner) -> Asked[Any] | None:
        """What is to be begun of the owner's, if it is time."""
        queue = self._queues.get(owner)
        if not queue or queue[0].claim or queue[0].has_begun:
            return None
        return queue[0]

    def _line_up(self, asked: Asked[Any]) -> None:
        self._ready.setdefault(asked.uid, {})[asked.owner] = asked
        self.on_work()

    def _ran(self, asked: Asked[Any], go_on: Callable[[], Turn], now: float) -> None:
        if asked is not self._running:
            return  # it ended meanwhile, with the board
        self._running = None
        if asked.verdict is not None:
            self._end([asked], asked.verdict)
        elif outcome := asked._step(go_on):
            self._remove(asked)
            asked.on_done(*outcome)
            self._settle(asked.owner)
        else:
            self._line_up(asked)
        self._grant(now)

    def _end_what_needs_a_claim(self) -> None:
        holder = self.holder
        owner = holder.owner if holder and holder.service else None
        lost = [asked for asked in self._all() if asked.job.needs_service and asked.owner != owner]
        if lost:
            self._end(lost, NotClaimed("The claim ended before this was done."))

    def _end(self, ending: Iterable[Asked[Any]], error: Exception) -> None:
        """The one that runs ends after its turn; who is told finds all of this done."""
        ended = []
        for asked in ending:
            if asked is self._running:
                asked.verdict = error
            elif asked in self._queues.get(asked.owner, ()):
                asked.job.turns.close()
                self._remove(asked)
                ended.append(asked)
        for asked in ended:
            asked.on_done(None, error)
        for asked in ended:
            self._settle(asked.owner)

    def _remove(self, asked: Asked[Any]) -> None:
        queue = self._queues[asked.owner]
        queue.remove(asked)
        if not queue:
            del self._queues[asked.owner]
        owners = self._ready.get(asked.uid, {})
        if owners.get(asked.owner) is asked:
            del owners[asked.owner]
            if not owners:
                del self._ready[asked.uid]
        if asked is self._pending:
            self._pending = None
        self._room.give(asked.uid, asked.job.size)

    def _grant(self, now: float) -> None:
        """The claim that waits, if nobody else does any more."""
        asked = self._pending
        if asked is None or asked.claim is None or len(self._queues) > 1:
            return
        if self._queues[asked.owner][0] is not asked:
            return
        self._remove(asked)
        self._claims.grant(asked.claim, now)
        asked.on_done(asked.claim, None)
        self._settle(asked.owner)

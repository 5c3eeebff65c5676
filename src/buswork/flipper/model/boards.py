"""The boards that there are: their names, their state, and which one is meant by no name.

Rules
* A board is another object each time that it is plugged in; what holds on to its place is a
  claim alone.
* Listeners hear of a change when it is complete. They don't raise, and alter nothing.
* Who may do what is not asked here, but for what only a claim's owner may.
* `now` is any clock that never goes back, in seconds.
"""

import enum
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final

from buswork.errors import BusworkError, LimitsExceeded
from buswork.flipper.errors import AlreadyAttached, NoSuchBoard
from buswork.flipper.model import turns
from buswork.flipper.model.claims import Claim, Claims, Owner
from buswork.flipper.model.events import (
    Event,
    Polls,
    Source,
    check_source,
    parse_source,
    reading,
)
from buswork.flipper.model.processors import Processors
from buswork.flipper.model.turns import POLLER, POLLER_UID, Turns
from buswork.flipper.wire.modules import Module
from buswork.flipper.wire.terms import UDP_PORT, Generation, shown

# Each has a thread while it is open; half as many at once are what is tested.
MAX_BOARDS = 64
# A name is part of an object path, and is typed by people.
MAX_NAME_CHARACTERS = 64
MAX_ERROR_CHARACTERS = 256


class Transport(enum.StrEnum):
    USB = "usb"
    UDP = "udp"


class State(enum.StrEnum):
    READY = "ready"  # nobody uses it: the line is closed
    IN_USE = "in-use"
    LENT = "lent"  # to another program, and the line is closed
    FAILED = "failed"  # `error` says why; the next call tries again


@dataclass(frozen=True, slots=True)
class Limits:
    """How much fits; a bench may lift them."""

    boards: int = MAX_BOARDS
    waiting: turns.Limits = field(default_factory=turns.Limits)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who uses a board."""

    owner: Owner
    uid: int
    waiting: int = 0  # jobs
    sources: tuple[Source, ...] = ()
    claim: Claim | None = None


class Board:
    """One board, from when it is plugged in until it is unplugged."""

    def __init__(
        self, boards: "Boards", key: str, name: str, transport: Transport, generation: Generation
    ) -> None:
        self.key = key
        self.name = name
        self.transport = transport
        self.generation = generation
        self.incarnation = boards._plugged[key]  # how often it was plugged in there
        self.processors = Processors(generation, transport is Transport.USB)
        self.turns = Turns(key, boards._claims, boards.limits.waiting)
        self.is_open = False
        self.error = ""  # what last went wrong with the line, for people
        self._boards = boards
        self._polls = Polls()
        self._told = (self.state, self.error)

    @property
    def modules(self) -> Mapping[str, Module]:
        return self.processors.modules

    @property
    def claim(self) -> Claim | None:
        return self._boards._claims.at(self.key)

    @property
    def is_lent(self) -> bool:
        """The line is to be closed as soon as nothing waits for it."""
        return self.claim is not None and self.claim.lent

    @property
    def state(self) -> State:
        if self.is_open:
            return State.IN_USE
        if self.is_lent:
            return State.LENT
        return State.FAILED if self.error else State.READY

    def holders(self) -> list[Holder]:
        uids: dict[Owner, int] = {}
        jobs: dict[Owner, int] = {}
        sources: dict[Owner, list[Source]] = {}
        for owner, uid, count in self.turns.waiting():
            uids[owner], jobs[owner] = uid, count
        for owner, uid, source in self._polls.subscribers():
            uids[owner] = uid
            sources.setdefault(owner, []).append(source)
        claim = self.claim
        if claim is not None:
            uids[claim.owner] = claim.uid
        return [
            Holder(
                owner,
                uid,
                jobs.get(owner, 0),
                tuple(sources.get(owner, ())),
                claim if claim is not None and claim.owner == owner else None,
            )
            for owner, uid in uids.items()
            if owner != POLLER
        ]

    # What the line tells

    def line_opened(self) -> None:
        self.processors.bridge.doubt()
        self.is_open, self.error = True, ""
        self._tell_state()

    def line_closed(self, error: str = "") -> None:
        """With an error: it can't be opened, or had to be closed."""
        self.is_open, self.error = False, error[:MAX_ERROR_CHARACTERS]
        self._tell_state()

    # Subscriptions

    def subscribe(self, owner: Owner, uid: int, source: str, interval_ms: int) -> Source:
        found = parse_source(source)
        check_source(self.processors, found)
        self._polls.subscribe(owner, uid, found, interval_ms)
        self.turns.on_work()
        return found

    def unsubscribe(self, owner: Owner, source: str) -> None:
        self._polls.unsubscribe(owner, parse_source(source))

    def next_poll(self) -> float | None:
        """When poll() is to be called; None: there is nothing to read."""
        return None if self.is_lent else self._polls.next_poll(self._only())

    def poll(self, now: float) -> None:
        """Asks for what is to be read now."""
        for source in self._polls.due(now, self._only()):
            job = reading(self.processors, source)
            try:
                self.turns.ask(POLLER, POLLER_UID, job, partial(self._polled, source))
            except BusworkError as error:
                self._polled(source, None, error)

    def _only(self) -> Owner | None:
        holder = self.turns.holder
        return holder.owner if holder is not None else None

    def _polled(self, source: Source, value: int | None, error: Exception | None) -> None:
        if value is None:
            self._polls.failed(source)
            for tell in self._boards.on_poll_failed:
                tell(self, source, error)
            return
        for event in self._polls.polled(source, value):
            for listener in self._boards.on_event:
                listener(self, event)

    # Inside

    def _tell_state(self) -> None:
        now = (self.state, self.error)
        names = [
            name
            for name, value, told in zip(("state", "error"), now, self._told, strict=True)
            if value != told
        ]
        self._told = now
        if names:
            self._boards._tell(BoardChanged(self, tuple(names)))


@dataclass(frozen=True, slots=True)
class BoardAdded:
    board: Board


@dataclass(frozen=True, slots=True)
class BoardRemoved:
    board: Board


@dataclass(frozen=True, slots=True)
class BoardChanged:
    """`names` are those of Board's attributes: state, error, claim."""

    board: Board
    names: tuple[str, ...]


Change = BoardAdded | BoardRemoved | BoardChanged


class Boards:
    """All boards, by name and in the order in which they came."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.on_change: list[Callable[[Change], None]] = []
        self.on_event: list[Callable[[Board, Event], None]] = []
        self.on_poll_failed: list[Callable[[Board, Source, Exception | None], None]] = []
        # With the place, whether a board is there or not, and whose it is now.
        self.on_claim: list[Callable[[str, Claim | None], None]] = []
        self._boards: dict[str, Board] = {}
        self.boards: Mapping[str, Board] = MappingProxyType(self._boards)
        self._by_key: dict[str, Board] = {}
        self._claims = Claims(self._claim_changed)
        self._plugged: Counter[str] = Counter()

    @property
    def current(self) -> Board | None:
        """Which is meant by who names none: the newest, and when it goes, the one before."""
        return next(reversed(self._boards.values()), None)

    def find(self, name: str = "") -> Board:
        board = self._boards.get(name) if name else self.current
        if board is None:
            text = f"There is no board {shown(name)!r}." if name else "There is no board."
            raise NoSuchBoard(text)
        return board

    def by_key(self, key: str) -> Board | None:
        return self._by_key.get(key)

    # Boards come and go

    def attach(
        self,
        key: str,
        *,
        name: str = "",
        transport: Transport = Transport.USB,
        generation: Generation = Generation.G1,
    ) -> Board:
        """`name` is what an administrator has called it; it is used if it can be."""
        known = self._by_key.get(key)
        if known is not None:
            raise AlreadyAttached(f"This board is attached, as {known.name}.")
        if len(self._boards) >= self.limits.boards:
            raise LimitsExceeded(f"There are {len(self._boards)} boards; no more are allowed.")
        self._plugged[key] += 1
        board = Board(self, key, self._name(key, name), transport, generation)
        self._boards[board.name] = self._by_key[key] = board
        self._tell(BoardAdded(board))
        return board

    def detach(self, key: str) -> None:
        """All that was asked of the board ends; a claim goes on."""
        board = self._by_key.pop(key, None)
        if board is None:
            return
        del self._boards[board.name]
        if board.transport is Transport.UDP:  # of ports, there are not many
            del self._plugged[key]
        board.turns.close(f"{board.name} was unplugged.")
        self._tell(BoardRemoved(board))

    # Claims

    def renew(self, token: str, owner: Owner, now: float) -> None:
        self._claims.renew(token, owner, now)

    def release(self, token: str, owner: Owner) -> None:
        self._claims.release(token, owner)

    def lend(self, token: str, owner: Owner) -> None:
        """The board is LENT when its line is closed, until the claim ends."""
        self._claims.lend(token, owner)

    def next_expiry(self) -> float | None:
        return self._claims.next_expiry()

    def expire(self, now: float) -> None:
        self._claims.expire(now)

    # Inside

    def _name(self, key: str, given: str) -> str:
        port = key.partition(":")[2].removesuffix(f":{UDP_PORT}")
        name = given if _is_name(given) else f"carbon-{port}"
        found, count = name, 1
        while found in self._boards:
            count += 1
            found = f"{name}-{count}"
        return found

    def _claim_changed(self, key: str) -> None:
        for listener in self.on_claim:
            listener(key, self._claims.at(key))
        board = self._by_key.get(key)
        if board is None:
            return
        board.turns.claim_changed()
        self._tell(BoardChanged(board, ("claim",)))
        board._tell_state()

    def _tell(self, change: Change) -> None:
        for listener in self.on_change:
            listener(change)


_PUNCTUATION: Final = frozenset("-_.")


def _is_name(text: str) -> bool:
    """Whether people can type it."""
    if not text.isascii() or not 0 < len(text) <= MAX_NAME_CHARACTERS:
        return False
    return all(c.isalnum() or c in _PUNCTUATION for c in text)

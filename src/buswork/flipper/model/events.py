"""What is read of a board again and again, for those who want to know of changes (section 12).

Rules
* However many subscribe, each thing is read once: as often as the most eager one asks, and once
  more for a new one's first value; of the pins, all that anybody asks for.
* A subscriber is told the first value, then each that differs from what it was told last, and not
  more often than it asked.
* What can't be read is tried again, after a while that doubles up to a limit.
* While somebody has claimed the board, what it subscribed to itself is read, and nothing else.
"""

import enum
import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, NamedTuple

from buswork.errors import InvalidArgs, LimitsExceeded
from buswork.flipper.model.claims import Owner
from buswork.flipper.model.processors import Processors
from buswork.flipper.model.work import Job, Turn
from buswork.flipper.wire.checks import call
from buswork.flipper.wire.exchanges import Answer, Exchange
from buswork.flipper.wire.results import interpret, raise_for
from buswork.flipper.wire.terms import shown

# A board makes a few hundred calls a second, and those of callers come first.
MIN_INTERVAL_MS = 10
MAX_INTERVAL_MS = 60_000
# A board that does not answer is kept busy by a call for a third of a second.
RETRY_FIRST_S = 1.0
RETRY_MAX_S = 30.0
# One for each pin and a few more; of a user, twice that; and of all together. All of one kind are
# told in one go, so that few enough may have one value that others don't notice.
MAX_SUBSCRIPTIONS_OF_OWNER = 64
MAX_SUBSCRIPTIONS_OF_UID = 128
MAX_SUBSCRIPTIONS = 1024

_NEVER = float("-inf")
_MASK = re.compile(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}", re.ASCII)
_MAX_MASK = 2**32 - 1


class Kind(enum.StrEnum):
    BUTTON = "button"
    GPIO = "gpio"
    UART0 = "uart0"
    USART = "usart"


_FUNCTIONS: Final = {
    Kind.BUTTON: "read",
    Kind.GPIO: "read",
    Kind.UART0: "ready",
    Kind.USART: "ready",
}


class Source(NamedTuple):
    kind: Kind
    mask: int | None = None  # of the pins

    def __str__(self) -> str:
        return self.kind if self.mask is None else f"{self.kind}:{self.mask:#x}"


class Event(NamedTuple):
    """For a subscriber; `before` is what it was told last, None if nothing."""

    owner: Owner
    source: Source
    value: int
    before: int | None


def parse_source(text: str) -> Source:
    """ "button", "uart0", "usart", or "gpio:" and a mask, decimal or hexadecimal."""
    name, colon, number = text.partition(":")
    if name == Kind.GPIO:
        return Source(Kind.GPIO, _parse_mask(number))
    if colon or name not in _FUNCTIONS:
        have = ", ".join(kind for kind in Kind if kind is not Kind.GPIO)
        raise InvalidArgs(f"There is no source {shown(text)!r}; there are {have} and gpio:MASK.")
    return Source(Kind(name))


def _parse_mask(text: str) -> int:
    mask = int(text, 16 if text[1:2] in "xX" else 10) if _MASK.fullmatch(text) else 0
    if not 0 < mask <= _MAX_MASK:
        raise InvalidArgs(f"gpio is followed by a colon and a mask of 1 to {_MAX_MASK:#x}.")
    return mask


@dataclass(eq=False, slots=True)
class _Subscription:
    owner: Owner
    uid: int
    source: Source
    interval: float
    told: int | None = None
    due: float = _NEVER

    @property
    def wait(self) -> float:
        """A new one is to have its first value soon."""
        return MIN_INTERVAL_MS / 1000 if self.due == _NEVER else self.interval

    def news(self, value: int, now: float) -> Event | None:
        if now < self.due:
            return None
        self.due = now + self.interval
        if self.source.mask is not None:
            value &= self.source.mask
        if value == self.told:
            return None
        before, self.told = self.told, value
        return Event(self.owner, self.source, value, before)


@dataclass(slots=True)
class _Poll:
    """When a kind was read last."""

    asked: float = _NEVER
    is_asked: bool = False  # and has not been answered
    failures: int = 0

    def next_at(self, interval: float) -> float:
        if not self.failures:
            return self.asked + interval
        retry = min(RETRY_FIRST_S * 2.0 ** min(self.failures - 1, 16), RETRY_MAX_S)
        return self.asked + max(interval, retry)


class Polls:
    """One board's subscriptions, and when what is to be read for them.

    `only` is the owner whose subscriptions count, None for all.
    """

    def __init__(self) -> None:
        self._subscriptions: dict[tuple[Owner, Source], _Subscription] = {}
        self._polls = {kind: _Poll() for kind in Kind}

    def subscribe(self, owner: Owner, uid: int, source: Source, interval_ms: int) -> None:
        """Of what the owner has subscribed to already, the interval changes."""
        if not MIN_INTERVAL_MS <= interval_ms <= MAX_INTERVAL_MS:
            text = f"An interval has {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS} milliseconds."
            raise InvalidArgs(text)
        interval = interval_ms / 1000
        known = self._subscriptions.get((owner, source))
        if known is not None:
            known.interval = interval
            return
        self._make_sure_of_room(owner, uid)
        self._subscriptions[owner, source] = _Subscription(owner, uid, source, interval)

    def _make_sure_of_room(self, owner: Owner, uid: int) -> None:
        own = sum(each.owner == owner for each in self._subscriptions.values())
        of_uid = sum(each.uid == uid for each in self._subscriptions.values())
        if own >= MAX_SUBSCRIPTIONS_OF_OWNER or of_uid >= MAX_SUBSCRIPTIONS_OF_UID:
            text = f"You have {own} subscriptions of this board, and all your programs {of_uid}."
            raise LimitsExceeded(text)
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise LimitsExceeded(f"This board has {len(self._subscriptions)} subscriptions.")

    def unsubscribe(self, owner: Owner, source: Source) -> None:
        if self._subscriptions.pop((owner, source), None) is None:
            raise InvalidArgs(f"You have not subscribed to {source}.")

    def subscribers(self) -> list[tuple[Owner, int, Source]]:
        return [(each.owner, each.uid, each.source) for each in self._subscriptions.values()]

    def next_poll(self, only: Owner | None = None) -> float | None:
        """When something is to be read; None: nothing is."""
        return min((at for _, at in self._planned(only)), default=None)

    def due(self, now: float, only: Owner | None = None) -> list[Source]:
        """What is to be read now; each is answered by polled() or failed()."""
        found = []
        for kind, at in self._planned(only):
            if at <= now:
                poll = self._polls[kind]
                poll.asked, poll.is_asked = now, True
                found.append(Source(kind, self._mask(kind, only)))
        return found

    def polled(self, source: Source, value: int) -> list[Event]:
        """What its subscribers are to be told."""
        poll = self._polls[source.kind]
        poll.is_asked, poll.failures = False, 0
        events = [
            each.news(value, poll.asked)
            for each in self._subscriptions.values()
            if _covers(source, each.source)
        ]
        return [event for event in events if event is not None]

    def failed(self, source: Source) -> None:
        poll = self._polls[source.kind]
        poll.is_asked = False
        poll.failures += 1

    def _planned(self, only: Owner | None) -> list[tuple[Kind, float]]:
        intervals: dict[Kind, float] = {}
        for each in self._counting(only):
            kind = each.source.kind
            intervals[kind] = min(each.wait, intervals.get(kind, each.wait))
        return [
            (kind, self._polls[kind].next_at(interval))
            for kind, interval in intervals.items()
            if not self._polls[kind].is_asked
        ]

    def _mask(self, kind: Kind, only: Owner | None) -> int | None:
        if kind is not Kind.GPIO:
            return None
        mask = 0
        for each in self._counting(only):
            mask |= each.source.mask or 0
        return mask

    def _counting(self, only: Owner | None) -> list[_Subscription]:
        return [each for each in self._subscriptions.values() if only in (None, each.owner)]


def _covers(read: Source, wanted: Source) -> bool:
    """A subscription may have come while less was being read."""
    return read.kind is wanted.kind and (wanted.mask or 0) & ~(read.mask or 0) == 0


def check_source(processors: Processors, source: Source) -> None:
    """BadValue: the board has not got it."""
    processors.find(source.kind, _FUNCTIONS[source.kind])


def reading(processors: Processors, source: Source) -> Job[int]:
    return Job(_read(processors, source))


def _read(processors: Processors, source: Source) -> Generator[Turn, Answer, int]:
    table, module, function = processors.find(source.kind, _FUNCTIONS[source.kind])
    values = () if source.mask is None else (source.mask,)
    request = call(table, module.name, function.name, values)
    answer = yield processors.turn(table.processor, Exchange(request))
    raise_for(answer.result, table.generation)
    return interpret(answer.result, function.returns, table.processor) or 0

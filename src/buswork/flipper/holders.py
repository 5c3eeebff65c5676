"""What callers hold of boards: claims, subscriptions, transfers that take a while.

Rules
* Who holds something is watched: it goes when its owner goes, or when somebody takes it by force.
* A claim belongs to a place, and outlives the board; a subscription belongs to the board.
* Of what a board prints, each subscriber gets as much as fits into one message per interval.
"""

import asyncio
import itertools
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from buswork.authority import Lease, Quotas
from buswork.bus.caller import Call
from buswork.bus.library import Variant, variant
from buswork.bus.objects import escape_name
from buswork.bus.ownership import Held, Holdings
from buswork.errors import BusworkError, InvalidArgs, LimitsExceeded
from buswork.flipper.errors import NotClaimed, NotOwner, TransferFailed
from buswork.flipper.model.boards import Board, BoardRemoved, Boards, Change
from buswork.flipper.model.claims import Claim
from buswork.flipper.model.events import MAX_INTERVAL_MS, MIN_INTERVAL_MS, Event, Source
from buswork.log import Sparing
from buswork.native.room import Buffers

log = logging.getLogger(__name__)

WING = "flipper"
ROOT = "/org/flipper"
# The source that no board is asked for: what it prints.
DEBUG = "debug"

# Nobody guesses it; nor would it be of use to others.
TOKEN_BYTES = 16
# What transfers of all callers may keep in memory; each is there about three times, as message,
# as what the board takes or brings, and as what is made of that.
MOST_BYTES = 32 << 20
# A board prints a few lines; of one that floods, the newest are kept.
MAX_TEXT_CHARACTERS = 4096

Now = Callable[[], float]
# board, the owner's name, source, value
Tell = Callable[[Board, str, str, Variant], None]


class ClaimHolders:
    """Those who have a board to themselves, or wait for that."""

    def __init__(self, boards: Boards, holdings: Holdings, now: Now) -> None:
        self._boards = boards
        self._holdings = holdings
        self._now = now
        self._ids = itertools.count(1)
        self._held: dict[str, tuple[Claim, Held]] = {}  # by token
        boards.on_claim.append(self._changed)

    def close(self) -> None:
        self._boards.on_claim.remove(self._changed)

    async def claim(
        self, call: Call, board: Board, reason: str, lease_seconds: int, *, service: bool = False
    ) -> Claim:
        """Returns when it is granted."""
        token = secrets.token_hex(TOKEN_BYTES)
        claim = Claim(
            board.key, call.sender, call.uid, reason, lease_seconds, token, service=service
        )
        granted: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()

        def on_done(result: Claim | None, error: Exception | None) -> None:
            if granted.done():
                return
            if error is not None:
                granted.set_exception(error)
            else:
                granted.set_result(claim)

        def make() -> tuple[str, Callable[[], None]]:
            asked = board.turns.claim(claim, self._now(), on_done)

            def take_away() -> None:
                board.turns.cancel(asked, self._now())
                on_done(None, NotClaimed("The claim was taken away before it was granted."))
                with suppress(NotOwner):
                    self._boards.release(token, call.sender)

            return f"{ROOT}/claims/{next(self._ids)}", take_away

        what = f"{board.name} alone: {claim.reason}"
        held = await self._holdings.make(call, WING, what, make)
        self._held[token] = claim, held
        try:
            return await granted
        except BaseException:
            self._forget(token)
            held.take_away()
            raise

    def renew(self, call: Call, token: str) -> None:
        self._boards.renew(token, call.sender, self._now())

    def _changed(self, key: str, now: Claim | None) -> None:
        """The place is somebody else's now, or nobody's."""
        ended = [
            claim.token for claim, _ in self._held.values() if claim.key == key and claim is not now
        ]
        for token in ended:
            self._forget(token)

    def _forget(self, token: str) -> None:
        _, held = self._held.pop(token, (None, None))
        if held is not None:
            self._holdings.let_go(held)


class _Texts:
    """What a board has printed, for one subscriber."""

    def __init__(self, interval: float, tell: Callable[[str], None]) -> None:
        self.interval = interval
        self._tell = tell
        self._waiting = ""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, text: str) -> None:
        self._waiting = (self._waiting + text)[-MAX_TEXT_CHARACTERS:]
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.interval, self._flush)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _flush(self) -> None:
        self._timer = None
        text, self._waiting = self._waiting, ""
        self._tell(text)


@dataclass(eq=False, slots=True)
class _Subscriber:
    """One caller, of one board."""

    board: Board
    name: str
    lease: Lease
    texts: _Texts | None = None
    held: Held | None = None

    def sources(self) -> list[str]:
        """What the board is asked for on its behalf."""
        holders = (each for each in self.board.holders() if each.owner == self.name)
        return [str(source) for each in holders for source in each.sources]


class Subscriptions:
    """Those who want to know of changes."""

    def __init__(self, boards: Boards, holdings: Holdings, quotas: Quotas, tell: Tell) -> None:
        self._boards = boards
        self._holdings = holdings
        self._quotas = quotas
        self._tell = tell
        self._subscribers: dict[tuple[Board, str], _Subscriber] = {}
        # Told whether anybody wants to know what a board prints.
        self.on_listen: Callable[[Board, bool], None] = lambda board, is_on: None
        self._sparing = Sparing("words of what can't be read of boards")
        boards.on_event.append(self._event)
        boards.on_poll_failed.append(self._poll_failed)
        boards.on_change.append(self._changed)

    def close(self) -> None:
        self._boards.on_event.remove(self._event)
        self._boards.on_poll_failed.remove(self._poll_failed)
        self._boards.on_change.remove(self._changed)
        for subscriber in [*self._subscribers.values()]:
            self._forget(subscriber)

    async def subscribe(self, call: Call, board: Board, source: str, interval_ms: int) -> None:
        known = self._subscribers.get((board, call.sender))
        if known is not None:
            self._add(known, call, source, interval_ms)
            self._listen(board)
            return
        lease = self._quotas.take(call.uid, "watches")
        subscriber = _Subscriber(board, call.sender, lease)

        def make() -> tuple[str, Callable[[], None]]:
            self._add(subscriber, call, source, interval_ms)
            self._subscribers[board, call.sender] = subscriber
            path = f"{ROOT}/subscriptions/{escape_name(board.name)}/{escape_name(call.sender)}"
            return path, lambda: self._end(subscriber)

        try:
            what = f"events of {board.name}"
            subscriber.held = await self._holdings.make(call, WING, what, make)
        except BaseException:
            lease.release()
            raise
        self._listen(board)

    def unsubscribe(self, call: Call, board: Board, source: str) -> None:
        subscriber = self._subscribers.get((board, call.sender))
        if source == DEBUG and subscriber is not None and subscriber.texts is not None:
            subscriber.texts.close()
            subscriber.texts = None
        else:
            board.unsubscribe(call.sender, source)
        if subscriber is not None and subscriber.texts is None and not subscriber.sources():
            self._forget(subscriber)
        self._listen(board)

    def printed(self, board: Board, text: str) -> None:
        for subscriber in self._subscribers.values():
            if subscriber.board is board and subscriber.texts is not None:
                subscriber.texts.add(text)

    def _add(self, subscriber: _Subscriber, call: Call, source: str, interval_ms: int) -> None:
        board = subscriber.board
        if source != DEBUG:
            board.subscribe(call.sender, call.uid, source, interval_ms)
            return
        if not MIN_INTERVAL_MS <= interval_ms <= MAX_INTERVAL_MS:
            text = f"An interval has {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS} milliseconds."
            raise InvalidArgs(text)
        if subscriber.texts is None:
            subscriber.texts = _Texts(
                interval_ms / 1000,
                lambda text: self._tell(board, call.sender, DEBUG, variant("s", text)),
            )
        subscriber.texts.interval = interval_ms / 1000

    def _listen(self, board: Board) -> None:
        here = (each for each in self._subscribers.values() if each.board is board)
        self.on_listen(board, any(each.texts is not None for each in here))

    def _event(self, board: Board, event: Event) -> None:
        self._tell(board, str(event.owner), str(event.source), variant("u", event.value))

    def _poll_failed(self, board: Board, source: Source, error: Exception | None) -> None:
        """Subscribers hear of it when it works again; calls say what is wrong meanwhile."""
        if self._sparing.allows(log):
            log.warning("%s: %s can't be read for subscribers: %s", board.name, source, error)

    def _changed(self, change: Change) -> None:
        if isinstance(change, BoardRemoved):
            for subscriber in [*self._subscribers.values()]:
                if subscriber.board is change.board:
                    self._forget(subscriber)

    def _end(self, subscriber: _Subscriber) -> None:
        for source in subscriber.sources():
            subscriber.board.unsubscribe(subscriber.name, source)
        self._forget(subscriber)

    def _forget(self, subscriber: _Subscriber) -> None:
        if self._subscribers.pop((subscriber.board, subscriber.name), None) is None:
            return
        if subscriber.texts is not None:
            subscriber.texts.close()
        if subscriber.held is not None:
            self._holdings.let_go(subscriber.held)
        subscriber.lease.release()
        self._listen(subscriber.board)


class Channels(Protocol):
    """Who serves descriptors that speak FMR; the native room does."""

    def open(
        self, board: Board, call: Call, on_end: Callable[[], None]
    ) -> tuple[int, Callable[[], None]]:
        """The caller's end, and what ends the channel, whoever holds that end by then; on_end is
        called when it has ended."""


class ChannelHolders:
    """Those who speak with a board over a channel, until they close it or leave."""

    def __init__(self, channels: Channels, holdings: Holdings, quotas: Quotas) -> None:
        self._channels = channels
        self._holdings = holdings
        self._quotas = quotas
        self._ids = itertools.count(1)

    async def open(self, call: Call, board: Board) -> int:
        lease = self._quotas.take(call.uid, "descriptors")
        held: Held | None = None
        theirs = -1

        def ended() -> None:
            lease.release()
            if held is not None:
                self._holdings.let_go(held)

        def make() -> tuple[str, Callable[[], None]]:
            nonlocal theirs
            theirs, end = self._channels.open(board, call, ended)
            return f"{ROOT}/channels/{next(self._ids)}", end

        try:
            what = f"a channel to {board.name}"
            held = await self._holdings.make(call, WING, what, make)
        except OSError as error:
            lease.release()
            raise LimitsExceeded(f"the daemon has no descriptor left: {error}") from error
        except BaseException:
            lease.release()
            raise
        return theirs


class Waiting(Protocol):
    def cancel(self) -> None: ...


W = TypeVar("W", bound=Waiting)


class TransferHolders:
    """Those whose transfers take a while: a transfer ends with its owner."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._buffers = Buffers(MOST_BYTES)
        self._ids = itertools.count(1)

    @asynccontextmanager
    async def held(self, call: Call, what: str, size: int) -> AsyncIterator[None]:
        """size: how many bytes wait in memory."""
        with self._room(call.uid, size):
            async with self._held(call, what):
                yield

    @asynccontextmanager
    async def asked(
        self, call: Call, what: str, size: int, ask: Callable[[], W]
    ) -> AsyncIterator[W]:
        """As `held`, of what ask returns, which is called before anything is waited for."""
        with self._room(call.uid, size):
            waiting = ask()
            try:
                async with self._held(call, what):
                    yield waiting
            except BaseException:
                waiting.cancel()
                raise

    @contextmanager
    def _room(self, uid: int, size: int) -> Iterator[None]:
        self._buffers.take(uid, size)
        try:
            yield
        finally:
            self._buffers.give_back(uid, size)

    @asynccontextmanager
    async def _held(self, call: Call, what: str) -> AsyncIterator[None]:
        task = asyncio.current_task()
        assert task is not None
        is_taken = False

        def take_away() -> None:
            nonlocal is_taken
            is_taken = True
            task.cancel()

        path = f"{ROOT}/transfers/{next(self._ids)}"
        held = await self._holdings.hold(call, path, WING, what, take_away)
        try:
            yield
        except asyncio.CancelledError:
            if not is_taken:
                raise
            raise BusworkError("This transfer was ended by force.", TransferFailed.name) from None
        finally:
            self._holdings.let_go(held)

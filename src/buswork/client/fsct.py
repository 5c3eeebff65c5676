"""The driver of Ferrum Streaming Control Technology(TM) (FSCT) displays, for asyncio.

    async with IpcDriver() as driver:
        player = await driver.register_player("radio")
        await driver.update_player_metadata(player, TextId.CURRENT_TITLE, "Clocks")
        await driver.update_player_status(player, Status.PLAYING)

A player is there for as long as its IpcDriver is open. When the driver restarts, it gets all
players again, each with its state and device; the numbers that `register_player` gave stay good.
Which player is preferred the driver itself remembers. So an update of one's own player never fails
for want of a driver: it is kept, and the next one gets the newest. Everything else waits for a
driver, for `timeout` seconds.

Failures are BusworkErrors: InvalidArgs before anything is sent, DriverError when the driver said
no, TimedOut, Disconnected, and WrongVersion, after which nothing is tried any more.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self, TypeVar
from uuid import UUID

from buswork.client.backoff import Backoff
from buswork.client.endpoints import endpoints
from buswork.client.errors import BusworkError, Disconnected, InvalidArgs, TimedOut
from buswork.client.link import DriverError, Link, WrongVersion
from buswork.client.players import Players, offer_again
from buswork.fsct.wire import checks, methods
from buswork.fsct.wire.protocol import ProtocolVersion
from buswork.fsct.wire.terms import (
    TRACK_TEXTS,
    BadValue,
    PlayerState,
    Status,
    TextId,
    Texts,
    Timeline,
)

__all__ = [
    "DriverError",
    "IpcDriver",
    "PlayerState",
    "ProtocolVersion",
    "Status",
    "TextId",
    "Texts",
    "Timeline",
    "WrongVersion",
    "endpoints",
]

log = logging.getLogger(__name__)
T = TypeVar("T")

# A little more than the driver itself lets a request take (25 s), so that its error is first.
REQUEST_SECONDS = 30.0

# Before the first attempt to connect again: a restart takes about so long.
FIRST_PAUSE = 0.1
# Each pause is twice the one before, up to this: hardly any load, and soon enough for a person.
LONGEST_PAUSE = 15.0
# When a driver does not take what the one before it had: its limits are by the second, or by
# what others have.
FIRST_REFUSED_PAUSE = 0.5
LONGEST_REFUSED_PAUSE = 30.0
# A connection that lasted so long was a good one: after it, pauses are short again.
GOOD_SECONDS = 10.0

# No display shows more: its limit, of 16 bits, counts bytes, and what is shortest in UTF-16
# (two for each) has three in UTF-8. Four of these fit into one message.
MAX_TEXT_BYTES = 0xFFFF // 2 * 3


class IpcDriver:
    """The driver behind a socket, with the methods that the driver has.

    endpoint: the socket; without it, what `endpoints` finds, anew for each attempt to connect.
    timeout: the seconds that a call may take, with all that it waits for.

    A player is a number, one that this IpcDriver does not give again. Mostly it is the number
    that the driver itself knows the player by; after a restart of the driver it is another one.
    Players of others have numbers, too, which are good until the driver restarts.
    """

    def __init__(self, endpoint: str | None = None, *, timeout: float = REQUEST_SECONDS) -> None:
        self.timeout = timeout
        self._endpoint = endpoint
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._link: Link | None = None  # connected; all players are registered if it is ready
        self._ready = asyncio.Event()  # or it has failed
        self._failure: BusworkError | None = None  # why it will never connect again
        self._keeper: asyncio.Task[None] | None = None
        self._players = Players()

    # -- opening and closing -------------------------------------------------------------------

    async def open(self) -> None:
        """Connects; Disconnected or WrongVersion if that is not possible now.

        Connections that are lost later are replaced for as long as this is not closed.
        """
        self._check_unopened()
        link = await self._connect()
        self._hold(link)
        self._ready.set()
        self._keeper = asyncio.create_task(self._keep(link))

    def start(self) -> None:
        """The same for those who can wait: connects as soon as there is a driver."""
        self._check_unopened()
        self._keeper = asyncio.create_task(self._keep(None))

    async def close(self) -> None:
        """Leaves the driver, which forgets our players; what waits fails with Disconnected."""
        self._fail(Disconnected("this driver was closed"))
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def is_connected(self) -> bool:
        """Whether there is a driver now that has all of our players."""
        return self._link is not None and self._ready.is_set()

    async def wait_connected(self) -> None:
        """Waits for that, however long it takes."""
        while not self.is_connected:
            await self._ready.wait()
            if self._failure is not None:
                raise self._failure.with_traceback(None)  # or it kept all that it was raised by

    async def wait_disconnected(self) -> None:
        """Waits until the driver is gone, if there is one."""
        if self._link is not None:
            await asyncio.shield(self._link.lost)

    def _check_unopened(self) -> None:
        if self._keeper is not None or self._failure is not None:
            raise RuntimeError("an IpcDriver is opened once")

    def _fail(self, failure: BusworkError) -> None:
        if self._failure is None:
            self._failure = failure
        link, self._link = self._link, None
        self._ready.set()
        if link is not None:
            link.close()

    # -- connecting, again and again -----------------------------------------------------------

    async def _connect(self) -> Link:
        failure = Disconnected("there is no socket of a driver")
        for path in [self._endpoint] if self._endpoint is not None else endpoints():
            try:
                return await Link.open(path)
            except WrongVersion:
                raise
            except BusworkError as error:
                failure = Disconnected(str(error))
        raise failure

    def _hold(self, link: Link) -> None:
        self._link = link
        link.on_lost = self._lose

    def _lose(self) -> None:
        """The connection is gone, and with it all numbers that the driver gave."""
        if self._failure is not None:
            return
        self._link = None
        self._ready.clear()
        self._players.lose()

    async def _keep(self, link: Link | None) -> None:
        while True:
            try:
                link = link or await self._reconnect()
            except WrongVersion as error:
                log.error("%s", error)
                self._fail(error)
                return
            except BusworkError as error:
                log.debug("%s", error)
            if link is not None:
                since = time.monotonic()
                await self._until_lost(link)
                log.debug("the connection to the driver is gone")
                if time.monotonic() - since >= GOOD_SECONDS:
                    self._backoff.reset()
                link = None
            await asyncio.sleep(self._backoff.next())

    async def _until_lost(self, link: Link) -> None:
        """Meanwhile, what the driver refused is offered again."""
        backoff = Backoff(FIRST_REFUSED_PAUSE, LONGEST_REFUSED_PAUSE)
        while not link.lost.done():
            refused = self._players.refused
            await asyncio.wait([link.lost], timeout=backoff.next() if refused else None)
            with contextlib.suppress(Disconnected):
                for player in refused:
                    await offer_again(link, player)

    async def _reconnect(self) -> Link:
        link = await self._connect()
        self._hold(link)
        try:
            async with asyncio.timeout(self.timeout):
                await self._players.replay(link)
        except TimeoutError:
            link.close()
            raise TimedOut("the driver did not take our players back in time") from None
        except BaseException:
            link.close()
            raise
        link.check()
        self._ready.set()
        log.debug("connected to the driver")
        return link

    # -- asking --------------------------------------------------------------------------------

    async def _ask(
        self,
        method: str,
        *args: Any,
        handle: int | None = None,
        over: Link | None = None,
    ) -> tuple[Link, Any]:
        """The driver's answer and whose it is; when a driver goes, the next one is asked.

        over: only over this connection, for what the next one gets in another way.
        """
        try:
            async with asyncio.timeout(self.timeout):
                while True:
                    try:
                        return await self._ask_once(method, args, handle, over)
                    except Disconnected:
                        if self._failure is not None:
                            raise self._failure from None
                        if over is not None:
                            raise
        except TimeoutError:
            why = "did not answer" if self.is_connected else "is not there to answer"
            text = f"the driver {why} {method}, for {self.timeout:g} s"
            raise TimedOut(text) from None

    async def _ask_once(
        self, method: str, args: tuple[Any, ...], handle: int | None, over: Link | None
    ) -> tuple[Link, Any]:
        if self._keeper is None:
            raise RuntimeError("this IpcDriver was not opened")
        await self.wait_connected()
        link = self._link
        if link is None or over not in (None, link):
            raise Disconnected("the connection to the driver is gone")
        ids = () if handle is None else (self._players.remote(handle),)
        return link, await link.request(method, *ids, *args)

    async def _update(
        self, handle: int, method: str, value: tuple[Any, ...], state: Callable[[PlayerState], Any]
    ) -> None:
        """Alters a player's state here and at the driver."""
        player = self._players.get(handle)
        if player is None:
            await self._ask(method, *value, handle=handle)
            return
        if self._failure is not None:
            raise self._failure
        player.set(state(player.state))
        if not self.is_connected:
            return  # the next driver gets it
        try:
            await self._ask(method, *value, handle=handle, over=self._link)
        except Disconnected:
            if self._failure is not None:
                raise

    # -- the driver's methods ------------------------------------------------------------------

    async def get_protocol_version(self) -> ProtocolVersion:
        """The driver's; that its major is ours was seen to when connecting."""
        _, version = await self._ask("get_protocol_version")
        assert isinstance(version, ProtocolVersion)
        return version

    async def register_player(self, self_id: str) -> int:
        """A new player, by the name that it is remembered by; the number that stands for it."""
        self_id = _checked(checks.self_id, self_id)
        while True:
            link, remote = await self._ask("register_player", self_id)
            if link is self._link:
                return self._players.add(self_id, remote)

    async def unregister_player(self, player: int) -> None:
        """After TimedOut it may be asked for again; the next driver does not get the player."""
        own = self._players.get(player)
        if own is None:
            await self._ask("unregister_player", handle=player)
            return
        own.is_gone = True
        if self._link is not None and own.remote is not None:  # else it went with the connection
            try:
                await self._ask("unregister_player", own.remote, over=self._link)
            except Disconnected:
                pass
            except DriverError:
                self._players.disown(player)
                raise
        self._players.remove(player)

    async def assign_player_to_device(self, player: int, device: UUID | str | bytes) -> None:
        """Has a device show this player first; the device need not be there yet."""
        device_id = _checked(checks.device_id, device)
        await self._ask("assign_player_to_device", device_id, handle=player)
        if (own := self._players.get(player)) is not None:
            own.assigned(device_id)

    async def unassign_player_from_device(self, player: int, device: UUID | str | bytes) -> None:
        device_id = _checked(checks.device_id, device)
        own = self._players.get(player)
        if own is not None and own.awaits(device_id):
            own.assigned(None)  # it may have been offered just now
            with contextlib.suppress(DriverError):
                await self._ask("unassign_player_from_device", device_id, handle=player)
            return
        await self._ask("unassign_player_from_device", device_id, handle=player)
        if own is not None:
            own.assigned(None)

    async def update_player_state(
        self, player: int, state: PlayerState | Mapping[str, Any]
    ) -> None:
        """All at once: status, timeline and texts."""
        checked = _checked(checks.player_state, methods.plain(state))
        checked = replace(checked, texts=_cut_texts(checked.texts))
        await self._update(player, "update_player_state", (checked,), lambda _: checked)

    async def update_player_status(self, player: int, status: Status | int) -> None:
        checked = _checked(checks.status, status)
        await self._update(
            player, "update_player_status", (checked,), lambda state: replace(state, status=checked)
        )

    async def update_player_timeline(
        self, player: int, timeline: Timeline | Mapping[str, Any] | None
    ) -> None:
        """Where the track is; None: it is not known, or there is none."""
        checked = _checked(checks.timeline, methods.plain(timeline))
        await self._update(
            player,
            "update_player_timeline",
            (checked,),
            lambda state: replace(state, timeline=checked),
        )

    async def update_player_metadata(
        self, player: int, text_id: TextId | int, text: str | None
    ) -> None:
        """One text of the track; None: it has none."""
        which = _checked(checks.text_id, text_id)
        checked = _cut(_checked(checks.text, text))
        await self._update(
            player,
            "update_player_metadata",
            (which, checked),
            lambda state: replace(state, texts=state.texts.with_text(which, checked)),
        )

    async def set_preferred_player(self, player: int | None) -> None:
        """The player that devices show which none is assigned to; None: no such player."""
        _checked(checks.optional_player_id, player)
        if player is None:
            await self._ask("set_preferred_player", None)
        else:
            await self._ask("set_preferred_player", handle=player)

    async def get_preferred_player(self) -> int | None:
        """It may be a player of somebody else."""
        while True:
            link, remote = await self._ask("get_preferred_player")
            if remote is None:
                return None
            if link is self._link:
                return self._players.handle(remote)

    async def get_player_assigned_device(self, player: int) -> UUID | None:
        _, device = await self._ask("get_player_assigned_device", handle=player)
        assert device is None or isinstance(device, UUID)
        return device


def _checked(check: Callable[[Any], T], value: Any) -> T:
    try:
        return check(value)
    except BadValue as error:
        raise InvalidArgs(str(error)) from None


def _cut(text: str | None) -> str | None:
    """What no display can show is not sent: it might not fit into a message."""
    if text is None or 4 * len(text) <= MAX_TEXT_BYTES:
        return text
    return text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")


def _cut_texts(texts: Texts) -> Texts:
    return Texts(**{name: _cut(getattr(texts, name)) for name in TRACK_TEXTS})

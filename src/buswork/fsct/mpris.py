"""The MPRIS players of a session bus, as displays show them.

Rules
* A bus name below org.mpris.MediaPlayer2 is a player; playerctld is none, for it mirrors others.
* Three match rules serve all players; whose a signal is, its sender says.
* Position is never announced, so it is read with Get at every change that may move it, and holds
  for the middle between call and reply. Where that fails, the old position goes on at the rate
  that was valid before the change; a new track begins at 0.
* Right after a change of track, or a jump, some players answer the old position: they are asked
  once more a little later.
* Of a player that announces without end only some signals are read, and then all that it has.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from buswork.bus.message import Flag, Frame
from buswork.bus.transport import BUS, Connection
from buswork.bus.writer import close_all
from buswork.errors import BusworkError
from buswork.fsct.mpris_values import (
    Position,
    Shown,
    Track,
    bare,
    read_microseconds,
    read_rate,
    read_status,
    read_track,
    values_of,
)
from buswork.fsct.wire.terms import Status
from buswork.log import Sparing

log = logging.getLogger(__name__)

PREFIX = "org.mpris.MediaPlayer2."
PATH = "/org/mpris/MediaPlayer2"
PLAYER = "org.mpris.MediaPlayer2.Player"
PROPERTIES = "org.freedesktop.DBus.Properties"
PLAYERCTLD = PREFIX + "playerctld"

# A session has a handful of players; a browser may have one for each of its windows.
MAX_PLAYERS = 128
# A change of track is announced in a handful of signals, and a hand on a slider makes some dozen
# a second. What comes in such a time beyond so many is not read: when it is over, the player is
# asked for what is newest. So a player that never stops costs next to nothing, and is shown late
# by no more than that.
FLOOD_SECONDS = 0.25
MAX_SIGNALS = 16

# A player answers within a millisecond; nobody should see a stale position for longer than this.
POSITION_SECONDS = 0.5
# For all properties, from a player that may just be starting.
PROPERTIES_SECONDS = 5.0
# When a player did not answer that, it is asked again.
RETRY_SECONDS = 10.0
# How long players were seen to answer with the position of the track before.
SECOND_LOOK_SECONDS = 0.5
# What the second look has to differ by to be told: less, and nobody sees it.
SAME_MICROSECONDS = 100_000

_WATCHED = ("PlaybackStatus", "Rate", "Metadata")


# -- one player ----------------------------------------------------------------------------------


class Watch:
    """One owner of a player's name, from its appearance to its end."""

    def __init__(
        self, connection: Connection, name: str, owner: str, report: Callable[[Shown], None]
    ) -> None:
        self.name = name
        self.owner = owner
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._report = report
        self._said = Status.UNKNOWN
        self._rate = 1.0
        self._track: Track | None = None  # None: it has not told yet
        self._position: Position | None = None
        self._shown = Shown()
        self._unread = True  # its properties are to be read, all of them
        self._is_second_look = False
        self._work = asyncio.Event()
        self._work.set()
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0  # signals, since the first of them that is less than a moment ago
        self._moment: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        self._task.cancel()
        self._set_timer(None)
        if self._moment is not None:
            self._moment.cancel()

    # -- what it announces ---------------------------------------------------------------------

    def hears(self) -> bool:
        """Whether one more of its signals is to be read."""
        if not self._heard:
            self._moment = self._loop.call_later(FLOOD_SECONDS, self._catch_up)
        self._heard += 1
        return self._heard <= MAX_SIGNALS

    def _catch_up(self) -> None:
        if self._heard > MAX_SIGNALS:
            self._unread = True
            self._look()
            self._look_again_later()
        self._heard = 0

    def properties_changed(self, changed: Mapping[str, Any], invalidated: Iterable[str]) -> None:
        if any(name in _WATCHED for name in invalidated):
            self._unread = True
            self._look()
        if self._apply(changed):
            self._look()

    def seeked(self, position: object) -> None:
        us = read_microseconds(position)
        if us is not None:
            self._place(us, time.monotonic_ns())
            self._tell()
        self._look()
        self._look_again_later()

    def _apply(self, said: Mapping[str, Any]) -> bool:
        """Takes over what is said; whether that may move the position."""
        status, rate, track = self._said, self._rate, self._track
        if "PlaybackStatus" in said:
            status = read_status(said["PlaybackStatus"])
        if "Rate" in said:
            rate = read_rate(said["Rate"])
        if "Metadata" in said:
            track = read_track(said["Metadata"])
        if (status, rate, track) == (self._said, self._rate, self._track):
            return False
        now = time.monotonic_ns()
        # Where it is expected: what it was moves on at the rate that was valid until now.
        if self._is_new(track):
            self._position = Position(0, now, 0.0)
            self._look_again_later()
        elif self._said is Status.STOPPED and status is Status.PLAYING:
            self._position = Position(0, now, 0.0)
        expected = self._position
        length_us = self._length_us
        self._said, self._rate, self._track = status, rate, track
        if expected is not None:
            self._place(expected.us_at(now, length_us), now)
        if self._status is not self._shown.status:
            self._show(replace(self._shown, status=self._status))
        return True

    def _is_new(self, track: Track | None) -> bool:
        return self._track is not None and track is not None and not track.is_same(self._track)

    # -- what is made of it --------------------------------------------------------------------

    @property
    def _status(self) -> Status:
        """Playing at no speed is what others call paused."""
        stands = self._said is Status.PLAYING and self._rate == 0
        return Status.PAUSED if stands else self._said

    @property
    def _length_us(self) -> int | None:
        return self._track.length_us if self._track is not None else None

    def _place(self, us: int, at_ns: int) -> None:
        self._position = Position(us, at_ns, self._rate if self._status is Status.PLAYING else 0.0)

    def _tell(self) -> None:
        track = self._track or Track()
        position = self._position if track.length_us is not None else None
        self._show(Shown(self._status, position, track.length_us or 0, track.texts))

    def _show(self, shown: Shown) -> None:
        if shown != self._shown:
            self._shown = shown
            self._report(shown)

    # -- what it is asked ----------------------------------------------------------------------

    def _look(self) -> None:
        self._is_second_look = False
        self._work.set()

    def _look_again(self) -> None:
        self._is_second_look = not self._work.is_set()
        self._work.set()

    def _look_again_later(self) -> None:
        self._set_timer(self._loop.call_later(SECOND_LOOK_SECONDS, self._look_again))

    def _set_timer(self, timer: asyncio.TimerHandle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    async def _run(self) -> None:
        """Asks one question at a time, however fast it announces."""
        while True:
            await self._work.wait()
            self._work.clear()
            if self._unread and not await self._read_all():
                self._set_timer(self._loop.call_later(RETRY_SECONDS, self._look))
                continue
            await self._read_position()
            self._tell()

    async def _read_all(self) -> bool:
        self._unread = False
        try:
            said = await self._ask("GetAll", PLAYER, seconds=PROPERTIES_SECONDS)
        except BusworkError as error:
            log.info("%s does not tell its properties: %s", self.name, error)
            said = None
        if not isinstance(said, Mapping):
            self._unread = True
            self._said = Status.ERROR
            self._show(replace(self._shown, status=Status.ERROR))
            return False
        # What it has no word for is what a player without it does.
        self._apply({"PlaybackStatus": None, "Rate": None, "Metadata": None, **said})
        return True

    async def _read_position(self) -> None:
        is_second_look = self._is_second_look
        began = time.monotonic_ns()
        try:
            us = read_microseconds(
                await self._ask("Get", PLAYER, "Position", seconds=POSITION_SECONDS)
            )
        except BusworkError as error:
            log.debug("%s does not tell its position: %s", self.name, error)
            return
        if us is None:
            return
        at = (began + time.monotonic_ns()) // 2
        if is_second_look and self._position is not None:
            expected = self._position.us_at(at, self._length_us)
            if abs(us - expected) <= SAME_MICROSECONDS:
                return
        self._place(us, at)

    async def _ask(self, member: str, *arguments: str, seconds: float) -> Any:
        """Asks this very process: whoever else gets its name is another player."""
        frame = await self._connection.call(
            self.owner,
            PATH,
            PROPERTIES,
            member,
            "s" * len(arguments),
            arguments,
            flags=Flag.NO_AUTO_START,
            timeout=seconds,
        )
        values = values_of(frame)
        close_all(frame.fds)
        if values is None or not len(values):
            raise BusworkError(f"its answer to {member} can't be read")
        return bare(values[0])


# -- all players ---------------------------------------------------------------------------------

RULES = (
    f"type='signal',sender='{BUS}',member='NameOwnerChanged',arg0namespace='{PREFIX[:-1]}'",
    f"type='signal',interface='{PROPERTIES}',path='{PATH}',arg0='{PLAYER}'",
    f"type='signal',interface='{PLAYER}',path='{PATH}',member='Seeked'",
)


class Sink(Protocol):
    """Who wants to know; names are bus names."""

    def appeared(self, name: str) -> None: ...

    def changed(self, name: str, shown: Shown) -> None: ...

    def vanished(self, name: str) -> None: ...


class Players:
    """The players of a bus."""

    def __init__(self, connection: Connection, sink: Sink) -> None:
        self._connection = connection
        self._sink = sink
        self._watches: dict[str, Watch] = {}
        self._by_owner: dict[str, list[Watch]] = {}
        # Names of which the bus told while they were being listed.
        self._told: set[str] | None = None
        self._is_crowded = False
        self._listing: asyncio.Task[None] | None = None
        self._sparing = Sparing("players too many")

    def __len__(self) -> int:
        return len(self._watches)

    async def start(self) -> None:
        connection = self._connection
        connection.listen(BUS, "NameOwnerChanged", self._owner_changed, sender=BUS)
        connection.listen(
            PROPERTIES, "PropertiesChanged", self._properties_changed, sender=None, path=PATH
        )
        connection.listen(PLAYER, "Seeked", self._seeked, sender=None, path=PATH)
        for rule in RULES:
            await connection.add_match(rule)
        await self._list()

    def stop(self) -> None:
        if self._listing is not None:
            self._listing.cancel()
        for name in tuple(self._watches):
            self._remove(name)

    async def _list(self) -> None:
        """Finds those that were there before we listened, or had no place."""
        self._is_crowded = False
        told: set[str] = set()
        self._told = told
        try:
            (names,) = await self._connection.call_bus("ListNames")
            for name in names:
                if not _is_player(name) or name in self._watches:
                    continue
                if len(self._watches) >= MAX_PLAYERS:
                    self._complain(name)
                    break
                owner = await self._owner(name)
                if owner is not None and name not in told:  # else it told what is newer
                    self._set_owner(name, owner)
        finally:
            self._told = None

    async def _owner(self, name: str) -> str | None:
        try:
            (owner,) = await self._connection.call_bus("GetNameOwner", "s", (name,))
        except BusworkError:
            return None  # it has gone
        return str(owner)

    def _complain(self, name: str) -> None:
        self._is_crowded = True
        if self._sparing.allows(log):
            log.warning("%s is not shown: there are %d players already", name, MAX_PLAYERS)

    # -- their coming and going ----------------------------------------------------------------

    def _owner_changed(self, frame: Frame) -> None:
        if frame.header.signature != "sss":
            return
        name, _, owner = values_of(frame) or ("", "", "")
        if _is_player(name):
            if self._told is not None:
                self._told.add(name)
            self._set_owner(name, owner)

    def _set_owner(self, name: str, owner: str) -> None:
        watch = self._watches.get(name)
        if watch is not None and watch.owner == owner:
            return
        if watch is not None:
            self._remove(name)
        if owner and watch is None and len(self._watches) >= MAX_PLAYERS:
            self._complain(name)
        elif owner:
            if watch is None:
                self._sink.appeared(name)
            else:  # another process has the name: the player stays, what it did does not
                self._sink.changed(name, Shown())
            self._add(name, owner)
        elif watch is not None:
            self._sink.vanished(name)
            self._fill_up()

    def _add(self, name: str, owner: str) -> None:
        watch = Watch(self._connection, name, owner, lambda shown: self._sink.changed(name, shown))
        self._watches[name] = watch
        self._by_owner.setdefault(owner, []).append(watch)

    def _remove(self, name: str) -> None:
        watch = self._watches.pop(name)
        watch.stop()
        of_owner = self._by_owner[watch.owner]
        of_owner.remove(watch)
        if not of_owner:
            del self._by_owner[watch.owner]

    def _fill_up(self) -> None:
        """There is a place, perhaps for one that had none."""
        if self._is_crowded and (self._listing is None or self._listing.done()):
            self._listing = asyncio.create_task(self._list_quietly())

    async def _list_quietly(self) -> None:
        try:
            await self._list()
        except BusworkError as error:
            log.debug("players can't be listed: %s", error)

    # -- their signals -------------------------------------------------------------------------

    def _properties_changed(self, frame: Frame) -> None:
        watches = self._hearing(frame)
        if not watches or frame.header.signature != "sa{sv}as":
            return
        values = values_of(frame)
        if values is not None and values[0] == PLAYER:
            for watch in watches:
                watch.properties_changed(values[1], values[2])

    def _seeked(self, frame: Frame) -> None:
        watches = self._hearing(frame)
        if watches:
            position = next(iter(values_of(frame) or ()), None)
            for watch in watches:
                watch.seeked(position)

    def _hearing(self, frame: Frame) -> list[Watch]:
        of_sender = self._by_owner.get(frame.header.sender or "", ())
        return [watch for watch in of_sender if watch.hears()]


def _is_player(name: str) -> bool:
    return name.startswith(PREFIX) and name != PLAYERCTLD

"""A program's own players: their numbers, and how the next driver gets to know all they had."""

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from buswork.client.link import REGISTER, DriverError, Link
from buswork.fsct.wire.terms import FIELDS, PlayerState

log = logging.getLogger(__name__)

ASSIGN = "assign_player_to_device"
UPDATE = "update_player_state"
MAX_ID = int(FIELDS["player_id"].highest)


@dataclass(slots=True, eq=False)
class Player:
    """One of our players, as the next driver is to have it."""

    self_id: str
    state: PlayerState = field(default_factory=PlayerState)
    # Wall clock less monotonic clock when the timeline came: the former may be set meanwhile.
    wall_ns: int = 0
    device: UUID | None = None
    remote: int | None = None  # its number at the driver that we are connected to
    offered: PlayerState | None = None  # to that driver, when it was registered there anew
    refusals: dict[str, DriverError] = field(default_factory=dict)  # of that driver, by method
    is_gone: bool = False  # unregistered, as far as we are concerned

    def set(self, state: PlayerState) -> None:
        if state.timeline is not self.state.timeline:
            self.wall_ns = _wall_ns()
        self.state = state

    def state_now(self) -> PlayerState:
        """The state, in what the wall clock says now."""
        timeline = self.state.timeline
        step_ms = round((_wall_ns() - self.wall_ns) / 1_000_000)
        if timeline is None or not step_ms:
            return self.state
        moved = replace(timeline, update_unix_ms=timeline.update_unix_ms + step_ms)
        return replace(self.state, timeline=moved)

    @property
    def is_behind(self) -> bool:
        """Whether it has changed since it was registered anew."""
        is_there = self.remote is not None and not self.is_gone
        return is_there and self.offered is not self.state

    def awaits(self, device: UUID) -> bool:
        """Whether the driver has not let it have this device again."""
        return ASSIGN in self.refusals and self.device == device

    def assigned(self, device: UUID | None) -> None:
        self.device = device
        self.refusals.pop(ASSIGN, None)

    def lose(self) -> None:
        self.remote = self.offered = None
        self.refusals.clear()


class Players:
    """Our players, and the numbers of all players, as they are here and as they are there."""

    def __init__(self) -> None:
        self._own: dict[int, Player] = {}
        # Of others' players; the largest number of ours that is the driver's, too; the next one
        # that is not.
        self._foreign: dict[int, int] = {}
        self._highest = 0
        self._from_top = MAX_ID

    def get(self, handle: int) -> Player | None:
        return self._own.get(handle)

    def add(self, self_id: str, remote: int) -> int:
        """A player of ours: the driver's number, unless it may have been given here before."""
        if remote > self._highest and remote not in self._foreign:
            handle = self._highest = remote
        else:
            handle = self._next_from_top()
        self._own[handle] = Player(self_id, remote=remote)
        return handle

    def remove(self, handle: int) -> None:
        self._own.pop(handle, None)

    def disown(self, handle: int) -> None:
        """It is no player of ours any more; its number is good for as long as that one."""
        player = self._own.pop(handle, None)
        if player is not None and player.remote not in (None, handle):
            self._foreign[handle] = player.remote

    def lose(self) -> None:
        """The connection is gone, and with it all numbers that the driver gave."""
        self._foreign.clear()
        for player in self._own.values():
            player.lose()

    # -- numbers -------------------------------------------------------------------------------

    def handle(self, remote: int) -> int:
        """The number here of a player that the driver told us of."""
        for numbers in (self._ours(), self._foreign.items()):
            for handle, there in numbers:
                if there == remote:
                    return handle
        handle = self._next_from_top() if remote in self._own else remote
        self._foreign[handle] = remote
        return handle

    def _ours(self) -> Iterator[tuple[int, int | None]]:
        return ((handle, player.remote) for handle, player in self._own.items())

    def remote(self, handle: int) -> int:
        """The number at the driver; one that is not known here may be one there all the same."""
        player = self._own.get(handle)
        if player is None:
            return self._foreign.get(handle, handle)
        if player.remote is None:  # refused, or gone with the driver before
            raise player.refusals.get(REGISTER, DriverError("Player not found"))
        return player.remote

    def _next_from_top(self) -> int:
        while self._from_top in self._own or self._from_top in self._foreign:
            self._from_top -= 1
        self._from_top -= 1
        return self._from_top + 1

    # -- after a restart -----------------------------------------------------------------------

    async def replay(self, link: Link) -> None:
        """Has the driver know all that the one before it knew of us."""
        players = [player for player in self._own.values() if not player.is_gone]
        await asyncio.gather(*(_register(link, player) for player in players))
        # What has changed meanwhile was only noted.
        while behind := [player for player in players if player.is_behind]:
            await asyncio.gather(*(_update(link, player) for player in behind))

    @property
    def refused(self) -> list[Player]:
        """Those that the driver did not take, or not with all they had: for a limit perhaps."""
        return [player for player in self._own.values() if player.refusals and not player.is_gone]


async def offer_again(link: Link, player: Player) -> None:
    """What the driver refused of it."""
    if player.is_gone:
        return
    if REGISTER in player.refusals:
        await _register(link, player)
        return
    if ASSIGN in player.refusals:
        await _assign(link, player)
    if UPDATE in player.refusals:
        await _update(link, player)


async def _register(link: Link, player: Player) -> None:
    remote = await _offer(link, player, REGISTER, player.self_id)
    link.check()
    player.remote = remote
    if remote is None:
        return
    if player.is_gone:
        link.unregister(remote)
        return
    await _assign(link, player)
    await _update(link, player)


async def _assign(link: Link, player: Player) -> None:
    if player.device is None:
        player.refusals.pop(ASSIGN, None)
    elif not player.is_gone:
        await _offer(link, player, ASSIGN, player.remote, player.device)


async def _update(link: Link, player: Player) -> None:
    player.offered = player.state
    if not player.is_gone:
        await _offer(link, player, UPDATE, player.remote, player.state_now())


async def _offer(link: Link, player: Player, method: str, *args: Any) -> Any:
    """What was allowed once may be refused now; the rest has to go on."""
    try:
        result = await link.request(method, *args)
    except DriverError as error:
        if method not in player.refusals:
            log.warning("the driver refuses %s of %r: %s", method, player.self_id, error)
        player.refusals[method] = error
        return None
    player.refusals.pop(method, None)
    return result


def _wall_ns() -> int:
    return time.time_ns() - time.monotonic_ns()

"""Which player a device shows: a strict order of ranks, and what decides inside of one.

Rules
* Players whose user sits at the machine come before all others, if that is known.
* Then comes the first rank of ORDER that any player has. A player that is assigned to a device
  which is not connected counts as assigned to none.
* Inside a rank the player that the device shows stays, else the one that registered first.
* So there is a choice whenever there is a player, even if that belongs to another device.

The players of each rank are kept in order at all times: choosing looks at the heads of a few
lines, and never at all the players.
"""

from bisect import bisect_left, insort
from enum import Enum, StrEnum
from operator import attrgetter

from buswork.fsct.model.players import Player

_order = attrgetter("order")


class Standing(Enum):
    """What a player is to a device; the values are the original's names."""

    HERE = "AssignedToThisDevice"
    PREFERRED = "UserSelected"
    FREE = "Unassigned"
    ELSEWHERE = "AssignedToOtherDevice"


# Best first: what a player is to the device, and whether it plays.
ORDER = (
    (Standing.HERE, True),
    (Standing.PREFERRED, True),
    (Standing.PREFERRED, False),
    (Standing.FREE, True),
    (Standing.HERE, False),
    (Standing.FREE, False),
    (Standing.ELSEWHERE, True),
    (Standing.ELSEWHERE, False),
)


class Reason(StrEnum):
    """Why a device shows what it shows."""

    NONE = "none"
    ASSIGNED = "assigned"
    PREFERRED = "preferred"
    PLAYING = "playing"
    IDLE = "idle"
    ONLY = "only"
    ELSEWHERE = "elsewhere"
    SEAT = "seat"


_REASONS = {
    (Standing.HERE, True): Reason.ASSIGNED,
    (Standing.HERE, False): Reason.ASSIGNED,
    (Standing.PREFERRED, True): Reason.PREFERRED,
    (Standing.PREFERRED, False): Reason.PREFERRED,
    (Standing.FREE, True): Reason.PLAYING,
    (Standing.FREE, False): Reason.IDLE,
    (Standing.ELSEWHERE, True): Reason.ELSEWHERE,
    (Standing.ELSEWHERE, False): Reason.ELSEWHERE,
}


class Line:
    """Players of equal rank, in order of registration."""

    __slots__ = ("_players",)

    def __init__(self) -> None:
        self._players: list[Player] = []

    def add(self, player: Player) -> None:
        insort(self._players, player, key=_order)

    def remove(self, player: Player) -> None:
        del self._players[self._place(player)]

    def pick(self, shown: Player | None) -> Player | None:
        """The one that is shown if it is among them, else the first."""
        players = self._players
        if shown is not None and players:
            place = self._place(shown)
            if place < len(players) and players[place] is shown:
                return shown
        return players[0] if players else None

    def _place(self, player: Player) -> int:
        return bisect_left(self._players, player.order, key=_order)


class Group:
    """Players of equal standing, in a line for each rank.

    A player must be taken out before, and put back after, its `seated` or `playing` changes.
    """

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines = {(seat, plays): Line() for seat in (True, False) for plays in (True, False)}

    def add(self, player: Player) -> None:
        self._lines[player.seated, player.playing].add(player)

    def remove(self, player: Player) -> None:
        self._lines[player.seated, player.playing].remove(player)

    def pick(self, seated: bool, playing: bool, shown: Player | None) -> Player | None:
        return self._lines[seated, playing].pick(shown)


class Choice:
    """All players as one device sees them."""

    __slots__ = ("_groups", "_preferred")

    def __init__(self, here: Group, free: Group, assigned: Group, preferred: Player | None) -> None:
        """`assigned`: to any device that is connected. `preferred`: if it is not among those.

        Both `free` and `assigned` have players of a better standing too. These were met before:
        a rank is only reached when no player is in a better one.
        """
        self._groups = {
            Standing.HERE: here,
            Standing.FREE: free,
            Standing.ELSEWHERE: assigned,
        }
        self._preferred = preferred

    def make(self, shown: Player | None, is_only: bool) -> tuple[Player | None, Reason]:
        """The player to show after `shown`, and why; `is_only`: there is but one."""
        for seated in (True, False):
            for place, (standing, playing) in enumerate(ORDER):
                player = self._best(standing, seated, playing, shown)
                if player is None:
                    continue
                if seated and self._has_absent(place):
                    return player, Reason.SEAT
                reason = _REASONS[standing, playing]
                return player, Reason.ONLY if is_only and reason is Reason.IDLE else reason
        return None, Reason.NONE

    def _best(
        self, standing: Standing, seated: bool, playing: bool, shown: Player | None
    ) -> Player | None:
        if standing is not Standing.PREFERRED:
            return self._groups[standing].pick(seated, playing, shown)
        player = self._preferred
        if player is None or (player.seated, player.playing) != (seated, playing):
            return None
        return player

    def _has_absent(self, place: int) -> bool:
        """Whether a player whose user does not sit here has a rank before this place."""
        return any(
            self._best(standing, False, playing, None) is not None
            for standing, playing in ORDER[:place]
        )

"""The players, the devices, and who may be seen where; every change is told once.

Rules
* Everything is checked before anything is altered; a method that raises has changed nothing.
* What a player says has been checked by `wire.checks`; here it is only cut to what is kept.
* Listeners hear of a change when it is complete: what they read then is the newest, though
  another change may be on its way to them. They don't raise. They may alter the model; what
  comes of it is told after what is being told.
* A device comes to `displays` before it is told of, and a player leaves `players` and every
  display before it is told of, so that nothing ever points at what is not there.
* An equal value is no change, nor is a timeline that goes on as it was known to.
* Who may do what is not asked here. `owner` is whatever its players end with.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from uuid import UUID

from buswork.errors import InvalidArgs, LimitsExceeded
from buswork.fsct.model.changes import (
    Change,
    DeviceAdded,
    DeviceChanged,
    DeviceRemoved,
    PlayerAdded,
    PlayerChanged,
    PlayerRemoved,
    PreferredChanged,
)
from buswork.fsct.model.display import (
    MAX_DEVICES,
    MAX_ERROR_CHARACTERS,
    Device,
    Display,
    NoSuchDevice,
)
from buswork.fsct.model.players import (
    MAX_PLAYERS,
    MAX_TEXT_BYTES,
    NoSuchPlayer,
    NotAssigned,
    Player,
    kept_text,
    kept_texts,
    runs_on,
    wall_offset_ms,
)
from buswork.fsct.model.selection import Choice, Group
from buswork.fsct.wire.terms import (
    FIELDS,
    TRACK_TEXTS,
    PlayerState,
    Status,
    TextId,
    Texts,
    Timeline,
)

# Ids begin anew when all were given: at 10,000 registrations a second, after five days.
MAX_PLAYER_ID = int(FIELDS["player_id"].highest)

_CURRENT_TEXTS = frozenset(TRACK_TEXTS.values())


@dataclass(frozen=True, slots=True)
class Limits:
    """How much fits; a bench may lift them."""

    players: int = MAX_PLAYERS
    devices: int = MAX_DEVICES
    text_bytes: int = MAX_TEXT_BYTES


class Driver:
    """All players and all displays; `preferred` is the id of a player, or None.

    `remembered` is the self id of the player that was preferred last, and `remembered_uid` its
    user's: the next one that registers with both is preferred again. A user's player can't take
    the place of another user's by calling itself the same.
    """

    def __init__(
        self, limits: Limits | None = None, wall_offset_ms: Callable[[], int] = wall_offset_ms
    ) -> None:
        self.limits = limits or Limits()
        self._wall_offset_ms = wall_offset_ms
        self.on_change: list[Callable[[Change], None]] = []
        self.remembered: str | None = None
        self.remembered_uid: int | None = None  # None: whoever's
        self._players: dict[int, Player] = {}
        self._displays: dict[str, Display] = {}
        self.players: Mapping[int, Player] = MappingProxyType(self._players)
        self.displays: Mapping[str, Display] = MappingProxyType(self._displays)
        self._owned: dict[Hashable, dict[int, Player]] = {}
        self._preferred: Player | None = None
        self._active_uids: frozenset[int] | None = None
        self._registrations = 0
        self._last_id = 0
        # Each player is in one of these: in its device's group, if that is connected, or free.
        self._groups: dict[str, Group] = {}
        self._free = Group()
        # Those of all devices' groups once more.
        self._assigned = Group()
        self._changes: deque[Change] = deque()
        self._work: dict[Display, None] = {}
        self._is_telling = False

    @property
    def preferred(self) -> int | None:
        return None if self._preferred is None else self._preferred.id

    @property
    def active_uids(self) -> frozenset[int] | None:
        return self._active_uids

    def player(self, player_id: int) -> Player:
        player = self._players.get(player_id)
        if player is None:
            raise NoSuchPlayer("Player not found")
        return player

    def display(self, device_id: str) -> Display:
        display = self._displays.get(device_id)
        if display is None:
            raise NoSuchDevice("Device not found")
        return display

    def owned_by(self, owner: Hashable) -> list[Player]:
        return list(self._owned.get(owner, {}).values())

    # Players come and go

    def register(self, self_id: str, uid: int, owner: Hashable) -> Player:
        if len(self._players) >= self.limits.players:
            raise LimitsExceeded(
                f"There are {len(self._players)} players; no more are allowed (MaxPlayers)."
            )
        self._registrations += 1
        seated = self._is_seated(uid)
        player = Player(self._next_id(), self_id, uid, owner, self._registrations, seated)
        self._players[player.id] = player
        self._owned.setdefault(owner, {})[player.id] = player
        self._put(player)
        self._changes.append(PlayerAdded(player))
        if self._preferred is None and self._is_remembered(player):
            self._set_preferred(player)
        self._reselect()
        self._tell()
        return player

    def unregister(self, player_id: int) -> None:
        self._remove([self.player(player_id)])

    def release(self, owner: Hashable) -> None:
        """The owner left, and its players with it."""
        self._remove(self.owned_by(owner))

    # What players say

    def update_state(self, player_id: int, state: PlayerState) -> None:
        texts = kept_texts(state.texts, self.limits.text_bytes)
        self._update(self.player(player_id), state.status, state.timeline, texts)

    def update_status(self, player_id: int, status: Status) -> None:
        player = self.player(player_id)
        self._update(player, status, player.timeline, player.texts)

    def update_timeline(self, player_id: int, timeline: Timeline | None) -> None:
        player = self.player(player_id)
        self._update(player, player.status, timeline, player.texts)

    def update_text(self, player_id: int, text_id: TextId, text: str | None) -> None:
        player = self.player(player_id)
        if text_id not in _CURRENT_TEXTS:
            raise InvalidArgs(f"Text {int(text_id)} is one of a queue; players have none.")
        texts = player.texts.with_text(text_id, kept_text(text, self.limits.text_bytes))
        self._update(player, player.status, player.timeline, texts)

    # Who is shown where

    def assign(self, player_id: int, device_id: str) -> None:
        """The device need not be connected; an assignment to another one ends."""
        player = self.player(player_id)
        _check_id(device_id)
        self._set_device(player, device_id)

    def unassign(self, player_id: int, device_id: str) -> None:
        player = self.player(player_id)
        if player.device is None or player.device != device_id:
            raise NotAssigned("Player not assigned to the device")
        self._set_device(player, None)

    def prefer(self, player_id: int | None) -> None:
        player = None if player_id is None else self.player(player_id)
        remembered, uid = None, None
        if player is not None and player.self_id:  # by none, nobody is known again
            remembered, uid = player.self_id, player.uid
        known = (self._preferred, self.remembered, self.remembered_uid)
        if known == (player, remembered, uid):
            return
        self.remembered, self.remembered_uid = remembered, uid
        self._set_preferred(player)
        self._reselect()
        self._tell()

    def remember(self, self_id: str | None, uid: int | None = None) -> None:
        """Puts back what an earlier life of the driver remembered."""
        self.remembered, self.remembered_uid = self_id or None, uid
        heir = self._heir()
        if self._preferred is None and heir is not None:
            self._set_preferred(heir)
            self._reselect()
            self._tell()

    def set_active_uids(self, uids: frozenset[int] | None) -> None:
        """Who sits at the machine; None: not known, or not asked, and all are equal."""
        self._active_uids = uids
        for player in self._players.values():
            seated = self._is_seated(player.uid)
            if seated is not player.seated:
                self._take(player)
                player.seated = seated
                self._put(player)
        self._reselect()
        self._tell()

    # Devices come and go

    def add_device(self, device: Device) -> Display:
        """A device was connected; its display begins with nothing known of it."""
        _check_id(device.id)
        if device.id in self._displays:
            raise ValueError(f"device {device.id} is connected already")
        if len(self._displays) >= self.limits.devices:
            raise LimitsExceeded(
                f"There are {len(self._displays)} devices; no more are allowed (MaxDevices)."
            )
        self._regroup(device.id, Group())
        display = self._displays[device.id] = Display(device)
        self._changes.append(DeviceAdded(display))
        self._reselect()
        self._tell()
        return display

    def remove_device(self, device_id: str) -> None:
        display = self.display(device_id)
        del self._displays[device_id]
        self._regroup(device_id, None)
        self._work.pop(display, None)
        self._reselect()
        self._changes.append(DeviceRemoved(display))
        self._tell()

    def set_error(self, device_id: str, text: str) -> None:
        """What last went wrong with a device; "" when all is well again."""
        display = self.display(device_id)
        text = text[:MAX_ERROR_CHARACTERS]
        if text != display.error:
            display.error = text
            self._changes.append(DeviceChanged(display, ("error",)))
            self._tell()

    # Altering: nothing below this line fails

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % MAX_PLAYER_ID + 1
            if self._last_id not in self._players:
                return self._last_id

    def _is_seated(self, uid: int) -> bool:
        return self._active_uids is None or uid in self._active_uids

    def _is_remembered(self, player: Player) -> bool:
        if self.remembered is None or player.self_id != self.remembered:
            return False
        return self.remembered_uid is None or player.uid == self.remembered_uid

    def _heir(self) -> Player | None:
        """The player that is preferred when the one that is leaves."""
        return next(filter(self._is_remembered, self._players.values()), None)

    def _remove(self, players: Iterable[Player]) -> None:
        gone = list(players)
        for player in gone:
            self._take(player)
            del self._players[player.id]
            owned = self._owned[player.owner]
            del owned[player.id]
            if not owned:
                del self._owned[player.owner]
        if self._preferred is not None and self._preferred in gone:
            self._set_preferred(self._heir())
        self._reselect()
        self._changes.extend(map(PlayerRemoved, gone))
        self._tell()

    def _update(
        self, player: Player, status: Status, timeline: Timeline | None, texts: Texts
    ) -> None:
        names = []
        if status is not player.status:
            names.append("status")
        if not runs_on(player.told, timeline):
            names.append("timeline")
            player.told = timeline
        if texts != player.texts:
            names.append("texts")
        if not names and timeline == player.timeline:
            return
        starts_or_ends = (status is Status.PLAYING) is not player.playing
        if starts_or_ends:
            self._take(player)
        if timeline != player.timeline:
            player.wall_offset_ms = self._wall_offset_ms()
        player.status, player.timeline, player.texts = status, timeline, texts
        if names:
            self._changes.append(PlayerChanged(player, tuple(names)))
        if starts_or_ends:
            self._put(player)
            self._reselect()
        for display in self._displays.values():
            if display.active is player:
                self._work[display] = None
        self._tell()

    def _set_device(self, player: Player, device_id: str | None) -> None:
        if device_id == player.device:
            return
        self._take(player)
        player.device = device_id
        self._put(player)
        self._changes.append(PlayerChanged(player, ("device",)))
        self._reselect()
        self._tell()

    def _set_preferred(self, player: Player | None) -> None:
        self._preferred = player
        self._changes.append(PreferredChanged(player))

    def _take(self, player: Player) -> None:
        group = self._group(player)
        if group is None:
            self._free.remove(player)
        else:
            group.remove(player)
            self._assigned.remove(player)

    def _put(self, player: Player) -> None:
        group = self._group(player)
        if group is None:
            self._free.add(player)
        else:
            group.add(player)
            self._assigned.add(player)

    def _group(self, player: Player) -> Group | None:
        """Its device's group; None: the player is free."""
        return None if player.device is None else self._groups.get(player.device)

    def _regroup(self, device_id: str, group: Group | None) -> None:
        """A device came (with a group for its players) or went (None)."""
        players = [player for player in self._players.values() if player.device == device_id]
        for player in players:
            self._take(player)
        if group is None:
            del self._groups[device_id]
        else:
            self._groups[device_id] = group
        for player in players:
            self._put(player)

    def _reselect(self) -> None:
        """Chooses anew for each device; the cost does not depend on how many players there are."""
        preferred = self._preferred
        if preferred is not None and self._group(preferred) is not None:
            preferred = None
        is_only = len(self._players) == 1
        for device_id, display in self._displays.items():
            choice = Choice(self._groups[device_id], self._free, self._assigned, preferred)
            names = display.show(*choice.make(display.active, is_only))
            if names:
                self._changes.append(DeviceChanged(display, names))
            if "active" in names:
                self._work[display] = None

    def _tell(self) -> None:
        if self._is_telling:
            return
        self._is_telling = True
        try:
            while self._work or self._changes:
                # Devices first: what people see waits for the slowest listener otherwise.
                while self._work:
                    self._work.popitem()[0].on_work()
                if self._changes:
                    change = self._changes.popleft()
                    for listener in self.on_change:
                        listener(change)
        finally:
            self._is_telling = False


def _check_id(device_id: str) -> None:
    try:
        is_known_form = str(UUID(device_id)) == device_id
    except ValueError:
        is_known_form = False
    if not is_known_form:
        raise InvalidArgs("A device id is a UUID in lower case, with dashes.")

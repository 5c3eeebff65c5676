"""org.fsct.Driver, .Player and .Device: calls become model calls, changes become signals.

What a player plays is not for everybody, so signals carry no values: they say which property
changed, and whoever may read it reads it.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from buswork.bus.caller import Call
from buswork.bus.export import Edge
from buswork.bus.library import Variant, variant
from buswork.bus.objects import Face, Values, escape_name, in_order
from buswork.bus.ownership import Held, Holdings
from buswork.errors import InvalidArgs
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
from buswork.fsct.model.display import Display
from buswork.fsct.model.driver import Driver
from buswork.fsct.model.players import Player, wall_offset_ms
from buswork.fsct.wire import checks
from buswork.fsct.wire.protocol import VERSION
from buswork.fsct.wire.terms import TRACK_TEXTS, BadValue, Functionality, Timeline

ROOT = "/org/fsct"
PATH = "/org/fsct/Driver"
INTERFACE = "org.fsct.Driver"
PLAYER = "org.fsct.Player"
DEVICE = "org.fsct.Device"

# What is said of a player to those who look who holds what.
MAX_SHOWN_CHARACTERS = 64

_MAX_I64 = 2**63 - 1

Register = Callable[[str, int, Hashable], Player]
T = TypeVar("T")


def player_path(player: Player) -> str:
    return f"{ROOT}/players/{player.id}"


def device_path(device_id: str) -> str:
    return f"{ROOT}/devices/{escape_name(device_id)}"


class DriverFace(Face):
    interface = INTERFACE

    def __init__(
        self, driver: Driver, register: Register, holdings: Holdings, *, seated_users_first: bool
    ) -> None:
        """register: the driver's, with what a player costs its user."""
        self.seated_users_first = seated_users_first
        self._driver = driver
        self._register = register
        self._holdings = holdings
        self._held: dict[int, Held] = {}

    def owner_uid(self, path: str, values: Values) -> int | None:
        """Whose the player is that a call is about; what begins with a text is about none."""
        if not values or type(values[0]) is not int:
            return None
        player = self._driver.players.get(values[0])
        return None if player is None else player.uid

    # -- players come and go -------------------------------------------------------------------

    def get_protocol_version(self, call: Call) -> tuple[int, int]:
        return VERSION

    @in_order
    async def register_player(self, call: Call, self_id: str) -> int:
        self_id = _checked(checks.self_id, self_id)
        player: Player

        def make() -> tuple[str, Callable[[], None]]:
            nonlocal player
            player = self._register(self_id, call.uid, call.sender)
            return player_path(player), lambda: self._take_away(player)

        what = f"player {self_id[:MAX_SHOWN_CHARACTERS]!r}"
        held = await self._holdings.make(call, "fsct", what, make)
        self._held[player.id] = held
        return player.id

    def _take_away(self, player: Player) -> None:
        if self._driver.players.get(player.id) is player:
            self._driver.unregister(player.id)

    def let_go(self, player: Player) -> None:
        """The player has gone, whatever the reason."""
        held = self._held.pop(player.id, None)
        if held is not None:
            self._holdings.let_go(held)

    def unregister_player(self, call: Call, player_id: int) -> None:
        self._driver.unregister(player_id)

    # -- who is shown where --------------------------------------------------------------------

    def assign_player_to_device(self, call: Call, player_id: int, device_id: str) -> None:
        self._driver.assign(player_id, str(_checked(checks.device_id, device_id)))

    def unassign_player_from_device(self, call: Call, player_id: int, device_id: str) -> None:
        self._driver.unassign(player_id, str(_checked(checks.device_id, device_id)))

    def get_player_assigned_device(self, call: Call, player_id: int) -> str:
        return self._driver.player(player_id).device or ""

    def set_preferred_player(self, call: Call, player_id: int) -> None:
        self._driver.prefer(player_id or None)

    def get_preferred_player(self, call: Call) -> int:
        return self.preferred_player

    def list_players(self, call: Call) -> list[int]:
        return list(self._driver.players)

    def list_devices(self, call: Call) -> list[str]:
        return list(self._driver.displays)

    # -- what players say ----------------------------------------------------------------------

    def update_player_state(self, call: Call, player_id: int, state: dict[str, Variant]) -> None:
        plain = _plain(state)
        if isinstance(plain.get("timeline"), dict):
            plain["timeline"] = _timed(plain["timeline"])
        self._driver.update_state(player_id, _checked(checks.player_state, plain))

    def update_player_status(self, call: Call, player_id: int, status: int) -> None:
        self._driver.update_status(player_id, _checked(checks.status, status))

    def update_player_timeline(
        self, call: Call, player_id: int, timeline: dict[str, Variant]
    ) -> None:
        plain = _timed(_plain(timeline))
        self._driver.update_timeline(player_id, _checked(checks.timeline, plain))

    def update_player_metadata(
        self, call: Call, player_id: int, metadata_id: int, text: str
    ) -> None:
        text_id = _checked(checks.text_id, metadata_id)
        self._driver.update_text(player_id, text_id, _checked(checks.text, text))

    # -- properties ----------------------------------------------------------------------------

    @property
    def preferred_player(self) -> int:
        return self._driver.preferred or 0

    @property
    def max_players(self) -> int:
        return self._driver.limits.players

    @property
    def max_devices(self) -> int:
        return self._driver.limits.devices

    @property
    def max_text_bytes(self) -> int:
        return self._driver.limits.text_bytes


class PlayerFace(Face):
    interface = PLAYER

    def __init__(self, player: Player) -> None:
        self._player = player
        self._told = player.texts
        self.player_id = player.id
        self.uid = player.uid
        self.self_id = _sendable(player.self_id)

    def owner_uid(self, path: str, values: Values) -> int:
        return self._player.uid

    def changed(self, names: tuple[str, ...]) -> list[str]:
        """The properties that changed when these attributes of the player did."""
        changed = [_PLAYER_PROPERTIES[name] for name in names if name in _PLAYER_PROPERTIES]
        texts, told = self._player.texts, self._told
        if texts is not told:
            self._told = texts
            changed += [
                name.capitalize()
                for name in TRACK_TEXTS
                if getattr(texts, name) != getattr(told, name)
            ]
        return changed

    @property
    def status(self) -> int:
        return int(self._player.status)

    @property
    def title(self) -> str:
        return _sendable(self._player.texts.title)

    @property
    def artist(self) -> str:
        return _sendable(self._player.texts.artist)

    @property
    def album(self) -> str:
        return _sendable(self._player.texts.album)

    @property
    def genre(self) -> str:
        return _sendable(self._player.texts.genre)

    @property
    def timeline(self) -> dict[str, Variant]:
        timeline = self._player.timeline_by(wall_offset_ms())
        if timeline is None:
            return {}
        return {
            "position_ms": variant("x", timeline.position_ms),
            "duration_ms": variant("t", timeline.duration_ms),
            "rate": variant("d", timeline.rate),
            "update_unix_ms": variant("x", timeline.update_unix_ms),
        }

    @property
    def position(self) -> int:
        timeline = self._player.timeline_by(wall_offset_ms())
        return 0 if timeline is None else position_ms(timeline, _now_ms())

    @property
    def assigned_device(self) -> str:
        return self._player.device or ""


_PLAYER_PROPERTIES = {"status": "Status", "timeline": "Timeline", "device": "AssignedDevice"}


def position_ms(timeline: Timeline, now_ms: int) -> int:
    """Where the track is, as a device would show it: inside of the track, if that has an end."""
    elapsed_ms = max(now_ms - timeline.update_unix_ms, 0)
    last = min(timeline.duration_ms or _MAX_I64, _MAX_I64)
    # A rate may be so large that there is no such whole number.
    position = min(max(timeline.position_ms + elapsed_ms * timeline.rate, 0.0), float(last))
    return min(int(position), last)


class DeviceFace(Face):
    interface = DEVICE
    connected = True

    def __init__(self, display: Display) -> None:
        device = display.device
        self._display = display
        self.device_id = device.id
        self.vendor = _sendable(device.vendor)
        self.product = _sendable(device.product)
        self.serial = _sendable(device.serial)
        self.vendor_id = device.vendor_id
        self.product_id = device.product_id
        self.port = device.port
        self.functionality = [
            str(flag.name).lower() for flag in Functionality if flag in device.functionality
        ]
        self.texts = {int(text_id): most for text_id, most in device.texts.items()}
        self.coding = "" if device.coding is None else device.coding.name.lower()

    @property
    def active_player(self) -> int:
        active = self._display.active
        return 0 if active is None else active.id

    @property
    def active_reason(self) -> str:
        return self._display.reason.value

    @property
    def last_error(self) -> str:
        return _sendable(self._display.error)


_DEVICE_PROPERTIES = {"active": "ActivePlayer", "reason": "ActiveReason", "error": "LastError"}


class Faces:
    """All objects of the wing: the driver's, and one for each player and for each device."""

    def __init__(self, edge: Edge, driver: Driver, face: DriverFace) -> None:
        self._edge = edge
        self._face = face
        self._players: dict[int, PlayerFace] = {}
        edge.export(ROOT, wing=ROOT, manager=True)
        edge.export(PATH, face, wing=ROOT)
        for player in driver.players.values():
            self._changed(PlayerAdded(player))
        for display in driver.displays.values():
            self._changed(DeviceAdded(display))
        driver.on_change.append(self._changed)
        self._driver = driver

    def close(self) -> None:
        self._driver.on_change.remove(self._changed)
        for player in self._driver.players.values():
            self._edge.unexport(player_path(player))
        for device_id in self._driver.displays:
            self._edge.unexport(device_path(device_id))
        self._edge.unexport(PATH)
        self._edge.unexport(ROOT)

    def _changed(self, change: Change) -> None:
        match change:
            case PlayerChanged(player, names):
                changed = self._players[player.id].changed(names)
                self._edge.changed(player_path(player), PLAYER, *changed)
            case DeviceChanged(display, names):
                changed = [_DEVICE_PROPERTIES[name] for name in names]
                self._edge.changed(device_path(display.device.id), DEVICE, *changed)
            case PlayerAdded(player):
                face = self._players[player.id] = PlayerFace(player)
                self._edge.export(player_path(player), face, wing=ROOT)
            case PlayerRemoved(player):
                del self._players[player.id]
                self._edge.unexport(player_path(player))
                self._face.let_go(player)
            case DeviceAdded(display):
                path = device_path(display.device.id)
                self._edge.export(path, DeviceFace(display), wing=ROOT)
            case DeviceRemoved(display):
                self._edge.unexport(device_path(display.device.id))
            case PreferredChanged():
                self._edge.changed(PATH, INTERFACE, "PreferredPlayer")


def _checked(check: Callable[[object], T], value: object) -> T:
    try:
        return check(value)
    except BadValue as error:
        raise InvalidArgs(str(error)) from error


def _sendable(text: str | None) -> str:
    """A text as D-Bus can carry it, which knows no NUL; none is the empty one.

    What replaces it has one byte too: a text does not grow beyond what is kept of it.
    """
    return (text or "").replace("\0", "?")


def _plain(value: Any) -> Any:
    """A value without the wrapping of variants."""
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _timed(timeline: Mapping[str, object]) -> Mapping[str, object] | None:
    """A timeline that does not say of which time it is, is of now; an empty one is none."""
    return {"update_unix_ms": _now_ms(), **timeline} if timeline else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

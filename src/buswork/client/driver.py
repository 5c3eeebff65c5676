"""org.fsct.Driver, typed: players, and the USB audio displays that show what they play.

The driver's own methods have the names that they have on its socket. A player lives for as long
as the client that registered it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from buswork.bus.library import Variant, variant
from buswork.bus.objects import OBJECT_MANAGER, escape_name
from buswork.client.errors import AccessDenied, LimitsExceeded, UnknownInterface, UnknownObject
from buswork.fsct.wire.protocol import ProtocolVersion
from buswork.fsct.wire.terms import (
    TRACK_TEXTS,
    PlayerState,
    Status,
    TextId,
    Texts,
    Timeline,
)

if TYPE_CHECKING:
    from buswork.bus.message import Frame
    from buswork.client.connection import Client

TARGET = ("/org/fsct/Driver", "org.fsct.Driver")
ROOT = "/org/fsct"
MANAGER = (ROOT, OBJECT_MANAGER)
PLAYER = "org.fsct.Player"
DEVICE = "org.fsct.Device"
SIMULATOR = ("/org/buswork/simulator", "org.buswork.Simulator")

_OBJECTS = "a{oa{sa{sv}}}"
_STATUSES = frozenset(Status)
_TEXT_IDS = frozenset(TextId)


@dataclass(frozen=True, slots=True)
class Player:
    """A player, as far as you may know it: what others play may be None."""

    id: int
    uid: int
    status: Status
    device: str | None  # the device that it is assigned to
    self_id: str | None = None
    texts: Texts | None = None
    timeline: Timeline | None = None
    position_ms: int | None = None  # now


@dataclass(frozen=True, slots=True)
class Device:
    """A connected device; its names are its own words."""

    id: str
    vendor: str
    product: str
    serial: str
    vendor_id: int
    product_id: int
    port: str
    functionality: tuple[str, ...]
    texts: dict[TextId, int]  # how many bytes each may have
    coding: str
    active_player: int | None
    active_reason: str
    last_error: str


class Driver:
    """Players and displays."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def _call(self, member: str, signature: str, *values: Any, returns: str = "") -> Any:
        return await self._client.call(TARGET, member, signature, values, returns=returns)

    async def get_protocol_version(self) -> ProtocolVersion:
        return ProtocolVersion(*await self._call("GetProtocolVersion", "", returns="uu"))

    # -- players -------------------------------------------------------------------------------

    async def register_player(self, self_id: str) -> int:
        """A player of this client's, until it leaves the bus."""
        player_id: int = await self._call("RegisterPlayer", "s", self_id, returns="u")
        return player_id

    async def unregister_player(self, player_id: int) -> None:
        await self._call("UnregisterPlayer", "u", player_id)

    async def update_player_state(self, player_id: int, state: PlayerState) -> None:
        """All at once; what the state does not have is none."""
        await self._call("UpdatePlayerState", "ua{sv}", player_id, _state(state))

    async def update_player_status(self, player_id: int, status: Status) -> None:
        await self._call("UpdatePlayerStatus", "uu", player_id, int(status))

    async def update_player_timeline(self, player_id: int, timeline: Timeline | None) -> None:
        await self._call("UpdatePlayerTimeline", "ua{sv}", player_id, _timeline(timeline))

    async def update_player_metadata(
        self, player_id: int, metadata_id: TextId, text: str | None
    ) -> None:
        values = (player_id, int(metadata_id), text or "")
        await self._call("UpdatePlayerMetadata", "uus", *values)

    async def list_players(self) -> list[int]:
        """In the order in which they were registered."""
        players: list[int] = await self._call("ListPlayers", "", returns="au")
        return players

    async def players(self) -> list[Player]:
        """The same, with all that you may know of them."""
        found = await self._facts(PLAYER)
        if found is None:
            paths = [f"{ROOT}/players/{number}" for number in await self.list_players()]
            found = await self._facts_each(PLAYER, paths)
        known = {player.id: player for player in map(_player, found)}
        return [known[number] for number in await self.list_players() if number in known]

    # -- displays ------------------------------------------------------------------------------

    async def assign_player_to_device(self, player_id: int, device_id: str | UUID) -> None:
        await self._call("AssignPlayerToDevice", "us", player_id, str(device_id))

    async def unassign_player_from_device(self, player_id: int, device_id: str | UUID) -> None:
        await self._call("UnassignPlayerFromDevice", "us", player_id, str(device_id))

    async def get_player_assigned_device(self, player_id: int) -> str | None:
        device: str = await self._call("GetPlayerAssignedDevice", "u", player_id, returns="s")
        return device or None

    async def set_preferred_player(self, player_id: int | None) -> None:
        await self._call("SetPreferredPlayer", "u", player_id or 0)

    async def get_preferred_player(self) -> int | None:
        player_id: int = await self._call("GetPreferredPlayer", "", returns="u")
        return player_id or None

    async def list_devices(self) -> list[str]:
        devices: list[str] = await self._call("ListDevices", "", returns="as")
        return devices

    async def devices(self) -> list[Device]:
        """The same, with all that is known of them."""
        found = await self._facts(DEVICE)
        if found is None:
            paths = [f"{ROOT}/devices/{escape_name(name)}" for name in await self.list_devices()]
            found = await self._facts_each(DEVICE, paths)
        known = {device.id: device for device in map(_device, found)}
        return [known[name] for name in await self.list_devices() if name in known]

    async def _facts(self, interface: str) -> list[dict[str, Any]] | None:
        """The properties of all objects that have this interface, and may be looked at; None if
        they are too much for one answer."""
        try:
            objects = await self._client.call(MANAGER, "GetManagedObjects", returns=_OBJECTS)
        except LimitsExceeded:
            return None
        found = [faces[interface] for faces in objects.values() if interface in faces]
        return [{name: fact.value for name, fact in facts.items()} for facts in found if facts]

    async def _facts_each(self, interface: str, paths: list[str]) -> list[dict[str, Any]]:
        """The same, each object asked for by itself; what has gone meanwhile is passed over."""

        async def read(path: str) -> dict[str, Any]:
            try:
                return await self._client.get_all((path, interface))
            except (UnknownObject, UnknownInterface, AccessDenied):
                return {}

        return [facts for facts in await asyncio.gather(*map(read, paths)) if facts]


class Simulator:
    """The simulated displays of a daemon that was started with --simulate."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list_displays(self) -> list[str]:
        """The ports where they may be plugged in."""
        ports: list[str] = await self._client.call(SIMULATOR, "ListDisplays", returns="as")
        return ports

    async def get_display(self, port: str) -> list[str]:
        """What the display shows, line by line; no line when it is not plugged in."""
        lines: list[str] = await self._client.call(
            SIMULATOR, "GetDisplay", "s", (port,), returns="as"
        )
        return lines

    async def plug(self, port: str) -> None:
        await self._client.call(SIMULATOR, "Plug", "s", (port,))

    async def unplug(self, port: str) -> None:
        await self._client.call(SIMULATOR, "Unplug", "s", (port,))

    async def on_changed(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Calls back with the port of a display that changed; what is returned ends that."""

        def heard(frame: Frame) -> None:
            if frame.header.signature == "s":
                callback(*frame.values())

        return await self._client.listen(SIMULATOR, "DisplayChanged", heard)


# -- terms as D-Bus has them ---------------------------------------------------------------------


def _timeline(timeline: Timeline | None) -> dict[str, Variant]:
    if timeline is None:
        return {}
    return {
        "position_ms": variant("x", timeline.position_ms),
        "duration_ms": variant("t", timeline.duration_ms),
        "rate": variant("d", timeline.rate),
        "update_unix_ms": variant("x", timeline.update_unix_ms),
    }


def _state(state: PlayerState) -> dict[str, Variant]:
    texts = {name: getattr(state.texts, name) or "" for name in TRACK_TEXTS}
    return {
        "status": variant("u", int(state.status)),
        "timeline": variant("a{sv}", _timeline(state.timeline)),
        "texts": variant("a{ss}", texts),
    }


def _status(number: int) -> Status:
    """A newer daemon may know more of them."""
    return Status(number) if number in _STATUSES else Status.UNKNOWN


def _player(facts: dict[str, Any]) -> Player:
    may_know = "SelfId" in facts
    texts = {name: facts[name.capitalize()] or None for name in TRACK_TEXTS} if may_know else {}
    timeline = {name: fact.value for name, fact in facts.get("Timeline", {}).items()}
    return Player(
        facts["PlayerId"],
        facts["Uid"],
        _status(facts["Status"]),
        facts["AssignedDevice"] or None,
        facts.get("SelfId"),
        Texts(**texts) if may_know else None,
        Timeline(**timeline) if timeline else None,
        facts["Position"] if timeline else None,
    )


def _device(facts: dict[str, Any]) -> Device:
    return Device(
        facts["DeviceId"],
        facts["Vendor"],
        facts["Product"],
        facts["Serial"],
        facts["VendorId"],
        facts["ProductId"],
        facts["Port"],
        tuple(facts["Functionality"]),
        {TextId(text_id): most for text_id, most in facts["Texts"].items() if text_id in _TEXT_IDS},
        facts["Coding"],
        facts["ActivePlayer"] or None,
        facts["ActiveReason"],
        facts["LastError"],
    )

"""What listeners of the driver are told: who came, who went, and the names of what is different."""

from dataclasses import dataclass

from buswork.fsct.model.display import Display
from buswork.fsct.model.players import Player


@dataclass(frozen=True, slots=True)
class PlayerAdded:
    player: Player


@dataclass(frozen=True, slots=True)
class PlayerRemoved:
    player: Player


@dataclass(frozen=True, slots=True)
class PlayerChanged:
    """`names` are those of Player's attributes: status, timeline, texts, device."""

    player: Player
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeviceAdded:
    display: Display


@dataclass(frozen=True, slots=True)
class DeviceRemoved:
    display: Display


@dataclass(frozen=True, slots=True)
class DeviceChanged:
    """`names` are those of Display's attributes: active, reason, error."""

    display: Display
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreferredChanged:
    """Another player is preferred, or none, or another one is remembered."""

    player: Player | None


Change = (
    PlayerAdded
    | PlayerRemoved
    | PlayerChanged
    | DeviceAdded
    | DeviceRemoved
    | DeviceChanged
    | PreferredChanged
)

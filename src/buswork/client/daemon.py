"""org.buswork.Daemon, typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from buswork.client.connection import Client

BUS_NAME = "org.buswork"
TARGET = ("/org/buswork", "org.buswork.Daemon")


class WingState(NamedTuple):
    state: str  # running, failed, off
    reason: str  # why it could not start


@dataclass(frozen=True, slots=True)
class Facts:
    """The daemon's properties at one moment."""

    version: str
    api_version: int
    epoch: str
    wings: dict[str, WingState]
    statistics: dict[str, int]
    limits: dict[str, int]


@dataclass(frozen=True, slots=True)
class Held:
    """A thing that somebody holds; `path` is what force_release takes."""

    path: str
    wing: str
    what: str
    uid: int
    client: str
    since_unix_us: int


class Daemon:
    """What the daemon runs, who uses it, and the means to take a thing away."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def facts(self, name: str = BUS_NAME) -> Facts:
        """name: of the daemon that is asked, for each has these."""
        found = await self._client.get_all(TARGET, to=name)
        return Facts(
            version=found["Version"],
            api_version=found["ApiVersion"],
            epoch=found["Epoch"],
            wings={name: WingState(*state) for name, state in found["Wings"].items()},
            statistics=found["Statistics"],
            limits={name: value for name, value in found.items() if name.startswith("Max")},
        )

    async def epoch(self) -> str:
        """Another one than before: the daemon started anew."""
        epoch: str = await self._client.get(TARGET, "Epoch")
        return epoch

    async def list_clients(self) -> list[Held]:
        found = await self._client.call(TARGET, "ListClients", returns="aa{sv}")
        names = Held.__slots__
        return [Held(**{name: held[name].value for name in names}) for held in found]

    async def force_release(self, path: str) -> None:
        """Takes a held thing away from its owner."""
        await self._client.call(TARGET, "ForceRelease", "o", (path,))

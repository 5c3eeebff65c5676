"""org.mapipc.Store, typed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from buswork.bus.library import Variant, variant
from buswork.bus.writer import close_all
from buswork.client.errors import InvalidArgs
from buswork.client.reader import Reader
from buswork.client.watch import Watch

if TYPE_CHECKING:
    from buswork.bus.message import Frame
    from buswork.client.connection import Client

TARGET = ("/org/mapipc/Store", "org.mapipc.Store")

# What the store allows (a hundred years). It would say so too, but D-Bus's `t` can't carry it all.
MAX_TTL_MS = 100 * 366 * 24 * 3600 * 1000


class Lookup(NamedTuple):
    exists: bool
    value: str
    revision: int  # of the key's last change; 0 when it is not set


class Swap(NamedTuple):
    """What became of a compare_and_set."""

    changed: bool
    revision: int  # the key's own, now


class Hint(NamedTuple):
    """Something changed. An empty key stands for more keys than are worth naming."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a key."""

    revision: int
    time_unix_us: int
    uid: int
    size: int
    expires_unix_us: int | None = None
    until_leaves: str | None = None


class Store:
    """Named values in memory, shared by every process of the machine."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def _call(self, member: str, signature: str, *values: Any, returns: str) -> Any:
        return await self._client.call(TARGET, member, signature, values, returns=returns)

    # -- writing -------------------------------------------------------------------------------

    async def set(
        self, key: str, value: str, *, ttl: float | None = None, until_i_leave: bool = False
    ) -> int:
        """The revision of this change. The key goes after `ttl` seconds, or with this client."""
        revision: int
        if ttl is None and not until_i_leave:
            revision = await self._call("Set", "ss", key, value, returns="t")
        else:
            options = _options(ttl, until_i_leave)
            revision = await self._call("SetWith", "ssa{sv}", key, value, options, returns="t")
        return revision

    async def set_many(self, values: Mapping[str, str]) -> int:
        """All or none; the revision of the last key that changed, 0 when none did."""
        revision: int = await self._call("SetMany", "a{ss}", values, returns="t")
        return revision

    async def compare_and_set(self, key: str, expected: int, value: str) -> Swap:
        """Sets the key only if its own revision is the expected one (0: not set)."""
        return Swap(*await self._call("CompareAndSet", "sts", key, expected, value, returns="bt"))

    async def delete(self, key: str) -> bool:
        """Whether the key was set."""
        existed: bool = await self._call("Delete", "s", key, returns="b")
        return existed

    async def clear(self) -> int:
        revision: int = await self._call("Clear", "", returns="t")
        return revision

    async def mark(self, text: str = "") -> str:
        """Writes text (or a constant) to the daemon's log and keeps it; returns it."""
        mark: str = await self._call("Mark", "s", text, returns="s")
        return mark

    # -- reading -------------------------------------------------------------------------------

    async def get(self, key: str) -> str:
        """The value; the empty string when the key is not set."""
        value: str = await self._call("Get", "s", key, returns="s")
        return value

    async def get_many(self, keys: Iterable[str]) -> dict[str, str]:
        """The values of those of the keys that are set."""
        values: dict[str, str] = await self._call("GetMany", "as", list(keys), returns="a{ss}")
        return values

    async def lookup(self, key: str) -> Lookup:
        return Lookup(*await self._call("Lookup", "s", key, returns="bst"))

    async def describe(self, key: str) -> Description | None:
        """None when the key is not set."""
        found = await self._call("Describe", "s", key, returns="a{sv}")
        facts = {name: found[name].value for name in Description.__slots__ if name in found}
        return Description(**facts) if facts else None

    async def list(self, prefix: str = "") -> list[str]:
        """The keys that begin with prefix, sorted."""
        keys: list[str] = await self._call("List", "s", prefix, returns="as")
        return keys

    async def last_mark(self) -> str:
        mark: str = await self._client.get(TARGET, "LastMark")
        return mark

    async def revision(self) -> int:
        """The revision of the last change of all."""
        revision: int = await self._client.get(TARGET, "Revision")
        return revision

    async def open_reader(self) -> Reader:
        """Reads in memory that the daemon shares, with no call at all; close it after use.

        Counted against your uid until this client leaves the bus, closed or not.
        """
        frame = await self._client.request(TARGET, "OpenReader", returns="ha{sv}")
        try:
            memory, _ = frame.values()
        except BaseException:
            close_all(frame.fds)
            raise
        return Reader(memory)

    # -- watching ------------------------------------------------------------------------------

    def watch(self, prefix: str = "", from_revision: int | None = None) -> Watch:
        """Every change from now on, or after from_revision: no gap, no repeat."""
        return Watch(self._client, TARGET, prefix, from_revision)

    async def on_changed(self, callback: Callable[[Hint], None]) -> Callable[[], None]:
        """Calls back with hints, which may leave changes out; what is returned ends that."""

        def heard(frame: Frame) -> None:
            if frame.header.signature == "st":
                callback(Hint(*frame.values()))

        return await self._client.listen(TARGET, "Changed", heard)


def _options(ttl: float | None, until_i_leave: bool) -> dict[str, Variant]:
    options = {}
    if ttl is not None:
        if not 0 < ttl <= MAX_TTL_MS / 1000:
            limit = f"more than 0 and at most {MAX_TTL_MS // 1000} seconds"
            raise InvalidArgs(f"a key lives for {limit} (ttl_ms is 1 to {MAX_TTL_MS}), not {ttl}")
        options["ttl_ms"] = variant("t", math.ceil(ttl * 1000))
    if until_i_leave:
        options["until_i_leave"] = variant("b", True)
    return options

"""Who calls: uids from the bus, and word when a caller leaves it.

Unique names are never used twice while a bus lives, so a uid once learnt stays true and only
memory bounds how long it is kept. A caller is watched only while it owns something or has a
question open: the bus allows a connection 512 match rules, and most callers come and go.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from buswork.bus.codec import CodecError
from buswork.bus.library import Variant
from buswork.bus.message import Frame
from buswork.bus.transport import BUS, Connection, Listener
from buswork.errors import AccessDenied, BusworkError, Gone, LimitsExceeded

# Callers whose uid is remembered; a system bus has some hundred connections.
MAX_KNOWN = 4096
NO_SUCH_NAME = "org.freedesktop.DBus.Error.NameHasNoOwner"


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler may know of the call that it answers."""

    sender: str
    uid: int
    flags: int
    path: str


@dataclass(frozen=True, slots=True, eq=False)
class Peer:
    """A program on a native socket: what the kernel says of it (SO_PEERCRED, pidfd).

    Equal only to itself: pids are used again, and another process is another peer.
    """

    uid: int
    pid: int
    pidfd: int


class Process(NamedTuple):
    """A caller's."""

    pid: int  # 0: the bus does not know it
    groups: frozenset[int] | None  # None: the bus does not know them


OnGone = Callable[[], None]


def owner_changed_rule(name: str) -> str:
    return f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{name}'"


def owner_changed(frame: Frame) -> tuple[str, str] | None:
    """(name, new owner) of a NameOwnerChanged from the bus."""
    if frame.header.signature != "sss":
        return None
    try:
        name, _, new_owner = frame.values()
    except CodecError:
        return None
    return name, new_owner


class Callers:
    """Everybody who calls us, as far as it must be known."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._uids: OrderedDict[str, int] = OrderedDict()
        self._asking: dict[str, asyncio.Task[int]] = {}
        self._watched: dict[str, list[OnGone]] = {}
        connection.listen(BUS, "NameOwnerChanged", self._owner_changed, sender=BUS)

    # -- uids ----------------------------------------------------------------------------------

    def known_uid(self, sender: str) -> int | None:
        return self._uids.get(sender)

    async def uid(self, sender: str) -> int:
        """The uid of a unique name; whoever can't be identified is denied (or is Gone)."""
        known = self._uids.get(sender)
        if known is not None:
            self._uids.move_to_end(sender)
            return known
        task = self._asking.get(sender)
        if task is None:
            task = asyncio.create_task(self._ask_uid(sender))
            self._asking[sender] = task
            task.add_done_callback(lambda _: self._asking.pop(sender, None))
        return await asyncio.shield(task)

    async def process(self, sender: str) -> Process:
        """What the bus says of the process of a unique name, as it was when it connected."""
        facts = await self._credentials(sender)
        pid, groups = facts.get("ProcessID"), facts.get("UnixGroupIDs")
        return Process(
            pid.value if pid is not None and pid.signature == "u" else 0,
            frozenset(groups.value) if groups is not None and groups.signature == "au" else None,
        )

    async def _credentials(self, sender: str) -> dict[str, Variant]:
        try:
            (facts,) = await self._connection.call_bus("GetConnectionCredentials", "s", (sender,))
        except BusworkError as error:
            if error.name == NO_SUCH_NAME:
                raise Gone(sender) from error
            raise AccessDenied("the bus could not say who you are") from error
        found: dict[str, Variant] = facts
        return found

    async def _ask_uid(self, sender: str) -> int:
        variant = (await self._credentials(sender)).get("UnixUserID")
        if variant is None or variant.signature != "u":
            raise AccessDenied("the bus does not know your uid")
        uid: int = variant.value
        self._uids[sender] = uid
        if len(self._uids) > MAX_KNOWN:
            # Not one that is watched: its call may wait for polkit and needs the uid then.
            oldest = next((name for name in self._uids if name not in self._watched), sender)
            del self._uids[oldest]
        return uid

    # -- leaving -------------------------------------------------------------------------------

    async def watch(self, sender: str, on_gone: OnGone) -> None:
        """Calls on_gone once when sender leaves; raises Gone if it has left already.

        The match comes first and the question whether it still is there second, so that no
        departure falls between the two.
        """
        self._watched.setdefault(sender, []).append(on_gone)
        try:
            await self._connection.add_match(owner_changed_rule(sender))
        except BusworkError as error:
            self._forget(sender, on_gone)
            raise LimitsExceeded(
                f"the bus lets nobody watch more clients at the moment: {error}"
            ) from error
        except BaseException:
            self._forget(sender, on_gone)
            raise
        try:
            await self._connection.call_bus("GetNameOwner", "s", (sender,))
        except BaseException as error:
            self.unwatch(sender, on_gone)
            if isinstance(error, BusworkError):
                raise Gone(sender) from error
            raise

    def unwatch(self, sender: str, on_gone: OnGone) -> None:
        if self._forget(sender, on_gone):
            self._connection.remove_match(owner_changed_rule(sender))

    def _forget(self, sender: str, on_gone: OnGone) -> bool:
        watchers = self._watched.get(sender, [])
        if on_gone not in watchers:
            return False
        watchers.remove(on_gone)
        if not watchers:
            self._watched.pop(sender, None)
        return True

    @asynccontextmanager
    async def until_gone(self, sender: str) -> AsyncIterator[asyncio.Future[None]]:
        """A future that is done when sender has left."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_gone() -> None:
            if not gone.done():
                gone.set_result(None)

        await self.watch(sender, on_gone)
        try:
            yield gone
        finally:
            self.unwatch(sender, on_gone)

    def _owner_changed(self, frame: Frame) -> None:
        changed = owner_changed(frame)
        if changed is None or changed[1]:
            return
        name = changed[0]
        self._uids.pop(name, None)
        for on_gone in self._watched.pop(name, []):
            self._connection.remove_match(owner_changed_rule(name))
            on_gone()


class NameTracker:
    """Who owns a well-known name right now, so that its signals can be told from forged ones."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.owner: str | None = None
        self._connection = connection
        self._name = name
        self._told = False
        self._signals: list[tuple[str, str, Callable[[Frame], None]]] = []
        self._listeners: list[Listener] = []
        self._on_change: list[Callable[[], None]] = []

    async def start(self) -> None:
        connection = self._connection
        connection.listen(BUS, "NameOwnerChanged", self._owner_changed, sender=BUS)
        await connection.add_match(owner_changed_rule(self._name))
        try:
            (owner,) = await connection.call_bus("GetNameOwner", "s", (self._name,))
        except BusworkError:
            return
        if not self._told:  # else what the bus told since then is newer
            self._set_owner(owner)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Calls back whenever the name gets, changes or loses its owner."""
        self._on_change.append(callback)

    async def listen(self, interface: str, member: str, callback: Callable[[Frame], None]) -> None:
        """Calls back for signals of whoever owns the name at the time."""
        self._signals.append((interface, member, callback))
        self._listen_to_owner()
        await self._connection.add_match(
            f"type='signal',sender='{self._name}',interface='{interface}',member='{member}'"
        )

    def _owner_changed(self, frame: Frame) -> None:
        changed = owner_changed(frame)
        if changed is not None and changed[0] == self._name:
            self._told = True
            self._set_owner(changed[1] or None)

    def _set_owner(self, owner: str | None) -> None:
        if owner == self.owner:
            return
        self.owner = owner
        self._listen_to_owner()
        for callback in self._on_change:
            callback()

    def _listen_to_owner(self) -> None:
        for listener in self._listeners:
            self._connection.unlisten(listener)
        self._listeners.clear()
        if self.owner is None:
            return
        for interface, member, callback in self._signals:
            listener = self._connection.listen(interface, member, callback, sender=self.owner)
            self._listeners.append(listener)

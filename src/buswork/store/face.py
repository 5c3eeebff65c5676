"""org.mapipc.Store: calls become model calls, changes become hints."""

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from buswork.authority import Authority, Lease, Quotas
from buswork.bus.caller import Call
from buswork.bus.export import Edge
from buswork.bus.library import Variant, variant
from buswork.bus.objects import Face, escape_name, in_order
from buswork.bus.ownership import Held, Holdings
from buswork.errors import InvalidArgs, LimitsExceeded
from buswork.log import MARKED, RESET, event
from buswork.store.model.keys import is_private
from buswork.store.model.limits import MAX_KEY_BYTES
from buswork.store.model.store import Store
from buswork.store.model.text import as_text
from buswork.store.wire.lines import Change

log = logging.getLogger(__name__)

PATH = "/org/mapipc/Store"
INTERFACE = "org.mapipc.Store"

# Hints are for people's eyes and cheap caches: 200 a second is more than either can use, and
# a bus with ten listeners carries a hundred times as many.
HINTS_PER_SECOND = 200
# Keys that wait for their hint; when more do, one hint without a key stands for them all.
MAX_WAITING_HINTS = 1024


FACT_TYPES = {
    "version": "u",
    "epoch": "s",
    "generation": "t",
    "size": "t",
    "max_key_bytes": "t",
    "max_value_bytes": "t",
}


class Stream(Protocol):
    """A descriptor stream that a caller reads; `reader` is the caller's end."""

    reader: int

    def close_reader(self) -> None: ...

    def close(self) -> None: ...


class Streams(Protocol):
    """Who opens streams; the native room does."""

    def open(self, uid: int, prefix: str, revision: int, on_end: Callable[[], None]) -> Stream: ...


class Memory(Protocol):
    """The shared memory, which the native room writes."""

    async def open_reader(self) -> int: ...

    def facts(self) -> dict[str, int | str]: ...


class Hints:
    """The Changed signal: the first at once, the rest spaced, one per key that waits."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._waiting: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def changed(self, change: Change) -> None:
        key = change.key or ""
        if key[:1] == "~" and is_private(key):
            return
        self._waiting[key] = change.revision
        if len(self._waiting) > MAX_WAITING_HINTS:
            self._waiting = {"": change.revision}
        if self._timer is None:
            self._send_next()

    def _send_next(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        key = next(iter(self._waiting))
        self._edge.emit(PATH, INTERFACE, "Changed", key, self._waiting.pop(key))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(1 / HINTS_PER_SECOND, self._send_next)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Leases:
    """Keeps word of callers whose keys go with them, for as long as there are such keys."""

    def __init__(self, store: Store, holdings: Holdings, quotas: Quotas) -> None:
        self._store = store
        self._holdings = holdings
        self._quotas = quotas
        self._held: dict[str, tuple[Held, Lease]] = {}

    async def watch(self, call: Call) -> None:
        name = call.sender
        if name in self._held:
            return

        lease = self._quotas.take(call.uid, "leases")

        def take_away() -> None:
            lease.release()
            self._held.pop(name, None)
            self._store.owner_left(name)

        path = f"{PATH}/leases/{escape_name(name)}"
        what = "keys that go with this client"
        try:
            held = await self._holdings.hold(call, path, "store", what, take_away)
        except BaseException:
            lease.release()
            raise
        self._held[name] = held, lease

    def tidy(self) -> None:
        """Lets go of the callers that have no such keys any more."""
        for name in [name for name in self._held if not self._store.has_leases(name)]:
            held, lease = self._held.pop(name)
            self._holdings.let_go(held)
            lease.release()


class StoreFace(Face):
    interface = INTERFACE

    def __init__(
        self,
        store: Store,
        streams: Streams,
        memory: Memory,
        authority: Authority,
        holdings: Holdings,
        on_deadline: Callable[[], None],
    ) -> None:
        self._store = store
        self._streams = streams
        self._memory = memory
        self._quotas = authority.quotas
        self._holdings = holdings
        self._leases = Leases(store, holdings, authority.quotas)
        self._on_deadline = on_deadline
        self._ids = itertools.count(1)

    # -- writing -------------------------------------------------------------------------------

    def set(self, call: Call, key: str, value: str) -> int:
        return self._store.set(call.uid, key, value.encode())

    @in_order
    async def set_with(self, call: Call, key: str, value: str, options: dict[str, Variant]) -> int:
        ttl_ms = _option(options, "ttl_ms", "t", None)
        until_i_leave = _option(options, "until_i_leave", "b", False)
        _refuse_unknown(options)
        if until_i_leave:
            await self._leases.watch(call)
        owner = call.sender if until_i_leave else None
        try:
            return self._store.set(call.uid, key, value.encode(), ttl_ms=ttl_ms, leaves_with=owner)
        finally:
            self._leases.tidy()
            self._on_deadline()

    def set_many(self, call: Call, values: dict[str, str]) -> int:
        return self._store.set_many(
            call.uid, {key: value.encode() for key, value in values.items()}
        )

    def compare_and_set(self, call: Call, key: str, expected: int, value: str) -> tuple[bool, int]:
        return self._store.compare_and_set(call.uid, key, expected, value.encode())

    def delete(self, call: Call, key: str) -> bool:
        return self._store.delete(call.uid, key)

    def clear(self, call: Call) -> int:
        event(log, RESET, "cleared", path=PATH, thing="all keys", uid=call.uid, client=call.sender)
        return self._store.clear()

    def mark(self, call: Call, text: str) -> str:
        if len(text.encode()) > MAX_KEY_BYTES:
            raise LimitsExceeded(f"a mark has {MAX_KEY_BYTES} bytes at the most")
        mark = self._store.mark(text)
        event(log, MARKED, "mark", text=mark, uid=call.uid, client=call.sender)
        return mark

    # -- reading -------------------------------------------------------------------------------

    def get(self, call: Call, key: str) -> str:
        return as_text(key, self._store.get(call.uid, key))

    def lookup(self, call: Call, key: str) -> tuple[bool, str, int]:
        exists, value, revision = self._store.lookup(call.uid, key)
        return exists, as_text(key, value), revision

    def describe(self, call: Call, key: str) -> dict[str, Variant]:
        entry = self._store.describe(call.uid, key)
        if entry is None:
            return {}
        facts = {
            "revision": variant("t", entry.revision),
            "time_unix_us": variant("t", entry.time_us),
            "uid": variant("u", entry.uid),
            "size": variant("t", len(entry.value)),
        }
        if entry.expires_us is not None:
            facts["expires_unix_us"] = variant("t", entry.expires_us)
        if entry.until_leaves is not None:
            facts["until_leaves"] = variant("s", entry.until_leaves)
        return facts

    def get_many(self, call: Call, keys: list[str]) -> dict[str, str]:
        found = self._store.get_many(call.uid, keys)
        return {key: as_text(key, value) for key, value in found.items()}

    def list(self, call: Call, prefix: str) -> list[str]:
        return self._store.list_keys(call.uid, prefix)

    @in_order
    async def watch(self, call: Call, prefix: str, from_revision: int) -> int:
        """A pipe; the caller holds it until it closes its end or leaves."""
        if len(prefix.encode()) > self.max_key_bytes:
            raise LimitsExceeded(f"no key has more than {self.max_key_bytes} bytes (MaxKeyBytes)")
        revision = self._store.watch_from(from_revision)
        leases = [self._quotas.take(call.uid, "watches")]
        try:
            leases.append(self._quotas.take(call.uid, "descriptors"))
            return await self._open_watch(call, prefix, revision, leases)
        except BaseException:
            for lease in leases:
                lease.release()
            raise

    async def _open_watch(
        self, call: Call, prefix: str, revision: int, leases: Sequence[Lease]
    ) -> int:
        path = f"{PATH}/watches/{next(self._ids)}"
        held: Held | None = None

        def ended() -> None:
            for lease in leases:
                lease.release()
            if held is not None:
                self._holdings.let_go(held)

        try:
            stream = self._streams.open(call.uid, prefix, revision, ended)
        except OSError as error:
            raise LimitsExceeded(f"the daemon has no descriptor left: {error}") from error
        try:
            what = f"a watch on {prefix!r}"
            held = await self._holdings.hold(call, path, "store", what, stream.close)
        except BaseException:
            stream.close_reader()
            stream.close()
            raise
        # The reply closes it when it has been queued.
        reader, stream.reader = stream.reader, -1
        return reader

    @in_order
    async def open_reader(self, call: Call) -> tuple[int, dict[str, Variant]]:
        """Counted until the caller leaves: nobody can tell when it stops reading."""
        lease = self._quotas.take(call.uid, "descriptors")
        path = f"{PATH}/readers/{next(self._ids)}"
        what = "a reader of the shared memory"
        try:
            memory = await self._memory.open_reader()
            facts = self._memory.facts()  # before it may move: they are of this very memory
            try:
                await self._holdings.hold(call, path, "store", what, lease.release)
            except BaseException:
                os.close(memory)
                raise
        except OSError as error:
            lease.release()
            raise LimitsExceeded(f"there is no shared memory to be had: {error}") from error
        except BaseException:
            lease.release()
            raise
        return memory, {name: variant(FACT_TYPES[name], fact) for name, fact in facts.items()}

    # -- properties ----------------------------------------------------------------------------

    @property
    def last_mark(self) -> str:
        return self._store.last_mark

    @property
    def count(self) -> int:
        return self._store.count

    @property
    def bytes(self) -> int:
        return self._store.total_bytes

    @property
    def revision(self) -> int:
        return self._store.revision

    @property
    def max_key_bytes(self) -> int:
        return self._store.limits.key_bytes

    @property
    def max_value_bytes(self) -> int:
        return self._store.limits.value_bytes

    @property
    def max_bytes_per_uid(self) -> int:
        return self._store.limits.bytes_per_uid

    @property
    def max_keys_per_uid(self) -> int:
        return self._store.limits.keys_per_uid

    @property
    def max_bytes(self) -> int:
        return self._store.limits.total_bytes

    @property
    def max_history_changes(self) -> int:
        return self._store.limits.history_changes

    @property
    def max_history_bytes(self) -> int:
        return self._store.limits.history_bytes


def _option(options: dict[str, Variant], name: str, signature: str, default: Any) -> Any:
    """Takes an option out of the dictionary; whatever is left in the end is unknown."""
    option = options.pop(name, None)
    if option is None:
        return default
    if option.signature != signature:
        raise InvalidArgs(f"option {name} is of type {signature!r}, not {option.signature!r}")
    return option.value


def _refuse_unknown(options: dict[str, Variant]) -> None:
    if options:
        raise InvalidArgs(f"no such option: {', '.join(sorted(options))}")

"""Keeps the values over a crash: a log in memory that the service manager holds for us.

Every change is appended to a memfd that lies in systemd's descriptor store. The next daemon
finds it among its descriptors and puts the values back. What should not outlive the daemon,
all of it after SIGTERM and always what goes with a client, is taken out.

When more than half of the log is past, a new one is written, a slice at a time: changes go to
both until the new one is whole, and only then the old one is given up. A slice is twice what was
appended since the last one, so that both together have a bound. With `live` for what the present
values take as records, and `turn` for what others write in one turn of the loop:

    the old log before           2 live + SMALL_LOG
    copied into the new one      live
    appended to both meanwhile   live / 2 + turn, twice
    together, at most            4 live + SMALL_LOG + 2 turn
"""

import asyncio
import contextlib
import logging
import mmap
import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from buswork.store.model.keys import is_private
from buswork.store.model.store import Entry, Store
from buswork.store.wire.kept import (
    MAGIC,
    PUT,
    RECORD_BYTES,
    Operation,
    Record,
    ValueKind,
    encode_record,
    is_whole,
    read_records,
)
from buswork.store.wire.values import Json
from buswork.systemd import DescriptorStore

log = logging.getLogger(__name__)

# Descriptors of ours in the manager's store are called this and the time they were made.
NAME = "store-log-"
# Below this size a log is not worth rewriting.
SMALL_LOG = 1024 * 1024
# What is copied between two looks of the loop at everything else, a millisecond or two; more only
# where those others have just written half as much.
SLICE_BYTES = 256 * 1024
SLICE_RECORDS = 256
COPIED_FOR_APPENDED = 2
# A log that can't be rewritten is given up where it is so many times as long as the values of a
# full store: an eighth more than a full one's log has when it is to be rewritten.
LONGEST = 2.25


class _Log:
    """One memfd, appended to."""

    def __init__(self, name: str, manager: DescriptorStore, on_held: Callable[[], None]) -> None:
        self.name = name
        self.size = 0
        self.is_held = False
        self._manager = manager
        self._on_held = on_held
        self._fd = os.memfd_create(f"buswork {name}", os.MFD_CLOEXEC)
        try:
            self.append(MAGIC)
        except BaseException:
            os.close(self._fd)
            raise
        manager.put(name, self._fd, self._held)

    def _held(self) -> None:
        self.is_held = True
        self._on_held()

    def append(self, data: bytes) -> None:
        written = os.pwrite(self._fd, data, self.size)
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], self.size + written)
        self.size += len(data)

    def give_up(self) -> None:
        """Takes it back from the manager; doing so twice does no harm."""
        if self._fd >= 0:
            _give_up(self._manager, self.name, self._fd)
            self._fd = -1


class Keep:
    """Writes the store's changes down until it is closed."""

    def __init__(self, store: Store, earlier: Mapping[str, Sequence[int]] | None = None) -> None:
        """`earlier`: the logs of the daemon before us, which are ours to give up."""
        self._store = store
        self._manager = DescriptorStore()
        self._earlier: Mapping[str, Sequence[int]] = {}
        self._next: _Log | None = None
        self._copying: asyncio.Task[None] | None = None
        self._appended = 0  # since the last slice
        self._put_off_until = 0  # so long the log must be before the next try
        self._log = self._new_log()
        for key, entry in store.entries():
            self._log.append(_record_of(key, entry))
        self._log.append(encode_record(Operation.WHOLE))
        self._earlier = earlier or {}
        self._give_up_earlier()
        if not self._log.is_held:
            log.warning("the service manager did not take the log: a crash would lose what is set")
        store.on_entry = self._entry_changed

    def stop(self) -> None:
        """Writes no more; what is written stays with the manager."""
        self._store.on_entry = None
        if self._copying is not None:
            self._copying.cancel()
        self._manager.close()

    def close(self) -> None:
        """Gives up all that is kept: nothing outlives an orderly end."""
        for each in (self._log, self._next):
            if each is not None:
                each.give_up()
        earlier, self._earlier = self._earlier, {}
        forget(self._manager, earlier)
        self.stop()

    def _new_log(self) -> _Log:
        # Names sort by age, and none is that of a log of the daemon before us.
        return _Log(f"{NAME}{time.time_ns():020}", self._manager, self._give_up_earlier)

    def _give_up_earlier(self) -> None:
        """They are needed until the manager holds a whole log of ours."""
        if self._earlier and self._log.is_held:
            earlier, self._earlier = self._earlier, {}
            forget(self._manager, earlier)

    def _entry_changed(self, key: str | None, entry: Entry | None) -> None:
        data = _record_of(key, entry)
        try:
            self._log.append(data)
            if self._next is not None:
                self._next.append(data)
                self._appended += len(data)
        except OSError as error:
            self._end(error)
            return
        if self._log.size > SMALL_LOG and self._next is None:
            live = self._store.total_bytes + self._store.count * RECORD_BYTES
            if self._log.size > max(2 * live + SMALL_LOG, self._put_off_until):
                self._rewrite()

    def _end(self, reason: object) -> None:
        log.critical("the store is not kept over a crash any more: %s", reason)
        self.close()

    def _rewrite(self) -> None:
        """Begins; whoever is writing to the store hears nothing of what fails here."""
        try:
            new = self._new_log()
        except OSError as error:
            self._put_off(error)
            return
        if self._log.is_held and not new.is_held:
            new.give_up()
            self._put_off("the service manager did not take it")
            return
        self._next, self._appended = new, 0
        self._copying = asyncio.get_running_loop().create_task(self._copy(new))

    def _put_off(self, reason: object) -> None:
        log.error("the log of the store could not be rewritten: %s", reason)
        self._put_off_until = self._log.size + SMALL_LOG
        if self._log.size > LONGEST * self._store.limits.total_bytes + SMALL_LOG:
            self._end("its log grew too long")

    async def _copy(self, new: _Log) -> None:
        try:
            await self._fill(new)
        except OSError as error:
            new.give_up()
            self._next = self._copying = None
            self._put_off(error)

    async def _fill(self, new: _Log) -> None:
        """Fills the new log; what changes meanwhile is in it already, and newer."""
        # Keys, not entries: so many tuples would set off the garbage collector, and the entries
        # would keep values that nobody has any more.
        revision = self._store.revision
        size = records = 0
        for key in chain.from_iterable(self._store.walk()):
            entry = _entry_of(self._store, key)
            if entry is not None and entry.revision <= revision:
                data = _record_of(key, entry)
                new.append(data)
                size += len(data)
            records += 1
            if size < COPIED_FOR_APPENDED * self._appended:
                continue
            if size > SLICE_BYTES or records > SLICE_RECORDS:
                size = records = self._appended = 0
                await asyncio.sleep(0)
        new.append(encode_record(Operation.WHOLE))
        self._log.give_up()
        self._log, self._next, self._copying = new, None, None
        self._put_off_until = 0
        self._give_up_earlier()


def restore(store: Store, descriptors: Mapping[str, Sequence[int]]) -> int:
    """Puts back what the daemon before us kept; returns how many keys.

    The youngest whole log is it. The descriptors stay as they are: they are `forget`'s, once there
    is a new log.
    """
    records: dict[str, Record] = {}
    for name, fd in sorted((name, fd) for name, fds in descriptors.items() for fd in fds):
        log.debug("%s is looked at", name)
        with (
            contextlib.suppress(OSError, ValueError),  # an empty one can't be mapped
            mmap.mmap(fd, 0, prot=mmap.PROT_READ) as kept,
        ):
            if is_whole(kept):
                records = _final_records(kept)
    for record in records.values():
        value = Json(record.value) if record.kind == ValueKind.JSON else record.value
        store.restore(record.key, value, record.uid, record.time_us, record.expires_us or None)
    return len(records)


def forget(manager: DescriptorStore, descriptors: Mapping[str, Sequence[int]]) -> None:
    """Gives earlier logs up; the manager would hand them out again."""
    for name, fds in descriptors.items():
        for fd in fds:
            _give_up(manager, name, fd)


def _give_up(manager: DescriptorStore, name: str, fd: int) -> None:
    manager.remove(name)
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)  # whether or not the manager has heard us
    os.close(fd)


def _final_records(kept: mmap.mmap) -> dict[str, Record]:
    """The last word of a log on every key."""
    records: dict[str, Record] = {}
    for record in read_records(kept):
        if record.operation == Operation.PUT:
            records[record.key] = record
        elif record.operation == Operation.REMOVE:
            records.pop(record.key, None)
        elif record.operation == Operation.CLEAR:
            records.clear()
    return records


def _entry_of(store: Store, key: str) -> Entry | None:
    """A private key is shown to its owner alone."""
    owner = int(key[1 : key.index("/")]) if is_private(key) else 0
    return store.describe(owner, key)


def _record_of(key: str | None, entry: Entry | None) -> bytes:
    if key is None:
        return encode_record(Operation.CLEAR)
    # What goes with a client must not outlive us: after a restart nobody would watch the client.
    if entry is None or entry.until_leaves is not None:
        return encode_record(Operation.REMOVE, key)
    return encode_record(PUT, key, entry.value, entry.uid, entry.time_us, entry.expires_us or 0)

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
from collections.abc import Mapping, Sequence

from buswork import systemd
from buswork.store.model import Entry, Store, is_private
from buswork.store.wire.kept import (
    MAGIC,
    RECORD_BYTES,
    Operation,
    Record,
    ValueKind,
    encode_record,
    is_whole,
    read_records,
)
from buswork.store.wire.values import Json

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

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0
        self._fd = os.memfd_create(f"buswork {name}", os.MFD_CLOEXEC)
        try:
            self.append(MAGIC)
        except BaseException:
            os.close(self._fd)
            raise
        self.is_held = systemd.store_descriptor(name, self._fd)

    def append(self, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], self.size + written)
        self.size += len(data)

    def give_up(self) -> None:
        """Takes it back from the manager; doing so twice does no harm."""
        if self._fd >= 0:
            if self.is_held:
                systemd.remove_descriptor(self.name)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)  # whether or not the manager has heard us
            os.close(self._fd)
            self._fd = -1


class Keep:
    """Writes the store's changes down until it is closed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._log = self._new_log()
        if not self._log.is_held:
            log.warning("the service manager takes no descriptor; nothing would survive a crash")
        self._next: _Log | None = None
        self._copying: asyncio.Task[None] | None = None
        self._appended = 0  # since the last slice
        self._put_off_until = 0  # so long the log must be before the next try
        for key, entry in store.entries():
            self._log.append(_record_of(key, entry))
        self._log.append(encode_record(Record(Operation.WHOLE)))
        store.on_entry = self._entry_changed

    def stop(self) -> None:
        """Writes no more; what is written stays with the manager."""
        self._store.on_entry = None
        if self._copying is not None:
            self._copying.cancel()

    def close(self) -> None:
        """Gives up all that is kept: nothing outlives an orderly end."""
        self.stop()
        for each in (self._log, self._next):
            if each is not None:
                each.give_up()

    def _new_log(self) -> _Log:
        # Names sort by age, and none is that of a log of the daemon before us.
        return _Log(f"{NAME}{time.time_ns():020}")

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
        live = self._store.total_bytes + self._store.count * RECORD_BYTES
        limit = max(2 * live + SMALL_LOG, self._put_off_until)
        if self._next is None and self._log.size > limit:
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
        # Not list(entries): so many tuples would set off the garbage collector, which takes twenty
        # times as long; and the entries would keep values that nobody has any more.
        keys, revision = [key for key, _ in self._store.entries()], self._store.revision
        size = records = 0
        for key in keys:
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
        new.append(encode_record(Record(Operation.WHOLE)))
        self._log.give_up()
        self._log, self._next, self._copying = new, None, None
        self._put_off_until = 0


def restore(store: Store, descriptors: Mapping[str, Sequence[int]]) -> int:
    """Puts back what the daemon before us kept; returns how many keys.

    The youngest whole log is it. The descriptors are closed; what the manager still holds is
    `forget`'s, once there is a new log.
    """
    records: dict[str, Record] = {}
    for name, fd in sorted((name, fd) for name, fds in descriptors.items() for fd in fds):
        log.debug("%s is looked at", name)
        with (
            contextlib.suppress(OSError, ValueError),  # an empty one can't be mapped
            os.fdopen(fd, "rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as kept,
        ):
            if is_whole(kept):
                records = _final_records(kept)
    for record in records.values():
        value = Json(record.value) if record.kind == ValueKind.JSON else record.value
        store.restore(record.key, value, record.uid, record.time_us, record.expires_us or None)
    return len(records)


def forget(descriptors: Mapping[str, Sequence[int]]) -> None:
    """Takes earlier logs back from the manager, which would hand them out again."""
    for name in descriptors:
        systemd.remove_descriptor(name)


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
        return encode_record(Record(Operation.CLEAR))
    # What goes with a client must not outlive us: after a restart nobody would watch the client.
    if entry is None or entry.until_leaves is not None:
        return encode_record(Record(Operation.REMOVE, key))
    return _put_record(key, entry)


def _put_record(key: str, entry: Entry) -> bytes:
    expires_us = entry.expires_us or 0
    kind = ValueKind.JSON if isinstance(entry.value, Json) else ValueKind.TEXT
    return encode_record(
        Record(Operation.PUT, key, entry.value, kind, entry.uid, entry.time_us, expires_us)
    )

"""The values, who may touch them, what they cost, and every change in order.

Rules
* Each change takes the next revision, enters the history, and then is told to `on_entry` and to
  `on_change`. A listener neither raises nor writes to the store: a SetMany may be half told. Should
  one raise all the same, then the change is made, all others have heard of it, and whoever made it
  gets the error.
* Everything is checked before anything is altered; a method that raises has changed nothing.
* Setting an equal value is no change, but it is a write: the entry is charged to this writer
  from now on, and lives as long as this write says.
* Keys are `str` and values UTF-8 `bytes`, so that the memory they take is known without encoding.
  What native clients store besides text is `Json`, which is compared and charged as its text.
* Entries go when `expire` and `owner_left` are called: the time is somebody else's to watch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from buswork.errors import InvalidArgs, LimitsExceeded
from buswork.store.model.deadlines import Deadlines
from buswork.store.model.history import History
from buswork.store.model.keys import check_access, is_foreign
from buswork.store.model.limits import Limits
from buswork.store.wire.lines import Change

# Dictionaries that share the keys. One of a million would hold everybody up: 50 ms where it grows,
# 25 ms for a list of its keys.
SHARDS = 64

FROM_NOW = 2**64 - 1
DEFAULT_MARK = "-- MARK --"


@dataclass(slots=True)
class Entry:
    """What is known of a key. Never altered: a write that changes any of it puts a new one."""

    value: bytes
    revision: int
    time_us: int  # of the last change
    uid: int  # of the last writer, who is charged
    expires_us: int | None
    until_leaves: str | None  # the bus name that the key goes with
    charge: int  # bytes of key and value


@dataclass(slots=True)
class Usage:
    """What one uid is charged for."""

    bytes: int = 0
    keys: int = 0


def _size(key: str) -> int:
    return len(key) if key.isascii() else len(key.encode())


class Store:
    """Named values; `uid` is always the one who asks."""

    def __init__(
        self,
        clock: Callable[[], int],
        limits: Limits | None = None,
        on_change: Iterable[Callable[[Change], None]] = (),
    ) -> None:
        self.limits = limits or Limits()
        self.on_change = list(on_change)
        # Told of every entry that is put or goes (None), renewed times to live included, and of
        # a clear (no key either); for whoever keeps a copy of the entries, not of the changes.
        # Not of a write that leaves the entry as it was.
        self.on_entry: Callable[[str | None, Entry | None], None] | None = None
        self.last_mark = ""
        self._clock = clock  # microseconds since 1970
        self._shards: tuple[dict[str, Entry], ...] = tuple({} for _ in range(SHARDS))
        self._count = self._bytes = 0
        self._usage: dict[int, Usage] = {}
        self._leases: dict[str, set[str]] = {}
        self._deadlines = Deadlines(self._expiry_of)
        self._history = History(self.limits.history_changes, self.limits.history_bytes)

    @property
    def count(self) -> int:
        return self._count

    @property
    def total_bytes(self) -> int:
        return self._bytes

    @property
    def revision(self) -> int:
        return self._history.revision

    def usage(self, uid: int) -> Usage:
        """What uid is charged for now."""
        usage = self._usage.get(uid)
        return Usage(usage.bytes, usage.keys) if usage else Usage()

    def entries(self) -> Iterable[tuple[str, Entry]]:
        return (item for shard in self._shards for item in shard.items())

    def walk(self) -> Iterator[list[str]]:
        """All keys, some at a time, so that others may read and write between. Every key that stays
        throughout comes once; of those that come or go meanwhile, some."""
        for shard in self._shards:
            yield list(shard)

    # Reading

    def get(self, uid: int, key: str) -> bytes:
        if key[:1] == "~":
            check_access(uid, key)
        entry = self._shards[hash(key) % SHARDS].get(key)
        return b"" if entry is None else entry.value

    def lookup(self, uid: int, key: str) -> tuple[bool, bytes, int]:
        entry = self.describe(uid, key)
        return (False, b"", 0) if entry is None else (True, entry.value, entry.revision)

    def describe(self, uid: int, key: str) -> Entry | None:
        check_access(uid, key)
        return self._find(key)

    def get_many(self, uid: int, keys: Iterable[str]) -> dict[str, bytes]:
        wanted = [(key, self.describe(uid, key)) for key in keys]
        return {key: entry.value for key, entry in wanted if entry is not None}

    def list_keys(self, uid: int, prefix: str = "") -> list[str]:
        """The keys with this prefix, sorted, without those that belong to others."""
        found = (key for shard in self._shards for key in shard if key.startswith(prefix))
        return sorted(key for key in found if not is_foreign(uid, key))

    # Writing

    def set(
        self,
        uid: int,
        key: str,
        value: bytes,
        *,
        ttl_ms: int | None = None,
        leaves_with: str | None = None,
    ) -> int:
        """The revision of this change; the key's own when the value is equal; 0: nothing there."""
        self._check_room(uid, *self._growth(uid, key, value))
        if ttl_ms is None:
            return self._put(uid, key, value, None, leaves_with)
        self._check_ttl(ttl_ms)
        return self._put(uid, key, value, self._clock() + ttl_ms * 1000, leaves_with)

    def set_many(self, uid: int, values: Mapping[str, bytes]) -> int:
        """The revision of the last key that changed, 0 when none did."""
        self._check_many(uid, values)
        before = self.revision
        for key, value in values.items():
            self._put(uid, key, value, None, None)
        return self.revision if self.revision != before else 0

    def compare_and_set(self, uid: int, key: str, expected: int, value: bytes) -> tuple[bool, int]:
        """Whether the key's revision was the expected one, and what it is now (0: not set)."""
        growth = self._growth(uid, key, value)
        entry = self._find(key)
        present = 0 if entry is None else entry.revision
        if present != expected:
            return False, present
        self._check_room(uid, *growth)
        revision = self._put(uid, key, value, None, None)
        return True, revision if value else 0

    def delete(self, uid: int, key: str) -> bool:
        check_access(uid, key)
        return self._remove(key) != 0

    def clear(self) -> int:
        """Removes every key as one change; no change when there is none."""
        if not self._count:
            return self.revision
        for shard in self._shards:
            shard.clear()
        self._usage.clear()
        self._leases.clear()
        self._deadlines.clear()
        self._count = self._bytes = 0
        change = self._history.append(None, None, 0)
        self._tell(None, None, change)
        return change.revision

    def mark(self, text: str) -> str:
        """Keeps the mark; writing it to the log is the caller's part."""
        self._check_value(text.encode(errors="surrogatepass"))
        self.last_mark = text or DEFAULT_MARK
        return self.last_mark

    def restore(
        self, key: str, value: bytes, uid: int, time_us: int, expires_us: int | None
    ) -> None:
        """Puts back what an earlier life of the store had; it was checked then."""
        if expires_us is None or expires_us > self._clock():
            self._put(uid, key, value, expires_us, None)
            self._shards[hash(key) % SHARDS][key].time_us = time_us

    # Going

    def expire(self, now_us: int) -> int:
        """Removes the keys that are due; returns how many."""
        removed = 0
        while (key := self._deadlines.pop_due(now_us)) is not None:
            self._remove(key)
            removed += 1
        return removed

    def next_expiry_us(self) -> int | None:
        return self._deadlines.next_us()

    def owner_left(self, name: str) -> int:
        """Removes the keys that go with this bus name; returns how many."""
        keys = sorted(self._leases.get(name, ()))
        for key in keys:
            self._remove(key)
        return len(keys)

    def has_leases(self, name: str) -> bool:
        """Whether keys go with this bus name, so that it is worth watching."""
        return name in self._leases

    # Watching

    def watch_from(self, revision: int) -> int:
        """Where a watcher starts: `revision`, or the present one for FROM_NOW."""
        if revision == FROM_NOW:
            return self.revision
        self._history.check(revision)
        return revision

    def next_change(self, after_revision: int) -> Change | None:
        """None when nothing has changed since; RevisionGone when the watcher fell behind."""
        return self._history.next_after(after_revision)

    def changes_after(self, revision: int) -> list[Change]:
        return self._history.after(revision)

    # Checks

    def _find(self, key: str) -> Entry | None:
        return self._shards[hash(key) % SHARDS].get(key)

    def _expiry_of(self, key: str) -> int | None:
        entry = self._shards[hash(key) % SHARDS].get(key)
        return None if entry is None else entry.expires_us

    def _check_key(self, key: str) -> int:
        """The bytes that key takes."""
        try:
            size = _size(key)
        except UnicodeEncodeError:
            raise InvalidArgs("A key is Unicode text; this one has half a character.") from None
        if size > self.limits.key_bytes:
            raise LimitsExceeded(
                f"The key has {size} bytes; {self.limits.key_bytes} are allowed (MaxKeyBytes)."
            )
        if not key or "\0" in key:
            raise InvalidArgs("A key is not empty and has no NUL in it.")
        return size

    def _check_value(self, value: bytes) -> None:
        if len(value) > self.limits.value_bytes:
            raise LimitsExceeded(
                f"The value has {len(value)} bytes; {self.limits.value_bytes} are allowed "
                "(MaxValueBytes)."
            )
        if 0 in value:  # on short values much faster than looking for b"\0"
            raise InvalidArgs("A value is text without NUL.")
        if not value.isascii():
            try:
                value.decode()
            except UnicodeDecodeError:
                raise InvalidArgs("A value is text in UTF-8; this one is not.") from None

    def _check_ttl(self, ttl_ms: int) -> None:
        if not 1 <= ttl_ms <= self.limits.ttl_ms:
            raise InvalidArgs(f"ttl_ms is from 1 to {self.limits.ttl_ms} milliseconds.")

    def _growth(self, uid: int, key: str, value: bytes) -> tuple[int, int, int]:
        """The bytes and keys that a write adds to uid's charge, and the bytes it adds in all."""
        old = self._shards[hash(key) % SHARDS].get(key)
        # A key that is here was checked when it came.
        size = self._check_key(key) if old is None else old.charge - len(old.value)
        self._check_value(value)
        if key[0] == "~":
            check_access(uid, key)
        charge, keys = (size + len(value), 1) if value else (0, 0)
        if old is None:
            return charge, keys, charge
        if old.uid == uid:
            return charge - old.charge, keys - 1, charge - old.charge
        return charge, keys, charge - old.charge

    def _check_many(self, uid: int, values: Mapping[str, bytes]) -> None:
        own_bytes = own_keys = all_bytes = 0
        for key, value in values.items():
            growth = self._growth(uid, key, value)
            own_bytes += growth[0]
            own_keys += growth[1]
            all_bytes += growth[2]
        self._check_room(uid, own_bytes, own_keys, all_bytes)

    def _check_room(self, uid: int, own_bytes: int, own_keys: int, all_bytes: int) -> None:
        """Whether so much more fits, when all of a write is done."""
        limits = self.limits
        usage = self._usage.get(uid)
        if usage is not None:
            own_bytes += usage.bytes
            own_keys += usage.keys
        if own_bytes > limits.bytes_per_uid:
            raise LimitsExceeded(
                f"Uid {uid} would have {own_bytes} bytes in the store; "
                f"{limits.bytes_per_uid} are allowed (MaxBytesPerUid)."
            )
        if own_keys > limits.keys_per_uid:
            raise LimitsExceeded(
                f"Uid {uid} would have {own_keys} keys in the store; "
                f"{limits.keys_per_uid} are allowed (MaxKeysPerUid)."
            )
        if self._bytes + all_bytes > limits.total_bytes:
            raise LimitsExceeded(
                f"The store would have {self._bytes + all_bytes} bytes; "
                f"{limits.total_bytes} are allowed (MaxBytes)."
            )

    # Altering: nothing below this line fails

    def _put(
        self, uid: int, key: str, value: bytes, expires_us: int | None, owner: str | None
    ) -> int:
        if not value:
            return self._remove(key)
        shard = self._shards[hash(key) % SHARDS]
        old = shard.get(key)
        history, is_change = self._history, True
        if old is None or old.value != value:
            revision, time_us = history.revision + 1, self._clock()
        else:
            is_change = False
            if old.uid == uid and old.expires_us == expires_us and old.until_leaves == owner:
                return old.revision  # the new entry would be the old one
            value, revision, time_us = old.value, old.revision, old.time_us
        size = _size(key) if old is None else old.charge - len(old.value)
        charge = size + len(value)
        entry = Entry(value, revision, time_us, uid, expires_us, owner, charge)
        shard[key] = entry
        if old is None:
            self._charge(uid, charge, 1)
        elif old.uid == uid:
            if charge != old.charge:
                self._charge(uid, charge - old.charge, 0)
        else:
            self._charge(old.uid, -old.charge, -1)
            self._charge(uid, charge, 1)
        if old is not None and old.until_leaves is not None:
            self._end_lease(key, old.until_leaves)
        if owner is not None:
            self._leases.setdefault(owner, set()).add(key)
        if expires_us is not None:
            self._deadlines.add(expires_us, key)
        self._tell(key, entry, history.append(key, value, charge) if is_change else None)
        return revision

    def _remove(self, key: str) -> int:
        """The revision of this change, 0 when the key was not set."""
        old = self._shards[hash(key) % SHARDS].pop(key, None)
        if old is None:
            return 0
        self._charge(old.uid, -old.charge, -1)
        if old.until_leaves is not None:
            self._end_lease(key, old.until_leaves)
        change = self._history.append(key, None, old.charge - len(old.value))
        self._tell(key, None, change)
        return change.revision

    def _charge(self, uid: int, size: int, keys: int) -> None:
        """Charges uid for so many more bytes and keys, or fewer."""
        usage = self._usage.get(uid)
        if usage is None:
            usage = self._usage[uid] = Usage()
        usage.bytes += size
        usage.keys += keys
        self._bytes += size
        self._count += keys
        if not usage.keys:
            del self._usage[uid]

    def _end_lease(self, key: str, owner: str) -> None:
        keys = self._leases[owner]
        keys.remove(key)
        if not keys:
            del self._leases[owner]

    def _tell(self, key: str | None, entry: Entry | None, change: Change | None) -> None:
        """When all is done; to each listener, whatever another one does."""
        failure: Exception | None = None
        if self.on_entry is not None:
            try:
                self.on_entry(key, entry)
            except Exception as error:
                failure = error
        if change is not None:
            for tell in self.on_change:
                try:
                    tell(change)
                except Exception as error:
                    failure = error
        if failure is not None:
            raise failure

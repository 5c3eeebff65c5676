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

import heapq
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from buswork.errors import AccessDenied, BusworkError, InvalidArgs, LimitsExceeded
from buswork.store.wire.lines import Change
from buswork.store.wire.values import shown

# Names, not data: four times the longest file name. All the keys of a uid are 10 MiB at most,
# which one reply (16 MiB) to List can carry.
MAX_KEY_BYTES = 1024

# Five times what the original mapipcd takes in one message (212,000 bytes); short enough that
# encoding one value holds nobody up.
MAX_VALUE_BYTES = 1024 * 1024

# One reply to GetMany carries about as much; larger things belong into files.
MAX_BYTES_PER_UID = 16 * 1024 * 1024

# List sorts them all while others wait; 10,000 take a few milliseconds.
MAX_KEYS_PER_UID = 10_000

# Sixteen users with full quotas, and no more of the machine's memory than that.
MAX_BYTES = 256 * 1024 * 1024

# A watcher may be away for a minute at a thousand changes a second.
MAX_HISTORY_CHANGES = 65_536

# The past may cost as much as one user's present.
MAX_HISTORY_BYTES = 16 * 1024 * 1024

# A hundred years: nothing in memory lives longer, and the end still fits D-Bus's `t`.
MAX_TTL_MS = 100 * 366 * 24 * 3600 * 1000

# What one change takes besides its key and value: measured on CPython 3.11, 64 bits.
CHANGE_OVERHEAD_BYTES = 224

# Dictionaries that share the keys. One of a million would hold everybody up: 50 ms where it grows,
# 25 ms for a list of its keys.
SHARDS = 64

# Below so many deadlines, tidying the heap is not worth the look.
SMALL_HEAP = 64

FROM_NOW = 2**64 - 1
DEFAULT_MARK = "-- MARK --"

_PRIVATE = re.compile(r"~(0|[1-9][0-9]*)/")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much fits; a bench may lift them."""

    key_bytes: int = MAX_KEY_BYTES
    value_bytes: int = MAX_VALUE_BYTES
    bytes_per_uid: int = MAX_BYTES_PER_UID
    keys_per_uid: int = MAX_KEYS_PER_UID
    total_bytes: int = MAX_BYTES
    history_changes: int = MAX_HISTORY_CHANGES
    history_bytes: int = MAX_HISTORY_BYTES
    ttl_ms: int = MAX_TTL_MS


class RevisionGone(BusworkError):
    """The changes after a revision are not kept, or the revision is of another epoch."""

    name = "org.mapipc.Error.RevisionGone"


class NotText(BusworkError):
    """A native client stored a string that D-Bus can't carry."""

    name = "org.mapipc.Error.NotText"


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


def is_private(key: str) -> bool:
    return _PRIVATE.match(key) is not None


def is_foreign(uid: int, key: str) -> bool:
    """Whether key is private to another uid.

    Uids are compared as text: a caller may write more digits than int() takes.
    """
    if key[:1] != "~":
        return False
    match = _PRIVATE.match(key)
    return match is not None and match[1] != str(uid)


def visible(change: Change, uid: int, prefix: str) -> bool:
    """Whether a watcher with this uid and prefix is to see the change."""
    key = change.key
    if key is None:
        return True
    return key.startswith(prefix) and not is_foreign(uid, key)


def check_access(uid: int, key: str) -> None:
    if is_foreign(uid, key):
        owner = key[1 : key.index("/")][:20]
        raise AccessDenied(f"Keys that begin with ~{owner}/ belong to uid {owner} alone.")


def as_text(key: str, value: bytes) -> str:
    """The value as D-Bus shows it: JSON as its compact text, NotText for what is no string."""
    text = value.decode() if type(value) is bytes else shown(value)
    if text is None:
        raise NotText(f"The value of {key} has NUL or half a character; mapipc reads it.")
    return text


def _size(key: str) -> int:
    return len(key) if key.isascii() else len(key.encode())


class History:
    """The latest changes, found by revision in constant time.

    A dictionary is the ring: revisions are consecutive, so the oldest key is always known.
    """

    __slots__ = ("_bytes", "_changes", "_costs", "_max_bytes", "_max_changes", "oldest", "revision")

    def __init__(self, max_changes: int, max_bytes: int) -> None:
        self._changes: dict[int, Change] = {}
        self._costs: deque[int] = deque()
        self._bytes = 0
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        self.revision = 0
        self.oldest = 1  # one more than revision when nothing is kept

    def append(self, key: str | None, value: bytes | None, size: int) -> Change:
        """`size`: of key and value together."""
        self.revision = revision = self.revision + 1
        change = Change(revision, key, value)
        self._changes[revision] = change
        cost = CHANGE_OVERHEAD_BYTES + size
        self._costs.append(cost)
        self._bytes += cost
        while self._bytes > self._max_bytes or len(self._changes) > self._max_changes:
            del self._changes[self.oldest]
            self._bytes -= self._costs.popleft()
            self.oldest += 1
        return change

    def check(self, revision: int) -> None:
        """Raises RevisionGone unless every change after revision is known."""
        if revision > self.revision:
            raise RevisionGone(
                f"Revision {revision} is yet to come, the present one is {self.revision}; "
                "was it read before the daemon started anew?"
            )
        if revision < self.oldest - 1:
            raise RevisionGone(
                f"The changes after revision {revision} are not kept, only those after "
                f"{self.oldest - 1}; read the values again."
            )

    def next_after(self, revision: int) -> Change | None:
        change = self._changes.get(revision + 1)
        if change is None:
            self.check(revision)
        return change

    def after(self, revision: int) -> list[Change]:
        self.check(revision)
        return [self._changes[n] for n in range(revision + 1, self.revision + 1)]


class Deadlines:
    """When which key is due. One that was put off or taken away stays until it is met or tidied."""

    __slots__ = ("_find", "_heap", "_tidy_above")

    def __init__(self, find: Callable[[str], Entry | None]) -> None:
        self._find = find
        self._heap: list[tuple[int, str]] = []
        self._tidy_above = SMALL_HEAP

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, expires_us: int, key: str) -> None:
        heapq.heappush(self._heap, (expires_us, key))
        if len(self._heap) > self._tidy_above:
            # Renewing one key for ever must not fill the memory.
            self._heap = list(set(filter(self._holds, self._heap)))
            heapq.heapify(self._heap)
            self._tidy_above = max(SMALL_HEAP, 2 * len(self._heap))

    def next_us(self) -> int | None:
        while self._heap and not self._holds(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_us: int) -> str | None:
        due_us = self.next_us()
        if due_us is None or due_us > now_us:
            return None
        return heapq.heappop(self._heap)[1]

    def clear(self) -> None:
        self._heap.clear()
        self._tidy_above = SMALL_HEAP

    def _holds(self, deadline: tuple[int, str]) -> bool:
        expires_us, key = deadline
        entry = self._find(key)
        return entry is not None and entry.expires_us == expires_us


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
        self._deadlines = Deadlines(self._find)
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

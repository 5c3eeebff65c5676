from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from buswork.errors import AccessDenied, BusworkError, InvalidArgs, LimitsExceeded
from buswork.store.model.history import CHANGE_OVERHEAD_BYTES, RevisionGone
from buswork.store.model.limits import Limits
from buswork.store.model.store import DEFAULT_MARK, FROM_NOW, Store, Usage
from buswork.store.wire.lines import Change
from buswork.store.wire.values import EMPTY, Json

ME, YOU = 1000, 1001


class Clock:
    def __init__(self):
        self.now_us = 1_000_000

    def __call__(self):
        return self.now_us


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    return Store(clock)


def small_store(**limits):
    return Store(Clock(), Limits(**limits))


# Values


def test_what_is_set_is_read_by_everybody(store):
    assert store.set(ME, "greeting", b"hello") == 1
    assert store.get(YOU, "greeting") == b"hello"
    assert store.lookup(YOU, "greeting") == (True, b"hello", 1)


def test_a_key_that_is_not_set_reads_as_nothing(store):
    assert store.get(ME, "greeting") == b""
    assert store.lookup(ME, "greeting") == (False, b"", 0)
    assert store.describe(ME, "greeting") is None


# What native clients store besides text


def test_json_is_kept_beside_text(store):
    assert store.set(ME, "a", Json(b"[1]")) == 1
    assert store.get(ME, "a") == Json(b"[1]")
    assert store.usage(ME) == Usage(4, 1)
    assert store.changes_after(0) == [Change(1, "a", Json(b"[1]"))]


def test_json_and_the_text_that_looks_the_same_differ(store):
    assert store.set(ME, "a", b"5") == 1
    assert store.set(ME, "a", Json(b"5")) == 2
    assert store.set(ME, "a", Json(b"5")) == 2
    assert store.set(ME, "a", b"5") == 3


def test_the_empty_string_of_json_is_kept_and_costs_its_quotes(store):
    store.set(ME, "a", EMPTY)
    assert store.lookup(ME, "a") == (True, EMPTY, 1)
    assert store.usage(ME) == Usage(3, 1)
    store.set(ME, "a", b"")
    assert store.lookup(ME, "a")[0] is False


def test_describe_tells_writer_time_and_end(store, clock):
    store.set(ME, "a", b"1", ttl_ms=5, leaves_with=":1.7")
    entry = store.describe(YOU, "a")
    assert (entry.uid, entry.time_us, entry.revision) == (ME, clock.now_us, 1)
    assert (entry.expires_us, entry.until_leaves) == (clock.now_us + 5000, ":1.7")


def test_what_was_described_does_not_alter_afterwards(store):
    store.set(ME, "a", b"1")
    entry = store.describe(ME, "a")
    store.set(YOU, "a", b"2")
    store.set(ME, "a", b"2", ttl_ms=1)
    assert (entry.value, entry.uid, entry.expires_us) == (b"1", ME, None)


def test_an_empty_value_clears(store):
    store.set(ME, "a", b"1")
    assert store.set(ME, "a", b"") == 2
    assert store.lookup(ME, "a") == (False, b"", 0)
    assert store.changes_after(1) == [Change(2, "a", None)]


def test_clearing_what_is_not_there_is_no_change(store):
    assert store.set(ME, "a", b"") == 0
    assert store.delete(ME, "a") is False
    assert store.revision == 0


def test_an_equal_value_is_no_change_and_answers_the_keys_own_revision(store, clock):
    store.set(ME, "a", b"1")
    store.set(ME, "b", b"1")
    clock.now_us += 5
    assert store.set(ME, "a", b"1") == 1
    assert store.revision == 2
    assert store.describe(ME, "a").time_us == clock.now_us - 5


def test_a_write_that_leaves_the_entry_as_it_was_is_told_to_nobody(store, clock):
    told = []
    store.on_entry = lambda key, entry: told.append((key, entry.uid, entry.expires_us))
    store.set(ME, "a", b"1", ttl_ms=1)
    store.set(ME, "a", b"1", ttl_ms=1)
    due = clock.now_us + 1000
    assert told == [("a", ME, due)]
    store.set(ME, "a", b"1")
    store.set(YOU, "a", b"1")
    store.set(YOU, "a", b"1")
    store.set(YOU, "a", b"1", leaves_with=":1.1")
    assert told[1:] == [("a", ME, None), ("a", YOU, None), ("a", YOU, None)]
    assert store.has_leases(":1.1")


def test_an_equal_value_moves_the_charge_to_the_present_writer(store):
    store.set(ME, "a", b"1")
    store.set(YOU, "a", b"1")
    assert store.usage(ME) == Usage(0, 0)
    assert store.usage(YOU) == Usage(2, 1)
    assert store.describe(ME, "a").uid == YOU


def test_delete_says_whether_it_was_set(store):
    store.set(ME, "a", b"1")
    assert store.delete(YOU, "a") is True
    assert store.delete(YOU, "a") is False


def test_clear_is_one_change(store):
    store.set_many(ME, {"a": b"1", "b": b"2"})
    assert store.clear() == 3
    assert store.changes_after(2) == [Change(3, None, None)]
    assert (store.count, store.total_bytes, store.usage(ME)) == (0, 0, Usage(0, 0))
    assert store.clear() == 3


def test_clear_takes_deadlines_and_leases_away(store, clock):
    store.set(ME, "a", b"1", ttl_ms=1, leaves_with=":1.7")
    store.clear()
    assert len(store._deadlines) == 0
    store.set(ME, "a", b"1")
    assert store.next_expiry_us() is None
    assert store.expire(clock.now_us + 10_000) == 0
    assert store.owner_left(":1.7") == 0


def test_list_is_sorted_and_by_prefix(store):
    store.set_many(ME, {"b": b"1", "a/2": b"1", "a/1": b"1"})
    assert store.list_keys(ME) == ["a/1", "a/2", "b"]
    assert store.list_keys(ME, "a/") == ["a/1", "a/2"]


def test_get_many_gives_those_that_are_set(store):
    store.set(ME, "a", b"1")
    assert store.get_many(YOU, ["a", "b"]) == {"a": b"1"}


# Several at once, and on a condition


def test_set_many_answers_the_last_change(store):
    store.set(ME, "b", b"2")
    assert store.set_many(ME, {"a": b"1", "c": b"3", "b": b"2"}) == 3
    assert store.set_many(ME, {"a": b"1", "x": b""}) == 0
    assert store.set_many(ME, {}) == 0


@pytest.mark.parametrize(
    "bad", [{"": b"1"}, {"k": b"\0"}, {"k": b"\xff"}, {"~0/k": b"1"}, {"k": b"v" * 100}]
)
def test_set_many_does_nothing_when_one_is_bad(bad):
    store = small_store(value_bytes=99)
    with pytest.raises(BusworkError):
        store.set_many(ME, {"a": b"1"} | bad)
    assert (store.count, store.revision, store.total_bytes) == (0, 0, 0)


def test_set_many_counts_the_final_state():
    store = small_store(bytes_per_uid=4, keys_per_uid=2)
    store.set_many(ME, {"a": b"1", "b": b"2"})
    store.set_many(ME, {"c": b"3", "a": b""})
    assert store.list_keys(ME) == ["b", "c"]
    with pytest.raises(LimitsExceeded):
        store.set_many(ME, {"a": b"1", "d": b"2", "b": b""})
    assert store.list_keys(ME) == ["b", "c"]


@pytest.mark.parametrize("limit", [{"bytes_per_uid": 3}, {"keys_per_uid": 1}, {"total_bytes": 3}])
def test_set_many_refuses_what_fits_only_one_by_one(limit):
    store = small_store(**limit)
    with pytest.raises(LimitsExceeded):
        store.set_many(ME, {"a": b"1", "b": b"1"})
    assert store.count == 0


def test_set_many_takes_ttl_and_lease_away(store):
    store.set(ME, "a", b"1", ttl_ms=1, leaves_with=":1.7")
    store.set_many(ME, {"a": b"1"})
    assert store.next_expiry_us() is None
    assert not store.has_leases(":1.7")


def test_compare_and_set_compares_the_keys_own_revision(store):
    assert store.compare_and_set(ME, "a", 0, b"1") == (True, 1)
    store.set(ME, "b", b"1")
    assert store.compare_and_set(YOU, "a", 2, b"2") == (False, 1)
    assert store.compare_and_set(YOU, "a", 0, b"2") == (False, 1)
    assert store.compare_and_set(YOU, "a", 1, b"2") == (True, 3)
    assert store.compare_and_set(YOU, "x", 3, b"2") == (False, 0)
    assert store.get(ME, "a") == b"2"


def test_compare_and_set_to_an_equal_or_an_empty_value(store):
    store.set(ME, "a", b"1")
    assert store.compare_and_set(ME, "a", 1, b"1") == (True, 1)
    assert store.compare_and_set(ME, "a", 1, b"") == (True, 0)
    assert store.compare_and_set(ME, "a", 0, b"") == (True, 0)
    assert store.revision == 2


# Private keys


@pytest.mark.parametrize("key", ["~1000/a", "~1000/", "~0/a", "~" + "9" * 6000 + "/a"])
@pytest.mark.parametrize("uid", [0, 1001])
def test_a_private_key_is_closed_to_every_other_uid(store, key, uid):
    if key.startswith(f"~{uid}/"):
        uid = YOU
    for touch in (store.get, store.lookup, store.describe, store.delete):
        with pytest.raises(AccessDenied, match="alone"):
            touch(uid, key)
    with pytest.raises(AccessDenied):
        store.get_many(uid, ["a", key])
    with pytest.raises((AccessDenied, LimitsExceeded)):
        store.set(uid, key, b"1")
    with pytest.raises((AccessDenied, LimitsExceeded)):
        store.compare_and_set(uid, key, 0, b"1")
    assert store.revision == 0


def test_a_private_key_serves_its_uid(store):
    assert store.set(ME, "~1000/a", b"1") == 1
    assert store.get(ME, "~1000/a") == b"1"
    assert store.get_many(ME, ["~1000/a"]) == {"~1000/a": b"1"}
    assert store.list_keys(ME) == ["~1000/a"]
    assert store.list_keys(0) == []
    assert store.list_keys(YOU, "~1000/") == []


@pytest.mark.parametrize(
    "key", ["~", "~/", "~a/b", "~01000/a", "~1000", "~-1/a", "~1\u0661/a", "a~1/"]
)
def test_other_keys_with_a_tilde_are_ordinary(store, key):
    store.set(ME, key, b"1")
    assert store.get(YOU, key) == b"1"
    assert store.list_keys(YOU) == [key]


# What is refused


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("", b"1", InvalidArgs),
        ("a\0", b"1", InvalidArgs),
        ("\ud800", b"1", InvalidArgs),
        ("k" * 1025, b"1", LimitsExceeded),
        ("é" * 513, b"1", LimitsExceeded),
        ("a", b"1\0", InvalidArgs),
        ("a", b"\xc3", InvalidArgs),
        ("a", b"v" * (1024 * 1024 + 1), LimitsExceeded),
    ],
)
def test_keys_and_values_that_are_refused(store, key, value, error):
    with pytest.raises(error):
        store.set(ME, key, value)
    assert store.revision == 0


def test_the_longest_key_and_value_fit(store):
    store.set(ME, "é" * 512, b"v" * 1024 * 1024)
    assert store.total_bytes == 1024 + 1024 * 1024


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"key_bytes": 0}, r"\b0\b.*MaxKeyBytes"),
        ({"value_bytes": 1}, r"\b1\b.*MaxValueBytes"),
        ({"bytes_per_uid": 2}, r"\b2\b.*MaxBytesPerUid"),
        ({"keys_per_uid": 0}, r"\b0\b.*MaxKeysPerUid"),
        ({"total_bytes": 2}, r"\b2\b.*MaxBytes\b"),
    ],
)
def test_a_limit_says_its_name_and_number(limits, text):
    with pytest.raises(LimitsExceeded, match=text):
        small_store(**limits).set(ME, "a", b"12")


def test_a_full_uid_can_still_shrink_delete_and_write_equal():
    store = small_store(bytes_per_uid=4, keys_per_uid=1)
    store.set(ME, "a", b"123")
    store.set(ME, "a", b"123")
    with pytest.raises(LimitsExceeded):
        store.set(ME, "a", b"1234")
    with pytest.raises(LimitsExceeded):
        store.set(ME, "b", b"1")
    store.set(ME, "a", b"1")
    store.set(ME, "a", b"")
    store.set(ME, "b", b"1")


def test_taking_over_an_entry_needs_room_for_it():
    store = small_store(keys_per_uid=1)
    store.set(ME, "a", b"1")
    store.set(YOU, "b", b"1")
    for write in (b"1", b"2"):
        with pytest.raises(LimitsExceeded):
            store.set(YOU, "a", write)
    assert (store.usage(ME), store.usage(YOU)) == (Usage(2, 1), Usage(2, 1))


def test_taking_over_takes_no_room_in_all():
    store = small_store(total_bytes=2)
    store.set(ME, "a", b"1")
    store.set(YOU, "a", b"2")
    assert store.usage(YOU) == Usage(2, 1)


def test_nothing_is_remembered_of_who_holds_nothing(store):
    for uid in range(100):
        store.set(uid, "a", b"1", leaves_with=f":1.{uid}")
    store.delete(ME, "a")
    assert not store._usage
    assert not store._leases


def test_what_usage_answers_is_a_copy(store):
    store.set(ME, "a", b"1")
    store.usage(ME).bytes = 100
    assert store.usage(ME) == Usage(2, 1)


# Going


def test_a_key_goes_when_it_is_due_and_not_before(store, clock):
    store.set(ME, "a", b"1", ttl_ms=1)
    due = clock.now_us + 1000
    assert store.next_expiry_us() == due
    assert store.expire(due - 1) == 0
    assert store.expire(due) == 1
    assert store.changes_after(1) == [Change(2, "a", None)]
    assert store.next_expiry_us() is None
    assert store.usage(ME) == Usage(0, 0)


def test_keys_go_in_the_order_of_their_deadlines(store, clock):
    store.set(ME, "late", b"1", ttl_ms=3)
    store.set(ME, "soon", b"1", ttl_ms=1)
    assert store.expire(clock.now_us + 3000) == 2
    assert [change.key for change in store.changes_after(2)] == ["soon", "late"]


@pytest.mark.parametrize("value", [b"1", b"2"])
def test_a_later_set_takes_ttl_and_lease_away(store, clock, value):
    store.set(ME, "a", b"1", ttl_ms=1, leaves_with=":1.7")
    store.set(ME, "a", value)
    assert store.next_expiry_us() is None
    assert store.expire(clock.now_us + 1000) == 0
    assert store.owner_left(":1.7") == 0
    assert store.get(ME, "a") == value


def test_an_equal_value_renews_the_ttl(store, clock):
    store.set(ME, "a", b"1", ttl_ms=1)
    store.set(ME, "a", b"1", ttl_ms=2)
    assert store.next_expiry_us() == clock.now_us + 2000
    assert store.expire(clock.now_us + 1000) == 0
    assert store.expire(clock.now_us + 2000) == 1


@pytest.mark.parametrize("ttl_ms", [0, -1, 100 * 366 * 24 * 3600 * 1000 + 1, 2**64 - 1])
def test_a_ttl_that_is_refused_changes_nothing(store, ttl_ms):
    with pytest.raises(InvalidArgs, match="ttl_ms"):
        store.set(ME, "a", b"1", ttl_ms=ttl_ms)
    assert store.revision == 0


def test_keys_go_with_the_name_they_were_lent_to(store):
    store.set(ME, "b", b"1", leaves_with=":1.7")
    store.set(ME, "a", b"1", leaves_with=":1.7")
    store.set(ME, "c", b"1", leaves_with=":1.8")
    assert store.has_leases(":1.7")
    assert store.owner_left(":1.7") == 2
    assert store.changes_after(3) == [Change(4, "a", None), Change(5, "b", None)]
    assert not store.has_leases(":1.7")
    assert store.owner_left(":1.7") == 0
    assert store.list_keys(ME) == ["c"]


def test_a_lease_moves_to_the_present_writer(store):
    store.set(ME, "a", b"1", leaves_with=":1.7")
    store.set(YOU, "a", b"1", leaves_with=":1.8")
    assert store.owner_left(":1.7") == 0
    assert store.owner_left(":1.8") == 1


# History


def test_each_listener_hears_each_change_once(clock):
    heard = []
    store = Store(clock, on_change=[heard.append])
    store.on_change.append(heard.append)
    store.set(ME, "a", b"1", ttl_ms=1)
    store.set(ME, "a", b"1", ttl_ms=1)
    store.expire(clock.now_us + 1000)
    store.set(ME, "a", b"1")
    store.clear()
    assert heard[::2] == heard[1::2] == store.changes_after(0)


def test_a_listener_finds_the_change_done(clock):
    seen = []
    store = Store(clock)
    store.on_change.append(
        lambda change: seen.append((store.revision, store.get(ME, "a"), store.next_change(0)))
    )
    store.set(ME, "a", b"1")
    assert seen == [(1, b"1", Change(1, "a", b"1"))]


def test_a_watcher_walks_from_change_to_change(store):
    store.set(ME, "a", b"1")
    store.set(ME, "b", b"1")
    assert store.next_change(0) == Change(1, "a", b"1")
    assert store.next_change(1) == Change(2, "b", b"1")
    assert store.next_change(2) is None


@pytest.mark.parametrize("kept", [{"history_changes": 2}, {"history_bytes": 2 * 226 + 225}])
def test_what_is_no_longer_kept_is_gone(kept):
    store = small_store(**kept)
    for number in range(5):
        store.set(ME, "a", b"%d" % number)
    assert [change.revision for change in store.changes_after(3)] == [4, 5]
    assert store.watch_from(3) == 3
    for ask in (store.changes_after, store.next_change, store.watch_from):
        with pytest.raises(RevisionGone, match="after 3"):
            ask(2)


def test_a_revision_that_is_yet_to_come_is_of_another_epoch(store):
    store.set(ME, "a", b"1")
    for ask in (store.changes_after, store.next_change, store.watch_from):
        with pytest.raises(RevisionGone, match="yet to come") as raised:
            ask(2)
        assert raised.value.name == "org.mapipc.Error.RevisionGone"


def test_watching_from_now_starts_at_the_present_revision(store):
    store.set(ME, "a", b"1")
    assert store.watch_from(FROM_NOW) == 1
    assert store.watch_from(0) == 0


def test_history_shares_the_bytes_of_the_value(store):
    value = b"v" * 1000
    store.set(ME, "a", value)
    store.set(ME, "a", bytes(bytearray(value)))
    assert store.next_change(0).value is store.get(ME, "a") is value


# Marks


def test_a_mark_is_kept(store):
    assert store.last_mark == ""
    assert store.mark("here") == store.last_mark == "here"
    assert store.mark("") == store.last_mark == DEFAULT_MARK != ""


@pytest.mark.parametrize("text", ["a\0", "\ud800", "m" * (1024 * 1024 + 1)])
def test_a_mark_that_no_value_could_be_is_refused(store, text):
    with pytest.raises((InvalidArgs, LimitsExceeded)):
        store.mark(text)
    assert store.last_mark == ""


# Everything, against a plain dictionary

LIMITS = Limits(
    key_bytes=8,
    value_bytes=6,
    bytes_per_uid=24,
    keys_per_uid=3,
    total_bytes=28,
    history_changes=25,
    history_bytes=20 * (CHANGE_OVERHEAD_BYTES + 6),
)
OPEN_KEYS = st.sampled_from(["a", "b", "c", "é/1", "é/2", "~01/x", "k" * 8])
KEYS = OPEN_KEYS | st.sampled_from(["~0/x", "~1/x", "k" * 9, ""])
FIT_VALUES = st.sampled_from([b"", b"1", b"2", "é".encode(), b"long", b"longer"])
VALUES = FIT_VALUES | st.sampled_from([b"longest", b"\xff"])
MANY = st.dictionaries(OPEN_KEYS, FIT_VALUES, max_size=6) | st.dictionaries(KEYS, VALUES)
UIDS = st.sampled_from([0, 1, 2])
OWNERS = st.sampled_from([None, ":1.1", ":1.2"])
TTLS = st.sampled_from([None, 1, 2, 50])


@dataclass(frozen=True)
class Plain:
    """An entry as the reference knows it."""

    value: bytes
    revision: int
    time_us: int
    uid: int
    expires_us: int | None = None
    owner: str | None = None


class Refused(Exception):
    pass


def size_of(entries):
    return sum(len(key.encode()) + len(entry.value) for key, entry in entries.items())


def of_uid(entries, uid):
    return {key: entry for key, entry in entries.items() if entry.uid == uid}


def closed_to(uid, key):
    head, slash, _ = key.partition("/")
    digits = head[1:]
    is_number = digits.isascii() and digits.isdigit() and str(int(digits)) == digits
    return bool(slash) and head[:1] == "~" and is_number and int(digits) != uid


class StoreAgainstDictionary(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.clock = Clock()
        self.heard = []
        self.store = Store(self.clock, LIMITS, [self.heard.append])
        self.entries = {}
        self.changes = []

    # The reference

    def write(self, uid, writes, ttl_ms=None, owner=None):
        """The changes that the writes make; alters nothing when they are refused."""
        entries, changes = dict(self.entries), []
        expires_us = None if ttl_ms is None else self.clock.now_us + ttl_ms * 1000
        for key, value in writes.items():
            if closed_to(uid, key) or not 1 <= len(key.encode()) <= LIMITS.key_bytes:
                raise Refused
            if len(value) > LIMITS.value_bytes or b"\xff" in value:
                raise Refused
            old = entries.pop(key, None)
            if value and old and old.value == value:
                entries[key] = replace(old, uid=uid, expires_us=expires_us, owner=owner)
            elif value or old:
                revision = len(self.changes) + len(changes) + 1
                changes.append(Change(revision, key, value or None))
                if value:
                    now = self.clock.now_us
                    entries[key] = Plain(value, revision, now, uid, expires_us, owner)
        mine = of_uid(entries, uid)
        if size_of(mine) > LIMITS.bytes_per_uid or len(mine) > LIMITS.keys_per_uid:
            raise Refused
        if size_of(entries) > LIMITS.total_bytes:
            raise Refused
        self.entries = entries
        self.changes += changes
        return changes

    def go(self, keys):
        for key in keys:
            del self.entries[key]
            self.changes.append(Change(len(self.changes) + 1, key, None))

    def answer(self, call, *args, **options):
        """What the store answers, None when it refuses."""
        before = self.store.revision
        try:
            return call(*args, **options)
        except (AccessDenied, InvalidArgs, LimitsExceeded):
            assert self.store.revision == before
            return None

    # What people do

    @rule(uid=UIDS, key=KEYS, value=VALUES, ttl_ms=TTLS, owner=OWNERS)
    def set(self, uid, key, value, ttl_ms, owner):
        answer = self.answer(self.store.set, uid, key, value, ttl_ms=ttl_ms, leaves_with=owner)
        try:
            changes = self.write(uid, {key: value}, ttl_ms, owner)
        except Refused:
            assert answer is None
            return
        if changes:
            assert answer == changes[0].revision
        else:
            assert answer == (self.entries[key].revision if value else 0)

    @rule(uid=UIDS, values=MANY)
    def set_many(self, uid, values):
        answer = self.answer(self.store.set_many, uid, values)
        try:
            changes = self.write(uid, values)
        except Refused:
            assert answer is None
        else:
            assert answer == (changes[-1].revision if changes else 0)

    @rule(uid=UIDS, key=KEYS, value=VALUES, stale=st.booleans())
    def compare_and_set(self, uid, key, value, stale):
        old = self.entries.get(key)
        present = old.revision if old else 0
        expected = present + stale
        answer = self.answer(self.store.compare_and_set, uid, key, expected, value)
        if stale:
            assert answer in (None, (False, present))
            return
        try:
            self.write(uid, {key: value})
        except Refused:
            assert answer is None
        else:
            assert answer == (True, self.entries[key].revision if value else 0)

    @rule(uid=UIDS, key=KEYS)
    def delete(self, uid, key):
        answer = self.answer(self.store.delete, uid, key)
        if closed_to(uid, key):
            assert answer is None
        else:
            assert answer is (key in self.entries)
            self.go([key] if answer else [])

    @rule()
    @precondition(lambda self: len(self.entries) > 2)
    def clear(self):
        assert self.store.clear() == len(self.changes) + 1
        self.entries = {}
        self.changes.append(Change(len(self.changes) + 1, None, None))

    @rule(step_ms=st.sampled_from([0, 1, 2, 60]))
    def time_passes(self, step_ms):
        self.clock.now_us += step_ms * 1000
        ends = {key: e.expires_us for key, e in self.entries.items() if e.expires_us is not None}
        due = [key for key, end in ends.items() if end <= self.clock.now_us]
        assert self.store.expire(self.clock.now_us) == len(due)
        self.go(sorted(due, key=lambda key: (ends[key], key)))

    @rule(owner=OWNERS.filter(bool))
    def owner_left(self, owner):
        keys = sorted(key for key, entry in self.entries.items() if entry.owner == owner)
        assert self.store.owner_left(owner) == len(keys)
        self.go(keys)

    # What holds at all times

    @invariant()
    def values_are_the_dictionarys(self):
        known = {key: self.store.describe(entry.uid, key) for key, entry in self.entries.items()}
        facts = {
            key: Plain(e.value, e.revision, e.time_us, e.uid, e.expires_us, e.until_leaves)
            for key, e in known.items()
            if e is not None
        }
        assert facts == self.entries
        assert self.store.count == len(self.entries)

    @invariant()
    def each_uid_reads_what_is_open_to_it(self):
        for uid in (0, 1, 2):
            open_keys = [key for key in self.entries if not closed_to(uid, key)]
            assert self.store.list_keys(uid) == sorted(open_keys)
            values = {key: self.entries[key].value for key in open_keys}
            assert self.store.get_many(uid, open_keys) == values
            assert {key: self.store.get(uid, key) for key in open_keys} == values

    @invariant()
    def charges_are_those_of_the_entries(self):
        for uid in (0, 1, 2):
            mine = of_uid(self.entries, uid)
            assert self.store.usage(uid) == Usage(size_of(mine), len(mine))
        assert self.store.total_bytes == size_of(self.entries)
        assert set(self.store._usage) == {entry.uid for entry in self.entries.values()}

    @invariant()
    def each_change_is_told_once_with_the_next_revision(self):
        assert self.heard == self.changes
        assert self.store.revision == len(self.changes)

    @invariant()
    def history_is_the_latest_changes_within_its_bounds(self):
        kept = self.store.changes_after(self.store._history.oldest - 1)
        assert kept == self.changes[len(self.changes) - len(kept) :]
        assert self.cost(kept) == self.store._history._bytes
        assert len(kept) <= LIMITS.history_changes
        assert self.cost(kept) <= LIMITS.history_bytes
        if len(kept) < len(self.changes):
            one_more = self.changes[-len(kept) - 1 :]
            too_many = len(one_more) > LIMITS.history_changes
            assert too_many or self.cost(one_more) > LIMITS.history_bytes

    @staticmethod
    def cost(changes):
        overhead = CHANGE_OVERHEAD_BYTES * len(changes)
        keys = sum(len((change.key or "").encode()) for change in changes)
        return overhead + keys + sum(len(change.value or b"") for change in changes)

    @invariant()
    def replaying_every_change_gives_the_values(self):
        values = {}
        for change in self.heard:
            if change.key is None:
                values.clear()
            elif change.value is None:
                del values[change.key]
            else:
                values[change.key] = change.value
        assert values == {key: entry.value for key, entry in self.entries.items()}

    @invariant()
    def leases_are_those_of_the_entries(self):
        owners = {entry.owner for entry in self.entries.values()} - {None}
        assert set(filter(self.store.has_leases, [":1.1", ":1.2"])) == owners

    @invariant()
    def the_next_deadline_is_the_earliest(self):
        ends = [e.expires_us for e in self.entries.values() if e.expires_us is not None]
        assert self.store.next_expiry_us() == min(ends, default=None)


StoreAgainstDictionary.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None
)
test_the_store_behaves_as_a_dictionary = StoreAgainstDictionary.TestCase


# What listeners do, and who walks


@pytest.mark.parametrize("broken", ["on_entry", "on_change"])
@pytest.mark.parametrize("what", ["set", "replace", "delete", "clear"])
def test_a_listener_that_raises_leaves_a_store_in_order(store, broken, what):
    heard = []

    def fail(*_):
        raise OSError("a listener's own trouble")

    if what != "set":
        store.set(ME, "k", b"old")
    store.on_change += [fail] if broken == "on_change" else []
    store.on_change.append(heard.append)
    store.on_entry = fail if broken == "on_entry" else lambda *told: heard.append(told)
    before = store.revision
    make = {"delete": lambda: store.delete(ME, "k"), "clear": store.clear}
    with pytest.raises(OSError, match="own trouble"):
        make.get(what, lambda: store.set(ME, "k", b"new"))()
    is_there = what in ("set", "replace")
    assert store.lookup(ME, "k") == ((True, b"new", before + 1) if is_there else (False, b"", 0))
    assert store.usage(ME) == (Usage(4, 1) if is_there else Usage())
    (change,) = store.changes_after(before)
    assert change in heard
    assert len(heard) == (2 if broken == "on_change" else 1)


def test_a_walk_survives_whatever_happens_meanwhile(store):
    keys = {f"k{number}" for number in range(2000)}
    for key in keys:
        store.set(ME, key, b"v")
    gone, came, seen = set(), set(), []
    for number, some in enumerate(store.walk()):
        seen += some
        for other in sorted(keys - gone)[:10]:
            store.delete(ME, other)
            gone.add(other)
        for new in range(30):
            came.add(f"new-{number}-{new}")
            store.set(ME, f"new-{number}-{new}", b"v")
    assert keys - gone <= set(seen) <= keys | came
    assert len(seen) == len(set(seen))
    assert {key for key, _ in store.entries()} == keys - gone | came
    assert store.count == len(keys - gone | came)


def test_a_step_of_a_walk_is_short(store):
    """A list of all would take 25 ms for a million keys."""
    for number in range(6400):
        store.set(ME, f"k{number}", b"v")
    steps = [len(some) for some in store.walk()]
    assert sum(steps) == 6400
    assert max(steps) < 300

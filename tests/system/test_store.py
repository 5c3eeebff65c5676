"""org.mapipc.Store as its callers meet it: three uids on a real bus with a real polkit."""

from __future__ import annotations

import itertools
import json
import pathlib
import time
from collections.abc import Iterator

import pytest
from support.machine import Client, Daemon, Machine, Variant
from support.places import (
    FROM_NOW,
    MIB,
    SOON,
    STORE,
    Lines,
    check_unharmed,
    descriptors,
    eventually,
    get_key,
    refused,
    set_key,
    store,
)
from support.raw import Crowd

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture(scope="module")
def daemon(machine: Machine) -> Daemon:
    return machine.start_daemon()


@pytest.fixture(scope="module")
def alice(machine: Machine, daemon: Daemon) -> Client:
    return machine.client("alice")


@pytest.fixture(scope="module")
def bob(machine: Machine, daemon: Daemon) -> Client:
    return machine.client("bob")


@pytest.fixture(scope="module")
def root(machine: Machine, daemon: Daemon) -> Client:
    return machine.client("root")


_names = itertools.count(1)


@pytest.fixture
def key(machine: Machine, daemon: Daemon) -> Iterator[str]:
    """A key that no other test uses."""
    yield f"test-{next(_names)}"
    check_unharmed(machine, daemon)


# --- Values ---------------------------------------------------------------------------------------


def test_set_and_get(key: str, alice: Client, bob: Client, root: Client) -> None:
    assert get_key(alice, key) == ""
    first = set_key(alice, key, "one")
    assert first > 0
    assert get_key(bob, key) == get_key(root, key) == "one"
    second = set_key(bob, key, "zwei äöü 🚌")
    assert second == first + 1
    assert get_key(alice, key) == "zwei äöü 🚌"
    assert set_key(root, key, "zwei äöü 🚌") == second, "an equal value is no change"
    assert alice.get(*STORE, "Revision") == second


def test_an_empty_value_clears(key: str, alice: Client) -> None:
    assert set_key(alice, key, "") == 0
    revision = set_key(alice, key, "x")
    assert set_key(alice, key, "") == revision + 1
    assert store(alice, "Lookup", "s", key) == [False, "", 0]


def test_lookup_tells_absent_from_set(key: str, alice: Client, bob: Client) -> None:
    assert store(bob, "Lookup", "s", key) == [False, "", 0]
    revision = set_key(alice, key, "x")
    assert store(bob, "Lookup", "s", key) == [True, "x", revision]


def test_describe(machine: Machine, key: str, alice: Client, bob: Client) -> None:
    assert store(alice, "Describe", "s", key) == {}
    before = time.time_ns() // 1000
    revision = set_key(bob, key, "äx")
    facts = store(alice, "Describe", "s", key)
    assert facts["revision"] == Variant("t", revision)
    assert facts["uid"] == Variant("u", machine.uid("bob"))
    assert facts["size"] == Variant("t", 3)
    assert facts["time_unix_us"].signature == "t"
    assert before <= facts["time_unix_us"].value <= time.time_ns() // 1000
    assert set(facts) == {"revision", "uid", "size", "time_unix_us"}


def test_delete(key: str, alice: Client, bob: Client) -> None:
    set_key(alice, key, "x")
    assert store(bob, "Delete", "s", key) is True
    assert store(bob, "Delete", "s", key) is False


def test_list_and_get_many(key: str, alice: Client) -> None:
    for name in ("b", "a", "c"):
        set_key(alice, f"{key}/{name}", name)
    assert store(alice, "List", "s", f"{key}/") == [f"{key}/a", f"{key}/b", f"{key}/c"]
    assert f"{key}/a" in store(alice, "List", "s", "")
    assert store(alice, "GetMany", "as", [f"{key}/a", f"{key}/none", f"{key}/a"]) == {
        f"{key}/a": "a"
    }
    assert store(alice, "GetMany", "as", []) == {}


def test_set_many_is_all_or_nothing(key: str, alice: Client) -> None:
    first = set_key(alice, f"{key}/b", "old")
    with Lines.watch(alice, key) as lines:
        with refused("LimitsExceeded", "MaxValueBytes"):
            store(alice, "SetMany", "a{ss}", {f"{key}/a": "1", f"{key}/b": "x" * (MIB + 1)})
        assert store(alice, "List", "s", key) == [f"{key}/b"]
        assert get_key(alice, f"{key}/b") == "old"
        with refused("InvalidArgs"):
            store(alice, "SetMany", "a{ss}", {f"{key}/a": "1", "": "x"})
        with refused("AccessDenied"):
            store(alice, "SetMany", "a{ss}", {f"{key}/a": "1", "~0/x": "x"})
        assert alice.get(*STORE, "Revision") == first
        last = store(alice, "SetMany", "a{ss}", {f"{key}/a": "1", f"{key}/b": "2", f"{key}/c": ""})
        assert last == first + 2
        assert store(alice, "SetMany", "a{ss}", {f"{key}/a": "1"}) == 0
        assert store(alice, "SetMany", "a{ss}", {}) == 0
        assert lines.next() == {"revision": first + 1, "key": f"{key}/a", "value": "1"}
        assert lines.next() == {"revision": first + 2, "key": f"{key}/b", "value": "2"}


def test_compare_and_set(key: str, alice: Client, bob: Client) -> None:
    assert store(alice, "CompareAndSet", "sts", key, 7, "x") == [False, 0]
    changed, first = store(alice, "CompareAndSet", "sts", key, 0, "x")
    assert changed
    assert store(bob, "CompareAndSet", "sts", key, 0, "y") == [False, first]
    assert store(bob, "CompareAndSet", "sts", key, first, "y") == [True, first + 1]
    assert store(alice, "CompareAndSet", "sts", key, first + 1, "") == [True, 0]
    assert store(alice, "Lookup", "s", key) == [False, "", 0]


def test_compare_and_set_races_lose_no_increment(
    key: str, machine: Machine, daemon: Daemon
) -> None:
    """Two clients count to 100 together, each with ten calls under way at once."""
    with Crowd(machine, "alice", 10) as some, Crowd(machine, "bob", 10) as others:
        wins = 0
        while wins < 100:
            everybody = [*some, *others]
            reads = [one.call(*STORE, "Lookup", "s", key) for one in everybody]
            seen = [one.answer(serial).body for one, serial in zip(everybody, reads, strict=True)]
            writes = [
                one.call(*STORE, "CompareAndSet", "sts", key, revision, str(int(value or 0) + 1))
                for one, (_, value, revision) in zip(everybody, seen, strict=True)
            ]
            ends = [one.answer(serial).body for one, serial in zip(everybody, writes, strict=True)]
            round_wins = sum(changed for changed, _ in ends)
            assert round_wins == 1, "all saw the same revision, so one of them wins"
            wins += round_wins
        assert some[0].ask(*STORE, "Get", "s", key) == "100"


def test_calls_of_one_sender_take_effect_in_order(key: str, machine: Machine) -> None:
    with Crowd(machine, "alice", 1) as (one,):
        serials = []
        for number in range(100):
            if number % 10 == 3:
                options = {"until_i_leave": Variant("b", True)}
                serials.append(one.call(*STORE, "SetWith", "ssa{sv}", key, str(number), options))
            else:
                serials.append(one.call(*STORE, "Set", "ss", key, str(number)))
        revisions = [one.answer(serial).value for serial in serials]
        assert revisions == list(range(revisions[0], revisions[0] + 100))
        assert one.ask(*STORE, "Get", "s", key) == "99"


# --- Private keys ---------------------------------------------------------------------------------


@pytest.mark.attack(19)
def test_private_keys(machine: Machine, alice: Client, bob: Client, root: Client) -> None:
    mine = f"~{machine.uid('alice')}/diary"
    set_key(alice, mine, "dear diary")
    assert get_key(alice, mine) == "dear diary"
    for stranger in (bob, root):
        for member, signature, *more in (
            ("Get", "s"),
            ("Lookup", "s"),
            ("Describe", "s"),
            ("Set", "ss", "x"),
            ("Set", "ss", ""),
            ("SetWith", "ssa{sv}", "x", {}),
            ("CompareAndSet", "sts", 0, "x"),
            ("Delete", "s"),
        ):
            with refused("AccessDenied", str(machine.uid("alice"))):
                store(stranger, member, signature, mine, *more)
        with refused("AccessDenied"):
            store(stranger, "GetMany", "as", ["x", mine])
        assert mine not in store(stranger, "List", "s", "")
        assert store(stranger, "List", "s", mine) == []
    assert mine in store(alice, "List", "s", "~")
    assert get_key(alice, mine) == "dear diary"


def test_private_changes_are_for_their_uid_only(
    key: str, machine: Machine, alice: Client, bob: Client
) -> None:
    mine = f"~{machine.uid('alice')}/{key}"
    bob.add_match("type='signal',interface='org.mapipc.Store'")
    with Lines.watch(bob, "") as his, Lines.watch(alice, "") as hers:
        revision = set_key(alice, mine, "secret")
        set_key(alice, key, "public")
        assert hers.next() == {"revision": revision, "key": mine, "value": "secret"}
        line = his.next()
        assert line is not None
        assert line["key"] == key
    heard = bob.wait_signal("Changed")
    while heard.body[0] != key:
        assert not heard.body[0].startswith("~")
        heard = bob.wait_signal("Changed")


# --- Keys that go by themselves -------------------------------------------------------------------


def test_ttl(key: str, alice: Client) -> None:
    with Lines.watch(alice, key) as lines:
        options = {"ttl_ms": Variant("t", 30)}
        revision = store(alice, "SetWith", "ssa{sv}", key, "x", options)
        assert lines.next() == {"revision": revision, "key": key, "value": "x"}
        assert lines.next() == {"revision": revision + 1, "key": key}
        assert get_key(alice, key) == ""


def test_a_later_set_takes_the_ttl_away(key: str, alice: Client) -> None:
    with Lines.watch(alice, key) as lines:
        options = {"ttl_ms": Variant("t", 3_600_000)}
        store(alice, "SetWith", "ssa{sv}", key, "x", options)
        facts = store(alice, "Describe", "s", key)
        assert facts["expires_unix_us"].value > time.time_ns() // 1000
        set_key(alice, key, "x")
        assert "expires_unix_us" not in store(alice, "Describe", "s", key)
        # One that is due earlier than all others is not held up by them.
        store(alice, "SetWith", "ssa{sv}", key, "y", {"ttl_ms": Variant("t", 1)})
        assert [line and line.get("value") for line in (lines.next() for _ in range(3))] == [
            "x",
            "y",
            None,
        ]


@pytest.mark.attack(25)
@pytest.mark.parametrize(
    "options",
    [
        {"ttl_ms": Variant("t", 0)},
        {"ttl_ms": Variant("t", 2**64 - 1)},
        {"ttl_ms": Variant("u", 5)},
        {"ttl_ms": Variant("s", "5")},
        {"until_i_leave": Variant("u", 1)},
        {"until_you_leave": Variant("b", True)},
        {"": Variant("av", [])},
    ],
    ids=str,
)
def test_wrong_options_set_nothing(key: str, alice: Client, options: dict[str, Variant]) -> None:
    with refused("InvalidArgs"):
        store(alice, "SetWith", "ssa{sv}", key, "x", options)
    assert get_key(alice, key) == ""


def test_a_killed_callers_keys_go_and_watchers_are_told(
    key: str, machine: Machine, alice: Client, bob: Client
) -> None:
    victim = machine.client("alice")
    options = {"until_i_leave": Variant("b", True)}
    for name in ("a", "b"):
        store(victim, "SetWith", "ssa{sv}", f"{key}/{name}", "x", options)
    assert store(bob, "Describe", "s", f"{key}/a")["until_leaves"] == Variant("s", victim.name)
    set_key(victim, f"{key}/stays", "x")
    with Lines.watch(bob, key) as lines:
        victim.kill()
        for name in ("a", "b"):
            line = lines.next()
            assert line is not None
            assert (line["key"], "value" in line) == (f"{key}/{name}", False)
    assert store(bob, "List", "s", key) == [f"{key}/stays"]


def test_a_key_that_somebody_else_set_since_stays(
    key: str, machine: Machine, alice: Client, bob: Client
) -> None:
    victim = machine.client("alice")
    options = {"until_i_leave": Variant("b", True)}
    store(victim, "SetWith", "ssa{sv}", f"{key}/a", "x", options)
    store(victim, "SetWith", "ssa{sv}", f"{key}/b", "x", options)
    set_key(bob, f"{key}/a", "x")
    with Lines.watch(bob, key) as lines:
        victim.kill()
        line = lines.next()
        assert line is not None
        assert line["key"] == f"{key}/b"
    assert store(bob, "List", "s", key) == [f"{key}/a"]


# --- Clear and marks ------------------------------------------------------------------------------


def test_clear_is_one_change(key: str, alice: Client, root: Client) -> None:
    set_key(alice, f"{key}/a", "x")
    revision = set_key(alice, f"{key}/b", "x")
    alice.add_match("type='signal',interface='org.mapipc.Store'")
    with Lines.watch(alice, "no such prefix") as lines:
        assert store(root, "Clear") == revision + 1
        assert lines.next() == {"revision": revision + 1, "kind": "clear"}
    assert (alice.get(*STORE, "Count"), alice.get(*STORE, "Bytes")) == (0, 0)
    assert store(root, "Clear") == revision + 1, "nothing to clear is no change"
    heard = alice.wait_signal("Changed")
    while heard.body != ["", revision + 1]:
        heard = alice.wait_signal("Changed")


def test_marks(daemon: Daemon, alice: Client, bob: Client) -> None:
    assert store(alice, "Mark", "s", "here we are") == "here we are"
    assert bob.get(*STORE, "LastMark") == "here we are"
    assert store(bob, "Mark", "s", "") == "-- MARK --"
    assert bob.get(*STORE, "LastMark") == "-- MARK --"
    daemon.says("here we are")
    with refused("LimitsExceeded"):
        store(bob, "Mark", "s", "x" * 1025)


# --- Hints ----------------------------------------------------------------------------------------


def test_hints_are_coalesced_and_bounded(key: str, machine: Machine, alice: Client) -> None:
    listener = machine.client("bob")
    listener.add_match("type='signal',interface='org.mapipc.Store',member='Changed'")
    started = time.monotonic()
    with Crowd(machine, "alice", 1) as (one,):
        calls = (
            (*STORE, "Set", "ss", f"{key}/{number % 50}", str(number)) for number in range(2000)
        )
        last = [answer.value for answer in one.in_turn(calls)][-1]
    set_key(alice, f"{key}/end", "x")
    heard = []
    while not heard or heard[-1].body[0] != f"{key}/end":
        heard.append(listener.wait_signal("Changed"))
    seconds = time.monotonic() - started
    ours = [signal for signal in heard if signal.body[0].startswith(f"{key}/")]
    assert len(heard) <= 200 * seconds + 2
    # Each key's latest change was told of, however many came before.
    latest = {signal.body[0]: signal.body[1] for signal in ours}
    assert {latest[f"{key}/{number}"] for number in range(50)} == set(range(last - 49, last + 1))
    listener.close()


# --- Watch ----------------------------------------------------------------------------------------


def test_a_watch_has_no_gap_and_no_repeat(key: str, machine: Machine, bob: Client) -> None:
    """Watches that begin in the middle of what two users write at the same time."""
    count = 400
    with Crowd(machine, "alice", 2) as some, Crowd(machine, "bob", 2) as others:
        writers = [*some, *others]
        start = bob.get(*STORE, "Revision")
        watches: list[tuple[int, Lines]] = []
        for number in range(count):
            serials = [
                (one, one.call(*STORE, "Set", "ss", f"{key}/{which}", str(number)))
                for which, one in enumerate(writers)
            ]
            if number % 100 == 50:
                revision = bob.get(*STORE, "Revision")
                watches.append((start, Lines.watch(bob, key, start)))
                watches.append((revision, Lines.watch(bob, key, revision)))
            for one, serial in serials:
                one.answer(serial)
    end = start + count * len(writers)
    for revision, lines in watches:
        with lines:
            found = [lines.next() for _ in range(end - revision)]
            assert [line and line["revision"] for line in found] == list(
                range(revision + 1, end + 1)
            )
            assert lines.is_silent()
            for which in range(4):
                values = [
                    int(line["value"]) for line in found if line and line["key"] == f"{key}/{which}"
                ]
                assert values == list(range(count - len(values), count))


def test_a_watch_sees_what_is_under_its_prefix(key: str, alice: Client) -> None:
    with Lines.watch(alice, f"{key}/in") as lines:
        set_key(alice, f"{key}/out", "x")
        revision = set_key(alice, f"{key}/inside", 'a "quoted" ä\u2028\n\x7f')
        assert lines.next() == {
            "revision": revision,
            "key": f"{key}/inside",
            "value": 'a "quoted" ä\u2028\n\x7f',
        }
        assert lines.is_silent()


def test_a_revision_that_never_was(alice: Client) -> None:
    revision = alice.get(*STORE, "Revision")
    with refused("org.mapipc.Error.RevisionGone"):
        store(alice, "Watch", "st", "", revision + 1)
    with refused("org.mapipc.Error.RevisionGone"):
        store(alice, "Watch", "st", "", FROM_NOW - 1)


def test_a_watch_ends_when_its_caller_leaves(key: str, machine: Machine, daemon: Daemon) -> None:
    pipes = lambda: [one for one in descriptors(daemon) if one.startswith("pipe:")]  # noqa: E731
    before = len(pipes())
    watcher = machine.client("bob")
    lines = Lines.watch(watcher, key)
    eventually(lambda: len(pipes()) == before + 1)  # the reader's end is not kept here
    set_key(watcher, key, "x")
    watcher.kill()
    with lines:
        assert [line["key"] for line in lines.rest()] == [key]
    assert len(pipes()) == before


def test_a_watch_ends_when_its_reader_is_closed(
    key: str, daemon: Daemon, alice: Client, root: Client
) -> None:
    pipes = lambda: [one for one in descriptors(daemon) if one.startswith("pipe:")]  # noqa: E731
    before = len(pipes())
    Lines.watch(alice, key).close()
    eventually(lambda: len(pipes()) == before)
    assert root.call("/org/buswork", "org.buswork.Daemon", "ListClients").value == []


def test_no_watch_for_a_prefix_that_no_key_can_have(daemon: Daemon, alice: Client) -> None:
    """What is held is kept and logged in words, so those must be short."""
    size = len(daemon.log())
    with refused("LimitsExceeded", "MaxKeyBytes"):
        store(alice, "Watch", "st", "x" * MIB, FROM_NOW)
    assert len(daemon.log()) - size < 4096


# --- Limits ---------------------------------------------------------------------------------------

LIMITS = {
    "MaxKeyBytes": 1024,
    "MaxValueBytes": MIB,
    "MaxBytesPerUid": 16 * MIB,
    "MaxKeysPerUid": 10_000,
    "MaxBytes": 256 * MIB,
    "MaxHistoryChanges": 65_536,
    "MaxHistoryBytes": 16 * MIB,
}


def test_limits_can_be_read(alice: Client) -> None:
    assert {name: alice.get(*STORE, name) for name in LIMITS} == LIMITS
    for name in LIMITS:
        with refused("PropertyReadOnly"):
            alice.call(
                STORE[0],
                "org.freedesktop.DBus.Properties",
                "Set",
                "ssv",
                STORE[1],
                name,
                Variant("t", 1),
            )


@pytest.mark.attack(30)
def test_keys_and_values_have_a_size(key: str, alice: Client) -> None:
    longest = "k" * 1024
    set_key(alice, longest, "x")
    store(alice, "Delete", "s", longest)
    for too_long in ("k" * 1025, "ä" * 513):
        with refused("LimitsExceeded", "1024 are allowed (MaxKeyBytes)"):
            set_key(alice, too_long, "x")
    with refused("InvalidArgs"):
        set_key(alice, "", "x")
    set_key(alice, key, "v" * MIB)
    assert len(get_key(alice, key)) == MIB
    with refused("LimitsExceeded", f"{MIB + 1} bytes", f"{MIB} are allowed (MaxValueBytes)"):
        set_key(alice, key, "v" * (MIB + 1))
    assert len(get_key(alice, key)) == MIB
    store(alice, "Delete", "s", key)


@pytest.fixture
def fresh() -> Iterator[tuple[Machine, Daemon]]:
    """A machine whose store a test may fill."""
    with Machine() as machine:
        yield machine, machine.start_daemon()


@pytest.mark.attack(30)
def test_attack_30_one_uid_fills_the_store(fresh: tuple[Machine, Daemon]) -> None:
    machine, daemon = fresh
    alice, bob = machine.client("alice"), machine.client("bob")
    store(alice, "SetMany", "a{ss}", {f"k{number}": "x" for number in range(10_000)})
    for more in ({"one": "x"}, {"one": "x", "k1": ""} | {"two": "x"}):
        with refused("LimitsExceeded", "10000 are allowed (MaxKeysPerUid)", "Uid"):
            store(alice, "SetMany", "a{ss}", more)
    with refused("LimitsExceeded", "MaxKeysPerUid"):
        set_key(alice, "one", "x")
    with refused("LimitsExceeded", "MaxKeysPerUid"):
        store(alice, "CompareAndSet", "sts", "one", 0, "x")
    with refused("LimitsExceeded", "MaxKeysPerUid"):
        store(alice, "SetWith", "ssa{sv}", "one", "x", {"until_i_leave": Variant("b", True)})
    set_key(bob, "one", "others are not in the way")
    assert store(alice, "Delete", "s", "k1")
    set_key(alice, "two", "x")
    # Whoever writes last is charged.
    set_key(bob, "k2", "y")
    set_key(alice, "three", "x")

    fill = {f"big{number}": "x" * MIB for number in range(15)}
    for name, value in fill.items():
        set_key(bob, name, value)
    with refused("LimitsExceeded", f"{16 * MIB} are allowed (MaxBytesPerUid)"):
        set_key(bob, "big15", "x" * MIB)
    assert get_key(bob, "big15") == ""
    assert get_key(alice, "one") == "others are not in the way"
    check_unharmed(machine, daemon, alice, bob)


@pytest.mark.attack(45)
def test_replies_over_16_mib(fresh: tuple[Machine, Daemon]) -> None:
    machine, daemon = fresh
    alice, bob = machine.client("alice"), machine.client("bob")
    names = [f"big{number}" for number in range(17)]
    for number, name in enumerate(names):
        set_key(alice if number < 9 else bob, name, "x" * (MIB - 20))
    with refused("LimitsExceeded", "ask for less"):
        store(alice, "GetMany", "as", names)
    assert len(store(alice, "GetMany", "as", names[:15])) == 15
    with refused("org.mapipc.Error.RevisionGone"):
        store(alice, "Watch", "st", "", 0)
    check_unharmed(machine, daemon, alice, bob)


@pytest.mark.attack(32)
def test_a_reader_that_falls_behind_is_cut_off(fresh: tuple[Machine, Daemon]) -> None:
    """Attack 32: by bytes and by changes; whoever reads gets everything meanwhile."""
    machine, daemon = fresh
    alice, bob = machine.client("alice"), machine.client("bob")
    slow = Lines.watch(bob, "")
    before = pathlib.Path(f"/proc/{daemon.pid}/statm").read_text()
    with Lines.watch(bob, "") as quick:
        for number in range(40):
            revision = set_key(alice, "big", str(number % 10) * (MIB // 2))
            line = quick.next()
            assert line is not None
            assert line["revision"] == revision
    with slow:
        found = slow.rest()
    *changes, cut = found
    assert cut == {"cut": {"revision": changes[-1]["revision"]}}, before
    assert [line["revision"] for line in changes] == list(range(1, len(changes) + 1))
    assert len(changes) < 40

    # 65,536 small changes push the oldest out as well.
    slow = Lines.watch(bob, "")
    start = alice.get(*STORE, "Revision")
    many = [{f"k{number}": str(turn) for number in range(5000)} for turn in range(2)]
    for turn in range(15):
        store(alice, "SetMany", "a{ss}", many[turn % 2])
    with slow:
        found = slow.rest()
    *changes, cut = found
    assert cut == {"cut": {"revision": changes[-1]["revision"]}}
    assert [line["revision"] for line in changes] == list(
        range(start + 1, start + 1 + len(changes))
    )
    with refused("org.mapipc.Error.RevisionGone"):
        store(bob, "Watch", "st", "", start)
    oldest = alice.get(*STORE, "Revision") - LIMITS["MaxHistoryChanges"]
    with Lines.watch(bob, "", oldest) as lines:
        line = lines.next()
        assert line is not None
        assert line["revision"] == oldest + 1
    check_unharmed(machine, daemon, alice, bob)


def test_a_cut_reader_that_never_reads_is_let_go(fresh: tuple[Machine, Daemon]) -> None:
    """It has five seconds to read what it still has to; then its place is free."""
    machine, daemon = fresh
    alice, bob, root = (machine.client(user) for user in ("alice", "bob", "root"))
    with Lines.watch(bob, ""):
        for number in range(40):
            set_key(alice, "big", str(number % 10) * (MIB // 2))
        clients = ("/org/buswork", "org.buswork.Daemon", "ListClients")
        assert len(root.call(*clients).value) == 1
        eventually(lambda: root.call(*clients).value == [], timeout=5 + SOON)
    check_unharmed(machine, daemon, alice)


def test_the_end_of_the_daemon_ends_watches(fresh: tuple[Machine, Daemon]) -> None:
    """Attack 36: a watcher can tell, by the end and by the epoch; nothing is left of before."""
    machine, daemon = fresh
    alice = machine.client("alice")
    epoch = alice.get("/org/buswork", "org.buswork.Daemon", "Epoch")
    assert len(epoch) == 32
    set_key(alice, "x", "y")
    with Lines.watch(alice, "") as lines:
        daemon.kill()
        assert lines.rest() == []
    machine.wait_owner("org.buswork", owned=False)
    machine.start_daemon()
    assert alice.get("/org/buswork", "org.buswork.Daemon", "Epoch") != epoch
    assert get_key(alice, "x") == ""
    assert alice.get(*STORE, "Revision") == 0


def test_json_lines_are_what_the_contract_says(key: str, alice: Client) -> None:
    with Lines.watch(alice, key) as lines:
        revision = set_key(alice, key, "v")
        line = lines.next()
        assert json.dumps(line) == f'{{"revision": {revision}, "key": "{key}", "value": "v"}}'


def test_a_caller_that_cannot_take_descriptors(machine: Machine, daemon: Daemon) -> None:
    """The bus drops the reply to its Watch; nothing is left when it goes."""
    pipes = lambda: [one for one in descriptors(daemon) if one.startswith("pipe:")]  # noqa: E731
    before = pipes()
    with Crowd(machine, "alice", 1, fds=False) as (one,):
        one.call(*STORE, "Watch", "st", "", FROM_NOW)
        assert one.ask(*STORE, "Get", "s", "no such key") == ""
    check_unharmed(machine, daemon)
    eventually(lambda: pipes() == before)

"""Floods: one uid asks for more than it may have. It gets a named error; others see nothing."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest
from support import toywing
from support.machine import OPEN_POLICY, CallError, Client, Daemon, Machine, Variant
from support.places import (
    DAEMON,
    DBUS_ERROR,
    FROM_NOW,
    MIB,
    OBJECT_MANAGER,
    PEER,
    SOON,
    STORE,
    check_unharmed,
    descriptors,
    eventually,
    get_key,
    refused,
    resident_bytes,
    set_key,
    store,
)
from support.raw import NO_REPLY, Crowd, Heard, Raw

pytestmark = pytest.mark.system

TOYS = (toywing.PATH, toywing.INTERFACE)
LIMITS_EXCEEDED = DBUS_ERROR + "LimitsExceeded"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        machine.add_policy(OPEN_POLICY)
        yield machine


@pytest.fixture(scope="module")
def daemon(machine: Machine) -> Daemon:
    return machine.start_daemon(command=toywing.COMMAND)


@pytest.fixture(scope="module")
def bob(machine: Machine, daemon: Daemon) -> Client:
    return machine.client("bob")


@pytest.fixture(autouse=True)
def _unharmed(machine: Machine, daemon: Daemon, bob: Client) -> Iterator[None]:
    """Whatever alice does: bob is served after it, and nothing is left of it."""
    set_key(bob, "bob's", "key")
    yield
    check_unharmed(machine, daemon, bob)
    assert get_key(bob, "bob's") == "key"


@pytest.mark.attack(29)
def test_attack_29_65_watches(machine: Machine, daemon: Daemon, bob: Client) -> None:
    before = descriptors(daemon)
    alice = machine.client("alice")
    pipes = [store(alice, "Watch", "st", "x", FROM_NOW) for _ in range(64)]
    with refused("LimitsExceeded", "64 watches"):
        store(alice, "Watch", "st", "x", FROM_NOW)
    again = machine.client("alice")
    with refused("LimitsExceeded", "64 watches"):
        store(again, "Watch", "st", "x", FROM_NOW)
    os.close(store(bob, "Watch", "st", "x", FROM_NOW))
    os.close(pipes.pop())
    pipes.append(eventually(lambda: _watch_or_none(alice)))
    again.close()
    alice.kill()
    for pipe in pipes:
        assert select.select([pipe], [], [], SOON)[0], "it has not ended"
        assert os.read(pipe, 1) == b""
        os.close(pipe)
    eventually(lambda: len(descriptors(daemon)) == len(before))


def _watch_or_none(alice: Client) -> int | None:
    try:
        return int(store(alice, "Watch", "st", "x", FROM_NOW))
    except CallError:
        return None


def test_65_calls_in_flight(machine: Machine, bob: Client) -> None:
    """They count for the uid, over all its connections; one answered at once never counts."""
    with Crowd(machine, "alice", 3) as crowd:
        waits = [
            (one, one.call(*TOYS, "Wait", "s", "gate"))
            for one, count in zip(crowd, (32, 32, 0), strict=True)
            for _ in range(count)
        ]
        for one in crowd:  # in its sender's order: when this is answered, those wait
            assert one.ask(*TOYS, "Open", "s", "no gate") == 0
        for one in crowd:
            answer = one.answer(one.call(*TOYS, "Wait", "s", "gate"))
            assert answer.error == LIMITS_EXCEEDED
            assert "64 calls" in answer.text
            assert one.ask(*STORE, "Set", "ss", "x", "y") > 0
        his = bob.begin(*TOYS, "Wait", "s", "his gate")
        assert eventually(lambda: bob.call(*TOYS, "Open", "s", "his gate").value) == 1
        assert bob.end(his).value == "his gate"
        assert bob.call(*TOYS, "Open", "s", "gate").value == 64
        assert {one.answer(serial).value for one, serial in waits} == {"gate"}
        assert crowd[0].ask(*TOYS, "Open", "s", "gate") == 0


DAEMON_VERSION = (
    DAEMON[0],
    "org.freedesktop.DBus.Properties",
    "Get",
    "ss",
    DAEMON[1],
    "ApiVersion",
)


def test_calls_whose_callers_are_gone_count_no_longer_once_they_end(
    machine: Machine, bob: Client
) -> None:
    with Crowd(machine, "alice", 64) as crowd:
        for one in crowd:
            one.call(*TOYS, "Wait", "s", "left")
            assert one.ask(*TOYS, "Open", "s", "no gate") == 0
    assert bob.call(*TOYS, "Open", "s", "left").value == 64
    with Crowd(machine, "alice", 1) as (one,):
        serial = one.call(*TOYS, "Wait", "s", "gate")
        assert eventually(lambda: bob.call(*TOYS, "Open", "s", "gate").value) == 1
        assert one.answer(serial).value == "gate"


@pytest.mark.attack(29)
def test_attack_29_257_objects(machine: Machine, bob: Client) -> None:
    alice = machine.client("alice")
    with Crowd(machine, "alice", 1) as (one,):
        made = [one.ask(*TOYS, "Make", "s", f"toy {number}") for number in range(256)]
        with refused("LimitsExceeded", "256 objects"):
            one.ask(*TOYS, "Make", "s", "one more")
        with refused("LimitsExceeded", "256 objects"):
            alice.call(*TOYS, "Make", "s", "one more")
        his = bob.call(*TOYS, "Make", "s", "his").value
        assert len(bob.call(TOYS[0], OBJECT_MANAGER, "GetManagedObjects").value) == 257
        one.ask(made[0], toywing.THING, "Drop")
        one.ask(*TOYS, "Make", "s", "another")
    eventually(lambda: len(bob.call(TOYS[0], OBJECT_MANAGER, "GetManagedObjects").value) == 1)
    assert alice.call(*TOYS, "Make", "s", "room again").value
    bob.call(his, toywing.THING, "Drop")
    alice.close()


@pytest.mark.attack(31)
def test_attack_31_descriptors_that_nobody_asked_for(machine: Machine, daemon: Daemon) -> None:
    """Sixteen with each of 10,000 calls that take none: refused, closed, and none leaks."""
    before = descriptors(daemon)
    with Crowd(machine, "alice", 1) as (one,), open("/dev/null") as null:
        fds = [null.fileno()] * 16
        serials: list[int] = []
        refusals = 0
        for number in range(10_000):
            if number % 100 == 99:
                serials.append(one.call(*STORE, "Get", "s", "x", fds=fds))
            else:
                one.call(*STORE, "Get", "s", "x", fds=fds, flags=NO_REPLY)
            if len(serials) == 20:
                answers = [one.answer(serial) for serial in serials]
                assert {answer.error for answer in answers} == {DBUS_ERROR + "InvalidArgs"}
                refusals += len(answers)
                serials.clear()
                assert len(descriptors(daemon)) < len(before) + 1000
        assert refusals == 100
        assert one.ask(*STORE, "Get", "s", "x") is not None
        for member, signature, *values in (
            ("NoSuchMember", ""),
            ("Get", "t", 1),
            ("Set", "ss", "x", "y"),
            ("SetWith", "ssa{sv}", "x", "y", {"fd": Variant("h", 0)}),
        ):
            with pytest.raises(CallError):
                one.ask(*STORE, member, signature, *values, fds=fds)
        with pytest.raises(CallError):
            one.ask("/", PEER, "Ping", fds=fds)
    eventually(lambda: len(descriptors(daemon)) == len(before))


@pytest.mark.attack(31)
def test_attack_31_descriptors_in_and_out(machine: Machine, daemon: Daemon) -> None:
    """Those that a method takes are closed after it, whether it used them or not."""
    before = descriptors(daemon)
    file = os.memfd_create("test")
    os.write(file, b"hello")
    with Crowd(machine, "alice", 1) as (one,):
        for _ in range(100):
            assert one.ask(*TOYS, "Take", "ah", [1, 0], fds=[file] * 16) == ["hello", "hello"]
            with refused("InvalidArgs", "descriptor"):
                one.ask(*TOYS, "Take", "ah", [16], fds=[file] * 16)
            one.ask(*TOYS, "Give", "s", "text")
            one.call(*TOYS, "Give", "s", "text", flags=NO_REPLY)
        serial = one.call(*TOYS, "TakeAndWait", "hs", 0, "gate", fds=[file] * 3)
        assert one.ask(*TOYS, "Open", "s", "no gate") == 0
        assert len(descriptors(daemon)) == len(before) + 3
        one.ask(*TOYS, "Open", "s", "gate")
        assert one.answer(serial).value == "hello"
        one.ask("/", PEER, "Ping")
    os.close(file)
    assert len(descriptors(daemon)) == len(before)


def test_attack_32_a_caller_that_reads_no_answers(
    machine: Machine, daemon: Daemon, bob: Client
) -> None:
    """A hundred answers of a MiB each: the bus holds what it holds, we do not grow for ever."""
    set_key(bob, "big", "x" * MIB)
    with Crowd(machine, "alice", 1) as (one,):
        one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        serials = [one.call(*STORE, "Get", "s", "big") for _ in range(100)]
        for _ in range(20):
            assert get_key(bob, "bob's") == "key"
        assert resident_bytes(daemon, "VmHWM") < 400 * MIB
        assert len(one.answer(serials[0]).value) == MIB
    set_key(bob, "big", "")


@pytest.mark.attack(32)
def test_attack_32_several_callers_that_read_no_answers(machine: Machine, bob: Client) -> None:
    """dbus-daemon reads no more from a sender of whom 127 MiB wait to be delivered
    (max_incoming_bytes), so two callers who do not read could silence us for everybody."""
    set_key(bob, "big", "x" * MIB)
    with Crowd(machine, "alice", 4) as crowd:
        for one in crowd:
            one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(100):
            for one in crowd:
                one.call(*STORE, "Get", "s", "big")
        for _ in range(200):
            assert get_key(bob, "bob's") == "key"
    set_key(bob, "big", "")


def test_attack_32_a_listener_that_reads_no_signals(machine: Machine, bob: Client) -> None:
    with Crowd(machine, "alice", 1) as (deaf,):
        rule = "type='signal',interface='org.mapipc.Store'"
        _ = deaf.answer(deaf.call_bus("AddMatch", "s", rule)).value
        for number in range(500):
            set_key(bob, "told", str(number))
        assert get_key(bob, "told") == "499"


def test_a_flood_without_wanting_answers(machine: Machine, bob: Client) -> None:
    with Crowd(machine, "alice", 4) as crowd:
        for _ in range(1000):
            for one in crowd:
                one.call(*STORE, "Set", "ss", "flood", "x", flags=NO_REPLY)
        for _ in range(10):
            assert get_key(bob, "bob's") == "key"
        for one in crowd:
            assert one.ask(*STORE, "Get", "s", "flood") == "x"


def lease_a_key_each(connections: list[Raw]) -> list[Heard]:
    """Sets a key that goes with its connection, for each; 50 under way, for 64 may be."""
    options = {"until_i_leave": Variant("b", True)}
    answers = []
    for start in range(0, len(connections), 50):
        wave = connections[start : start + 50]
        serials = [
            one.call(*STORE, "SetWith", "ssa{sv}", f"leased/{start + number}", "x", options)
            for number, one in enumerate(wave)
        ]
        answers += [one.answer(serial) for one, serial in zip(wave, serials, strict=True)]
    return answers


@pytest.mark.attack(33)
def test_attack_33_match_rules_go_with_what_they_are_for(machine: Machine, bob: Client) -> None:
    """The bus lets us have 512; a thousand callers who held something come and go."""
    for _ in range(16):
        with Crowd(machine, "alice", 64) as crowd:
            assert {answer.error for answer in lease_a_key_each(crowd.all)} == {""}
        eventually(lambda: store(bob, "List", "s", "leased/") == [])
    set_key(bob, "x", "y")


def test_attack_33_many_callers_leave_match_rules_for_others(
    machine: Machine, daemon: Daemon, bob: Client
) -> None:
    """Users with all the connections that they may have: each gets its part of the 512 rules, and
    whoever comes new, and has to be watched while polkit is asked, is served."""
    with (
        Crowd(machine, "alice", 250) as some,
        Crowd(machine, "root", 250) as others,
        Crowd(machine, "nobody", 60) as more,
    ):
        answers = lease_a_key_each([*some, *others, *more])
        refusals = [answer for answer in answers if answer.error]
        assert len(answers) - len(refusals) == 64 + 64 + 60
        assert {answer.error for answer in refusals} == {LIMITS_EXCEEDED}
        assert all("64 leases" in answer.text for answer in refusals)
        held = store(bob, "List", "s", "leased/")
        assert len(held) == len(answers) - len(refusals)
        newcomer = machine.client("bob")
        assert get_key(newcomer, "bob's") == "key"
        newcomer.close()
    eventually(lambda: store(bob, "List", "s", "leased/") == [])


def test_a_uid_is_not_forgotten_while_its_question_is_open() -> None:
    """Uids are remembered for so many callers only; no call may fall through for that."""
    with Machine() as machine:
        machine.add_policy(OPEN_POLICY)
        env = {"TOY_MAX_KNOWN": "4"}
        daemon = machine.start_daemon(command=toywing.COMMAND, env=env)
        machine.freeze_polkit()
        with Crowd(machine, "alice", 1) as (one,), Crowd(machine, "root", 20) as crowd:
            serial = one.call(*STORE, "Set", "ss", "x", "not lost")
            for other in crowd:  # each is asked about at the bus, and remembered
                assert other.ask(*DAEMON_VERSION).value == 1
            machine.thaw_polkit()
            assert one.answer(serial).value == 1
            assert crowd[0].ask(*STORE, "Get", "s", "x") == "not lost"
        check_unharmed(machine, daemon)

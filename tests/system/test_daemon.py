"""The daemon's life as systemd and the bus see it: start, name, signals, log, end."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import toywing
from support.agent import Agent
from support.machine import (
    BUS_NAME,
    OPEN_POLICY,
    CallError,
    Client,
    Daemon,
    Machine,
    MachineError,
    Variant,
)
from support.places import (
    CLEAR,
    DAEMON,
    INTROSPECTABLE,
    LOG_CONTROL,
    PEER,
    PROPERTIES,
    SOON,
    STORE,
    check_unharmed,
    eventually,
    get_key,
    refused,
    set_key,
    store,
)
from support.raw import Crowd

from buswork import __version__
from buswork.daemon import WINGS
from buswork.host import NOT_PASSED

pytestmark = pytest.mark.system

TOYS = (toywing.PATH, toywing.INTERFACE)
ANOTHER = [sys.executable, "-m", "buswork.daemon", "--bus", "system"]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


def start_toys(machine: Machine, **env: str) -> Daemon:
    machine.add_policy(OPEN_POLICY)
    return machine.start_daemon(command=toywing.COMMAND, env=env)


# --- Start ----------------------------------------------------------------------------------------


def test_the_greeting_and_what_systemd_is_told(machine: Machine) -> None:
    daemon = machine.start_daemon(env={"WATCHDOG_USEC": "100000"})
    daemon.says(f"hello, world: busworkd {__version__} serves store")
    notes = daemon.notifications
    # No unit passes it sockets here, and it says so.
    serving = f"STATUS=serving {', '.join(WINGS)}; store running: {NOT_PASSED} 'store'; "
    assert any(line.startswith(serving) for line in notes.lines)
    eventually(lambda: notes.lines.count("WATCHDOG=1") >= 3)
    assert "STOPPING=1" not in notes.lines
    assert daemon.stop() == 0
    eventually(lambda: "STOPPING=1" in notes.lines)
    daemon.says("goodbye")
    assert machine.owner(BUS_NAME) == ""


def test_no_watchdog_if_it_is_meant_for_another_process(machine: Machine) -> None:
    daemon = machine.start_daemon(env={"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"})
    assert machine.client("alice").get(*DAEMON, "ApiVersion") == 1
    assert "WATCHDOG=1" not in daemon.notifications.lines


def test_the_name_is_ours_only_when_all_is_exported(machine: Machine) -> None:
    """Whoever sees the name arrive finds everything there."""
    with Crowd(machine, "alice", 1) as (one,):
        rule = f"type='signal',member='NameOwnerChanged',arg0='{BUS_NAME}'"
        _ = one.answer(one.call_bus("AddMatch", "s", rule)).value
        machine.start_daemon()
        one.signal("NameOwnerChanged")
        assert one.ask(*STORE, "Get", "s", "x") == ""
        wings = one.ask(DAEMON[0], PROPERTIES, "Get", "ss", DAEMON[1], "Wings").value
        assert {name: state for name, (state, _) in wings.items()} == dict.fromkeys(
            WINGS, "running"
        )


@pytest.mark.attack(17)
def test_attack_17_a_second_daemon_cannot_have_the_name(machine: Machine) -> None:
    first = machine.start_daemon()
    alice = machine.client("alice")
    owner = machine.owner(BUS_NAME)
    for user in ("buswork", "root"):
        second = machine.run(ANOTHER, user, check=False)
        assert second.returncode == 1
        assert "somebody else has the name org.buswork" in second.stderr
        assert "hello" not in second.stderr
        assert "Traceback" not in second.stderr
    denied = machine.run(ANOTHER, "alice", check=False)
    assert denied.returncode == 1
    assert "not allowed to own" in denied.stderr
    assert "Traceback" not in denied.stderr
    with pytest.raises(MachineError, match="somebody else has the name"):
        machine.start_daemon()
    for user, flags in (("root", 0x2), ("root", 0x3), ("buswork", 0x2)):
        with Crowd(machine, user, 1) as (thief,):
            taken = thief.answer(thief.call_bus("RequestName", "su", BUS_NAME, flags | 0x4)).value
            assert taken == 3
    assert machine.owner(BUS_NAME) == owner
    check_unharmed(machine, first, alice)


def test_nobody_waits_in_line_for_the_name(machine: Machine) -> None:
    """A daemon in the queue would seem to serve and get nothing."""
    with Crowd(machine, "root", 1) as (holder,):
        assert holder.answer(holder.call_bus("RequestName", "su", BUS_NAME, 0)).value == 1
        done = machine.run(ANOTHER, "buswork", check=False)
        assert done.returncode == 1
        queued = holder.answer(holder.call_bus("ListQueuedOwners", "s", BUS_NAME)).value
        assert queued == [holder.name]


def test_without_a_bus(machine: Machine) -> None:
    command = [*ANOTHER[:-1], "unix:path=/nonexistent/bus"]
    done = machine.run(command, "buswork", check=False)
    assert done.returncode == 1
    assert "no connection to the bus" in done.stderr
    assert "Traceback" not in done.stderr


# --- Signals --------------------------------------------------------------------------------------


def test_sighup_is_logged_and_nothing_else(machine: Machine) -> None:
    daemon = machine.start_daemon()
    alice = machine.client("alice")
    set_key(alice, "x", "1")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.says("SIGHUP")
    assert get_key(alice, "x") == "1"
    check_unharmed(machine, daemon, alice)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_drains(machine: Machine, number: signal.Signals) -> None:
    """Calls under way are answered, new ones are refused, nothing new begins."""
    daemon = start_toys(machine, TOY_DRAIN_SECONDS="0.5")
    alice, bob = machine.client("alice"), machine.client("bob")
    tickets = [alice.begin(*TOYS, "Wait", "s", "gate") for _ in range(10)]
    assert alice.get(*DAEMON, "ApiVersion") == 1
    with Crowd(machine, "alice", 1) as (one,):
        # Before the end begins: what opens the gate waits behind it, in its sender's order.
        first = one.call(*TOYS, "WaitInOrder", "s", "other")
        opener = one.call(*TOYS, "Open", "s", "gate")
        assert bob.get(*DAEMON, "ApiVersion") == 1
        daemon.process.send_signal(number)
        eventually(lambda: "STOPPING=1" in daemon.notifications.lines)
        with refused("Disconnected", "going down"):
            bob.call(*TOYS, "Open", "s", "gate")
        assert one.answer(first, timeout=20).error  # it was given up
        assert one.answer(opener, timeout=20).error
    for ticket in tickets:
        with pytest.raises(CallError):
            alice.end(ticket)
    assert daemon.process.wait(SOON) == 0


def test_calls_under_way_are_answered_at_the_end(machine: Machine) -> None:
    daemon = start_toys(machine)
    machine.add_rule(
        'polkit.addRule(function (a, s) { if (s.user == "bob") polkit.spawn(["sleep", "0.3"]); });'
    )
    bob = machine.client("bob")
    asked = bob.get(*DAEMON, "Statistics")["questions"]
    ticket = bob.begin(*STORE, "Set", "ss", "x", "last words")
    with Crowd(machine, "root", 1) as (root,):
        question = (DAEMON[0], PROPERTIES, "Get", "ss", DAEMON[1], "Statistics")
        eventually(lambda: root.ask(*question).value["questions"] > asked)
    daemon.process.terminate()
    assert bob.end(ticket).value == 1
    assert daemon.process.wait(SOON) == 0


def test_prompts_are_taken_back_at_the_end(machine: Machine) -> None:
    daemon = start_toys(machine, TOY_DRAIN_SECONDS="0.2")
    alice = machine.client("alice")
    with Agent(machine, alice.pid, answer="hang") as agent:
        ticket = alice.begin(*STORE, "Clear", flags=Client.INTERACTIVE)
        asked = agent.wait_asked()
        assert daemon.stop() == 0
        agent.wait_cancelled(asked.cookie)
        with pytest.raises(CallError):
            alice.end(ticket)
    assert "Traceback" not in daemon.log()


@pytest.mark.attack(36)
@pytest.mark.parametrize("bus", ["daemon", "broker"])
def test_attack_36_the_bus_is_killed(bus: str) -> None:
    """The process ends, and soon, for nothing it holds is worth anything now; even if calls
    are under way that would be waited for at an orderly end."""
    with Machine(bus=bus) as machine:  # type: ignore[arg-type]
        daemon = start_toys(machine)
        alice = machine.client("alice")
        set_key(alice, "x", "1")
        alice.begin(*TOYS, "Wait", "s", "for ever")
        assert alice.call("/", PEER, "Ping").value is None
        machine.kill_bus()
        # A second is what is promised; more would be the five seconds of an orderly end.
        assert daemon.process.wait(4) == 1
        assert "Traceback" not in daemon.says("the bus is gone")
        machine.start_bus()
        machine.start_polkit()
        again = machine.start_daemon()
        alice = machine.client("alice")
        assert get_key(alice, "x") == ""
        check_unharmed(machine, again, alice)


# --- The log --------------------------------------------------------------------------------------


def test_the_log_level_from_a_shell(machine: Machine) -> None:
    daemon = machine.start_daemon()
    alice = machine.client("alice")
    set_level = ["busctl", "set-property", BUS_NAME, *LOG_CONTROL, "LogLevel", "s"]
    machine.run([*set_level, "err"])
    assert alice.get(*LOG_CONTROL, "LogLevel") == "err"
    store(alice, "Mark", "s", "not to be seen")
    machine.run([*set_level, "info"])
    store(alice, "Mark", "s", "to be seen")
    assert "not to be seen" not in daemon.says('text="to be seen"')
    assert 'log level set" ' not in daemon.log()
    assert re.search(r"log level set path=\S+ level=info uid=0 client=:", daemon.log())
    denied = machine.run([*set_level, "debug"], "alice", check=False)
    assert denied.returncode != 0
    assert alice.get(*LOG_CONTROL, "LogLevel") == "info"
    assert alice.get(*LOG_CONTROL, "LogTarget") == "console"
    assert alice.get(*LOG_CONTROL, "SyslogIdentifier") == "busworkd"


EVIL = "x\n<0>root logged in\r\x1b[2J\x1b]0;pwned\x07\x9b31m\u202e\u2028\ud7ff\x7f\\n"


@pytest.mark.attack(20)
def test_attack_20_nothing_foreign_is_obeyed_by_who_reads_the_log(machine: Machine) -> None:
    daemon = start_toys(machine)
    alice, root = machine.client("alice"), machine.client("root")
    store(alice, "Mark", "s", EVIL)
    os.close(store(alice, "Watch", "st", EVIL, 0))
    set_key(alice, EVIL, EVIL)
    alice.call(*TOYS, "Make", "s", EVIL)
    with refused("InvalidArgs"):
        root.call(
            LOG_CONTROL[0], PROPERTIES, "Set", "ssv", LOG_CONTROL[1], "LogLevel", Variant("s", EVIL)
        )
    store(alice, "Mark", "s", "the end")
    daemon.says("the end")
    log = daemon.log_path.read_bytes().decode()
    assert "root logged in" in log
    for line in log.removesuffix("\n").split("\n"):
        assert line.isprintable(), line
        assert re.match(r"<[2-7]>", line), line
        assert not line.startswith("<0>")
    assert store(alice, "Get", "s", EVIL) == EVIL


@pytest.mark.attack(20)
def test_attack_20_a_value_cannot_pass_for_another_field(machine: Machine) -> None:
    daemon = machine.start_daemon()
    alice = machine.client("alice")
    for text in ('x" uid=0 client=":1.0', "x uid=0 client=:1.0", "x=y"):
        store(alice, "Mark", "s", text)
    marks = [line for line in daemon.says("x=y").splitlines() if "mark" in line]
    assert len(marks) == 3
    # Taken apart as a shell takes words, there is one uid, and it is hers.
    hers = f"uid={machine.uid('alice')}"
    for words in map(shlex.split, marks):
        assert [word for word in words if word.startswith("uid=")] == [hers]


def test_the_audit_trail(machine: Machine) -> None:
    daemon = machine.start_daemon()
    alice, root = machine.client("alice"), machine.client("root")
    uid = machine.uid("alice")
    os.close(store(alice, "Watch", "st", "audited", 0))
    store(alice, "SetWith", "ssa{sv}", "x", "1", {"until_i_leave": Variant("b", True)})
    (held,) = root.call(*DAEMON, "ListClients").value
    root.call(*DAEMON, "ForceRelease", "o", held["path"].value)
    with refused("InteractiveAuthorizationRequired"):
        store(alice, "Clear")
    store(root, "Clear")
    store(alice, "Mark", "s", "the end")
    log = daemon.says("the end")
    for pattern in (
        rf"<5>claimed path=\S+/watches/1 thing=.*audited.* uid={uid} client={alice.name}$",
        (
            rf"<5>taken away path={held['path'].value} thing=.* uid=0 client=:\S+ "
            rf"owner_uid={uid} owner={alice.name}$"
        ),
        rf"<5>denied action={CLEAR} uid={uid} client={alice.name} reason=\S+Required$",
        r"<5>cleared path=/org/mapipc/Store thing=.* uid=0 client=:",
        rf'<5>mark text="the end" uid={uid} client={alice.name}$',
    ):
        assert re.search(pattern, log, re.MULTILINE), (pattern, log)


@pytest.mark.attack(24)
def test_a_defect_is_told_to_the_log_and_not_to_the_caller(machine: Machine) -> None:
    """Attack 24: error texts carry nothing from within."""
    daemon = start_toys(machine)
    alice = machine.client("alice")
    with pytest.raises(CallError) as failed:
        alice.call(*TOYS, "Fail")
    assert failed.value.name == "org.freedesktop.DBus.Error.Failed"
    assert "secret" not in failed.value.text
    daemon.says("ZeroDivisionError: the toy broke")
    assert alice.get(*DAEMON, "ApiVersion") == 1
    assert daemon.process.poll() is None


# --- What it says of itself -----------------------------------------------------------------------


def test_facts(machine: Machine) -> None:
    machine.start_daemon()
    alice = machine.client("alice")
    facts = alice.call(DAEMON[0], PROPERTIES, "GetAll", "s", DAEMON[1]).value
    assert facts["Version"] == Variant("s", __version__)
    assert facts["MaxCallsPerUid"] == Variant("u", 64)
    assert facts["MaxObjectsPerUid"] == Variant("u", 256)
    assert facts["MaxWatchesPerUid"] == Variant("u", 64)
    assert facts["MaxDescriptorsPerUid"] == Variant("u", 128)
    assert re.fullmatch("[0-9a-f]{32}", facts["Epoch"].value)
    before = facts["Statistics"].value
    with pytest.raises(CallError):
        alice.call(*DAEMON, "NoSuchMember")
    after = alice.get(*DAEMON, "Statistics")
    assert after["calls"] == before["calls"] + 2
    assert after["errors"] == before["errors"] + 1
    assert after["bytes_in"] > before["bytes_in"]
    assert after["uptime_us"] > before["uptime_us"]
    assert after["resident_bytes"] > 1 << 20
    assert alice.call("/", PEER, "GetMachineId").value


def test_every_ancestor_can_be_looked_at(machine: Machine) -> None:
    machine.start_daemon()
    alice = machine.client("alice")
    for path, child in (
        ("/", "org"),
        ("/org", "mapipc"),
        ("/org", "buswork"),
        ("/org", "freedesktop"),
        ("/org/mapipc", "Store"),
    ):
        assert f'<node name="{child}"' in alice.call(path, INTROSPECTABLE, "Introspect").value


def test_wrong_arguments(machine: Machine) -> None:
    for arguments in (["--wings", "sails"], ["--limit", "calls=x"], ["--log-level", "loud"]):
        done = subprocess.run(
            machine.command([*ANOTHER, *arguments], "buswork"),
            env=machine.environment("buswork"),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert "usage: busworkd" in done.stderr

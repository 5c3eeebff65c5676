"""Attack 37: signals in the name of the bus, of polkit and of logind, from an ordinary user.

The shipped policy stops what is addressed to the daemon; here it is opened, so that the daemon's
own defence is what holds. Broadcasts come past the policy anyway.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.machine import BUS_NAME, OPEN_POLICY, POLKIT_NAME, Daemon, Machine, Variant, why_not
from support.places import DAEMON, STORE, Lines, check_unharmed, get_key, set_key, store
from support.raw import Crowd

pytestmark = [pytest.mark.system, pytest.mark.attack(37)]

DRIVER = "org.freedesktop.DBus"
LOGIND = "org.freedesktop.login1"
# Lets alice send to anybody, and root have the name of logind.
LOOSE = f"""\
<busconfig>
  <policy context="mandatory">
    <allow send_destination="{BUS_NAME}"/>
    <allow send_type="signal"/>
  </policy>
  <policy user="root"><allow own="{LOGIND}"/></policy>
</busconfig>
"""


@pytest.fixture(scope="module", params=["daemon", "broker"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if reason := why_not(bus=request.param):
        pytest.skip(reason)
    with Machine(bus=request.param) as machine:
        machine.add_policy(OPEN_POLICY)
        machine.add_policy(LOOSE)
        yield machine


@pytest.fixture
def daemon(machine: Machine) -> Iterator[Daemon]:
    daemon = machine.start_daemon()
    yield daemon
    assert daemon.stop() == 0
    machine.wait_owner(BUS_NAME, owned=False)


def forge(machine: Machine, path: str, interface: str, member: str, *body: object) -> None:
    """Sends it to the daemon by both its names and to everybody; returns when it has arrived."""
    signature = {"NameLost": "s", "NameOwnerChanged": "sss", "PrepareForSleep": "b"}.get(member, "")
    with Crowd(machine, "alice", 1) as (forger,):
        for destination in (machine.owner(BUS_NAME), BUS_NAME, None):
            forger.emit(path, interface, member, signature, *body, destination=destination)
        # One sender's messages keep their order: once this is answered, those are dealt with.
        assert forger.ask("/", f"{DRIVER}.Peer", "Ping") is None


def test_name_lost(machine: Machine, daemon: Daemon) -> None:
    bob = machine.client("bob")
    forge(machine, "/org/freedesktop/DBus", DRIVER, "NameLost", BUS_NAME)
    assert bob.get(*DAEMON, "ApiVersion") == 1
    assert "lost" not in daemon.log()
    check_unharmed(machine, daemon, bob)
    bob.close()


def test_name_owner_changed_of_a_client(machine: Machine, daemon: Daemon) -> None:
    """It would take away what bob holds."""
    bob = machine.client("bob")
    store(bob, "SetWith", "ssa{sv}", "leased", "x", {"until_i_leave": Variant("b", True)})
    with Lines.watch(bob, "") as lines:
        forge(machine, "/org/freedesktop/DBus", DRIVER, "NameOwnerChanged", bob.name, bob.name, "")
        assert get_key(bob, "leased") == "x"
        revision = set_key(bob, "still", "watching")
        line = lines.next()
        assert line is not None
        assert line["revision"] == revision
    bob.close()


@pytest.mark.parametrize("new", ["", ":1.99999"])
def test_name_owner_changed_of_polkit(machine: Machine, daemon: Daemon, new: str) -> None:
    """It would have us forget decisions, or believe the signals of somebody else."""
    bob = machine.client("bob")
    set_key(bob, "x", "1")
    before = bob.get(*DAEMON, "Statistics")["questions"]
    owner = machine.owner(POLKIT_NAME)
    forge(machine, "/org/freedesktop/DBus", DRIVER, "NameOwnerChanged", POLKIT_NAME, owner, new)
    path = "/org/freedesktop/PolicyKit1/Authority"
    forge(machine, path, f"{POLKIT_NAME}.Authority", "Changed")
    set_key(bob, "x", "2")
    assert bob.get(*DAEMON, "Statistics")["questions"] == before
    bob.close()


def test_prepare_for_sleep(machine: Machine, daemon: Daemon) -> None:
    path = "/org/freedesktop/login1"
    forge(machine, path, f"{LOGIND}.Manager", "PrepareForSleep", True)
    assert "sleep" not in daemon.log()
    with Crowd(machine, "root", 1) as (logind,):
        assert logind.answer(logind.call_bus("RequestName", "su", LOGIND, 4)).value == 1
        forge(machine, path, f"{LOGIND}.Manager", "PrepareForSleep", True)
        assert "sleep" not in daemon.log()
        # The true one is heard.
        for sleeping in (True, False):
            logind.emit(path, f"{LOGIND}.Manager", "PrepareForSleep", "b", sleeping)
        logind.emit(path, f"{LOGIND}.Manager", "PrepareForSleep", "s", "nonsense")
        assert logind.ask("/", f"{DRIVER}.Peer", "Ping") is None
        daemon.says("the machine goes to sleep")
        daemon.says("the machine woke up")
    bob = machine.client("bob")
    check_unharmed(machine, daemon, bob)
    bob.close()


def test_changed_of_the_store(machine: Machine, daemon: Daemon) -> None:
    """Our own signal, forged at us: nothing happens. Clients tell by the sender."""
    with Crowd(machine, "alice", 1) as (forger,), Crowd(machine, "bob", 1) as (bob,):
        rule = f"type='signal',sender='{BUS_NAME}',interface='{STORE[1]}'"
        _ = bob.answer(bob.call_bus("AddMatch", "s", rule)).value
        forger.emit(*STORE, "Changed", "st", "forged", 1)
        forger.emit(*STORE, "Changed", "st", "forged", 1, destination=machine.owner(BUS_NAME))
        assert forger.ask("/", f"{DRIVER}.Peer", "Ping") is None
        _ = bob.ask(*STORE, "Set", "ss", "true", "x")
        assert bob.signal("Changed").body[0] == "true"
    check_unharmed(machine, daemon)

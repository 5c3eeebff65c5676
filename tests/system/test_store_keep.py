"""What the service manager keeps of the store: through a crash, not through SIGTERM."""

import os

import pytest
from support.machine import Machine, Variant
from support.places import eventually, store

pytestmark = pytest.mark.system


@pytest.fixture
def machine():
    with Machine() as machine:
        yield machine


def test_values_survive_kill_9(machine: Machine) -> None:
    daemon = machine.start_daemon()
    alice = machine.client("alice")
    store(alice, "Set", "ss", "key", "value")
    store(alice, "Set", "ss", f"~{machine.uid('alice')}/own", "secret")
    leaving = machine.client("bob")
    options = {"until_i_leave": Variant("b", True)}
    store(leaving, "SetWith", "ssa{sv}", "leased", "value", options)
    daemon.kill()
    machine.wait_owner("org.buswork", owned=False)
    machine.start_daemon(fds=daemon.notifications.stored)
    again = machine.client("alice")
    assert store(again, "Get", "s", "key") == "value"
    assert store(again, "Get", "s", f"~{machine.uid('alice')}/own") == "secret"
    assert store(again, "Get", "s", "leased") == ""
    facts = store(again, "Describe", "s", "key")
    assert facts["uid"].value == machine.uid("alice")


def test_values_survive_the_bus(machine: Machine) -> None:
    daemon = machine.start_daemon()
    store(machine.client("alice"), "Set", "ss", "key", "value")
    machine.kill_bus()
    assert daemon.process.wait(10) == 1
    machine.start_bus()
    machine.start_polkit()
    machine.start_daemon(fds=daemon.notifications.stored)
    assert store(machine.client("alice"), "Get", "s", "key") == "value"


def test_sigterm_drops_the_values(machine: Machine) -> None:
    daemon = machine.start_daemon()
    store(machine.client("alice"), "Set", "ss", "key", "value")
    assert daemon.stop() == 0
    eventually(lambda: daemon.notifications.stored == [])


def test_the_log_does_not_grow_with_every_change(machine: Machine) -> None:
    """A key that is set for ever costs a bounded log."""
    daemon = machine.start_daemon()
    alice = machine.client("alice")
    value = "x" * 200_000
    for number in range(100):
        store(alice, "Set", "ss", "key", f"{value}{number}")
    eventually(lambda: len(daemon.notifications.stored) == 1)
    ((_, fd),) = daemon.notifications.stored
    assert os.fstat(fd).st_size < 3_000_000

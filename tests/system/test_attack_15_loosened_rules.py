"""Attack 15: an administrator may loosen every rule, and then polkit protects nothing.

What is left is what no rule can open: limits, what is somebody's own, and what would do harm to a
board or to a service.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.machine import SERVICE_USER, Client, Daemon, Machine, Variant
from support.places import MIB, check_unharmed, eventually, get_key, refused, set_key, store

pytestmark = [pytest.mark.system, pytest.mark.attack(15)]

ALL = 'polkit.addRule(function (action, subject) { return "yes"; });'
BOARD = ("/org/flipper/devices/bench", "org.flipper.Device")
HUB = ("/org/libipc", "org.libipc.Hub")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(rules=[ALL]) as machine:
        yield machine


@pytest.fixture(scope="module")
def run(machine: Machine) -> Path:
    folder = machine.tmp / "run"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture(scope="module")
def daemon(machine: Machine, run: Path) -> Daemon:
    return machine.start_daemon("--simulate", "--ipc-rundir", f"c={run}")


@pytest.fixture
def bob(machine: Machine, daemon: Daemon) -> Iterator[Client]:
    client = machine.client("bob")
    yield client
    check_unharmed(machine, daemon, client)
    client.close()


def ask(client: Client, member: str, signature: str, *values: Any) -> Any:
    return client.call(*BOARD, member, signature, *values)


def test_what_is_private_stays_so(machine: Machine, alice: Client, bob: Client) -> None:
    diary = f"~{machine.uid('bob')}/diary"
    set_key(bob, diary, "dear diary")
    store(alice, "Clear")  # as polkit lets her
    set_key(bob, diary, "dear diary")
    with refused("AccessDenied", str(machine.uid("bob"))):
        get_key(alice, diary)
    assert store(alice, "List", "s", "~") == []


def test_limits_stay(alice: Client, bob: Client) -> None:
    with refused("LimitsExceeded", "MaxValueBytes"):
        set_key(alice, "key", "x" * (MIB + 1))


def test_what_a_board_does_not_survive_is_not_sent(alice: Client, bob: Client) -> None:
    eventually(lambda: alice.get(*BOARD, "Name") == "bench")
    with refused("InvalidArgs", "r"):
        ask(alice, "Invoke", "ssav", "led", "rgb", [Variant("u", 256)] * 3)
    with refused("InvalidArgs"):
        ask(alice, "Load", "ay", b"\xff" * 4096)


def test_a_claim_is_its_owners(alice: Client, bob: Client) -> None:
    token = ask(bob, "Claim", "su", "mine", 60).value
    for member, signature, *values in (("Release", "s", token), ("Renew", "s", token)):
        with refused("org.flipper.Error.NotOwner"):
            ask(alice, member, signature, *values)
    ask(bob, "Release", "s", token)


def test_the_daemons_own_socket_stays_closed(
    machine: Machine, alice: Client, bob: Client, run: Path
) -> None:
    """Only the daemon could connect to it, and it does so for nobody else."""
    place = run / "closed"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place))
        sock.listen()
        os.chown(place, machine.uid(SERVICE_USER), -1)
        place.chmod(0o600)
        with refused("org.libipc.Error.NotAllowed", "closed"):
            alice.call(*HUB, "Connect", "sa{sv}", "closed", {})

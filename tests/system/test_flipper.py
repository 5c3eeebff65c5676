"""Flipper boards as their callers meet them: several uids on a real bus with a real polkit."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.machine import BUS_NAME, Client, Daemon, Machine, Variant
from support.places import (
    DAEMON,
    OBJECT_MANAGER,
    PROPERTIES,
    check_unharmed,
    deny,
    eventually,
    refused,
)

from buswork.flipper.wire.exchanges import AnswerReader, Exchange, outgoing
from buswork.flipper.wire.modules import TABLES
from buswork.flipper.wire.plans import standard
from buswork.flipper.wire.terms import Framing, Generation, Processor

pytestmark = pytest.mark.system

PROJECT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "polkit" / "examples" / "50-buswork-flipper.rules"
ROOT, HUB, DEVICE = "/org/flipper", "org.flipper.Hub", "org.flipper.Device"
FIRST, BENCH = f"{ROOT}/devices/carbon_2d1_2d3", f"{ROOT}/devices/bench"
SIMULATOR = ("/org/buswork/simulator/boards", "org.buswork.Simulator.Boards")
ERROR = "org.flipper.Error."
OBSERVE, USE = "org.flipper.device.observe", "org.flipper.device.use"
SECONDS = 10.0
# What is held high at the pins of both boards' main processors.
PINS = {FIRST: ("1-3", 1 << 5), BENCH: ("1-4", 1 << 6)}
MASK = 0x60
GPIO = Exchange(standard(*TABLES[Generation.G1, Processor.S4].find("gpio", "read"), MASK))

# A proxy, as programs on the desktop have it; prints what the pins were each time.
PROXY = """
import asyncio, json, sys
from dbus_next import BusType, Variant
from dbus_next.aio import MessageBus

async def main():
    path, times = sys.argv[1], int(sys.argv[2])
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    node = await bus.introspect("org.buswork", path)
    board = bus.get_proxy_object("org.buswork", path, node).get_interface("org.flipper.Device")
    await board.call_invoke("led", "rgb", [Variant("y", number) for number in (1, 2, 3)])
    found = [
        (await board.call_invoke("gpio", "read", [Variant("u", 0x60)])).value for _ in range(times)
    ]
    print(json.dumps([await board.get_name(), found]))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """Alice and Bob are in the group of the example; Carol is not, and nobody sits here."""
    users, groups = ("alice", "bob", "carol"), {"flipper": ["alice", "bob"]}
    with Machine(users=users, groups=groups, rules=[EXAMPLE.read_text()]) as machine:
        yield machine


@pytest.fixture(scope="module")
def daemon(machine: Machine) -> Daemon:
    (machine.tmp / "sockets").mkdir()
    (machine.tmp / "sockets").chmod(0o777)
    return machine.start_daemon("--simulate", "--socket-dir", str(machine.tmp / "sockets"))


@pytest.fixture(autouse=True)
def root(machine: Machine, daemon: Daemon) -> Iterator[Client]:
    client = machine.client("root")
    for path, (port, pins) in PINS.items():
        simulator(client, "SetInputs", "su", port, pins)
        eventually(lambda path=path: path in objects(client))
    yield client
    eventually(lambda: not client.call(*DAEMON, "ListClients").value)
    client.close()
    check_unharmed(machine, daemon)


@pytest.fixture
def alice(machine: Machine, root: Client) -> Iterator[Client]:
    client = machine.client("alice")
    yield client
    client.close()


@pytest.fixture
def bob(machine: Machine, root: Client) -> Iterator[Client]:
    client = machine.client("bob")
    yield client
    client.close()


@pytest.fixture
def carol(machine: Machine, root: Client) -> Iterator[Client]:
    client = machine.client("carol")
    yield client
    client.close()


def device(client: Client, path: str, member: str, signature: str = "", *values: Any) -> Any:
    reply = client.call(path, DEVICE, member, signature, *values)
    return reply.value if reply.body else None


def pins(client: Client, path: str) -> int:
    mask = [Variant("u", MASK)]
    return int(device(client, path, "Invoke", "ssav", "gpio", "read", mask).value)


def simulator(client: Client, member: str, signature: str, *values: Any) -> None:
    client.call(*SIMULATOR, member, signature, *values)


def objects(client: Client) -> dict[str, Any]:
    found = client.call(ROOT, OBJECT_MANAGER, "GetManagedObjects").value
    assert isinstance(found, dict)
    return found


# --- Who may do what ------------------------------------------------------------------------------


def test_who_is_in_the_group_may_use_boards_and_others_may_look(
    alice: Client, carol: Client
) -> None:
    assert pins(alice, BENCH) == 1 << 6
    assert carol.get(BENCH, DEVICE, "Name") == "bench"
    assert carol.get(ROOT, HUB, "Current") == BENCH
    for member, signature, values in (
        ("Invoke", "ssav", ["gpio", "read", [Variant("u", 1)]]),
        ("Push", "ssay", ["usart", "push", b"x"]),
        ("Claim", "su", ["mine", 5]),
        ("Subscribe", "su", ["button", 100]),
        ("OpenChannel", "", []),
    ):
        with refused("InteractiveAuthorizationRequired", USE):
            device(carol, BENCH, member, signature, *values)


@pytest.mark.attack(25)
def test_what_asks_for_more(alice: Client, root: Client) -> None:
    for member, signature, values, action in (
        ("Reset", "", [], "reset"),
        ("Load", "ay", [b""], "load"),
        ("Bind", "say", ["mine", b""], "load"),
    ):
        with refused("InteractiveAuthorizationRequired", f"org.flipper.device.{action}"):
            device(alice, BENCH, member, signature, *values)
    with refused("InteractiveAuthorizationRequired", "org.flipper.device.attach"):
        alice.call(ROOT, HUB, "Attach", "s", "localhost")
    with refused(f"{ERROR}NoDoors"):
        root.call(ROOT, HUB, "Attach", "s", "localhost")
    device(root, BENCH, "Reset")


def test_a_rule_may_hide_boards(machine: Machine, alice: Client) -> None:
    rule = machine.add_rule(deny(OBSERVE))
    with refused("AccessDenied", OBSERVE):
        alice.get(BENCH, DEVICE, "Name")
    assert objects(alice)[BENCH][DEVICE] == {}
    machine.remove_rule(rule)
    assert objects(alice)[BENCH][DEVICE]["Name"].value == "bench"


# --- Several programs at once ---------------------------------------------------------------------


def test_a_proxy_and_busctl_use_one_board_at_once(machine: Machine, root: Client) -> None:
    pytest.importorskip("dbus_next")
    command = [sys.executable, "-c", PROXY, BENCH, "100"]
    proxy = machine.popen(command, "alice", stdout=-1, text=True)
    call = ["busctl", "--json=short", "call", BUS_NAME, BENCH, DEVICE, "Invoke", "ssav"]
    for _ in range(5):
        words = [*call, "gpio", "read", "1", "u", str(MASK)]
        found = json.loads(machine.run(words, "bob").stdout)
        assert found == {"type": "v", "data": [{"type": "u", "data": 1 << 6}]}
    assert json.loads(proxy.communicate(timeout=60)[0]) == ["bench", 100 * [1 << 6]]


def test_boards_do_not_wait_for_each_other(alice: Client, bob: Client) -> None:
    long = alice.begin(FIRST, DEVICE, "Push", "ssay", "usart", "push", bytes(100_000))
    assert pins(bob, BENCH) == 1 << 6
    assert pins(bob, FIRST) == 1 << 5  # nor does a call for a transfer
    assert not alice.answered(long)


def test_who_dies_amid_a_push_leaves_nothing(machine: Machine, root: Client, bob: Client) -> None:
    for path, mine in PINS.items():
        victim = machine.client("alice")
        victim.begin(path, DEVICE, "Push", "ssay", "usart", "push", bytes(1 << 20))
        (held,) = eventually(lambda: root.call(*DAEMON, "ListClients").value)
        assert held["what"].value.startswith("a push to ")
        assert held["client"].value == victim.name
        victim.kill()
        assert pins(bob, path) == mine[1]
        eventually(lambda path=path: bob.get(path, DEVICE, "Holders") == [])


def test_who_dies_amid_anything(machine: Machine, bob: Client) -> None:
    for calls in range(6):
        victim = machine.client("alice")
        for _ in range(calls):
            victim.begin(BENCH, DEVICE, "Invoke", "ssav", "gpio", "read", [Variant("u", 1)])
        victim.begin(BENCH, DEVICE, "Claim", "su", "gone", 60)
        victim.begin(BENCH, DEVICE, "Subscribe", "su", "button", 10)
        victim.begin(BENCH, DEVICE, "OpenChannel")
        victim.kill()
    eventually(lambda: bob.get(BENCH, DEVICE, "Holders") == [])
    assert pins(bob, BENCH) == 1 << 6


# --- Claims ---------------------------------------------------------------------------------------


def test_a_claim(root: Client, alice: Client, bob: Client) -> None:
    token = device(alice, BENCH, "Claim", "su", "flashing", 60)
    with refused(f"{ERROR}Claimed", "flashing"):
        pins(bob, BENCH)
    assert bob.get(BENCH, DEVICE, "ClaimReason") == "flashing"
    for other in (bob, root):
        with refused(f"{ERROR}NotOwner"):
            device(other, BENCH, "Release", "s", token)
    assert pins(alice, BENCH) == 1 << 6
    (held,) = root.call(*DAEMON, "ListClients").value
    with refused("InteractiveAuthorizationRequired"):
        bob.call(*DAEMON, "ForceRelease", "o", held["path"].value)
    root.call(*DAEMON, "ForceRelease", "o", held["path"].value)
    assert pins(bob, BENCH) == 1 << 6
    with refused(f"{ERROR}NotOwner"):
        device(alice, BENCH, "Release", "s", token)


def test_a_claim_outlives_the_cable_and_ends_with_its_owner(
    machine: Machine, root: Client, bob: Client
) -> None:
    owner = machine.client("alice")
    device(owner, BENCH, "Claim", "su", "mine", 60)
    before = bob.get(BENCH, DEVICE, "Incarnation")
    simulator(root, "Unplug", "s", "1-4")
    eventually(lambda: BENCH not in objects(bob))
    simulator(root, "Plug", "s", "1-4")
    eventually(lambda: BENCH in objects(bob))
    assert bob.get(BENCH, DEVICE, "Incarnation") == before + 1
    with refused(f"{ERROR}Claimed"):
        pins(bob, BENCH)
    pins(owner, BENCH)
    owner.kill()
    eventually(lambda: bob.get(BENCH, DEVICE, "ClaimReason") == "")
    pins(bob, BENCH)


def test_what_waits_when_the_board_goes_is_told_at_once(root: Client, alice: Client) -> None:
    waiting = alice.begin(BENCH, DEVICE, "Push", "ssay", "usart", "push", bytes(1 << 20))
    eventually(lambda: root.call(*DAEMON, "ListClients").value)
    simulator(root, "Unplug", "s", "1-4")
    with refused(f"{ERROR}Disconnected"):
        alice.end(waiting, SECONDS)
    simulator(root, "Plug", "s", "1-4")


# --- Events and descriptors -----------------------------------------------------------------------


def test_events_are_told_to_subscribers_alone(root: Client, alice: Client, bob: Client) -> None:
    bob.add_match(f"type='signal',interface='{DEVICE}'")
    bob.add_match(f"type='signal',interface='{PROPERTIES}',path='{BENCH}'")
    device(alice, BENCH, "Subscribe", "su", "button", 10)
    for pressed in (False, True):
        event = alice.wait_signal("Event")
        assert (event.path, event.body) == (BENCH, ["button", Variant("u", pressed)])
        simulator(root, "SetButton", "sb", "1-4", not pressed)
    told = bob.signals()
    assert {signal.member for signal in told} == {"PropertiesChanged"}
    assert all(signal.body[1] == {} for signal in told)
    device(alice, BENCH, "Unsubscribe", "s", "button")


def test_data_go_through_descriptors(
    machine: Machine, root: Client, alice: Client, tmp_path: pathlib.Path
) -> None:
    simulator(root, "SendSerial", "say", "1-4", b"from the outside")
    reader, writer = os.pipe()
    try:
        values = ("PullTo", "ssth", "usart", "pull", 16, 0)
        assert alice.call(BENCH, DEVICE, *values, fds=[writer]).value == 16
        assert os.read(reader, 100) == b"from the outside"
        os.write(writer, b"into it")
        os.close(writer)
        values = ("PushFrom", "ssh", "usart", "push", 0)
        assert alice.call(BENCH, DEVICE, *values, fds=[reader]).value == 7
    finally:
        os.close(reader)


def test_a_channel_speaks_fmr_with_its_board(alice: Client) -> None:
    with socket.socket(fileno=device(alice, FIRST, "OpenChannel")) as board:
        board.settimeout(SECONDS)
        for message in outgoing(GPIO, Framing.UDP):
            board.send(message)
        answer = AnswerReader(GPIO, Framing.UDP).feed(board.recv(65536))
        assert answer is not None
        assert answer.result == (1 << 5, 0)


# --- Nonsense -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "signature", "values"),
    [
        ("Invoke", "ssav", ["led", "rgb", [Variant("y", 1)] * 5]),
        ("Invoke", "ssav", ["led", "rgb", [Variant("t", 2**64 - 1)] * 3]),
        ("Invoke", "ssav", ["\x1b[31m" * 1000, "rgb", []]),
        ("Invoke", "ssav", ["led", "rgb", [Variant("av", [])] * 3]),
        ("Push", "ssay", ["led", "rgb", b"x"]),
        ("Pull", "ssu", ["usart", "pull", 2**32 - 1]),
        ("Claim", "su", ["", 5]),
        ("Claim", "su", ["mine", 3601]),
        ("Subscribe", "su", ["gpio:-1", 100]),
        ("InvokeUser", "uuav", [2**32 - 1, 2**32 - 1, []]),
    ],
)
def test_nonsense_never_reaches_the_board(
    alice: Client, member: str, signature: str, values: list[Any]
) -> None:
    with refused("InvalidArgs"):
        device(alice, BENCH, member, signature, *values)
    assert pins(alice, BENCH) == 1 << 6


def test_a_thousand_claims(alice: Client, bob: Client) -> None:
    device(alice, BENCH, "Claim", "su", "mine", 60)
    for _ in range(20):
        tickets = [bob.begin(BENCH, DEVICE, "Claim", "su", "his", 60) for _ in range(50)]
        for ticket in tickets:
            with refused(f"{ERROR}Claimed"):
                bob.end(ticket, SECONDS)
    assert [client for client, _, _ in bob.get(BENCH, DEVICE, "Holders")] == [alice.name]

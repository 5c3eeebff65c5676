"""The machine goes to sleep and wakes up, as logind says: what the daemon's devices do then, and
that everybody else is served meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.machine import Client, Daemon, Machine, Process, Variant, has_dbusmock
from support.places import (
    OBJECT_MANAGER,
    check_unharmed,
    eventually,
    get_key,
    refused,
    set_key,
)

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not has_dbusmock(), reason="not installed: python3-dbusmock"),
]

LOGIND, LOGIND_PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
MANAGER = f"{LOGIND}.Manager"
MOCK = (LOGIND_PATH, "org.freedesktop.DBus.Mock")
DRIVER = ("/org/fsct/Driver", "org.fsct.Driver")
DISPLAYS = ("/org/buswork/simulator", "org.buswork.Simulator")
BOARDS = ("/org/buswork/simulator/boards", "org.buswork.Simulator.Boards")
DEVICE = "org.flipper.Device"
BOARD, PORT = "/org/flipper/devices/bench", "1-4"
PLAYING = 1


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(policies=["org.freedesktop.login1.conf"]) as machine:
        yield machine


@pytest.fixture(scope="module")
def logind(machine: Machine) -> Process:
    return start_logind(machine)


@pytest.fixture(scope="module")
def daemon(machine: Machine, logind: Process) -> Daemon:
    (machine.tmp / "sockets").mkdir()
    (machine.tmp / "sockets").chmod(0o777)
    return machine.start_daemon("--simulate", "--socket-dir", str(machine.tmp / "sockets"))


@pytest.fixture
def root(machine: Machine, daemon: Daemon) -> Iterator[Client]:
    """With a song on the display, and a board that answers."""
    client = machine.client("root")
    player = client.call(*DRIVER, "RegisterPlayer", "s", "player").value
    texts = Variant("a{ss}", {"title": "Song"})
    state = {"status": Variant("u", PLAYING), "texts": texts}
    client.call(*DRIVER, "UpdatePlayerState", "ua{sv}", player, state)
    eventually(lambda: shows_the_song(client))
    eventually(lambda: BOARD in boards(client))
    yield client
    check_unharmed(machine, daemon, client)
    client.close()


def start_logind(machine: Machine) -> Process:
    command = ["/usr/bin/python3", "-m", "dbusmock", "--system", "-t", "logind"]
    process = machine.popen(command, stdout=-3, stderr=-3)
    machine.wait_owner(LOGIND)
    return process


def say(root: Client, *, sleeping: bool) -> None:
    known = {"PreparingForSleep": Variant("b", sleeping)}
    root.call(*MOCK, "UpdateProperties", "sa{sv}", MANAGER, known, destination=LOGIND)
    signal = ("PrepareForSleep", "b", [Variant("b", sleeping)])
    root.call(*MOCK, "EmitSignal", "sssav", MANAGER, *signal, destination=LOGIND)


def delays(root: Client) -> list[list[Any]]:
    """Who wants the machine to wait for him before it sleeps."""
    found = root.call(LOGIND_PATH, MANAGER, "ListInhibitors", destination=LOGIND).value
    return [who[:2] + who[3:4] for who in found]


OURS = [["sleep", "buswork", "delay"]]


def display(root: Client) -> list[str]:
    return list(root.call(*DISPLAYS, "GetDisplay", "s", "1-1").value)


def shows_the_song(root: Client) -> bool:
    return display(root)[:2] == ["▶ Playing", "Song"]


def boards(root: Client) -> dict[str, Any]:
    found = root.call("/org/flipper", OBJECT_MANAGER, "GetManagedObjects").value
    assert isinstance(found, dict)
    return found


def sleep(root: Client) -> None:
    """Returns when the machine may sleep, and the boards sleep too."""
    eventually(lambda: delays(root) == OURS)
    say(root, sleeping=True)
    eventually(lambda: delays(root) == [] and BOARD not in boards(root))


def test_devices_sleep_with_the_machine(machine: Machine, root: Client) -> None:
    before = root.get(BOARD, DEVICE, "Incarnation")
    token = root.call(BOARD, DEVICE, "Claim", "su", "mine", 600).value
    sleep(root)
    # Before, and not after: then nobody could tell a display anything.
    assert display(root) == ["(off)"]
    assert root.call(*DRIVER, "ListDevices").value == []
    # Who does not need a device is served.
    alice = machine.client("alice")
    set_key(alice, "key", "value")
    assert get_key(alice, "key") == "value"
    assert len(root.call(*DRIVER, "ListPlayers").value) == 1

    say(root, sleeping=False)
    eventually(lambda: shows_the_song(root))
    eventually(lambda: BOARD in boards(root))
    assert eventually(lambda: delays(root)) == OURS
    # To a board it was as if its cable had been pulled, which a claim outlives.
    assert root.get(BOARD, DEVICE, "Incarnation") == before + 1
    root.call(BOARD, DEVICE, "Release", "s", token)


def test_the_machine_sleeps_often(root: Client) -> None:
    """And wakes up before it slept: a display has the newest word in the end."""
    for _ in range(5):
        say(root, sleeping=True)
        say(root, sleeping=False)
    eventually(lambda: shows_the_song(root))
    eventually(lambda: BOARD in boards(root))
    assert eventually(lambda: delays(root)) == OURS


def test_what_is_done_to_cables_while_the_machine_sleeps(root: Client) -> None:
    sleep(root)
    root.call(*BOARDS, "Unplug", "s", PORT)
    say(root, sleeping=False)
    eventually(lambda: shows_the_song(root))
    assert BOARD not in boards(root)
    sleep(root)
    root.call(*BOARDS, "Plug", "s", PORT)
    assert BOARD not in boards(root)
    say(root, sleeping=False)
    eventually(lambda: BOARD in boards(root))


def test_a_call_to_a_board_that_goes_to_sleep_is_answered(machine: Machine, root: Client) -> None:
    pusher = machine.client("root")
    waiting = pusher.begin(BOARD, DEVICE, "Push", "ssay", "usart", "push", bytes(1 << 20))
    eventually(lambda: root.get(BOARD, DEVICE, "Holders"))
    sleep(root)
    with refused("org.flipper.Error.Disconnected"):
        pusher.end(waiting)
    pusher.close()
    say(root, sleeping=False)


def test_a_logind_that_dies_wakes_the_machine(
    machine: Machine, logind: Process, root: Client
) -> None:
    """Nobody is left to say that it woke up."""
    sleep(root)
    logind.kill()
    eventually(lambda: shows_the_song(root))
    start_logind(machine)
    assert eventually(lambda: delays(root)) == OURS
    sleep(root)
    assert display(root) == ["(off)"]
    say(root, sleeping=False)

"""org.fsct.Driver as its callers meet it: three uids on a real bus with a real polkit."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from support.machine import Client, Daemon, Machine, Variant
from support.places import (
    DAEMON,
    INTROSPECTABLE,
    OBJECT_MANAGER,
    PROPERTIES,
    check_unharmed,
    deny,
    eventually,
    refused,
)

pytestmark = pytest.mark.system

ROOT = "/org/fsct"
DRIVER = ("/org/fsct/Driver", "org.fsct.Driver")
SIMULATOR = ("/org/buswork/simulator", "org.buswork.Simulator")
PLAYER, DEVICE = "org.fsct.Player", "org.fsct.Device"
NO_SUCH_PLAYER = "org.fsct.Error.NoSuchPlayer"
NOWHERE = "00000000-0000-0000-0000-000000000001"
EVIL = "\x1b[31m\n\u202e🎵"
ALLOW = 'polkit.addRule(function (a, s) { if (a.id == "%s" && s.user == "%s") return "yes"; });'

OBSERVE, OBSERVE_OTHERS, REGISTER, ROUTE, MANAGE = (
    f"org.fsct.driver.{name}"
    for name in ("observe", "observe-others", "register", "route", "manage")
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture(scope="module")
def daemon(machine: Machine) -> Daemon:
    (machine.tmp / "sockets").mkdir()
    (machine.tmp / "sockets").chmod(0o777)
    return machine.start_daemon("--simulate", "--socket-dir", str(machine.tmp / "sockets"))


@pytest.fixture
def alice(machine: Machine, daemon: Daemon) -> Iterator[Client]:
    client = machine.client("alice")
    yield client
    client.close()
    check_unharmed(machine, daemon)


@pytest.fixture
def root(machine: Machine, daemon: Daemon) -> Iterator[Client]:
    """Who may do everything: its players and choices end with the test."""
    client = machine.client("root")
    yield client
    driver(client, "SetPreferredPlayer", "u", 0)
    client.close()


def driver(client: Client, member: str, signature: str = "", *values: Any) -> Any:
    reply = client.call(*DRIVER, member, signature, *values)
    return reply.value if len(reply.body) < 2 else reply.body


def register(client: Client, self_id: str = "player") -> int:
    return int(driver(client, "RegisterPlayer", "s", self_id))


def say(client: Client, player: int, title: str, status: int = 1) -> None:
    texts = Variant("a{ss}", {"title": title})
    state = {"status": Variant("u", status), "texts": texts}
    driver(client, "UpdatePlayerState", "ua{sv}", player, state)


def get_all(client: Client, path: str, interface: str) -> dict[str, Any]:
    found = client.call(path, PROPERTIES, "GetAll", "s", interface).value
    return {name: variant.value for name, variant in found.items()}


def objects(client: Client) -> dict[str, Any]:
    found = client.call(ROOT, OBJECT_MANAGER, "GetManagedObjects").value
    assert isinstance(found, dict)
    return found


def display(client: Client, port: str = "1-1") -> list[str]:
    return list(client.call(*SIMULATOR, "GetDisplay", "s", port).value)


# --- From a caller to the display -----------------------------------------------------------------


def test_from_a_call_to_the_display_and_dark_again(alice: Client, root: Client) -> None:
    player = register(alice)
    say(alice, player, "Song")
    eventually(lambda: display(root)[:2] == ["▶ Playing", "Song"])
    driver(alice, "UpdatePlayerStatus", "uu", player, 2)
    driver(alice, "UpdatePlayerMetadata", "uus", player, 2, EVIL)
    eventually(lambda: display(root)[:1] == ["⏸ Paused"] and "🎵" in display(root)[2])
    driver(alice, "UnregisterPlayer", "u", player)
    eventually(lambda: display(root)[0] in ("· Unknown", "(off)"))


@pytest.mark.attack(35)
def test_a_player_ends_with_its_caller(alice: Client, bob: Client) -> None:
    mine = register(alice)
    his = register(bob)
    bob.kill()
    eventually(lambda: driver(alice, "ListPlayers") == [mine])
    with refused(NO_SUCH_PLAYER):
        driver(alice, "UpdatePlayerStatus", "uu", his, 1)


def test_a_caller_that_dies_while_it_registers(machine: Machine, alice: Client) -> None:
    for _ in range(5):
        victim = machine.client("bob")
        for _ in range(10):
            victim.begin(*DRIVER, "RegisterPlayer", "s", "gone")
        victim.kill()
    eventually(lambda: driver(alice, "ListPlayers") == [])


def test_an_administrator_sees_and_takes_players_away(alice: Client, root: Client) -> None:
    player = register(alice, EVIL)
    (held,) = root.call(*DAEMON, "ListClients").value
    assert held["path"].value == f"{ROOT}/players/{player}"
    assert held["client"].value == alice.name
    assert held["what"].value.isprintable()
    with refused("InteractiveAuthorizationRequired"):
        alice.call(*DAEMON, "ForceRelease", "o", held["path"].value)
    root.call(*DAEMON, "ForceRelease", "o", held["path"].value)
    with refused(NO_SUCH_PLAYER):
        driver(alice, "UnregisterPlayer", "u", player)


def test_a_quota_of_players(machine: Machine, alice: Client, bob: Client) -> None:
    """A machine-wide one for a user, whatever faces he uses and however many connections."""
    most = alice.get(*DAEMON, "MaxObjectsPerUid")
    second = machine.client("alice")
    for number in range(most):
        register(alice if number % 2 else second)
    for client in (alice, second):
        with refused("LimitsExceeded", f"{most} objects"):
            register(client)
    with native(machine) as (ask, _):  # root's own
        assert ask("register_player", "x") > 0
    register(bob)
    second.close()
    eventually(lambda: len(driver(alice, "ListPlayers")) == most // 2 + 1)
    register(alice)


# --- Who may do what ------------------------------------------------------------------------------


def test_what_everybody_may(alice: Client, bob: Client) -> None:
    assert driver(alice, "GetProtocolVersion") == [1, 0]
    player = register(alice)
    say(alice, player, "Song")
    timeline = {
        "position_ms": Variant("x", 1),
        "duration_ms": Variant("t", 5),
        "rate": Variant("d", 0.0),
    }
    driver(alice, "UpdatePlayerTimeline", "ua{sv}", player, timeline)
    assert driver(bob, "GetPreferredPlayer") == 0
    assert driver(bob, "GetPlayerAssignedDevice", "u", player) == ""
    assert driver(bob, "ListPlayers") == [player]
    assert len(eventually(lambda: driver(bob, "ListDevices"))) >= 1
    driver(alice, "UnregisterPlayer", "u", player)


def test_who_does_not_sit_here_does_not_choose(alice: Client) -> None:
    """Nobody here has a session."""
    player = register(alice)
    for member, signature, values in (
        ("AssignPlayerToDevice", "us", [player, NOWHERE]),
        ("UnassignPlayerFromDevice", "us", [player, NOWHERE]),
        ("SetPreferredPlayer", "u", [player]),
        ("SetPreferredPlayer", "u", [0]),
    ):
        with refused("InteractiveAuthorizationRequired", ROUTE):
            driver(alice, member, signature, *values)


@pytest.mark.attack(34)
def test_players_of_others_are_theirs(alice: Client, bob: Client) -> None:
    his = register(bob)
    say(bob, his, "his song")
    for member, signature, values in (
        ("UnregisterPlayer", "u", []),
        ("UpdatePlayerState", "ua{sv}", [{}]),
        ("UpdatePlayerStatus", "uu", [1]),
        ("UpdatePlayerTimeline", "ua{sv}", [{}]),
        ("UpdatePlayerMetadata", "uus", [1, "x"]),
        ("AssignPlayerToDevice", "us", [NOWHERE]),
        ("UnassignPlayerFromDevice", "us", [NOWHERE]),
        ("SetPreferredPlayer", "u", []),
    ):
        with refused("InteractiveAuthorizationRequired", MANAGE):
            driver(alice, member, signature, his, *values)
    path = f"{ROOT}/players/{his}"
    assert set(get_all(alice, path, PLAYER)) == {"PlayerId", "Uid", "Status", "AssignedDevice"}
    for name in ("SelfId", "Title", "Artist", "Album", "Genre", "Timeline", "Position"):
        with refused("InteractiveAuthorizationRequired", OBSERVE_OTHERS):
            alice.get(path, PLAYER, name)
    assert "his song" not in repr(objects(alice))
    assert "his song" in repr(objects(bob))
    with refused("InteractiveAuthorizationRequired", OBSERVE_OTHERS):
        display(alice)


def test_what_an_administrator_allows(machine: Machine, alice: Client, bob: Client) -> None:
    his, mine = register(bob), register(alice)
    say(bob, his, "his song")
    path = f"{ROOT}/players/{his}"
    rules = [machine.add_rule(ALLOW % (OBSERVE_OTHERS, "alice"))]
    assert alice.get(path, PLAYER, "Title") == "his song"
    rules.append(machine.add_rule(ALLOW % (ROUTE, "alice")))
    driver(alice, "SetPreferredPlayer", "u", mine)
    assert driver(bob, "GetPreferredPlayer") == mine
    driver(alice, "SetPreferredPlayer", "u", 0)
    driver(alice, "AssignPlayerToDevice", "us", mine, NOWHERE)
    with refused("InteractiveAuthorizationRequired", MANAGE):
        driver(alice, "SetPreferredPlayer", "u", his)
    rules.append(machine.add_rule(ALLOW % (MANAGE, "alice")))
    driver(alice, "UpdatePlayerStatus", "uu", his, 2)
    driver(alice, "AssignPlayerToDevice", "us", his, NOWHERE)
    assert bob.get(path, PLAYER, "AssignedDevice") == NOWHERE
    driver(alice, "UnregisterPlayer", "u", his)
    for rule in rules:
        machine.remove_rule(rule)


def test_what_an_administrator_denies(machine: Machine, alice: Client, bob: Client) -> None:
    player = register(alice)
    rule = machine.add_rule(deny(REGISTER))
    with refused("AccessDenied", REGISTER):
        register(alice)
    with refused("AccessDenied", REGISTER):
        driver(alice, "UpdatePlayerStatus", "uu", player, 1)
    with native(machine, "alice") as (ask, _), pytest.raises(RuntimeError, match=REGISTER):
        ask("register_player", "x")
    register(bob)
    machine.remove_rule(rule)
    rule = machine.add_rule(deny(OBSERVE))
    for member in ("GetPreferredPlayer", "ListPlayers", "ListDevices"):
        with refused("AccessDenied", OBSERVE):
            driver(alice, member)
    assert all(facts == {} for faces in without_driver(alice) for facts in faces.values())
    driver(alice, "UpdatePlayerStatus", "uu", player, 1)
    machine.remove_rule(rule)


def without_driver(client: Client) -> list[Any]:
    return [faces for path, faces in objects(client).items() if path != DRIVER[0]]


def test_what_others_play_is_no_more_to_the_command(machine: Machine, alice: Client) -> None:
    say(alice, register(alice, "secret id"), "secret song")
    command = [sys.executable, "-m", "buswork.cli", "fsct"]
    for words in (["players"], ["status"], ["players", "--json"], ["status", "--json"]):
        assert "secret song" in machine.run([*command, *words], "root").stdout
        assert "secret" not in machine.run([*command, *words], "bob").stdout
    row = machine.run([*command, "players"], "bob").stdout.splitlines()[1]
    assert row.split()[1:6] == ["alice", "playing", "?", "?", "?"]
    done = machine.run([*command, "prefer", "--none"], "bob", check=False)
    assert (done.returncode, ROUTE in done.stderr) == (4, True)


# --- What is told ---------------------------------------------------------------------------------


def test_signals_name_what_changed_and_nothing_else(alice: Client, bob: Client) -> None:
    bob.add_match(f"type='signal',sender='org.buswork',path_namespace='{ROOT}'")
    player = register(alice, "secret id")
    say(alice, player, "secret song")
    added = bob.wait_signal("InterfacesAdded")
    assert (added.path, added.body) == (ROOT, [f"{ROOT}/players/{player}", {PLAYER: {}}])
    told: set[str] = set()
    while not {"Status", "Title"} <= told:
        changed = bob.wait_signal("PropertiesChanged")
        if changed.path == added.body[0]:
            assert changed.body[:2] == [PLAYER, {}]
            told |= set(changed.body[2])
    driver(alice, "UnregisterPlayer", "u", player)
    assert bob.wait_signal("InterfacesRemoved").body == [f"{ROOT}/players/{player}", [PLAYER]]


def test_a_device_that_is_unplugged_and_plugged_in_again(alice: Client, root: Client) -> None:
    alice.add_match(f"type='signal',sender='org.buswork',interface='{OBJECT_MANAGER}'")
    eventually(lambda: len(driver(alice, "ListDevices")) == 2)
    alice.signals()
    root.call(*SIMULATOR, "Unplug", "s", "1-2")
    path, interfaces = alice.wait_signal("InterfacesRemoved").body
    assert (interfaces, len(driver(alice, "ListDevices"))) == ([DEVICE], 1)
    root.call(*SIMULATOR, "Plug", "s", "1-2")
    assert alice.wait_signal("InterfacesAdded").body == [path, {DEVICE: {}}]
    found = get_all(alice, path, DEVICE)
    assert (found["Serial"], found["Port"], found["Connected"]) == ("SIM-2", "1-2", True)
    assert path.endswith(found["DeviceId"].replace("-", "_2d"))


def test_introspection(alice: Client) -> None:
    player = register(alice)
    for path, interface in (
        (ROOT, OBJECT_MANAGER),
        (DRIVER[0], DRIVER[1]),
        (f"{ROOT}/players/{player}", PLAYER),
    ):
        text = alice.call(path, INTROSPECTABLE, "Introspect").value
        assert f'<interface name="{interface}"' in text


@pytest.mark.tools
def test_busctl_shows_the_tree(machine: Machine, alice: Client) -> None:
    register(alice)
    done = machine.run(["busctl", "--system", "tree", "org.buswork"], "bob")
    for place in ("/org/fsct/Driver", "/org/fsct/players/", "/org/fsct/devices/"):
        assert place in done.stdout
    command = ["busctl", "--system", "introspect", "org.buswork", *DRIVER]
    assert ".RegisterPlayer" in machine.run(command, "bob").stdout


@pytest.mark.tools
def test_a_player_from_a_shell(machine: Machine, alice: Client) -> None:
    """busctl leaves the bus after one call, and its player with it."""
    call = ["busctl", "--system", "--json=short", "call", "org.buswork", *DRIVER]
    done = machine.run([*call, "RegisterPlayer", "s", "shell"], "bob")
    number = json.loads(done.stdout)["data"][0]
    eventually(lambda: number not in driver(alice, "ListPlayers"))


# --- The same players on the socket ---------------------------------------------------------------


class native:  # noqa: N801 - reads as a word
    """A process of a user's that speaks MessagePack-RPC on the driver's socket."""

    TALK = """
import socket, sys, threading
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    def back():
        while data := sock.recv(65536):
            sys.stdout.buffer.write(data); sys.stdout.buffer.flush()
    threading.Thread(target=back, daemon=True).start()
    while data := sys.stdin.buffer.read1(65536):
        sock.sendall(data)
"""

    def __init__(self, machine: Machine, user: str = "root") -> None:
        path = machine.tmp / "sockets" / "fsct.sock"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = ["python3", "-c", self.TALK, str(path)]
        self.process = machine.popen(command, user, **pipes)
        self._unpacker = msgpack.Unpacker()

    def __enter__(self) -> tuple[Any, Any]:
        return self.ask, self.process

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def ask(self, method: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(msgpack.packb([0, 1, method, list(arguments)]))
        self.process.stdin.flush()
        while True:
            for _, _, error, result in self._unpacker:
                if error is not None:
                    raise RuntimeError(error)
                return result
            self._unpacker.feed(os.read(self.process.stdout.fileno(), 65536))


def test_the_same_players_on_both_faces(machine: Machine, alice: Client, bob: Client) -> None:
    with native(machine, "alice") as (ask, process):
        player = ask("register_player", "native")
        ask("update_player_metadata", player, 1, "native song")
        path = f"{ROOT}/players/{player}"
        assert get_all(alice, path, PLAYER)["Title"] == "native song"
        assert "Title" not in get_all(bob, path, PLAYER)
        # The right to change it follows the uid, its life the connection.
        driver(alice, "UpdatePlayerStatus", "uu", player, 1)
        with refused("InteractiveAuthorizationRequired", MANAGE):
            driver(bob, "UpdatePlayerStatus", "uu", player, 1)
        mine = register(bob)
        with pytest.raises(RuntimeError, match=MANAGE):
            ask("update_player_status", mine, 1)
        process.kill()
    eventually(lambda: driver(alice, "ListPlayers") == [mine])


# --- Over restarts --------------------------------------------------------------------------------


def test_the_preferred_player_outlives_the_daemon() -> None:
    with Machine() as machine:
        state = machine.tmp / "state"
        state.mkdir()
        os.chown(state, machine.uid("buswork"), -1)
        state.chmod(0o700)
        machine.add_rule(ALLOW % (ROUTE, "alice"))
        environment = {"STATE_DIRECTORY": str(state)}

        daemon = machine.start_daemon("--simulate", env=environment)
        alice = machine.client("alice")
        driver(alice, "SetPreferredPlayer", "u", register(alice, "mine"))
        assert daemon.stop() == 0
        assert [path.name for path in state.iterdir()] == ["fsct.json"]

        daemon = machine.start_daemon("--simulate", env=environment)
        bob = machine.client("bob")
        register(bob, "mine")
        assert driver(bob, "GetPreferredPlayer") == 0
        again = register(alice, "mine")
        assert driver(bob, "GetPreferredPlayer") == again
        daemon.stop()

        (state / "fsct.json").write_text("{")
        daemon = machine.start_daemon("--simulate", env=environment)
        register(alice, "mine")
        assert driver(alice, "GetPreferredPlayer") == 0
        daemon.says("fsct.json is not used")
        assert daemon.stop() == 0


def test_the_sockets_of_the_service_manager() -> None:
    with Machine() as machine, socket.socket(socket.AF_UNIX) as listener:
        (machine.tmp / "sockets").mkdir()
        path = machine.tmp / "sockets" / "fsct.sock"
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(64)
        daemon = machine.start_daemon(fds=[("fsct", listener.fileno())])
        with native(machine, "alice") as (ask, _):
            assert ask("get_protocol_version") == {"major": 1, "minor": 0}
        alice = machine.client("alice")
        with refused("UnknownObject"):
            alice.call(*SIMULATOR, "ListDisplays")
        assert daemon.stop() == 0
        assert pathlib.Path(path).exists(), "it is the service manager's"

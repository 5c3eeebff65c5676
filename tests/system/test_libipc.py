"""libipc services as their callers meet them: several uids on a real bus with a real polkit, and
programs with plain sockets."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.machine import BUS_NAME, Client, Daemon, Machine, Process, Variant
from support.places import (
    DAEMON,
    FORCE,
    SOON,
    check_unharmed,
    deny,
    eventually,
    refused,
)

from buswork.bus.backlog import PART_BYTES

pytestmark = pytest.mark.system

PROJECT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "polkit" / "examples" / "50-buswork-libipc.rules"
ROOT, HUB = "/org/libipc", "org.libipc.Hub"
CHANNEL, SERVICE = "org.libipc.Channel", "org.libipc.Service"
ERROR = "org.libipc.Error."
NEEDS_A_PASSWORD = "InteractiveAuthorizationRequired"

# A service as anybody may write it: it sends back whatever comes, from one program after the
# other, and first what it was told to say (its input). Arguments: its path and mode.
ECHO = """\
import os, socket, sys
path, mode, first = sys.argv[1], int(sys.argv[2], 8), sys.stdin.buffer.read()
listener = socket.socket(socket.AF_UNIX)
os.umask(0o777 - mode)
listener.bind(path)
listener.listen()
print("ready", flush=True)
while True:
    client = listener.accept()[0]
    client.sendall(first)
    while data := client.recv(65536):
        client.sendall(data)
    client.close()
"""
# A program that sends a message and prints what comes back.
ASK = """\
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(10)
    sock.connect(sys.argv[1])
    try:
        sock.send(bytes.fromhex(sys.argv[2]))
        print(sock.recv(65536).hex())
    except ConnectionError:
        print()
"""


def message(payload: bytes, user_type: int = 0) -> bytes:
    """As a C program sends it (its section 2)."""
    return b"\x02" + len(payload).to_bytes(4) + bytes([user_type]) + payload


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """Alice and Bob are in the group of the example; Carol is not, and nobody sits here."""
    users, groups = ("alice", "bob", "carol"), {"libipc": ["alice", "bob"]}
    with Machine(users=users, groups=groups, rules=[EXAMPLE.read_text()]) as machine:
        yield machine


@pytest.fixture(scope="module")
def sockets(machine: Machine) -> pathlib.Path:
    folder = pathlib.Path(machine.tmp / "sockets")
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture(scope="module")
def daemon(machine: Machine, sockets: pathlib.Path) -> Daemon:
    return machine.start_daemon("--wings", "libipc", "--socket-dir", str(sockets))


@pytest.fixture(autouse=True)
def root(machine: Machine, daemon: Daemon) -> Iterator[Client]:
    client = machine.client("root")
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


class Services:
    """Programs that serve, until the test ends."""

    def __init__(self, machine: Machine, folder: pathlib.Path) -> None:
        self.machine = machine
        self.folder = folder
        self.running: list[tuple[Process, pathlib.Path]] = []

    def echo(
        self, name: str, user: str = "bob", mode: int = 0o777, first: bytes = b""
    ) -> pathlib.Path:
        path = self.folder / "ipc-c" / name
        words = [sys.executable, "-c", ECHO, str(path), f"{mode:o}"]
        process = self.machine.popen(words, user, stdin=-1, stdout=-1)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(first)
        process.stdin.close()
        assert process.stdout.readline() == b"ready\n"
        self.running.append((process, path))
        return path

    def stop(self) -> None:
        for process, path in self.running:
            process.kill()
            process.wait()
            process.stdout.close()
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        self.running.clear()


@pytest.fixture
def services(machine: Machine, sockets: pathlib.Path, root: Client) -> Iterator[Services]:
    services = Services(machine, sockets)
    yield services
    services.stop()


def hub(client: Client, member: str, name: str, **options: str) -> Any:
    given = {key: Variant("s", value) for key, value in options.items()}
    return client.call(ROOT, HUB, member, "sa{sv}", name, given).value


def listed(client: Client) -> dict[str, dict[str, Any]]:
    found = client.call(ROOT, HUB, "ListServices").value
    return {
        facts["name"].value: {name: value.value for name, value in facts.items()} for facts in found
    }


def ask(machine: Machine, path: pathlib.Path, data: bytes, user: str = "bob") -> bytes:
    words = [sys.executable, "-c", ASK, str(path), data.hex()]
    return bytes.fromhex(machine.run(words, user).stdout.strip())


@contextlib.contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


# --- What there is --------------------------------------------------------------------------------


def test_everybody_sees_which_services_there_are(
    machine: Machine, carol: Client, services: Services
) -> None:
    path = services.echo("pong", "bob", 0o755)
    assert listed(carol)["pong"] == {
        "name": "pong",
        "form": "c",
        "directory": str(path.parent),
        "alive": True,
        "owner_uid": machine.uid("bob"),
        "mode": 0o755,
        "connections": 0,
        "served": False,
    }
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        eventually(lambda: listed(carol)["pong"]["connections"] == 1)
    services.running[0][0].kill()
    eventually(lambda: not listed(carol)["pong"]["alive"])


def test_changes_are_told(carol: Client, services: Services) -> None:
    carol.add_match(f"type='signal',interface='{HUB}',member='ServicesChanged'")
    services.echo("pong")
    assert carol.wait_signal("ServicesChanged").path == ROOT


def test_a_rule_may_hide_services(machine: Machine, carol: Client) -> None:
    rule = machine.add_rule(deny("org.libipc.list", user="carol"))
    with refused("AccessDenied", "org.libipc.list"):
        carol.call(ROOT, HUB, "ListServices")
    with refused("AccessDenied", "org.libipc.list"):
        carol.get(ROOT, HUB, "Directories")
    machine.remove_rule(rule)
    assert len(carol.get(ROOT, HUB, "Directories")) == 2


# --- Who may do what ------------------------------------------------------------------------------


def test_who_is_not_in_the_group_is_asked_for_a_password(carol: Client, services: Services) -> None:
    services.echo("pong")
    for member, action in (
        ("Connect", "connect"),
        ("OpenChannel", "connect"),
        ("Serve", "serve"),
        ("Dial", "dial"),
    ):
        with refused(NEEDS_A_PASSWORD, f"org.libipc.{action}"):
            hub(carol, member, "pong")


def test_other_machines_are_for_an_administrator(alice: Client, root: Client) -> None:
    with refused(NEEDS_A_PASSWORD, "org.libipc.dial"):
        hub(alice, "Dial", "tcp://localhost:9000/pong")
    with refused(f"{ERROR}NoDoors"):
        hub(root, "Dial", "tcp://localhost:9000/pong")
    with refused("InvalidArgs"):
        hub(root, "Dial", "no address")


def test_who_could_not_connect_alone_is_not_connected(
    machine: Machine, alice: Client, bob: Client, services: Services
) -> None:
    services.echo("closed", "bob", 0o700)
    services.echo("open", "bob", 0o722)
    for member in ("Connect", "OpenChannel"):
        with refused(f"{ERROR}NotAllowed"):
            hub(alice, member, "closed")
    os.close(hub(alice, "Connect", "open"))
    for member in ("Connect", "OpenChannel"):
        with refused(f"{ERROR}NoSuchService"):
            hub(alice, member, "nope")


@pytest.mark.parametrize("name", ["", "a/b", "../pong", "..", "a\nb", "x" * 109])
def test_names_that_no_service_has(alice: Client, name: str) -> None:
    for member in ("Connect", "OpenChannel", "Serve"):
        with refused("InvalidArgs"):
            hub(alice, member, name)


@pytest.mark.parametrize("name", ["network", "ipc", "tcp", "pong.lock"])
def test_names_that_nobody_may_serve(alice: Client, root: Client, name: str) -> None:
    for client in (alice, root):
        with refused("InvalidArgs"):
            hub(client, "Serve", name)


# --- A socket of one's own ------------------------------------------------------------------------


def test_what_is_sent_never_passes_the_daemon(
    daemon: Daemon, alice: Client, services: Services
) -> None:
    services.echo("pong")
    with socket.socket(fileno=hub(alice, "Connect", "pong")) as sock, stopped(daemon):
        sock.settimeout(SOON)
        for data in (message(b"hello", 42), bytes(10_000)):
            sock.send(data)
            assert sock.recv(65536) == data


def test_a_socket_outlives_its_caller(machine: Machine, services: Services) -> None:
    services.echo("pong")
    alice = machine.client("alice")
    with socket.socket(fileno=hub(alice, "Connect", "pong")) as sock:
        alice.close()
        sock.settimeout(SOON)
        sock.send(b"still here")
        assert sock.recv(100) == b"still here"


# --- Channels -------------------------------------------------------------------------------------


def test_a_channel(alice: Client, services: Services) -> None:
    services.echo("pong")
    path = hub(alice, "OpenChannel", "pong")
    for payload, user_type in ((b"hello\0", 42), (b"", 255), (bytes(200_000), 0)):
        alice.call(path, CHANNEL, "Send", "yay", user_type, payload)
        told = alice.wait_signal("Message")
        assert (told.path, told.destination) == (path, alice.name)
        assert told.body == [user_type, payload]
    assert alice.get(path, CHANNEL, "Service") == "pong"
    services.running[0][0].kill()
    assert alice.wait_signal("Closed").body == [""]
    with refused("UnknownObject"):
        alice.call(path, CHANNEL, "Close")


def test_who_grants_nothing_is_told_no_more(alice: Client, services: Services) -> None:
    services.echo("pong", first=b"".join(message(b"", number) for number in range(100)))
    path = hub(alice, "OpenChannel", "pong")
    eventually(lambda: alice.get(path, CHANNEL, "Credits") == 0)
    told = [heard.body[0] for heard in alice.signals()]
    assert told == list(range(32))
    alice.call(path, CHANNEL, "Grant", "u", 10)
    eventually(lambda: alice.get(path, CHANNEL, "Credits") == 0)
    assert [heard.body[0] for heard in alice.signals()] == list(range(32, 42))
    with refused("InvalidArgs", "1024"):
        alice.call(path, CHANNEL, "Grant", "u", 2**32 - 1)
    alice.call(path, CHANNEL, "Close")


def test_a_caller_that_reads_nothing_holds_nobody_up(
    machine: Machine, bob: Client, services: Services
) -> None:
    """Though it has all the credits there are. When it reads again, nothing is missing."""
    size, count = 50_000, 200
    services.echo("flood", first=b"".join(message(bytes(size), n) for n in range(count)))
    services.echo("pong")
    deaf = machine.client("alice")
    path = hub(deaf, "OpenChannel", "flood")
    deaf.call(path, CHANNEL, "Grant", "u", 900)
    deaf.freeze()
    channel = hub(bob, "OpenChannel", "pong")
    for number in range(100):
        bob.call(channel, CHANNEL, "Send", "yay", number, b"x" * 1000)
        assert bob.wait_signal("Message").body[0] == number
        bob.call(channel, CHANNEL, "Grant", "u", 1)
    deaf.thaw()
    got = [deaf.wait_signal("Message").body[0] for _ in range(count)]
    assert got == list(range(count))
    bob.call(channel, CHANNEL, "Close")
    deaf.close()


def test_users_that_read_nothing_hold_nobody_up(
    machine: Machine, root: Client, services: Services
) -> None:
    """Not even several, with all the programs that they may have: attack 32."""
    services.echo("pong")
    deaf = [machine.client(user) for user in ("alice", "alice", "bob", "bob")]
    for number, client in enumerate(deaf):
        services.echo(f"flood{number}", first=3 * message(bytes(1_900_000)))
        hub(client, "OpenChannel", f"flood{number}")
        client.freeze()
    stats = ("/org/freedesktop/DBus", "org.freedesktop.DBus.Debug.Stats", "GetConnectionStats")
    daemon = machine.owner(BUS_NAME)

    def unread() -> int:
        found = root.call(*stats, "s", daemon, destination="org.freedesktop.DBus").value
        return int(found["IncomingBytes"].value)

    eventually(lambda: unread() > PART_BYTES)
    channel = hub(root, "OpenChannel", "pong")
    for number in range(10):
        root.call(channel, CHANNEL, "Send", "yay", number, b"hello")
        assert root.wait_signal("Message").body == [number, b"hello"]
    for client in deaf:
        client.kill()
    root.call(channel, CHANNEL, "Close")


def test_a_service_that_reads_nothing_fills_its_queue(alice: Client, services: Services) -> None:
    services.echo("slow")
    process = services.running[0][0]
    path = hub(alice, "OpenChannel", "slow")
    process.send_signal(signal.SIGSTOP)
    with refused(f"{ERROR}QueueFull"):
        for _ in range(200):
            alice.call(path, CHANNEL, "Send", "yay", 0, bytes(30_000))
    process.send_signal(signal.SIGCONT)
    alice.wait_signal("Drained")
    alice.call(path, CHANNEL, "Send", "yay", 0, b"again")
    alice.call(path, CHANNEL, "Close")


def test_a_thousand_channels(alice: Client, bob: Client, services: Services) -> None:
    """Attack 43: the quota of one user is nobody else's."""
    services.echo("pong")
    paths = []
    with refused("LimitsExceeded"):
        while len(paths) < 1000:
            paths.append(hub(alice, "OpenChannel", "pong"))
    assert len(paths) == 128
    for _ in range(3):
        with refused("LimitsExceeded"):
            hub(alice, "OpenChannel", "pong")
    hub(bob, "OpenChannel", "pong")
    alice.call(paths[0], CHANNEL, "Close")
    hub(alice, "OpenChannel", "pong")


# --- Services of callers --------------------------------------------------------------------------


def test_a_caller_serves_programs_with_sockets(
    machine: Machine, sockets: pathlib.Path, alice: Client
) -> None:
    service = hub(alice, "Serve", "pong")
    path = pathlib.Path(alice.get(service, SERVICE, "Path"))
    assert path == sockets / "ipc-c" / "pong"
    words = [sys.executable, "-c", ASK, str(path), message(b"hello", 42).hex()]
    program = machine.popen(words, "bob", stdout=-1, text=True)
    number, uid, pid = alice.wait_signal("Connected").body
    assert (uid, pid) == (machine.uid("bob"), program.pid)
    assert alice.get(service, SERVICE, "Clients") == [[number, uid, pid]]
    assert alice.wait_signal("Message").body == [number, 42, b"hello"]
    alice.call(service, SERVICE, "Send", "uyay", number, 7, b"back")
    assert bytes.fromhex(program.communicate(timeout=SOON)[0].strip()) == message(b"back", 7)
    assert alice.wait_signal("Disconnected").body == [number]
    assert listed(alice)["pong"]["served"]
    alice.call(service, SERVICE, "Close")
    assert not path.exists()


def test_a_service_for_ones_own_programs(machine: Machine, alice: Client, bob: Client) -> None:
    service = hub(alice, "Serve", "mine", access="own")
    path = pathlib.Path(alice.get(service, SERVICE, "Path"))
    assert ask(machine, path, message(b"hello"), "bob") == b""
    assert alice.get(service, SERVICE, "Clients") == []
    with refused(f"{ERROR}NotAllowed"):
        os.close(hub(bob, "Connect", "mine"))
    with socket.socket(fileno=hub(alice, "Connect", "mine")) as sock:
        sock.send(message(b"hello"))
        assert alice.wait_signal("Message").body[1:] == [0, b"hello"]
    alice.call(service, SERVICE, "Close")


def test_a_name_that_is_taken(alice: Client, bob: Client, services: Services) -> None:
    services.echo("pong")
    for _ in range(2):
        with refused(f"{ERROR}NameTaken"):
            hub(alice, "Serve", "pong")
    service = hub(alice, "Serve", "ping")
    for client in (alice, bob):
        with refused(f"{ERROR}NameTaken"):
            hub(client, "Serve", "ping")
    alice.call(service, SERVICE, "Close")


def test_all_goes_with_its_owner(
    machine: Machine, daemon: Daemon, root: Client, sockets: pathlib.Path, services: Services
) -> None:
    services.echo("pong")
    before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    for _ in range(3):
        owner = machine.client("alice")
        hub(owner, "Serve", "mine")
        hub(owner, "OpenChannel", "pong")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(SOON)
            sock.connect(str(sockets / "ipc-c" / "mine"))
            owner.wait_signal("Connected")
            assert len(root.call(*DAEMON, "ListClients").value) == 2
            owner.kill()
            assert sock.recv(100) == b""
        eventually(lambda: not root.call(*DAEMON, "ListClients").value)
        assert not (sockets / "ipc-c" / "mine").exists()
    eventually(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= before)


def test_nobody_else_uses_it(root: Client, alice: Client, bob: Client, services: Services) -> None:
    services.echo("pong")
    channel, service = hub(alice, "OpenChannel", "pong"), hub(alice, "Serve", "mine")
    for other in (bob, root):
        for path, interface, member, signature, *values in (
            (channel, CHANNEL, "Send", "yay", 0, b"x"),
            (channel, CHANNEL, "Close", ""),
            (service, SERVICE, "Grant", "u", 1),
            (service, SERVICE, "Send", "uyay", 1, 0, b"x"),
            (service, SERVICE, "Close", ""),
        ):
            with refused(f"{ERROR}NotOwner"):
                other.call(path, interface, member, signature, *values)
    with refused(NEEDS_A_PASSWORD, FORCE):
        bob.call(*DAEMON, "ForceRelease", "o", channel)
    root.call(*DAEMON, "ForceRelease", "o", channel)
    assert "by force" in alice.wait_signal("Closed").body[0]
    bob.add_match(f"type='signal',interface='{CHANNEL}'")
    second = hub(alice, "OpenChannel", "pong")
    alice.call(second, CHANNEL, "Send", "yay", 0, b"secret")
    alice.wait_signal("Message")
    assert not [heard for heard in bob.signals() if heard.member == "Message"]


# --- Programs that ask for a service --------------------------------------------------------------


def test_a_program_of_the_c_version_is_connected(
    machine: Machine, sockets: pathlib.Path, alice: Client, services: Services
) -> None:
    """By both steps of its look-up; the service may be anybody's."""
    services.echo("pong")
    hub(alice, "Serve", "served")
    for name in ("pong", "served"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(SOON)
            sock.connect(str(sockets / "ipc-c" / "network"))
            wanted = f"x;x unix://{name}".encode()
            sock.send(b"\x03" + len(wanted).to_bytes(4) + b"\x03" + wanted)
            assert sock.recv(1000) == b"\x02\0\0\0\x02\0OK"
            data, (descriptor,), _, _ = socket.recv_fds(sock, 1, 1)
            assert data == b"\0"
        with socket.socket(fileno=descriptor) as theirs:
            theirs.settimeout(SOON)
            theirs.send(message(b"hello", 1))
            if name == "pong":
                assert theirs.recv(100) == message(b"hello", 1)
            else:
                assert alice.wait_signal("Message").body[1:] == [1, b"hello"]


# --- From a shell ---------------------------------------------------------------------------------


def test_busctl(machine: Machine, services: Services) -> None:
    services.echo("pong")
    call = ["busctl", "--json=short", "call", BUS_NAME, ROOT, HUB]
    said = json.loads(machine.run([*call, "ListServices"], "carol").stdout)
    names = {facts["name"]["data"] for facts in said["data"][0]}
    assert {"pong", "network"} <= names
    made = json.loads(machine.run([*call, "OpenChannel", "sa{sv}", "pong", "0"], "alice").stdout)
    assert made["data"][0].startswith(f"{ROOT}/channels/")
    said = machine.run([*call, "Connect", "sa{sv}", "pong", "0"], "alice").stdout
    assert json.loads(said)["type"] == "h"

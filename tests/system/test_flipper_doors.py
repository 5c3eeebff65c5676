"""The doors process under a real systemd with its shipped unit: out to a board on the network, and
in through a door for those who were named."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.container import PROJECT, Container, ContainerError

pytestmark = pytest.mark.systemd

SERVICE, DOORS, DOORS_SOCKET = "buswork.service", "buswork-doors.service", "buswork-doors.socket"
HUB = ["org.buswork", "/org/flipper", "org.flipper.Hub"]
BOARD_PORT, DOOR_PORT = 5001, 3258
NAME = f"carbon-127.0.0.1:{BOARD_PORT}"
RULES = "/etc/polkit-1/rules.d"

# The original library's first call, led.rgb(10, 20, 30), as it sends it to "localhost".
LIBRARY = f"""\
import socket
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    sock.settimeout(3)
    sock.connect(("localhost", {DOOR_PORT}))
    sock.send(bytes.fromhex("fe46ca11000006010200000000030a141e").ljust(64, b"\\0"))
    try:
        print(sock.recv(100).hex())
    except TimeoutError:
        print("nothing")
"""
# The same, over the boards' own socket.
FMR = """\
import socket
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
    sock.connect("/run/buswork/fmr.sock")
    sock.send(bytes.fromhex("fe46ca11000006010200000000030a141e").ljust(64, b"\\0"))
    print(sock.recv(100).hex())
"""
CONNECT = """\
import socket
socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect("/run/buswork/doors.sock")
"""
DONE, NOT_ALLOWED, NO_BOARD = "0000000000", "ffffffff1d", "ffffffff04"


@pytest.fixture(scope="module")
def booted() -> Iterator[Container]:
    with Container() as container:
        yield container


@pytest.fixture
def container(booted: Container) -> Iterator[Container]:
    """With a simulated board on the network that may be attached, and a door to it for alice."""
    said = f"--simulate-board {BOARD_PORT} --fmr-door {NAME} --serve-uid alice"
    setting = f'[Service]\nEnvironment="DOORS={said}"\n'
    booted.run(["mkdir", "-p", f"/etc/systemd/system/{DOORS}.d"])
    booted.run(["tee", f"/etc/systemd/system/{DOORS}.d/doors.conf"], stdin=setting)
    booted.run(["systemctl", "daemon-reload"])
    booted.run(["systemctl", "enable", "--now", "buswork-doors"])
    yield booted
    booted.run(["systemctl", "disable", "--now", "buswork-doors", DOORS_SOCKET])
    booted.run(["systemctl", "stop", SERVICE])


def attach(container: Container, endpoint: str = f"localhost:{BOARD_PORT}") -> str:
    command = ["busctl", "--system", "--json=short", "call", *HUB, "Attach", "s", endpoint]
    return str(json.loads(container.run(command).stdout)["data"][0])


def test_they_are_off_by_default(booted: Container) -> None:
    assert booted.show(DOORS, "UnitFileState") == "disabled"
    assert booted.show(DOORS_SOCKET, "UnitFileState") == "disabled"
    with pytest.raises(ContainerError, match=r"systemctl enable --now buswork-doors"):
        attach(booted)


def test_a_board_on_the_network_is_attached(container: Container) -> None:
    path = attach(container)
    command = ["busctl", "--system", "call", "org.buswork", path, "org.flipper.Device"]
    assert container.run([*command, "Invoke", "ssav", "button", "read", "0"]).stdout == "v y 0\n"
    with pytest.raises(ContainerError, match="Access denied"):
        attach(container, "localhost:9")
    container.run(["systemctl", "restart", DOORS])
    with pytest.raises(ContainerError, match=r"gone|closed|no such|Unknown|unplugged"):
        container.run([*command, "Invoke", "ssav", "button", "read", "0"])


def test_nobody_but_the_daemon_may_ask_for_the_network(container: Container) -> None:
    for user in "alice", "buswork-doors":
        with pytest.raises(ContainerError, match="PermissionError"):
            container.python(CONNECT, user)


def test_the_door_is_for_those_who_were_named_and_whom_polkit_lets(container: Container) -> None:
    attach(container)
    assert container.python(LIBRARY, "alice").strip() == NOT_ALLOWED
    rule = f"{PROJECT}/polkit/examples/50-buswork-doors.rules"
    container.run(["install", "-m", "0644", rule, RULES])
    container.run(["systemctl", "restart", "polkit"])  # which notices it by itself, but later
    assert container.python(LIBRARY, "alice").strip() == DONE
    assert container.python(LIBRARY, "bob").strip() == "nothing"
    assert f"uid {container.uid('bob')}: is not served here" in container.journal(DOORS)
    # Without a session, alice herself may not: it is the door that may.
    assert container.python(FMR, "alice").strip() == NOT_ALLOWED
    assert container.python(FMR).strip() == DONE


def test_the_socket_of_the_boards_starts_the_daemon(container: Container) -> None:
    container.run(["systemctl", "stop", SERVICE])
    assert container.show("buswork-fmr.socket", "UnitFileState") == "enabled"
    assert container.python(FMR).strip() == NO_BOARD
    container.until_ready(SERVICE)
    assert "Traceback" not in container.journal(SERVICE)


def test_they_have_no_rights_of_their_own(container: Container) -> None:
    pid = container.show(DOORS, "MainPID")
    text = container.run(["cat", f"/proc/{pid}/status"]).stdout
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split()[0] == str(container.uid("buswork-doors"))

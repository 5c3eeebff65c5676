"""libipc under a real systemd with the shipped units: what starts the daemon, what its sandbox
leaves it, and the doors."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.container import HOME, PROJECT, REPOSITORY, Container, ContainerError, Process
from support.places import SOON, eventually

pytestmark = pytest.mark.systemd

SERVICE, DOORS = "buswork.service", "buswork-doors.service"
SOCKET, TMP_SOCKET = "buswork-ipc.socket", "buswork-ipc-tmp.socket"
HUB = ["busctl", "--system", "--json=short", "call", "org.buswork", "/org/libipc", "org.libipc.Hub"]
RULES = "/etc/polkit-1/rules.d"
TCP_PORT = 9000
C, ZIG = "/run/ipc", "/tmp/.libipc-run"

# A service as anybody may write it. Arguments: its path and its mode.
ECHO = """\
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
os.umask(0o777 - int(sys.argv[2], 8))
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
while True:
    with listener.accept()[0] as client:
        while data := client.recv(65536):
            client.sendall(data)
"""
# Sends a message, and prints what comes back. Arguments: a path or port, and the message.
ASK = """\
import socket, sys
place, data = sys.argv[1], bytes.fromhex(sys.argv[2])
if place.isdecimal():
    sock = socket.create_connection(("127.0.0.1", int(place)), 10)
    sock.send(b"pong")
    assert sock.recv(2) == b"OK"
else:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(place)
sock.settimeout(10)
sock.send(data)
print(sock.recv(1000).hex())
"""
# Asks for the service pong as a program does with IPC_NETWORK set, and does the same with it.
LOOK_UP = """\
import socket, sys
path, data, form = sys.argv[1], bytes.fromhex(sys.argv[2]), sys.argv[3]
wanted = b"pong;pong unix://pong"
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(10)
    sock.connect(path)
    if form == "c":
        sock.send(b"\\3" + len(wanted).to_bytes(4) + b"\\3" + wanted)
        assert sock.recv(1000) == b"\\2\\0\\0\\0\\2\\0OK"
    else:
        sock.send(len(wanted).to_bytes(4) + wanted)
    said, (fd,), _, _ = socket.recv_fds(sock, 2, 1)
    assert said == (b"\\0" if form == "c" else b"ok")
with socket.socket(fileno=fd) as sock:
    sock.settimeout(10)
    sock.send(data)
    print(sock.recv(1000).hex())
"""
HELLO = {"c": "02000000050068656c6c6f", "zig": "0000000568656c6c6f"}


@pytest.fixture(scope="module")
def booted() -> Iterator[Container]:
    with Container() as container:
        yield container


@pytest.fixture
def container(booted: Container) -> Iterator[Container]:
    """As after the installation, and no daemon."""
    booted.run(["systemctl", "stop", SERVICE])
    booted.run(["systemctl", "reset-failed", SERVICE], check=False)  # else: too many starts
    yield booted
    assert "Traceback" not in booted.journal(SERVICE)


@contextlib.contextmanager
def running(container: Container, command: list[str], user: str = "root") -> Iterator[Process]:
    """Ends with its input: to kill what runs it out here would leave it there. Or by itself."""
    script = 'exec 3<&0; "$@" & it=$!; { read -r _ <&3; kill $it; } & wait $it; kill $!'
    words = ["sh", "-c", script, "sh", *command]
    process = container.popen(words, user, stdin=-1, stdout=-1, text=True)
    try:
        yield process
    finally:
        process.communicate(timeout=SOON)


@contextlib.contextmanager
def serving(container: Container, path: str, mode: str = "777") -> Iterator[None]:
    """A service of bob's."""
    command = [f"{HOME}/bin/python", "-c", ECHO, path, mode]
    with running(container, command, "bob") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            container.run(["rm", path])


@contextlib.contextmanager
def pong(container: Container, form: str) -> Iterator[str]:
    """The command, by the daemon's hands: only who may serve can have it. Its socket's path."""
    path = f"{C if form == 'c' else ZIG}/pong"
    command = ["buswork", "ipc", "pong", "--daemon", "--form", form, "pong"]
    with running(container, command):
        eventually(lambda: container.run(["test", "-S", path], check=False).returncode == 0)
        yield path
    eventually(lambda: container.run(["test", "-e", path], check=False).returncode != 0)


def test_the_look_up_starts_the_daemon(container: Container) -> None:
    assert container.show(SOCKET, "UnitFileState") == "enabled"
    with serving(container, f"{C}/pong"):
        said = container.python(LOOK_UP, "alice", f"{C}/network", HELLO["c"], "c")
        assert said.strip() == HELLO["c"]
    container.until_ready(SERVICE)


def test_nobody_takes_the_place_of_the_look_up(container: Container) -> None:
    for user in ("alice", "bob"):
        with pytest.raises(ContainerError, match="not permitted"):
            container.run(["rm", "-f", f"{C}/network"], user)


@pytest.mark.parametrize("form", ["c", "zig"])
def test_the_daemon_serves_where_everybody_looks(container: Container, form: str) -> None:
    """In the directories of the machine, those in /tmp included, whatever else of it is hidden."""
    with pong(container, form) as path:
        for user in ("alice", "root"):
            assert container.python(ASK, user, path, HELLO[form]).strip() == HELLO[form]
        assert listed(container)["pong"]["served"]["data"]


def listed(container: Container) -> dict[str, Any]:
    found = json.loads(container.run([*HUB, "ListServices"], "alice").stdout)["data"][0]
    return {facts["name"]["data"]: facts for facts in found}


@pytest.mark.parametrize("folder", [C, ZIG, "/tmp/libipc-run"])
def test_services_of_others_are_found(container: Container, folder: str) -> None:
    with serving(container, f"{folder}/pong"):
        facts = listed(container)["pong"]
        assert facts["alive"]["data"]
        assert facts["directory"]["data"] == folder
        assert facts["owner_uid"]["data"] == container.uid("bob")
        container.run([*HUB, "Connect", "sa{sv}", "pong", "0"])


def test_the_daemon_has_no_key_to_closed_services(container: Container) -> None:
    with (
        serving(container, f"{C}/pong", "755"),
        pytest.raises(ContainerError, match=r"buswork|allow"),
    ):
        container.run([*HUB, "Connect", "sa{sv}", "pong", "0"])


def test_who_has_no_session_is_asked_for_a_password(container: Container) -> None:
    for member in ("Connect", "OpenChannel", "Serve", "Dial"):
        with pytest.raises(ContainerError, match=r"org\.libipc\."):
            container.run([*HUB, member, "sa{sv}", "pong", "0"], "alice")


@pytest.fixture
def wanted(container: Container) -> Iterator[Container]:
    """As the unit itself says."""
    text = (REPOSITORY / "systemd" / TMP_SOCKET).read_text()
    commands = re.findall(r"^#     (systemctl .*?)(?:  \(|$)", text, re.MULTILINE)
    assert len(commands) == 2
    container.run(["sh", "-euc", "\n".join(commands)])
    yield container
    container.run(["systemctl", "disable", "--now", TMP_SOCKET])


@pytest.mark.parametrize("folder", [ZIG, "/tmp/libipc-run"])
def test_the_look_up_in_tmp_when_that_is_wanted(wanted: Container, folder: str) -> None:
    with serving(wanted, f"{folder}/pong"):
        said = wanted.python(LOOK_UP, "alice", f"{folder}/ipc", HELLO["zig"], "zig")
        assert said.strip() == HELLO["zig"]


def test_it_is_off_by_default(booted: Container) -> None:
    assert booted.show(TMP_SOCKET, "UnitFileState") == "disabled"


# --- Doors ----------------------------------------------------------------------------------------


@pytest.fixture
def doors(container: Container) -> Iterator[Container]:
    said = f"--ipc-tcp {TCP_PORT}=c --ipc-service pong --serve-uid alice"
    setting = f'[Service]\nEnvironment="DOORS={said}"\n'
    container.run(["mkdir", "-p", f"/etc/systemd/system/{DOORS}.d"])
    container.run(["tee", f"/etc/systemd/system/{DOORS}.d/doors.conf"], stdin=setting)
    container.run(["systemctl", "daemon-reload"])
    container.run(["systemctl", "enable", "--now", "buswork-doors"])
    yield container
    container.run(["systemctl", "disable", "--now", "buswork-doors", "buswork-doors.socket"])


def test_the_doors_lead_whom_polkit_lets_to_services(doors: Container) -> None:
    with serving(doors, f"{C}/pong"):
        assert asked(doors, "alice") == ""
        rule = f"{PROJECT}/polkit/examples/50-buswork-doors.rules"
        doors.run(["install", "-m", "0644", rule, RULES])
        assert eventually(lambda: asked(doors, "alice")) == HELLO["c"]
        assert asked(doors, "bob") == ""
    assert "Traceback" not in doors.journal(DOORS)
    doors.run(["rm", f"{RULES}/50-buswork-doors.rules"])


def asked(container: Container, user: str) -> str:
    try:
        return container.python(ASK, user, str(TCP_PORT), HELLO["c"]).strip()
    except ContainerError:
        return ""


def test_nobody_but_the_doors_goes_their_way(container: Container) -> None:
    code = "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)"
    code += ".connect('/run/buswork/ipc.sock')"
    for user in ("alice", "buswork"):
        with pytest.raises(ContainerError, match="PermissionError"):
            container.python(code, user)
    container.python(code, "buswork-doors")

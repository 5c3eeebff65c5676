"""The doors of libipc under a real systemd, with the shipped units: in for those who were named, to
what they may reach themselves, and out to another host's door."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from support.container import HOME, PROJECT, Container, ContainerError

pytestmark = pytest.mark.systemd

SERVICE, DOORS, DOORS_SOCKET = "buswork.service", "buswork-doors.service", "buswork-doors.socket"
RULE = f"{PROJECT}/polkit/examples/50-buswork-doors.rules"
RULES = "/etc/polkit-1/rules.d"
TOKEN = "0123456789abcdefABCD_-"
TCP, WS, FAR = 9000, 9001, 9002
ORIGIN = "http://localhost:8000"

# A service of the C form, as one with this mode.
PONG = """\
import asyncio, sys
from buswork.libipc import Received, serve
async def main():
    async with serve(sys.argv[1], mode=int(sys.argv[2], 8)) as service:
        print("ready", flush=True)
        async for event in service:
            if isinstance(event, Received):
                event.connection.send_message(event.message)
asyncio.run(main())
"""
# An original's TCP client: the name, then a message.
CLIENT = f"""\
import socket, sys
with socket.create_connection(("localhost", {TCP}), 5) as sock:
    try:
        sock.send(sys.argv[1].encode())
        agreed = sock.recv(2)
    except ConnectionResetError:
        agreed = b""
    if agreed:
        sock.send(bytes.fromhex("02000000072a636f75636f7500"))
        print(agreed.decode(), sock.recv(100).hex())
    else:
        print("nothing")
"""
# What a page does, with a token that it may know.
PAGE = f"""\
import sys
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
protocols = ["buswork.libipc.c", "buswork.token." + sys.argv[1]]
try:
    with connect("ws://localhost:{WS}/pong", origin="{ORIGIN}", subprotocols=protocols) as page:
        page.send(bytes([42]) + b"hello")
        print(page.recv(5))
except InvalidStatus as error:
    print(error.response.status_code)
"""
# Another host's door.
ELSEWHERE = f"""\
import socket
with socket.create_server(("127.0.0.1", {FAR})) as listener:
    print("ready", flush=True)
    while True:
        sock, _ = listener.accept()
        with sock:
            print(sock.recv(100).decode(), flush=True)
            sock.send(b"OK")
            while data := sock.recv(100):
                sock.send(data)
"""
DIAL = """\
import asyncio, sys
from buswork.client import Client
async def main():
    async with Client() as client:
        sock = await client.libipc.dial_socket(sys.argv[1], form="c")
    with sock:
        sock.send(bytes.fromhex("02000000032a616263"))
        print(sock.recv(100).hex())
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def booted() -> Iterator[Container]:
    with Container() as container:
        container.run(["install", "-d", "/etc/buswork"])
        command = ["install", "-m", "0600", "/dev/stdin", "/etc/buswork/token"]
        container.run(command, stdin=TOKEN)
        start(container, PONG, "alice", "pong", "777")
        start(container, PONG, "bob", "private", "700")
        start(container, ELSEWHERE, "bob")
        yield container


def start(container: Container, code: str, user: str, *arguments: str) -> None:
    """Returns when it says that it is ready."""
    command = [f"{HOME}/bin/python", "-c", code, *arguments]
    process = container.popen(command, user, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


@pytest.fixture
def container(booted: Container) -> Iterator[Container]:
    """With the doors open for alice."""
    said = "--serve-uid alice --ipc-service pong --ipc-service private --ipc-service none "
    said += f"--ipc-tcp {TCP}=c --ipc-ws {WS} --ipc-origin {ORIGIN} --ipc-token-file %d/token "
    said += f"--ipc-dial localhost:{FAR} --serve-uid root"
    setting = f'[Service]\nEnvironment="DOORS={said}"\nLoadCredential=token:/etc/buswork/token\n'
    booted.run(["mkdir", "-p", f"/etc/systemd/system/{DOORS}.d"])
    booted.run(["tee", f"/etc/systemd/system/{DOORS}.d/doors.conf"], stdin=setting)
    booted.run(["systemctl", "daemon-reload"])
    booted.run(["systemctl", "enable", "--now", "buswork-doors"])
    yield booted
    booted.run(["systemctl", "disable", "--now", "buswork-doors", DOORS_SOCKET])
    booted.run(["systemctl", "stop", SERVICE])
    booted.run(["rm", "-f", f"{RULES}/50-buswork-doors.rules"])
    booted.run(["systemctl", "stop", "polkit"])


@pytest.fixture
def allowed(container: Container) -> Container:
    """And polkit lets the doors through."""
    container.run(["install", "-m", "0644", RULE, RULES])
    container.run(["systemctl", "restart", "polkit"])  # which notices it by itself, but later
    return container


def ask(container: Container, name: str, user: str) -> str:
    return container.python(CLIENT, user, name).strip()


def test_they_lead_nowhere_until_polkit_lets_them(container: Container) -> None:
    assert ask(container, "pong", "alice") == "nothing"
    assert "org.libipc.connect" in container.journal(DOORS)


def test_a_program_of_who_was_named_reaches_a_service(allowed: Container) -> None:
    assert ask(allowed, "pong", "alice") == "OK 02000000072a636f75636f7500"
    assert ask(allowed, "pong", "bob") == "nothing"
    assert f"uid {allowed.uid('bob')}: is not served here" in allowed.journal(DOORS)


def test_root_does_not_come_in(allowed: Container) -> None:
    assert ask(allowed, "pong", "root") == "nothing"
    assert "root does not come in" in allowed.journal(DOORS)


def test_what_its_socket_would_refuse_alice_the_door_refuses_her(allowed: Container) -> None:
    assert ask(allowed, "private", "alice") == "nothing"
    said = allowed.journal(DOORS)
    assert "0700" in said
    assert ask(allowed, "none", "alice") == "nothing"
    assert ask(allowed, "secret", "alice") == "nothing"


def test_a_page_needs_the_token_that_systemd_hands_over(allowed: Container) -> None:
    assert allowed.python(PAGE, "alice", TOKEN).strip() == str(b"*hello")
    assert allowed.python(PAGE, "alice", "x" * 22).strip() == "401"
    assert TOKEN not in allowed.journal(DOORS)


def test_another_host_s_door_is_dialled_for_who_may(container: Container) -> None:
    there = f"tcp://localhost:{FAR}/pong"
    assert container.python(DIAL, "root", there).strip() == "02000000032a616263"
    with pytest.raises(ContainerError, match=r"--ipc-dial"):
        container.python(DIAL, "root", "tcp://localhost:9/pong")
    with pytest.raises(ContainerError, match=r"org\.libipc\.dial|InteractiveAuthorization"):
        container.python(DIAL, "alice", there)


def test_nobody_but_the_doors_may_use_the_passage(container: Container) -> None:
    code = """\
import socket
socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect("/run/buswork/ipc.sock")
"""
    for user in "alice", "buswork":
        with pytest.raises(ContainerError, match="PermissionError"):
            container.python(code, user)
    container.python(code, "buswork-doors")


def test_the_process_still_has_no_rights(container: Container) -> None:
    pid = container.show(DOORS, "MainPID")
    text = container.run(["cat", f"/proc/{pid}/status"]).stdout
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    families = set(container.show(DOORS, "RestrictAddressFamilies").split())
    assert families == {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"}

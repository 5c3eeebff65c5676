"""The driver's socket and its memory, under a real systemd with the shipped units."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.container import Container

pytestmark = pytest.mark.systemd

SERVICE, SOCKET = "buswork.service", "buswork-fsct.socket"
DRIVER = ["org.buswork", "/org/fsct/Driver", "org.fsct.Driver"]

# Registers a player on the socket, does what the arguments say, and says what D-Bus has of it.
NATIVE = """\
import msgpack, socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("/run/fsct/fsct.sock")
    for msgid, request in enumerate((["register_player", ["mine"]], *map(eval, sys.argv[1:]))):
        sock.sendall(msgpack.packb([0, msgid, *request]))
        _, _, error, result = msgpack.unpackb(sock.recv(65536))
        print(error or result)
"""


@pytest.fixture(scope="module")
def booted() -> Iterator[Container]:
    with Container() as container:
        yield container


@pytest.fixture
def container(booted: Container) -> Container:
    """With the socket as after the installation, and no daemon."""
    booted.run(["systemctl", "stop", SERVICE])
    booted.run(["systemctl", "reset-failed", SERVICE], check=False)
    booted.run(["systemctl", "start", SOCKET])
    return booted


def call(container: Container, user: str, member: str, *arguments: str) -> Any:
    command = ["busctl", "--system", "--json=short", "call", *DRIVER, member, *arguments]
    said = container.run(command, user).stdout
    return json.loads(said)["data"] if said.strip() else None


def test_the_first_player_starts_the_daemon(container: Container) -> None:
    assert container.show(SOCKET, "UnitFileState") == "enabled"
    assert container.show(SERVICE, "ActiveState") == "inactive"
    said = container.python(NATIVE, "alice", '["get_preferred_player", []]')
    assert said.split() == ["1", "None"]
    container.until_ready(SERVICE)
    facts = container.run(["stat", "-c", "%a %U", "/run/fsct", "/run/fsct/fsct.sock"]).stdout
    assert facts.splitlines() == ["755 root", "666 root"]


def test_polkit_is_asked_about_native_players(container: Container) -> None:
    """ssh and services have no seat: they don't choose what others look at."""
    prefer = '["set_preferred_player", [1]]'
    assert "org.fsct.driver.route" in container.python(NATIVE, "alice", prefer)
    assert container.python(NATIVE, "root", prefer.replace("1", "2")).split() == ["2", "None"]


def test_no_devices_are_no_trouble(container: Container) -> None:
    assert call(container, "alice", "ListDevices") == [[]]
    assert "Traceback" not in container.journal(SERVICE)


def test_the_preferred_player_is_remembered(container: Container) -> None:
    assert container.python(NATIVE, "root", '["set_preferred_player", [1]]').split()[0] == "1"
    container.run(["systemctl", "restart", SERVICE])
    facts = container.run(["stat", "-c", "%a %U", "/var/lib/buswork"]).stdout
    assert facts.strip() == "700 buswork"
    assert container.python(NATIVE, "alice", '["get_preferred_player", []]').split()[1] == "None"
    assert container.python(NATIVE, "root", '["get_preferred_player", []]').split() == ["2", "2"]

"""What docs/sandboxes.md says, tried: user namespaces as containers have them, flatpak's proxy."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine import Machine
from support.places import eventually

pytestmark = pytest.mark.system

NAMES = ("mapipc_set", "mapipc_get")
STORE = ("/org/mapipc/Store", "org.mapipc.Store")
# As rootless containers have it: who starts them is root inside, and nobody else is there.
CONTAINER = ("unshare", "--user", "--map-root-user", "--")
CLI = (sys.executable, "-m", "buswork.cli", "--no-interaction")
# Everything that a proxy has to let through: descriptors, signals to all and to one.
CALLER = """\
import asyncio
from buswork.client import Client
from buswork.libipc import serve

async def main():
    async with Client() as client, serve("boxed", mode=0o666) as service:
        heard = asyncio.Event()
        await client.store.on_changed(lambda *_: heard.set())
        reader = await client.store.open_reader()
        await client.store.set("key", "value")
        await heard.wait()
        print("shared memory", reader.get("key"))
        async with client.libipc.channel("boxed") as channel:
            await channel.send(b"ping")
            async for event in service:
                if hasattr(event, "message"):
                    event.connection.send(b"pong")
                    break
            print("message", (await channel.receive()).payload)

asyncio.run(asyncio.wait_for(main(), 20))
"""
RULE = """\
polkit.addRule(function (action) {
    return action.id == "org.libipc.connect" ? polkit.Result.YES : polkit.Result.NOT_HANDLED;
});
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(rules=[RULE]) as machine:
        listeners = []
        for name in NAMES:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(machine.tmp / name))
            (machine.tmp / name).chmod(0o666)
            listener.listen()
            listeners.append(listener)
        rundir = machine.tmp / "ipc"
        rundir.mkdir()
        rundir.chmod(0o1777)
        machine.start_daemon(
            *("--simulate", "--ipc-rundir", f"c={rundir}"),
            fds=[("store", listener.fileno()) for listener in listeners],
        )
        for listener in listeners:
            listener.close()
        yield machine


def inside(machine: Machine, *command: str, check: bool = True):
    """What alice's container does."""
    places = {name.upper(): str(machine.tmp / name) for name in NAMES}
    return machine.run([*CONTAINER, *command], "alice", env=places, check=check)


def writer(machine: Machine, key: str) -> int:
    uid = machine.client("bob").call(*STORE, "Describe", "s", key).value["uid"]
    number: int = getattr(uid, "value", uid)
    return number


def test_whoever_is_root_inside_is_who_he_is_for_the_bus(machine):
    assert inside(machine, "id", "-u").stdout == "0\n"
    inside(machine, *CLI, "store", "set", "by-bus", "value")
    assert writer(machine, "by-bus") == machine.uid("alice")
    refused = inside(machine, *CLI, "store", "clear", check=False)
    assert (refused.returncode, "org.mapipc.store.clear" in refused.stderr) == (4, True)


def test_and_for_the_native_sockets(machine):
    globstash = (sys.executable, "-m", "buswork.thin.globstash")
    inside(machine, *globstash, "set", "by-socket", "value")
    assert writer(machine, "by-socket") == machine.uid("alice")
    own = f"~{machine.uid('alice')}/key"
    inside(machine, *globstash, "set", own, "mine")
    assert inside(machine, *globstash, "get", own).stdout == "mine"
    assert inside(machine, *globstash, "set", "~0/key", "roots", check=False).returncode == 1


def test_a_number_without_a_name_has_the_native_sockets_alone(machine):
    """As a user of a container has who is not root there: his number is one of /etc/subuid."""
    nameless = ("setpriv", "--reuid=165537", "--regid=165537", "--clear-groups", "--")
    places = {name.upper(): str(machine.tmp / name) for name in NAMES}
    globstash = (sys.executable, "-m", "buswork.thin.globstash")
    machine.run([*nameless, *globstash, "set", "nameless", "value"], env=places)
    assert writer(machine, "nameless") == 165537
    done = machine.run([*nameless, *CLI, "store", "get", "nameless"], check=False)
    assert done.returncode == 3


@pytest.fixture(scope="module")
def proxy(machine: Machine) -> dict[str, str]:
    """The system bus as flatpak shows it with --system-talk-name=org.buswork."""
    program = shutil.which("xdg-dbus-proxy")
    if program is None:
        pytest.skip("not installed: xdg-dbus-proxy")
    place: Path = machine.tmp / "proxy"
    bus = f"unix:path={machine.socket_path}"
    machine.popen([program, bus, str(place), "--filter", "--talk=org.buswork"], "alice")
    eventually(place.exists)
    return {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={place}"}


def test_descriptors_and_signals_pass_the_proxy(machine, proxy):
    environment = proxy | {"IPC_RUNDIR": str(machine.tmp / "ipc")}
    done = machine.run([sys.executable, "-c", CALLER], "alice", env=environment)
    assert done.stdout == "shared memory b'value'\nmessage b'pong'\n"
    assert writer(machine, "key") == machine.uid("alice")


def test_the_proxy_shows_nothing_else(machine, proxy):
    done = machine.run([*CLI, "view", "ps"], "alice", env=proxy, check=False)
    assert (done.returncode, "ServiceUnknown" in done.stderr) == (3, True)

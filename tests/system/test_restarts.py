"""What the daemon lives with, dies and comes back: systemd's watchdog over it, the bus, polkit.
With the shipped units under a real systemd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.container import Container
from support.machine import Client
from support.places import (
    CLEAR,
    DAEMON,
    STORE,
    WRITE,
    deny,
    eventually,
    get_key,
    refused,
    set_key,
    store,
)
from support.seats import Caller, PromptedAgent

pytestmark = pytest.mark.systemd

SERVICE, DOORS, APPVIEW = "buswork.service", "buswork-doors.service", "buswork-appview.service"
INSPECTOR = ("/org/appview", "org.appview.Inspector")
RULE = "/etc/polkit-1/rules.d/00-test.rules"

# The native sockets, each told something: who serves it answers, or hangs up. Where there is only
# systemd, nobody does either.
ASK_ALL = """\
import msgpack, socket
WANTED = b"pong;pong unix://pong"
def ask(path, said, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.settimeout(20)
        sock.connect(path)
        sock.send(said)
        sock.recv(65536)
ask("/run/buswork/mapipc_get", b"\\0mapipc-reader\\n")
ask("/run/fsct/fsct.sock", msgpack.packb([0, 7, "get_preferred_player", []]))
ask("/run/ipc/network", b"\\3" + len(WANTED).to_bytes(4) + b"\\3" + WANTED)
ask("/run/buswork/fmr.sock", bytes(8), socket.SOCK_SEQPACKET)
"""


@pytest.fixture(scope="module")
def booted() -> Iterator[Container]:
    with Container() as container:
        yield container


@pytest.fixture
def container(booted: Container) -> Container:
    """With the daemon."""
    # Else there would be too many starts, of polkit too.
    booted.run(["systemctl", "reset-failed", SERVICE, APPVIEW, "polkit.service"], check=False)
    booted.run(["systemctl", "start", SERVICE])
    return booted


def main_pid(container: Container, unit: str = SERVICE) -> int:
    return int(container.show(unit, "MainPID"))


def until_another(container: Container, before: int, unit: str = SERVICE) -> None:
    """Than the process that was there."""
    eventually(lambda: main_pid(container, unit) not in (0, before), 30)
    container.until_ready(unit)


def check_served(container: Container) -> None:
    """At all its doors."""
    container.python(ASK_ALL, "alice")
    client = Caller(container, "alice")
    assert client.get(*DAEMON, "ApiVersion") == 1
    client.close()


# --- The watchdog ---------------------------------------------------------------------------------


@pytest.fixture
def watched(container: Container) -> Iterator[Container]:
    """All three with a watchdog that does not take a test's patience, and else as they are."""
    for unit in (SERVICE, DOORS, APPVIEW):
        folder = f"/run/systemd/system/{unit}.d"
        container.run(["mkdir", "-p", folder])
        container.run(["tee", f"{folder}/test.conf"], stdin="[Service]\nWatchdogSec=2s\n")
    container.run(["systemctl", "daemon-reload"])
    container.run(["systemctl", "restart", SERVICE, DOORS, APPVIEW])
    yield container
    for unit in (SERVICE, DOORS, APPVIEW):
        container.run(["rm", "-r", f"/run/systemd/system/{unit}.d"])
    container.run(["systemctl", "daemon-reload"])
    container.run(["systemctl", "stop", DOORS])


def test_who_hangs_is_killed_and_started_again(watched: Container) -> None:
    watched.run(["globstash", "set", "key", "value"], "alice")
    before = {unit: main_pid(watched, unit) for unit in (SERVICE, DOORS, APPVIEW)}
    watched.run(["kill", "-STOP", *map(str, before.values())])
    for unit, pid in before.items():
        until_another(watched, pid, unit)
        assert "Watchdog timeout" in watched.journal(unit)
    assert watched.run(["globstash", "get", "key"], "bob").stdout == "value"
    check_served(watched)
    # Who does not hang says so, again and again.
    for unit in before:
        said = watched.show(unit, "WatchdogTimestampMonotonic")
        eventually(lambda unit=unit, said=said: heard_again(watched, unit, said))


def heard_again(container: Container, unit: str, before: str) -> bool:
    return container.show(unit, "WatchdogTimestampMonotonic") != before


# --- The bus --------------------------------------------------------------------------------------


def scan(container: Container) -> None:
    client = Caller(container)
    client.call(*INSPECTOR, "Scan", destination="org.buswork.AppView")
    client.close()


def test_the_bus_is_killed(container: Container) -> None:
    container.run(["globstash", "set", "key", "value"], "alice")
    scan(container)
    before = {unit: main_pid(container, unit) for unit in (SERVICE, APPVIEW)}
    container.run(["systemctl", "kill", "--signal=KILL", "dbus.service"])
    for unit, pid in before.items():
        until_another(container, pid, unit)
        journal = container.journal(unit)
        assert "the bus is gone" in journal
        assert "code=exited, status=1/FAILURE" in journal
    check_served(container)
    assert container.run(["globstash", "get", "key"], "bob").stdout == "value"
    scan(container)


def test_the_bus_reads_its_policies_again(container: Container) -> None:
    before = main_pid(container)
    container.run(["systemctl", "reload", "dbus.service"])
    check_served(container)
    assert main_pid(container) == before


# --- polkit ---------------------------------------------------------------------------------------


@pytest.fixture
def alice(container: Container) -> Iterator[Client]:
    client = Caller(container, "alice")
    yield client
    client.close()
    container.run(["rm", "-f", RULE])


def kill_polkit(container: Container) -> None:
    container.run(["systemctl", "kill", "--signal=KILL", "polkit.service"])


def test_polkit_is_killed_while_somebody_reads_its_prompt(
    container: Container, alice: Client
) -> None:
    set_key(alice, "key", "value")
    with PromptedAgent(container, alice.pid, "hang") as agent:
        waiting = alice.begin(*STORE, "Clear", flags=Client.INTERACTIVE)
        agent.wait_asked()
        kill_polkit(container)
        with refused("AccessDenied", CLEAR, "polkit can't be asked"):
            alice.end(waiting)
    # The next question starts polkit, which knows of no agent.
    with refused("InteractiveAuthorizationRequired", CLEAR):
        store(alice, "Clear", interactive=False)
    assert get_key(alice, "key") == "value"


def test_polkit_is_killed_amid_a_question(container: Container, alice: Client) -> None:
    """And with it go the answers that were kept."""
    bob = Caller(container, "bob")
    set_key(alice, "key", "before")
    container.run(["systemctl", "kill", "--signal=STOP", "polkit.service"])
    waiting = bob.begin(*STORE, "Set", "ss", "key", "amid")
    set_key(alice, "key", "kept")  # nobody is asked
    container.run(["tee", RULE], stdin=deny(WRITE))
    container.run(["chmod", "644", RULE])
    kill_polkit(container)
    with refused("AccessDenied", WRITE, "polkit can't be asked"):
        bob.end(waiting)
    with refused("AccessDenied", WRITE):
        set_key(alice, "key", "after")
    set_key(bob, "key", "asked again")
    assert get_key(alice, "key") == "asked again"
    bob.close()


def test_nothing_went_wrong(booted: Container) -> None:
    for unit in (SERVICE, DOORS, APPVIEW):
        assert "Traceback" not in booted.journal(unit)

"""The AppArmor profiles on Debian's own kernel: nothing that processes need is denied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from support.container import HOME
from support.vm import APPARMOR, PATIENCE, PROFILES, VirtualMachine

needs_parser = pytest.mark.skipif(
    shutil.which("apparmor_parser") is None, reason="not installed: apparmor_parser"
)
pytestmark = [pytest.mark.vm, needs_parser]


@pytest.fixture(scope="module")
def confined(booted: VirtualMachine) -> Iterator[VirtualMachine]:
    for name in PROFILES:
        folder = f"/run/systemd/system/{name}.service.d"
        booted.run(["mkdir", "-p", folder])
        booted.run(["tee", f"{folder}/patience.conf"], stdin=PATIENCE)
        booted.run(["apparmor_parser", "--replace", f"{APPARMOR}/{name}"])
    booted.run(["systemctl", "daemon-reload"])
    booted.run(["systemctl", "stop", "buswork"])
    booted.run(["dmesg", "--clear"])
    yield booted
    booted.unplug_all()


@pytest.fixture(autouse=True)
def nothing_is_denied(confined: VirtualMachine) -> Iterator[None]:
    yield
    found = denied(confined)
    assert not found, "\n".join(found)


def denied(machine: VirtualMachine) -> list[str]:
    said = machine.run(["dmesg", "--read-clear"]).stdout.splitlines()
    return [line for line in said if 'apparmor="DENIED"' in line]


def start(machine: VirtualMachine, unit: str) -> None:
    machine.run(["systemctl", "restart", unit])
    pid = machine.show(f"{unit}.service", "MainPID")
    name = "busworkd" if unit == "buswork" else unit
    confinement = machine.run(["cat", f"/proc/{pid}/attr/current"]).stdout
    assert confinement == f"{name} (enforce)\n"


def test_the_daemon(confined: VirtualMachine) -> None:
    """All wings, by D-Bus and by their sockets, and with devices."""
    machine = confined
    start(machine, "buswork")
    machine.run(["buswork", "store", "set", "key", "value"], "alice")
    assert machine.run(["globstash", "get", "key"], "bob").stdout.strip() == "value"
    dac, board = machine.plug("dac"), machine.plug("board")
    machine.until(lambda: "carbon" in machine.run(["buswork", "flipper", "list"]).stdout)
    machine.run(["buswork", "flipper", "led", "1", "2", "3"])
    assert "light: #010203" in machine.board(board)
    playing = ["buswork", "fsct", "play", "--title", "Confined"]
    machine.run(["systemd-run", "--unit=playing", *playing])
    machine.until(lambda: any("Confined" in line for line in machine.display(dac)))
    machine.run(["buswork", "fsct", "prefer", "1"])  # and that is remembered
    machine.unplug(dac)
    machine.unplug(board)
    serving = ["buswork", "ipc", "listen", "--daemon", "--count", "1", "pong"]
    machine.run(["systemd-run", "--unit=pong", *serving])
    machine.until(lambda: "pong" in machine.run(["buswork", "ipc", "list"]).stdout)
    machine.run(["buswork", "ipc", "send", "--daemon", "--no-reply", "pong", "hello"])
    machine.run(["systemctl", "stop", "playing", "buswork"])


def test_viewed_processes(confined: VirtualMachine) -> None:
    machine = confined
    start(machine, "buswork-appview")
    viewed = f"sleep infinity | {HOME}/bin/python -m buswork.sim.viewed --period 0.1 --name viewed"
    machine.run(["systemd-run", "--uid=alice", "--unit=viewed", "sh", "-c", viewed])
    listing = ["buswork", "view", "ps", "--others"]
    machine.until(lambda: "viewed" in machine.run(listing).stdout)
    for command in ("inspect", "detach", "attach"):
        machine.run(["buswork", "view", command, "--others", "viewed"])
    machine.run(["systemctl", "stop", "viewed", "buswork-appview"])


def test_the_doors(confined: VirtualMachine) -> None:
    options = "--serve-uid alice --fmr-door bench=3258 --ipc-service pong --ipc-tcp 9000=c"
    unit = f'[Service]\nEnvironment="DOORS={options}"\n'
    confined.run(["tee", "/run/systemd/system/buswork-doors.service.d/doors.conf"], stdin=unit)
    confined.run(["systemctl", "daemon-reload"])
    start(confined, "buswork-doors")
    asked = "exec 3<>/dev/tcp/127.0.0.1/9000; echo pong >&3; cat <&3"
    confined.run(["bash", "-c", asked], "alice", check=False)
    confined.run(["systemctl", "stop", "buswork-doors"])

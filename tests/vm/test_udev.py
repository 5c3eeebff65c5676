"""udev ends and comes back behind the running daemon, which hears of devices all the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from support.vm import Device, VirtualMachine

pytestmark = pytest.mark.vm

SERVICE, UDEV = "buswork.service", "systemd-udevd.service"
TO_INTERFACE = "0x41"  # of a vendor's own requests


@pytest.fixture
def daemon(machine: VirtualMachine) -> Iterator[str]:
    """Its process, which is the same in the end."""
    pid = machine.show(SERVICE, "MainPID")
    yield pid
    assert machine.show(SERVICE, "MainPID") == pid
    assert "Traceback" not in machine.journal(SERVICE)


def displays(machine: VirtualMachine) -> list[str]:
    command = ["busctl", "--system", "--json=short", "call", "org.buswork"]
    command += ["/org/fsct/Driver", "org.fsct.Driver", "ListDevices"]
    found: list[str] = json.loads(machine.run(command).stdout)["data"][0]
    return found


def until_so_many(machine: VirtualMachine, count: int) -> None:
    machine.until(lambda: len(displays(machine)) == count)


def incarnation(machine: VirtualMachine) -> str:
    """How often the only board was opened; nothing if there is none."""
    command = ["busctl", "--system", "call", "org.buswork", "/org/flipper"]
    command += ["org.freedesktop.DBus.ObjectManager", "GetManagedObjects"]
    found = re.search(r'"Incarnation" t (\d+)', machine.run(command).stdout)
    return found[1] if found else ""


def is_driven(machine: VirtualMachine, device: Device) -> bool:
    """Whether the daemon has told it something: nobody else does."""
    return any(entry.get("bmRequestType") == TO_INTERFACE for entry in machine.record(device))


def udev_pid(machine: VirtualMachine) -> int:
    return int(machine.show(UDEV, "MainPID"))


def test_udev_is_killed(machine: VirtualMachine, daemon: str) -> None:
    first = machine.plug()
    until_so_many(machine, 1)
    before = udev_pid(machine)
    machine.run(["systemctl", "kill", "--signal=KILL", UDEV])
    machine.until(lambda: udev_pid(machine) not in (0, before))
    assert len(displays(machine)) == 1
    machine.plug()
    until_so_many(machine, 2)
    machine.unplug(first)
    until_so_many(machine, 1)


def test_a_device_that_comes_while_there_is_no_udev(machine: VirtualMachine, daemon: str) -> None:
    """Its mark and its group are udev's: until then nobody knows whose it is."""
    first = machine.plug()
    until_so_many(machine, 1)
    sockets = ["systemd-udevd-control.socket", "systemd-udevd-kernel.socket"]
    machine.run(["systemctl", "stop", UDEV, *sockets])
    machine.unplug(first)
    second = machine.plug_unseen()
    assert not is_driven(machine, second)
    machine.run(["systemctl", "start", *sockets, UDEV])
    machine.run(["udevadm", "trigger", "--subsystem-match=usb", "--action=add"])
    machine.until(lambda: is_driven(machine, second))
    until_so_many(machine, 1)


def test_devices_are_told_of_once_more(machine: VirtualMachine, daemon: str) -> None:
    """As after an update of udev: who has a device keeps it."""
    machine.plug("board")
    machine.until(lambda: incarnation(machine))
    before = incarnation(machine)
    machine.run(["udevadm", "trigger", "--subsystem-match=usb", "--action=change"])
    machine.run(["udevadm", "settle"])
    machine.plug()
    until_so_many(machine, 1)  # the board's turn was before this
    assert incarnation(machine) == before

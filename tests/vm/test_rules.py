"""udev's rules and their probe, on the real udev: which devices are the daemon's, and whose not."""

from __future__ import annotations

import pytest
from support.vm import Device, VirtualMachine

pytestmark = pytest.mark.vm

OURS, NOBODYS = "660 root buswork", "664 root root"
# What the kernel itself asks for when a device comes: how long the BOS is, and all of it.
KERNELS_QUESTIONS = 2

OPEN = "import os, sys; os.close(os.open(sys.argv[1], os.O_RDWR))"
# The access that a person at the screen has to a camera, for devices that are none of ours.
UACCESS = """\
SUBSYSTEM=="usb", ATTR{idProduct}=="0002", TAG+="uaccess"
"""


def node(machine: VirtualMachine, device: Device) -> str:
    return machine.run(["stat", "--format=%a %U %G", device.node]).stdout.strip()


def is_marked(machine: VirtualMachine, device: Device) -> bool:
    return machine.udev(device).get("ID_FSCT") == "1"


def bos_questions(machine: VirtualMachine, device: Device) -> int:
    return sum(entry.get("wValue") == "0x0f00" for entry in machine.record(device))


def active_session(machine: VirtualMachine) -> str:
    command = ["loginctl", "show-seat", "seat0", "--property=ActiveSession", "--value"]
    return machine.run(command).stdout.strip()


@pytest.mark.parametrize("interface", [0, 1])
def test_a_display_is_the_daemons(machine: VirtualMachine, interface: int) -> None:
    """Also if udev's own list of interfaces lacks the one that matters: it is the last one, and
    has no endpoints."""
    dac = machine.plug(interface=interface)
    assert is_marked(machine, dac)
    assert node(machine, dac) == OURS


def test_others_are_left_alone(machine: VirtualMachine) -> None:
    for protocol, asked in ((1, True), (2, False)):
        other = machine.plug("lookalike", protocol=protocol)
        assert "ID_FSCT" not in machine.udev(other)
        assert node(machine, other) == NOBODYS
        assert (bos_questions(machine, other) > KERNELS_QUESTIONS) == asked


def test_an_old_usb_device_is_not_asked(machine: VirtualMachine) -> None:
    old = machine.plug("old")
    assert not is_marked(machine, old)
    assert bos_questions(machine, old) == 0


def test_what_does_not_answer_at_once_is_asked_again(machine: VirtualMachine) -> None:
    dac = machine.plug("shy", after=KERNELS_QUESTIONS)
    assert is_marked(machine, dac)
    assert node(machine, dac) == OURS


def test_an_administrator_can_keep_a_device(machine: VirtualMachine) -> None:
    rules = "/etc/udev/rules.d/50-test.rules"
    text = 'SUBSYSTEM=="usb", ATTR{serial}=="MINE", ENV{BUSWORK_IGNORE}="1"\n'
    machine.run(["tee", rules], stdin=text)
    try:
        machine.run(["udevadm", "control", "--reload"])
        dac = machine.plug(serial="MINE")
        assert not is_marked(machine, dac)
        assert node(machine, dac) == NOBODYS
    finally:
        machine.run(["rm", rules])
        machine.run(["udevadm", "control", "--reload"])


def test_who_sits_at_the_screen_gets_no_way_past_the_daemon(machine: VirtualMachine) -> None:
    rules = "/etc/udev/rules.d/70-test.rules"
    machine.run(["tee", rules], stdin=UACCESS)
    session = ["systemd-run", "--unit=test-session", "--collect", "-p", "PAMName=login"]
    session += ["-p", "User=alice", "-E", "XDG_SEAT=seat0", "-E", "XDG_SESSION_TYPE=wayland"]
    session += ["-E", "XDG_VTNR=1", "-E", "XDG_SESSION_CLASS=user", "sleep", "600"]
    try:
        machine.run(["udevadm", "control", "--reload"])
        machine.run(session)
        machine.until(lambda: active_session(machine))
        other, dac = machine.plug("lookalike"), machine.plug()

        def opens(device: Device, user: str) -> bool:
            command = ["/usr/bin/python3", "-c", OPEN, device.node]
            return machine.run(command, user, check=False).returncode == 0

        machine.until(lambda: opens(other, "alice"))  # by the rule of this test
        assert not opens(other, "bob")
        assert not opens(dac, "alice")
        assert not opens(dac, "bob")
    finally:
        machine.run(["systemctl", "stop", "test-session"], check=False)
        machine.run(["rm", rules])
        machine.run(["udevadm", "control", "--reload"])

"""Flipper boards on a real kernel: whose they are, and the way from a caller to their light through
the daemon in its sandbox."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.vm import Device, VirtualMachine

pytestmark = pytest.mark.vm

SERVICE = "buswork.service"
OURS, NOBODYS = "660 root buswork", "664 root root"
ROOT, DEVICE = "/org/flipper", "org.flipper.Device"
MANAGER = "org.freedesktop.DBus.ObjectManager"
# Ends with the number of the error, 0 if there is none.
OPEN = """\
import os, sys
try:
    os.close(os.open(sys.argv[1], os.O_RDWR))
except OSError as error:
    sys.exit(error.errno)
"""
EACCES = 13


def facts(machine: VirtualMachine, device: Device) -> str:
    return machine.run(["stat", "--format=%a %U %G", device.node]).stdout.strip()


def opening(machine: VirtualMachine, device: Device, user: str) -> int:
    command = ["/usr/bin/python3", "-c", OPEN, device.node]
    return machine.run(command, user, check=False).returncode


def boards(machine: VirtualMachine) -> dict[str, Any]:
    """The facts of each, by its path."""
    command = ["busctl", "--system", "--json=short", "call", "org.buswork", ROOT, MANAGER]
    (found,) = json.loads(machine.run([*command, "GetManagedObjects"], "alice").stdout)["data"]
    return {path: each[DEVICE] for path, each in found.items() if DEVICE in each}


def until_there(machine: VirtualMachine) -> dict[str, Any]:
    machine.until(lambda: len(boards(machine)) == 1)
    (known,) = boards(machine).values()
    return {name: each["data"] for name, each in known.items()}


def test_a_board_is_the_daemons(machine: VirtualMachine) -> None:
    board, neighbour = machine.plug("board"), machine.plug("neighbour")
    assert (facts(machine, board), facts(machine, neighbour)) == (OURS, NOBODYS)
    assert "uaccess" not in machine.udev(board).get("TAGS", "")
    assert opening(machine, board, "alice") == EACCES
    assert opening(machine, board, "buswork") == 0
    machine.unplug(neighbour)
    assert until_there(machine)["Transport"] == "usb"


def test_its_light(machine: VirtualMachine) -> None:
    """By the shipped unit, which may open USB devices and no others."""
    board = machine.plug("board")
    until_there(machine)
    assert machine.show(SERVICE, "DevicePolicy") == "closed"
    assert "char-usb_device rw" in machine.show(SERVICE, "DeviceAllow").splitlines()
    machine.run(["buswork", "flipper", "led", "1", "2", "3"])
    assert "light: #010203" in machine.board(board)
    # Who has no seat would have to give a password, and has nobody to give it to.
    refused = machine.run(["buswork", "flipper", "led", "4", "5", "6"], "alice", check=False)
    assert refused.returncode != 0
    assert "org.flipper.device.use" in refused.stderr
    assert "light: #010203" in machine.board(board)


def test_a_board_that_goes_and_comes_back(machine: VirtualMachine) -> None:
    board = machine.plug("board")
    before = until_there(machine)
    for count in (1, 2):
        machine.unplug(board)
        machine.until(lambda: not boards(machine))
        board = machine.replug(board)
        known = until_there(machine)
        assert known["Name"] == before["Name"]
        assert known["Incarnation"] == before["Incarnation"] + count
        assert facts(machine, board) == OURS
    machine.run(["buswork", "flipper", "led", "7", "8", "9"])
    assert "light: #070809" in machine.board(board)
    assert machine.show(SERVICE, "NRestarts") == "0"


def test_much_data_comes_and_goes(machine: VirtualMachine) -> None:
    """In packets of the real size, and by turns in both directions."""
    board = machine.plug("board")
    until_there(machine)
    data = "x" * 2000
    machine.run(["buswork", "flipper", "push", "usart", "push"], stdin=data)
    assert "main processor: up" in machine.board(board)
    assert "Traceback" not in machine.journal(SERVICE)

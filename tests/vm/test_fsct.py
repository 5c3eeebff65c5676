"""The way from a player to a display, all of it: socket, daemon in its sandbox, libusb, kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.container import HOME
from support.vm import Device, VirtualMachine

pytestmark = pytest.mark.vm

SERVICE, PLAYER = "buswork.service", "test-player"
TITLE, LENGTH = "Clocks", " / 4:00"

# A player that has begun to play a track of four minutes.
PLAY = """\
import asyncio, sys, time
from buswork.client.fsct import IpcDriver, Status, TextId, Timeline

async def main():
    async with IpcDriver() as driver:
        player = await driver.register_player("test")
        timeline = Timeline(0, time.time_ns() // 1_000_000, 240_000, 1.0)
        await driver.update_player_timeline(player, timeline)
        await driver.update_player_metadata(player, TextId.CURRENT_TITLE, sys.argv[1])
        await driver.update_player_status(player, Status.PLAYING)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def player(machine: VirtualMachine) -> Iterator[None]:
    """Alice's, which plays."""
    command = ["systemd-run", f"--unit={PLAYER}", "--collect", "--property=User=alice"]
    machine.run([*command, f"{HOME}/bin/python", "-c", PLAY, TITLE])
    yield
    machine.run(["systemctl", "stop", PLAYER], check=False)


def call(machine: VirtualMachine, member: str, *arguments: str) -> Any:
    command = ["busctl", "--system", "--json=short", "call", "org.buswork"]
    command += ["/org/fsct/Driver", "org.fsct.Driver", member, *arguments]
    said = machine.run(command, "alice").stdout
    return json.loads(said)["data"][0]


def shows(machine: VirtualMachine, dac: Device) -> None:
    """Waits for it."""

    def looks_right() -> bool:
        lines = machine.display(dac)
        return lines[:2] == ["▶ Playing", TITLE] and LENGTH in lines[-1]

    machine.until(looks_right)


def main_pid(machine: VirtualMachine) -> int:
    return int(machine.show(SERVICE, "MainPID"))


def test_a_display_shows_what_a_player_says(machine: VirtualMachine, player: None) -> None:
    dac = machine.plug()
    shows(machine, dac)
    assert len(call(machine, "ListDevices")) == 1
    machine.run(["systemctl", "stop", PLAYER])
    machine.until(lambda: machine.display(dac) == ["(off)"])


def test_a_display_that_comes_back_is_filled_again(machine: VirtualMachine, player: None) -> None:
    dac = machine.plug()
    shows(machine, dac)
    (before,) = call(machine, "ListDevices")
    for _ in range(3):
        machine.unplug(dac)
        machine.until(lambda: call(machine, "ListDevices") == [])
        dac = machine.replug(dac)
        shows(machine, dac)
        assert call(machine, "ListDevices") == [before]
    pid = main_pid(machine)
    assert machine.show(SERVICE, "NRestarts") == "0", pid


def test_a_display_may_go_and_come_in_one_moment(machine: VirtualMachine, player: None) -> None:
    dac = machine.plug()
    shows(machine, dac)
    for _ in range(5):
        machine.unplug(dac)
        dac = machine.replug(dac)
    shows(machine, dac)
    assert len(call(machine, "ListDevices")) == 1


def test_two_displays_that_are_alike(machine: VirtualMachine, player: None) -> None:
    first, second = machine.plug(serial="TWIN"), machine.plug(serial="TWIN")
    for dac in (first, second):
        shows(machine, dac)
    machine.until(lambda: len(set(call(machine, "ListDevices"))) == 2)
    machine.unplug(first)
    machine.until(lambda: len(call(machine, "ListDevices")) == 1)
    shows(machine, second)


def test_a_display_outlives_kill_9_of_the_daemon(machine: VirtualMachine, player: None) -> None:
    dac = machine.plug()
    shows(machine, dac)
    before = main_pid(machine)
    machine.run(["systemctl", "kill", "--signal=KILL", SERVICE])
    machine.until(lambda: main_pid(machine) not in (0, before))
    # The player is told nothing and does nothing: its library connects again.
    machine.run(["systemctl", "is-active", PLAYER])
    machine.until(lambda: len(call(machine, "ListPlayers")) == 1)
    count = len(machine.record(dac))
    machine.until(lambda: len(machine.record(dac)) > count)
    shows(machine, dac)


def test_a_display_goes_dark_when_the_daemon_stops(machine: VirtualMachine, player: None) -> None:
    dac = machine.plug()
    shows(machine, dac)
    machine.run(["systemctl", "stop", PLAYER, SERVICE])
    assert machine.display(dac) == ["(off)"]
    assert machine.show(SERVICE, "Result") == "success"


def test_a_device_that_fails_at_first(machine: VirtualMachine, player: None) -> None:
    to_interface = 0x41
    dac = machine.plug(faults=[{"how": "stall", "request_type": to_interface, "times": 3}])
    shows(machine, dac)

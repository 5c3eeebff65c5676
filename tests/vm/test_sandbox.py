"""What the shipped unit's sandbox leaves the daemon, and that each part of it is real.

A program that finds and opens devices as the daemon does runs with the properties of the shipped
unit, once as they are and then with one of them changed.
"""

from __future__ import annotations

import pytest
from support import sandboxes
from support.container import HOME
from support.vm import Device, VirtualMachine

pytestmark = pytest.mark.vm

UNIT = "buswork.service"

# Says how opening a device ends.
OPEN = """\
import asyncio, sys
from buswork.errors import BusworkError
from buswork.usb.discovery import UdevDiscovery
from buswork.usb.worker import Worker

async def main():
    found = asyncio.Queue()
    discovery = UdevDiscovery()
    await discovery.start(found.put_nowait, lambda port: None)
    async with asyncio.timeout(300):
        while (device := await found.get()).port != sys.argv[1]:
            pass
    discovery.stop()
    worker = Worker(device)
    await worker.open()
    await worker.claim(int(sys.argv[2]))
    now = await worker.control_in(0xC1, 2, 0, int(sys.argv[2]), 8)
    await worker.close()
    return f"opened {len(now)}"

try:
    print(asyncio.run(main()))
except BusworkError as error:
    print(getattr(error, "kind", type(error).__name__))
"""


def opening(machine: VirtualMachine, device: Device, **changes: str | None) -> str:
    command = [f"{HOME}/bin/python", "-c", OPEN, device.port, "1"]
    return sandboxes.run(machine, sandboxes.properties(UNIT, **changes), command)


@pytest.fixture
def dac(idle: VirtualMachine) -> Device:
    return idle.plug()


def test_limits_are_the_kernels(machine: VirtualMachine) -> None:
    group = "/sys/fs/cgroup" + machine.show(UNIT, "ControlGroup")
    wanted = dict(sandboxes.properties(UNIT))
    found = {
        name: int(machine.run(["cat", f"{group}/{file}"]).stdout)
        for name, file in (
            ("MemoryMax", "memory.max"),
            ("MemorySwapMax", "memory.swap.max"),
            ("TasksMax", "pids.max"),
        )
    }
    megabytes = int(wanted["MemoryMax"].removesuffix("M"))
    assert found == {
        "MemoryMax": megabytes << 20,
        "MemorySwapMax": int(wanted["MemorySwapMax"]),
        "TasksMax": int(wanted["TasksMax"]),
    }


def test_the_shipped_unit_lets_displays_be_opened(idle: VirtualMachine, dac: Device) -> None:
    assert opening(idle, dac) == "opened 8"


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({"DeviceAllow": None}, "io"),
        ({"PrivateDevices": "yes"}, "gone"),
        ({"User": "alice", "StateDirectory": None}, "denied"),
        ({"RestrictAddressFamilies": "AF_UNIX"}, "NoHotplug"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else value,
)
def test_another_one_does_not(
    idle: VirtualMachine, dac: Device, changes: dict[str, str | None], how: str
) -> None:
    assert opening(idle, dac, **changes) == how


def test_too_much_memory_ends_it(idle: VirtualMachine) -> None:
    """With less than is shipped, so that the machine itself has more than that."""
    eat = "b = bytearray(256 << 20); print(len(b))"
    command = sandboxes.command(sandboxes.properties(UNIT, MemoryMax="64M"))
    done = idle.run([*command, "/usr/bin/python3", "-c", eat], check=False)
    assert (done.returncode != 0, done.stdout) == (True, "")

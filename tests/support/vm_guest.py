"""A virtual machine's end of the line to the tests: a service in it that does what it is told.

    python vm_guest.py /dev/virtio-ports/NAME

A line of JSON is a command, and so is its answer; support.vm is the other end. It runs programs,
and plugs in simulated devices, which live in this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import IO, Any

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT / "src"), str(PROJECT / "tests")]

from buswork.sim.carbon import SimCarbon  # noqa: E402
from buswork.sim.dac import SimDac  # noqa: E402
from buswork.sim.device import (  # noqa: E402
    IN,
    Fault,
    How,
    Outcome,
    Setup,
    SimDevice,
    SimInterface,
)
from support.vm_usbip import Plugged  # noqa: E402


class Lookalike(SimDevice):
    """Has an interface like that of a display, and says what it is; but it is something else."""

    product_name = "Simulated something"
    version = 0x0201
    product = 0x0002
    bos = bytes.fromhex("050f0c0001 07100200000000")  # what USB 2.01 asks for, and no more

    def __init__(self, protocol: int = 1) -> None:
        super().__init__([SimInterface(0, 0xFF, 0x42, protocol)])


class Neighbour(SimCarbon):
    """Something else with the number that boards have."""

    product_name = "Simulated something"


class Old(SimDac):
    """A display as it can't be: USB 2.00 knows no BOS, which would say what it is."""

    version = 0x0200
    product = 0x0003


class Shy(SimDac):
    """A display that once, after so many questions for its BOS, has no answer."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def transfer(self, setup: Setup, data: bytes = b"") -> Outcome:
        if (setup.request_type, setup.value) == (IN, 0x0F00):
            self._left -= 1
            if self._left == -1:
                return Outcome(How.STALL)
        return super().transfer(setup, data)


KINDS = {
    "board": SimCarbon,
    "dac": SimDac,
    "lookalike": Lookalike,
    "neighbour": Neighbour,
    "old": Old,
    "shy": Shy,
}


class Guest:
    """The commands are its public methods."""

    def __init__(self) -> None:
        self._plugged: dict[str, Plugged] = {}  # by the kernel's name of the port

    def run(self, command: list[str], stdin: str, timeout: float) -> dict[str, Any]:
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, timeout=timeout, cwd="/"
            )
        except subprocess.TimeoutExpired as error:
            return {"status": None, "stdout": _text(error.stdout), "stderr": _text(error.stderr)}
        return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    def plug(self, kind: str, options: dict[str, Any], faults: list[dict[str, Any]]) -> Any:
        device = KINDS[kind](**options)
        device.faults = _faults(faults)
        return self._plug(device)

    def replug(self, port: str) -> Any:
        """The same device, which has forgotten all that it was told."""
        return self._plug(self._plugged[port].device)

    def _plug(self, device: SimDevice) -> Any:
        plugged = Plugged(device)
        path = Path(plugged.syspath)
        self._plugged[path.name] = plugged
        bus, address = (int((path / name).read_text()) for name in ("busnum", "devnum"))
        return {
            "port": path.name,
            "syspath": str(path),
            "node": f"/dev/bus/usb/{bus:03}/{address:03}",
        }

    def unplug(self, port: str) -> None:
        self._plugged[port].unplug()

    def unplug_all(self) -> None:
        for plugged in self._plugged.values():
            plugged.unplug()
        self._plugged.clear()

    def faults(self, port: str, faults: list[dict[str, Any]]) -> None:
        self._plugged[port].device.faults = _faults(faults)

    def record(self, port: str) -> Any:
        return list(self._plugged[port].device.record)

    def display(self, port: str) -> Any:
        """The lines, and what the display had to complain of."""
        device = self._plugged[port].device
        assert isinstance(device, SimDac)
        return {"lines": device.lines(), "complaints": device.complaints}

    def board(self, port: str) -> Any:
        device = self._plugged[port].device
        assert isinstance(device, SimCarbon)
        return device.lines()


def _faults(all_: list[dict[str, Any]]) -> list[Fault]:
    return [Fault(**{**each, "how": How(each["how"])}) for each in all_]


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def serve(commands: IO[bytes], answers: IO[bytes]) -> None:
    guest = Guest()

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()

    say(hello=time.clock_gettime(time.CLOCK_BOOTTIME))
    for line in commands:
        command = json.loads(line)
        number = command.pop("number")
        try:
            result = getattr(guest, command.pop("do"))(**command)
        except Exception:
            say(number=number, error=traceback.format_exc())
        else:
            say(number=number, result=result)


def main() -> None:
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_CLOEXEC)  # it can be opened once
    with open(fd, "rb") as commands, open(os.dup(fd), "wb") as answers:
        serve(commands, answers)


if __name__ == "__main__":
    main()

"""What is plugged in, and whether udev has given it to the daemon."""

import os
import stat
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from buswork.doctor.findings import Finding, note, ok, warning
from buswork.doctor.patient import Patient

SYSFS = "/sys/bus/usb/devices"
UDEV = "/run/udev"
# systemd has it there where it runs in one.
CONTAINER = "/run/systemd/container"
MODE = 0o660
GROUP = "buswork"

# As systemd/60-buswork.rules has it.
BOARD = {
    "idVendor": "16c0",
    "idProduct": "0480",
    "manufacturer": "flipper.io",
    "product": "Flipper: Carbon",
}
DISPLAY = "E:ID_FSCT=1"
IGNORED = "E:BUSWORK_IGNORE=1"


class Device(NamedTuple):
    what: str
    port: str
    node: str


async def udev(patient: Patient) -> AsyncIterator[Finding]:
    if patient.facts(f"{UDEV}/control") is not None:
        yield ok("udev is running")
    elif patient.facts(SYSFS) is None or patient.facts(CONTAINER) is not None:
        yield note("udev is not running, as is usual in containers and where there is no USB")
    else:
        text = "udev is not running, so that no device is found"
        yield warning(text, "systemctl start systemd-udevd")


async def plugged(patient: Patient) -> AsyncIterator[Finding]:
    found = list(_devices(patient))
    for device in found:
        yield _judged(patient, device)
    if not found:
        yield ok("no Flipper board and no FSCT display is plugged in")


def _devices(patient: Patient) -> Iterator[Device]:
    try:
        ports = sorted(os.listdir(patient.at(SYSFS)))
    except OSError:
        return
    for port in ports:
        place = f"{SYSFS}/{port}"
        number = _attribute(patient, place, "dev")  # interfaces have none
        known = patient.text(f"{UDEV}/data/c{number}") or ""
        if not number or IGNORED in known.split("\n"):
            continue
        what = ""
        if all(_attribute(patient, place, name) == value for name, value in BOARD.items()):
            what = "Flipper board"
        elif DISPLAY in known.split("\n"):
            what = "FSCT display"
        if what:
            numbers = (_attribute(patient, place, name) for name in ("busnum", "devnum"))
            yield Device(what, port, "/dev/bus/usb/" + "/".join(each.zfill(3) for each in numbers))


def _attribute(patient: Patient, place: str, name: str) -> str:
    return (patient.text(f"{place}/{name}") or "").strip()


def _judged(patient: Patient, device: Device) -> Finding:
    facts = patient.facts(device.node)
    mend = f"udevadm trigger --action=add --settle {SYSFS}/{device.port}"
    if facts is None:
        return warning(f"the {device.what} at {device.port} has no device file {device.node}", mend)
    group, mode = patient.group_name(facts.st_gid), stat.S_IMODE(facts.st_mode)
    if (group, mode) == (GROUP, MODE):
        return ok(f"the {device.what} at {device.port} is the daemon's")
    text = (
        f"{device.node}, the {device.what} at {device.port}, has the group {group} and the mode "
        f"{mode:04o}, not {GROUP} and {MODE:04o}"
    )
    return warning(text, mend)

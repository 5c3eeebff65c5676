"""What else takes part. Which version it is helps whoever is asked for help."""

import asyncio
import ctypes
import platform
from collections.abc import AsyncIterator
from contextlib import suppress

from buswork import __version__
from buswork.bus.transport import BUS
from buswork.doctor import polkit, units
from buswork.doctor.findings import Finding, ok, warning
from buswork.doctor.patient import Patient
from buswork.errors import BusworkError

# As pyusb looks for it.
LIBUSB = "libusb-1.0.so.0"
_BUSES = ("dbus-daemon", "dbus-broker")


class _Version(ctypes.Structure):
    """struct libusb_version."""

    _fields_ = [(name, ctypes.c_uint16) for name in ("major", "minor", "micro", "nano")]


async def versions(patient: Patient) -> AsyncIterator[Finding]:
    yield ok(f"buswork is {__version__}, Python {platform.python_version()}")
    yield _libusb()
    for what, path, interface, name in (
        ("systemd", units.PATH, units.MANAGER, "Version"),
        ("polkit", polkit.PATH, polkit.AUTHORITY, "BackendVersion"),
    ):
        service = units.NAME if what == "systemd" else polkit.NAME
        with suppress(BusworkError, KeyError):  # that it is not there is told elsewhere
            facts = await patient.properties(service, path, interface, start=what == "polkit")
            yield ok(f"{what} is {facts[name]}")
    bus = await _bus(patient)
    if bus:
        yield ok(f"the bus is {bus}")


async def _bus(patient: Patient) -> str:
    """What runs the bus, and the version that is installed of it."""
    try:
        pid = await patient.ask_bus("GetConnectionUnixProcessID", "s", BUS)
    except BusworkError:
        return ""
    name = (patient.text(f"/proc/{pid}/comm") or "").strip()
    # The kernel has 15 letters of it, and dbus-broker's launcher may be asked, too.
    program = next((each for each in _BUSES if name.startswith(each)), None)
    return name if program is None else await _said(program, "--version", patient.seconds)


def _libusb() -> Finding:
    try:
        library = ctypes.CDLL(LIBUSB)
    except OSError:
        text = "libusb can't be loaded, so that there are no devices"
        return warning(text, "apt-get install libusb-1.0-0")
    library.libusb_get_version.restype = ctypes.POINTER(_Version)
    found = library.libusb_get_version().contents
    return ok(f"libusb is {found.major}.{found.minor}.{found.micro}")


async def _said(program: str, option: str, seconds: float) -> str:
    """The first line that it prints."""
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            option,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return ""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(seconds):
            line = await process.stdout.readline()
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        return ""
    return line.decode(errors="replace").strip()

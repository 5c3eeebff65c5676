import platform

import pytest
from doctor.patients import findings, trouble

from buswork import __version__
from buswork.doctor import polkit, versions
from buswork.doctor.findings import Severity
from buswork.errors import BusworkError

LIBUSB = versions._libusb


@pytest.fixture(autouse=True)
def libusb(monkeypatch):
    """Whether this machine has it is none of the other tests' business."""
    monkeypatch.setattr(versions, "_libusb", lambda: versions.ok("libusb is 1.0.0"))


async def texts(patient):
    return [each.text for each in await findings(versions.versions, patient)]


async def test_all_that_takes_part(patient):
    patient.write("/proc/4711/comm", "bus1\n")
    assert await texts(patient) == [
        f"buswork is {__version__}, Python {platform.python_version()}",
        "libusb is 1.0.0",
        "systemd is 252",
        "polkit is 122",
        "the bus is bus1",
    ]


async def test_who_is_not_there_has_no_version(patient):
    patient.bus_is_there = False
    assert len(await texts(patient)) == 2
    patient.bus_is_there = True
    patient.answers[polkit.NAME, "GetAll"] = BusworkError("none")
    assert not any("polkit" in text for text in await texts(patient))


@pytest.mark.parametrize(
    ("name", "program"),
    [("dbus-daemon", "dbus-daemon"), ("dbus-broker-lau", "dbus-broker")],
)
async def test_the_bus_says_it_itself(patient, tmp_path, monkeypatch, name, program):
    patient.write("/proc/4711/comm", f"{name}\n")
    program = tmp_path / program
    program.write_text("#!/bin/sh\necho version $1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert "the bus is version --version" in await texts(patient)


async def test_a_bus_that_says_nothing(patient, tmp_path, monkeypatch):
    patient.write("/proc/4711/comm", "dbus-daemon\n")
    patient.seconds = 0.01
    program = tmp_path / "dbus-daemon"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert not any(text.startswith("the bus") for text in await texts(patient))


async def test_no_libusb(patient, monkeypatch):
    monkeypatch.setattr(versions, "_libusb", LIBUSB)
    monkeypatch.setattr(versions, "LIBUSB", "libnone.so.0")
    found = await trouble(versions.versions, patient)
    assert (found.severity, found.mend) == (Severity.WARNING, "apt-get install libusb-1.0-0")

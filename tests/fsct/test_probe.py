import contextlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from support import usb_kernel

from buswork.fsct import probe
from buswork.fsct.wire.descriptors import BadDescriptor
from buswork.sim.device import SimDevice, SimInterface

REPOSITORY = Path(__file__).parents[2]
VECTORS = json.loads((REPOSITORY / "tests/vectors/fsct/bos_descriptors.json").read_text())
BLOBS = {
    entry["name"]: (bytes.fromhex(entry["bos_hex"]), entry["expect"])
    for entry in VECTORS["vectors"]
}
NODE = "/dev/bus/usb/001/002"
CASES = Path(__file__).with_name("probe_cases.py")


@pytest.mark.parametrize("name", ["valid_only", "valid_with_usb2_ext", "other_uuid", "ver0101"])
def test_what_the_kernel_shows_is_read(tmp_path, name):
    blob, expect = BLOBS[name]
    (tmp_path / "bos_descriptors").write_bytes(blob)
    if expect == "accept":
        probe.check("/nowhere", str(tmp_path))
    else:
        with pytest.raises(BadDescriptor):
            probe.check("/nowhere", str(tmp_path))


INTERFACE = SimInterface(0, 0xFF, 0x42, 1)
AUDIO, OTHER_PROTOCOL = SimInterface(0, 0x01, 0x42, 1), SimInterface(0, 0xFF, 0x42, 2)


@pytest.mark.parametrize(
    ("interfaces", "is_asked"),
    [
        ([AUDIO, INTERFACE], True),
        ([INTERFACE, AUDIO], True),
        ([AUDIO, OTHER_PROTOCOL], False),
        ([], False),
    ],
)
def test_only_what_has_such_an_interface_is_asked(tmp_path, interfaces, is_asked):
    device = SimDevice(interfaces)
    data = device.device_descriptor() + device.configuration()
    with contextlib.nullcontext() if is_asked else pytest.raises(BadDescriptor):
        look_at(tmp_path, data)
    for cut in range(len(data) - len(INTERFACE.descriptors())):
        with pytest.raises(BadDescriptor):
            look_at(tmp_path, data[:cut])


def test_descriptors_of_nonsense_end(tmp_path):
    noise = random.Random(1)
    for data in (b"", b"\0" * 100, b"\1" * 100, *(noise.randbytes(100) for _ in range(100))):
        with contextlib.suppress(BadDescriptor):
            look_at(tmp_path, data)


def look_at(syspath, descriptors):
    (syspath / "descriptors").write_bytes(descriptors)
    probe.look(str(syspath))


def test_what_is_no_device_is_not_asked(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="no device"):
        probe.check(str(tmp_path / "file"), str(tmp_path))
    (tmp_path / "link").symlink_to("/dev/null")
    with pytest.raises(OSError, match="no device"):
        probe.check(str(tmp_path / "link"), str(tmp_path))
    with pytest.raises(OSError, match="ioctl"):
        probe.check("/dev/null", str(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [NODE],
        [NODE, "/sys/devices/x", "more"],
        ["/dev/bus/usb/001/../../sda", "/sys/devices/x"],
        ["/dev/sda", "/sys/devices/x"],
        [NODE + "\n", "/sys/devices/x"],
        [NODE, "/etc/passwd"],
    ],
)
def test_it_takes_a_device_and_nothing_else(arguments, capsys):
    assert probe.main(arguments) == 1
    out, err = capsys.readouterr()
    assert (out, err.split(":")[0]) == ("", "usage")


def test_it_ends_with_a_reason(capsys):
    assert probe.main(["/dev/bus/usb/999/999", "/sys/devices/nothing"]) == 1
    assert "No such file" in capsys.readouterr().err


def test_it_loads_little():
    """It runs as root at every plugging in, before the disk is warm."""
    code = "import sys, buswork.fsct.probe; print(*sorted(sys.modules))"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    heavy = {"asyncio", "msgpack", "dbus_next", "usb", "pyudev", "logging", "ctypes", "socket"}
    assert not heavy & set(modules)
    ours = {name for name in modules if name.startswith("buswork.")}
    assert ours <= {"buswork.fsct", "buswork.fsct.probe", "buswork.fsct.wire"} | {
        f"buswork.fsct.wire.{name}" for name in ("descriptors", "requests", "terms")
    }


@pytest.mark.usb
@pytest.mark.parametrize("case", usb_kernel.cases(CASES))
def test_on_an_emulated_kernel(case):
    usb_kernel.run(CASES, case)

"""The case for tests/usb/test_rules.py: udev's own program goes through the shipped rules."""

import os
import re
import subprocess
from pathlib import Path

SYSFS = "/sys/devices/pci0000:00/0000:00:14.0/usb1"
OURS = {"ID_FSCT": "1", "GROUP": "0", "MODE": "0660"}

# Version of USB, class, protocol of the interface, properties that earlier rules have set, and
# what comes of it.
DEVICES = [
    (" 2.01", "00", 1, {}, OURS),
    (" 3.20", "ef", 1, {}, OURS),
    (" 2.00", "00", 1, {}, {}),
    (" 1.10", "00", 1, {}, {}),
    (" 2.10", "00", 0, {}, {}),
    (" 2.10", "09", 1, {}, {}),
    (" 2.01", "00", 1, {"BUSWORK_IGNORE": "1"}, {}),
    (" 2.01", "00", 1, {"BUSWORK_IGNORE": "0"}, OURS),
]


def found(port):
    """What udev would do to a device."""
    command = ["udevadm", "test", "--action=add", f"{SYSFS}/{port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = (done.stdout + done.stderr).splitlines()
    result = dict(line.split("=", 1) for line in lines if line.startswith("ID_FSCT="))
    done_to_node = (re.search(r"60-buswork\.rules:\d+ (GROUP|MODE) (\w+)", line) for line in lines)
    return result | {match[1]: match[2] for match in done_to_node if match}


def show_root(root):
    """To the probe: udev runs programs without our environment."""
    Path(os.environ["PROBE_ROOT"]).write_text(root)


async def rules(kernel):
    show_root(kernel.root)
    for at, (version, device_class, protocol, properties, expected) in enumerate(DEVICES, 1):
        port = f"1-{at}"
        kernel.plug(port=port, options={"protocol": protocol}, properties=properties)
        kernel.attribute(port=port, name="version", value=version)
        kernel.attribute(port=port, name="bDeviceClass", value=device_class)
        assert found(port) == expected, (version, device_class, protocol, properties)
        asked = any(entry["wValue"] == "0x0f00" for entry in kernel.record(port=port))
        assert asked == bool(expected)
    kernel.plug(port="2-1", kind="board")  # is asked, and does not know what FSCT is
    kernel.attribute(port="2-1", name="version", value=" 2.10")
    assert found("2-1") == {}
    kernel.plug(port="2-2", kind="carbon")
    assert found("2-2") == {"GROUP": "0", "MODE": "0660"}
    for name, value in {"product": "Teensyduino RawHID", "idProduct": "0481"}.items():
        kernel.plug(port="2-3", kind="carbon")
        kernel.attribute(port="2-3", name=name, value=value)
        assert found("2-3") == {}, name
        kernel.unplug(port="2-3")
    kernel.plug(port="2-4", kind="carbon", properties={"BUSWORK_IGNORE": "1"})
    assert found("2-4") == {}

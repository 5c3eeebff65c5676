"""The case for tests/usb/test_rules.py: udev's own program goes through the shipped rules."""

import os
import re
import subprocess
from pathlib import Path

SYSFS = "/sys/devices/pci0000:00/0000:00:14.0/usb1"
OURS = {"ID_FSCT": "1", "GROUP": "0", "MODE": "0660"}

# Version of USB, interfaces, properties that earlier rules have set, and what comes of it.
DEVICES = [
    (" 2.01", ":ff4201:030000:", {}, OURS),
    (" 3.20", ":010100:ff0001:", {}, OURS),
    (" 2.00", ":ff4201:", {}, {}),
    (" 1.10", ":ff4201:", {}, {}),
    (" 2.10", ":ff4200:010100:", {}, {}),
    (" 2.10", ":03ff01:", {}, {}),
    (" 2.01", ":ff4201:", {"BUSWORK_IGNORE": "1"}, {}),
    (" 2.01", ":ff4201:", {"BUSWORK_IGNORE": "0"}, OURS),
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
    for at, (version, interfaces, properties, expected) in enumerate(DEVICES, 1):
        port = f"1-{at}"
        kernel.plug(port=port, properties={"ID_USB_INTERFACES": interfaces, **properties})
        kernel.attribute(port=port, name="version", value=version)
        assert found(port) == expected, (version, interfaces, properties)
        asked = any(entry["wValue"] == "0x0f00" for entry in kernel.record(port=port))
        assert asked == bool(expected)
    kernel.plug(port="2-1", kind="board", properties={"ID_USB_INTERFACES": ":ff0101:"})
    kernel.attribute(port="2-1", name="version", value=" 2.10")
    assert found("2-1") == {}

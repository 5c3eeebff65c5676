"""Cases for tests/fsct/test_probe.py, each in a process of its own under an emulated kernel."""

import subprocess
import sys

SYSFS = "/sys/devices/pci0000:00/0000:00:14.0/usb1"


def probe(at, port):
    node = f"/dev/bus/usb/001/{at:03}"
    return subprocess.run(
        [sys.executable, "-m", "buswork.fsct.probe", node, f"{SYSFS}/{port}"],
        capture_output=True,
        text=True,
        check=False,
    )


async def devices_are_asked(kernel):
    dac = probe(kernel.plug(port="1-1"), "1-1")
    assert (dac.returncode, dac.stdout, dac.stderr) == (0, "ID_FSCT=1\n", "")
    board = probe(kernel.plug(port="1-2", kind="board"), "1-2")
    assert (board.returncode, board.stdout) == (1, "")
    assert "Broken pipe" in board.stderr
    assert [entry["wValue"] for entry in kernel.record(port="1-1")] == ["0x0f00"]


async def devices_that_talk_nonsense_are_none(kernel):
    at = kernel.plug(port="1-1")
    for fault in (
        {"how": "silence"},
        {"how": "done", "reply": ""},
        {"how": "done", "length": 20},
    ):
        kernel.faults(port="1-1", faults=[fault])
        found = probe(at, "1-1")
        assert (found.returncode, found.stdout) == (1, "")
        assert found.stderr.count("\n") == 1
    kernel.unplug(port="1-1")
    assert probe(at, "1-1").returncode == 1

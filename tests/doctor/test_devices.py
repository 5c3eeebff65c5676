import pytest
from doctor.patients import findings, trouble, troubles

from buswork.doctor import devices
from buswork.doctor.findings import Severity

NODE = "/dev/bus/usb/001/007"


def plug(patient, port, number="189:6", **attributes):
    facts = {"dev": number, "busnum": "1", "devnum": "7"} | attributes
    for name, value in facts.items():
        patient.write(f"/sys/bus/usb/devices/{port}/{name}", f"{value}\n")
    patient.write(NODE, "", 0o660)
    patient.owners[NODE] = (0, patient.gids["buswork"])


@pytest.fixture
def board(patient):
    plug(patient, "1-1", **devices.BOARD)
    return patient


async def test_udev_is_running(patient):
    patient.directory("/run/udev/control")
    assert not await troubles(devices.udev, patient)


async def test_udev_is_not_running(patient):
    assert (await trouble(devices.udev, patient)).severity is Severity.NOTE
    patient.directory("/sys/bus/usb/devices")
    found = await trouble(devices.udev, patient)
    assert (found.severity, found.mend) == (Severity.WARNING, "systemctl start systemd-udevd")
    patient.write("/run/systemd/container", "systemd-nspawn")
    assert (await trouble(devices.udev, patient)).severity is Severity.NOTE


async def test_nothing_is_plugged_in(patient):
    plug(patient, "1-2", idVendor="16c0", idProduct="0480", product="a keyboard")
    (found,) = await findings(devices.plugged, patient)
    assert found.severity is Severity.OK
    assert found.text.startswith("no Flipper board and no FSCT display")


async def test_a_board_that_is_the_daemons(board):
    (found,) = await findings(devices.plugged, board)
    assert (found.severity, found.text) == (
        Severity.OK,
        "the Flipper board at 1-1 is the daemon's",
    )


async def test_a_display_is_known_by_its_mark(patient):
    plug(patient, "2-1.3")
    patient.write("/run/udev/data/c189:6", "I:1\nE:ID_FSCT=1\nG:x\n")
    (found,) = await findings(devices.plugged, patient)
    assert found.text == "the FSCT display at 2-1.3 is the daemon's"


async def test_a_board_that_is_to_be_ignored(board):
    board.write("/run/udev/data/c189:6", "E:BUSWORK_IGNORE=1\n")
    assert "no Flipper board" in (await findings(devices.plugged, board))[0].text


@pytest.mark.parametrize(("group", "mode"), [("root", 0o664), ("buswork", 0o600), ("root", 0o660)])
async def test_a_board_that_udev_has_not_given(board, group, mode):
    board.owners[NODE] = (0, board.gids[group])
    (board.root / NODE[1:]).chmod(mode)
    found = await trouble(devices.plugged, board)
    assert found.severity is Severity.WARNING
    assert f"has the group {group} and the mode {mode:04o}, not buswork and 0660" in found.text
    assert found.mend == "udevadm trigger --action=add --settle /sys/bus/usb/devices/1-1"


async def test_a_board_without_a_file(board):
    (board.root / NODE[1:]).unlink()
    found = await trouble(devices.plugged, board)
    assert found.severity is Severity.WARNING
    assert f"has no device file {NODE}" in found.text

import pytest
from doctor.patients import trouble, troubles

from buswork.doctor import units
from buswork.doctor.findings import Severity
from buswork.errors import BusworkError
from buswork.installation.activation import SOCKETS

DAEMON, STORE, TMP = "buswork.service", "buswork-store.socket", "buswork-store-tmp.socket"


@pytest.fixture
def well(patient):
    patient.listen(*SOCKETS)
    return patient


@pytest.mark.parametrize("check", [units.services, units.sockets])
async def test_units_that_are_well(well, check):
    assert not await troubles(check, well)


@pytest.mark.parametrize("check", [units.services, units.sockets])
async def test_no_systemd(well, check):
    del well.names[units.NAME]
    assert (await trouble(check, well)).severity is Severity.NOTE


@pytest.mark.parametrize("name", [DAEMON, STORE, TMP])
async def test_a_unit_that_is_not_there(well, name):
    well.units[name] = {"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead"}
    found = await trouble(units.services if name == DAEMON else units.sockets, well)
    assert (found.severity, found.text) == (Severity.FAILURE, f"systemd does not know {name}")
    assert found.mend == "buswork install && systemctl daemon-reload"


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        (DAEMON, Severity.WARNING),
        ("buswork-appview.service", Severity.NOTE),
        (STORE, Severity.NOTE),
    ],
)
async def test_a_unit_that_is_masked(well, name, severity):
    well.units[name] = {"LoadState": "masked", "ActiveState": "inactive", "SubState": "dead"}
    found = await trouble(units.sockets if name == STORE else units.services, well)
    assert (found.severity, found.mend) == (severity, f"systemctl unmask {name}")


async def test_a_unit_that_makes_no_sense(well):
    well.units[DAEMON] |= {"LoadState": "bad-setting", "LoadError": ["x", "no ExecStart="]}
    found = await trouble(units.services, well)
    assert found.severity is Severity.FAILURE
    assert found.text == "systemd can't use buswork.service: no ExecStart="
    assert found.mend == "buswork install --force && systemctl daemon-reload"


async def test_a_unit_that_has_changed(well):
    well.units[DAEMON] |= {"NeedDaemonReload": True, "DropInPaths": ["/etc/x.conf"]}
    changed, drop_in = await troubles(units.services, well)
    assert (changed.severity, changed.mend) == (Severity.WARNING, "systemctl daemon-reload")
    assert drop_in.severity is Severity.NOTE
    assert drop_in.text.endswith("was changed here: /etc/x.conf")


async def test_a_service_that_has_failed(well):
    well.units[DAEMON] |= {
        "ActiveState": "failed",
        "Result": "exit-code",
        "ExecMainStatus": 1,
        "StatusText": "ended: no name",
    }
    found = await trouble(units.services, well)
    assert found.severity is Severity.FAILURE
    assert "buswork.service has failed (exit-code, status 1, ended: no name)" in found.text
    mend = "systemctl reset-failed buswork.service && systemctl start buswork.service"
    assert found.mend == mend


@pytest.mark.parametrize("state", ["auto-restart", "start"])
async def test_a_service_that_fails_again_and_again(well, state):
    well.units[DAEMON] |= {
        "ActiveState": "activating",
        "SubState": state,
        "Result": "watchdog",
        "NRestarts": 3,
    }
    fails, count = await troubles(units.services, well)
    assert fails.severity is Severity.FAILURE
    assert "fails again and again (watchdog" in fails.text
    assert (count.severity, count.text[-7:]) == (Severity.NOTE, "3 times")


async def test_doors_that_can_not_be_opened(well):
    well.units["buswork-doors.service"]["StatusText"] = "serving; closed: port 9"
    found = await trouble(units.services, well)
    assert found.severity is Severity.FAILURE
    assert found.text.endswith("serving; closed: port 9")
    assert found.mend == "systemctl restart buswork-doors.service"


async def test_a_socket_that_is_not_enabled(well):
    well.units[STORE]["UnitFileState"] = "disabled"
    found = await trouble(units.sockets, well)
    assert (found.severity, found.mend) == (Severity.WARNING, f"systemctl enable --now {STORE}")


async def test_a_socket_that_does_not_listen(well):
    well.units[STORE]["ActiveState"] = "inactive"
    found = await trouble(units.sockets, well)
    assert (found.severity, found.mend) == (Severity.FAILURE, f"systemctl start {STORE}")


@pytest.mark.parametrize("name", [STORE, TMP])
async def test_a_socket_that_has_failed(well, name):
    well.units[name] |= {"ActiveState": "failed", "Result": "resources"}
    found = await trouble(units.sockets, well)
    assert found.severity is Severity.FAILURE
    assert f"{name} has failed (resources)" in found.text


async def test_a_directory_in_the_way_of_a_socket(well):
    (well.root / "run" / STORE).unlink()
    well.directory(f"/run/{STORE}")
    well.units[STORE] |= {"ActiveState": "failed", "Result": "resources"}
    found = await trouble(units.sockets, well)
    assert found.severity is Severity.FAILURE
    path = f"/run/{STORE}"
    assert found.text == f"{STORE} can't listen at {path}, where something else is"
    assert found.mend == f"mv {path} {path}.other && systemctl restart {STORE}"


async def test_a_socket_that_is_gone_or_something_else(well):
    path = well.root / "run" / STORE
    path.unlink()
    gone = await trouble(units.sockets, well)
    path.touch()
    file = await trouble(units.sockets, well)
    assert gone.text.endswith("is gone")
    assert file.text.endswith("is no socket any more")
    assert gone.severity is file.severity is Severity.FAILURE
    assert gone.mend == f"systemctl stop buswork; systemctl restart {STORE}"


async def test_a_socket_with_another_mode(well):
    (well.root / "run" / STORE).chmod(0o600)
    found = await trouble(units.sockets, well)
    assert found.severity is Severity.FAILURE
    assert found.text == f"/run/{STORE} has the mode 0600, not 0666"
    assert found.mend == f"chmod 0666 /run/{STORE}"


async def test_a_systemd_that_refuses_is_no_systemd_that_is_not_there(well):
    well.answers["org.freedesktop.DBus", "GetNameOwner"] = BusworkError("too many questions")
    with pytest.raises(BusworkError, match="too many"):
        await troubles(units.services, well)

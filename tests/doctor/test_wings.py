import pytest
from doctor.patients import findings, trouble, troubles

from buswork.doctor import wings
from buswork.doctor.findings import Severity
from buswork.errors import AccessDenied, TimedOut
from buswork.host import NOT_PASSED


@pytest.fixture
def states(patient):
    return patient.daemons["org.buswork"]["Wings"]


async def test_wings_that_run(patient):
    found = await findings(wings.states, patient)
    assert [each.text for each in found] == [
        "the wing store is running",
        "the wing fsct is running",
    ]
    assert {each.severity for each in found} == {Severity.OK}


async def test_nobody_is_started_to_be_asked(patient):
    del patient.names["org.buswork"]
    assert await findings(wings.states, patient) == []


async def test_both_daemons_are_asked(patient):
    patient.names["org.buswork.AppView"] = 903
    patient.daemons["org.buswork.AppView"] = {
        "Version": "0.0",
        "Wings": {"appview": ("failed", "no queues")},
    }
    version, wing = await troubles(wings.states, patient)
    assert version.severity is Severity.WARNING
    assert "org.buswork.AppView is version 0.0, and this command " in version.text
    assert wing.text == "the wing appview could not start: no queues"
    assert wing.severity is Severity.FAILURE
    assert version.mend == wing.mend == "systemctl restart buswork-appview"


@pytest.mark.parametrize(
    ("state", "reason", "severity"),
    [
        ("failed", "no such device", Severity.FAILURE),
        ("running", "a socket is taken", Severity.WARNING),
        ("running", f"{NOT_PASSED} 'fsct'", Severity.NOTE),
        ("running", f"{NOT_PASSED} 'fsct'; a socket is taken", Severity.WARNING),
        ("off", "", Severity.NOTE),
    ],
)
async def test_a_wing_that_does_not_run_as_it_should(patient, states, state, reason, severity):
    states["fsct"] = (state, reason)
    found = await trouble(wings.states, patient)
    assert found.severity is severity
    assert "the wing fsct" in found.text
    assert reason in found.text


async def test_a_daemon_that_hangs(patient):
    patient.answers["org.buswork", "GetAll"] = TimedOut("org.buswork did not answer")
    found = await trouble(wings.states, patient)
    assert found.severity is Severity.FAILURE
    assert "org.buswork did not answer" in found.text
    assert found.mend == "systemctl restart buswork"


async def test_what_the_bus_denies_is_told_with_the_policy(patient):
    patient.answers["org.buswork", "GetAll"] = AccessDenied("no")
    assert await findings(wings.states, patient) == []

import pytest
from doctor.patients import findings, trouble, troubles

from buswork.doctor import bus
from buswork.doctor.findings import Severity
from buswork.errors import AccessDenied, BusworkError, Disconnected, TimedOut

DENIED = AccessDenied("Rejected send message")
UNKNOWN = BusworkError("nobody", "org.freedesktop.DBus.Error.ServiceUnknown")


async def test_a_bus_that_is_there(patient):
    assert not await troubles(bus.reachable, patient)


async def test_a_bus_that_is_not(patient):
    patient.bus_is_there, patient.why_no_bus = False, "No such file"
    found = await trouble(bus.reachable, patient)
    assert found.severity is Severity.FAILURE
    assert found.text.endswith("the bus system: No such file")
    assert found.mend == "systemctl start dbus"
    with pytest.raises(Disconnected):
        await findings(bus.names, patient)


async def test_names_that_are_had_or_can_be_had(patient):
    daemon, appview = await findings(bus.names, patient)
    assert daemon.text == "org.buswork is running, as buswork"
    assert "the first call starts it" in appview.text
    assert {daemon.severity, appview.severity} == {Severity.OK}


async def test_root_may_have_started_it(patient):
    patient.names["org.buswork"] = 0
    assert not await troubles(bus.names, patient)


async def test_a_name_that_nobody_can_have(patient):
    patient.activatable.remove("org.buswork.AppView")
    found = await trouble(bus.names, patient)
    assert found.severity is Severity.FAILURE
    assert "org.buswork.AppView" in found.text
    assert found.mend == "buswork install && systemctl reload dbus"


async def test_a_name_that_somebody_else_has(patient):
    patient.names["org.buswork"] = 1000
    found = await trouble(bus.names, patient)
    assert found.severity is Severity.FAILURE
    assert found.text == "org.buswork was taken by alice, who is not buswork"
    assert found.mend == "kill 4711"
    patient.bus = "session"  # where everybody may have it
    assert not await troubles(bus.names, patient)


async def test_policies_that_are_followed(patient):
    patient.install()
    patient.answers["org.buswork.AppView", "Ping"] = UNKNOWN
    daemon, appview = await findings(bus.policy, patient)
    assert daemon.text == "the bus lets calls to org.buswork pass"
    assert appview.text.endswith("shows when that runs")
    assert {daemon.severity, appview.severity} == {Severity.OK}


async def test_a_policy_that_is_not_followed(patient):
    patient.install()
    patient.answers["org.buswork", "Ping"] = DENIED
    found = await trouble(bus.policy, patient)
    assert found.severity is Severity.FAILURE
    assert "does not follow the policy of org.buswork" in found.text
    assert found.mend == "buswork install && systemctl reload dbus"


async def test_a_daemon_that_hangs_has_had_the_call(patient):
    patient.answers["org.buswork", "Ping"] = TimedOut("no answer")
    assert not await troubles(bus.policy, patient)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<busconfig><policy", "it is no XML"),
        ("<policyconfig/>", "it is no busconfig but a policyconfig"),
        ("<busconfig><policy users='x'/></busconfig>", "'users'"),
        ("<busconfig><policy><permit own='x'/></policy></busconfig>", "'permit'"),
        ("<busconfig><policy><allow owns='x'/></policy></busconfig>", "'owns'"),
        ("<busconfig><policy><allow send_tipe='x'/></policy></busconfig>", "'send_tipe'"),
    ],
)
async def test_a_file_that_the_bus_ignores(patient, text, why):
    patient.bus_is_there = False
    patient.write("/usr/share/dbus-1/system.d/org.buswork.conf", text)
    found = await trouble(bus.policy, patient)
    assert found.severity is Severity.FAILURE
    assert "ignores /usr/share/dbus-1/system.d/org.buswork.conf as a whole" in found.text
    assert why in found.text
    assert found.mend == "buswork install --force && systemctl reload dbus"

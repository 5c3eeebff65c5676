import pytest

from buswork.doctor import checks
from buswork.doctor.checks import Diagnosis, examine
from buswork.doctor.findings import Severity, ok
from buswork.errors import BusworkError, Disconnected
from buswork.installation.activation import SOCKETS


async def diagnoses(patient, monkeypatch, **made):
    monkeypatch.setattr(checks, "CHECKS", made)
    return await examine(patient)


async def test_a_system_that_is_well(patient):
    patient.install()
    patient.listen(*SOCKETS)
    patient.directory("/run/udev/control")
    found = await examine(patient)
    assert {each.severity for each in found if each.check != "versions"} == {Severity.OK}
    assert list(dict.fromkeys(each.check for each in found)) == list(checks.CHECKS)


async def test_in_the_lists_order(patient, monkeypatch):
    async def one(patient):
        yield ok("first")
        yield ok("second")

    async def other(patient):
        yield ok("third")

    found = await diagnoses(patient, monkeypatch, b=one, a=other)
    assert found == [
        Diagnosis("b", Severity.OK, "first", ""),
        Diagnosis("b", Severity.OK, "second", ""),
        Diagnosis("a", Severity.OK, "third", ""),
    ]


@pytest.mark.parametrize(
    ("error", "severity", "text"),
    [
        (Disconnected("no bus"), Severity.NOTE, "this was not looked at: no bus"),
        (BusworkError("refused"), Severity.FAILURE, "this could not be looked at: refused"),
        (OSError("no such thing"), Severity.FAILURE, "this could not be looked at: no such thing"),
        (KeyError(), Severity.FAILURE, "this could not be looked at: KeyError"),
    ],
)
async def test_a_check_that_can_not_be_made(patient, monkeypatch, error, severity, text):
    async def broken(patient):
        yield ok("first")
        raise error

    async def other(patient):
        yield ok("all the same")

    found = await diagnoses(patient, monkeypatch, broken=broken, other=other)
    assert [each.text for each in found] == ["first", text, "all the same"]
    assert found[1].severity is severity


async def test_a_check_that_takes_too_long(patient, monkeypatch):
    async def slow(patient):
        yield ok("first")
        await checks.asyncio.Event().wait()

    patient.seconds = 0.001
    found = await diagnoses(patient, monkeypatch, slow=slow)
    assert [each.severity for each in found] == [Severity.OK, Severity.FAILURE]
    assert found[1].text == "this took too long to be looked at"


async def test_without_a_bus_the_rest_is_looked_at(patient):
    patient.bus_is_there = False
    patient.install()
    found = {each.check: each.severity for each in await examine(patient)}
    assert found["bus.reachable"] is Severity.FAILURE
    assert found["polkit.actions"] is found["units.sockets"] is Severity.NOTE
    assert found["places.files"] is found["people.users"] is Severity.OK

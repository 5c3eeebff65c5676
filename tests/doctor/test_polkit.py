import pytest
from doctor.patients import findings, trouble, troubles

from buswork.doctor import polkit
from buswork.doctor.findings import Severity
from buswork.errors import BusworkError, Disconnected, TimedOut

MEND = "buswork install --force && systemctl restart polkit"


async def test_all_actions_are_known(patient):
    assert len(patient.actions) > 20
    assert not await troubles(polkit.actions, patient)


async def test_actions_that_are_missing(patient):
    del patient.actions["org.mapipc.store.read"], patient.actions["org.mapipc.store.clear"]
    found = await trouble(polkit.actions, patient)
    assert found.severity is Severity.FAILURE
    missing = "org.mapipc.store.read, org.mapipc.store.clear"
    assert found.text == f"{missing}: denied to all, as polkit does not know it"
    assert found.mend == MEND


@pytest.mark.parametrize("owner", ["unix-user:nobody", "unix-user:buswork2", "", None])
async def test_an_owner_that_is_not_ours(patient, owner):
    patient.actions["org.mapipc.store.read"] = owner
    found = await trouble(polkit.actions, patient)
    assert found.severity is Severity.FAILURE
    assert found.text.startswith("org.mapipc.store.read: denied to all, as polkit has ")
    assert f"{owner or 'nobody'} as its owner, and not unix-user:buswork" in found.text
    assert found.mend == MEND


async def test_one_of_two_owners_is_not_enough(patient):
    patient.actions["org.buswork.force-release"] = "unix-user:buswork"
    assert "unix-user:buswork-appview" in (await trouble(polkit.actions, patient)).text


async def test_an_owner_more_is_the_administrators_choice(patient):
    patient.actions["org.mapipc.store.read"] = "unix-user:test unix-user:buswork"
    assert not await troubles(polkit.actions, patient)


@pytest.mark.parametrize("error", [TimedOut("too long"), BusworkError("there is none")])
async def test_no_polkit(patient, error):
    patient.answers[polkit.NAME, "EnumerateActions"] = error
    found = await trouble(polkit.actions, patient)
    assert found.severity is Severity.FAILURE
    assert str(error) in found.text
    assert found.mend == "systemctl restart polkit"


async def test_no_bus(patient):
    patient.bus_is_there = False
    with pytest.raises(Disconnected):
        await findings(polkit.actions, patient)

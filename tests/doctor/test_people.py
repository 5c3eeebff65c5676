import pytest
from doctor.patients import trouble, troubles

from buswork.doctor import people
from buswork.doctor.findings import Severity


async def test_users_that_are_there(patient):
    assert not await troubles(people.users, patient)
    assert not await troubles(people.groups, patient)


@pytest.mark.parametrize("name", ["buswork", "buswork-doors", "buswork-appview"])
async def test_a_user_that_is_not_there(patient, name):
    del patient.uids[name]
    found = await trouble(people.users, patient)
    assert (found.severity, found.text) == (Severity.FAILURE, f"there is no user {name}")
    assert found.mend == "systemd-sysusers buswork.conf"


async def test_a_group_that_is_not_there(patient):
    del patient.gids["buswork"]
    assert (await trouble(people.users, patient)).text == "there is no group buswork"


async def test_a_user_that_is_root(patient):
    patient.uids["buswork"] = 0
    found = await trouble(people.users, patient)
    assert found.severity is Severity.FAILURE
    assert "root by another name" in found.text


async def test_a_user_in_another_group(patient):
    patient.gids["of buswork"] = 100
    found = await trouble(people.users, patient)
    assert (found.severity, found.mend) == (Severity.FAILURE, "usermod -g buswork buswork")


async def test_people_in_the_daemons_group(patient):
    patient.members = ["buswork", "alice"]
    found = await trouble(people.groups, patient)
    assert found.severity is Severity.WARNING
    assert found.text.startswith("alice is in the group buswork")
    assert found.mend == "gpasswd -d alice buswork"

"""The patient itself, on a scripted bus; its files are in a folder."""

import asyncio
import os

import pytest
from support.fakebus import DRIVER, ERROR, FakeBus, Refused

from buswork.bus.library import variant
from buswork.doctor.patient import Patient
from buswork.errors import BusworkError, Disconnected, TimedOut
from buswork.installation.files import File, place
from buswork.installation.manifest import PATH, Manifest
from buswork.installation.places import Layout

NAME = "org.toys"


@pytest.fixture
async def bus():
    async with FakeBus() as bus:
        yield bus


@pytest.fixture
async def patient(bus, tmp_path):
    accepting = asyncio.create_task(bus._accept())
    async with Patient(bus.address, root=tmp_path) as patient:
        await accepting
        yield patient


def ask(patient, member, **how):
    return patient.ask(NAME, "/", NAME, member, **how)


async def test_answers(bus, patient):
    bus.answers[NAME, "One"] = lambda call: ("us", [1, "two"])
    bus.answers[NAME, "None"] = lambda call: ("", [])
    bus.answers[NAME, "GetAll"] = lambda call: ("a{sv}", [{"Key": variant("u", 7)}])
    assert patient.has_bus
    assert await ask(patient, "One") == 1
    assert await ask(patient, "None") is None
    assert await patient.properties(NAME, "/", NAME) == {"Key": 7}


async def test_nobody_is_started_unless_that_is_said(bus, patient):
    bus.answers[NAME, "One"] = lambda call: ("u", [1])
    await ask(patient, "One")
    await ask(patient, "One", start=True)
    assert [call.flags for call in bus.calls("One")] == [2, 0]


async def test_who_has_a_name(bus, patient):
    bus.own(NAME, ":1.7")
    assert await patient.owner(NAME) == ":1.7"
    assert await patient.owner("org.nobody") is None

    def refuse(call):
        raise Refused(ERROR + "LimitsExceeded")

    bus.answers[DRIVER, "GetNameOwner"] = refuse
    with pytest.raises(BusworkError, match="refused"):
        await patient.owner(NAME)


async def test_who_does_not_answer_is_not_waited_for(bus, patient):
    bus.answers[NAME, "One"] = lambda call: None
    patient.seconds = 0.01
    with pytest.raises(TimedOut):
        await ask(patient, "One")


async def test_a_bus_that_is_not_there(tmp_path):
    async with Patient(f"unix:path={tmp_path}/none") as patient:
        assert not patient.has_bus
        assert "No such file" in patient.why_no_bus
        with pytest.raises(Disconnected):
            await ask(patient, "One")


async def test_a_bus_that_does_not_answer(bus):
    async with Patient(bus.address, timeout=0.01) as patient:  # nobody accepts
        assert not patient.has_bus
        assert patient.why_no_bus == "it did not answer in 0.01 s"


def test_only_files_are_read(tmp_path):
    patient = Patient(root=tmp_path)
    (tmp_path / "file").write_bytes(b"text\xff")
    os.mkfifo(tmp_path / "pipe")
    assert patient.text("/file") == "text\ufffd"
    assert patient.text("/pipe") is patient.text("/none") is patient.text("/") is None


def test_nothing_outside_of_its_root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "root/out").symlink_to("..")
    patient = Patient(root=tmp_path / "root")
    assert patient.text("/out/secret") is None
    assert patient.facts("/out/secret") is None


def test_how_files_are_put_back(tmp_path):
    patient = Patient(root=tmp_path)
    assert patient.mend() == "buswork install"
    assert patient.mend(changed=True) == "buswork install --force"


@pytest.mark.parametrize(
    ("prefix", "package", "mend"),
    [
        ("/usr", False, "buswork install"),
        ("/usr/local", False, "buswork install --prefix /usr/local"),
        ("/usr", True, "apt-get install --reinstall buswork"),
    ],
)
def test_where_and_by_whom_it_was_installed(tmp_path, prefix, package, mend):
    Manifest(prefix, package=package).save(tmp_path)
    patient = Patient(root=tmp_path)
    assert patient.layout == Layout(prefix)
    assert patient.mend() == mend


def test_a_manifest_that_is_none(tmp_path):
    place(tmp_path / PATH[1:], File(b"[]"))
    assert Patient(root=tmp_path).layout == Layout()


def test_users_and_groups():
    patient = Patient()
    assert patient.user("root").pw_uid == patient.group("root").gr_gid == 0
    assert patient.user("no such user") is patient.group("no such group") is None
    assert patient.user_name(0) == patient.group_name(0) == "root"
    assert patient.user_name(2**31 - 9) == f"uid {2**31 - 9}"
    assert patient.group_name(2**31 - 9) == f"gid {2**31 - 9}"

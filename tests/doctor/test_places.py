import pytest
from doctor.patients import findings, trouble, troubles

from buswork.doctor import places
from buswork.doctor.findings import Severity

POLICY = "/usr/share/dbus-1/system.d/org.buswork.conf"
RULES = "/usr/lib/udev/rules.d/60-buswork.rules"
ALIAS = "/usr/lib/systemd/system/mapipcd.service"
INTERFACE = "/usr/share/dbus-1/interfaces/org.mapipc.Store.xml"


@pytest.fixture
def installed(patient):
    patient.install()
    return patient


def at(patient, path):
    return patient.root / path[1:]


# -- files ---------------------------------------------------------------------------------------


async def test_all_is_in_its_place(installed):
    (found,) = await findings(places.files, installed)
    assert found.severity is Severity.OK


async def test_nothing_is_installed(patient):
    found = await trouble(places.files, patient)
    assert (found.severity, found.mend) == (Severity.FAILURE, "buswork install")
    assert found.text == "buswork is not installed on this system"


@pytest.mark.parametrize("path", [POLICY, RULES, ALIAS])
async def test_a_file_that_is_missing(installed, path):
    at(installed, path).unlink()
    found = await trouble(places.files, installed)
    assert (found.severity, found.text) == (Severity.FAILURE, f"{path} is missing")
    assert found.mend == "buswork install"


@pytest.mark.parametrize("path", [POLICY, RULES, ALIAS])
async def test_a_file_that_was_changed(installed, path):
    at(installed, path).unlink()
    installed.write(path, "something else")
    found = await trouble(places.files, installed)
    assert found.severity is Severity.WARNING
    assert found.text == f"{path} is not as it was shipped"
    assert found.mend == "buswork install --force"


async def test_what_the_daemon_can_do_without_is_a_note(installed):
    at(installed, INTERFACE).unlink()
    at(installed, "/usr/share/dbus-1/interfaces/org.fsct.Driver.xml").write_text("x")
    found = await trouble(places.files, installed)
    assert found.severity is Severity.NOTE
    assert found.text.endswith("org.fsct.Driver.xml and 1 more files")


async def test_a_file_that_others_than_root_may_change(installed):
    at(installed, POLICY).chmod(0o664)
    installed.owners[RULES] = (1000, 0)
    writable, owned = await troubles(places.files, installed)
    assert writable.severity is owned.severity is Severity.FAILURE
    assert (writable.mend, owned.mend) == (f"chmod go-w {POLICY}", f"chown root:root {RULES}")
    assert "belongs to alice" in owned.text


async def test_a_file_that_can_not_be_read(installed, monkeypatch):
    def mark(target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(places, "mark", mark)
    found = await troubles(places.files, installed)
    assert found[0].severity is Severity.WARNING
    assert found[0].text.endswith("can't be read: Permission denied")


async def test_what_an_administrator_put_in_front(installed):
    installed.write("/etc/udev/rules.d/60-buswork.rules", "")
    installed.directory("/etc/systemd/system")
    (installed.root / "etc/systemd/system/buswork.service").symlink_to("/dev/null")  # masked
    found = await trouble(places.files, installed)
    assert found.severity is Severity.NOTE
    assert found.text.startswith("/etc/udev/rules.d/60-buswork.rules stands in front")


# -- programs ------------------------------------------------------------------------------------


async def test_programs_are_there(installed):
    (found,) = await findings(places.programs, installed)
    assert found.severity is Severity.OK


async def test_nothing_starts_any(patient):
    assert await findings(places.programs, patient) == []


def gone(path):
    path.unlink()


def dangling(path):
    path.unlink()
    path.symlink_to("elsewhere")


def without_interpreter(path):
    path.write_text("#!/opt/python -I\n")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (gone, "it is not there"),
        (dangling, "it leads to nothing"),
        (lambda path: path.chmod(0o644), "it is no program"),
        (without_interpreter, "/opt/python, which runs it, is not there"),
    ],
)
@pytest.mark.parametrize("name", ["busworkd", "buswork-probe-fsct"])
async def test_a_program_that_can_not_be_started(installed, name, spoil, why):
    spoil(at(installed, f"/usr/bin/{name}"))
    found = await trouble(places.programs, installed)
    assert found.severity is Severity.FAILURE
    assert found.text == f"/usr/bin/{name} can't be started: {why}"


async def test_a_program_that_was_moved(installed):
    unit = at(installed, "/usr/lib/systemd/system/buswork.service")
    unit.write_text(unit.read_text().replace("/usr/bin/busworkd", "/opt/busworkd --x"))
    assert "/opt/busworkd can't be started" in (await trouble(places.programs, installed)).text


# -- directories ---------------------------------------------------------------------------------


async def test_run_directories_are_there(installed):
    assert not await troubles(places.directories, installed)


async def test_a_run_directory_that_is_missing(installed):
    at(installed, "/run/fsct").rmdir()
    found = await trouble(places.directories, installed)
    assert found.severity is Severity.FAILURE
    assert found.text == "the directory /run/fsct is missing"
    assert found.mend == "systemd-tmpfiles --create buswork.conf"


async def test_a_run_directory_of_somebody_else(installed):
    installed.owners["/run/ipc"] = (1000, 4)
    found = await trouble(places.directories, installed)
    assert found.severity is Severity.FAILURE
    wanted = "root:root's with the mode 1777"
    assert found.text == (
        f"the directory /run/ipc is alice:gid 4's with the mode 1777, and is to be {wanted}"
    )


@pytest.mark.parametrize("path", ["/run/ipc", "/run/buswork"])
async def test_a_run_directory_with_another_mode(installed, path):
    at(installed, path).chmod(0o700)
    found = await trouble(places.directories, installed)
    assert f"{path} is root:root's with the mode 0700" in found.text


async def test_something_else_than_a_directory(installed):
    at(installed, "/run/ipc").rmdir()
    at(installed, "/run/ipc").symlink_to("fsct")
    found = await trouble(places.directories, installed)
    assert found.severity is Severity.FAILURE
    assert found.mend == "rm /run/ipc && systemd-tmpfiles --create buswork.conf"

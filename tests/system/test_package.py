"""The Debian package on a machine that has nothing of the project, from `apt install` to its purge.

All in one machine, in the order of the file. It costs some 25 seconds, most of them apt's."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Self

import pytest
from support.container import REPOSITORY, Container
from support.places import eventually

pytestmark = pytest.mark.systemd

SERVICE = "buswork.service"
GET = ["busctl", "call", "org.buswork", "/org/mapipc/Store", "org.mapipc.Store", "Get", "s", "key"]
# So that it neither asks, nor locks what the host's own apt may be using, nor needs another user.
APT = ["apt-get", "-y", "--no-install-recommends", "-o", "Debug::NoLocking=1"]
APT += ["-o", "APT::Sandbox::User=root"]

# What dpkg, apt and others keep for themselves, and the users, which stay.
NOT_OURS = (
    "/etc/group", "/etc/gshadow", "/etc/passwd", "/etc/shadow",
    "/tmp", "/var/cache", "/var/lib/PackageKit", "/var/lib/apt", "/var/lib/dpkg",
    "/var/lib/systemd", "/var/log", "/var/tmp/systemd-private-",
)  # fmt: skip


class Machine(Container):
    """With packages to install, and without the project and its Python."""

    def __init__(self, packages: pathlib.Path) -> None:
        super().__init__()
        self._packages = packages
        self.before: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self._boot()
            # Images of containers have the first, so that nothing starts; the others take seconds.
            hooks = ["/usr/sbin/policy-rc.d", "/var/lib/man-db/auto-update"]
            self.run(["rm", "-f", *hooks, "/etc/apt/apt.conf.d/20packagekit"])
            self.run(["sh", "-c", "cp /opt/packages/python3-*.deb /var/cache/apt/archives"])
            self.before = self.written()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _binds(self) -> list[tuple[str, str]]:
        return [(str(self._packages), "/opt/packages")]

    def _files(self) -> list[tuple[str, str, int]]:
        return []

    def apt(self, *words: str) -> str:
        command = ["sh", "-c", 'cd /opt/packages && exec "$@"', "sh", *APT, *words]
        return self.run(command, env={"DEBIAN_FRONTEND": "noninteractive"}).stdout

    def written(self) -> dict[str, str]:
        """What is not on the host: path and kind. Seen from outside, in the overlay's upper layer;
        a whiteout, which is a device, stands for what was removed."""
        upper = f"/proc/{self.guard}/root/mnt/upper"
        command = ["find", upper, "-mindepth", "1", "-printf", r"%y /%P\n"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines = [line.split(" ", 1) for line in found.splitlines()]
        return {
            path: kind for kind, path in lines if kind == "c" or not pathlib.Path(path).exists()
        }

    def left(self) -> list[str]:
        """What is written since then, and is not for others to keep."""
        new = set(self.written()) - set(self.before)
        return sorted(path for path in new if not path.startswith(NOT_OURS))


@pytest.fixture(scope="module")
def packages(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> pathlib.Path:
    """Ours, and those that it needs and this host has not got."""
    for tool in ("cc", "dpkg-deb", "apt-get", "py3compile"):
        if shutil.which(tool) is None:
            pytest.skip(f"not installed: {tool}")
    folder = tmp_path_factory.mktemp("packages")
    build = [sys.executable, REPOSITORY / "packaging/build.py", "--output", folder]
    done = subprocess.run(build, capture_output=True, text=True)
    if "compiled, and for another Python" in done.stderr:
        pytest.skip("the Python of the tests is not of the distribution's version")
    assert done.returncode == 0, done.stderr
    (ours,) = folder.glob("buswork_*.deb")
    fetched = request.config.cache.mkdir("packages")
    (fetched / "partial").mkdir(exist_ok=True)
    fetch = [*APT, "--download-only", "-o", f"Dir::Cache::archives={fetched}", "install", ours]
    done = subprocess.run(fetch, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"its dependencies can't be fetched: {done.stderr.strip().splitlines()[-1]}")
    for package in fetched.glob("*.deb"):
        shutil.copy(package, folder)
    return folder


@pytest.fixture(scope="module")
def machine(packages: pathlib.Path) -> Iterator[Machine]:
    with Machine(packages) as machine:
        machine.apt("install", *[f"./{path.name}" for path in packages.glob("buswork_*.deb")])
        yield machine


@pytest.mark.skipif(shutil.which("lintian") is None, reason="not installed: lintian")
def test_lintian_finds_nothing(packages: pathlib.Path) -> None:
    (ours,) = packages.glob("buswork_*.deb")
    check = ["lintian", "--allow-root", "--fail-on", "warning", ours]
    done = subprocess.run(check, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_nothing_of_the_project_is_used(machine: Machine) -> None:
    code = "import sys; sys.path.insert(0, '/usr/lib/buswork'); import buswork, cbor2, websockets;"
    code += "import dbus_next, msgpack, pyudev, usb; print(*(m.__file__ for m in"
    code += " (buswork, cbor2, websockets, dbus_next, msgpack, pyudev, usb)))"
    files = machine.run(["/usr/bin/python3", "-I", "-c", code]).stdout.split()
    assert [file.split("/")[3] for file in files] == ["buswork"] * 3 + ["python3"] * 4
    assert machine.run(["head", "-n1", "/usr/bin/busworkd"]).stdout == "#!/usr/bin/python3 -I\n"
    assert machine.run(["head", "-c4", "/usr/bin/globstash"]).stdout == "\x7fELF"


def test_sockets_are_on_and_those_with_a_risk_are_off(machine: Machine) -> None:
    for unit, state in (("store.socket", "enabled"), ("store-tmp.socket", "disabled")):
        assert machine.show(f"buswork-{unit}", "UnitFileState") == state
    assert machine.show("buswork-store.socket", "ActiveState") == "active"


def test_the_first_call_starts_it(machine: Machine) -> None:
    assert machine.show(SERVICE, "ActiveState") == "inactive"
    assert machine.run(GET, "alice").stdout == 's ""\n'
    machine.until_ready(SERVICE)


def test_it_starts_by_its_old_name(machine: Machine) -> None:
    machine.run(["systemctl", "stop", SERVICE])
    machine.run(["systemctl", "start", "globstashd"])
    assert machine.show(SERVICE, "ActiveState") == "active"
    machine.run(["globstash", "set", "key", "value"], "alice")
    assert machine.run(["globstash", "get", "key"], "bob").stdout == "value"
    place = ["-p", "/run/buswork/mapipc_get"]
    assert machine.run(["mapipc", "get", "-k", "key", *place], "bob").stdout == "value"
    assert machine.run(GET, "bob").stdout == 's "value"\n'


def test_the_other_daemons_start_as_well(machine: Machine) -> None:
    call = ["busctl", "call", "org.buswork.AppView", "/org/appview", "org.appview.Inspector"]
    machine.run([*call, "Scan"], "alice")
    machine.run(["systemctl", "start", "buswork-doors"])
    for unit in ("buswork-appview", "buswork-doors"):
        machine.until_ready(unit)


def test_the_doctor_is_content(machine: Machine) -> None:
    done = machine.run(["buswork", "--json", "doctor"], check=False)
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    findings = json.loads(done.stdout)["findings"]
    assert [finding for finding in findings if finding["severity"] == "failure"] == []


def test_man_pages_and_completions(machine: Machine) -> None:
    owner = ["dpkg", "-S", "/usr/share/man/man1/buswork.1.gz"]
    owner += ["/usr/share/zsh/vendor-completions/_buswork"]
    assert machine.run(owner).stdout.count("buswork: ") == 2
    script = "source /usr/share/bash-completion/completions/buswork; type _shtab_buswork"
    machine.run(["bash", "-euc", script], "alice")


def test_the_package_keeps_its_files(machine: Machine) -> None:
    for command in ("install", "uninstall"):
        done = machine.run(["buswork", command], check=False)
        assert done.returncode == 1
        assert "a package has installed it" in done.stderr
    assert machine.run(["dpkg", "--verify", "buswork"]).stdout == ""


def test_what_an_administrator_switched_off_stays_off(machine: Machine) -> None:
    assert {"/usr/bin/busworkd", "/usr/lib/buswork/buswork"} <= set(machine.left())
    machine.run(["systemctl", "disable", "--now", "buswork-fmr.socket"])
    machine.run(["systemctl", "--global", "enable", "buswork-agent.socket"])
    before = machine.show(SERVICE, "MainPID")
    machine.run(["sh", "-c", "dpkg -i /opt/packages/buswork_*.deb"])
    assert machine.show("buswork-fmr.socket", "UnitFileState") == "disabled"
    eventually(lambda: machine.show(SERVICE, "MainPID") not in ("0", before))


def test_removal_and_purge(machine: Machine) -> None:
    machine.apt("remove", "buswork")
    for unit in ("buswork.service", "buswork-store.socket", "buswork-doors.service"):
        assert machine.show(unit, "ActiveState") == "inactive"
    assert machine.run(["ls", "/etc/systemd/user/sockets.target.wants"]).stdout.strip()
    assert "buswork" not in machine.run(["ls", "-A", "/run", "/tmp"]).stdout
    assert machine.written()["/var/lib/buswork"] == "d"
    assert machine.run(GET, "alice", check=False).returncode != 0

    machine.apt("purge", "--autoremove", "buswork")
    assert machine.left() == []
    links = ["find", "/etc/systemd", "/var/lib/systemd", "-name", "*buswork*"]
    assert machine.run(links).stdout == ""
    assert machine.run(["id", "-un", "buswork"]).stdout == "buswork\n"
    assert machine.run(["systemctl", "--failed", "--quiet"]).stdout == ""

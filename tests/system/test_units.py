"""The shipped units, unmodified, under a real systemd: what starts the daemon, what ends it, and
what its sandbox leaves it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support import sandboxes
from support.container import HOME, PROJECT, REPOSITORY, Container, ContainerError
from support.places import eventually

pytestmark = pytest.mark.systemd

SERVICE = "buswork.service"
SOCKET, TMP_SOCKET = "buswork-store.socket", "buswork-store-tmp.socket"
NAMES = ("mapipc_get", "mapipc_set")

# Asks the get socket for the memory, and reads two keys in it.
READER = """\
import array, socket, sys
from buswork.client.reader import Reader
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("/run/buswork/mapipc_get")
    sock.send(b"\\0mapipc-reader\\n")
    _, (fd,), _, _ = socket.recv_fds(sock, 4096, 1)
with Reader(fd) as reader:
    print(reader.alive, *map(reader.get, sys.argv[1:]))
"""

# Starts a container, says which processes are its, and waits to be killed.
VICTIM = """\
import sys, time
from support.container import Container
with Container() as container:
    container.popen(["sleep", "1000"], "alice")
    print(container.guard, container.leader, flush=True)
    time.sleep(1000)
"""


@pytest.fixture(scope="module")
def booted() -> Iterator[Container]:
    with Container() as container:
        yield container


@pytest.fixture
def container(booted: Container) -> Container:
    """With the sockets as after the installation, and no daemon."""
    booted.run(["systemctl", "stop", SERVICE, TMP_SOCKET])
    booted.run(["systemctl", "reset-failed", SERVICE], check=False)  # else: too many starts
    booted.run(["systemctl", "start", SOCKET])
    assert state(booted) == "inactive"
    return booted


def state(container: Container, unit: str = SERVICE) -> str:
    return container.show(unit, "ActiveState")


def main_pid(container: Container) -> int:
    return int(container.show(SERVICE, "MainPID"))


def call(container: Container, user: str, member: str, *arguments: str) -> Any:
    """The store's answer over D-Bus."""
    command = ["busctl", "--system", "--json=short", "call", "org.buswork"]
    command += ["/org/mapipc/Store", "org.mapipc.Store", member, *arguments]
    said = container.run(command, user).stdout
    return json.loads(said)["data"] if said.strip() else None


def get(container: Container, key: str, user: str = "alice") -> str:
    return container.run(["globstash", "get", key], user).stdout


def set_(container: Container, key: str, value: str, user: str = "alice") -> None:
    container.run(["globstash", "set", key, value], user)


# --- What starts it -------------------------------------------------------------------------------


def test_the_first_call_starts_it(container: Container) -> None:
    assert call(container, "alice", "Set", "ss", "key", "value") == [1]
    container.until_ready(SERVICE)
    assert container.show(SERVICE, "StatusText").startswith("serving ")
    status = container.run(["cat", f"/proc/{main_pid(container)}/status"]).stdout
    assert f"\nUid:\t{container.uid('buswork')}\t" in status


def test_the_first_native_client_starts_it(container: Container) -> None:
    set_(container, "key", "value")
    container.until_ready(SERVICE)
    assert call(container, "bob", "Get", "s", "key") == ["value"]


@pytest.mark.parametrize("name", ["globstashd", "mapipcd"])
def test_it_answers_to_the_old_names(container: Container, name: str) -> None:
    container.run(["systemctl", "start", name])
    assert container.show(name, "Id") == SERVICE
    assert state(container) == "active"
    container.run(["systemctl", "stop", name])
    assert state(container) == "inactive"


def test_it_says_hello_in_the_journal(container: Container) -> None:
    before = container.journal(SERVICE).count("hello, world: busworkd")
    call(container, "alice", "Get", "s", "key")
    eventually(lambda: container.journal(SERVICE).count("hello, world: busworkd") > before)
    assert "Traceback" not in container.journal(SERVICE)


# --- What the values outlive ----------------------------------------------------------------------


def test_values_outlive_kill_9_and_end_with_stop(container: Container) -> None:
    set_(container, "key", "value")
    own = f"~{container.uid('alice')}/own"
    set_(container, own, "secret")
    before = main_pid(container)
    container.run(["systemctl", "kill", "--signal=KILL", SERVICE])
    # The listening sockets are systemd's: whoever comes now is answered by the next daemon.
    assert get(container, "key") == "value"
    assert get(container, own) == "secret"
    assert main_pid(container) != before
    assert container.show(SERVICE, "NRestarts") == "1"

    container.run(["systemctl", "stop", SERVICE])
    assert container.show(SERVICE, "NFileDescriptorStore") == "0"
    assert get(container, "key") == ""
    assert call(container, "alice", "List", "s", "") == [[]]


def test_values_outlive_the_bus(container: Container) -> None:
    set_(container, "key", "value")
    before = main_pid(container)
    container.run(["systemctl", "kill", "--signal=KILL", "dbus.service"])
    eventually(lambda: main_pid(container) not in (before, 0))
    assert get(container, "key") == "value"
    assert call(container, "alice", "Get", "s", "key") == ["value"]


# --- What the sandbox leaves it -------------------------------------------------------------------


def test_it_has_no_rights_of_its_own(container: Container) -> None:
    call(container, "alice", "Get", "s", "key")
    text = container.run(["cat", f"/proc/{main_pid(container)}/status"]).stdout
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


# Of what sandbox_probe.py tries, what each of them is left, because it needs it.
EVERYBODY_HAS = {"unix socket", "file of its own", "the null device"}
IS_LEFT = {
    SERVICE: EVERYBODY_HAS | {"netlink socket"},
    "buswork-doors.service": EVERYBODY_HAS | {"netlink socket", "internet socket"},
    "buswork-appview.service": EVERYBODY_HAS | {"the first process", "a program that runs as we"},
}


@pytest.fixture(scope="module")
def probe(booted: Container) -> list[str]:
    """A command that tries it, and prints how each ends."""
    folder = "/srv/everybodys"
    booted.run(["mkdir", "--mode=1777", folder])
    booted.run(["mknod", "--mode=666", f"{folder}/device", "c", "10", "229"])
    booted.run(["install", "--mode=4755", "/usr/bin/id", folder])
    booted.run(["touch", "/tmp/of-others"])
    booted.run(["ip", "address", "add", "192.0.2.1/32", "dev", "lo"])
    return [f"{HOME}/bin/python", f"{PROJECT}/tests/support/sandbox_probe.py", folder]


@pytest.mark.parametrize("unit", IS_LEFT)
def test_sandboxes_leave_what_is_needed_and_no_more(
    booted: Container, probe: list[str], unit: str
) -> None:
    """A program in the place of the service's own; and once more without a sandbox, as the user
    and with the capabilities of the service."""
    inside = json.loads(sandboxes.run(booted, sandboxes.properties(unit), probe))
    assert {what for what, how in inside.items() if how == "done"} == IS_LEFT[unit], inside
    outside = json.loads(sandboxes.run(booted, sandboxes.identity(unit), probe))
    mounts = "CAP_SYS_ADMIN" in dict(sandboxes.identity(unit))["AmbientCapabilities"]
    assert outside == dict.fromkeys(outside, "done") | ({} if mounts else {"a mount": "EPERM"})


@pytest.mark.attack(40)
def test_peers_are_who_they_are(container: Container) -> None:
    for user in ("alice", "bob"):
        set_(container, "key", user, user)
        (facts,) = call(container, "alice", "Describe", "s", "key")
        assert facts["uid"]["data"] == container.uid(user)
    own = f"~{container.uid('alice')}/own"
    set_(container, own, "secret")
    refused = container.run(["globstash", "get", own], "bob", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")


def test_polkit_is_asked(container: Container) -> None:
    """And takes a question about others from our user, who is not root."""
    set_(container, "key", "value")
    with pytest.raises(ContainerError, match=r"org\.mapipc\.store\.clear"):
        container.run(["buswork", "store", "clear"], "alice")
    assert get(container, "key") == "value"
    container.run(["buswork", "store", "clear"])
    assert get(container, "key") == ""


def test_the_shared_memory_can_be_had(container: Container) -> None:
    set_(container, "key", "value")
    assert container.python(READER, "bob", "key", "missing") == "True b'value' None\n"


# --- What is built in C ---------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("pkg-config") is None,
    reason="not installed: cc or pkg-config",
)


@needs_compiler
def test_the_faster_globstash_takes_the_place_of_the_other(container: Container) -> None:
    """Built by README's command."""
    command = re.search(r"`(cc .*) -o \S*globstash`", (REPOSITORY / "README.md").read_text())
    assert command
    container.run(["sh", "-euc", f"{command[1]} -o /tmp/globstash"], cwd=PROJECT)
    container.run(["install", "/tmp/globstash", "/usr/bin/"])
    try:
        assert "ELF" in container.run(["head", "-c4", "/usr/bin/globstash"]).stdout
        assert container.run(["head", "-c2", f"{HOME}/bin/globstash"]).stdout == "#!"
        set_(container, "key", "value")
        assert get(container, "key", "bob") == "value"
        assert call(container, "alice", "Get", "s", "key") == ["value"]
    finally:
        container.run(["ln", "-sf", f"{HOME}/bin/globstash", "/usr/bin/globstash"])


@needs_compiler
def test_programs_find_the_installed_header(container: Container) -> None:
    guide = (REPOSITORY / "docs/guide-store.md").read_text()
    example = guide.partition("```c\n")[2].partition("```")[0]
    build = "cc -x c - $(pkg-config --cflags mapipc) -o /tmp/example"
    container.run(["sh", "-euc", build], stdin=example)
    assert container.run(["/tmp/example"], "alice").stdout == "hello from C\n"
    assert get(container, "greeting") == "hello from C"
    version = container.run(["pkg-config", "--modversion", "mapipc"]).stdout
    assert container.run(["busworkd", "--version"]).stdout == f"busworkd {version}"


# --- The original's names -------------------------------------------------------------------------


def test_nothing_is_in_tmp_unless_it_is_wanted(container: Container) -> None:
    assert container.show(SOCKET, "UnitFileState") == "enabled"
    assert container.show(TMP_SOCKET, "UnitFileState") == "disabled"
    set_(container, "key", "value")
    assert state(container, TMP_SOCKET) == "inactive"
    assert not set(container.run(["ls", "/tmp"]).stdout.split()) & set(NAMES)


@pytest.fixture
def wanted(container: Container) -> Iterator[Container]:
    """As the guide says, while the daemon runs and somebody else has one of the names."""
    guide = (REPOSITORY / "docs/guide-store.md").read_text()
    section = guide.partition("\n## From the original's programs\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (systemctl .*)$", section, re.MULTILINE)
    assert TMP_SOCKET in commands[-1]
    call(container, "alice", "Set", "ss", "key", "old")
    container.run(["touch", "/tmp/mapipc_set"], "bob")
    container.run(["sh", "-euc", "\n".join(commands)])
    yield container
    container.run(["systemctl", "disable", "--now", TMP_SOCKET])
    assert not set(container.run(["ls", "/tmp"]).stdout.split()) & set(NAMES)


def test_the_original_finds_it_in_tmp_when_that_is_wanted(wanted: Container) -> None:
    assert wanted.show(TMP_SOCKET, "UnitFileState") == "enabled"
    wanted.run(["mapipc", "set", "-k", "key", "-a", "value", "-p", "mapipc_set"], "alice")
    told = wanted.run(["mapipc", "get", "-k", "key", "-p", "/tmp/mapipc_get"], "bob").stdout
    assert told == get(wanted, "key") == "value"
    (facts,) = call(wanted, "alice", "Describe", "s", "key")
    assert facts["uid"]["data"] == wanted.uid("alice")


# --- The container itself -------------------------------------------------------------------------


def test_nothing_is_left_of_a_container_whose_test_was_killed() -> None:
    mounts = pathlib.Path("/proc/self/mountinfo").read_text()
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM], env=environment, stdout=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stdout is not None
        guard, leader = map(int, victim.stdout.readline().split())
        groups = list(pathlib.Path("/sys/fs/cgroup").glob(f"**/buswork-test-{guard}"))
        assert groups
        victim.send_signal(signal.SIGKILL)
    eventually(lambda: not pathlib.Path(f"/proc/{guard}").exists())
    assert not pathlib.Path(f"/proc/{leader}").exists()
    assert not [folder for folder in groups if folder.exists()]
    assert pathlib.Path("/proc/self/mountinfo").read_text() == mounts

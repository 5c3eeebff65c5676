"""Installations that are broken, under a real systemd: what becomes of calls, which wings go on,
and what the doctor says of it. It is asked by a user who may do nothing."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from support.container import Container
from support.places import eventually

from buswork.cli.exits import Exit
from buswork.host import NOT_PASSED

pytestmark = pytest.mark.systemd

SERVICE, DOORS, FSCT = "buswork.service", "buswork-doors.service", "buswork-fsct.socket"
ACTIONS = "/usr/share/polkit-1/actions/org.mapipc.store.policy"
POLICY = "/usr/share/dbus-1/system.d/org.buswork.conf"
RULES = "/usr/lib/udev/rules.d/60-buswork.rules"
DROP_IN = f"/run/systemd/system/{DOORS}.d/doors.conf"
PORT = 9000
SQUATTER = f"""\
import socket
with socket.create_server(("127.0.0.1", {PORT})):
    print("taken", flush=True)
    input()
"""

Findings = list[dict[str, str]]


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with Container() as container:
        yield container


def examined(container: Container, user: str = "alice") -> tuple[int, Findings]:
    """The exit status, and all that is neither well nor a note."""
    # As patient as anybody whose machine has more to do than tests.
    command = ["buswork", "doctor", "--json", "--timeout", "20"]
    done = container.run(command, user, check=False)
    assert done.stderr == ""
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, [f for f in findings if f["severity"] in ("warning", "failure")]


def found(findings: Findings, check: str) -> dict[str, str]:
    """The one finding of a check."""
    (one,) = (finding for finding in findings if finding["check"] == check)
    return one


def mend(container: Container, finding: dict[str, str]) -> None:
    """As it says; but the programs are those of the tests."""
    installing = "buswork install --no-programs --no-pages"
    command = finding["mend"].replace("buswork install", installing)
    container.run(["sh", "-euc", command])


def get(container: Container) -> subprocess.CompletedProcess[str]:
    command = ["busctl", "--system", "call", "org.buswork", "/org/mapipc/Store"]
    return container.run([*command, "org.mapipc.Store", "Get", "s", "key"], "alice", check=False)


def restarted(container: Container, unit: str = SERVICE) -> None:
    container.run(["systemctl", "reset-failed", unit], check=False)  # else: too many starts
    container.run(["systemctl", "restart", unit])


def told(container: Container) -> dict[str, dict[str, str]]:
    """The wings, as `buswork status` and the property have them."""
    command = ["busctl", "--system", "--json=short", "get-property", "org.buswork", "/org/buswork"]
    raw = container.run([*command, "org.buswork.Daemon", "Wings"], "alice").stdout
    wings: dict[str, Any] = status(container)["wings"]
    assert {name: [*state.values()] for name, state in wings.items()} == json.loads(raw)["data"]
    return wings


def status(container: Container) -> Any:
    return json.loads(container.run(["buswork", "status", "--json"], "alice").stdout)


def sound(wings: dict[str, dict[str, str]]) -> set[str]:
    return {name for name, wing in wings.items() if wing == {"state": "running", "reason": ""}}


@contextlib.contextmanager
def spoilt(container: Container, path: str, script: str, tell: str) -> Iterator[None]:
    """A file that a shell script spoils, and that is put back in the end; tell: who is told."""
    spoil = f"cp -a {path} /tmp/kept; {script}; systemctl {tell}"
    with undone(container, spoil, f"mv /tmp/kept {path}; systemctl {tell}"):
        yield


@contextlib.contextmanager
def undone(container: Container, spoil: str, undo: str) -> Iterator[None]:
    """So that what fails here fails nowhere else."""
    container.run(["sh", "-euc", spoil])
    try:
        yield
    finally:
        container.run(["sh", "-euc", undo])


@pytest.mark.parametrize("user", ["alice", "root"])
def test_a_sound_one_is_found_sound_and_nothing_is_started(container: Container, user: str) -> None:
    container.run(["systemctl", "stop", SERVICE])
    assert examined(container, user) == (Exit.OK, [])
    assert container.show(SERVICE, "ActiveState") == "inactive"


def test_the_other_processes_wing_is_told(container: Container) -> None:
    restarted(container)
    container.run(["systemctl", "start", "buswork-appview"])
    assert sound(status(container)["wings"]) == {"store", "fsct", "flipper", "libipc", "appview"}
    assert examined(container) == (Exit.OK, [])
    container.run(["systemctl", "stop", "buswork-appview"])


# -- who lets nobody do anything -----------------------------------------------------------------


def test_actions_that_polkit_does_not_know(container: Container) -> None:
    with spoilt(container, ACTIONS, f"rm {ACTIONS}", "restart polkit"):
        assert "Access denied" in get(container).stderr
        code, findings = examined(container)
        assert code == Exit.BROKEN
        assert found(findings, "places.files")["text"] == f"{ACTIONS} is missing"
        actions = found(findings, "polkit.actions")
        assert actions["text"].startswith("org.mapipc.store.read, org.mapipc.store.write, ")
        assert actions["text"].endswith("denied to all, as polkit does not know it")
        mend(container, actions)
        assert get(container).returncode == 0


def test_actions_of_somebody_else(container: Container) -> None:
    change = f"sed -i s/unix-user:buswork/unix-user:nobody/ {ACTIONS}"
    with spoilt(container, ACTIONS, change, "restart polkit"):
        assert "Access denied" in get(container).stderr
        code, findings = examined(container)
        assert code == Exit.BROKEN
        text = found(findings, "polkit.actions")["text"]
        assert text.endswith("polkit has unix-user:nobody as its owner, and not unix-user:buswork")
        assert found(findings, "places.files")["severity"] == "warning"
    assert get(container).returncode == 0


def test_a_policy_that_the_bus_ignores(container: Container) -> None:
    restarted(container)
    with spoilt(container, POLICY, f"sed -i s/send_type/send_tipe/ {POLICY}", "reload dbus"):
        assert "Access denied" in get(container).stderr
        code, findings = examined(container)
        assert code == Exit.BROKEN
        ignored, refused = (each for each in findings if each["check"] == "bus.policy")
        assert ignored["text"].startswith(f"the bus ignores {POLICY} as a whole: ")
        assert refused["text"].startswith("the bus does not follow the policy of org.buswork")
        container.run(["systemctl", "stop", SERVICE])  # then, only the file tells of it
        assert found(examined(container)[1], "bus.policy") == ignored
        mend(container, ignored)
        assert get(container).returncode == 0


# -- what a wing does not get --------------------------------------------------------------------


def test_a_run_directory_with_another_mode(container: Container) -> None:
    spoil = f"chmod 0755 /run/ipc; systemctl restart {SERVICE}"
    with undone(container, spoil, "chmod 1777 /run/ipc"):
        wings = told(container)
        reason = "nothing can be served in /run/ipc: it is not ours to write to"
        assert wings["libipc"] == {"state": "running", "reason": reason}
        assert sound(wings) == {"store", "fsct", "flipper"}
        eventually(lambda: reason in container.journal(SERVICE))
        assert get(container).returncode == 0
        code, findings = examined(container)
        assert (code, len(findings)) == (Exit.BROKEN, 2)
        directory = found(findings, "places.directories")
        assert "/run/ipc is root:root's with the mode 0755" in directory["text"]
        assert reason in found(findings, "wings.states")["text"]
        for each in findings:
            mend(container, each)
        assert examined(container) == (Exit.OK, [])


def test_a_socket_whose_place_is_taken(container: Container) -> None:
    taken = "/run/fsct/fsct.sock"
    spoil = f"systemctl stop {SERVICE} {FSCT}; mkdir {taken}; systemctl start {SERVICE}"
    restore = f"rmdir {taken}*; systemctl stop {SERVICE}; systemctl restart {FSCT}"
    with undone(container, spoil, f"[ -S {taken} ] || {{ {restore}; }}"):
        wings = told(container)
        assert wings["fsct"] == {"state": "running", "reason": f"{NOT_PASSED} 'fsct'"}
        assert sound(wings) == {"store", "flipper", "libipc"}
        eventually(lambda: f"{NOT_PASSED} 'fsct'" in container.journal(SERVICE))
        assert get(container).returncode == 0
        code, findings = examined(container)
        assert (code, len(findings)) == (Exit.BROKEN, 1)
        assert findings[0]["text"].startswith(f"{FSCT} can't listen at {taken}")
        container.run(["systemctl", "stop", SERVICE])
        mend(container, findings[0])
        assert container.show(FSCT, "ActiveState") == "active"
        container.run(["rmdir", f"{taken}.other"])


@pytest.fixture
def squatted(container: Container) -> Iterator[Container]:
    """With a door at a port that another program has."""
    options = f"--ipc-tcp {PORT}=c --allow-board 192.168.1.7"
    text = f'[Service]\nEnvironment="DOORS={options}"\n'
    container.run(["ip", "link", "set", "lo", "up"])
    container.run(["install", "-D", "/dev/stdin", DROP_IN], stdin=text)
    container.run(["systemctl", "daemon-reload"])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    squatter = container.popen(["python3", "-c", SQUATTER], "bob", **pipes)
    assert squatter.stdout is not None
    assert squatter.stdout.readline() == "taken\n"
    yield container
    squatter.communicate("\n")
    container.run(["systemctl", "stop", DOORS, "buswork-doors.socket"])
    container.run(["rm", DROP_IN])
    container.run(["systemctl", "daemon-reload"])


def test_a_port_that_another_program_has(squatted: Container) -> None:
    restarted(squatted)
    restarted(squatted, DOORS)
    trouble = f"closed: the door at 127.0.0.1:{PORT}: [Errno 98] Address already in use"
    assert squatted.show(DOORS, "StatusText").startswith(f"serving; {trouble}")
    assert status(squatted)["doors"].startswith(f"active: serving; {trouble}")
    door = "a door can't be opened: the door at 127.0.0.1"
    eventually(lambda: door in squatted.journal(DOORS))
    code, findings = examined(squatted)
    assert (code, len(findings)) == (Exit.BROKEN, 1)
    assert trouble in found(findings, "units.services")["text"]

    # Without anything else to do, it does not pretend to work.
    squatted.run(["sed", "-i", "s/--allow-board [0-9.]*//", DROP_IN])
    squatted.run(["systemctl", "daemon-reload"])
    assert squatted.run(["systemctl", "restart", DOORS], check=False).returncode != 0
    text = found(examined(squatted)[1], "units.services")["text"]
    assert "fails again and again" in text or "has failed" in text  # which it has in the end


# -- what is only half wrong ---------------------------------------------------------------------


def test_a_rule_that_was_changed_and_a_unit_that_is_masked(container: Container) -> None:
    mask = f"echo >>{RULES}; systemctl mask --runtime --now {SERVICE} 2>/dev/null"
    with spoilt(container, RULES, mask, "daemon-reload"):
        code, findings = examined(container)
        assert (code, len(findings)) == (Exit.WARNINGS, 2)
        assert found(findings, "places.files")["text"] == f"{RULES} is not as it was shipped"
        assert found(findings, "units.services")["mend"] == f"systemctl unmask {SERVICE}"
        container.run(["systemctl", "unmask", "--runtime", SERVICE])


def test_a_program_that_is_gone(container: Container) -> None:
    with spoilt(container, "/usr/bin/busworkd", "rm /usr/bin/busworkd", "stop buswork"):
        code, findings = examined(container)
        assert (code, len(findings)) == (Exit.BROKEN, 1)
        gone = found(findings, "places.programs")
        assert gone["text"] == "/usr/bin/busworkd can't be started: it is not there"
        assert gone["mend"] == "buswork install --force"

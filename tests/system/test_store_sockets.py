"""The native sockets as unmodified clients meet them: other users, a real bus, a real polkit."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine import CallError, Daemon, Machine

PATH, STORE = "/org/mapipc/Store", "org.mapipc.Store"
NAMES = ("mapipc_set", "mapipc_get")

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture(scope="module")
def directory(machine: Machine) -> Path:
    directory = Path(machine.tmp) / "sockets"
    directory.mkdir()
    directory.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def daemon(machine: Machine, directory: Path) -> Daemon:
    """With sockets that are passed, as systemd does it."""
    passed = []
    for name in NAMES:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(directory / name))
        (directory / name).chmod(0o666)
        sock.listen(128)
        passed.append(sock)
    fds = [("store", sock.fileno()) for sock in passed]
    daemon = machine.start_daemon(fds=[*fds, ("store", os.open("/dev/null", os.O_RDONLY))])
    for sock in passed:
        sock.close()
    return daemon


def run(
    machine: Machine, directory: Path, user: str, program: str, *arguments: str
) -> tuple[int, str, str]:
    places = {name.upper(): str(directory / name) for name in NAMES}
    command = [sys.executable, "-m", f"buswork.thin.{program}", *arguments]
    done = machine.run(command, user, env=places, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_value_has_two_doors(machine, daemon, directory):
    alice = machine.client("alice")
    assert run(machine, directory, "alice", "globstash", "set", "k", "native") == (0, "", "")
    assert alice.call(PATH, STORE, "Lookup", "s", "k").body[1] == "native"
    alice.call(PATH, STORE, "Set", "ss", "k", "D-Bus")
    assert run(machine, directory, "bob", "mapipc", "get", "-k", "k") == (0, "D-Bus", "")
    uid = alice.call(PATH, STORE, "Describe", "s", "k").value["uid"]
    assert getattr(uid, "value", uid) == machine.uid("alice")


def test_what_is_no_string_on_the_bus(machine, daemon, directory):
    alice = machine.client("alice")
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    code += "s.send(sys.argv[2].encode()); print(s.recv(100).decode())"
    for written, shown in (("[1,2]", "[1,2]"), ('""', ""), ('"\\u0000"', None)):
        request = f'{{"key":"odd","value":{written}}}'
        machine.run([sys.executable, "-c", code, str(directory / "mapipc_set"), request], "alice")
        if shown is not None:
            assert alice.call(PATH, STORE, "Get", "s", "odd").value == shown
            continue
        with pytest.raises(CallError) as refusal:
            alice.call(PATH, STORE, "Get", "s", "odd")
        assert refusal.value.name == "org.mapipc.Error.NotText"


def test_private_keys_are_private_here_too(machine, daemon, directory):
    key = f"~{machine.uid('alice')}/secret"
    assert run(machine, directory, "alice", "globstash", "set", key, "v")[0] == 0
    assert run(machine, directory, "alice", "globstash", "get", key)[1] == "v"
    status, out, complaint = run(machine, directory, "bob", "globstash", "get", key)
    assert (status, out) == (1, "")
    assert "belong" in complaint
    assert run(machine, directory, "bob", "globstash", "set", key, "v")[0] == 1


def test_polkit_decides(machine, daemon, directory):
    rule = machine.add_rule(
        'polkit.addRule(function(action, subject) { if (subject.user == "bob" && '
        'action.id.indexOf("org.mapipc.store.") == 0) return polkit.Result.NO; });'
    )
    try:
        status, out, complaint = run(machine, directory, "bob", "mapipc", "get", "-k", "k")
        assert (status, out) == (1, "")
        assert "does not contain value member" in complaint
        assert json.loads(complaint.partition("member: ")[2])["error"].endswith("AccessDenied")
        # The original's set takes anything for a yes; ours does not.
        assert run(machine, directory, "bob", "mapipc", "set", "-k", "k", "-a", "no")[0] == 0
        assert run(machine, directory, "bob", "globstash", "set", "k", "no")[0] == 1
        assert run(machine, directory, "alice", "globstash", "get", "k")[1] != "no"
        daemon.says("denied")
    finally:
        machine.remove_rule(rule)


def test_a_descriptor_that_is_no_socket_is_named_in_the_log(daemon):
    daemon.says("no socket")


def test_the_daemon_makes_its_own_sockets_and_leaves_those_of_others(machine, daemon, directory):
    daemon.stop()
    own = Path(machine.tmp) / "own"
    own.mkdir()
    os.chown(own, machine.uid("buswork"), -1)
    own.chmod(0o755)
    (own / "mapipc_set").write_text("somebody else's")
    again = machine.start_daemon("--wings", "store", "--socket-dir", str(own))
    try:
        assert (own / "mapipc_set").read_text() == "somebody else's"
        again.says("mapipc_set is there already")
        assert os.listdir(own) == ["mapipc_set"]
    finally:
        assert again.stop() == 0
    assert sorted(os.listdir(own)) == ["mapipc_set"]

    (own / "mapipc_set").unlink()
    killed = machine.start_daemon("--wings", "store", "--socket-dir", str(own))
    os.kill(killed.pid, signal.SIGKILL)
    killed.process.wait()
    assert sorted(os.listdir(own)) == sorted(NAMES)
    machine.wait_owner("org.buswork", owned=False)
    last = machine.start_daemon("--tmp-sockets", env={"TMPDIR": str(own)})
    assert run(machine, own, "bob", "globstash", "set", "k", "v") == (0, "", "")
    assert last.stop() == 0
    assert os.listdir(own) == []

"""The buswork command on a real system bus, as ordinary users."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from support.machine import Machine

from buswork.cli.exits import Exit

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-m", "buswork.cli"]
ALLOW = 'polkit.addRule(function (a, s) { if (a.id == "%s" && s.user == "%s") return "yes"; });'


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        machine.start_daemon()
        yield machine


def run(
    machine: Machine, user: str, *words: str, stdin: str = ""
) -> "subprocess.CompletedProcess[str]":
    return machine.run([*COMMAND, *words], user=user, check=False, stdin=stdin)


def test_values_are_shared_between_users(machine: Machine) -> None:
    assert run(machine, "alice", "store", "set", "greeting", "hello").returncode == Exit.OK
    assert run(machine, "bob", "store", "get", "greeting").stdout == "hello"
    facts = json.loads(run(machine, "bob", "store", "describe", "greeting", "--json").stdout)
    assert facts["uid"] == machine.uid("alice")


def test_private_keys_stay_private(machine: Machine) -> None:
    key = f"~{machine.uid('alice')}/secret"
    assert run(machine, "alice", "store", "set", key, "x").returncode == Exit.OK
    assert run(machine, "bob", "store", "get", key).returncode == Exit.DENIED
    assert run(machine, "bob", "store", "list").stdout == ""


def test_what_needs_a_password_that_nobody_can_type(machine: Machine) -> None:
    for words in (["store", "clear"], ["clients"], ["clients", "--release", "/x"]):
        done = run(machine, "alice", *words)
        assert (done.returncode, done.stdout) == (Exit.DENIED, "")
        assert "action org." in done.stderr
    done = run(machine, "alice", "store", "clear", "--no-interaction")
    assert done.returncode == Exit.DENIED
    assert "InteractiveAuthorizationRequired" in done.stderr


def test_what_an_administrator_allows(machine: Machine) -> None:
    machine.add_rule(ALLOW % ("org.mapipc.store.clear", "alice"))
    run(machine, "bob", "store", "set", "a", "1")
    assert run(machine, "alice", "store", "clear").returncode == Exit.OK
    assert run(machine, "bob", "store", "clear").returncode == Exit.DENIED
    assert run(machine, "bob", "store", "list").stdout == ""


def test_ten_thousand_keys_in_and_out(machine: Machine) -> None:
    values = {f"many/{n:05}": str(n) for n in range(10_000)}
    done = run(machine, "alice", "store", "import", "--json", stdin=json.dumps(values))
    assert json.loads(done.stdout)["keys"] == 10_000
    assert json.loads(run(machine, "bob", "store", "export").stdout) == values
    assert run(machine, "alice", "store", "set", "one", "more").returncode == Exit.FAILED


def test_a_password_is_asked_for_on_a_terminal(machine: Machine) -> None:
    """pkttyagent comes, shows what it is about, and goes with the command."""
    ours, theirs = pty.openpty()
    command = machine.popen(
        # A session of its own, with this terminal: pkttyagent asks on /dev/tty.
        ["setsid", "--ctty", "--wait", *COMMAND, "store", "clear", "--yes"],
        user="alice",
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    text = read_until(ours, b"org.mapipc.store.clear")
    assert b"AUTHENTICATING FOR" in text
    # Of this command: other tests have an alice too, and they may be asked meanwhile.
    number = command_number(machine)
    (agent,) = machine.run(["pgrep", "-P", str(number), "pkttyagent"]).stdout.split()
    os.kill(number, signal.SIGTERM)
    command.wait(20)
    left = machine.run(["pgrep", "-u", "alice", "pkttyagent"], check=False)
    assert agent not in left.stdout.split()
    os.close(ours)


def command_number(machine: Machine) -> int:
    """The process of the command itself, which setsid has started last."""
    found = machine.run(["pgrep", "-u", "alice", "-f", "buswork.cli store clear"]).stdout
    return max(map(int, found.split()))


def test_no_agent_is_started_when_none_is_needed(machine: Machine) -> None:
    ours, theirs = pty.openpty()
    fake = machine.tmp / "bin"
    fake.mkdir()
    (fake / "pkttyagent").write_text(f"#!/bin/sh\ntouch {machine.tmp}/asked\n")
    (fake / "pkttyagent").chmod(0o755)
    path = {"PATH": f"{fake}:/usr/bin:/bin"}
    for words, status in ((["set", "a", "1"], 0), (["clear", "--yes", "--no-interaction"], 4)):
        command = machine.popen([*COMMAND, "store", *words], user="alice", env=path, stdin=theirs)
        assert command.wait(20) == status
    assert not (machine.tmp / "asked").exists()
    command = machine.popen(
        [*COMMAND, "store", "clear", "--yes"], user="alice", env=path, stdin=theirs
    )
    assert command.wait(20) == Exit.DENIED
    assert (machine.tmp / "asked").exists()
    os.close(ours)
    os.close(theirs)


def read_until(terminal: int, text: bytes) -> bytes:
    seen, deadline = b"", time.monotonic() + 20
    while text not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, seen
        seen += os.read(terminal, 4096)
    return seen

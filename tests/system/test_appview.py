"""Processes under AppView as their callers meet them: several uids on a real bus with a real
polkit, and processes in containers."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.agent import Agent
from support.inspected import (
    ERROR,
    INSPECTOR,
    PROCESS,
    ROOT,
    People,
    Viewed,
    ask,
    call,
    facts,
    queues,
    scan,
    tell,
)
from support.machine import APPVIEW_NAME, Client, Daemon, Machine
from support.places import OBJECT_MANAGER, PROPERTIES, eventually, refused

from buswork.appview.native import mqueue

pytestmark = [pytest.mark.processes, pytest.mark.system]

INSPECT, CONFIGURE = "org.appview.inspect", "org.appview.configure"
SECONDS = 20.0
NEEDS_INSPECT = ("GetStatus", "GetConfiguration", "GetTransportStatus", "GetProcessDetails")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(users=("alice", "bob", "carol")) as machine:
        yield machine


@pytest.fixture(scope="module")
def daemon(machine: Machine) -> Daemon:
    return machine.start_appview()


@pytest.fixture
def root(machine: Machine, daemon: Daemon) -> Iterator[Client]:
    client = machine.client("root")
    yield client
    client.close()


# --- Who may do what ------------------------------------------------------------------------------


def test_it_has_its_rights_and_no_others(daemon: Daemon, machine: Machine) -> None:
    text = pathlib.Path(f"/proc/{daemon.pid}/status").read_text()
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    # CAP_CHOWN 0, CAP_FOWNER 3, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21 (capability.h)
    wanted = 1 << 0 | 1 << 3 | 1 << 19 | 1 << 21
    for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == wanted, name
    assert set(status["Uid"].split()) == {str(machine.uid("buswork-appview"))}


def test_ones_own_need_no_question(people: People, alice: Client, bob: Client) -> None:
    mine, theirs = people.start("alice"), people.start("bob")
    for client, viewed, other in ((alice, mine, theirs), (bob, theirs, mine)):
        found = scan(client)
        assert viewed.path in found
        assert other.path not in found
        assert facts(client, viewed)["State"] == "Active"
        details = ask(client, viewed, "GetProcessDetails")
        assert details["pid"] == viewed.pid
        changed = ask(client, viewed, "MergeConfiguration", "s", '{"tags":{"a":"b"}}')
        assert changed["tags"] == {"a": "b"}
        assert queues(viewed.pid) == []


def test_those_of_others_need_one(people: People, alice: Client, bob: Client) -> None:
    theirs = people.start("bob")
    scan(bob)
    for member in NEEDS_INSPECT:
        with refused("InteractiveAuthorizationRequired", INSPECT):
            ask(alice, theirs, member)
    with refused("InteractiveAuthorizationRequired", INSPECT):
        scan(alice, "ScanAll")
    for member, words in (
        ("SetConfiguration", ("s", "{}")),
        ("MergeConfiguration", ("s", "{}")),
        ("Attach", ("a{ss}", {})),
        ("Detach", ()),
    ):
        with refused("InteractiveAuthorizationRequired", CONFIGURE):
            call(alice, theirs.path, PROCESS, member, *words)
    assert facts(alice, theirs) == {}
    (objects,) = call(alice, ROOT, OBJECT_MANAGER, "GetManagedObjects")
    assert objects[theirs.path] == {PROCESS: {}}
    assert ask(bob, theirs, "GetConfiguration")["cfg"]["current"]["tags"] == {}


def test_root_may_all(people: People, root: Client) -> None:
    theirs = people.start("bob")
    assert theirs.path in scan(root, "ScanAll")
    assert theirs.path not in scan(root)
    assert ask(root, theirs, "GetStatus")["viewed"]
    tell(root, theirs, "SetConfiguration", "s", '{"tags":{"by":"root"}}')
    assert ask(root, theirs, "GetConfiguration")["cfg"]["current"]["tags"] == {"by": "root"}


def test_who_is_an_administrator_may_too(
    machine: Machine, people: People, alice: Client, bob: Client
) -> None:
    theirs = people.start("bob")
    scan(bob)
    with Agent(machine, alice.pid) as agent:
        assert ask(alice, theirs, "GetStatus", interactive=True)["viewed"]
        assert agent.wait_asked().action == INSPECT
    rule = machine.add_rule(
        "polkit.addRule(function (action, subject) {\n"
        f'  if (subject.user == "alice" && action.id == "{CONFIGURE}") return "yes";\n'
        "});"
    )
    tell(alice, theirs, "SetConfiguration", "s", "{}")
    machine.remove_rule(rule)


def test_what_may_not_be_traced_is_nobodys(people: People, alice: Client, root: Client) -> None:
    """Root's with a user's effective uid, and one that has become what its user is not."""
    uid = str(alice_uid(alice))
    hidden = people.start("root", "--uid", uid, "--not-dumpable")
    assert hidden.path not in scan(alice)
    assert hidden.path in scan(root, "ScanAll")
    with refused("InteractiveAuthorizationRequired", CONFIGURE):
        tell(alice, hidden, "Detach")
    assert ask(root, hidden, "GetStatus")["viewed"]


def alice_uid(alice: Client) -> int:
    return os.stat(f"/proc/{alice.pid}").st_uid


def test_processes_of_root_are_not_for_everybody(people: People, alice: Client) -> None:
    viewed = people.start("root")
    assert viewed.path not in scan(alice)
    with refused("InteractiveAuthorizationRequired", INSPECT):
        ask(alice, viewed, "GetConfiguration")


# --- Containers, children, ends -------------------------------------------------------------------


CONTAINER = ["unshare", "--ipc", "--pid", "--fork", "--mount-proc"]


def test_a_process_in_a_container(people: People, root: Client, alice: Client) -> None:
    """It is number 1 there, or next to it, and its queues are none that are seen from here."""
    viewed = people.start("root", "--period", "0.05", inside=CONTAINER)
    assert viewed.path in scan(root, "ScanAll")
    details = ask(root, viewed, "GetProcessDetails")
    assert details["pid"] < 10 < viewed.pid
    changed = ask(root, viewed, "MergeConfiguration", "s", '{"tags":{"in":"there"}}')
    assert changed["tags"] == {"in": "there"}
    tell(root, viewed, "Detach")
    assert facts(root, viewed)["State"] == "Latent"
    with refused("InteractiveAuthorizationRequired", INSPECT):
        ask(alice, viewed, "GetStatus")


def test_a_users_process_in_a_container(
    machine: Machine, people: People, root: Client, alice: Client
) -> None:
    """All that it has is his: so is it."""
    uid = str(machine.uid("alice"))
    viewed = people.start("root", "--uid", uid, inside=CONTAINER)
    assert viewed.path in scan(alice)
    assert ask(alice, viewed, "GetStatus")["viewed"]


@pytest.mark.attack(41)
def test_attaching_and_detaching(people: People, alice: Client) -> None:
    viewed = people.start("alice", "--period", "0.05")
    scan(alice)
    tell(alice, viewed, "Detach")
    assert (facts(alice, viewed)["State"], facts(alice, viewed)["Viewed"]) == ("Latent", False)
    tell(alice, viewed, "Attach", "a{ss}", {"APPVIEW_TAG_SIMULATED": "yes"})
    current = ask(alice, viewed, "GetConfiguration")["cfg"]["current"]
    assert current["tags"] == {"SIMULATED": "yes"}
    assert not pathlib.Path(f"/dev/shm/appview_dconf.{viewed.pid}").exists()


def test_what_was_never_begun_is_there(people: People, alice: Client) -> None:
    """Which it is shows in its descriptors, and they are not seen with these rights."""
    viewed = people.start("alice", "--state", "setup")
    assert viewed.path in scan(alice)
    assert facts(alice, viewed)["State"] == "Inert"


def test_a_process_that_ends_during_a_call(people: People, alice: Client) -> None:
    viewed = people.start("alice")
    scan(alice)
    os.kill(viewed.pid, signal.SIGSTOP)
    ticket = alice.begin(viewed.path, PROCESS, "GetStatus", destination=APPVIEW_NAME)
    eventually(lambda: queues(viewed.pid))
    viewed.kill()
    with refused(f"{ERROR}ProcessGone"):
        alice.end(ticket, SECONDS)
    assert queues(viewed.pid) == []
    eventually(lambda: viewed.path not in objects(alice))


def objects(client: Client) -> dict[str, Any]:
    (found,) = call(client, ROOT, OBJECT_MANAGER, "GetManagedObjects")
    assert isinstance(found, dict)
    return found


def test_a_caller_that_leaves_during_a_call(
    machine: Machine, people: People, alice: Client
) -> None:
    viewed = people.start("alice")
    scan(alice)
    os.kill(viewed.pid, signal.SIGSTOP)
    victim = machine.client("alice")
    victim.begin(viewed.path, PROCESS, "GetStatus", destination=APPVIEW_NAME)
    eventually(lambda: queues(viewed.pid))
    victim.kill()
    os.kill(viewed.pid, signal.SIGCONT)
    assert ask(alice, viewed, "GetStatus")["viewed"]
    eventually(lambda: queues(viewed.pid) == [])


def test_protocols_do_not_kill(people: People, alice: Client) -> None:
    viewed = people.start("alice")
    scan(alice)
    protocol = '{"protocol":[{"name":"%s","regex":"^x","len":4}]}'
    tell(alice, viewed, "SetConfiguration", "s", protocol % "first")
    tell(alice, viewed, "SetConfiguration", "s", protocol % "first")
    changed = ask(alice, viewed, "MergeConfiguration", "s", protocol % "second")
    assert [each["name"] for each in changed["protocol"]] == ["first", "second"]
    with refused(f"{ERROR}BadConfiguration", "tags.a"):
        ask(alice, viewed, "MergeConfiguration", "s", '{"tags":{"a":[]}}')
    assert ask(alice, viewed, "GetStatus")["viewed"]


def test_a_child_has_its_parents_uuid_and_an_object_of_its_own(
    machine: Machine, people: People, alice: Client
) -> None:
    command = [sys.executable, "-c", FORKING]
    process = machine.popen(command, "alice", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    pids = sorted(int(process.stdout.readline()) for _ in range(2))
    parent, child = (Viewed(process, pid) for pid in pids)
    try:
        assert {parent.path, child.path} <= set(scan(alice))
        found = [ask(alice, each, "GetProcessDetails") for each in (parent, child)]
        assert [each["pid"] for each in found] == pids
        assert found[0]["uuid"] == found[1]["uuid"] == facts(alice, child)["Uuid"]
    finally:
        os.kill(child.pid, signal.SIGKILL)
        parent.kill()


FORKING = """
import os, time
from buswork.sim.viewed import Knowledge, Library, _map_library
library, file = Library(Knowledge()), _map_library()
os.fork()
os.write(1, b"%d\\n" % os.getpid())
while True:
    library.tick()
    time.sleep(0.001)
"""


def test_somebody_elses_queue_is_left_alone(
    machine: Machine, people: People, alice: Client, root: Client
) -> None:
    """Bob squats the name that Alice's process looks for."""
    viewed = people.start("alice")
    scan(alice)
    squatter = machine.popen(
        [sys.executable, "-c", SQUATTER, str(viewed.pid)],
        "bob",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert squatter.stdout is not None
    assert squatter.stdin is not None
    squatter.stdout.readline()
    try:
        with refused(f"{ERROR}QueueTaken", str(machine.uid("bob"))):
            ask(alice, viewed, "GetStatus")
        assert mqueue.look(f"AppViewIPCIn.{viewed.pid}").st_uid == machine.uid("bob")
    finally:
        squatter.stdin.close()
        squatter.wait()
    assert ask(alice, viewed, "GetStatus")["viewed"]


SQUATTER = """
import os, sys
from buswork.appview.native import mqueue
name = f"AppViewIPCIn.{sys.argv[1]}"
mqueue.create(name, os.O_RDWR, 1, 64)
print(flush=True)
sys.stdin.read()
mqueue.unlink(name)
"""


# --- Tools ----------------------------------------------------------------------------------------


def test_busctl(machine: Machine, people: People) -> None:
    viewed = people.start("alice")
    busctl = ["busctl", "--system", "--json=short"]
    target = [APPVIEW_NAME, ROOT, INSPECTOR, "Scan"]
    found = json.loads(machine.run([*busctl, "call", *target], "alice").stdout)
    assert viewed.path in found["data"][0]
    target = [APPVIEW_NAME, viewed.path, PROCESS]
    said = machine.run([*busctl, "call", *target, "GetStatus"], "alice").stdout
    assert json.loads(said)["data"] == [
        {"status": {"type": "x", "data": 200}, "viewed": {"type": "b", "data": True}},
        '{"status":200,"viewed":true}',
    ]
    said = machine.run([*busctl, "get-property", *target, "State"], "alice").stdout
    assert json.loads(said) == {"type": "s", "data": "Active"}
    refusal = machine.run([*busctl, "call", *target, "GetStatus"], "bob", check=False)
    assert refusal.returncode == 1
    assert "denied" in refusal.stderr


def test_the_process_says_what_it_is(daemon: Daemon, alice: Client, root: Client) -> None:
    (wings,) = call(alice, "/org/buswork", PROPERTIES, "Get", "ss", "org.buswork.Daemon", "Wings")
    assert wings.value == {"appview": ["running", ""]}
    control = ("/org/freedesktop/LogControl1", PROPERTIES)
    names = "org.freedesktop.LogControl1"
    (name,) = call(alice, *control, "Get", "ss", names, "SyslogIdentifier")
    assert name.value == "buswork-appview"
    assert call(root, "/org/buswork", "org.buswork.Daemon", "ListClients") == [[]]
    with refused("InteractiveAuthorizationRequired", "org.buswork.observe-others"):
        call(alice, "/org/buswork", "org.buswork.Daemon", "ListClients")

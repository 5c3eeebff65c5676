"""The test machine itself: that it is what it says, and the traps that its users should know."""

from __future__ import annotations

import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from support.agent import Agent
from support.machine import (
    BUS_NAME,
    OPEN_POLICY,
    POLKIT_NAME,
    CallError,
    Client,
    Machine,
    MachineError,
    Reply,
    Variant,
    why_not,
)

pytestmark = pytest.mark.system

TESTS = pathlib.Path(__file__).resolve().parents[1]

READ = "org.mapipc.store.read"
WRITE = "org.mapipc.store.write"
CLEAR = "org.mapipc.store.clear"
PLAIN, INTERACTIVE = 0, 1

YES, NO, CHALLENGE = (True, False), (False, False), (False, True)

# A daemon's outside and nothing else: it takes the name, says that it is ready, and answers every
# call of Watch with a descriptor.
STAND_IN = """
import asyncio, os, socket, sys
from dbus_fast import BusType, Message
from dbus_fast.aio import MessageBus

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    keep = os.memfd_create("values")
    os.write(keep, b"kept")

    def answer(call):
        if call.member == "Watch":
            return Message.new_method_return(call, "h", [0], unix_fds=[keep])

    bus.add_message_handler(answer)
    await bus.request_name("org.buswork")
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.connect(os.environ["NOTIFY_SOCKET"])
    if int(os.environ.get("LISTEN_FDS", 0)):
        assert os.environ["LISTEN_PID"] == str(os.getpid())
        text = os.pread(3, 100, 0).decode()
        notify.send(f"STATUS={os.environ['LISTEN_FDNAMES']}: {text}".encode())
    socket.send_fds(notify, [b"FDSTORE=1\\nFDNAME=values"], [keep])
    print("up as", os.getuid(), *sys.argv[1:], flush=True)
    notify.send(b"READY=1")
    await bus.wait_for_disconnect()

asyncio.run(main())
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(groups={"writers": ["bob"]}) as machine:
        yield machine


def ask(asker: Client, subject: Client, action: str, flags: int = PLAIN) -> tuple[bool, bool]:
    """What polkit answers to asker about subject: authorised, challenge."""
    return answer(asker.end(begin_ask(asker, subject, action, flags)))


def begin_ask(asker: Client, subject: Client, action: str, flags: int, cookie: str = "") -> int:
    return asker.begin(
        "/org/freedesktop/PolicyKit1/Authority",
        "org.freedesktop.PolicyKit1.Authority",
        "CheckAuthorization",
        "(sa{sv})sa{ss}us",
        ["system-bus-name", {"name": Variant("s", subject.name)}],
        action,
        {},
        flags,
        cookie,
        destination=POLKIT_NAME,
    )


def answer(reply: Reply) -> tuple[bool, bool]:
    authorised, challenge, _details = reply.value
    return authorised, challenge


# --- The machine ----------------------------------------------------------------------------------


def test_it_has_its_own_users_and_the_host_has_not(machine: Machine) -> None:
    assert machine.run(["id", "-un"], user="alice").stdout == "alice\n"
    assert machine.run(["id", "-Gn"], user="bob").stdout == "bob writers\n"
    assert machine.run(["id", "-u"], user="buswork").stdout == f"{machine.uid('buswork')}\n"
    assert "alice" not in pathlib.Path("/etc/passwd").read_text()


def test_the_bus_knows_who_calls(machine: Machine) -> None:
    alice = machine.client("alice")
    assert alice.bus("GetConnectionUnixUser", "s", alice.name).value == machine.uid("alice")
    assert alice.bus("GetConnectionUnixProcessID", "s", alice.name).value == alice.pid


def test_other_users_can_run_the_interpreter_and_the_project(machine: Machine) -> None:
    code = "import buswork, dbus_fast; print(buswork.__file__)"
    done = machine.run([sys.executable, "-c", code], user="alice")
    assert "src/buswork" in done.stdout


def test_the_bus_can_be_reached_from_outside(machine: Machine) -> None:
    with socket.socket(socket.AF_UNIX) as outside:
        outside.connect(machine.address.removeprefix("unix:path="))
    busctl = ["busctl", f"--address={machine.address}", "list"]
    assert POLKIT_NAME in subprocess.run(busctl, check=True, capture_output=True, text=True).stdout


def test_people_need_no_address_inside(machine: Machine) -> None:
    assert POLKIT_NAME in machine.run(["busctl", "list"], user="alice").stdout


def test_a_failing_command_says_why(machine: Machine) -> None:
    with pytest.raises(MachineError, match="no such place"):
        machine.run(["sh", "-c", "echo no such place >&2; exit 3"], user="alice")
    assert machine.run(["sh", "-c", "exit 3"], check=False).returncode == 3


def test_nothing_is_left_afterwards() -> None:
    with Machine() as machine:
        stubborn = "trap '' TERM INT HUP; setsid sleep 1000 & echo $!; wait"
        shell = machine.popen(["sh", "-c", stubborn], user="alice", stdout=subprocess.PIPE)
        assert shell.stdout is not None
        grandchild = os.pidfd_open(int(shell.stdout.readline()))
        base = machine.base
    ended = select.select([grandchild], [], [], 0)[0]
    os.close(grandchild)
    assert ended
    assert not base.exists()


def test_nothing_is_left_when_the_tests_are_killed() -> None:
    code = (
        "import signal; from support.machine import Machine\n"
        "m = Machine().__enter__(); a = m.client('alice'); print(m.base, a.pid, flush=True)\n"
        "signal.pause()"
    )
    tests = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert tests.stdout is not None
    base, pid = tests.stdout.readline().split()
    process = os.pidfd_open(int(pid))
    tests.kill()
    tests.wait()
    tests.stdout.close()
    ended = select.select([process], [], [], 10)[0]
    os.close(process)
    assert ended
    deadline = time.monotonic() + 10
    while os.path.exists(base) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not os.path.exists(base)


def test_a_killed_client_is_gone_from_the_bus(machine: Machine) -> None:
    alice = machine.client("alice")
    os.kill(alice.pid, signal.SIGKILL)
    machine.wait_owner(alice.name, owned=False)
    with pytest.raises(MachineError, match="left the bus"):
        alice.bus("GetId")


# --- The daemon's surroundings --------------------------------------------------------------------


def test_a_daemon_is_started_as_systemd_does(machine: Machine) -> None:
    command = [sys.executable, "-c", STAND_IN]
    daemon = machine.start_daemon("--flag", command=command)
    assert machine.owner(BUS_NAME)
    assert daemon.says("--flag\n") == f"up as {machine.uid('buswork')} --flag\n"
    ((name, kept),) = daemon.notifications.stored
    assert (name, os.pread(kept, 100, 0)) == ("values", b"kept")

    alice = machine.client("alice")
    given = alice.call("/org/mapipc/Store", "org.mapipc.Store", "Watch").value
    assert os.pread(given, 100, 0) == b"kept"
    os.close(given)

    daemon.kill()
    machine.wait_owner(BUS_NAME, owned=False)
    again = machine.start_daemon(command=command, fds=[(name, kept)])
    assert "STATUS=values: kept" in again.notifications.lines
    assert again.stop() != 0  # a stand-in does not handle SIGTERM


def test_a_daemon_that_fails_shows_its_log(machine: Machine) -> None:
    with pytest.raises(MachineError, match="ended with 7; its log:\nno luck"):
        machine.start_daemon(command=["sh", "-c", "echo no luck; exit 7"])


def test_the_bus_can_be_lost_and_come_back(machine: Machine) -> None:
    alice = machine.client("alice")
    machine.kill_bus()
    assert alice.process.wait(10) == 0
    machine.start_bus()
    assert machine.client("alice").bus("GetId").value


def test_the_open_policy_lets_everything_arrive(machine: Machine) -> None:
    """Where the daemon's own defence is tested, the shipped policy must not be in the way."""
    owner, alice = machine.client("buswork"), machine.client("alice")
    owner.request_name(BUS_NAME)
    with pytest.raises(CallError, match="AccessDenied"):
        alice.call("/", None, "NoSuchMember")
    machine.add_policy(OPEN_POLICY)
    with pytest.raises(CallError, match="Unknown"):
        alice.call("/", None, "NoSuchMember")
    alice.emit("/", "org.freedesktop.DBus", "NameLost", "s", "x", destination=BUS_NAME)
    assert owner.wait_signal("NameLost").sender == alice.name


# --- polkit ---------------------------------------------------------------------------------------


def test_defaults_and_rules(machine: Machine) -> None:
    service = machine.client("buswork")
    alice, bob = machine.client("alice"), machine.client("bob")
    assert ask(service, alice, READ) == YES
    assert ask(service, alice, WRITE) == YES
    assert ask(service, alice, CLEAR) == CHALLENGE

    rule = machine.add_rule(
        "polkit.addRule(function (action, subject) {\n"
        f'  if (action.id == "{WRITE}" && !subject.isInGroup("writers")) return "no";\n'
        "});"
    )
    assert ask(service, alice, WRITE) == NO
    assert ask(service, bob, WRITE) == YES
    machine.remove_rule(rule)
    assert ask(service, alice, WRITE) == YES


def test_the_shipped_example_restricts_writing(machine: Machine) -> None:
    example = TESTS.parent / "polkit" / "examples" / "50-buswork-writers.rules"
    with Machine(groups={"buswork-writers": ["bob"]}, rules=[example.read_text()]) as machine:
        service = machine.client("buswork")
        alice, bob = machine.client("alice"), machine.client("bob")
        assert ask(service, alice, WRITE) == NO
        assert ask(service, bob, WRITE) == YES
        assert ask(service, alice, READ) == YES


def test_trap_root_is_always_allowed(machine: Machine) -> None:
    """Neither defaults nor rules are asked: a denial can't be tested as root."""
    machine.add_rule('polkit.addRule(function (action, subject) { return "no"; });')
    assert ask(machine.client("buswork"), machine.client(), CLEAR) == YES


def test_trap_only_the_owner_of_an_action_may_ask_about_others(machine: Machine) -> None:
    """The owner annotation in our action files is what lets a daemon that is not root ask."""
    alice, bob = machine.client("alice"), machine.client("bob")
    assert ask(alice, alice, WRITE) == YES  # about oneself: everybody may
    with pytest.raises(CallError) as refused:
        ask(bob, alice, WRITE)
    assert refused.value.name == "org.freedesktop.PolicyKit1.Error.NotAuthorized"
    assert "Only trusted callers" in refused.value.text


def test_trap_the_mock_knows_no_owners() -> None:
    if reason := why_not(polkit="mock"):
        pytest.skip(reason)
    with Machine(polkit="mock") as machine:
        alice, bob = machine.client("alice"), machine.client("bob")
        machine.mock_polkit("AllowUnknown", "b", "true")
        assert ask(bob, alice, WRITE) == YES
        machine.mock_polkit("SetDelay", "d", "0.2")
        started = time.monotonic()
        assert ask(bob, alice, WRITE) == YES
        assert time.monotonic() - started > 0.19


def test_polkit_comes_and_goes(machine: Machine) -> None:
    service, alice = machine.client("buswork"), machine.client("alice")
    machine.stop_polkit()
    with pytest.raises(CallError):
        ask(service, alice, READ)
    machine.start_polkit()
    assert ask(service, alice, READ) == YES
    machine.freeze_polkit()
    ticket = begin_ask(service, alice, READ, PLAIN)
    with pytest.raises(TimeoutError):
        service.end(ticket, timeout=0.2)
    machine.thaw_polkit()
    assert answer(service.end(ticket)) == YES
    machine.restart_polkit()
    assert ask(service, alice, READ) == YES


def test_a_frozen_polkit_ends_with_the_machine() -> None:
    with Machine() as machine:
        machine.freeze_polkit()
    assert not machine.base.exists()


# --- The agent ------------------------------------------------------------------------------------


def test_the_agent_answers(machine: Machine) -> None:
    service, alice, bob = (machine.client(user) for user in ("buswork", "alice", "bob"))
    with Agent(machine, alice.pid, answer="no") as agent:
        assert ask(service, alice, CLEAR, INTERACTIVE) == NO
        asked = agent.wait_asked()
        assert asked.action == CLEAR
        assert asked.message.startswith("Authentication is required to remove every value")
        agent.answer("fail")
        assert ask(service, alice, CLEAR, INTERACTIVE)[0] is False
        agent.answer("yes")
        assert ask(service, alice, CLEAR, PLAIN) == CHALLENGE  # not asked without the flag
        assert ask(service, alice, CLEAR, INTERACTIVE) == YES
        assert ask(service, alice, CLEAR, PLAIN) == YES  # kept
        assert ask(service, bob, CLEAR, INTERACTIVE) == CHALLENGE  # has no agent


def test_the_agent_hangs_and_is_taken_back(machine: Machine) -> None:
    service, alice = machine.client("buswork"), machine.client("alice")
    with Agent(machine, alice.pid, answer="hang") as agent:
        ticket = begin_ask(service, alice, CLEAR, INTERACTIVE, "cookie")
        asked = agent.wait_asked()
        assert not service.answered(ticket)
        assert ask(service, alice, READ) == YES  # others are served meanwhile
        authority = ("/org/freedesktop/PolicyKit1/Authority", f"{POLKIT_NAME}.Authority")
        service.call(*authority, "CancelCheckAuthorization", "s", "cookie", destination=POLKIT_NAME)
        assert answer(service.end(ticket)) == NO
        agent.wait_cancelled(asked.cookie)

        ticket = begin_ask(service, alice, CLEAR, INTERACTIVE)
        agent.wait_asked()
        agent.answer("yes")
        assert answer(service.end(ticket)) == YES


# --- dbus-broker ----------------------------------------------------------------------------------


def test_dbus_broker_with_polkit() -> None:
    if reason := why_not(bus="broker"):
        pytest.skip(reason)
    with Machine(bus="broker") as machine:
        service, alice = machine.client("buswork"), machine.client("alice")
        assert service.request_name(BUS_NAME) == 1
        assert ask(service, alice, WRITE) == YES
        assert ask(service, alice, CLEAR) == CHALLENGE
        machine.kill_bus()
        assert alice.process.wait(10) == 0
        machine.start_bus()
        assert machine.client("alice").bus("GetId").value

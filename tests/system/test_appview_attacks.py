"""What users of a machine do to the process that looks into theirs, and how it ends."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.agent import Agent
from support.inspected import (
    ERROR,
    INSPECTOR,
    PROCESS,
    ROOT,
    People,
    ask,
    queues,
    scan,
    tell,
)
from support.machine import APPVIEW_NAME, CallError, Client, Daemon, Machine, Process
from support.places import eventually, refused

pytestmark = [pytest.mark.processes, pytest.mark.system]

SECONDS = 20.0
# So many do not answer at once, so many of a user are asked at once (0.5 seconds each).
MUTES = 100


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(users=("alice", "bob", "carol")) as machine:
        yield machine


@pytest.fixture(scope="module")
def daemon(machine: Machine) -> Daemon:
    return machine.start_appview()


def python(machine: Machine, user: str, text: str, *words: object) -> Process:
    """A program of a user, once it has said something; it ends with its standard input."""
    command = [sys.executable, "-c", text, *map(str, words)]
    process = machine.popen(command, user, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def end(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


@pytest.mark.attack(29)
def test_many_that_do_not_answer_hold_up_nobody_else(
    machine: Machine, people: People, alice: Client, bob: Client
) -> None:
    mutes = python(machine, "alice", FORKING, MUTES)
    mine = people.start("bob")
    ticket = alice.begin(ROOT, INSPECTOR, "Scan", destination=APPVIEW_NAME)
    assert mine.path in scan(bob)
    assert ask(bob, mine, "GetStatus")["viewed"]
    assert not alice.answered(ticket)
    end(mutes)
    alice.end(ticket, SECONDS)


FORKING = """
import os, signal, sys
from buswork.sim import viewed
file = viewed._map_library()
children = []
for _ in range(int(sys.argv[1])):
    children.append(os.fork())
    if not children[-1]:
        signal.pause()
print(flush=True)
sys.stdin.read()
for child in children:
    os.kill(child, signal.SIGKILL)
"""


@pytest.mark.attack(11)
def test_a_number_that_is_used_again_while_a_prompt_is_open(
    machine: Machine, people: People, alice: Client, bob: Client
) -> None:
    """What the prompt was about is gone; the other one that has its number is nobody's business."""
    theirs = people.start("bob")
    scan(bob)
    with Agent(machine, alice.pid, answer="hang") as agent:
        ticket = alice.begin(
            theirs.path, PROCESS, "GetStatus", destination=APPVIEW_NAME, flags=Client.INTERACTIVE
        )
        agent.wait_asked()
        theirs.kill()
        other = python(machine, "root", REBORN, theirs.pid, machine.uid("bob"))
        assert theirs.path in scan(bob)
        agent.answer("yes")
        with refused("UnknownObject", "went while"):
            alice.end(ticket, SECONDS)
    assert ask(bob, theirs, "GetProcessDetails")["pid"] == theirs.pid
    os.kill(theirs.pid, signal.SIGKILL)
    end(other)


# clone3(2) with a number, which root may choose.
REBORN = """
import ctypes, os, signal, struct, sys
pid, uid = int(sys.argv[1]), int(sys.argv[2])
number = ctypes.c_int(pid)
words = struct.pack("11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(number), 1, 0)
arguments = ctypes.create_string_buffer(words, 88)
libc = ctypes.CDLL(None, use_errno=True)
child = libc.syscall(435, arguments, 88)
assert child >= 0, os.strerror(ctypes.get_errno())
if child:
    os.waitpid(child, 0)
else:
    command = [sys.executable, "-m", "buswork.sim.viewed", "--uid", str(uid)]
    os.execv(command[0], command)
"""


@pytest.mark.attack(35)
def test_a_process_that_has_just_ended_asks_for_nothing(
    machine: Machine, people: People, alice: Client
) -> None:
    """Nobody is asked for a password for what was his and is gone."""
    mine = people.start("alice")
    scan(alice)
    os.kill(mine.pid, signal.SIGKILL)
    with pytest.raises(CallError) as caught:
        ask(alice, mine, "GetStatus")
    assert caught.value.name in (
        f"{ERROR}ProcessGone",
        f"{ERROR}NoSuchProcess",
        "org.freedesktop.DBus.Error.UnknownObject",
    )


@pytest.mark.attack(6)
def test_nothing_is_left_of_conversations(
    machine: Machine, people: People, daemon: Daemon, alice: Client, request: pytest.FixtureRequest
) -> None:
    faults = ("garbage", "cut", "remain-grows", "empty")
    bad = [people.start("alice", "--fault", fault) for fault in faults]
    good = [people.start("alice", "--period", "0.02") for _ in range(2)]
    scan(alice)

    def rounds(count: int) -> None:
        for _ in range(count):
            tickets = [
                alice.begin(each.path, PROCESS, "GetConfiguration", destination=APPVIEW_NAME)
                for each in [*bad, *good] * 5
            ]
            dying = people.start("alice", "--fault", "dies")
            for ticket in tickets:
                with contextlib.suppress(CallError):
                    alice.end(ticket, SECONDS)
            tell(alice, good[0], "Detach")
            scan(alice)
            dying.kill()

    rounds(1)
    before = open_things(daemon)
    rounds(300 if request.config.getoption("--fuzz") else 4)
    eventually(lambda: open_things(daemon) <= before)
    assert [queues(each.pid) for each in [*bad, *good]] == [[]] * 6


def open_things(daemon: Daemon) -> int:
    """Descriptors, threads and children."""
    proc = pathlib.Path(f"/proc/{daemon.pid}")
    children = (proc / f"task/{daemon.pid}/children").read_text().split()
    return len(os.listdir(proc / "fd")) + len(os.listdir(proc / "task")) + len(children)


@pytest.mark.attack(36)
def test_it_is_killed_in_the_middle(
    machine: Machine, people: People, daemon: Daemon, alice: Client
) -> None:
    """The next one removes what it left, for those that live and those that are gone, and nothing
    of others."""
    lives, dies = people.start("alice"), people.start("alice")
    scan(alice)
    for each in (lives, dies):
        os.kill(each.pid, signal.SIGSTOP)
        alice.begin(each.path, PROCESS, "GetStatus", destination=APPVIEW_NAME)
        eventually(lambda pid=each.pid: len(queues(pid)) == 2)
    daemon.kill()
    dies.kill()
    squatter = python(machine, "bob", SQUATTER, dies.pid + 1_000_000_000)
    again = machine.start_appview()
    again.says("2 queues of a daemon that was killed are removed")
    assert (len(queues(lives.pid)), queues(dies.pid)) == (2, [])
    assert len(queues(dies.pid + 1_000_000_000)) == 1
    os.kill(lives.pid, signal.SIGCONT)
    scan(alice)
    assert ask(alice, lives, "GetStatus")["viewed"]
    assert queues(lives.pid) == []
    end(squatter)
    assert again.stop() == 0


SQUATTER = """
import os, sys
from buswork.appview.native import mqueue
name = f"AppViewIPCIn.{sys.argv[1]}"
mqueue.create(name, os.O_RDWR, 1, 64)
print(flush=True)
sys.stdin.read()
mqueue.unlink(name)
"""

import os
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from appview.people import Viewed

from buswork.appview.native import processes
from buswork.appview.native.processes import Seen, held, look, pids, scan

pytestmark = pytest.mark.processes

OTHER = 65534


@pytest.fixture
async def viewed():
    viewed = await Viewed.start()
    yield viewed
    await viewed.kill()


async def test_who_has_the_library_is_found(viewed):
    found, _ = scan(pids())
    (seen,) = [each for each in found if each.pid == viewed.pid]
    assert seen == look(viewed.pid)
    assert (seen.own_pid, seen.uid, seen.is_setup) == (viewed.pid, os.geteuid(), False)
    assert "-m buswork.sim.viewed" in seen.command


async def test_who_has_not_is_not():
    assert look(os.getpid()) is None
    assert os.getpid() not in [each.pid for each in scan(pids())[0]]


async def test_who_was_never_begun():
    viewed = await Viewed.start("--state", "setup")
    assert look(viewed.pid).is_setup
    await viewed.kill()


async def test_what_loads_others_is_none():
    viewed = await Viewed.start("--name", processes.LOADER)
    assert look(viewed.pid) is None
    await viewed.kill()


async def test_a_name_with_parentheses(viewed):
    other = await Viewed.start("--name", ") S 1 (")
    seen = look(other.pid)
    assert seen.name == ") S 1 ("
    assert seen.started_at >= viewed.seen.started_at
    await other.kill()


async def test_a_process_is_held(viewed):
    with viewed.held() as target:
        assert (target.pid, target.own_pid, target.uid) == (viewed.pid, viewed.pid, os.geteuid())
        assert not select.select([target.pidfd], [], [], 0)[0]
        await viewed.kill()
        assert select.select([target.pidfd], [], [], 0)[0]


async def test_a_number_that_was_used_again(viewed):
    earlier = replace(viewed.seen, started_at=viewed.seen.started_at - 1)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ProcessLookupError, match="another one"), held(earlier):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


async def test_who_has_gone(viewed):
    seen = viewed.seen
    await viewed.kill()
    with pytest.raises(FileNotFoundError), held(seen):
        pass
    with pytest.raises(FileNotFoundError):
        look(viewed.pid)


async def test_maps_that_can_not_be_read(monkeypatch):
    def refuse(proc):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(processes, "_has_library", refuse)
    found, unreadable = scan(pids())
    assert found == []
    assert unreadable > 1


async def test_maps_are_read_in_pieces(viewed, monkeypatch):
    """Its name may be on both sides of a cut."""
    for size in range(len(processes.LIBRARY), 2 * len(processes.LIBRARY)):
        monkeypatch.setattr(processes, "_PIECE", size)
        assert look(viewed.pid) is not None
        assert look(os.getpid()) is None


async def test_maps_that_are_too_long(viewed, monkeypatch):
    """Who makes them so hides himself, and holds up nobody."""
    monkeypatch.setattr(processes, "MOST_MAPS_BYTES", 100)
    monkeypatch.setattr(processes, "_PIECE", 64)
    assert scan([viewed.pid]) == ([], 1)


def test_a_command_that_is_no_text():
    command = ["sh", "-c", "echo; read line", b"\xff" * 3000]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.readline()
        with processes._opened(process.pid) as proc:
            said = processes._command(proc)
        process.stdin.close()
    assert len(said.encode()) == processes.COMMAND_BYTES
    assert said.endswith("???")


CAPABILITIES = ["CapPrm", "CapEff", "CapInh", "CapAmb"]


@pytest.mark.parametrize("kind", CAPABILITIES)
def test_capabilities_of_every_kind_count(kind):
    fields = {"Uid": b"1 1 1 1", "Gid": b"1 1 1 1", **dict.fromkeys(CAPABILITIES, b"0" * 16)}
    assert not processes._rights(fields).has_capabilities
    assert processes._rights({**fields, kind: b"0000000000200000"}).has_capabilities


async def test_a_process_is_held_for_the_user_that_it_has_by_now(viewed):
    with held(replace(viewed.seen, uid=1, gid=2)) as target:
        assert (target.uid, target.gid) == (viewed.seen.uid, viewed.seen.gid)


async def test_a_second_look(viewed, monkeypatch):
    seen = viewed.seen
    monkeypatch.setattr(processes, "LIBRARY", b"another")  # it does not matter any more
    other = replace(seen, uid=2, uids=(1, 2, 3, 4), has_capabilities=not seen.has_capabilities)
    assert processes.look_again(other) == seen
    assert processes.look_again(replace(seen, started_at=seen.started_at + 1)) is None
    await viewed.kill()
    assert processes.look_again(seen) is None


@contextmanager
def running(*command):
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def seen_of(process):
    with processes._opened(process.pid) as proc:
        started_at = processes._started_at(proc)
    return Seen(process.pid, started_at, process.pid, 0, 0, (0,) * 4, False, "", "", False)


def test_a_second_look_at_one_that_nobody_has_waited_for():
    with running("sleep", "1000") as process:
        seen = seen_of(process)
        assert processes.look_again(seen) is not None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert processes.look_again(seen) is None


def test_a_second_look_at_one_whose_first_thread_has_ended():
    """The others may become another program, and whose they are does not show."""
    with running(sys.executable, "-c", HEADLESS) as process:
        process.stdout.readline()
        seen = seen_of(process)
        while processes.look_again(seen) is not None:
            time.sleep(0.001)
        assert process.poll() is None


HEADLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
print(flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


async def test_descriptors_that_can_not_be_listed(monkeypatch):
    """As with all rights to trace and none to look into directories of others."""
    viewed = await Viewed.start("--state", "setup")
    real = os.open

    def open_(path, *how, **more):
        if path == "fd":
            raise PermissionError(13, "Permission denied")
        return real(path, *how, **more)

    assert look(viewed.pid).is_setup
    monkeypatch.setattr(processes.os, "open", open_)
    assert not look(viewed.pid).is_setup
    monkeypatch.undo()
    await viewed.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
async def test_another_users_process():
    viewed = await Viewed.start("--uid", str(OTHER))
    seen = look(viewed.pid)
    assert (seen.uid, seen.gid, seen.uids, seen.has_capabilities) == (
        OTHER,
        OTHER,
        (OTHER,) * 4,
        False,
    )
    await viewed.kill()

import os
import select
from dataclasses import replace

import pytest
from appview.people import Viewed

from buswork.appview.native import processes
from buswork.appview.native.processes import held, look, pids, scan

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


async def test_maps_that_can_not_be_read(viewed, monkeypatch):
    real = processes._read

    def read(proc, name, most=-1):
        if name == "maps":
            raise PermissionError(13, "Permission denied")
        return real(proc, name, most)

    monkeypatch.setattr(processes, "_read", read)
    found, unreadable = scan(pids())
    assert found == []
    assert unreadable > 1


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
    with pytest.raises(OSError, match=str(viewed.pid)):
        processes.look_again(seen)


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

import asyncio
import os
from dataclasses import replace

import pytest
from appview.people import Viewed

from buswork.appview.model import Added, Processes, Removed, State
from buswork.appview.native import processes
from buswork.appview.native.finding import MOST_REST_SECONDS, Finder

pytestmark = pytest.mark.processes


class World:
    def __init__(self):
        self.known = Processes()
        self.changes = []
        self.known.on_change.append(self.changes.append)
        self.finder = Finder(self.known)
        self.people = []

    async def start(self, *options):
        self.people.append(await Viewed.start(*options))
        return self.people[-1]

    def process(self, viewed):
        return self.known.by_pid[viewed.pid]


@pytest.fixture
async def world(monkeypatch):
    world = World()
    # Other tests have such processes as well.
    monkeypatch.setattr(processes, "pids", lambda: {viewed.pid for viewed in world.people})
    yield world
    for viewed in world.people:
        await viewed.kill()
    await world.finder.stop()
    assert world.known.on_change == [world.changes.append]


async def test_everything(world):
    viewed, other = await world.start(), await world.start("--state", "setup")
    await world.finder.look()
    found = [world.process(each) for each in (viewed, other)]
    assert [each.state for each in found] == [State.INERT, State.SETUP]
    assert [each.owner for each in found] == [os.geteuid()] * 2
    assert world.finder.seen(found[0]) == viewed.seen
    await viewed.kill()
    await world.finder.look()
    assert world.changes[-1] == Removed(found[0])
    assert world.finder.seen(found[0]) is None


async def test_a_look_is_followed_by_a_rest(world):
    assert world.finder._rounds._most_rest == MOST_REST_SECONDS > 0


async def test_one_that_was_attached_meanwhile(world, monkeypatch):
    viewed = await world.start("--state", "setup")
    await world.finder.look()
    monkeypatch.setattr(processes, "_is_setup", lambda proc: False)
    await world.finder.look()
    assert world.process(viewed).state is State.INERT


async def test_new_ones(world):
    await world.start()
    await world.finder.look()
    viewed = await world.start()
    assert await world.finder.look_for_new() == [world.process(viewed)]


async def test_each_is_looked_at_twice(world, monkeypatch):
    """A process that was just made may not be the program yet that it is made for."""
    looked_at = []
    real = processes.scan

    def scan(among):
        looked_at.append(set(among))
        return real(looked_at[-1])

    await world.finder.look()
    monkeypatch.setattr(processes, "scan", scan)
    viewed = await world.start()
    for _ in range(3):
        await world.finder.look_for_new()
    assert [viewed.pid in each for each in looked_at] == [True, True, False]


async def test_one_look_at_a_time(world, monkeypatch):
    """Who began earlier and ended later would forget what the other has found."""
    going, most = 0, 0

    async def to_thread(work, *arguments):
        nonlocal going, most
        going += 1
        most = max(most, going)
        for _ in range(10):
            await asyncio.sleep(0)
        going -= 1
        return work(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    await asyncio.gather(world.finder.look(), world.finder.look_for_new(), world.finder.look())
    assert most == 1


async def test_the_service_is_none_of_them(world, monkeypatch):
    looked_at = []
    monkeypatch.setattr(processes, "pids", lambda: {os.getpid()})
    monkeypatch.setattr(processes, "scan", lambda among: (looked_at.extend(among), ([], 0))[1])
    await world.finder.look()
    assert looked_at == []


async def test_what_there_is_no_room_for_is_not_kept(world):
    world.known.most = 1
    for _ in range(2):
        await world.start()
    await world.finder.look()
    assert len(world.known.by_pid) == len(world.finder._seen) == 1
    assert len(await world.finder.look_for_new()) < 2


async def test_a_number_that_was_used_again(world, monkeypatch):
    """The end of the one before is no end of the one that has its number."""
    viewed = await world.start()
    seen = replace(viewed.seen, started_at=viewed.seen.started_at - 1)
    monkeypatch.setattr(processes, "scan", lambda among: ([seen], 0))
    await world.finder.look()
    earlier = world.process(viewed)
    monkeypatch.undo()
    monkeypatch.setattr(processes, "pids", lambda: {viewed.pid})
    await world.finder.look()
    assert [type(each) for each in world.changes] == [Added, Removed, Added]
    world.known.forget(earlier)
    assert world.finder.seen(world.process(viewed)) == viewed.seen
    assert world.finder.seen(earlier) is None

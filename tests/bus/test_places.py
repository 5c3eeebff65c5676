"""Tests of buswork.bus.places (ATTACKS 39)."""

import asyncio

import pytest

from buswork.bus.places import Places


class Work:
    """Pieces of work, one at a time, of which each lasts until the test ends it."""

    def __init__(self):
        self.places = Places()
        self.begun = []
        self._ends = {}

    def begin(self, name, uid):
        self._ends[name] = asyncio.Event()
        return asyncio.create_task(self._do(name, uid))

    async def _do(self, name, uid):
        async with self.places.place(uid):
            self.begun.append(name)
            await self._ends[name].wait()

    async def end(self, name):
        self._ends[name].set()
        await settle()


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def work():
    return Work()


async def test_one_at_a_time_and_users_in_turn(work):
    names = ["a1", "a2", "a3", "b1", "c1", "b2"]
    tasks = [work.begin(name, ord(name[0])) for name in names]
    await settle()
    for number in range(1, len(names) + 1):
        assert len(work.begun) == number
        await work.end(work.begun[-1])
    assert work.begun == ["a1", "a2", "b1", "c1", "a3", "b2"]
    await asyncio.gather(*tasks)
    assert (work.places._free, work.places._used, work.places._waiting) == (1, {}, {})


async def test_nobody_slips_in_before_the_one_who_is_called(work):
    tasks = [work.begin("first", 1), work.begin("second", 1)]
    await settle()
    work._ends["first"].set()
    await asyncio.sleep(0)  # the first has ended, and the second has not begun yet
    tasks.append(work.begin("third", 2))
    await settle()
    assert work.begun == ["first", "second"]
    await work.end("second")
    assert work.begun == ["first", "second", "third"]
    await work.end("third")
    await asyncio.gather(*tasks)


async def test_who_gives_up_is_passed_over(work):
    tasks = [work.begin(name, uid) for uid, name in enumerate(["first", "second", "third"])]
    await settle()
    tasks[1].cancel()
    await settle()
    await work.end("first")
    assert work.begun == ["first", "third"]
    await work.end("third")
    assert work.places._free == 1


async def test_who_gives_up_in_the_moment_of_its_turn_passes_it_on(work):
    tasks = [work.begin(name, uid) for uid, name in enumerate(["first", "second", "third"])]
    await settle()
    work._ends["first"].set()
    await asyncio.sleep(0)
    tasks[1].cancel()
    await settle()
    assert work.begun == ["first", "third"]
    await work.end("third")
    assert work.places._free == 1


async def test_a_failure_ends_the_turn(work):
    with pytest.raises(ValueError, match="broken"):
        async with work.places.place(1):
            raise ValueError("broken")
    assert work.places._free == 1


async def test_39_those_who_wait_come_in_turn_by_user():
    places = Places()
    order = []

    async def visit(uid, number):
        async with places.place(uid):
            order.append((uid, number))
            await asyncio.sleep(0)

    await asyncio.gather(*(visit(1, n) for n in range(3)), *(visit(2, n) for n in range(2)))
    assert order == [(1, 0), (1, 1), (2, 0), (1, 2), (2, 1)]
    assert (places._free, places._used, places._waiting) == (1, {}, {})


@pytest.mark.parametrize("called", [False, True])
async def test_39_who_gives_up_waiting_leaves_the_place_to_others(called):
    places = Places()
    first = places.place(1)
    await first.__aenter__()
    waiting = asyncio.create_task(places.place(2).__aenter__())
    await asyncio.sleep(0)
    if called:
        await first.__aexit__(None, None, None)
        waiting.cancel()
    else:
        waiting.cancel()
        await asyncio.sleep(0)
        await first.__aexit__(None, None, None)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(10), places.place(3):
        assert places._free == 0
    assert (places._free, places._used) == (1, {})


async def test_39_so_many_of_one_user_though_there_is_more_room():
    """His next one comes when he gives a place back, and not when somebody else does."""
    places, order = Places(3, 2), []

    def come(uid, name):
        return asyncio.create_task(taken(uid, name))

    async def taken(uid, name):
        await places.take(uid)
        order.append(name)

    await asyncio.gather(come(1, "a1"), come(1, "a2"))
    waiting = [come(1, "a3"), come(1, "a4")]
    await settle()
    waiting.append(come(2, "b1"))
    await settle()
    places.give_back(2)
    await settle()
    assert order == ["a1", "a2", "b1"]
    waiting[0].cancel()
    places.give_back(1)
    await settle()
    assert order == ["a1", "a2", "b1", "a4"]
    places.give_back(1)
    places.give_back(1)
    assert (places._free, places._used, places._waiting) == (3, {}, {})

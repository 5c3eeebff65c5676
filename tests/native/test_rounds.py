import asyncio

import pytest

from buswork.native import rounds
from buswork.native.rounds import Rounds


class Work:
    """Rounds that go on until they are told to end."""

    def __init__(self, **how):
        self.began = 0
        self.ends = asyncio.Semaphore(0)
        self.rounds = Rounds(self._work, **how)

    async def _work(self):
        self.began += 1
        await self.ends.acquire()

    def come(self, number=1):
        return [asyncio.create_task(self.rounds.next()) for _ in range(number)]


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_round_for_all_who_came_before_it():
    work = Work()
    first = work.come(3)
    await settle()
    assert work.began == 1
    work.ends.release()
    await asyncio.gather(*first)
    assert work.rounds.is_idle


async def test_who_comes_during_a_round_waits_for_the_next():
    work = Work()
    (first,) = work.come()
    await settle()
    later = work.come(3)
    work.ends.release()
    await first
    await settle()
    assert (work.began, any(each.done() for each in later)) == (2, False)
    assert not work.rounds.is_idle
    work.ends.release()
    await asyncio.gather(*later)
    assert work.began == 2


async def test_a_round_that_fails_is_not_the_last():
    async def fail():
        raise OSError("no /proc")

    failing = Rounds(fail)
    for _ in range(2):
        with pytest.raises(OSError, match="no /proc"):
            await failing.next()


async def test_who_waits_while_a_round_fails_has_his_own():
    work = Work()
    (first,) = work.come()
    await settle()
    (later,) = work.come()
    work.rounds._going.cancel()
    work.ends.release()
    await later
    assert work.began == 2
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_who_gives_up_takes_nobody_with_him():
    work = Work()
    first, second = work.come(2)
    await settle()
    first.cancel()
    work.ends.release()
    await second


@pytest.mark.parametrize(("took", "rest"), [(0.25, 0.25), (30.0, 1.0)])
async def test_a_rest_after_each(monkeypatch, took, rest):
    now, slept = [100.0], []

    async def work():
        now[0] += took

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(rounds.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(rounds.asyncio, "sleep", sleep)
    resting = Rounds(work, most_rest=1.0)
    await resting.next()
    await resting.next()
    assert slept[1] == rest


async def test_the_end():
    work = Work()
    tasks = work.come()
    await settle()
    tasks += work.come()
    await settle()
    await work.rounds.stop()
    assert all(isinstance(each, asyncio.CancelledError)
               for each in await asyncio.gather(*tasks, return_exceptions=True))  # fmt: skip

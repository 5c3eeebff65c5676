"""buswork.native.shares: who must wait, and how long others wait for them."""

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine

import pytest

from buswork.native import shares as module
from buswork.native.shares import SHARE_SECONDS, Shares


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The time of the module goes on when a test says so."""
    time_ = 1000.0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return time_

    def go_on(seconds: float) -> None:
        nonlocal time_
        time_ += seconds

    monkeypatch.setattr(module, "time", Clock)
    return go_on


async def test_who_takes_more_than_its_share_is_over(now: Callable[[float], None]) -> None:
    shares = Shares()
    assert not shares.is_over(1)
    shares.charge(1, SHARE_SECONDS)
    assert not shares.is_over(1)  # a window begins
    shares.charge(1, SHARE_SECONDS + 0.001)
    assert shares.is_over(1)
    assert not shares.is_over(2)
    now(module.SHARE_WINDOW + 0.001)
    assert not shares.is_over(1)


async def test_the_cheap_is_free(now: Callable[[float], None]) -> None:
    shares = Shares()
    for _ in range(1000):
        shares.charge(1, module.CHEAP_SECONDS)
    assert not shares.is_over(1)
    assert shares._spent == {}


async def test_each_uid_has_its_turn(now: Callable[[float], None]) -> None:
    shares, done = Shares(), []
    for uid, name in ((1, "a"), (1, "b"), (1, "c"), (2, "d"), (2, "e"), (3, "f")):
        shares.later(uid, lambda name=name: done.append(name))  # type: ignore[misc]
        assert shares.is_over(uid)
    while len(done) < 6:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert done == ["a", "d", "f", "b", "e", "c"]
    assert not shares.is_over(1)


async def test_others_have_most_of_the_time() -> None:
    """After each piece that took long, the loop turns many times before the next one."""
    shares, turn = Shares(), 0
    done: list[int] = []

    def long_work() -> None:
        time.sleep(0.004)
        done.append(turn)

    for _ in range(10):
        shares.later(1, long_work)
    while len(done) < 10:
        await asyncio.sleep(0)
        turn += 1
    assert all(later - sooner > 10 for sooner, later in itertools.pairwise(done))


async def test_a_piece_that_fails_does_not_stop_the_line() -> None:
    shares, done, loop = Shares(), asyncio.Event(), asyncio.get_running_loop()
    failures: list[object] = []
    loop.set_exception_handler(lambda loop, context: failures.append(context["exception"]))
    shares.later(1, lambda: {}["missing"])
    shares.later(1, done.set)
    await done.wait()
    loop.set_exception_handler(None)
    assert [type(failure) for failure in failures] == [KeyError]


async def test_work_is_done_at_once_and_charged(now: Callable[[float], None]) -> None:
    shares = Shares()
    shares.charge(1, SHARE_SECONDS)
    assert not shares.is_over(1)  # a window begins

    def work() -> str:
        now(SHARE_SECONDS + 0.001)
        return "done"

    assert await at_once(shares.turn(1, work)) == "done"
    assert shares.is_over(1)
    with pytest.raises(KeyError):
        await at_once(shares.turn(2, lambda: {}["missing"]))


async def at_once(work: Coroutine[object, object, str]) -> str:
    """The result of what does not wait for anything."""
    try:
        work.send(None)
    except StopIteration as end:
        return str(end.value)
    raise AssertionError("it waits")


@pytest.fixture
async def full() -> Shares:
    """Shares of which uid 1 has had all, and where nobody has a turn but by the test's hand."""
    shares = Shares()
    shares.later(1, lambda: None)
    assert shares._planned is not None
    shares._planned.cancel()
    return shares


async def test_who_had_his_share_has_his_work_done_when_it_is_its_turn() -> None:
    shares, done = Shares(), []
    shares.later(1, lambda: done.append("before"))
    assert await shares.turn(1, lambda: [*done, "mine"]) == ["before", "mine"]
    shares.later(1, lambda: None)
    with pytest.raises(KeyError):
        await shares.turn(1, lambda: {}["missing"])


async def test_what_nobody_waits_for_any_more_is_not_done(full: Shares) -> None:
    done: list[int] = []
    waiting = asyncio.create_task(full.turn(1, lambda: done.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    while full._lines:
        full._next()[1]()
    assert done == []


@pytest.mark.parametrize("fails", [False, True])
async def test_work_may_end_who_waits_for_it(full: Shares, fails: bool) -> None:
    waiting: asyncio.Task[None]

    def work() -> None:
        waiting.cancel()
        if fails:
            raise KeyError

    waiting = asyncio.create_task(full.turn(1, work))
    await asyncio.sleep(0)
    while full._lines:
        full._next()[1]()
    with pytest.raises(asyncio.CancelledError):
        await waiting

"""buswork.native.shares: who must wait, and how long others wait for them."""

import asyncio
import itertools
import time
from collections.abc import Callable

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


async def test_nothing_is_done_after_the_end() -> None:
    shares, done = Shares(), []
    shares.later(1, lambda: done.append(1))
    shares.close()
    shares.close()
    await asyncio.sleep(0)
    assert done == []

import asyncio

import pytest

from buswork.libipc.library.deadlines import Deadlines


class Clock:
    """A loop, as far as deadlines need one."""

    def __init__(self):
        self.now = 0.0
        self.timers = []

    def time(self):
        return self.now

    def call_at(self, when, callback):
        timer = asyncio.TimerHandle(when, callback, (), asyncio.get_running_loop())
        self.timers.append(timer)
        return timer

    def go_to(self, now):
        self.now = now
        due = [timer for timer in self.timers if timer.when() <= now]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            if not timer.cancelled():
                timer._run()


@pytest.fixture
async def clock():
    return Clock()


@pytest.fixture
async def late():
    return []


@pytest.fixture
async def deadlines(clock, late):
    return Deadlines(clock, 10, late.append)


async def test_each_is_late_after_its_time(clock, deadlines, late):
    deadlines.start("a")
    clock.go_to(4)
    deadlines.start("b")
    clock.go_to(9.9)
    assert late == []
    clock.go_to(10)
    assert late == ["a"]
    clock.go_to(14)
    assert late == ["a", "b"]
    assert not clock.timers


async def test_one_that_was_stopped_is_not(clock, deadlines, late):
    deadlines.start("a")
    deadlines.start("b")
    deadlines.stop("a")
    clock.go_to(10)
    assert late == ["b"]


async def test_one_that_starts_again_has_all_its_time(clock, deadlines, late):
    deadlines.start("a")
    clock.go_to(5)
    deadlines.start("a")
    clock.go_to(10)
    assert late == []
    clock.go_to(15)
    assert late == ["a"]


async def test_there_is_one_timer_for_all(clock, deadlines):
    for number in range(100):
        deadlines.start(number)
    assert len(clock.timers) == 1


async def test_one_may_stop_another_that_is_late_too(clock):
    late = []

    def is_late(what):
        late.append(what)
        deadlines.stop("b")

    deadlines = Deadlines(clock, 10, is_late)
    deadlines.start("a")
    deadlines.start("b")
    clock.go_to(10)
    assert late == ["a"]


async def test_after_the_end_none_is(clock, deadlines, late):
    deadlines.start("a")
    deadlines.close()
    clock.go_to(10)
    assert late == []

"""Tests of buswork.bus.news, with a clock that the test turns."""

import heapq
import itertools

import pytest

from buswork.bus import news as module
from buswork.bus.news import News, Rate

ALICE, BOB = 1000, 1001
FACE = "org.toy.Toy"


class Clock:
    """A loop's time, and what is to be called then."""

    def __init__(self):
        self.now = 1000.0
        self._numbers = itertools.count()
        self._calls = []

    def time(self):
        return self.now

    def call_at(self, when, callback, *values):
        call = (when, next(self._numbers), callback, values)
        heapq.heappush(self._calls, call)
        return call

    def run(self, seconds):
        end = self.now + seconds
        while self._calls and self._calls[0][0] <= end:
            self.now, _, callback, values = heapq.heappop(self._calls)
            callback(*values)
        self.now = end

    @property
    def is_idle(self):
        return not self._calls


class Listener:
    """What was told, and when; deaf while the wing is silent."""

    def __init__(self, clock):
        self.told = []
        self.deaf = False
        self.state = {}
        self.seen = {}
        self._clock = clock

    def tell(self, path, interface, names):
        if self.deaf:
            return False
        self.told.append((path, interface, list(names)))
        self.seen[path] = self.state.get(path)
        return True


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: clock)
    return clock


@pytest.fixture
def listener(clock):
    return Listener(clock)


@pytest.fixture
def news(listener):
    return News(listener.tell)


def flood(news, listener, uid, paths, count):
    for number in range(count):
        path = paths[number % len(paths)]
        listener.state[path] = number
        news.changed(uid, path, FACE, ["Title"])


def test_32_a_flood_is_bounded_and_its_newest_state_is_told(news, listener, clock):
    paths = [f"/p/{number}" for number in range(256)]
    for _ in range(10):
        flood(news, listener, ALICE, paths, 3000)
        clock.run(1.0)
    assert len(listener.told) <= module.AT_ONCE + 10 * module.A_SECOND
    clock.run(256 / module.A_SECOND + 1)
    assert listener.seen == listener.state
    assert clock.is_idle


def test_32_who_floods_does_not_hold_up_others(news, listener, clock):
    flood(news, listener, ALICE, ["/a"], 1000)
    listener.told.clear()
    for uid in (BOB, None):
        news.changed(uid, f"/{uid}", FACE, ["Title"])
    assert [path for path, *_ in listener.told] == ["/1001", "/None"]


def test_a_few_changes_a_second_are_told_at_once(news, listener, clock):
    for number in range(500):
        news.changed(ALICE, "/a", FACE, ["Title"])
        assert len(listener.told) == number + 1
        clock.run(0.1)
    assert clock.is_idle


def test_what_waits_is_told_once_with_all_that_changed_in_its_turn(
    news, listener, clock, monkeypatch
):
    monkeypatch.setattr(module, "AT_ONCE", 1)
    for path, name in [("/a", "A"), ("/a", "B"), ("/b", "C"), ("/a", "D"), ("/a", "B")]:
        news.changed(ALICE, path, FACE, [name])
    assert listener.told == [("/a", FACE, ["A"])]
    clock.run(10)
    assert listener.told[1:] == [("/a", FACE, ["B", "D"]), ("/b", FACE, ["C"])]


def test_32_all_together_are_bounded_and_have_their_turn_one_after_the_other(
    news, listener, clock, monkeypatch
):
    monkeypatch.setattr(module, "AT_ONCE", 1000)
    monkeypatch.setattr(module, "A_SECOND", 1000)
    for _ in range(10):
        for uid in range(20):
            flood(news, listener, uid, [f"/{uid}/{number}" for number in range(100)], 100)
        clock.run(1.0)
    told = len(listener.told)
    most = module.AT_ONCE_IN_ALL + 10 * module.A_SECOND_IN_ALL
    assert most - 20 <= told <= most
    listener.told.clear()
    clock.run(1.0)
    uids = [path.split("/")[1] for path, *_ in listener.told]
    assert {uids.count(str(uid)) for uid in range(20)} == {module.A_SECOND_IN_ALL // 20}


def test_32_what_can_not_be_told_now_is_told_later(news, listener, clock):
    listener.deaf = True
    flood(news, listener, ALICE, ["/a", "/b"], 100)
    news.changed(ALICE, "/a", FACE, ["Status"])
    clock.run(60)
    assert listener.told == []
    listener.deaf = False
    clock.run(1.0)
    assert sorted(listener.told) == [("/a", FACE, ["Title", "Status"]), ("/b", FACE, ["Title"])]
    assert clock.is_idle


def test_29_users_that_are_remembered_are_bounded(news, listener, clock, monkeypatch):
    monkeypatch.setattr(module, "MAX_LINES", 5)
    flood(news, listener, ALICE, ["/a"], 1000)
    for uid in range(20):
        news.changed(uid, f"/{uid}", FACE, ["Title"])
        assert len(news._lines) <= 5
    assert news._lines[ALICE].waiting, "who waits is not forgotten"


def test_a_rate():
    rate = Rate(at_once=3, a_second=10)
    delays = [round(max(rate.next(100.0) - 100.0, 0.0), 6) for _ in range(5)]
    assert delays == [0.0, 0.0, 0.0, 0.1, 0.2]
    assert rate.next(100.4) == pytest.approx(100.3)
    assert [rate.next(200.0) <= 200.0 for _ in range(4)] == [True] * 3 + [False]

import asyncio
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import chain

import pytest

from buswork.errors import TimedOut
from buswork.libipc.errors import ClosedContext
from buswork.libipc.library.handoff import FEW_EVENTS, MOST_EVENTS, Externals, Handoff
from buswork.loopthread import LoopThread


@asynccontextmanager
async def nothing():
    yield


@pytest.fixture
def thread():
    thread = LoopThread("t", ClosedContext)
    thread.open(nothing)
    yield thread
    thread.close()


@pytest.fixture
def handoff(thread):
    return Handoff(thread)


def test_in_order(thread, handoff):
    for number in range(3):
        thread.run(handoff.put(number))
    assert [handoff.take(0) for _ in range(3)] == [0, 1, 2]


def test_nothing_comes(handoff):
    with pytest.raises(TimedOut, match=r"no event in 0\.01 s"):
        handoff.take(0.01)


def test_what_is_held_can_be_dropped(thread, handoff):
    thread.run(handoff.put("x"))
    assert handoff.holds("x")
    handoff.drop("x")
    handoff.drop("x")
    assert not handoff.holds("x")


def test_the_end(thread, handoff):
    with ThreadPoolExecutor() as others:
        waiting = [others.submit(handoff.take, None) for _ in range(3)]
        thread.call(handoff.close)
        for each in waiting:
            with pytest.raises(ClosedContext):
                each.result(20)
    thread.run(handoff.put(1))
    with pytest.raises(ClosedContext):
        handoff.take(None)


def test_who_brings_waits_for_who_takes(thread, handoff):
    async def bring():
        for number in range(10 * MOST_EVENTS):
            await handoff.put(number)

    with ThreadPoolExecutor() as others:
        bringing = others.submit(thread.run, bring())
        taken = [handoff.take(20)]
        for _ in range(2 * MOST_EVENTS):
            thread.run(asyncio.sleep(0))
        assert not handoff.holds(MOST_EVENTS + FEW_EVENTS)
        taken += [handoff.take(20) for _ in range(10 * MOST_EVENTS - 1)]
        bringing.result(20)
    assert taken == list(range(10 * MOST_EVENTS))


def test_each_event_goes_to_one_of_many_threads(thread, handoff):
    async def bring():
        for number in range(2000):
            await handoff.put(number)

    def take():
        taken = []
        while (number := handoff.take(20)) is not None:
            taken.append(number)
        return taken

    with ThreadPoolExecutor(8) as others:
        takers = [others.submit(take) for _ in range(8)]
        thread.run(bring(), 20)
        for _ in takers:
            thread.run(handoff.put(None), 20)
        taken = [taker.result(20) for taker in takers]
    assert sorted(chain.from_iterable(taken)) == list(range(2000))
    assert all(each == sorted(each) for each in taken)


# -- descriptors of others -------------------------------------------------------------------------


@pytest.fixture
def told(handoff):
    return handoff


@pytest.fixture
def externals(thread, told):
    return Externals(thread, told.put_now)


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_an_external_is_told_once_until_its_thread_waits_again(thread, told, externals, pipe):
    readable, writable = pipe
    thread.call(externals.add, readable)
    os.write(writable, b"x")
    assert told.take(20) == readable
    externals.taken(readable)
    with ThreadPoolExecutor() as others:
        others.submit(externals.release).result()  # another thread waits
    thread.run(asyncio.sleep(0))
    assert not told.holds(readable)
    externals.release()
    assert told.take(20) == readable


def test_what_was_read_is_not_told_again(thread, told, externals, pipe):
    readable, writable = pipe
    thread.call(externals.add, readable)
    os.write(writable, b"x")
    externals.taken(told.take(20))
    os.read(readable, 1)
    externals.release()
    with pytest.raises(TimedOut):
        told.take(0.01)
    os.write(writable, b"y")
    assert told.take(20) == readable


def test_a_removed_one_is_told_no_more(thread, told, externals, pipe):
    readable, writable = pipe
    thread.call(externals.add, readable)
    thread.call(externals.remove, readable)
    thread.call(externals.remove, readable)
    os.write(writable, b"x")
    with pytest.raises(TimedOut):
        told.take(0.01)
    thread.call(externals.add, readable)
    externals.taken(told.take(20))
    thread.call(externals.remove, readable)
    externals.release()
    with pytest.raises(TimedOut):
        told.take(0.01)


def test_one_that_was_closed_meanwhile(thread, told, externals):
    one, other = socket.socketpair()
    thread.call(externals.add, one.fileno())
    other.close()
    externals.taken(told.take(20))
    one.close()
    externals.release()
    thread.run(asyncio.sleep(0))
    assert thread.call(threading.current_thread).is_alive()


def test_a_file_cannot_be_waited_for(thread, externals, tmp_path):
    with (tmp_path / "f").open("wb") as file, pytest.raises(OSError, match="not permitted"):
        thread.call(externals.add, file.fileno())

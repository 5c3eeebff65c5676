import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from buswork.errors import TimedOut
from buswork.loopthread import LoopThread


class Closed(Exception):
    pass


@asynccontextmanager
async def nothing():
    yield


@pytest.fixture
def thread():
    thread = LoopThread("t", Closed)
    thread.open(nothing)
    yield thread
    thread.close()


def test_runs_in_one_other_thread(thread):
    async def here():
        return threading.current_thread()

    there = thread.run(here())
    assert there is thread.call(threading.current_thread) is not threading.current_thread()
    assert there.name == "t"


def test_what_goes_wrong_is_told(thread):
    async def fails():
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        thread.run(fails())
    with pytest.raises(ZeroDivisionError):
        thread.call(divmod, 1, 0)


def test_a_timeout_ends_the_work(thread):
    ended = threading.Event()

    async def waits():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(TimedOut, match=r"0\.01 s"):
        thread.run(waits(), 0.01)
    assert ended.wait(20)


def test_the_context_lives_as_long_as_the_thread():
    told = []

    @asynccontextmanager
    async def living():
        told.append(threading.current_thread())
        yield
        told.append(threading.current_thread())

    thread = LoopThread("t", Closed)
    thread.open(living)
    assert len(told) == 1
    thread.close()
    assert told[0] is told[1] is not threading.current_thread()
    thread.close()


def test_it_may_be_opened_again(thread):
    thread.close()
    thread.open(nothing)
    assert thread.call(int, "7") == 7


def test_what_fails_at_opening_is_told():
    @asynccontextmanager
    async def fails():
        raise ValueError("wrong")
        yield

    thread = LoopThread("t", Closed)
    with pytest.raises(ValueError, match="wrong"):
        thread.open(fails)
    with pytest.raises(Closed, match="not open"):
        thread.call(int)


def test_who_waits_at_the_end_is_told(thread):
    started = threading.Event()

    async def waits():
        started.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor() as others:
        waiting = others.submit(thread.run, waits())
        assert started.wait(20)
        thread.close()
        with pytest.raises(Closed, match="meanwhile"):
            waiting.result(20)


def test_who_comes_too_late_is_told():
    async def never():
        raise AssertionError

    thread = LoopThread("t", Closed)
    with pytest.raises(Closed, match="not open"):
        thread.run(never())
    with pytest.raises(Closed, match="not open"):
        thread.call(int)
    thread.post(int)


def test_the_thread_cannot_wait_for_itself(thread):
    async def waits():
        thread.call(int)

    with pytest.raises(RuntimeError, match="can't wait"):
        thread.run(waits())


def test_it_may_be_closed_from_within(thread):
    thread.post(thread.close)
    there = next(t for t in threading.enumerate() if t.name == "t")
    there.join(20)
    assert not there.is_alive()


def test_posts_and_calls_keep_their_order(thread):
    told = []
    for number in range(100):
        thread.post(told.append, number)
    thread.call(told.append, 100)
    assert told == list(range(101))


def test_closing_while_many_use_it():
    """Nobody waits for ever, whatever the moment."""
    for _ in range(20):
        thread = LoopThread("t", Closed)
        thread.open(nothing)

        def uses(thread=thread):
            while True:
                try:
                    thread.run(asyncio.sleep(0))
                    thread.call(int)
                except Closed:
                    return

        users = [threading.Thread(target=uses, daemon=True) for _ in range(4)]
        for user in users:
            user.start()
        thread.close()
        for user in users:
            user.join(20)
            assert not user.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_context_that_ends_by_itself():
    """Whoever waits is told, and whoever comes later."""

    @asynccontextmanager
    async def dies():
        owner = asyncio.current_task()
        asyncio.get_running_loop().call_later(0.01, owner.cancel)
        yield

    thread = LoopThread("t", Closed)
    thread.open(dies)
    with pytest.raises(Closed):
        thread.run(asyncio.Event().wait())
    with pytest.raises(Closed):
        thread.call(int)
    thread.close()

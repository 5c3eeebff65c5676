import asyncio
import errno
import json
import os
import random
import stat
from contextlib import suppress

import pytest
from appview.people import Viewed, descriptors, queues_of, until

from buswork.appview import errors
from buswork.appview.native import conversations as module
from buswork.appview.native import mqueue
from buswork.appview.native.conversations import Conversations, most_conversations
from buswork.appview.native.pairs import ANSWER_MODE, ASK_MODE
from buswork.appview.wire import requests
from buswork.errors import AccessDenied, LimitsExceeded

pytestmark = pytest.mark.processes

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")
OTHER = 65534
PATIENCE = 20.0


@pytest.fixture
async def conversations():
    conversations = Conversations(seconds=20)
    yield conversations
    conversations.close()


@pytest.fixture
async def viewed():
    viewed = await Viewed.start()
    yield viewed
    await viewed.kill()


async def status(conversations, target, uid=0):
    async with conversations.speak(target, uid) as conversation:
        return (await conversation.ask(requests.STATUS))["viewed"]


# -- asking ----------------------------------------------------------------------------------------


async def test_all_requests(conversations, viewed):
    with viewed.held() as target:
        async with conversations.speak(target, 0) as conversation:
            assert (await conversation.ask(requests.DETAILS))["pid"] == viewed.pid
            answer = await conversation.ask(requests.GET_CONFIGURATION)
            wanted = {**answer["cfg"]["current"], "tags": {"a": "b"}}
            del wanted["protocol"]
            await conversation.ask(requests.SET_CONFIGURATION, cfg=wanted)
            answer = await conversation.ask(requests.GET_CONFIGURATION)
            assert answer["cfg"]["current"]["tags"] == {"a": "b"}
            assert (await conversation.ask(requests.TRANSPORTS))["interfaces"][0]["name"] == "log"
            assert len((await conversation.ask(requests.SUPPORTED))["commands_appview"]) == 6
    assert queues_of(viewed.pid) == []


async def test_as_much_as_the_process_takes(conversations, viewed):
    tags = {f"tag{number}": "x" * 1000 for number in range(1000)}
    with viewed.held() as target:
        async with conversations.speak(target, 0) as conversation:
            await conversation.ask(requests.SET_CONFIGURATION, cfg={"tags": tags})
            answer = await conversation.ask(requests.GET_CONFIGURATION)
    assert answer["cfg"]["current"]["tags"] == tags


async def test_the_queues_belong_to_the_process(conversations, viewed):
    with viewed.held() as target:
        async with conversations.speak(target, 0):
            for name, flags, mode in (
                (target.ask_name, os.O_RDONLY, ASK_MODE),
                (target.answer_name, os.O_WRONLY, ANSWER_MODE),
            ):
                queue = mqueue.open_queue(name, flags)
                found = os.fstat(queue.fileno())
                queue.close()
                assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (target.uid, mode)


@ROOT
async def test_a_process_of_another_user(conversations):
    viewed = await Viewed.start("--uid", str(OTHER))
    try:
        with viewed.held() as target:
            assert target.uid == OTHER
            assert await status(conversations, target)
    finally:
        await viewed.kill()


async def test_one_conversation_at_a_time(conversations, viewed):
    order = []
    with viewed.held() as target:

        async def speak(name):
            async with conversations.speak(target, 0) as conversation:
                order.append(name)
                await conversation.ask(requests.STATUS)
                order.append(name)

        await asyncio.gather(*map(speak, "abc"))
    assert order == ["a", "a", "b", "b", "c", "c"]
    assert not conversations._turns


async def test_who_gives_up_leaves_nothing(conversations):
    mute = await Viewed.start("--fault", "mute")
    try:
        with mute.held() as target:
            asking = asyncio.create_task(status(conversations, target))
            await until(lambda: queues_of(mute.pid))
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert queues_of(mute.pid) == []
    finally:
        await mute.kill()


async def test_who_waits_for_one_may_ask_others(viewed):
    """More callers than one user has places wait for a process that does not answer."""
    conversations = Conversations(seconds=20)
    mute = await Viewed.start("--fault", "mute")
    with mute.held() as target, viewed.held() as other:
        waiting = [asyncio.create_task(status(conversations, target)) for _ in range(30)]
        await until(lambda: queues_of(mute.pid))
        assert await status(conversations, other)
        await mute.kill()
        for failure in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(failure, errors.ProcessGone)
    conversations.close()


@pytest.mark.parametrize(("all_", "of_one", "next_uid"), [(64, 1, 1), (1, 64, 2)])
async def test_so_many_at_once(viewed, monkeypatch, all_, of_one, next_uid):
    """And who waits for a place of his own holds up nobody else."""
    monkeypatch.setattr(module, "most_conversations", lambda: all_)
    monkeypatch.setattr(module, "CONVERSATIONS_PER_UID", of_one)
    conversations = Conversations(seconds=20)
    people = [await Viewed.start() for _ in range(2)]
    with viewed.held() as first, people[0].held() as second, people[1].held() as third:
        async with conversations.speak(first, 1):
            waiting = asyncio.create_task(status(conversations, second, next_uid))
            await asyncio.wait((waiting,), timeout=0.05)
            assert not waiting.done()
            if all_ > 1:
                async with asyncio.timeout(PATIENCE):
                    assert await status(conversations, third, 2)
        assert await waiting
    for each in people:
        await each.kill()
    conversations.close()


async def test_nothing_is_sent_to_who_has_its_number_by_now(conversations, viewed):
    with viewed.held() as target:
        async with conversations.speak(target, 0) as conversation:
            await viewed.kill()
            queue = mqueue.open_queue(target.ask_name, os.O_RDONLY)
            with pytest.raises(errors.ProcessGone):
                await conversation.ask(requests.STATUS)
            with pytest.raises(BlockingIOError):
                queue.receive()
            queue.close()


async def test_each_request_is_checked_before_it_is_sent(conversations, viewed):
    checks = iter([None, AccessDenied("no longer")])

    def check():
        if refusal := next(checks):
            raise refusal

    with viewed.held() as target:
        async with conversations.speak(target, 0, check=check) as conversation:
            await conversation.ask(requests.STATUS)
            with pytest.raises(AccessDenied):
                await conversation.ask(requests.STATUS)
            assert mqueue.attributes(conversation._pair.ask.fileno()).waiting == 0


# -- processes that do not answer as they should ---------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("mute", errors.NotAnswering),
        ("other-uniq", errors.NotAnswering),
        ("no-uniq", errors.NotAnswering),
        ("never-ends", errors.NotAnswering),
        ("dies", errors.ProcessGone),
        ("remain-grows", errors.BadAnswer),
        ("cut", errors.BadAnswer),
        ("garbage", errors.BadAnswer),
        ("empty", errors.BadAnswer),
    ],
)
async def test_faults(fault, error):
    conversations = Conversations(seconds=0.2 if error is errors.NotAnswering else 20)
    viewed = await Viewed.start("--fault", fault)
    before = descriptors()
    try:
        with viewed.held() as target:
            async with conversations.speak(target, 0) as conversation:
                with pytest.raises(error, match=f"process {viewed.pid}"):
                    await conversation.ask(requests.STATUS)
                # What comes late must reach nobody.
                with pytest.raises(errors.NotAnswering, match="earlier"):
                    await conversation.ask(requests.STATUS)
        assert queues_of(viewed.pid) == []
        assert descriptors() <= before
    finally:
        await viewed.kill()
        conversations.close()


async def test_answers_to_others_without_an_end(conversations, viewed, monkeypatch):
    """Whoever writes faster than they are read does not hold up the loop: the time runs out."""
    conversations.seconds = 0.05
    frame = b'{"status":206,"uniq":2000000000,"remain":9}'
    with viewed.held() as target:
        os.kill(viewed.pid, 19)
        async with conversations.speak(target, 0) as conversation:
            queue = mqueue.open_queue(target.answer_name, os.O_WRONLY)
            queue.send(frame)
            queue.close()
            monkeypatch.setattr(mqueue.Queue, "receive", lambda self: frame)
            with pytest.raises(errors.NotAnswering):
                await conversation.ask(requests.STATUS)


async def test_who_is_late_is_waited_for_so_long_and_no_longer(conversations, viewed):
    """And so long in all of an exchange: who is always nearly there does not hold up the loop."""
    tried = []

    def nothing():
        tried.append(None)
        raise BlockingIOError

    with viewed.held() as target:
        async with conversations.speak(target, 0) as conversation:
            exchange = module._Exchange(conversation._pair, b"x", 1)
    with pytest.raises(BlockingIOError):
        exchange._tried(nothing)
    assert len(tried) == module.TRIES_AT_ONCE + 1
    for _ in range(100):
        with pytest.raises(BlockingIOError):
            exchange._tried(nothing)
    assert len(tried) <= module.TRIES + 101


async def test_a_late_answer_reaches_nobody():
    """The process is stopped, asked in vain, and goes on while it is asked for something else."""
    conversations = Conversations(seconds=0.2)
    viewed = await Viewed.start()
    try:
        with viewed.held() as target:
            os.kill(viewed.pid, 19)
            with pytest.raises(errors.NotAnswering):
                await status(conversations, target)
            os.kill(viewed.pid, 18)
            conversations.seconds = 20
            async with conversations.speak(target, 0) as conversation:
                assert (await conversation.ask(requests.DETAILS))["pid"] == viewed.pid
    finally:
        await viewed.kill()
        conversations.close()


async def test_what_a_process_answered_before_it_ended_counts(conversations, viewed, monkeypatch):
    loop = asyncio.get_running_loop()
    real = loop.add_reader

    def add_reader(fd, *rest):
        if fd == target.pidfd:  # which is looked at first
            real(fd, *rest)

    monkeypatch.setattr(loop, "add_reader", add_reader)
    with viewed.held() as target:
        async with conversations.speak(target, 0) as conversation:
            asking = asyncio.create_task(conversation.ask(requests.STATUS))
            await until(lambda: mqueue.attributes(conversation._pair.answer.fileno()).waiting)
            os.kill(viewed.pid, 9)
            assert (await asking)["viewed"]


async def test_a_process_that_ends_between_frames(conversations, viewed):
    """It is stopped while a long request is on its way, so that this can't have gone through."""
    payload = json.dumps({"req": 3, "cfg": {"tags": {"a": "x" * 200_000}}}).encode()
    with viewed.held() as target:
        os.kill(viewed.pid, 19)
        async with conversations.speak(target, 0) as conversation:
            asking = asyncio.create_task(conversation.exchange(payload))
            await asyncio.sleep(0)
            os.kill(viewed.pid, 9)
            with pytest.raises(errors.ProcessGone):
                await asking
            assert not asyncio.get_running_loop().remove_writer(conversation._pair.ask)
    await viewed.kill()
    assert queues_of(viewed.pid) == []


# -- queues that can't be made --------------------------------------------------------------------


async def test_what_a_killed_daemon_left_goes(conversations, viewed):
    with viewed.held() as target:
        queue = mqueue.create(target.answer_name, os.O_RDWR, 2, 100)
        os.fchmod(queue.fileno(), ANSWER_MODE)
        queue.send(b"stale")
        queue.close()
        assert await status(conversations, target)
    assert queues_of(viewed.pid) == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
async def test_room_that_is_not_free_yet(conversations, viewed, monkeypatch, number):
    """Of an earlier conversation, whose process has its end open for a moment more."""
    real, made = mqueue.create, []

    def create(name, *rest):
        made.append(name)
        if len(made) == 2:
            raise OSError(number, "no room", name)
        return real(name, *rest)

    monkeypatch.setattr(mqueue, "create", create)
    before = descriptors()
    with viewed.held() as target:
        assert await status(conversations, target)
    assert len(made) == 4
    assert queues_of(viewed.pid) == []
    assert descriptors() == before


async def test_two_services_take_turns(conversations, viewed):
    """What one that runs has is not taken for what one that was killed has left."""
    other = Conversations(seconds=20)
    with viewed.held() as target:
        async with other.speak(target, 0) as first:
            second = asyncio.create_task(status(conversations, target))
            await asyncio.wait((second,), timeout=0.05)
            assert not second.done()
            assert (await first.ask(requests.STATUS))["viewed"]
        assert await second
    assert queues_of(viewed.pid) == []
    other.close()


async def test_who_gives_up_on_the_way_waits_for_the_return(conversations, viewed, monkeypatch):
    """What he has open is needed there."""
    began, ends = [], asyncio.Event()

    async def run(namespace_fd, work):
        began.append(work)
        await ends.wait()
        work()

    monkeypatch.setattr(conversations, "_home", None)
    monkeypatch.setattr(conversations._traveller, "run", run)
    with viewed.held() as target:
        asking = asyncio.create_task(status(conversations, target))
        await until(lambda: began)
        asking.cancel()
        await asyncio.wait((asking,), timeout=0.05)
        assert len(began) == 1
        assert not asking.done()
        ends.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert queues_of(viewed.pid) == []


async def test_nobody_waits_for_another_service_for_ever(conversations, viewed, monkeypatch):
    monkeypatch.setattr(module, "ROOM_SECONDS", 0.01)
    other = Conversations(seconds=20)
    with viewed.held() as target:
        async with other.speak(target, 0) as first:
            with pytest.raises(errors.QueueTaken, match="another service"):
                await status(conversations, target)
            assert (await first.ask(requests.STATUS))["viewed"]
    other.close()


async def test_no_room_for_queues(conversations, viewed, monkeypatch):
    monkeypatch.setattr(module, "ROOM_SECONDS", 0.01)

    def refuse(*arguments):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(mqueue, "create", refuse)
    with viewed.held() as target, pytest.raises(LimitsExceeded):
        await status(conversations, target)


async def test_no_room_to_wait_for_it(conversations, viewed, monkeypatch):
    """What is closed afterwards is not looked at any more: the next one has its number."""
    loop = asyncio.get_running_loop()
    real = loop.add_reader

    def add_reader(fd, *rest):
        if fd == target.pidfd:
            raise OSError(errno.ENOSPC, "no room")
        real(fd, *rest)

    monkeypatch.setattr(loop, "add_reader", add_reader)
    with viewed.held() as target:
        async with conversations.speak(target, 0) as conversation:
            with pytest.raises(LimitsExceeded):
                await conversation.ask(requests.STATUS)
            assert not loop.remove_reader(conversation._pair.answer)


async def test_queues_that_may_not_be_made(conversations, viewed, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(mqueue, "create", refuse)
    with viewed.held() as target, pytest.raises(AccessDenied):
        await status(conversations, target)


def test_as_many_as_there_is_room_for(monkeypatch):
    charged = mqueue.Attributes(module.MOST_MESSAGES, 8192, 0).charged
    for limit, most in ((-1, 64), (0, 1), (2 * charged, 1), (40 * charged, 20), (1 << 40, 64)):
        monkeypatch.setattr("resource.getrlimit", lambda which, limit=limit: (limit, limit))
        assert most_conversations() == most


# -- nothing is left -------------------------------------------------------------------------------


async def asked_in_vain(conversations, viewed, gives_up):
    # Whoever looks for viewed processes on this machine may have asked the one that dies.
    with suppress(FileNotFoundError), viewed.held() as target:
        asking = asyncio.create_task(status(conversations, target))
        if gives_up:
            await asyncio.sleep(0)
            asking.cancel()
        with suppress(errors.BadAnswer, errors.ProcessGone, asyncio.CancelledError):
            assert await asking


async def test_a_thousand_conversations_leave_nothing(request):
    count = 10_000 if request.config.getoption("--fuzz") else 1_000
    dice = random.Random(7)
    conversations = Conversations(seconds=20)
    faults = ["garbage", "remain-grows", *[None] * 13]
    people = [await Viewed.start(*(["--fault", each] if each else [])) for each in faults]
    before = descriptors()
    for number in range(count // 16):
        mortals = [await Viewed.start("--fault", "dies")] if number % 8 == 0 else []
        all_ = [*people, *mortals]
        await asyncio.gather(
            *(asked_in_vain(conversations, each, dice.random() < 0.2) for each in all_)
        )
        assert [queues_of(each.pid) for each in all_] == [[]] * len(all_)
        for mortal in mortals:
            await mortal.kill()
    # Pipes of processes that were started meanwhile are not ours to count.
    assert descriptors() <= before + 2
    for each in people:
        await each.kill()
    conversations.close()

"""Carrying messages between two ends."""

import asyncio
import socket

import pytest
from libipc.doors.house import message, received, sent

from buswork.errors import BusworkError, TimedOut
from buswork.libipc.doors import relay
from buswork.libipc.doors.relay import LIMITS, ConnectionEnd, carry
from buswork.libipc.errors import PeerGone
from buswork.libipc.library.contexts import Context
from buswork.libipc.wire.forms import BadMessage, Form, Message

ONE, TWO = Message(b"one", 1), Message(b"two", 2)


class End:
    """What the tests say comes from it, and what it got."""

    def __init__(self):
        self.coming = asyncio.Queue()
        self.got = []
        self.finished = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()
        self.refusal = None

    def say(self, *said):
        for each in said:
            self.coming.put_nowait(each)

    async def receive(self):
        said = await self.coming.get()
        if isinstance(said, Exception):
            raise said
        return said

    async def send(self, message):
        await self.takes.wait()
        if self.refusal is not None:
            raise self.refusal
        self.got.append(message)

    async def finish(self):
        self.finished.set()


@pytest.fixture
def ends():
    return End(), End()


LEFT = PeerGone("it left")


async def result(task):
    async with asyncio.timeout(10):
        return await task


async def test_messages_pass_both_ways_until_one_leaves(ends):
    one, other = ends
    task = asyncio.create_task(carry(one, other))
    one.say(ONE, TWO)
    other.say(TWO, ONE, LEFT)
    await one.finished.wait()
    one.say(LEFT)
    assert await result(task) is None
    assert (other.got, one.got) == ([ONE, TWO], [TWO, ONE])


async def test_what_the_second_says_until_it_ends_too_still_passes(ends):
    one, other = ends
    task = asyncio.create_task(carry(one, other))
    one.say(LEFT)
    await other.finished.wait()
    for said in ONE, TWO, LEFT:
        await asyncio.sleep(0.001)
        other.say(said)
    assert await result(task) is None
    assert one.got == [ONE, TWO]


async def test_a_second_one_that_does_not_end_is_not_waited_for(ends, monkeypatch):
    monkeypatch.setattr(relay, "LINGER_SECONDS", 0.01)
    ends[0].say(LEFT)
    assert await result(asyncio.create_task(carry(*ends))) is None


async def test_what_nobody_takes_any_more_is_read_nevertheless(ends):
    one, other = ends
    other.refusal = LEFT
    task = asyncio.create_task(carry(one, other))
    one.say(ONE, TWO)
    while not one.coming.empty():  # noqa: ASYNC110
        await asyncio.sleep(0)
    other.say(ONE, LEFT)  # its last words
    await one.finished.wait()
    one.say(LEFT)
    assert await result(task) is None
    assert one.got == [ONE]


@pytest.mark.parametrize("why", [BadMessage("no message"), BusworkError("stalled")])
async def test_what_is_wrong_with_one_ends_both(ends, why):
    ends[1].say(why)
    assert await result(asyncio.create_task(carry(*ends))) is why
    assert not ends[0].finished.is_set()


async def test_what_can_not_be_sent_on_ends_both(ends):
    ends[0].refusal = BadMessage("too long")
    ends[1].say(ONE)
    assert await result(asyncio.create_task(carry(*ends))) is ends[0].refusal


async def test_who_takes_nothing_for_long_is_left(ends, monkeypatch):
    monkeypatch.setattr(relay, "STUCK_SECONDS", 0.01)
    ends[0].takes.clear()
    ends[1].say(ONE)
    assert isinstance(await result(asyncio.create_task(carry(*ends))), TimedOut)


async def test_it_can_be_given_up(ends):
    task = asyncio.create_task(carry(*ends))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await result(task)


# Connections


@pytest.fixture
async def context():
    async with Context(limits=LIMITS) as context:
        yield context


def adopted(context, form=Form.C):
    """An end, and what is at its other end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return ConnectionEnd(context.adopt(ours, form=form, pull=True)), theirs


async def test_an_end_that_is_a_connection(context):
    end, peer = adopted(context)
    with peer:
        await end.send(ONE)
        assert await received(peer) == message(Form.C, b"one", 1)
        await sent(peer, message(Form.C, b"two", 2))
        assert await end.receive() == TWO
        await end.finish()
        assert await received(peer) == b""
        await sent(peer, message(Form.C, b"last"))
        assert (await end.receive()).payload == b"last"
        peer.close()
        with pytest.raises(PeerGone):
            await end.receive()
        await end.finish()


async def test_sending_takes_until_it_has_left(context):
    end, peer = adopted(context)
    with peer:
        await end.send(ONE)
        task = asyncio.create_task(end.send(TWO))  # which waits until the first one is read
        await asyncio.sleep(0.01)
        assert not task.done()
        assert await received(peer) == message(Form.C, b"one", 1)
        await task
        assert await received(peer) == message(Form.C, b"two", 2)


async def test_an_empty_message_of_the_form_zig_is_an_end(context):
    end, peer = adopted(context, Form.ZIG)
    with peer:
        await sent(peer, bytes(4))
        with pytest.raises(PeerGone):
            await end.receive()

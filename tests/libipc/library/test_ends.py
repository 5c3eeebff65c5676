"""Switches of real connections in a context; the far ends are plain sockets, like the originals."""

import asyncio
import random
import socket

import pytest
from libipc.library.waiting import until
from libipc.wire.vectors import recorded

from buswork.libipc import (
    BadMessage,
    Code,
    Context,
    Disconnected,
    Form,
    Message,
    PeerGone,
    Received,
    Switched,
    Taken,
    Unswitched,
    join,
    plain_in,
    plain_out,
)
from buswork.libipc.library.connections import Limits
from buswork.libipc.wire.forms import Assembler, encode

ONE, TWO = Message(b"one", 7), Message(b"two", 8)
FORMS = pytest.mark.parametrize(("a", "b"), [(a, b) for a in Form for b in Form])
RECORDED = {vector["name"]: vector for vector in recorded("c_switching")["vectors"]}


def framed(form, *messages):
    return b"".join(
        encode(form, message if form is Form.C else Message(message.payload))
        for message in messages
    )


class Far:
    """The peer of one end."""

    def __init__(self, context, form=Form.C, *, eager=False, pull=False):
        self.form = form
        near, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        self.connection = context.adopt(near, form=form, eager=eager, pull=pull)

    async def say(self, *messages):
        await asyncio.get_running_loop().sock_sendall(self.sock, framed(self.form, *messages))

    async def read(self):
        """What is there at once, as the originals do."""
        async with asyncio.timeout(20):
            return await asyncio.get_running_loop().sock_recv(self.sock, 1 << 21)

    async def hear(self, count):
        """So many messages; fewer at the end."""
        assembler, heard = Assembler(self.form), []
        while len(heard) < count and (data := await self.read()):
            heard += assembler.feed(data)
        return heard


@pytest.fixture
async def context():
    """Its events are kept, to be looked at."""
    async with Context() as context:
        context.told = []
        context.on_event = context.told.append
        yield context


@pytest.fixture
def ends(context):
    made = []

    def make(a=Form.C, b=Form.C, **options):
        made[:] = Far(context, a, **options), Far(context, b, **options)
        return made

    yield make
    for far in made:
        far.sock.close()


def tie(context, ends, **options):
    return context.switch(*(far.connection for far in ends), **options)


# -- forwarding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["switch_default", "switch_empty", "switch_two_coalesced"])
async def test_the_recorded_bytes_are_forwarded(context, ends, name):
    """Two in one read as well, which end the original's switch."""
    client, service = ends()
    tie(context, (client, service))
    for way, said in RECORDED[name]["tcp_client"][2:]:
        data = bytes.fromhex(said) if said != "TimeoutError" else b""
        if way == "send":
            client.sock.send(data)
            messages = Assembler(Form.C).feed(data)
            for message in messages:  # one at a time
                assert await service.read() == encode(Form.C, message)
            await service.say(*messages)
        for message in Assembler(Form.C).feed(data) if way == "recv" else ():
            assert await client.read() == encode(Form.C, message)


@FORMS
async def test_both_ways_between_the_forms(context, ends, a, b):
    tied = ends(a, b)
    switch = tie(context, tied)
    here, there = tied
    await here.say(ONE, TWO)
    assert await there.read() == framed(b, *(carried(m, a) for m in (ONE,)))
    assert await there.read() == framed(b, *(carried(m, a) for m in (TWO,)))
    await there.say(TWO)
    assert await here.read() == framed(a, carried(TWO, b))
    one, other = switch.ends
    assert (one, other) == (here.connection, there.connection)
    assert [event[:2] for event in context.told] == [(one, other), (one, other), (other, one)]
    assert all(isinstance(event, Switched) for event in context.told)


def carried(message, source):
    return message if source is Form.C else Message(message.payload)


async def test_typed_between_the_forms(context, ends):
    here, there = ends(Form.C, Form.ZIG)
    tie(context, (here, there), typed=True)
    await here.say(ONE)
    assert await there.read() == framed(Form.ZIG, Message(b"\x07one"))
    await there.say(Message(b"\x09back"))
    assert await here.read() == framed(Form.C, Message(b"back", 9))


async def test_the_longest_of_a_form(context, ends):
    here, there = ends()
    tie(context, (here, there))
    longest = Message(bytes(1_999_988), 255, 254)
    saying = asyncio.create_task(here.say(longest))
    assert await there.hear(1) == [longest]
    await saying


async def test_what_is_too_long_for_the_other_form(context, ends):
    here, there = ends(Form.C, Form.ZIG)
    switch = tie(context, (here, there))
    await here.say(ONE, Message(bytes(99_993)))
    assert await there.hear(2) == [Message(b"one")]
    told = context.told[-1]
    assert told[:3] == (switch, here.connection, Code.PARSING)
    assert isinstance(told.error, BadMessage)


@FORMS
async def test_whatever_the_pieces(context, ends, a, b):
    """Both ways at once, of any length, in any chunks, by slow and fast readers."""
    chance = random.Random(f"{a}{b}")
    tied = ends(a, b, eager=True)
    tie(context, tied)
    sizes = (1, 2, 100, 5000, 70_000)
    messages = [Message(bytes([n % 251]) * chance.choice(sizes)) for n in range(200)]

    async def say(far):
        data, at = framed(far.form, *messages), 0
        while at < len(data):
            size = chance.choice((1, 3, 1000, 50_000))
            await asyncio.get_running_loop().sock_sendall(far.sock, data[at : at + size])
            at += size

    async def hear(far):
        assert await far.hear(len(messages)) == messages

    async with asyncio.TaskGroup() as group:
        for far in tied:
            group.create_task(say(far))
            group.create_task(hear(far))


# -- backpressure ----------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("size", [1, 30_000])
async def test_a_slow_end_stops_the_other(a, b, size):
    limits = Limits(queued_messages=64, queued_bytes=256 * 1024)
    async with Context(limits=limits) as context:
        told = []
        context.on_event = told.append
        here, there = Far(context, a), Far(context, b)
        tie(context, (here, there))
        frame, count = framed(a, Message(bytes(size))), 0
        idle = 0
        while idle < 100:
            try:
                assert here.sock.send(frame) == len(frame)
                count, idle = count + 1, 0
            except BlockingIOError:
                idle += 1
            await asyncio.sleep(0)
        queued, queued_bytes = there.connection.queued
        assert queued <= limits.queued_messages
        assert queued_bytes <= limits.queued_bytes
        assert len(told) < count  # the rest is in the kernel
        assert len(await there.hear(count)) == count
        for far in (here, there):
            far.sock.close()


async def test_the_other_way_goes_on_meanwhile(context, ends):
    here, there = ends()
    tie(context, (here, there))
    idle = 0
    while idle < 100:
        try:
            here.sock.send(framed(Form.C, Message(bytes(30_000))))
            idle = 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(0)
    await there.say(ONE)
    assert await here.read() == framed(Form.C, ONE)


# -- the end ---------------------------------------------------------------------------------------


def unswitched(context):
    return [event for event in context.told if isinstance(event, Unswitched)]


@pytest.mark.parametrize("dying", [0, 1])
async def test_either_end_may_go(context, ends, dying):
    """When the service's end went, the original turned in circles for ever."""
    tied = ends()
    switch = tie(context, tied)
    await tied[0].say(ONE)
    assert await tied[1].read() == framed(Form.C, ONE)
    tied[dying].sock.close()
    assert await tied[1 - dying].read() == b""
    assert unswitched(context) == [Unswitched(switch, tied[dying].connection, Code.CLOSING, None)]
    assert len(context.connections) == 0
    assert not any(isinstance(event, Received | Disconnected) for event in context.told)
    assert await switch.wait_closed() == context.told[-1]


@pytest.mark.parametrize("dying", [0, 1])
async def test_an_end_that_goes_at_any_byte_of_a_message(context, dying):
    data = framed(Form.C, ONE)
    for length in range(len(data)):
        tied = Far(context), Far(context)
        tie(context, tied)
        tied[dying].sock.send(data + data[:length])
        tied[dying].sock.close()
        assert await tied[1 - dying].hear(2) == [ONE]
        told = context.told[-1]
        assert told[1:3] == (tied[dying].connection, Code.ERROR if length else Code.CLOSING)
        assert isinstance(told.error, PeerGone) == bool(length)
        tied[1 - dying].sock.close()
    assert len(context.connections) == 0


async def test_what_came_before_the_end_reaches_a_slow_reader(context, ends):
    here, there = ends()
    tie(context, (here, there))
    messages = [Message(bytes([number])) for number in range(20)]
    await here.say(*messages)
    here.sock.close()
    await until(lambda: not here.connection.is_open)
    assert there.connection.is_open
    assert [await there.read() for _ in messages] == [framed(Form.C, m) for m in messages]
    assert await there.read() == b""


async def test_both_go_at_once(context, ends):
    here, there = ends()
    tie(context, (here, there))
    await here.say(ONE)
    here.sock.close()
    there.sock.close()
    await until(lambda: unswitched(context))
    assert len(unswitched(context)) == 1


async def test_what_is_no_message(context, ends):
    here, there = ends()
    switch = tie(context, (here, there))
    here.sock.send(framed(Form.C, ONE) + b"\x02\xff\xff\xff\xff\x00")
    assert await there.hear(2) == [ONE]
    told = context.told[-1]
    assert told[:3] == (switch, here.connection, Code.PARSING)
    assert isinstance(told.error, BadMessage)


async def test_an_end_is_no_failure_of_the_peer(context, ends):
    """C services exit when they are told of a reset (section 3)."""
    here, there = ends()
    tie(context, (here, there))
    idle = 0
    while idle < 100:  # so that something is unread at the end
        try:
            there.sock.send(framed(Form.C, Message(bytes(30_000))))
            idle = 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(0)
    here.sock.close()
    assert await there.read() == b""


async def test_the_context_closes_its_switches():
    async with Context() as context:
        here, there = Far(context), Far(context)
        switch = tie(context, (here, there))
    assert switch.is_closed
    assert await here.read() == await there.read() == b""
    here.sock.close()
    there.sock.close()


# -- what a switch takes over ----------------------------------------------------------------------


async def test_what_was_not_taken_yet_is_forwarded(ends):
    """The first message says where to; the others came in the same read, or have been held."""
    async with Context() as context:
        here, there = Far(context), Far(context)
        messages = [Message(bytes([number])) for number in range(10)]
        await here.say(*messages)
        event = await context.wait_event()
        assert event == Received(here.connection, messages[0])
        tie(context, (here, there))
        await here.say(ONE)
        heard = [await there.read() for _ in range(10)]
        assert heard == [framed(Form.C, m) for m in (*messages[1:], ONE)]
        for _ in range(10):
            assert isinstance(await context.wait_event(), Switched)
        here.sock.close()
        there.sock.close()


async def test_a_paused_connection_is_resumed(context, ends):
    here, there = ends()
    here.connection.pause()
    await here.say(ONE)
    tie(context, (here, there))
    assert await there.read() == framed(Form.C, ONE)


async def test_connections_that_were_asked_for_messages(context, ends):
    here, there = ends(pull=True)
    await here.say(ONE, TWO, ONE)
    assert await here.connection.receive() == ONE
    tie(context, (here, there))
    assert await there.read() == framed(Form.C, TWO)
    assert await there.read() == framed(Form.C, ONE)
    await there.say(ONE)
    assert await here.read() == framed(Form.C, ONE)


async def test_one_that_has_ended_already(ends):
    async with Context() as context:
        here, there = Far(context), Far(context)
        await here.say(ONE, TWO)
        here.sock.close()
        assert await context.wait_event() == Received(here.connection, ONE)
        await until(lambda: len(context._events) == 2)
        switch = tie(context, (here, there))
        assert await there.read() == framed(Form.C, TWO)
        assert await there.read() == b""
        assert (await switch.wait_closed()).source is here.connection
        there.sock.close()


async def test_one_that_is_closed_already(context, ends):
    here, there = ends()
    here.connection.close()
    with pytest.raises(PeerGone):
        tie(context, (here, there))
    assert there.connection.is_open


# -- callbacks -------------------------------------------------------------------------------------


async def test_a_connection_with_callbacks_speaks_as_they_do(context, ends):
    here, there = ends()

    def shout(line):
        data = line.receive()
        return Taken(Code.OK, Message(data.upper())) if data else Taken(Code.CLOSING)

    tie(context, (here, there), a_in=shout)  # out is the plain format
    here.sock.send(b"hello")
    assert await there.read() == framed(Form.C, Message(b"HELLO"))
    await there.say(ONE)
    assert await here.read() == framed(Form.C, ONE)
    assert here.connection not in context.connections


async def test_a_socket_with_one_callback(context, ends):
    _, there = ends()
    near, far = socket.socketpair()
    with far:
        far.setblocking(False)

        def give(line, message):
            line.write(message.payload)
            return Code.OK

        context.switch(near, there.connection, a_out=give)
        far.send(framed(Form.C, ONE))
        assert await there.read() == framed(Form.C, ONE)
        await there.say(TWO)
        assert await asyncio.get_running_loop().sock_recv(far, 100) == b"two"


async def test_what_can_be_no_end(context, ends):
    here, _ = ends()
    near, far = socket.socketpair()
    with near, far:
        with pytest.raises(TypeError, match="adopted"):
            join(near, here.connection)
        with pytest.raises(TypeError, match="no use"):
            join(object(), here.connection, a_in=plain_in(Form.C), a_out=plain_out(Form.C))
    assert here.connection.is_open


async def test_events_that_nobody_takes_stop_a_socket_too():
    """One letter is an event, and nothing stops who sends letters but that nobody reads them."""
    async with Context() as context:
        there = Far(context, eager=True)
        near, far = socket.socketpair()
        far.setblocking(False)

        def letter(line):
            data = line.receive(1)
            return Taken(Code.OK, Message(data)) if data else Taken(Code.CLOSING)

        context.switch(near, there.connection, a_in=letter)
        text = b"abcdefgh" * 100
        far.send(text)
        for _ in range(300):
            await asyncio.sleep(0)
        heard = Assembler(Form.C).feed(await there.read())
        assert len(heard) < 100
        for _ in text:
            await context.wait_event()
        heard += await there.hear(len(text) - len(heard))
        assert b"".join(message.payload for message in heard) == text
        far.close()
        there.sock.close()


async def test_a_socket_whose_first_words_were_waited_for(context, ends):
    """As protocol daemons do: an external until it has said which service it wants."""
    _, there = ends()
    near, far = socket.socketpair()
    with far:
        far.setblocking(False)
        context.add_external(near.fileno())
        far.send(b"pong")
        await until(lambda: context.told)
        assert near.recv(9) == b"pong"
        context.told.clear()
        context.switch(near, there.connection, a_out=plain_out(Form.C))
        far.send(framed(Form.C, ONE))
        assert await there.read() == framed(Form.C, ONE)
        assert [type(event) for event in context.told] == [Switched]

import asyncio
import os
import socket
import tracemalloc

import pytest
from libipc.library.waiting import until
from libipc.world import c, zig

from buswork.libipc.errors import PeerGone, Stalled
from buswork.libipc.library import descriptors
from buswork.libipc.library.connections import DEFAULT_LIMITS, Limits
from buswork.libipc.library.events import Disconnected, Received
from buswork.libipc.wire.forms import DATA, BadMessage, Form, Message

PAST_WHAT_FITS = 500_000  # bytes: more than the kernel takes for a peer that reads nothing


class Receiver:
    def __init__(self):
        self.told = []

    def received(self, message):
        self.told.append(message.payload)

    def room(self):
        self.told.append("room")

    def disconnected(self, error):
        self.told.append(error)


@pytest.fixture
async def pair(world):
    return world.pair()


def count_descriptors():
    return len(os.listdir("/proc/self/fd"))


async def turns(count=20):
    for _ in range(count):
        await asyncio.sleep(0)


# -- receiving ---------------------------------------------------------------------------------


async def test_what_nobody_asked_for_is_closed(world, pair):
    _, peer = pair
    before = count_descriptors()
    descriptors.send(peer.sock, 0, c(b"message"))
    assert (await world.event()).message.payload == b"message"
    assert count_descriptors() == before


async def test_to_pause_a_closed_one_does_nothing_to_who_has_its_number_now(world, pair):
    connection, _ = pair
    connection.close()
    other, peer = world.pair()
    assert other.fileno() == connection.fileno()
    connection.pause()
    await peer.write(c(b"hello"))
    assert (await world.event()).connection is other


async def test_what_is_kept_of_a_message_is_told_as_it_changes(world, pair):
    """Also when who gets it wants no more for now."""
    connection, peer = pair
    kept = []
    connection.meter = kept.append

    class OneByOne(Receiver):
        def received(self, message):
            connection.pause()
            super().received(message)

    receiver = OneByOne()
    connection.divert(receiver)
    await peer.write(c(b"message")[:10])
    await until(lambda: kept == [10])
    await peer.write(c(b"message")[10:])
    await until(lambda: receiver.told)
    assert kept == [10, 0]


async def test_one_read_takes_as_much_as_is_set(make_world):
    world = make_world(limits=Limits(read_bytes=10))
    connection, peer = world.pair()
    kept = []
    connection.meter = kept.append
    await peer.write(c(b"message" * 3))
    assert (await world.event()).message.payload == b"message" * 3
    assert kept == [10, 20, 0]


async def test_a_read_takes_no_memory_but_for_what_came(world, pair):
    _, peer = pair
    tracemalloc.start()
    try:
        await peer.write(c(b"message"))
        await world.event()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < DEFAULT_LIMITS.read_bytes / 2


async def test_a_closed_connection_keeps_nothing(world, pair):
    """Though there are ways from it to its receiver and back, which Python finds much later."""
    connection, peer = pair
    connection.meter = (kept := []).append
    await peer.write(c(b"message")[:10])
    await until(lambda: kept)
    assert connection._assembler.waiting
    connection.close()
    assert not connection._assembler.waiting


@pytest.mark.parametrize("form", list(Form))
async def test_messages_come_in_any_pieces(world, form):
    connection, peer = world.pair(form=form)
    encoded = {Form.C: c, Form.ZIG: zig}[form]
    wanted = [b"one", b"", b"three" * 1000]
    stream = b"".join(map(encoded, wanted))
    for cut in (1, 3, 7, len(stream) - 1):
        await peer.write(stream[:cut])
        await turns()
        await peer.write(stream[cut:])
        events = [await world.event() for _ in wanted]
        assert [event.message.payload for event in events] == wanted
        assert {event.connection for event in events} == {connection}


async def test_several_come_in_one(world, pair):
    _, peer = pair
    await peer.write(c(b"a", 1) + c(b"b", 2))
    assert (await world.event()).message == Message(b"a", 1, DATA)
    assert (await world.event()).message == Message(b"b", 2, DATA)


async def test_the_longest_of_a_form_comes(world):
    _, peer = world.pair()
    writing = asyncio.create_task(peer.write(c(bytes(1_999_988))))
    assert len((await world.event()).message.payload) == 1_999_988
    await writing


async def test_what_is_queued_for_one_that_sends_no_messages_is_dropped(world, pair):
    connection, peer = pair
    for _ in range(2):
        connection.send(b"unread")
    await peer.write(b"\2\xff\xff\xff\xff\0")
    assert isinstance((await world.event()).error, BadMessage)
    assert not connection.is_open


@pytest.mark.parametrize("before", [b"", c(b"whole")])
async def test_what_is_announced_and_too_long_ends_the_connection(world, pair, before):
    connection, peer = pair
    await peer.write(before + b"\2\xff\xff\xff\xff\0")
    if before:
        assert isinstance(await world.event(), Received)
    event = await world.event()
    assert event.connection is connection
    assert isinstance(event.error, BadMessage)
    assert await peer.read() == b""
    assert not connection.is_open


async def test_so_does_what_a_context_takes_no_more(make_world):
    world = make_world(limits=Limits(message=100))
    _, peer = world.pair()
    await peer.write(c(bytes(101)))
    assert isinstance((await world.event()).error, BadMessage)


async def test_what_is_announced_and_not_sent_has_a_deadline(make_world):
    world = make_world(limits=Limits(message_seconds=0.01))
    connection, peer = world.pair()
    await peer.write(b"\2\0\1\0\0\0abc")
    event = await world.event()
    assert isinstance(event.error, Stalled)
    assert "9 bytes" in str(event.error)
    assert await peer.read() == b""
    assert not connection.is_open


async def test_which_is_for_the_whole_message(world, pair):
    """A byte now and then does not keep it off."""
    connection, peer = pair
    deadlines = world.context._deadlines
    await peer.write(b"\2\0\0\0\5\0ab")
    await until(lambda: connection in deadlines._due)
    due = deadlines._due[connection]
    await peer.write(b"c")
    await until(lambda: connection._assembler.waiting == 9)
    assert deadlines._due[connection] == due
    await peer.write(b"de")
    await world.event()
    assert connection not in deadlines._due


async def test_and_begins_anew_with_the_next_one(world, pair):
    connection, peer = pair
    deadlines = world.context._deadlines
    await peer.write(b"\2\0\0\0\2\0a")
    await until(lambda: connection in deadlines._due)
    due = deadlines._due[connection]
    await peer.write(b"b\2\0\0\0\2\0a")
    await world.event()
    assert deadlines._due[connection] > due


async def test_who_is_not_read_is_not_late(world, pair):
    connection, peer = pair
    await peer.write(b"\2\0\0\0\2\0a")
    await until(lambda: connection in world.context._deadlines._due)
    connection.pause()
    assert connection not in world.context._deadlines._due
    connection.resume()
    assert connection in world.context._deadlines._due


async def test_nothing_is_read_while_it_is_paused(world, pair):
    connection, peer = pair
    connection.pause()
    connection.pause()
    await peer.write(c(b"a"))
    peer.close()
    await turns()
    connection.resume()
    connection.resume()
    assert (await world.event()).message.payload == b"a"
    assert await world.event() == Disconnected(connection, None)


async def test_what_was_read_already_is_told_afterwards(make_world):
    told = []

    def happened(event):
        told.append(event.message.payload)
        event.connection.pause()

    world = make_world(on_event=happened)
    connection, peer = world.pair()
    await peer.write(c(b"a") + c(b"b") + c(b"c"))
    await until(lambda: told)
    await turns()
    assert told == [b"a"]
    connection.resume()
    await until(lambda: len(told) == 2)
    await turns()
    assert told == [b"a", b"b"]
    await peer.write(c(b"d"))
    for count in (3, 4):
        connection.resume()
        await until(lambda count=count: len(told) == count)
    assert told == [b"a", b"b", b"c", b"d"]


async def test_another_may_be_told(world, pair):
    connection, peer = pair
    receiver = Receiver()
    connection.divert(receiver)
    await peer.write(c(b"a"))
    await until(lambda: receiver.told)
    connection.divert(None)
    await peer.write(c(b"b"))
    assert (await world.event()).message.payload == b"b"
    connection.divert(receiver)
    peer.close()
    await until(lambda: not connection.is_open)
    assert receiver.told == [b"a", None]


async def test_with_what_nobody_took_yet(world, pair):
    connection, peer = pair
    _, other = world.pair()
    await peer.write(c(b"a") + c(b"b") + c(b"c"))
    await other.write(c(b"another one's"))
    peer.close()
    await until(lambda: len(world.context._events) == 5)
    assert (await world.event()).message.payload == b"a"
    receiver = Receiver()
    connection.divert(receiver)
    await until(lambda: not connection.is_open)
    assert receiver.told == [b"b", b"c", None]
    assert (await world.event()).message.payload == b"another one's"
    assert not world.context._events


async def test_in_order_with_what_comes_meanwhile(world, pair):
    connection, peer = pair
    await peer.write(c(b"a") + c(b"b"))
    await until(lambda: world.context._events)
    receiver = Receiver()
    connection.divert(receiver)
    await peer.write(c(b"c"))
    await until(lambda: len(receiver.told) == 3)
    assert receiver.told == [b"a", b"b", b"c"]


async def test_also_with_what_comes_at_once(world, pair):
    """What another one is told may be the reason, while there is more to read already."""
    connection, peer = pair
    another, other = world.pair()
    await peer.write(c(b"a"))
    await until(lambda: world.context._events)
    receiver, cause = Receiver(), Receiver()
    cause.received = lambda message: connection.divert(receiver)
    another.divert(cause)
    other.sock.send(c(b"now"))
    peer.sock.send(c(b"b"))
    await until(lambda: len(receiver.told) == 2)
    assert receiver.told == [b"a", b"b"]


async def test_a_connection_that_was_pulled_goes_on_elsewhere(world):
    connection, peer = world.pair(pull=True)
    await peer.write(c(b"a") + c(b"b"))
    assert (await connection.receive()).payload == b"a"
    receiver = Receiver()
    connection.divert(receiver)
    connection.resume()
    await peer.write(c(b"c"))
    await until(lambda: len(receiver.told) == 2)
    assert receiver.told == [b"b", b"c"]
    with pytest.raises(RuntimeError, match="events"):
        await connection.receive()
    peer.close()
    await until(lambda: not connection.is_open)
    assert receiver.told == [b"b", b"c", None]


async def test_who_was_waiting_for_it_is_told(world):
    connection, _ = world.pair(pull=True)
    waiting = asyncio.create_task(connection.receive())
    await turns()
    connection.divert(Receiver())
    with pytest.raises(PeerGone, match="elsewhere"):
        async with asyncio.timeout(20):
            await waiting


async def test_a_receiver_that_pauses_is_told_later(world, pair):
    connection, peer = pair
    await peer.write(c(b"a") + c(b"b"))
    peer.close()
    await until(lambda: len(world.context._events) == 3)
    receiver = Receiver()
    connection.divert(receiver)
    connection.pause()
    await turns()
    assert receiver.told == []
    connection.resume()
    await until(lambda: not connection.is_open)
    assert receiver.told == [b"a", b"b", None]


async def test_a_receiver_that_fails_at_the_end_leaves_nothing_open(world, pair):
    connection, peer = pair
    receiver = Receiver()
    receiver.disconnected = lambda error: 1 // 0
    failures = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: failures.append(context["exception"]))
    connection.divert(receiver)
    peer.close()
    await until(lambda: not connection.is_open)
    assert isinstance(failures[0], ZeroDivisionError)


async def test_a_receiver_that_fails_while_it_catches_up_gets_the_rest(world, pair):
    connection, peer = pair
    await peer.write(c(b"a") + c(b"b"))
    peer.close()
    await until(lambda: len(world.context._events) == 3)
    receiver = Receiver()
    receiver.received = lambda message: (receiver.told.append(message.payload), 1 // 0)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    connection.divert(receiver)
    await until(lambda: not connection.is_open)
    assert receiver.told == [b"a", b"b", None]


async def test_who_closes_hears_no_more(world, pair):
    connection, peer = pair
    receiver = Receiver()
    receiver.received = lambda message: (receiver.told.append(message), connection.close())
    connection.divert(receiver)
    await peer.write(c(b"a") + c(b"b"))
    assert await peer.read() == b""
    assert len(receiver.told) == 1


async def test_a_receiver_is_told_when_there_is_room(make_world):
    world = make_world(limits=Limits(queued_messages=4))
    connection, peer = world.pair()
    receiver = Receiver()
    connection.divert(receiver)
    for _ in range(5):
        connection.send(b"x")
    for left in (3, 2):
        await peer.read()
        await until(lambda left=left: connection.queued[0] == left)
    assert receiver.told == []
    await peer.read()
    await until(lambda: connection.queued[0] == 1)
    assert receiver.told == ["room"]
    await peer.read()
    await until(lambda: connection.queued[0] == 0)
    assert receiver.told == ["room", "room"]


# -- the end -----------------------------------------------------------------------------------


async def test_a_peer_that_leaves_is_told(world, pair):
    connection, peer = pair
    await peer.write(c(b"last"))
    peer.close()
    assert (await world.event()).message.payload == b"last"
    assert await world.event() == Disconnected(connection, None)
    await until(lambda: not connection.is_open)
    assert not world.context.connections


async def test_with_something_unread_that_is_an_error(world, pair):
    connection, peer = pair
    connection.send(b"unread")
    peer.close()
    event = await world.event()
    assert event.connection is connection
    assert isinstance(event.error, PeerGone)
    assert "without reading" in str(event.error)


async def test_so_is_one_in_the_middle_of_a_message(world, pair):
    _, peer = pair
    await peer.write(c(b"abc")[:-1])
    peer.close()
    assert "after 8 bytes" in str((await world.event()).error)


async def test_a_peer_that_half_closes_gets_its_answers(world, pair):
    """The originals drop them."""
    connection, peer = pair
    await peer.write(c(b"question"))
    peer.sock.shutdown(socket.SHUT_WR)
    assert isinstance(await world.event(), Received)
    await turns()
    connection.send(b"answer")
    connection.send(b"and another")
    assert await world.event() == Disconnected(connection, None)
    assert await peer.read() == c(b"answer")
    assert await peer.read() == c(b"and another")
    assert await peer.read() == b""
    assert not connection.is_open


async def test_but_not_after_its_end_was_told(world, pair):
    connection, peer = pair
    peer.sock.shutdown(socket.SHUT_WR)
    await world.event()
    assert await peer.read() == b""
    with pytest.raises(PeerGone):
        connection.send(b"answer")


async def test_one_that_half_closes_and_reads_nothing_is_not_waited_for(make_world):
    world = make_world(limits=Limits(message_seconds=0.01))
    connection, peer = world.pair()
    for _ in range(2):
        connection.send(b"unread")
    peer.sock.shutdown(socket.SHUT_WR)
    assert await world.event() == Disconnected(connection, None)
    await until(lambda: not connection.is_open)


async def test_one_that_half_closes_and_leaves_is_let_go(world, pair):
    connection, peer = pair
    for _ in range(2):
        connection.send(b"unread")
    peer.sock.shutdown(socket.SHUT_WR)
    await world.event()
    await turns()
    assert connection.is_open
    peer.close()
    await until(lambda: not connection.is_open)


async def test_closing_says_nothing_and_may_be_done_twice(world, pair):
    connection, peer = pair
    connection.send(b"sent")
    connection.send(b"queued")
    connection.close()
    connection.close()
    assert await peer.read() == c(b"sent")
    assert await peer.read() == b""
    await turns()
    assert not world.context._events
    assert connection.queued == (0, 0)
    with pytest.raises(PeerGone):
        connection.send(b"x")


async def test_a_peer_sees_an_end_and_no_reset(world, pair):
    """C services take a reset for an error, and pongd ends with it."""
    connection, peer = pair
    await peer.write(c(b"unread"))
    connection.close()
    assert await peer.read() == b""


async def test_a_socket_can_be_taken_out(world, pair):
    connection, peer = pair
    with connection.detach() as sock:
        assert not connection.is_open
        await peer.write(b"raw")
        await turns()
        assert sock.recv(10) == b"raw"
        sock.send(b"too")
        assert await peer.read() == b"too"
    assert not world.context.connections


async def test_who_the_peer_is(pair):
    assert pair[0].peer == (os.getpid(), os.getuid(), os.getgid())


async def test_it_belongs_to_its_context(world, pair):
    assert pair[0].context is world.context
    assert pair[0].form is Form.C
    assert pair[0].service is None

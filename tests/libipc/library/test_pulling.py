import asyncio
import os

import pytest
from libipc.library.waiting import until
from libipc.world import c

from buswork.libipc.errors import NoDescriptor, PeerGone, Stalled
from buswork.libipc.library import descriptors
from buswork.libipc.library.connections import Limits
from buswork.libipc.wire.forms import BadMessage


@pytest.fixture
async def pair(world):
    return world.pair(pull=True)


async def received(connection):
    async with asyncio.timeout(20):
        return (await connection.receive()).payload


async def turns():
    for _ in range(20):
        await asyncio.sleep(0)


async def waiting(coroutine):
    task = asyncio.create_task(coroutine)
    await turns()
    assert not task.done()
    return task


async def test_messages_come_one_by_one(pair):
    connection, peer = pair
    first = await waiting(connection.receive())
    await peer.write(c(b"a"))
    assert (await first).payload == b"a"
    await peer.write(c(b"b") + c(b"c"))
    assert [await received(connection) for _ in range(2)] == [b"b", b"c"]


async def test_nothing_is_read_before_somebody_waits(pair, world):
    connection, peer = pair
    await peer.write(c(b"a"))
    await turns()
    assert await received(connection) == b"a"
    await peer.write(c(b"b"))
    await turns()
    assert connection.fileno() not in world.context._reading
    assert await received(connection) == b"b"


async def test_a_message_in_pieces_is_waited_for(pair):
    connection, peer = pair
    receiving = await waiting(connection.receive())
    for byte in c(b"abc"):
        assert not receiving.done()
        await peer.write(bytes([byte]))
        await turns()
    assert (await receiving).payload == b"abc"


async def test_it_has_no_events(pair, world):
    connection, peer = pair
    await peer.write(c(b"a"))
    peer.close()
    await received(connection)
    with pytest.raises(PeerGone):
        await received(connection)
    assert not world.context._events


async def test_the_end_comes_after_what_was_sent(pair):
    connection, peer = pair
    await peer.write(c(b"a") + c(b"b"))
    peer.close()
    assert [await received(connection) for _ in range(2)] == [b"a", b"b"]
    for _ in range(2):
        with pytest.raises(PeerGone, match="closed"):
            await received(connection)


async def test_a_peer_that_half_closes_may_still_be_sent_to(pair):
    connection, peer = pair
    peer.sock.shutdown(1)
    with pytest.raises(PeerGone):
        await received(connection)
    connection.send(b"answer")
    assert await peer.read() == c(b"answer")


async def test_what_is_no_message_is_told(pair):
    connection, peer = pair
    await peer.write(c(b"a") + b"\2\xff\xff\xff\xff\0")
    assert await received(connection) == b"a"
    with pytest.raises(BadMessage):
        await received(connection)


async def test_so_is_what_does_not_come_in_time(make_world):
    connection, peer = make_world(limits=Limits(message_seconds=0.01)).pair(pull=True)
    await peer.write(c(b"abc")[:-1])
    with pytest.raises(Stalled):
        await received(connection)


@pytest.mark.parametrize("receive", ["receive", "receive_descriptor"])
async def test_a_wait_ends_when_the_connection_is_closed(pair, receive):
    connection, _ = pair
    receiving = await waiting(getattr(connection, receive)())
    connection.close()
    with pytest.raises(PeerGone):
        await receiving


async def test_who_gave_up_waiting_loses_nothing(pair):
    connection, peer = pair
    receiving = await waiting(connection.receive())
    receiving.cancel()
    await turns()
    await peer.write(c(b"a"))
    assert await received(connection) == b"a"


async def test_one_waits_at_a_time(pair):
    connection, peer = pair
    receiving = await waiting(connection.receive())
    with pytest.raises(RuntimeError, match="another task"):
        await connection.receive()
    await peer.write(c(b"a"))
    await receiving


async def test_what_gives_events_is_not_asked(world):
    connection, _ = world.pair()
    with pytest.raises(RuntimeError, match="events"):
        await connection.receive()


async def test_a_descriptor_is_received(pair, tmp_path):
    """Of form C: first a message, then a byte with the descriptor."""
    connection, peer = pair
    fd = os.open(tmp_path, os.O_RDONLY)
    await peer.write(c(b"OK"))
    assert await received(connection) == b"OK"
    receiving = await waiting(connection.receive_descriptor())
    descriptors.send(peer.sock, fd)
    data, passed = await receiving
    assert data == b"\0"
    assert os.path.samestat(os.fstat(passed), os.fstat(fd))
    await peer.write(c(b"more"))
    assert await received(connection) == b"more"
    os.close(passed)
    os.close(fd)


async def test_also_one_that_was_there_before(pair):
    connection, peer = pair
    descriptors.send(peer.sock, 0, b"ok")
    await turns()
    data, passed = await connection.receive_descriptor(1500)
    assert data == b"ok"
    os.close(passed)


async def test_a_byte_without_one_is_told(pair):
    connection, peer = pair
    await peer.write(b"\0")
    with pytest.raises(NoDescriptor):
        await connection.receive_descriptor()


async def test_messages_come_first(pair):
    connection, peer = pair
    await peer.write(c(b"a") + c(b"b"))
    await received(connection)
    with pytest.raises(RuntimeError, match="messages"):
        await connection.receive_descriptor()


async def test_two_connections_talk(world):
    """Each waits for what the other sends."""
    here, peer = world.pair(pull=True)
    there = world.context.adopt(peer.sock.dup(), pull=True)
    for number in range(50):
        here.send(b"%d" % number)
        there.send(await received(there))
        assert await received(here) == b"%d" % number
    here.close()
    with pytest.raises(PeerGone):
        await received(there)
    await until(lambda: not here.is_open)

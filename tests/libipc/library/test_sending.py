import asyncio
import errno
import os
import socket

import pytest
from libipc.library.waiting import until
from libipc.world import c, zig

from buswork.libipc.errors import PeerGone, QueueFull
from buswork.libipc.library import descriptors, sending
from buswork.libipc.library.connections import Limits
from buswork.libipc.wire.forms import ERR, SAFE_BYTES, BadMessage, Form, Message

PAST_WHAT_FITS = 500_000  # bytes: more than the kernel takes for a peer that reads nothing


@pytest.fixture
async def pair(world):
    return world.pair()


def count_descriptors():
    return len(os.listdir("/proc/self/fd"))


async def turns():
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("form", list(Form))
async def test_a_message_leaves_at_once_and_in_one_piece(world, form):
    connection, peer = world.pair(form=form)
    connection.send(b"hello")
    assert peer.lying() == {Form.C: c(b"hello"), Form.ZIG: zig(b"hello")}[form]
    assert connection.queued == (0, 0)


async def test_an_error_keeps_nothing_of_those_before_it(pair):
    """An exception that is raised anew also keeps all that it came by, each time."""
    connection, peer = pair
    connection.pause()
    peer.close()

    def depth():
        with pytest.raises(PeerGone) as caught:
            connection.send(b"hello")
        return len(caught.traceback)

    depth()  # the one that finds out has another way
    assert depth() == depth()


async def test_types_travel(pair):
    connection, peer = pair
    connection.send_message(Message(b"a", 200, ERR))
    assert await peer.read() == b"\1\0\0\0\1\xc8a"


async def test_two_messages_never_lie_in_the_peers_queue(pair):
    connection, peer = pair
    sent = [c(b"%d" % number) for number in range(20)]
    for number in range(20):
        connection.send(b"%d" % number)
    await turns()
    for message in sent:
        assert peer.lying() == message
        assert await peer.read() == message
        if message is not sent[-1]:
            await until(peer.lying)
    assert connection.queued == (0, 0)


async def test_a_part_that_was_read_is_not_a_message_that_was(pair):
    connection, peer = pair
    connection.send(b"first")
    connection.send(b"second")
    peer.sock.recv(4)
    await turns()
    assert peer.lying() == c(b"first")[4:]
    peer.sock.recv(100)
    assert await peer.read() == c(b"second")


async def test_what_follows_in_the_moment_of_reading_is_not_joined(pair):
    """As if the peer read the first message just now: TIOCOUTQ is 0 before its recv returns."""
    connection, peer = pair
    connection.send(b"first")
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.send(c(b"second"))
    assert await peer.read() == c(b"first")
    assert await peer.read() == c(b"second")


async def test_the_peer_has_nothing_to_close(pair):
    connection, peer = pair
    before = count_descriptors()
    for _ in range(10):
        connection.send(b"message")
        await peer.read()
    assert count_descriptors() == before


async def test_a_kernel_that_was_seen_in_the_middle_of_it_is_looked_at_again(pair, monkeypatch):
    """No edge comes after TIOCOUTQ was 1."""
    connection, peer = pair
    connection.send(b"first")
    connection.send(b"second")
    await turns()
    seen = [1, 1]
    real = sending.outstanding
    monkeypatch.setattr(sending, "outstanding", lambda fd: seen.pop() if seen else real(fd))
    assert await peer.read() == c(b"first")
    assert await peer.read() == c(b"second")
    assert not seen


async def test_an_eager_peer_gets_as_much_as_it_can_hold(world):
    connection, peer = world.pair(eager=True)
    for _ in range(3):
        connection.send(b"a")
    assert await peer.read() == 3 * c(b"a")


async def test_what_is_no_unix_socket_gets_so_too(world):
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        connection = world.context.adopt(server.accept()[0])
        connection.send(b"first")
        connection.send(b"second")
        await connection.drain()
        wanted = c(b"first") + c(b"second")
        assert theirs.recv(len(wanted), socket.MSG_WAITALL) == wanted
        theirs.close()


@pytest.mark.parametrize("eager", [True, False])
async def test_a_long_message_goes_in_pieces_and_the_next_after_it(world, eager):
    connection, peer = world.pair(eager=eager)
    long = os.urandom(PAST_WHAT_FITS)
    connection.send(long)
    messages, size = connection.queued
    assert messages == 1
    assert 0 < size < PAST_WHAT_FITS
    connection.send(b"short")
    wanted = c(long) + c(b"short")
    got = b""
    while len(got) < len(wanted):
        got += await peer.read()
    assert got == wanted


async def test_its_next_piece_comes_as_soon_as_there_is_room(pair):
    """Not when all before it was read: that is for the next message."""
    connection, peer = pair
    connection.send(bytes(PAST_WHAT_FITS))
    _, left = connection.queued
    lying = PAST_WHAT_FITS + len(c(b"")) - left
    peer.sock.recv(lying - 1000)
    await until(lambda: connection.queued[1] < left)


@pytest.mark.parametrize("size", [SAFE_BYTES - 6, SAFE_BYTES - 5])
async def test_what_is_never_split_is_not(pair, size):
    connection, peer = pair
    connection.send(bytes(size))
    assert len(peer.sock.recv(2 * SAFE_BYTES)) == size + 6


async def test_too_many_of_our_descriptors_on_their_way_are_no_failure(pair):
    """Not for want of one more, which nobody takes."""

    class Refusing(socket.socket):
        def sendmsg(self, *_):
            raise OSError(errno.ETOOMANYREFS, "too many")

    connection, peer = pair
    connection._sock = Refusing(fileno=connection._sock.detach())
    connection.send(b"message")
    assert await peer.read() == c(b"message")


async def test_an_empty_message_is_one_in_form_c_alone(world):
    connection, peer = world.pair()
    connection.send(b"", 42)
    assert await peer.read() == c(b"", 42)
    connection, _ = world.pair(form=Form.ZIG)
    with pytest.raises(BadMessage, match="empty"):
        connection.send(b"")


async def test_what_is_no_message_is_told_at_once(pair):
    with pytest.raises(BadMessage):
        pair[0].send(b"x", 256)
    assert pair[1].lying() == b""


# -- the queue ---------------------------------------------------------------------------------


async def test_it_is_bounded_in_messages(make_world):
    world = make_world(limits=Limits(queued_messages=4))
    connection, _ = world.pair()
    for _ in range(2):
        connection.send(b"x")
        assert not connection.is_full
    connection.send(b"x")
    assert connection.is_full
    for _ in range(2):
        connection.send(b"x")
    with pytest.raises(QueueFull, match="4 messages"):
        connection.send(b"x")
    assert connection.queued == (4, 28)


async def test_and_in_bytes(make_world):
    world = make_world(limits=Limits(queued_bytes=1000))
    connection, _ = world.pair()
    connection.send(b"x")
    connection.send(bytes(500))
    assert connection.is_full
    with pytest.raises(QueueFull):
        connection.send(bytes(500))
    connection.send(bytes(400))


async def test_one_message_fits_however_long_it_is(make_world):
    world = make_world(limits=Limits(queued_bytes=1000))
    connection, _ = world.pair()
    connection.send(b"x")
    connection.send(bytes(5000))
    with pytest.raises(QueueFull):
        connection.send(b"x")


async def test_a_sender_can_wait_for_room(make_world):
    world = make_world(limits=Limits(queued_messages=4))
    connection, peer = world.pair()
    await connection.drain()
    for _ in range(3):
        connection.send(b"x")
    waiting = asyncio.create_task(connection.drain())
    await turns()
    assert not waiting.done()
    await peer.read()
    async with asyncio.timeout(20):
        await waiting
    assert connection.queued[0] == 1


async def test_or_until_all_was_read(pair):
    connection, peer = pair
    await connection.consumed()
    connection.send(b"x")
    connection.send(b"y")
    waiting = [asyncio.create_task(connection.consumed()) for _ in range(2)]
    await peer.read()
    await until(peer.lying)
    await turns()
    assert not any(each.done() for each in waiting)
    await peer.read()
    async with asyncio.timeout(20):
        await asyncio.gather(*waiting)


async def test_to_wait_costs_nothing(pair, monkeypatch):
    connection, peer = pair
    connection.send(b"x")
    waiting = asyncio.create_task(connection.consumed())
    await turns()
    looks = []
    real = sending.outstanding
    monkeypatch.setattr(sending, "outstanding", lambda fd: looks.append(fd) or real(fd))
    await turns()
    assert not looks
    await peer.read()
    await waiting


async def test_what_was_read_between_two_looks_is_not_waited_for(pair, monkeypatch):
    """The first look saw the last byte; no edge comes after that."""
    connection, _ = pair
    answers = iter([1, 0, 0])
    monkeypatch.setattr(sending, "outstanding", lambda fd: next(answers))
    monkeypatch.setattr(sending.Sender, "_watch", lambda self: None)
    async with asyncio.timeout(5):
        await connection.consumed()


async def test_who_has_waited_is_not_told_any_more(pair, world):
    """The edges of a connection cost nothing when nobody needs them."""
    connection, peer = pair
    connection.send(b"x")
    waiting = asyncio.create_task(connection.consumed())
    await turns()
    await peer.read()
    await waiting
    connection.send(b"x")
    await peer.read()
    await until(lambda: connection.fileno() not in world.context._sending)


@pytest.mark.parametrize("wait", ["drain", "consumed"])
async def test_a_wait_ends_with_the_peer(make_world, wait):
    world = make_world(limits=Limits(queued_messages=4))
    connection, peer = world.pair()
    for _ in range(4):
        connection.send(b"x")
    waiting = asyncio.create_task(getattr(connection, wait)())
    await turns()
    peer.close()
    with pytest.raises(PeerGone):
        async with asyncio.timeout(20):
            await waiting


@pytest.mark.parametrize("wait", ["drain", "consumed"])
async def test_or_with_the_connection(make_world, wait):
    world = make_world(limits=Limits(queued_messages=4))
    connection, _ = world.pair()
    for _ in range(4):
        connection.send(b"x")
    waiting = asyncio.create_task(getattr(connection, wait)())
    await turns()
    connection.close()
    with pytest.raises(PeerGone):
        async with asyncio.timeout(20):
            await waiting


@pytest.mark.parametrize("pull", [True, False])
async def test_who_left_without_reading_has_not_read(world, pull):
    """The kernel says that nothing is left to read."""
    connection, peer = world.pair(pull=pull)
    connection.send(b"x")
    waiting = asyncio.create_task(connection.consumed())
    await turns()
    peer.close()
    with pytest.raises(PeerGone):
        await waiting


async def test_who_left_after_it_has(world):
    connection, peer = world.pair(pull=True)
    connection.send(b"x")
    await peer.read()
    peer.close()
    await connection.consumed()


async def test_a_wait_that_was_cancelled_disturbs_no_other(pair):
    connection, peer = pair
    connection.send(b"x")
    waiting = [asyncio.create_task(connection.consumed()) for _ in range(2)]
    await turns()
    waiting[0].cancel()
    await turns()
    await peer.read()
    async with asyncio.timeout(20):
        await waiting[1]


async def test_who_sends_to_a_peer_that_has_gone_is_told(pair):
    connection, peer = pair
    peer.close()
    with pytest.raises(PeerGone):
        connection.send_descriptor(0)
    for _ in range(2):
        with pytest.raises(PeerGone):
            connection.send(b"x")


async def test_a_peer_that_reads_no_more_may_still_send(world, pair):
    connection, peer = pair
    peer.sock.shutdown(socket.SHUT_RD)
    with pytest.raises(PeerGone):
        connection.send(b"x")
    await peer.write(c(b"last"))
    assert (await world.event()).message.payload == b"last"
    peer.close()
    assert isinstance((await world.event()).error, PeerGone)


# -- descriptors -------------------------------------------------------------------------------


async def test_a_descriptor_leaves_in_its_turn(pair, tmp_path):
    connection, peer = pair
    fd = os.open(tmp_path, os.O_RDONLY)
    before = count_descriptors()
    connection.send(b"first")
    connection.send_descriptor(fd)
    connection.send(b"last")
    await turns()
    assert await peer.read() == c(b"first")
    await until(peer.lying)
    data, passed = descriptors.receive(peer.sock, 100)
    assert data == b"\0"
    assert os.path.samestat(os.fstat(passed), os.fstat(fd))
    os.close(passed)
    assert await peer.read() == c(b"last")
    assert count_descriptors() == before
    os.close(fd)


async def test_with_more_than_fits_it_leaves_once(pair):
    connection, peer = pair
    before = count_descriptors()
    connection.send_descriptor(0, bytes(PAST_WHAT_FITS))
    passed, got = [], 0
    while got < PAST_WHAT_FITS:
        await until(peer.lying)
        data, fds = descriptors.receive_all(peer.sock, PAST_WHAT_FITS)
        got += len(data)
        passed += fds
    assert len(passed) == 1
    os.close(passed[0])
    assert count_descriptors() == before


async def test_one_that_did_not_leave_is_closed_with_the_connection(pair):
    connection, _ = pair
    connection.send(b"first")
    before = count_descriptors()
    connection.send_descriptor(0)
    connection.close()
    assert count_descriptors() == before - 1


async def test_or_when_it_is_refused(pair):
    connection, peer = pair
    peer.close()
    before = count_descriptors()
    with pytest.raises(PeerGone):
        connection.send(b"x")
    with pytest.raises(PeerGone):
        connection.send_descriptor(0)
    assert count_descriptors() == before


async def test_none_goes_without_a_byte(pair):
    with pytest.raises(BadMessage):
        pair[0].send_descriptor(0, b"")

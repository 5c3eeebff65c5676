"""Also what the library relies on in the kernel."""

import asyncio
import os
import select
import socket

import pytest

from buswork.libipc.library import readiness
from buswork.libipc.library.readiness import ROUND_EVENTS, TURN_EVENTS, Boundary, Poll, outstanding


@pytest.fixture
async def pair():
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
async def poll():
    made = Poll(asyncio.get_running_loop())
    yield made
    made.close()


async def turn():
    """One of the loop, in which readers are called."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


# -- the kernel --------------------------------------------------------------------------------


@pytest.fixture
def edges(pair):
    with select.epoll() as epoll:
        epoll.register(pair[0], select.EPOLLOUT | select.EPOLLET)

        def come():
            return [events for _, events in epoll.poll(0)]

        yield come


SIZES = pytest.mark.parametrize("size", [1, 36_544, 150_000])


def read(sock, size):
    while size:
        size -= len(sock.recv(min(size, 20_000)))


def test_registering_tells_at_once(edges):
    assert edges() == [select.EPOLLOUT]
    assert edges() == []


@SIZES
def test_there_is_an_edge_when_the_peer_has_read_all(pair, edges, size):
    edges()
    assert pair[0].send(bytes(size)) == size
    assert edges() == []
    assert outstanding(pair[0].fileno()) >= size
    read(pair[1], size - 1)
    edges()
    assert outstanding(pair[0].fileno()) > 1
    read(pair[1], 1)
    assert edges() == [select.EPOLLOUT]
    assert outstanding(pair[0].fileno()) == 0


def test_a_peek_is_no_reading(pair, edges):
    pair[0].send(b"12345")
    edges()
    pair[1].recv(5, socket.MSG_PEEK)
    assert edges() == []


def test_the_end_of_the_peer_is_an_edge(pair, edges):
    pair[0].send(b"12345")
    edges()
    pair[1].close()
    assert edges() == [select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR]


def test_without_a_boundary_one_read_takes_two_messages(pair):
    pair[0].send(b"one")
    pair[0].send(b"two")
    assert pair[1].recv(100) == b"onetwo"


def test_with_one_it_does_not_and_nothing_stays(pair):
    boundary = Boundary()
    before = len(os.listdir("/proc/self/fd"))
    for message in (b"one", b"two", b"three"):
        pair[0].sendmsg([message], boundary.ancillary)
    assert [pair[1].recv(100) for _ in range(3)] == [b"one", b"two", b"three"]
    assert len(os.listdir("/proc/self/fd")) == before
    boundary.close()


# -- a poll ------------------------------------------------------------------------------------


async def test_who_waits_for_something_to_read_is_told_as_long_as_there_is_some(poll, pair):
    told = []
    poll.read(pair[0].fileno(), told.append)
    await turn()
    assert told == []
    pair[1].send(b"x")
    await turn()
    assert len(told) > 1
    assert set(told) == {select.EPOLLIN}
    pair[0].recv(1)
    told.clear()
    await turn()
    assert told == []


async def test_who_wants_to_be_told_once_is_told_again_when_it_asks(poll, pair):
    told = []
    fd = pair[0].fileno()
    poll.read_once(fd, told.append)
    pair[1].send(b"x")
    await turn()
    assert len(told) == 1
    poll.again(fd)
    await turn()
    assert len(told) == 2


async def test_who_watches_is_told_at_the_beginning_and_when_the_peer_reads(poll, pair):
    told = []
    pair[0].send(b"x")
    poll.watch(pair[0].fileno(), told.append)
    await turn()
    assert len(told) == 1
    pair[1].recv(1)
    await turn()
    assert len(told) == 2


async def test_who_was_forgotten_is_told_nothing(poll, pair):
    told = []
    fd = pair[0].fileno()
    poll.read(fd, told.append)
    pair[1].send(b"x")
    assert fd in poll
    poll.forget(fd)
    poll.forget(fd)
    assert fd not in poll
    await turn()
    assert told == []


async def test_one_may_forget_another_that_was_ready_with_it(poll):
    pairs = [socket.socketpair() for _ in range(2)]
    fds = [mine.fileno() for mine, _ in pairs]
    told = []

    def happened(events):
        told.append(events)
        for fd in fds:
            poll.forget(fd)

    for fd in fds:
        poll.read(fd, happened)
    for _, theirs in pairs:
        theirs.send(b"x")
    await turn()
    assert len(told) == 1
    for end in sum(pairs, ()):
        end.close()


async def test_what_is_held_waits_in_the_kernel(poll, pair):
    told = []
    poll.read(pair[0].fileno(), told.append)
    poll.hold()
    pair[1].send(b"x")
    await turn()
    assert told == []
    poll.release()
    await turn()
    assert told


async def test_it_may_be_held_by_what_it_tells(poll, pair):
    told = []

    def happened(events):
        told.append(events)
        poll.hold()

    poll.read(pair[0].fileno(), happened)
    pair[1].send(b"x")
    await turn()
    assert len(told) == 1


async def test_all_that_are_ready_have_their_turns(poll):
    """More than are looked at in one go, and those that came first stay ready."""
    pairs = [socket.socketpair() for _ in range(ROUND_EVENTS * 3)]
    told = []
    for number, (mine, theirs) in enumerate(pairs):
        poll.read(mine.fileno(), lambda events, number=number: told.append(number))
        theirs.send(b"x")
    await turn()
    counts = [told.count(number) for number in range(len(pairs))]
    assert max(counts) - min(counts) <= 1
    for end in sum(pairs, ()):
        end.close()


async def test_others_in_the_loop_have_theirs(poll, pair):
    told = []
    poll.read(pair[0].fileno(), told.append)
    pair[1].send(b"x")
    await turn()
    assert len(told) <= 2 * TURN_EVENTS


async def test_where_it_takes_long_others_have_theirs_sooner(poll, monkeypatch):
    monkeypatch.setattr(readiness, "TURN_SECONDS", -1)
    pairs = [socket.socketpair() for _ in range(ROUND_EVENTS * 2)]
    told = []
    for mine, theirs in pairs:
        poll.read(mine.fileno(), told.append)
        theirs.send(b"x")
    poll.turn()
    assert len(told) == ROUND_EVENTS
    for end in sum(pairs, ()):
        end.close()


async def test_one_that_fails_does_not_keep_others_from_being_told(poll):
    pairs = [socket.socketpair() for _ in range(2)]
    failures, told = [], []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: failures.append(context["exception"]))

    def happened(events):
        told.append(events)
        raise ValueError(len(told))

    for mine, _ in pairs:
        poll.watch(mine.fileno(), happened)
    await turn()
    assert len(told) == 2
    assert [str(failure) for failure in failures] == ["1", "2"]
    for end in sum(pairs, ()):
        end.close()


# -- on its own --------------------------------------------------------------------------------


async def test_it_can_be_waited_for_until_the_peer_has_read_all(pair):
    pair[0].send(b"one")
    waiting = asyncio.create_task(readiness.consumed(pair[0]))
    await turn()
    assert not waiting.done()
    pair[1].recv(2)
    await turn()
    assert not waiting.done()
    pair[1].recv(1)
    async with asyncio.timeout(20):
        await waiting


async def test_or_is_gone(pair):
    pair[0].send(b"one")
    waiting = asyncio.create_task(readiness.consumed(pair[0]))
    await turn()
    pair[1].close()
    async with asyncio.timeout(20):
        await waiting


async def test_also_when_the_kernel_was_seen_in_the_middle_of_it(pair, monkeypatch):
    """No edge comes after TIOCOUTQ was 1."""
    seen = [1, 1, 0]
    monkeypatch.setattr(readiness, "outstanding", lambda fd: seen.pop(0))
    async with asyncio.timeout(20):
        await readiness.consumed(pair[0])
    assert seen == []

import socket
from contextlib import suppress

import pytest

from buswork.libipc.library.leaving import leave


@pytest.fixture
def pair():
    pair = socket.socketpair()
    yield pair
    for sock in pair:
        sock.close()


def fill(sock):
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(1000))
    except BlockingIOError:
        sock.setblocking(True)


def test_what_is_unread_is_no_failure_of_the_other_end(pair):
    ours, theirs = pair
    fill(theirs)
    leave(ours)
    assert theirs.recv(1) == b""
    assert ours.fileno() < 0


def test_without_it_there_is_one(pair):
    ours, theirs = pair
    theirs.send(b"x")
    ours.close()
    with pytest.raises(ConnectionResetError):
        theirs.recv(1)


def test_what_was_sent_still_arrives(pair):
    ours, theirs = pair
    ours.send(b"bye")
    theirs.send(b"x")
    leave(ours)
    assert theirs.recv(10) == b"bye"
    assert theirs.recv(10) == b""


class Chatty(socket.socket):
    """Its peer sends whenever it is read."""

    def recv(self, *arguments):
        try:
            return super().recv(*arguments)
        finally:
            with suppress(BrokenPipeError):
                self.peer.send(b"x")


def test_nothing_comes_in_between(pair):
    """Whoever sends all the time is told that nobody reads, and then that we have gone."""
    ours, theirs = pair
    chatty = Chatty(fileno=ours.detach())
    chatty.peer = theirs
    leave(chatty)
    assert theirs.recv(1) == b""


def test_one_that_is_gone_already(pair):
    ours, theirs = pair
    theirs.close()
    leave(ours)
    leave(ours)
    assert ours.fileno() < 0


def test_a_socket_that_was_never_connected():
    sock = socket.socket()
    leave(sock)
    assert sock.fileno() < 0

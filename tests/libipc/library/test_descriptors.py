import array
import os
import socket

import pytest

from buswork.libipc.errors import NoDescriptor
from buswork.libipc.library import descriptors


@pytest.fixture
def pair():
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def file(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def identity(fd):
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def pass_many(sock, fds):
    sock.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def count_of(fd):
    """How many descriptors of ours are this file."""
    found = 0
    for each in os.listdir("/proc/self/fd"):
        try:
            found += identity(int(each)) == identity(fd)
        except OSError:
            pass
    return found


def test_one_goes_with_a_byte_as_from_the_originals(pair, file):
    assert descriptors.send(pair[0], file) == 1
    data, fd = descriptors.receive(pair[1])
    assert data == b"\0"
    assert identity(fd) == identity(file)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_one_goes_with_the_bytes_of_the_zig_form(pair, file):
    descriptors.send(pair[0], file, b"ok")
    data, fd = descriptors.receive(pair[1], 1500)
    assert data == b"ok"
    os.close(fd)


def test_others_that_come_along_are_closed(pair, file):
    pass_many(pair[0], [file] * 5)
    _, fd = descriptors.receive(pair[1])
    assert count_of(file) == 2
    os.close(fd)


def test_so_are_more_than_there_is_room_for(pair, file):
    pass_many(pair[0], [file] * 200)
    _, fd = descriptors.receive(pair[1])
    assert count_of(file) == 2
    os.close(fd)


def test_a_byte_alone_is_none(pair):
    pair[0].send(b"\0")
    with pytest.raises(NoDescriptor, match="no descriptor came"):
        descriptors.receive(pair[1])


def test_nor_is_an_end(pair):
    pair[0].close()
    with pytest.raises(NoDescriptor, match="closed"):
        descriptors.receive(pair[1])


def test_a_peer_that_has_gone_ends_no_process(pair, file):
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        descriptors.send(pair[0], file)

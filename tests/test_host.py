"""Tests of buswork.host."""

import contextlib
import os
import socket
from pathlib import Path

from buswork.host import Host


def host(**passed):
    """What a wing sees; none of these tests asks for the rest."""
    nothing = None
    return Host(nothing, nothing, nothing, nothing, b"", passed)


def test_descriptors_of_an_earlier_daemon_are_found_by_their_prefix():
    made = host(**{"toy-1": [11, 12], "toy-2": [13], "store": [14], "a-toy-1": [15]})
    assert made.descriptors("toy-") == {"toy-1": [11, 12], "toy-2": [13]}


def test_sockets_are_made_where_they_belong_or_where_it_was_said():
    own, tmp = Path("/run/toy"), Path("/tmp")
    made = host()
    assert made.places(own) == []
    made.socket_dirs = None
    assert made.places(own) == [own]
    made.tmp_dir = tmp
    assert made.places(own) == [own]
    assert made.places(own, also_tmp=True) == [own, tmp]
    made.socket_dirs = [tmp, Path("/x")]
    assert made.places(own, also_tmp=True) == [tmp, Path("/x")]


def test_only_listening_unix_sockets_are_taken(tmp_path, caplog):
    with contextlib.ExitStack() as stack:
        listener, plain, inet = (
            stack.enter_context(socket.socket(family))
            for family in (socket.AF_UNIX, socket.AF_UNIX, socket.AF_INET)
        )
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        inet.listen()
        pipe = os.pipe()
        fds = [os.dup(each.fileno()) for each in (listener, plain, inet)]
        made = host(store=[fds[0], pipe[0], fds[1], fds[2]])
        taken = made.sockets("store")
        assert [sock.fileno() for sock in taken] == [fds[0]]
        assert made.sockets("other") == []
        assert len(caplog.records) == 3
        for sock in taken:
            sock.close()
        for fd in pipe:
            os.close(fd)

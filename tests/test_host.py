"""Tests of buswork.host."""

import contextlib
import logging
import os
import socket
from pathlib import Path

from buswork.host import NOT_PASSED, Host


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


def test_what_is_lacking_is_told_and_kept(caplog):
    made = host()
    made.lacks("no %s")
    assert made.lacking == ["no %s"]
    assert [(each.levelno, each.getMessage()) for each in caplog.records] == [
        (logging.ERROR, "no %s")
    ]


def test_a_socket_that_systemd_did_not_pass_is_lacking(tmp_path):
    made = host()
    made.has_manager = True
    made.sockets("toy", optional=True)
    assert made.lacking == []
    made.sockets("toy")
    assert made.lacking == [f"{NOT_PASSED} 'toy'"]
    # Who makes his own misses nothing.
    made.socket_dirs = [tmp_path]
    made.sockets("other")
    assert len(made.lacking) == 1

"""Asking the daemon for services."""

import asyncio
import socket

import pytest
from libipc.doors.house import UID, message, received_exactly, sent

from buswork.errors import AccessDenied, BusworkError, TimedOut
from buswork.libipc.doors import passage
from buswork.libipc.doors.passage import NoPassage, connect
from buswork.libipc.wire.forms import Form


async def test_a_service_for_a_user(daemon):
    with await connect(daemon.path, UID, Form.ZIG, "pong") as service:
        assert not service.getblocking()
        assert not service.get_inheritable()
        hello = message(Form.ZIG, b"hello")
        await sent(service, hello)
        assert await received_exactly(service, len(hello)) == hello
    assert daemon.asked == [f"connect {UID} zig pong\n"]


async def test_a_name_with_blanks(daemon):
    with pytest.raises(BusworkError) as caught:
        await connect(daemon.path, 7, Form.C, "a b c")
    assert daemon.asked == ["connect 7 c a b c\n"]
    assert caught.value.name == "org.libipc.Error.NoSuchService"
    assert str(caught.value) == "nobody serves it"


async def test_what_the_daemon_refuses(daemon):
    daemon.answer = b"denied its mode is 0600\n"
    with pytest.raises(AccessDenied, match="its mode is 0600"):
        await connect(daemon.path, UID, Form.C, "pong")


@pytest.mark.parametrize("answer", [b"", b"ok\n", b"what\n"])
async def test_an_answer_that_is_none(daemon, answer):
    daemon.answer = answer
    with pytest.raises(NoPassage, match="without an answer"):
        await connect(daemon.path, UID, Form.C, "pong")


async def test_a_descriptor_that_comes_with_a_refusal_is_closed(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as listener:
        listener.bind(str(tmp_path / "ipc.sock"))
        listener.listen()
        task = asyncio.create_task(connect(str(tmp_path / "ipc.sock"), UID, Form.C, "pong"))
        sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        ours, theirs = socket.socketpair()
        with sock, ours:
            with theirs:
                socket.send_fds(sock, [b"denied no\n"], [theirs.fileno()])
            with pytest.raises(AccessDenied):
                await task
            assert ours.recv(1) == b""


async def test_a_daemon_that_is_not_there(tmp_path):
    with pytest.raises(NoPassage, match="not there"):
        await connect(str(tmp_path / "none"), UID, Form.C, "pong")


async def test_a_daemon_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(passage, "SECONDS", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "ipc.sock"))
        listener.listen()
        with pytest.raises(TimedOut):
            await connect(str(tmp_path / "ipc.sock"), UID, Form.C, "pong")

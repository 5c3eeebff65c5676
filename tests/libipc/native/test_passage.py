"""The passage, as the doors process asks there."""

import asyncio
import socket

import pytest
from libipc.native.town import PATIENCE, STRANGER, UID, until

from buswork.errors import InvalidArgs
from buswork.libipc.native import passage as module
from buswork.libipc.native.passage import Passage, Question, doors_uids, parse_question
from buswork.libipc.wire.forms import Form
from buswork.native.places import SocketFile


@pytest.fixture
async def passage(town):
    made = SocketFile(town.path / "ipc.sock", kind=socket.SOCK_SEQPACKET)
    town.hub.open_passage(made.listener)
    return str(town.path / "ipc.sock")


async def asked(passage, question):
    """The answer, and the socket that came with it."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.setblocking(False)
        sock.connect(passage)
        if question:
            sock.send(question)
        came = asyncio.Event()
        loop.add_reader(sock, came.set)
        try:
            async with asyncio.timeout(PATIENCE):
                await came.wait()
            answer, fds, _, _ = socket.recv_fds(sock, 4096, 2)
        finally:
            loop.remove_reader(sock)
    assert len(fds) < 2
    return answer, socket.socket(fileno=fds[0]) if fds else None


def ask(uid=UID, form="c", service="pong"):
    return f"connect {uid} {form} {service}\n".encode()


async def test_the_doors_get_a_connection(town, passage):
    service = town.service("a pong")
    answer, sock = await asked(passage, ask(service="a pong"))
    assert answer == b"ok\n"
    with sock:
        sock.send(b"x")
        assert (await service.accept()).sock.recv(1) == b"x"


async def test_the_service_is_looked_at_for_the_user_who_is_named(town, passage):
    town.service("pong", mode=0o755)
    answer, sock = await asked(passage, ask(STRANGER.uid))
    assert sock is None
    assert answer.startswith(b"denied ")
    assert b"uid 54321" in answer


@pytest.mark.attack(14)
async def test_root_does_not_come_in(town, passage, monkeypatch):
    town.service("pong")
    monkeypatch.setattr(module.os, "geteuid", lambda: STRANGER.uid)
    answer, sock = await asked(passage, ask(0))
    assert sock is None
    assert answer == b"denied root does not come in through the doors\n"


async def test_the_form_says_where_to_look(town, passage):
    town.service("pong", town.zig)
    answer, _ = await asked(passage, ask())
    assert answer.startswith(b"error org.libipc.Error.NoSuchService ")
    answer, sock = await asked(passage, ask(form="zig"))
    assert answer == b"ok\n"
    sock.close()


async def test_polkit_is_asked_for_the_doors(town, passage):
    town.service("pong")
    town.polkit.denied.add("org.libipc.connect")
    answer, _ = await asked(passage, ask())
    assert answer.startswith(b"denied polkit")


@pytest.mark.attack(4)
async def test_nobody_else_is_answered(town, passage):
    """Not even a question to which there is an answer."""
    town.hub._passage._doors = frozenset((UID + 1,))
    town.service("pong")
    with pytest.raises(ConnectionResetError):  # it was not read
        await asked(passage, ask())


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"\xff\xff",
        b"connect",
        b"connect 1 c",
        b"connect -1 c pong",
        b"connect 4294967295 c pong",
        b"connect 1 d pong",
        b"connect 1 c ",
        b"connect 1 c a/b",
        b"connect 1 c new\nline",
        b"connect \xd9\xa1 c pong",
        b"close 1 c pong",
    ],
)
def test_what_is_no_question(question):
    with pytest.raises(InvalidArgs):
        parse_question(question)


def test_questions():
    assert parse_question(b"connect 1000 zig pong") == Question(1000, Form.ZIG, "pong")
    assert parse_question(b"connect 0 c a  b \n") == Question(0, Form.C, "a  b ")


async def test_a_bad_question_is_answered(passage):
    answer, _ = await asked(passage, b"hello")
    assert answer.startswith(b"error org.freedesktop.DBus.Error.InvalidArgs ")


async def test_who_says_nothing_is_left(town, passage, monkeypatch):
    monkeypatch.setattr(module, "PASSAGE_SECONDS", 0.01)
    answer, _ = await asked(passage, None)
    assert answer == b""
    await until(lambda: not town.hub._passage._tasks)


async def test_who_does_not_take_the_answer_is_left_in_the_end(town, passage, monkeypatch):
    monkeypatch.setattr(module, "PASSAGE_SECONDS", 0.01)
    town.service("pong")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(passage)
        sock.send(ask())
        await until(lambda: town.hub._passage._tasks)
        await until(lambda: not town.hub._passage._tasks)


async def test_so_many_ask_at_once(town, passage, monkeypatch):
    monkeypatch.setattr(module, "MOST_QUESTIONS", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(passage)
        await until(lambda: town.hub._passage._tasks)
        assert await asked(passage, None) == (b"", None)


async def test_a_defect_is_told_to_the_log(town, caplog):
    class Broken:
        async def connect(self, who, name, form):
            raise RuntimeError("a defect")

    made = SocketFile(town.path / "broken.sock", kind=socket.SOCK_SEQPACKET)
    passage = Passage(Broken(), town.authority)
    passage.open(made.listener)
    try:
        assert await asked(str(town.path / "broken.sock"), ask()) == (b"", None)
        await until(lambda: "a question of the doors failed" in caplog.text)
    finally:
        await passage.stop()


def test_who_the_doors_are(monkeypatch):
    def getpwnam(name):
        raise KeyError(name)

    monkeypatch.setattr(module.pwd, "getpwnam", getpwnam)
    assert doors_uids() == {UID}

"""Dialling through the doors process, here one that says what a test wants."""

import asyncio
import socket

import pytest
from libipc.native.town import ME, PATIENCE, UID, until

from buswork.errors import AccessDenied, BusworkError, InvalidArgs, LimitsExceeded, TimedOut
from buswork.libipc.native import dialling as module
from buswork.libipc.native.dialling import NoDoors
from buswork.libipc.wire.forms import Form


class Doors:
    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.setblocking(False)
        self.listener.bind(str(path))
        self.listener.listen()
        self.asks = []
        self.asked = []

    async def answer(self, answer, *fds):
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            ask, _ = await loop.sock_accept(self.listener)
            self.asks.append(ask)
            self.asked.append(await loop.sock_recv(ask, 4096))
        if answer is None:
            ask.close()
        elif fds:
            socket.send_fds(ask, [answer], fds)
        else:
            ask.send(answer)

    def close(self):
        for sock in (self.listener, *self.asks):
            sock.close()


@pytest.fixture
async def doors(town):
    doors = Doors(town.path / "doors.sock")
    yield doors
    doors.close()


def dialling(town, uri="tcp://far.example:9000/pong", form=None):
    return asyncio.create_task(town.hub.dial(ME, uri, form))


@pytest.mark.parametrize("form", [None, *Form])
async def test_a_service_of_another_host(town, doors, form):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        dialled = dialling(town, form=form)
        await doors.answer(b"ok 192.0.2.7:9000\n", theirs.fileno())
        with await dialled as sock:
            assert sock.getblocking()
            assert not sock.get_inheritable()
            sock.send(b"x")
            assert ours.recv(1) == b"x"
    assert doors.asked == [f"ipc {form or Form.C} tcp://far.example:9000/pong\n".encode()]


async def test_it_counts_until_the_doors_say_that_it_is_over(town, doors):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        dialled = dialling(town)
        await doors.answer(b"ok x\n", theirs.fileno())
        (await dialled).close()
        assert town.quotas.used(UID, "descriptors") == 1
        doors.asks[0].close()
        await until(lambda: not town.quotas.used(UID, "descriptors"))


async def test_each_may_have_so_many(town, doors):
    town.authority.quotas.limits = type(town.quotas.limits)(descriptors=0)
    with pytest.raises(LimitsExceeded):
        await dialling(town)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"denied not allowed there\n", AccessDenied),
        (b"error no such host\n", BusworkError),
        (b"ok without a descriptor\n", BusworkError),
        (b"\xff\xfe", BusworkError),
        (None, BusworkError),
    ],
)
async def test_the_doors_refuse(town, doors, answer, error):
    dialled = dialling(town)
    await doors.answer(answer)
    with pytest.raises(error):
        await dialled
    assert town.quotas.used(UID, "descriptors") == 0


async def test_there_are_no_doors(town):
    with pytest.raises(NoDoors, match="buswork-doors"):
        await dialling(town)


async def test_the_doors_do_not_answer(town, doors, monkeypatch):
    monkeypatch.setattr(module, "DIAL_SECONDS", 0.01)
    with pytest.raises(TimedOut):
        await dialling(town)


async def test_who_gives_up_leaves_nothing(town, doors):
    dialled = dialling(town)
    await asyncio.sleep(0)
    dialled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialled
    assert town.quotas.used(UID, "descriptors") == 0


@pytest.mark.parametrize(
    "uri", ["", "pong", "unix://pong", "udp://x:1/", "tcp://a\n:1/x", "tcp:///x"]
)
async def test_what_is_not_dialled(town, uri):
    with pytest.raises(InvalidArgs):
        await dialling(town, uri)


async def test_who_gives_up_as_the_answer_comes(town, doors):
    failures = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: failures.append(context))
    dialled = dialling(town)
    await doors.answer(b"denied no")
    loop.call_soon(dialled.cancel)  # before the loop hears of the answer
    with pytest.raises(asyncio.CancelledError):
        await dialled
    assert failures == []

"""Look-ups against a daemon that does what was recorded, and worse."""

import asyncio
import fcntl
import os
import socket
import termios

import pytest
from libipc.library.waiting import until
from libipc.wire.vectors import LOOKUPS, vectors

from buswork.errors import TimedOut
from buswork.libipc import Message, Received, RunDir, connect, serve
from buswork.libipc.errors import NoSuchService
from buswork.libipc.library import network
from buswork.libipc.wire.forms import Form, encode
from buswork.libipc.wire.lookups import AGREED, DAEMONS, parse_request

NOTHING = bytes(4)
FORMS = pytest.mark.parametrize("form", list(Form))
PONG = "pong tcp://10.0.0.1:9000/pong"

# How it ends for the originals is in the vectors; here it ends better, for what comes too early
# is kept, and what does not come is missed.
HANDED = {
    "ok_then_fd_after_client_read", "ok_sleep_fd", "ok_and_fd_back_to_back",
    "ok_with_fd_in_same_sendmsg", "prefix_match", "inner_prefix_match",
    "ok_with_fd", "ok_two_fds", "long_env",
}  # fmt: skip
NOT_ASKED = {"no_env", "empty_env", "second_entry_space_after"}  # and so direct
RECORDED = [
    pytest.param(form, vector, id=name)
    for name, form, vector in vectors(*LOOKUPS)
    if "daemon_plan" in vector and vector["name"] != "too_long_env"
]


class Daemon:
    """Services that can be dialled: the asked one, and any other, which is right here."""

    def __init__(self, form, plan):
        self.form = form
        self.plan = plan
        self.dialled = []
        self.request = b""
        self.direct = None
        self.handed = []
        self._tasks = []

    async def dial(self, name):
        self.dialled.append(name)
        if name != DAEMONS[self.form]:
            self.direct, ours = socket.socketpair()
            return ours
        if self.plan is None:
            raise NoSuchService("nobody is there")
        served, ours = socket.socketpair()
        ours.setblocking(False)
        self._tasks.append(asyncio.create_task(self._serve(served)))
        return ours

    async def _serve(self, sock):
        sock.setblocking(False)
        with sock:
            self.request = await asyncio.get_running_loop().sock_recv(sock, 1 << 20)
            for step, *arguments in self.plan:
                await getattr(self, step)(sock, *arguments)

    async def send(self, sock, data):
        sock.send(bytes.fromhex(data))

    async def fd(self, sock, data="00", count=1):
        pairs = [socket.socketpair() for _ in range(count)]
        self.handed += [ours for ours, _ in pairs]
        socket.send_fds(sock, [bytes.fromhex(data)], [theirs.fileno() for _, theirs in pairs])
        for _, theirs in pairs:
            theirs.close()

    async def descriptor(self, sock, fd, data=None):
        data = data or (b"ok" if self.form is Form.ZIG else b"\0")
        socket.send_fds(sock, [data], [fd])

    async def waitread(self, sock):
        await until(lambda: fcntl.ioctl(sock, termios.TIOCOUTQ, NOTHING) == NOTHING)

    async def sleep(self, sock, _seconds):
        await self.waitread(sock)

    async def hang(self, sock):
        await asyncio.get_running_loop().sock_recv(sock, 1)

    async def close(self):
        await asyncio.gather(*self._tasks)
        for sock in (*self.handed, self.direct):
            if sock is not None:
                sock.close()


@pytest.fixture
async def made():
    """Makes daemons, and sees that nothing of theirs is left."""
    before = set(os.listdir("/proc/self/fd"))
    daemons = []

    def make(form, plan):
        daemons.append(Daemon(form, plan))
        return daemons[-1]

    yield make
    for daemon in daemons:
        await daemon.close()
    assert set(os.listdir("/proc/self/fd")) == before


def agreed(form):
    """The plan of a daemon that hands out a descriptor as it should."""
    if form is Form.ZIG:
        return [("fd", AGREED[form].hex())]
    return [("send", AGREED[form].hex()), ("waitread",), ("fd",)]


def is_tied(one, other):
    other.send(b"x")
    other.shutdown(socket.SHUT_RDWR)
    one.setblocking(True)
    return one.recv(2) == b"x"


@pytest.mark.parametrize(("form", "vector"), RECORDED)
async def test_what_was_recorded(form, vector, made, monkeypatch):
    monkeypatch.delenv("IPC_NETWORK", raising=False)
    if vector["IPC_NETWORK"] is not None:
        monkeypatch.setenv("IPC_NETWORK", vector["IPC_NETWORK"])
    daemon = made(form, vector["daemon_plan"])
    name = vector["name"]
    if name in HANDED:
        with await network.connect("pong", form, daemon.dial) as sock:
            assert is_tied(sock, daemon.handed[0])
        assert all(sock.recv(1) == b"" for sock in daemon.handed[1:])
    elif form is Form.C or name in NOT_ASKED:
        with await network.connect("pong", form, daemon.dial) as sock:
            assert is_tied(sock, daemon.direct)
    else:
        with pytest.raises(NoSuchService, match="in vain"):
            await network.connect("pong", form, daemon.dial)
        assert daemon.direct is None
    assert (daemon.dialled[0] != DAEMONS[form]) == (name in NOT_ASKED)
    if vector["observed"].get("request"):
        assert daemon.request.hex() == vector["observed"]["request"]


@FORMS
async def test_a_daemon_that_dies_at_any_point(form, made):
    """Within what it agrees with, and after it."""
    for length in range(len(AGREED[form]) + 1):
        daemon = made(form, [("send", AGREED[form][:length].hex())])
        with pytest.raises(NoSuchService, match=r"handed out no socket|it left"):
            await network.connect("pong", form, daemon.dial, network=PONG, fallback=False)


async def test_a_daemon_that_sends_the_byte_and_no_descriptor(made):
    daemon = made(Form.C, [("send", AGREED[Form.C].hex()), ("waitread",), ("send", "00")])
    with pytest.raises(NoSuchService, match="handed out no socket"):
        await network.connect("pong", Form.C, daemon.dial, network=PONG, fallback=False)


@FORMS
async def test_an_agreement_in_pieces(form, made):
    first, rest = AGREED[form][:1].hex(), AGREED[form][1:].hex()
    daemon = made(form, [("send", first), ("waitread",), ("fd", rest)])
    with await network.connect("pong", form, daemon.dial, network=PONG) as sock:
        assert is_tied(sock, daemon.handed[0])


async def test_what_is_no_socket_may_come_with_the_agreement(made):
    """The library of a daemon may part its messages by such things."""
    fd = pipe_end()
    daemon = made(Form.C, [("descriptor", fd, AGREED[Form.C]), ("waitread",), ("fd",)])
    with await network.connect("pong", Form.C, daemon.dial, network=PONG) as sock:
        assert is_tied(sock, daemon.handed[0])
    os.close(fd)


@FORMS
async def test_fallback_is_chosen(form, made):
    daemon = made(form, [("send", "ff")])
    with await network.connect("pong", form, daemon.dial, network=PONG, fallback=True) as sock:
        assert is_tied(sock, daemon.direct)
    assert daemon.dialled == [DAEMONS[form], "pong"]
    daemon = made(form, None)
    with pytest.raises(NoSuchService, match=r"'pong' was looked up .* nobody is there"):
        await network.connect("pong", form, daemon.dial, network=PONG, fallback=False)
    assert daemon.dialled == [DAEMONS[form]]


@FORMS
async def test_a_daemon_that_says_nothing(form, made):
    daemon = made(form, [("hang",)])
    connecting = network.connect(
        "pong", form, daemon.dial, network=PONG, fallback=False, seconds=0.01
    )
    with pytest.raises(TimedOut, match=r"no answer in 0\.01 s"):
        await connecting
    daemon = made(form, [("send", AGREED[form][:1].hex()), ("hang",)])
    with await network.connect(
        "pong", form, daemon.dial, network=PONG, fallback=True, seconds=0.01
    ) as sock:
        assert is_tied(sock, daemon.direct)


@FORMS
@pytest.mark.parametrize("name", DAEMONS.values())
async def test_the_daemons_themselves_are_not_looked_up(form, name, made):
    daemon = made(form, [])
    with await network.connect(name, form, daemon.dial, network=f"{name} tcp://x:1/y"):
        assert daemon.dialled == [name]


@FORMS
@pytest.mark.parametrize(
    ("name", "value", "why"),
    [("pong;x", "pong;x tcp://x:1/y", "semicolon"), ("pong", "pong " + "y" * 2_000_000, "bytes")],
)
async def test_what_cannot_be_asked(form, name, value, why, made):
    daemon = made(form, [])
    with pytest.raises(NoSuchService, match=why):
        await network.connect(name, form, daemon.dial, network=value, fallback=False)
    assert daemon.dialled == []


def pipe_end():
    end, other = os.pipe()
    os.close(other)
    return end


UNFIT = {
    "handed out no socket": pipe_end,
    "no stream": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
    "of no use": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach(),
}


@FORMS
@pytest.mark.parametrize("why", UNFIT)
async def test_descriptors_that_are_of_no_use(form, why, made):
    fd = UNFIT[why]()
    plan = [("descriptor", fd)]
    if form is Form.C:
        plan = [("send", AGREED[form].hex()), *plan]
    daemon = made(form, plan)
    with pytest.raises(NoSuchService, match=why):
        await network.connect("pong", form, daemon.dial, network=PONG, fallback=False)
    os.close(fd)


@FORMS
async def test_who_gives_up_leaves_nothing(form, made):
    daemon = made(form, [("hang",)])
    asking = asyncio.create_task(network.connect("pong", form, daemon.dial, network=PONG))
    await until(lambda: daemon.request)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@FORMS
async def test_the_socket_is_ready_for_a_loop(form, made):
    daemon = made(form, agreed(form))
    with await network.connect("pong", form, daemon.dial, network=PONG) as sock:
        assert not sock.getblocking()
        assert not sock.get_inheritable()


@FORMS
async def test_by_a_daemon_and_a_client_of_this_library(form, tmp_path, monkeypatch):
    """The daemon serves as section 8 says: in the form C nothing is sent before it was read."""
    monkeypatch.setenv("IPC_NETWORK", "pong unix://elsewhere")
    rundir = RunDir.of(tmp_path, form)
    async with (
        serve(DAEMONS[form], rundir=rundir) as service,
        asyncio.TaskGroup() as group,
    ):
        ours, theirs = socket.socketpair()
        asking = group.create_task(ask(rundir))
        async for event in service:
            if isinstance(event, Received):
                assert parse_request(form, event.message).service == "pong"
                daemon = event.connection
                break
        if form is Form.C:
            daemon.send(b"OK")
            await daemon.consumed()
            daemon.send_descriptor(theirs.fileno())
        else:
            daemon.send_descriptor(theirs.fileno(), AGREED[form])
        await daemon.consumed()
        theirs.close()
        ours.sendall(encode(form, Message(b"hello")))
        assert await asking == b"hello"
        ours.close()


async def ask(rundir):
    async with connect("pong", rundir=rundir) as connection:
        assert connection.name == "pong"
        return (await connection.receive()).payload

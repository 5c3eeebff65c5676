"""buswork-doors: who may ask it, and what it answers. What wings do there has tests of its own."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from buswork import doors as module
from buswork.doors import Doors, make_parser
from buswork.errors import AccessDenied, BusworkError
from buswork.native.places import SocketFile

UID = os.geteuid()
PATIENCE = 10


class Echo:
    """A way that says everything twice."""

    handed = None

    def __init__(self, told):
        self.told = told
        self.is_closed = False

    async def carry(self, daemon):
        loop = asyncio.get_running_loop()
        while message := await loop.sock_recv(daemon, 4096):
            await loop.sock_sendall(daemon, 2 * message)

    def close(self):
        self.is_closed = True


class Handing(Echo):
    """A way that hands one end of itself over."""

    def __init__(self, told):
        super().__init__(told)
        self.handed, self.ours = socket.socketpair()
        self.ours.setblocking(False)

    async def carry(self, daemon):
        await super().carry(self.ours)

    def close(self):
        super().close()
        self.ours.close()


class Wing:
    def __init__(self):
        self.opens = {
            "echo": self.open,
            "hand": self.hand,
            "fail": self.fail,
            "deny": self.deny,
        }
        self.ways = []
        self.is_open = False
        self.troubles = []
        self.has_any = True

    async def start(self):
        self.is_open = True
        return self.troubles

    async def close(self):
        self.is_open = False

    async def open(self, text):
        self.ways.append(Echo(text))
        return self.ways[-1]

    async def hand(self, text):
        self.ways.append(Handing(text))
        return self.ways[-1]

    async def fail(self, text):
        raise BusworkError(f"no way to\n{text}")

    async def deny(self, text):
        raise AccessDenied(f"not to {text}")


class House:
    def __init__(self, path, daemon_uid=UID):
        self.file = SocketFile(path / "doors.sock", 0o600, socket.SOCK_SEQPACKET)
        self.path = str(path / "doors.sock")
        self.wing = Wing()
        self.doors = Doors([self.wing], daemon_uid)
        self.socks = []

    async def connect(self):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        sock.connect(self.path)
        self.socks.append(sock)
        return sock

    async def ask(self, line):
        sock = await self.connect()
        sock.send(line)
        return sock, await received(sock)

    async def close(self):
        await self.doors.close()
        self.file.remove()
        for sock in self.socks:
            sock.close()


async def readable(sock):
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(sock, event.set)
    await event.wait()
    loop.remove_reader(sock)


async def received(sock):
    async with asyncio.timeout(PATIENCE):
        return await asyncio.get_running_loop().sock_recv(sock, 4096)


@pytest.fixture
async def house(tmp_path):
    house = House(tmp_path)
    await house.doors.start([house.file.listener])
    yield house
    await house.close()
    assert not house.wing.is_open
    assert all(way.is_closed for way in house.wing.ways)
    assert not len(house.doors)


async def test_a_way_is_there_until_the_daemon_leaves(house):
    assert house.wing.is_open
    sock, answer = await house.ask(b"echo to the end\n")
    assert answer == b"ok to the end\n"
    sock.send(b"ab")
    assert await received(sock) == b"abab"
    other, _ = await house.ask(b"echo too\n")
    sock.close()
    async with asyncio.timeout(PATIENCE):
        while len(house.doors) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert [way.is_closed for way in house.wing.ways] == [True, False]
    other.send(b"c")
    assert await received(other) == b"cc"


async def test_a_way_may_be_handed_over(house):
    sock = await house.connect()
    sock.send(b"hand it over")
    async with asyncio.timeout(PATIENCE):
        await readable(sock)
    answer, descriptors, _, _ = socket.recv_fds(sock, 4096, 2)
    assert answer == b"ok it over\n"
    (way,) = house.wing.ways
    assert way.handed.fileno() < 0  # the copy is the only one, so that its end is seen
    with socket.socket(fileno=descriptors[0]) as handed:
        assert handed.getblocking()
        handed.setblocking(False)
        sock.close()  # nothing more is asked; what was handed over lives on
        handed.send(b"ab")
        assert await received(handed) == b"abab"
    async with asyncio.timeout(PATIENCE):
        while len(house.doors):  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"deny the moon\n", b"denied not to the moon\n"),
        (b"fail it", b"error no way to\\nit\n"),
        (b"tcp it\n", b"error there are doors for echo, hand, fail, deny, and not for 'tcp'\n"),
        (b"\xff\x1b[2J\n", b"error there are doors for echo, hand, fail, deny"),
    ],
)
async def test_what_is_refused(house, line, answer):
    sock, said = await house.ask(line)
    assert said.startswith(answer)
    assert said.strip().decode().isprintable()
    assert await received(sock) == b""


async def test_who_asks_nothing_is_not_waited_for(house, monkeypatch):
    monkeypatch.setattr(module, "ASK_SECONDS", 0.01)
    assert await received(await house.connect()) == b""


async def test_who_leaves_at_once(house):
    (await house.connect()).close()
    _, answer = await house.ask(b"echo x\n")
    assert answer == b"ok x\n"


async def test_nobody_but_the_daemon_is_answered(tmp_path, caplog):
    house = House(tmp_path, UID + 1)
    await house.doors.start([house.file.listener])
    assert await received(await house.connect()) == b""
    assert f"uid {UID} is not the daemon" in caplog.text
    await house.close()


async def test_a_door_that_cannot_be_opened_is_told_and_the_others_serve(tmp_path, caplog):
    house = House(tmp_path)
    house.wing.troubles = ["port 9: taken"]
    assert await house.doors.start([house.file.listener]) == ["port 9: taken"]
    assert "a door can't be opened: port 9: taken" in caplog.text
    _, answer = await house.ask(b"echo x\n")
    assert answer == b"ok x\n"
    await house.close()


async def test_without_any_other_door_it_ends(tmp_path):
    house = House(tmp_path)
    house.wing.troubles, house.wing.has_any = ["port 9: taken"], False
    with pytest.raises(OSError, match="no other door"):
        await house.doors.start([house.file.listener])
    await house.close()
    house.file.close()


# The command


def started(*arguments, env=None):
    return subprocess.Popen(
        [sys.executable, "-m", "buswork.doors", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (env or {}),
    )


@contextlib.contextmanager
def taken_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_it_ends_when_it_is_told_to(tmp_path):
    path = tmp_path / "doors.sock"
    with started("--daemon", UID, "--socket", path) as process:
        line = process.stderr.readline()
        assert "hello, world: buswork-doors" in line
        assert path.stat().st_mode & 0o777 == 0o600
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0, rest
    assert not path.exists()


def test_a_port_that_is_taken(tmp_path):
    with taken_port() as port:
        door = f"desk={port}"
        words = "--daemon", UID, "--socket", tmp_path / "doors.sock", "--fmr-door", door
        with started(*words) as process:
            said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 1
    assert "a door can't be opened" in said
    assert "Traceback" not in said


def test_a_port_that_is_taken_beside_another(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, taken_port() as port:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        words = ["--daemon", UID, "--socket", tmp_path / "doors.sock"]
        words += ["--fmr-door", f"desk={port}", "--allow-board", "192.168.1.7"]
        with started(*words, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as process:
            told = manager.recv(4096).decode()
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0
    trouble = f"the door of the board desk at port {port}: [Errno 98] Address already in use"
    assert told == f"READY=1\nSTATUS=serving; closed: {trouble}"
    assert f"a door can't be opened: {trouble}" in said


def test_a_place_that_is_taken(tmp_path):
    path = tmp_path / "doors.sock"
    path.write_text("somebody's")
    with started("--daemon", UID, "--socket", path) as process:
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 1
    assert "no socket" in said
    assert path.read_text() == "somebody's"


@pytest.mark.parametrize("option", ["--daemon", "--serve-uid"])
def test_users_by_name_or_number(capsys, option):
    found = make_parser().parse_args(["--daemon", "root", "--serve-uid", "root", option, "7"])
    assert found.daemon == (7 if option == "--daemon" else 0)
    assert found.serve_uid == ([0, 7] if option == "--serve-uid" else [0])
    with pytest.raises(SystemExit):
        make_parser().parse_args([option, "no such user"])
    assert "no such user" in capsys.readouterr().err


def test_options_that_would_let_strangers_in(tmp_path):
    with started("--daemon", UID, "--ipc-origin", "http://localhost:8000") as process:
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 2
    assert "--ipc-token-file" in said

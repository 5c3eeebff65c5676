"""Boards on the network, and ports of this machine: the IP sockets of the wing."""

import asyncio
import fcntl
import os
import socket
import struct
import termios
from contextlib import asynccontextmanager

import pytest

from buswork.doors import make_parser
from buswork.errors import AccessDenied, InvalidArgs
from buswork.flipper import doors as module
from buswork.flipper.doors import (
    GUESTS_PER_UID,
    LOOPBACK,
    SILENT_SECONDS,
    FlipperDoors,
    FmrDoor,
)
from buswork.flipper.wire.errors import Error, number_of
from buswork.flipper.wire.terms import Generation
from buswork.native.loopback import PortOwner, udp_owner

UID = os.geteuid()
PATIENCE = 10


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def received(sock):
    async with asyncio.timeout(PATIENCE):
        return await asyncio.get_running_loop().sock_recv(sock, 65536)


def is_silent(sock):
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


def datagram_socket(address=(LOOPBACK, 0)):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(address)
    return sock


def port_of(sock):
    return sock.getsockname()[1]


def is_drained(sock):
    """Whether the other end has read all that was sent."""
    (unread,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return unread == 0


def options(*arguments):
    return make_parser().parse_args(["--daemon", str(UID), *arguments])


# Boards on the network


@asynccontextmanager
async def carried(way):
    """The daemon's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    task = asyncio.create_task(way.carry(theirs))
    with ours, theirs:
        yield ours
        ours.close()
        await asyncio.wait_for(task, PATIENCE)  # it ends with the daemon
    way.close()


@pytest.fixture
def board():
    with datagram_socket() as sock:
        yield sock


async def dial(board, host=LOOPBACK, **more):
    place = f"{host}:{port_of(board)}"
    return await FlipperDoors(options("--allow-board", place)).opens["udp"](place)


async def test_datagrams_pass_both_ways(board):
    way = await dial(board, "localhost")
    assert way.told == f"127.0.0.1:{port_of(board)}"
    async with carried(way) as daemon:
        await asyncio.sleep(0)
        for message in b"one", bytes(60_000):
            daemon.send(message)
            data, sender = await asyncio.get_running_loop().sock_recvfrom(board, 65536)
            assert data == message
            board.sendto(message[::-1], sender)
            assert await received(daemon) == message[::-1]


async def test_nobody_else_is_heard(board):
    async with carried(await dial(board)) as daemon:
        daemon.send(b"hello")
        _, sender = await asyncio.get_running_loop().sock_recvfrom(board, 65536)
        with datagram_socket() as stranger:
            stranger.sendto(b"forged", sender)
        board.sendto(b"true", sender)
        assert await received(daemon) == b"true"


async def test_an_empty_datagram_is_no_end(board):
    async with carried(await dial(board)) as daemon:
        daemon.send(b"hello")
        _, sender = await asyncio.get_running_loop().sock_recvfrom(board, 65536)
        board.sendto(b"", sender)
        board.sendto(b"more", sender)
        assert await received(daemon) == b"more"


async def test_a_board_that_is_not_there_may_come_back(board):
    async with carried(await dial(board)) as daemon:
        address = board.getsockname()
        board.close()
        for _ in range(3):  # the second one finds that nobody listened to the first
            daemon.send(b"lost")
            await until(lambda: is_drained(daemon))
        with datagram_socket(address) as again:
            daemon.send(b"hello")
            assert await received(again) == b"hello"


async def test_what_the_daemon_does_not_read_is_lost(board):
    async with carried(await dial(board)) as daemon:
        daemon.send(b"hello")
        _, sender = await asyncio.get_running_loop().sock_recvfrom(board, 65536)
        for _ in range(50):
            board.sendto(bytes(30_000), sender)
            await asyncio.sleep(0)
        count = 0
        while not is_silent(daemon):
            daemon.recv(65536)
            count += 1
        assert 0 < count < 50


async def test_what_is_not_on_the_list_is_not_dialled(board):
    doors = FlipperDoors(options("--allow-board", "localhost:7", "--allow-board", "Board"))
    for place in "localhost", "localhost:8", "127.0.0.1:7", "board:7":
        with pytest.raises(AccessDenied, match="--allow-board"):
            await doors.opens["udp"](place)
    with pytest.raises(InvalidArgs):
        await doors.opens["udp"]("no place")


async def test_a_name_that_nobody_knows():
    doors = FlipperDoors(options("--allow-board", "nowhere.invalid"))
    with pytest.raises(InvalidArgs, match="nowhere"):
        await doors.opens["udp"]("nowhere.invalid")


async def test_a_simulated_board_may_be_attached():
    with datagram_socket() as free:
        port = port_of(free)
    doors = FlipperDoors(options("--simulate-board", str(port)))
    await doors.start()
    way = await doors.opens["udp"](f"localhost:{port}")
    async with carried(way) as daemon:
        daemon.send(b"hello")  # is no packet
        assert (await received(daemon))[4] == number_of(Error.E_CHECKSUM, Generation.G1)
    await doors.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--allow-board", "a b"),
        ("--fmr-door", "a b"),
        ("--fmr-door", "=7"),
        ("--fmr-door", "a=x"),
        ("--fmr-door", "a=65536"),
    ],
)
def test_words_that_are_not_understood(arguments, capsys):
    with pytest.raises(SystemExit):
        options(*arguments)
    assert arguments[0] in capsys.readouterr().err


def test_words_that_are():
    assert options("--fmr-door", "desk", "--fmr-door", "b=7").fmr_door == [("desk", 3258), ("b", 7)]


# Doors


class Daemon:
    """The boards' socket, and who connects to it."""

    def __init__(self, path):
        self.path = str(path / "fmr.sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.listener.bind(self.path)
        self.listener.listen()
        self.connections = []

    async def accept(self, greeting=b"board desk for %d\n" % UID, answer=b"ok\n"):
        async with asyncio.timeout(PATIENCE):
            sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        sock.setblocking(False)
        self.connections.append(sock)
        assert await received(sock) == greeting
        sock.send(answer)
        return sock

    def close(self):
        for sock in (self.listener, *self.connections):
            sock.close()


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.close()


class Ports:
    """Who has ports: the kernel's word, unless a test says otherwise."""

    def __init__(self):
        self.said = {}

    def __call__(self, host, port):
        return self.said[port] if port in self.said else udp_owner(host, port)


@pytest.fixture
def ports():
    return Ports()


@pytest.fixture
async def door(daemon, ports):
    door = FmrDoor("desk", {UID}, daemon.path, ports)
    door.open(0)
    yield door
    door.close()


def program(door):
    sock = datagram_socket()
    sock.connect(door._socket.getsockname())
    return sock


async def test_a_program_at_a_door_has_a_connection_of_its_own(daemon, door):
    with program(door) as first, program(door) as second:
        first.send(b"one")
        one = await daemon.accept()
        second.send(b"two")
        two = await daemon.accept()
        assert (await received(one), await received(two)) == (b"one", b"two")
        two.send(b"2")
        one.send(b"1")
        assert (await received(first), await received(second)) == (b"1", b"2")
        first.send(b"more")
        assert await received(one) == b"more"
        assert len(door) == 2


async def test_the_socket_is_on_loopback_alone(door):
    assert door._socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.attack(43)
@pytest.mark.parametrize("owner", [None, PortOwner(UID + 1, 1)], ids=["nobody", "another"])
async def test_who_is_not_served_reaches_nobody(daemon, door, ports, owner, caplog):
    """Attack 43: loopback is no identity."""
    with program(door) as stranger, program(door) as known:
        ports.said[port_of(stranger)] = owner
        stranger.send(b"forbidden")
        known.send(b"allowed")
        assert await received(await daemon.accept()) == b"allowed"
        assert len(door) == 1
    assert "the door of desk" in caplog.text


async def test_a_port_that_changes_hands_is_another_guest(daemon, door, ports):
    with program(door) as first:
        first.send(b"one")
        one = await daemon.accept()
        assert await received(one) == b"one"
        ports.said[port_of(first)] = PortOwner(UID, 4711)  # another socket of the same user
        first.send(b"two")
        two = await daemon.accept()
        assert await received(one) == b""  # what it asked for ends
        assert await received(two) == b"two"


async def test_an_answer_is_for_who_asked(daemon, door, ports):
    with program(door) as first:
        first.send(b"one")
        one = await daemon.accept()
        assert await received(one) == b"one"
        ports.said[port_of(first)] = PortOwner(UID + 1, 4711)
        one.send(b"a secret")
        assert await received(one) == b""
        assert is_silent(first)
        assert not len(door)


async def test_a_flood_is_no_matter_of_who_is_served(daemon, door, ports):
    with program(door) as known, program(door) as stranger:
        known.send(b"one")
        connection = await daemon.accept()
        assert await received(connection) == b"one"
        ports.said[port_of(stranger)] = None
        for _ in range(2000):  # more than a socket holds
            stranger.send(bytes(1000))
        known.send(b"two")
        assert await received(connection) == b"two"
        connection.send(b"2")
        assert await received(known) == b"2"


async def test_whose_a_datagram_is_says_the_kernel_and_not_where_it_came(daemon, door):
    """A guest's socket may get what is not the guest's, before it is connected."""
    with program(door) as guest, datagram_socket() as elsewhere:
        guest.connect(elsewhere.getsockname())
        guest.send(b"one")
        door.hear(elsewhere)
        assert await received(await daemon.accept()) == b"one"


async def test_an_empty_datagram_is_nothing(daemon, door):
    with program(door) as sock:
        sock.send(b"")
        sock.send(b"one")
        connection = await daemon.accept()
        assert await received(connection) == b"one"
        sock.send(b"")
        sock.send(b"two")
        assert await received(connection) == b"two"


async def test_a_guest_whom_the_daemon_sent_away_may_try_again(daemon, door, caplog):
    with program(door) as sock:
        sock.send(b"one")
        connection = await daemon.accept(answer=b"error no\x1b[2J such board\n")
        assert await received(connection) == b"one"
        connection.close()
        await until(lambda: not len(door))
        assert "no\x1b[2J such board" in caplog.text  # the log escapes it
        sock.send(b"two")
        assert await received(await daemon.accept()) == b"two"


async def test_without_a_daemon_datagrams_are_lost(daemon, door, caplog):
    daemon.listener.close()
    with program(door) as sock:
        sock.send(b"one")
        await until(lambda: "the daemon is not there" in caplog.text)
        assert not len(door)


async def test_so_many_guests_of_a_user(daemon, door):
    sockets = [program(door) for _ in range(GUESTS_PER_UID + 1)]
    for sock in sockets:
        sock.send(b"hello")
        await daemon.accept()
    assert len(door) == GUESTS_PER_UID
    assert await received(daemon.connections[0]) == b"hello"
    assert await received(daemon.connections[0]) == b""
    for sock in sockets:
        sock.close()


async def test_who_is_silent_is_forgotten(daemon, door, monkeypatch):
    with program(door) as first, program(door) as second:
        first.send(b"one")
        one = await daemon.accept()
        assert await received(one) == b"one"
        now = module.time.monotonic()
        monkeypatch.setattr(module.time, "monotonic", lambda: now + SILENT_SECONDS + 1)
        second.send(b"two")
        await daemon.accept()
        assert await received(one) == b""
        assert len(door) == 1


async def test_a_port_that_is_taken_closes_no_other_door(door):
    with datagram_socket() as free:
        port = port_of(free)
    taken = port_of(door._socket)
    doors = FlipperDoors(options("--fmr-door", f"desk={taken}", "--fmr-door", f"shelf={port}"))
    (trouble,) = await doors.start()
    assert trouble.startswith(f"the door of the board desk at port {taken}: ")
    assert "in use" in trouble
    assert doors.has_any
    await doors.close()


async def test_whether_there_is_anything_to_do(door):
    taken = port_of(door._socket)
    for words, answer in (
        ((), False),
        (("--fmr-door", f"desk={taken}"), False),
        (("--fmr-door", f"desk={taken}", "--allow-board", "192.168.1.7"), True),
    ):
        doors = FlipperDoors(options(*words))
        await doors.start()
        assert doors.has_any is answer
        await doors.close()


async def test_a_port_that_another_program_would_share_is_taken():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((LOOPBACK, 0))
        with pytest.raises(OSError, match="in use"):
            FmrDoor("desk", {UID}, "nowhere").open(port_of(other))

"""Boards on the network, from the daemon through the doors process to a board, and back in."""

import asyncio
import socket

import pytest
from flipper.native.strangers import READ, RGB, UID, House, Program, until
from flipper.test_doors import datagram_socket, is_silent, options, port_of
from flipper.wire.vectors import vectors
from sim.test_fvm import TYPES, is_garbage, prepare

from buswork.doors import Doors
from buswork.errors import AccessDenied, BusworkError, InvalidArgs
from buswork.flipper.doors import FlipperDoors, FmrDoor
from buswork.flipper.errors import AlreadyAttached, Disconnected, NotResponding
from buswork.flipper.model.boards import Transport
from buswork.flipper.model.calls import invoke
from buswork.flipper.native import network as module
from buswork.flipper.native import socketline
from buswork.flipper.native.network import NAME, RUN_DIRECTORY, Network, NoDoors, doors_path
from buswork.flipper.wire.results import Result
from buswork.native.places import SocketFile
from buswork.sim.fvm import SimFvm

# What the model refuses, with a number of its own: tests of it say which.
REFUSED = {"types.f_five", "std.uart0.configure"}


class Town:
    """A daemon, a doors process, and a board on the network."""

    def __init__(self, path):
        self.path = path
        self.room = House(path, doors={UID})
        self.network = Network(self.room.boards, self.room.sessions, path / NAME)
        self.fvm = SimFvm({"types": TYPES})
        self.doors = None

    async def start(self):
        await self.room.sessions.start()
        await self.fvm.listen()
        self.endpoint = f"localhost:{self.fvm.address[1]}"

    async def open_doors(self, *arguments):
        self.file = SocketFile(self.path / NAME, 0o600, socket.SOCK_SEQPACKET)
        wing = FlipperDoors(options("--allow-board", self.endpoint, *arguments))
        self.doors = Doors([wing], UID)
        await self.doors.start([self.file.listener])

    async def close_doors(self):
        await self.doors.close()
        self.file.remove()
        self.doors = None

    async def stop(self):
        await self.room.server.stop()
        await self.room.sessions.stop()
        if self.doors is not None:
            await self.close_doors()
        self.fvm.close()
        await self.fvm.closed.wait()
        for sock in self.room.programs:
            sock.close()

    async def call(self, board, function="read", module="button"):
        return await self.room.ask(invoke(board, module, function, []), board)


@pytest.fixture
async def closed_town(tmp_path):
    town = Town(tmp_path)
    await town.start()
    yield town
    await town.stop()


@pytest.fixture
async def town(closed_town):
    await closed_town.open_doors()
    return closed_town


def test_where_the_doors_are_asked(tmp_path):
    assert doors_path(None) == doors_path([]) == RUN_DIRECTORY / "doors.sock"
    assert doors_path([tmp_path]) == tmp_path / "doors.sock"


async def test_a_board_on_the_network_is_one_like_any(town):
    board = await town.network.attach(town.endpoint)
    assert board.transport is Transport.UDP
    assert board.key == f"udp:127.0.0.1:{town.fvm.address[1]}"
    town.fvm.button.pressed = True
    assert await town.call(board) == 1
    town.network.detach(board)
    assert not town.room.boards.boards
    with pytest.raises(Disconnected):
        await town.call(board)


async def test_one_board_is_attached_once(town):
    first = asyncio.create_task(town.network.attach(town.endpoint))
    second = asyncio.create_task(town.network.attach(town.endpoint))
    done = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(each) for each in done if isinstance(each, Exception)] == [AlreadyAttached]
    with pytest.raises(AlreadyAttached, match="carbon-127"):
        await town.network.attach(town.endpoint)


async def test_while_a_board_is_attached_nobody_else_speaks_with_it(closed_town):
    """It answers to who spoke last (section 13)."""
    with datagram_socket() as silent:
        place = f"localhost:{port_of(silent)}"
        await closed_town.open_doors("--allow-board", place)
        first = asyncio.create_task(closed_town.network.attach(place))
        _, sender = await asyncio.get_running_loop().sock_recvfrom(silent, 65536)
        with pytest.raises(AlreadyAttached, match="being attached"):
            await closed_town.network.attach(place)
        first.cancel()
        await asyncio.wait([first])
        while not is_silent(silent):
            assert silent.recvfrom(65536)[1] == sender


async def test_who_is_not_on_the_list_is_not_reached(town):
    with pytest.raises(AccessDenied, match="--allow-board"):
        await town.network.attach("localhost:9")


@pytest.mark.parametrize("endpoint", ["", "a b", "localhost:0", "x\nudp y"])
async def test_what_is_no_place(closed_town, endpoint):
    with pytest.raises(InvalidArgs):
        await closed_town.network.attach(endpoint)


async def test_a_name_that_leads_nowhere_is_an_error(closed_town):
    await closed_town.open_doors("--allow-board", "nowhere.invalid")
    with pytest.raises(BusworkError, match="nowhere"):
        await closed_town.network.attach("nowhere.invalid")


async def test_nobody_is_at_home(closed_town, monkeypatch):
    monkeypatch.setattr(socketline, "ANSWER_SECONDS", 0.01)
    with datagram_socket() as silent:
        place = f"localhost:{port_of(silent)}"
        await closed_town.open_doors("--allow-board", place)
        with pytest.raises(NotResponding):
            await closed_town.network.attach(place)
        assert not closed_town.room.boards.boards
        with pytest.raises(NotResponding):  # and may be tried again
            await closed_town.network.attach(place)


async def test_without_the_doors_process_it_is_said_how_to_have_it(closed_town):
    with pytest.raises(NoDoors, match="systemctl enable --now buswork-doors"):
        await closed_town.network.attach(closed_town.endpoint)


async def test_who_may_not_ask_the_doors_learns_that_nobody_answers(closed_town):
    await closed_town.open_doors()
    closed_town.doors._daemon_uid = UID + 1
    with pytest.raises(NoDoors):
        await closed_town.network.attach(closed_town.endpoint)


async def test_doors_that_do_not_answer_in_time(closed_town, monkeypatch):
    monkeypatch.setattr(module, "DIAL_SECONDS", 0.01)
    file = SocketFile(closed_town.path / NAME, 0o600, socket.SOCK_SEQPACKET)
    with pytest.raises(NotResponding):
        await closed_town.network.attach(closed_town.endpoint)
    file.close()


async def test_when_the_doors_process_ends_its_boards_do(town):
    board = await town.network.attach(town.endpoint)
    await town.close_doors()
    with pytest.raises(Disconnected):
        await town.call(board)
    await until(lambda: not town.room.boards.boards)
    await town.open_doors()
    assert await town.call(await town.network.attach(town.endpoint)) == 0


async def test_a_board_that_is_plugged_in_is_not_detached(town):
    await town.room.plug()
    with pytest.raises(InvalidArgs, match="plugged in"):
        town.network.detach(town.room.board)
    assert town.room.boards.boards


# In through one door and out through the other


@pytest.fixture
async def library(town):
    """A socket as the unmodified library has it: connected to "localhost"."""
    board = await town.network.attach(town.endpoint)
    door = FmrDoor(board.name, {UID}, town.room.path)
    address = door.open(0)
    with datagram_socket() as sock:
        sock.connect(address)
        yield sock
    door.close()


async def received(sock):
    async with asyncio.timeout(10):
        return await asyncio.get_running_loop().sock_recv(sock, 65536)


@pytest.mark.parametrize("file", ["gen1_udp_modules", "gen1_udp_pushpull", "gen1_udp_lookup"])
async def test_the_unmodified_library_hears_what_the_virtual_machine_says(town, library, file):
    for found in vectors(file):
        name = found.content["id"]
        if name in REFUSED:
            continue
        prepare(town.fvm, name)
        for sent, answers in found.turns:
            for datagram in sent:
                library.send(datagram)
            heard = [await received(library) for _ in answers]
            if is_garbage(found):
                assert [len(each) for each in heard] == [len(each) for each in answers], name
            else:
                assert heard == answers, name
        town.fvm.button.pressed = False


async def test_the_library_shares_the_board_with_others(town, library):
    board = town.room.board
    other = await town.room.connect()
    guest = Program(library)
    for answers in [
        await asyncio.gather(guest.ask(RGB), other.ask(READ), town.call(board)) for _ in range(5)
    ]:
        assert answers == [(Result(0), b""), (Result(0), b""), 0]

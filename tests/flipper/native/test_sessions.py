"""The life of boards, from being plugged in to their end."""

import asyncio
import socket

import pytest
from flipper.native.boards import ScriptedBoard
from flipper.native.rooms import UID, Room
from flipper.native.test_socketline import FarBoard

from buswork.errors import Busy
from buswork.flipper.errors import Disconnected, NoSuchBoard, NotResponding
from buswork.flipper.model.boards import BoardAdded, BoardRemoved, State
from buswork.flipper.model.calls import invoke, pull, push
from buswork.flipper.model.claims import Claim
from buswork.flipper.model.work import Job
from buswork.flipper.native import line as line_module
from buswork.flipper.native import socketline as socketline_module
from buswork.flipper.native import texts as texts_module
from buswork.flipper.native.sessions import DEFECT_PAUSE_S, IDLE_S, OPEN_PAUSE_S, OPEN_TRIES
from buswork.flipper.wire.carbon import ENDPOINT_OUT
from buswork.flipper.wire.terms import Generation
from buswork.log import Sparing
from buswork.sim.device import Fault, How
from buswork.usb.link import UsbError
from buswork.usb.worker import Worker


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(line_module, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(line_module, "STALE_SECONDS", 0.05)


@pytest.fixture
async def room():
    room = Room()
    await room.sessions.start()
    yield room
    for device in room.backend.devices:
        room.backend.plug_at(device.port).release.set()
    await room.sessions.stop()
    assert room.tasks() == []
    assert not room.boards.boards
    for device in room.backend.devices:
        plug = room.backend.plug_at(device.port)
        assert (plug.opened, plug.claims) == (0, {})


@pytest.fixture
async def carbon(room):
    return await room.plug()


def light(room, *colour):
    return room.ask(invoke(room.board, "led", "rgb", colour or (1, 2, 3)))


# Boards come and go


async def test_a_board_is_known_when_it_is_plugged_in_and_opened_when_there_is_work(room):
    carbon = await room.plug(port="1-2.3")
    board = room.board
    assert (board.key, board.name) == ("usb:1-2.3", "carbon-1-2.3")
    assert (board.state, room.opened("1-2.3")) == (State.READY, 0)
    await light(room, 1, 2, 3)
    assert carbon.led.colour == (1, 2, 3)
    assert (board.state, room.opened("1-2.3")) == (State.IN_USE, 1)
    await room.unplug("1-2.3")
    with pytest.raises(NoSuchBoard):
        room.boards.find()
    assert [type(change) for change in room.changes][:: len(room.changes) - 1] == [
        BoardAdded,
        BoardRemoved,
    ]


async def test_a_name_that_an_administrator_gave(room):
    await room.plug(BUSWORK_NAME="bench")
    assert room.board.name == "bench"


@pytest.mark.parametrize("facts", [{"product_name": "Teensyduino RawHID"}, {"product": 0x0481}])
async def test_what_is_no_carbon_is_left_alone(room, facts):
    device = ScriptedBoard()
    for name, value in facts.items():
        setattr(device, name, value)
    await room.plug(device)
    assert not room.boards.boards
    await room.unplug()


async def test_a_board_is_left_to_others_when_nobody_uses_it(room, carbon):
    await light(room)
    await room.rest()
    await room.later(IDLE_S - 0.1)
    assert room.opened() == 1
    await light(room)
    await room.rest()
    await room.later(IDLE_S - 0.1)
    assert room.opened() == 1
    await room.later(0.1)
    assert (room.opened(), room.board.state) == (0, State.READY)
    await light(room, 3, 2, 1)
    assert carbon.led.colour == (3, 2, 1)


async def test_both_processors_answer(room, carbon):
    carbon.s4.gpio.inputs = 1 << 22
    carbon.s4.usart.received += b"from the outside"
    values = await asyncio.gather(
        room.ask(invoke(room.board, "gpio", "read", [1 << 22])),
        room.ask(invoke(room.board, "button", "read", []), owner="another"),
        room.ask(push(room.board, "spi", "push", bytes(range(200))), owner="a third"),
        room.ask(pull(room.board, "usart", "pull", 16), owner="a fourth"),
    )
    assert values == [1 << 22, 0, 200, b"from the outside"]
    assert carbon.s4.spi.sent == bytes(range(200))


async def test_a_second_try_gets_what_came_too_late_for_a_pull(room, carbon):
    """Section 15, pitfall 8."""
    carbon.trouble.late_answers = 1
    carbon.s4.gpio.inputs = 4
    assert await room.ask(invoke(room.board, "gpio", "read", [4])) == 4


async def test_unplugging_ends_all_that_was_asked_at_once(room, carbon):
    carbon.faults = [Fault(How.SILENCE, endpoint=ENDPOINT_OUT)]
    opened = asyncio.Event()
    room.boards.on_change.append(lambda change: opened.set())
    asked = [light(room) for _ in range(3)]
    await opened.wait()
    room.backend.unplug("1-1")
    for result in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(result, Disconnected)
    await room.rest()


async def test_a_board_that_comes_back_is_another(room, carbon):
    first = room.board
    await light(room)
    room.backend.unplug("1-1")
    carbon.faults = []
    await room.plug(carbon)
    assert room.board is not first
    assert room.board.incarnation == 2
    await light(room, 9, 9, 9)
    assert carbon.led.colour == (9, 9, 9)


async def test_a_machine_that_sleeps_has_no_boards(room, carbon):
    await light(room)
    room.sessions.sleep(True)
    await room.rest()
    assert (room.opened(), len(room.boards.boards)) == (0, 0)
    other = await room.plug(port="1-2")
    assert not room.boards.boards
    room.sessions.sleep(False)
    assert sorted(room.boards.boards) == ["carbon-1-1", "carbon-1-2"]
    await room.ask(invoke(room.boards.find("carbon-1-2"), "led", "rgb", (1, 1, 1)))
    assert other.led.colour == (1, 1, 1)


async def test_32_boards_at_once(room):
    carbons = [await room.plug(port=f"1-{number}") for number in range(1, 33)]
    boards = list(room.boards.boards.values())
    asked = [invoke(board, "led", "rgb", (at, 0, 0)) for at, board in enumerate(boards)]
    await asyncio.gather(*(room.ask(job, board) for job, board in zip(asked, boards, strict=True)))
    assert [carbon.led.colour[0] for carbon in carbons] == list(range(32))


# Others have the board


async def other_program(room):
    worker = Worker(room.backend.devices[0], room.backend)
    await worker.open()
    await worker.claim(0)
    return worker


async def test_a_board_that_another_program_has_is_waited_for_a_short_time(room, carbon):
    other = await other_program(room)
    asked = light(room)
    await room.rest()
    for _ in range(OPEN_TRIES - 2):
        await room.later(OPEN_PAUSE_S)
        assert not asked.done()
    await room.later(OPEN_PAUSE_S)
    with pytest.raises(Busy, match="another program"):
        await asked
    assert room.board.state is State.FAILED
    assert "another program" in room.board.error
    asked = light(room)
    await room.rest()
    await other.close()
    await room.later(OPEN_PAUSE_S)
    await asked
    assert (room.board.state, room.board.error) == (State.IN_USE, "")


def claimed(room):
    claim = Claim("usb:1-1", "me", UID, "a test", 60, "token")
    room.board.turns.claim(claim, room.clock.now(), lambda claim, error: None)
    return claim


async def test_who_has_claimed_a_board_keeps_it_until_the_lease_ends(room, carbon):
    claimed(room)
    await light(room)
    await room.rest()
    await room.later(10 * IDLE_S)
    assert room.opened() == 1
    await room.later(60 - 10 * IDLE_S)
    assert room.board.claim is None
    await room.rest()
    assert room.opened() == 0


async def test_a_board_that_is_lent_is_closed_at_once(room, carbon):
    claim = claimed(room)
    await light(room)
    await room.rest()
    room.boards.lend(claim.token, "me")
    await room.rest()
    assert (room.opened(), room.board.state) == (0, State.LENT)
    room.boards.release(claim.token, "me")
    await light(room, 7, 7, 7)
    assert carbon.led.colour == (7, 7, 7)


# Boards that misbehave


async def test_those_who_wait_for_a_board_that_is_silent_are_told_together(room, carbon):
    carbon.faults = [Fault(How.SILENCE, endpoint=ENDPOINT_OUT)]
    asked = [light(room) for _ in range(10)]
    for result in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(result, NotResponding)
    await room.rest()
    assert (room.board.state, room.opened()) == (State.FAILED, 0)
    carbon.faults = []
    await light(room, 4, 5, 6)
    assert carbon.led.colour == (4, 5, 6)
    assert room.board.state is State.IN_USE


async def test_a_board_that_always_fails_does_not_fill_the_log(room, carbon, caplog, monkeypatch):
    monkeypatch.setattr(Sparing, "LINES", 1)
    carbon.faults = [Fault(How.STALL, endpoint=ENDPOINT_OUT)]
    for _ in range(9):
        with pytest.raises(UsbError):
            await light(room)
    await room.rest()
    assert caplog.text.count(f"{room.board.name}: ") == 1


async def test_a_board_that_forgot_its_configuration_gets_it_again(room, carbon):
    """Section 15, pitfall 6."""
    await light(room)
    carbon.stumble()
    results = [await asyncio.gather(light(room), return_exceptions=True) for _ in range(3)]
    assert [type(result) for (result,) in results] == [NotResponding, NotResponding, type(None)]


async def test_a_board_that_was_left_with_an_answer_gives_each_its_own(room, carbon):
    """Section 15, pitfalls 1 and 2: a program that was killed between a header and its data."""
    other = await other_program(room)
    await other.write(
        ENDPOINT_OUT, bytes.fromhex("fed2521e0002800000000302043600000002").ljust(64, b"\0")
    )
    await other.close()
    carbon.button.pressed = True
    assert await room.ask(invoke(room.board, "button", "read", [])) == 1
    carbon.button.pressed = False
    assert await room.ask(invoke(room.board, "button", "read", [])) == 0


async def test_a_defect_is_told_and_costs_no_more(room, carbon, caplog):
    def turn():
        raise ZeroDivisionError
        yield

    def turns():
        yield turn()

    with pytest.raises(ZeroDivisionError):
        await room.ask(Job(turns()))
    await light(room)
    room.board.next_poll = lambda: 1 / 0
    asked = light(room)
    with pytest.raises(ZeroDivisionError):
        await asked
    assert "a defect" in caplog.text
    del room.board.next_poll
    await room.later(DEFECT_PAUSE_S)
    await light(room)


# Subscriptions


async def test_a_subscription_is_polled(room, carbon):
    told = []
    room.boards.on_event.append(lambda board, event: told.append((event.value, event.before)))
    room.board.subscribe("me", UID, "button", 5000)
    await room.rest()
    assert told == [(0, None)]
    carbon.button.pressed = True
    await room.later(IDLE_S)
    assert room.opened() == 0
    await room.later(5.0 - IDLE_S)
    assert told == [(0, None), (1, 0)]


async def test_what_a_board_prints_is_told_while_its_line_is_open(room, carbon, monkeypatch):
    monkeypatch.setattr(texts_module, "READ_SECONDS", 0.01)
    told = asyncio.Queue()
    room.sessions.on_text = lambda board, text: told.put_nowait((board.name, text))
    await light(room)
    carbon.say("before")
    assert room.opened() == 1
    room.sessions.listen(room.board, True)
    carbon.say("hello")
    assert [await told.get(), await told.get()] == [
        ("carbon-1-1", "before"),
        ("carbon-1-1", "hello"),
    ]
    assert room.opened() == 2
    await room.rest()
    await room.later(IDLE_S)
    assert room.opened() == 0


# Boards behind sockets


@pytest.fixture
async def far(room):
    """A function that makes a board of a generation, and our end of the socket to it."""
    made = []

    def make(generation):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        board = FarBoard(theirs, generation)
        made.append((theirs, asyncio.create_task(board.run())))
        return board, ours

    yield make
    for theirs, task in made:
        task.cancel()
        await asyncio.wait([task])
        theirs.close()


@pytest.mark.parametrize("generation", list(Generation))
async def test_a_board_behind_a_socket(room, far, generation):
    _, ours = far(generation)
    attached = await room.sessions.attach("udp:far:3258", ours, "far")
    assert (attached.name, attached.generation) == ("far", generation)
    await room.ask(invoke(attached, "led", "rgb", (1, 2, 3)))
    room.sessions.detach("udp:far:3258")
    await room.rest()
    assert not room.boards.boards
    assert ours.fileno() == -1


async def test_where_there_is_no_board_there_is_none(room, far, monkeypatch):
    monkeypatch.setattr(socketline_module, "ANSWER_SECONDS", 0.01)
    board, ours = far(Generation.G1)
    board.lost = 999
    with pytest.raises(NotResponding):
        await room.sessions.attach("udp:far:3258", ours)
    assert not room.boards.boards
    assert ours.fileno() == -1


async def test_a_socket_that_is_closed_takes_the_board_along(room, far):
    board, ours = far(Generation.G1)
    attached = await room.sessions.attach("udp:far:3258", ours)
    board.socket.close()
    with pytest.raises(Disconnected):
        await room.ask(invoke(attached, "led", "rgb", (1, 2, 3)))
    await room.rest()
    assert not room.boards.boards

"""Programs that speak FMR, and boards that they share with others."""

import asyncio
import os
import pwd
import socket

import pytest
from flipper.native.strangers import READ, RGB, UID, House, until
from flipper.native.test_socketline import FarBoard
from flipper.wire.vectors import vector

from buswork.authority import Limits
from buswork.flipper.model.calls import invoke
from buswork.flipper.model.claims import Claim
from buswork.flipper.native import line as line_module
from buswork.flipper.native.fmr import (
    FREE_BYTES,
    LOAD,
    MESSAGE_SECONDS,
    USE,
    Patience,
    doors_uids,
)
from buswork.flipper.native.sessions import OPEN_PAUSE_S
from buswork.flipper.wire.carbon import INTERFACE
from buswork.flipper.wire.errors import Error, number_of
from buswork.flipper.wire.exchanges import Exchange, outgoing
from buswork.flipper.wire.packets import Call, Load, Lookup, Pull, Push, Send
from buswork.flipper.wire.results import Result
from buswork.flipper.wire.terms import Framing, Generation
from buswork.native.shares import CHEAP_SECONDS
from buswork.usb.worker import Worker

G1, G2 = Generation


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(line_module, "STALE_SECONDS", 0.01)


@pytest.fixture
async def house(tmp_path):
    house = House(tmp_path)
    await house.sessions.start()
    yield house
    await house.server.stop()
    assert len(house.server) == len(house.server.crowd) == 0
    for kind in "native_connections", "waiting_bytes":
        assert house.authority.quotas.used(UID, kind) == 0
    await house.sessions.stop()
    for sock in house.programs:
        sock.close()


@pytest.fixture
async def carbon(house):
    return await house.plug()


def number(error, generation=G1):
    return number_of(error, generation)


# What goes well


async def test_a_program_calls_a_board_with_the_originals_bytes(house, carbon):
    carbon.button.pressed = True
    program = await house.connect()
    ((sent, answered),) = vector("gen1_udp_modules/led.configure").turns
    for message in sent:
        await program.send(message)
    assert [await program.receive() for _ in answered] == answered
    assert await program.ask(RGB) == (Result(0), b"")
    assert carbon.led.colour == (1, 2, 3)
    assert await program.ask(READ) == (Result(1), b"")


async def test_data_go_through_whole(house, carbon):
    program = await house.connect()
    data = bytes(range(250)) * 4
    assert await program.ask(Exchange(Push(9, 6, len(data)), data)) == (Result(0), b"")
    assert carbon.s4.spi.sent == data
    carbon.s4.usart.received += data
    assert await program.ask(Exchange(Pull(15, 3, len(data)))) == (Result(0), data)


async def test_requests_may_come_before_the_answers_are_read(house, carbon):
    program = await house.connect()
    for exchange in RGB, READ, RGB:
        (message,) = outgoing(exchange, Framing.UDP)
        await program.send(message)
    for exchange in RGB, READ, RGB:
        assert (await program.answer(exchange)).result.error == 0


async def test_who_has_nothing_more_to_ask_gets_his_answers(house, carbon):
    program = await house.connect()
    for exchange in RGB, READ:
        (message,) = outgoing(exchange, Framing.UDP)
        await program.send(message)
    program.socket.shutdown(socket.SHUT_WR)
    for exchange in RGB, READ:
        assert (await program.answer(exchange)).result == Result(0)
    assert await program.receive() == b""


async def test_everybody_gets_his_own_answers(house, carbon):
    programs = [await house.connect() for _ in range(3)]

    async def call(program, length):
        return [len((await program.ask(Exchange(Pull(9, 7, length)))).data) for _ in range(5)]

    asked = [call(program, 10 * at + 7) for at, program in enumerate(programs)]
    *lengths, pressed = await asyncio.gather(
        *asked, house.ask(invoke(house.board, "button", "read", []))
    )
    assert lengths == [[7] * 5, [17] * 5, [27] * 5]
    assert pressed == 0


async def test_a_board_of_the_second_generation_is_one_to_programs(house):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far = FarBoard(theirs, G2)
    task = asyncio.create_task(far.run())
    board = await house.sessions.attach("udp:far:3258", ours)
    program = await house.connect(G2)
    answer = await program.ask(Exchange(Lookup("led")))
    assert answer.result == Result(board.modules["led"].index)
    task.cancel()
    await asyncio.wait([task])
    theirs.close()


# What does not


async def test_what_is_no_packet_is_refused_as_a_board_does(house, carbon):
    program = await house.connect()
    await program.send(b"nonsense")
    assert (await program.receive())[4] == number(Error.E_CHECKSUM)
    assert (await program.ask(Exchange(Call(77, 0, 4)))).result.error == number(Error.E_MODULE)
    assert not carbon.calls


async def test_there_is_no_board(house):
    program = await house.connect()
    assert (await program.ask(RGB)).result.error == number(Error.E_NO_DEVICE)
    await house.plug()
    assert (await program.ask(RGB)).result.error == 0


@pytest.mark.parametrize(
    ("action", "exchange"),
    [(USE, RGB), (LOAD, Exchange(Load(4), b"code")), (LOAD, Exchange(Send(4), b"data"))],
)
async def test_who_may_not_gets_an_error(house, carbon, action, exchange):
    house.polkit.denied.add(action)
    program = await house.connect()
    assert (await program.ask(exchange)).result.error == number(Error.E_UNIMPLEMENTED)
    assert not carbon.record
    assert not carbon.calls


async def test_who_may_touch_the_memory_does(house, carbon):
    program = await house.connect()
    assert (await program.ask(Exchange(Send(4), b"data"))).result.error == 0


async def test_half_a_push_is_never_sent(house, carbon):
    program = await house.connect()
    header, _ = outgoing(Exchange(Push(9, 6, 5), b"hello"), Framing.UDP)
    await program.send(header)
    program.socket.close()
    await house.until_alone()
    assert not house.board.turns.has_work
    assert not carbon.calls


async def test_who_leaves_takes_his_request_along(house, carbon):
    another = Worker(house.backend.devices[0], house.backend)
    await another.open()
    await another.claim(INTERFACE)
    programs = [await house.connect() for _ in range(2)]
    for program in programs:
        (message,) = outgoing(RGB, Framing.UDP)
        await program.send(message)
    await until(lambda: len(house.board.turns.waiting()) == 2)
    await house.rest()  # until the board is free
    for program in programs:
        program.socket.close()
    await house.until_alone()
    assert not house.board.turns.has_work
    await another.close()
    await house.later(OPEN_PAUSE_S)
    assert await (await house.connect()).ask(READ) == (Result(0), b"")
    assert [called.function for called in carbon.calls] == ["read"]


async def test_who_does_not_read_is_cut_off(house, carbon):
    house.server.patience = Patience(unread_seconds=0.01)
    program = await house.connect()
    (message,) = outgoing(Exchange(Pull(9, 7, 60_000)), Framing.UDP)
    for _ in range(10):
        await program.send(message)
    await house.until_alone()
    other = await house.connect()
    assert await other.ask(READ) == (Result(0), b"")


async def test_a_uid_has_so_many_connections(house, caplog):
    programs = [await house.connect() for _ in range(5)]
    assert await programs[-1].receive() == b""
    assert "4 native connections" in caplog.text
    assert len(house.server) == 4


async def test_when_there_are_too_many_one_of_them_ends(house, caplog):
    house.server.crowd.most = 1
    first, second = await house.connect(), await house.connect()
    assert await first.receive() == b""
    assert (await second.ask(RGB)).result.error == number(Error.E_NO_DEVICE)
    assert "one was closed" in caplog.text


async def test_at_the_end_what_is_in_flight_is_answered(house, carbon):
    busy, idle = await house.connect(), await house.connect()
    (message,) = outgoing(RGB, Framing.UDP)
    assert (await idle.ask(READ)).result == Result(0)
    await busy.send(message)
    await until(lambda: house.board.turns.has_work or carbon.led.colour != (0, 0, 0))
    await house.server.stop()
    assert (await busy.answer(RGB)).result == Result(0)
    assert await busy.receive() == await idle.receive() == b""


async def test_a_push_without_its_data_ends_the_connection(house, carbon):
    house.server.patience = Patience(data_seconds=0.01)
    program = await house.connect()
    header, _ = outgoing(Exchange(Push(9, 6, 5), b"hello"), Framing.UDP)
    await program.send(header)
    assert await program.receive() == b""
    assert not carbon.calls


async def test_who_has_too_much_waiting_is_refused(house, carbon):
    house.authority.quotas.take(UID, "waiting_bytes", Limits().waiting_bytes).release()
    lease = house.authority.quotas.take(UID, "waiting_bytes", Limits().waiting_bytes - FREE_BYTES)
    program = await house.connect()
    data = bytes(2 * FREE_BYTES)
    pushed = await program.ask(Exchange(Push(9, 6, len(data)), data))
    assert pushed.result.error == number(Error.E_OVERFLOW)
    assert await program.ask(READ) == (Result(0), b"")
    lease.release()


async def test_a_message_is_charged_with_what_it_costs_to_come_and_go(house, monkeypatch):
    charged = []
    monkeypatch.setattr(house.commons.shares, "charge", lambda *what: charged.append(what))
    program = await house.connect()
    await program.send(b"nonsense")
    await program.receive()
    ((uid, seconds),) = charged
    assert uid == UID
    assert seconds > MESSAGE_SECONDS >= CHEAP_SECONDS  # below, nothing is charged


# Which board


async def greeted(program, line):
    await program.send(line)
    return await program.receive()


async def test_a_program_names_its_board(house, carbon):
    second = await house.plug(port="1-2")
    program = await house.connect()
    assert await greeted(program, b"board carbon-1-1\n") == b"ok\n"
    await program.ask(RGB)
    assert (carbon.led.colour, second.led.colour) == ((1, 2, 3), (0, 0, 0))


async def test_who_names_none_stays_with_the_one_that_was_current(house, carbon):
    program = await house.connect()
    assert await program.ask(RGB) == (Result(0), b"")
    second = await house.plug(port="1-2")
    assert (await program.ask(RGB)).result.error == 0
    assert second.led.colour == (0, 0, 0)
    await house.unplug()
    assert (await program.ask(RGB)).result.error == number(Error.E_NO_DEVICE)
    again = await house.plug()
    assert (await program.ask(RGB)).result.error == 0
    assert (again.led.colour, second.led.colour) == ((1, 2, 3), (0, 0, 0))


async def test_a_board_that_is_named_may_come_later(house, carbon):
    program = await house.connect()
    refusal = await greeted(program, b"board carbon-1-2")
    assert refusal == b"error There is no board 'carbon-1-2'.\n"
    assert (await program.ask(RGB)).result.error == number(Error.E_NO_DEVICE)
    second = await house.plug(port="1-2")
    await program.ask(RGB)
    assert (carbon.led.colour, second.led.colour) == ((0, 0, 0), (1, 2, 3))


@pytest.mark.attack(4)
@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"board \n", b"begins with: board NAME"),
        (b"board a b\n", b"begins with"),
        (b"board carbon-1-1\x1b[31m\n", b"begins with"),
        (b"board carbon-1-1 for 0\n", b"may not speak for others"),
    ],
)
async def test_who_names_a_board_wrongly_is_sent_away(house, carbon, line, why):
    """The last one is attack 4: a uid that the caller supplies."""
    program = await house.connect()
    assert why in await greeted(program, line)
    assert await program.receive() == b""


async def test_who_may_not_use_boards_is_told_of_none(house, carbon):
    house.polkit.denied.add(USE)
    program = await house.connect()
    assert USE.encode() in await greeted(program, b"board carbon-1-2\n")
    assert (await program.ask(RGB)).result.error == number(Error.E_UNIMPLEMENTED)
    house.polkit.denied.clear()  # and then it is the board that was named
    assert (await program.ask(RGB)).result.error == number(Error.E_NO_DEVICE)


async def test_only_the_first_message_names_a_board(house, carbon):
    program = await house.connect()
    assert await program.ask(READ) == (Result(0), b"")
    assert (await greeted(program, b"board carbon-1-1\n"))[4] == number(Error.E_CHECKSUM)


@pytest.mark.attack(14)
async def test_a_door_speaks_for_users(tmp_path):
    house = House(tmp_path, doors={UID})
    await house.sessions.start()
    await house.plug()
    another = Worker(house.backend.devices[0], house.backend)
    await another.open()
    await another.claim(INTERFACE)
    program = await house.connect()
    assert await greeted(program, b"board carbon-1-1 for 4711\n") == b"ok\n"
    (message,) = outgoing(RGB, Framing.UDP)
    await program.send(message)
    await until(house.board.turns.waiting)
    assert [(str(owner), uid) for owner, uid, _ in house.board.turns.waiting()] == [
        (f"pid:{os.getpid()}", 4711)
    ]
    program.socket.close()
    await house.server.stop()
    await house.sessions.stop()
    await another.close()


def test_the_doors_process_and_we_ourselves_are_doors(monkeypatch):
    assert UID in doors_uids()
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.getpwuid(0))
    assert doors_uids() == {UID, 0}


# Channels


async def test_a_channel_is_for_one_board(house, carbon):
    second = await house.plug(port="1-2")
    program, ended = house.channel(board="carbon-1-1")
    await program.ask(RGB)
    assert (carbon.led.colour, second.led.colour) == ((1, 2, 3), (0, 0, 0))
    program.socket.close()
    await ended.wait()


async def test_a_channel_is_its_owners(house, carbon):
    claim = Claim("usb:1-1", "me", UID, "a test", 60, "token")
    house.board.turns.claim(claim, house.clock.now(), lambda claim, error: None)
    mine, _ = house.channel("me")
    theirs, _ = house.channel("them")
    assert (await mine.ask(RGB)).result.error == 0
    assert (await theirs.ask(RGB)).result.error == number(Error.E_ALREADY_ATTACHED)


async def test_a_channel_can_be_ended(house, carbon):
    first, ended = house.channel()
    end = house.end_channel
    second, _ = house.channel()
    end()
    await ended.wait()
    assert await first.receive() == b""
    assert (await second.ask(RGB)).result.error == 0


async def test_a_channel_stays_with_its_board(house, carbon):
    await house.plug(port="1-2")
    program, _ = house.channel(board="carbon-1-1")
    assert (await greeted(program, b"board carbon-1-2\n"))[4] == number(Error.E_CHECKSUM)
    assert (await program.ask(RGB)).result.error == 0
    assert carbon.led.colour == (1, 2, 3)


async def test_a_channel_is_asked_about_memory_alone(house, carbon):
    program, _ = house.channel(denied={USE, LOAD})
    assert (await program.ask(RGB)).result.error == 0
    answer = await program.ask(Exchange(Load(4), b"code"))
    assert answer.result.error == number(Error.E_UNIMPLEMENTED)

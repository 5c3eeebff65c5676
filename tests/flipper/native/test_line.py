"""The line to a board on USB. Deadlines are short here, and nothing is about how long it takes."""

import asyncio
import threading
from functools import partial

import pytest
from flipper.native.boards import ScriptedBoard, counting
from flipper.wire.vectors import vector

from buswork.errors import Busy
from buswork.flipper.errors import Disconnected, NotResponding
from buswork.flipper.model.work import Pause, single
from buswork.flipper.native import line as module
from buswork.flipper.native.line import usb_line
from buswork.flipper.wire.carbon import ENDPOINT_IN, ENDPOINT_OUT
from buswork.flipper.wire.exchanges import Answer, Exchange
from buswork.flipper.wire.packets import Call, Lookup, Pull, Push, Read, encode_request
from buswork.flipper.wire.plans import ALIVE
from buswork.flipper.wire.results import Result, encode_result
from buswork.flipper.wire.terms import BadAnswer, Generation, Type
from buswork.sim.device import Fault, How
from buswork.sim.usb import SimBackend
from buswork.usb.link import UsbError
from buswork.usb.worker import Worker
from buswork.usb.workers import Workers

PULL, PUSH = Exchange(Pull(3, 3, 100)), Exchange(Push(3, 2, 5), b"hello")


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.02)
    monkeypatch.setattr(module, "STALE_SECONDS", 0.01)


@pytest.fixture
def backend():
    return SimBackend()


@pytest.fixture
def board(backend):
    board = ScriptedBoard()
    backend.plug(board)
    return board


@pytest.fixture
def opened(backend):
    workers = Workers(lambda device: Worker(device, backend))
    return partial(usb_line, workers, backend.devices[0])


@pytest.fixture
async def line(board, opened):
    async with opened() as line:
        yield line


async def value(line, exchange=ALIVE):
    return (await line.run(single(exchange))).result.value


def said(board, *replies):
    """The board says this to the next packet, and is honest again after that."""
    honest, board.answer = board.answer, None

    def once(asked):
        board.answer = honest
        return list(replies)

    board.answer = once


# What goes well


async def test_a_turn_is_its_exchanges_and_what_it_returns(line, board):
    def turn():
        first = yield ALIVE
        yield Pause(0.001)
        second = yield PULL
        assert second == Answer(Result(2), bytes([2]) * 100)
        return Answer(Result(first.result.value + second.result.value))

    assert await line.run(turn()) == Answer(Result(3))
    assert await line.run(single(PUSH)) == Answer(Result(3))
    assert [len(packet) for packet in board.packets] == [64] * 4


async def test_a_turn_may_be_over_before_it_begins(line, board):
    def turn():
        return Answer(Result(7))
        yield

    assert await line.run(turn()) == Answer(Result(7))
    assert board.packets == []


async def test_what_a_turn_raises_is_raised(line):
    def turn():
        yield ALIVE
        raise LookupError("of the turn")

    with pytest.raises(LookupError, match="of the turn"):
        await line.run(turn())
    assert await value(line) == 2


async def test_a_board_of_the_second_generation_sends_short_packets(backend):
    board = ScriptedBoard(Generation.G2)
    worker = Worker(backend.plug(board), backend)
    await worker.open()
    await worker.claim(0)
    line = module.UsbLine(worker, Generation.G2)
    assert await line.run(single(Exchange(Read(100, 0)))) == Answer(Result(1), bytes([1]) * 100)
    assert await value(line) == 2
    question = encode_request(Lookup("led"), Generation.G2)
    said(board, question, encode_result(Result(5), Generation.G2))
    assert await value(line, Exchange(Lookup("led"))) == 5
    await worker.close()
    assert [len(packet) for packet in board.packets] == [18, 64, 64, 9]


async def test_the_bytes_are_the_originals(line, board):
    ((sent, answered),) = vector("gen1_usb_board/u2.led.configure").turns
    said(board, *answered)
    assert await line.run(single(Exchange(Call(2, 0, Type.INT)))) == Answer(Result(0))
    assert board.packets == sent


# Who has it


async def test_another_program_has_the_board(backend, board, opened):
    other = Worker(backend.devices[0], backend)
    await other.open()
    await other.claim(0)
    with pytest.raises(Busy, match="another program"):
        async with opened():
            raise AssertionError("it is busy")
    await other.close()
    async with opened() as line:
        assert await value(line) == 1
    assert backend.plug_at("1-1").opened == 0


async def test_a_board_that_left(backend, board, opened):
    gone = opened()
    backend.plug_at("1-1").path = (2,)
    with pytest.raises(Disconnected):
        async with gone:
            raise AssertionError("it is gone")


# What comes for others


async def test_a_result_that_nobody_read_is_nobodys(board, opened):
    """Section 15, pitfall 1."""
    board.replies.append(b"stale".ljust(64, b"\0"))
    async with opened() as line:
        assert await value(line) == 1
        assert not board.replies


@pytest.mark.parametrize("exchange", [ALIVE, PULL, PUSH])
async def test_a_late_answer_is_nobodys(line, board, exchange):
    said(board)
    with pytest.raises(NotResponding):
        await line.run(single(exchange))
    board.replies += [b"late".ljust(64, b"\0")] * 2
    assert await value(line) == 1
    assert line.is_open


async def test_who_leaves_takes_the_answer_along(line, board):
    entered, go_on = threading.Event(), threading.Event()

    def slowly(asked):
        entered.set()
        go_on.wait()
        board.answer = counting()
        return Answer(Result(4711))

    board.answer = slowly
    first = asyncio.create_task(value(line))
    await asyncio.to_thread(entered.wait)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(value(line))
    go_on.set()
    assert await second == 1
    assert first.cancelled()


async def test_answers_to_data_that_were_taken_for_packets_are_nobodys(line, board):
    """Section 15, pitfall 3."""
    said(board, *[bytes(4) + b"\x01" + bytes(59)], *[bytes(4) + b"\x12" + bytes(59)] * 2)
    assert (await line.run(single(PUSH))).result.error == 1
    assert await value(line) == 1


async def test_no_memory_for_a_pull(line, board):
    """Section 15, pitfall 4."""
    said(board, b"\xff\xff\xff\xff\x01".ljust(64, b"\0"))
    assert await line.run(single(PULL)) == Answer(Result(0xFFFFFFFF, 1))
    assert await value(line) == 1


# Boards that misbehave


@pytest.mark.parametrize("replies", [[b""], [b"short"], [b"\0" * 63], [b"\0" * 64, b"x"]])
async def test_nonsense_is_no_answer(line, board, replies):
    said(board, *replies)
    with pytest.raises(BadAnswer):
        await line.run(single(PULL))
    assert await value(line) == 1


async def test_more_than_a_packet_is_a_failed_transfer(line, board):
    said(board, bytes(65))
    with pytest.raises(UsbError) as caught:
        await value(line)
    assert caught.value.kind == "io"
    assert await value(line) == 1


async def test_a_board_that_does_not_stop_talking(line, board, monkeypatch):
    monkeypatch.setattr(board, "send", lambda endpoint, length: bytes(64))
    with pytest.raises(BadAnswer, match="16 times"):
        await value(line)
    assert board.packets == []
    monkeypatch.undo()
    assert await value(line) == 1


@pytest.mark.parametrize("endpoint", [ENDPOINT_IN, ENDPOINT_OUT])
async def test_a_stalled_endpoint_is_an_error(line, board, endpoint):
    assert await value(line) == 1
    board.faults = [Fault(How.STALL, endpoint=endpoint, times=1)]
    with pytest.raises(UsbError) as caught:
        await value(line)
    assert caught.value.kind == "stall"
    assert await value(line) >= 2


async def test_a_board_may_need_its_configuration_first(board, opened):
    """Section 15, pitfall 6."""
    async with opened(afresh=True) as line:
        assert await value(line) == 1
    assert board.configured == 1
    board.faults = [Fault(How.STALL, request=9)]
    async with opened(afresh=True) as line:
        assert await value(line) == 2


@pytest.mark.parametrize("endpoint", [ENDPOINT_IN, ENDPOINT_OUT])
@pytest.mark.parametrize("step", range(2))
async def test_a_board_vanishes_at_any_step(line, board, endpoint, step):
    for _ in range(step):
        await value(line)
    board.faults = [Fault(How.VANISH, endpoint=endpoint)]
    with pytest.raises(Disconnected):
        await value(line)
    assert not line.is_open
    with pytest.raises(Disconnected):
        await value(line)

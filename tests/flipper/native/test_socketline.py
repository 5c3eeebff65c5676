"""The line to a board behind a socket, whose datagrams come late, twice or never."""

import asyncio
import socket
from contextlib import suppress

import pytest
from flipper.native.boards import counting
from support.skipping import skip_waiting

from buswork.flipper.errors import Disconnected, NotResponding
from buswork.flipper.model.work import Pause, single
from buswork.flipper.native import socketline as module
from buswork.flipper.native.socketline import SocketLine
from buswork.flipper.wire.errors import Error
from buswork.flipper.wire.exchanges import Answer, Exchange, RequestReader, answering
from buswork.flipper.wire.packets import Pull, Push, encode_request
from buswork.flipper.wire.plans import ALIVE
from buswork.flipper.wire.results import Result, refused
from buswork.flipper.wire.terms import BadAnswer, Framing, Generation

PULL, PUSH = Exchange(Pull(15, 3, 100)), Exchange(Push(15, 2, 5), b"hello")


@pytest.fixture(autouse=True)
async def skipping():
    skip_waiting()


class FarBoard:
    """`lost` datagrams don't reach it, then it answers; `say` is what it says to the next one."""

    def __init__(self, sock, generation):
        self.socket = sock
        sock.setblocking(False)
        self.generation = generation
        self.reader = RequestReader(Framing.UDP, generation)
        self.answer = counting()
        self.lost = 0
        self.says = None
        self.received = []
        self.heard = asyncio.Event()

    async def run(self):
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while message := await loop.sock_recv(self.socket, 65536):
                self.received.append(message)
                self.heard.set()
                if self.lost:
                    self.lost -= 1
                elif self.says is not None:
                    messages, self.says = self.says, None
                    await self.say(*messages)
                else:
                    for asked in self.reader.feed(message):
                        if answer := self.answer(asked):
                            await self.say(*answering(answer, Framing.UDP, self.generation))

    async def say(self, *messages):
        for message in messages:
            await asyncio.get_running_loop().sock_sendall(self.socket, message)


@pytest.fixture(params=list(Generation))
def generation(request):
    return request.param


@pytest.fixture
async def ends(generation):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    board = FarBoard(theirs, generation)
    task = asyncio.create_task(board.run())
    with ours, theirs:
        yield SocketLine(ours), board
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def board(ends):
    return ends[1]


@pytest.fixture
async def line(ends):
    line = ends[0]
    await line.open()
    return line


async def value(line, exchange=ALIVE):
    return (await line.run(single(exchange))).result.value


async def test_opening_shows_the_generation(ends, generation):
    line, board = ends
    await line.open()
    assert line.generation is generation
    assert len(board.received) == 1


async def test_what_comes_before_does_not_show_it(ends, generation):
    line, board = ends
    await board.say(bytes(5), bytes(9), b"neither")
    await line.open()
    assert line.generation is generation
    assert await value(line) == 1


async def test_a_turn_is_its_exchanges_and_what_it_returns(line, board):
    def turn():
        first = yield ALIVE
        yield Pause(0.001)
        second = yield ALIVE
        return Answer(Result(10 * first.result.value + second.result.value))

    assert await line.run(turn()) == Answer(Result(12))
    assert len(board.received) == 3


@pytest.mark.parametrize("generation", [Generation.G1], indirect=True)
async def test_data_are_a_datagram_each(line, board):
    assert await line.run(single(PUSH)) == Answer(Result(1))
    assert board.received[-1] == b"hello"
    assert await line.run(single(PULL)) == Answer(Result(2), bytes([2]) * 100)


async def test_without_a_board_there_is_an_error(ends, board):
    board.lost = 999
    with pytest.raises(NotResponding):
        await ends[0].open()
    assert len(board.received) == 1 + (module.PROBES - 1) * (module.PROBE_BITS + 1)


async def test_a_probe_may_be_lost(ends, board):
    board.lost = 1
    await ends[0].open()
    assert await value(ends[0]) == 1


async def test_a_late_answer_is_nobodys(line, board, generation):
    board.lost = 1
    with pytest.raises(NotResponding):
        await value(line)
    await board.say(*answering(Answer(Result(4711)), Framing.UDP, generation))
    assert await value(line) == 1


@pytest.mark.parametrize("generation", [Generation.G1], indirect=True)
async def test_a_late_complaint_is_nobodys(line, board, generation):
    board.lost = 2
    with pytest.raises(NotResponding):
        await value(line, PUSH)
    complaint = Answer(refused(Error.E_CHECKSUM, generation))
    await board.say(*answering(complaint, Framing.UDP, generation))
    assert await value(line) == 1


async def test_an_answer_that_comes_while_the_board_is_asked_for_others_is_nobodys(
    line, board, generation
):
    board.lost = 1
    with pytest.raises(NotResponding):
        await value(line)
    honest = board.answer

    def late(asked):
        board.answer = honest
        for message in answering(Answer(Result(4711)), Framing.UDP, generation):
            board.socket.send(message)
        return honest(asked)

    board.answer = late
    assert await value(line) == 1


async def test_an_answer_that_comes_twice_is_nobodys(line, board, generation):
    assert await value(line) == 1
    await board.say(*answering(Answer(Result(1)), Framing.UDP, generation))
    assert await value(line) == 2
    assert await value(line) == 3


async def test_the_answer_to_who_left_is_nobodys(line, board):
    board.lost = 1
    first = asyncio.create_task(value(line))
    board.heard.clear()
    await board.heard.wait()
    first.cancel()
    await asyncio.wait([first])
    assert await value(line) == 1


@pytest.mark.parametrize("generation", [Generation.G1], indirect=True)
async def test_what_is_taken_for_anothers_data_is_sent_again(ends, board):
    """A board waits for ever for the data of a client that died (section 13)."""
    board.reader.feed(encode_request(Push(15, 2, 64)))
    line, _ = ends
    await line.open()
    assert await value(line) == 2


async def test_nonsense_is_no_answer(line, board):
    board.says = [b"nonsense"]
    with pytest.raises(BadAnswer):
        await value(line)
    assert await value(line) == 1


async def test_a_board_that_does_not_stop_talking(line, board, generation, monkeypatch):
    monkeypatch.setattr(module, "MAX_LATE", 30)
    message = answering(Answer(Result(1)), Framing.UDP, generation)
    for _ in range(40):
        await board.say(*message)
    with pytest.raises(BadAnswer, match="more than it was asked"):
        await value(line)


async def test_the_other_end_leaves(line, board):
    board.socket.close()
    with pytest.raises(Disconnected):
        await value(line)
    assert not line.is_open

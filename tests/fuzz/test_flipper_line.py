"""A board that says anything at all: turns end in time, and an honest answer is whose it is.

BUSWORK_FUZZ_EXAMPLES=100000 makes it long: ten times as many answers.
"""

import asyncio
import os
import random
import socket
from collections import Counter, deque

from flipper.native.boards import counting
from support.skipping import skip_waiting

from buswork.flipper.errors import NotResponding
from buswork.flipper.model.work import Pause, single
from buswork.flipper.native.line import (
    ANSWER_SECONDS,
    MAX_STALE,
    STALE_SECONDS,
    TURN_SECONDS,
    UsbLine,
)
from buswork.flipper.native.socketline import SocketLine
from buswork.flipper.wire.errors import BoardError
from buswork.flipper.wire.exchanges import Answer, Exchange, Refused, RequestReader, answering
from buswork.flipper.wire.packets import Call, Pull, Push
from buswork.flipper.wire.plans import ALIVE, BridgeError, bridged
from buswork.flipper.wire.results import Result
from buswork.flipper.wire.terms import BadAnswer, Framing, Generation, Type
from buswork.usb.link import TIMED_OUT, UsbError

ANSWERS = max(100_000, 10 * int(os.environ.get("BUSWORK_FUZZ_EXAMPLES", "60")))
DATAGRAMS = ANSWERS // 200
REFUSALS = BadAnswer, UsbError, BoardError, BridgeError
HONEST, WRONG = "honest", "wrong"


class AnyBoard:
    """The transfers with a board that is honest or not, in a time of its own."""

    def __init__(self, source, generation):
        self.random = source
        self.generation = generation
        self.reader = RequestReader(Framing.USB, generation)
        self.honest = counting()
        self.replies = deque()
        self.said = 0
        self.begin(HONEST)

    def begin(self, mood):
        """A turn."""
        self.mood = mood
        self.left = TURN_SECONDS
        self.last = None

    def write(self, endpoint, data, timeout):
        self._take_time(0.001)
        for asked in self.reader.feed(data):
            answer = self.honest(asked)
            if isinstance(answer, Answer) and not isinstance(asked.request, Call):
                answer = Answer(Result(0), answer.data)  # all went well
            self.last = answer
            said = answering(answer, Framing.USB, self.generation)
            self.replies += said if self.mood is HONEST else self._anything(said)

    def read(self, endpoint, length, timeout):
        self._take_time(0.001)
        if not self.replies:
            self._take_time(timeout)
            raise UsbError(TIMED_OUT, "silence")
        self.said += 1
        return self.replies.popleft()[:length]

    def exchange(self, out, data, back, length, timeout):
        self.write(out, data, timeout)
        return self.read(back, length, timeout)

    def pause(self, seconds):
        self._take_time(seconds)

    def _take_time(self, seconds):
        if self.left <= 0:
            raise UsbError(TIMED_OUT, "there is no time left")
        self.left -= seconds

    def _anything(self, said):
        match self.random.randrange(6):
            case 0:
                return said[1:]
            case 1:
                return [*said, *said]
            case 2:
                return [self._bytes() for _ in range(self.random.randrange(MAX_STALE))]
            case 3:
                return [packet[: self.random.randrange(65)] for packet in said]
            case 4:
                return [*said, self._bytes()]
            case _:
                return [bytes((packet[0] ^ 1, *packet[1:])) for packet in said]

    def _bytes(self):
        size = self.random.choice((0, 5, 9, 63, 64, self.random.randrange(65)))
        return self.random.choice((self.random.randbytes(size), bytes(size)))


def some_turn(source):
    length = source.randint(1, 128)
    match source.randrange(4):
        case 0:
            return single(ALIVE)
        case 1:
            return single(Exchange(Pull(3, 3, length)))
        case 2:
            return single(Exchange(Push(3, 2, length), source.randbytes(length)))
        case _:
            return paused(bridged(Exchange(Call(0, 0, Type.INT))))


def paused(turn):
    yield Pause(0.01)
    return (yield from turn)


def test_any_answer_of_a_board_on_usb():
    source = random.Random(15)
    board = AnyBoard(source, Generation.G1)
    talk = UsbLine(None)._talk
    ends = Counter()
    while board.said < ANSWERS:
        board.begin(source.choice((HONEST, WRONG)))
        turn = some_turn(source)
        try:
            answer = talk.run(turn, board)
        except REFUSALS as error:
            ends[board.mood, type(error).__name__] += 1
        else:
            ends[board.mood, "answered"] += 1
            if board.mood is HONEST and turn.gi_code is single.__code__:
                assert answer == board.last
        assert board.left > -1.0
        if talk._is_clean:
            # What a board says after a right answer looks like that to the next exchange, and
            # nothing tells them apart; no real one does that.
            board.replies.clear()
    assert ends[HONEST, "answered"] > 1000
    assert ends[WRONG, "answered"] > 1000
    assert ends[WRONG, "BadAnswer"] > 1000
    assert ends[WRONG, "UsbError"] > 1000


def _meant(exchange):
    return sum(exchange.data) + getattr(exchange.request, "module", 0)


class LossyBoard:
    """Behind a socket: what it is sent and says gets lost, and it takes its time, which is skipped,
    and sometimes more than anybody waits. Each answer tells to what it belongs."""

    def __init__(self, source, sock):
        self.random = source
        self.socket = sock
        self.reader = RequestReader(Framing.UDP)

    async def run(self):
        loop = asyncio.get_running_loop()
        while message := await loop.sock_recv(self.socket, 65536):
            if self._happens(50):
                await asyncio.sleep(self.random.random() * STALE_SECONDS)
            if self._happens(100):
                await asyncio.sleep(3 * ANSWER_SECONDS)
            if self._happens(100):
                continue
            for asked in self.reader.feed(message):
                answer = asked if isinstance(asked, Refused) else Answer(Result(_meant(asked)))
                for said in answering(answer, Framing.UDP):
                    if not self._happens(100):
                        self.socket.send(said)

    def _happens(self, times):
        """Once in so many times."""
        return not self.random.randrange(times)


async def test_a_board_that_is_far_away_and_an_unreliable_way_to_it():
    skip_waiting()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    source = random.Random(13)
    board = asyncio.create_task(LossyBoard(source, theirs).run())
    line = SocketLine(ours, Generation.G1)
    ends = Counter()
    with ours, theirs:
        while ends["answered"] < DATAGRAMS:
            data = source.randbytes(source.randint(1, 100))
            number = source.randrange(18)
            exchange = Exchange(Push(number, 2, len(data)), data)
            try:
                answer = await line.run(single(exchange))
            except (NotResponding, BadAnswer) as error:
                ends[type(error).__name__] += 1
                continue
            if answer.result.error:  # of a probe that comes too late; it is no wrong success
                ends["refused"] += 1
                continue
            ends["answered"] += 1
            assert answer.result.value == _meant(exchange)
            assert not board.done()
        board.cancel()
        await asyncio.wait([board])
    assert ends["NotResponding"] > DATAGRAMS / 20

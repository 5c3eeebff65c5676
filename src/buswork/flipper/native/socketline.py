"""The line to a board behind a socket that keeps messages apart, each of them a datagram.

Datagrams get lost, come twice and come late (section 13), and no answer says to what it belongs.
So wherever something may still be on its way, the board is sent packets that it does nothing
with, some with a wrong checksum: it answers in order, and which answers complain is a pattern that
was made up for this time. What comes before the pattern was for others. Left to chance is what the
network brings twice, or not in its order, while an answer of the same size is waited for.
"""

import asyncio
import random
import socket
from collections import deque
from collections.abc import Coroutine
from contextlib import closing, suppress
from typing import TypeVar

from buswork.flipper.errors import Disconnected, NotResponding
from buswork.flipper.model.work import Pause, Turn
from buswork.flipper.native.line import ANSWER_SECONDS, TURN_SECONDS, is_out_of_step
from buswork.flipper.wire.errors import Error, error_of
from buswork.flipper.wire.exchanges import Answer, AnswerReader, Exchange, outgoing
from buswork.flipper.wire.packets import Unknown, encode_request
from buswork.flipper.wire.results import RESULT_BYTES, parse_result
from buswork.flipper.wire.terms import BadAnswer, Framing, Generation

T = TypeVar("T")

# How often a pattern is tried; datagrams get lost.
PROBES = 3
# So many that no other pattern looks like it by chance, in any part.
PROBE_BITS = 24
# What may have been on its way: patterns that were tried in vain.
MAX_LATE = 1024
# More than any datagram.
MESSAGE_BYTES = 65536

# Of a class that there is not, in neither generation: accepted or refused, and nothing done.
_EMPTY = encode_request(Unknown(0xFF))
_WRONG = bytes((_EMPTY[0], _EMPTY[1] ^ 0xFF)) + _EMPTY[2:]


class SocketLine:
    def __init__(self, sock: socket.socket, generation: Generation | None = None) -> None:
        """generation: None, if the board is to be asked, which opening does."""
        sock.setblocking(False)
        self._socket = sock
        self._generations = tuple(Generation) if generation is None else (generation,)
        # What another program has asked the board for may come to us.
        self._is_certain = False
        self._complains_late = False
        self.is_open = True

    @property
    def generation(self) -> Generation:
        """What the board has shown to be."""
        return self._generations[0]

    async def open(self) -> None:
        """NotResponding: there is no board."""
        await self._in_time(self._make_certain())

    async def run(self, turn: Turn) -> Answer:
        return await self._in_time(self._follow(turn))

    async def _in_time(self, work: Coroutine[None, None, T]) -> T:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                return await work
        except TimeoutError as error:
            raise NotResponding("the board did not answer in time") from error
        except OSError as error:
            self.is_open = False
            raise Disconnected(f"the way to the board is closed: {error}") from error

    async def _follow(self, turn: Turn) -> Answer:
        with closing(turn):
            try:
                step = next(turn)
                while True:
                    if isinstance(step, Pause):
                        await asyncio.sleep(step.seconds)
                        step = next(turn)
                    else:
                        step = turn.send(await self._exchange(step))
            except StopIteration as done:
                answer: Answer = done.value
                return answer

    async def _exchange(self, exchange: Exchange) -> Answer:
        datagrams = outgoing(exchange, Framing.UDP, self.generation)
        reader = AnswerReader(exchange, Framing.UDP, self.generation)
        if not self._is_certain or self._is_something_there():
            await self._make_certain()
        self._is_certain = False
        # Of data whose header was lost the board does complain.
        self._complains_late = bool(exchange.data)
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._send(datagrams)
            while (answer := reader.feed(await self._receive())) is None:
                await self._send(reader.data_to_send())
        self._is_certain = not is_out_of_step(answer, self.generation)
        return answer

    # -- certainty -------------------------------------------------------------------------------

    async def _make_certain(self) -> None:
        self._is_certain = False
        for _ in range(PROBES):
            # An honest exchange is answered without a complaint: one is enough, unless others may
            # be on their way.
            bits = random.choices((True, False), k=PROBE_BITS) if self._complains_late else []
            self._complains_late = True
            if await self._echoes([*bits, True]):
                self._complains_late = False
                self._is_certain = True
                return
        raise NotResponding(f"the board did not answer {PROBES} times")

    async def _echoes(self, pattern: list[bool]) -> bool:
        """Whether the board's last answers are those to packets of this pattern."""
        await self._send([_WRONG if wrong else _EMPTY for wrong in pattern])
        heard: deque[bool | None] = deque(maxlen=len(pattern))
        with suppress(TimeoutError):
            for _ in range(MAX_LATE):
                async with asyncio.timeout(ANSWER_SECONDS):
                    message = await self._receive()
                generation = self._generation_of(message)
                heard.append(None if generation is None else _complains(message, generation))
                if generation is not None and pattern == [*heard]:
                    self._generations = (generation,)
                    return True
                await asyncio.sleep(0)  # there may be many that can be read without waiting
            raise BadAnswer("the board says more than it was asked")
        return False

    def _generation_of(self, message: bytes) -> Generation | None:
        """By its length; None: it is no result."""
        lengths = {RESULT_BYTES[generation]: generation for generation in self._generations}
        return lengths.get(len(message))

    def _is_something_there(self) -> bool:
        """Whether the board said something that nobody asked for, which is thrown away."""
        try:
            self._socket.recv(1)
        except BlockingIOError:
            return False
        return True

    # -- messages --------------------------------------------------------------------------------

    async def _send(self, messages: list[bytes]) -> None:
        for message in messages:
            await asyncio.get_running_loop().sock_sendall(self._socket, message)

    async def _receive(self) -> bytes:
        message = await asyncio.get_running_loop().sock_recv(self._socket, MESSAGE_BYTES)
        if not message:
            raise ConnectionResetError("the other end left")
        return message


def _complains(result: bytes, generation: Generation) -> bool:
    return error_of(parse_result(result, generation).error, generation) is Error.E_CHECKSUM

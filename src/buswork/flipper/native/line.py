"""What carries turns to a board: exchanges out, their answers back. Each board has one line.

Rules
* A line runs one turn at a time; who has it run asks for the next one when it has ended.
* An answer belongs to the exchange that waits for it, or to nobody. After anything that did not
  end as it should - a timeout, nonsense, a caller who left - the line is made clean before more
  is sent, so that what comes late never answers somebody else.
* What a board sends has a size, and what it should send a deadline: a turn ends within
  TURN_SECONDS, with an answer or an error that has a name.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Final, Protocol

from buswork.errors import BusworkError, Busy
from buswork.flipper.errors import Disconnected, NotResponding
from buswork.flipper.model.work import Pause, Turn
from buswork.flipper.wire.carbon import (
    CONFIGURATION,
    ENDPOINT_IN,
    ENDPOINT_OUT,
    INTERFACE,
    STALE_MS,
)
from buswork.flipper.wire.errors import Error, error_of
from buswork.flipper.wire.exchanges import Answer, AnswerReader, Exchange, outgoing
from buswork.flipper.wire.terms import PACKET_BYTES, BadAnswer, Framing, Generation
from buswork.usb.devices import UsbDevice
from buswork.usb.link import BUSY, GONE, TIMED_OUT, Transfers, UsbError
from buswork.usb.worker import Worker
from buswork.usb.workers import Workers

# A result takes milliseconds, and what the bridge waits for 100; the original gives it 200. This
# is longer, for a machine that is busy itself.
ANSWER_SECONDS = 0.5
# The longest turn brings an image to the 4S, in 256 blocks of some milliseconds.
TURN_SECONDS = 5.0
# Silence for so long, and nothing comes any more (section 15, pitfall 1).
STALE_SECONDS = STALE_MS / 1000
# Of answers to nobody. The U2 has room for one, so there are few; a board that says more than
# this has no end, and the turn needs some time of its own.
MAX_STALE = 16
TALKATIVE: Final = f"the board said {MAX_STALE} times something that nobody asked for"


class Line(Protocol):
    @property
    def is_open(self) -> bool:
        """False: it carries no more turns; another one has to be opened."""

    async def run(self, turn: Turn) -> Answer:
        """What the turn returns or raises; BadAnswer or a BusworkError where the line fails."""


def is_out_of_step(answer: Answer, generation: Generation) -> bool:
    """Whether the board takes data for packets, for which it had no memory, or has done so.

    It answers each of them (section 15, pitfall 3).
    """
    error = error_of(answer.result.error, generation)
    return error in (Error.E_MALLOC, Error.E_CHECKSUM)


@asynccontextmanager
async def usb_line(
    workers: Workers, device: UsbDevice, *, afresh: bool = False
) -> AsyncIterator["UsbLine"]:
    """The line to a board on USB (section 2). Busy: another program has it.

    afresh: the board may have lost its configuration.
    """
    try:
        async with workers.opened(device) as worker:
            if afresh:
                with suppress(UsbError):  # if it matters, what comes next fails as well
                    await worker.configure(CONFIGURATION)
            await worker.claim(INTERFACE)
            yield UsbLine(worker)
    except UsbError as error:
        raise _named(error) from error.__cause__


class UsbLine:
    def __init__(self, worker: Worker, generation: Generation = Generation.G1) -> None:
        """worker: an open one, with the interface."""
        self._worker = worker
        self._talk = _Talk(generation)

    @property
    def is_open(self) -> bool:
        return self._worker.is_open

    async def run(self, turn: Turn) -> Answer:
        try:
            return await self._worker.together(
                lambda transfers: self._talk.run(turn, transfers), TURN_SECONDS, "a turn"
            )
        except UsbError as error:
            raise _named(error) from error.__cause__


class _Talk:
    """What is said to a board and by it. Only the worker's thread comes here."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        # At first, another program may have left before its answer came.
        self._is_clean = False

    def run(self, turn: Turn, transfers: Transfers) -> Answer:
        if not self._is_clean:
            self._drain(transfers)
            self._is_clean = True
        return self._follow(turn, transfers)

    def _follow(self, turn: Turn, transfers: Transfers) -> Answer:
        with closing(turn):
            try:
                step = next(turn)
                while True:
                    if isinstance(step, Pause):
                        transfers.pause(step.seconds)
                        step = next(turn)
                    else:
                        step = turn.send(self._exchange(step, transfers))
            except StopIteration as done:
                answer: Answer = done.value
                return answer

    def _exchange(self, exchange: Exchange, transfers: Transfers) -> Answer:
        sent = b"".join(outgoing(exchange, Framing.USB, self._generation))
        reader = AnswerReader(exchange, Framing.USB, self._generation)
        self._is_clean = False
        length = self._length(reader)
        came = transfers.exchange(ENDPOINT_OUT, sent, ENDPOINT_IN, length, ANSWER_SECONDS)
        answer = reader.feed(came)
        while answer is None:
            for packet in reader.data_to_send():
                transfers.write(ENDPOINT_OUT, packet, ANSWER_SECONDS)
            answer = self._read(reader, transfers)
        self._is_clean = not is_out_of_step(answer, self._generation)
        return answer

    def _length(self, reader: AnswerReader) -> int:
        """All that is to come, where each packet of it is full."""
        return reader.wanted if self._generation is Generation.G1 else PACKET_BYTES

    def _read(self, reader: AnswerReader, transfers: Transfers) -> Answer | None:
        length = self._length(reader)
        try:
            return reader.feed(transfers.read(ENDPOINT_IN, length, ANSWER_SECONDS))
        except UsbError as error:
            if error.kind == TIMED_OUT and (answer := reader.give_up()) is not None:
                return answer
            raise

    def _drain(self, transfers: Transfers) -> None:
        try:
            for _ in range(MAX_STALE):
                transfers.read(ENDPOINT_IN, PACKET_BYTES, STALE_SECONDS)
        except UsbError as error:
            if error.kind == TIMED_OUT:
                return
            raise
        raise BadAnswer(TALKATIVE)


def _named(error: UsbError) -> BusworkError:
    if error.kind == BUSY:
        return Busy(f"{error}; the board can be used here once it is let go of")
    if error.kind == GONE:
        return Disconnected(str(error))
    return NotResponding(str(error)) if error.kind == TIMED_OUT else error

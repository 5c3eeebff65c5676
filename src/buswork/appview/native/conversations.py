"""Speaking with a viewed process: a pair of queues that is made for it, and goes afterwards.

Rules
* A queue's name is known to everybody, and the library in the process never looks who made it, or
  who wrote into it (protocol section 8). So each is made anew, readable for its reader and
  writable for its writer alone, and belongs to the user of the process. What somebody else put
  there is left alone; what a daemon before us left there is known by its mode and owner, and goes.
  Of one that still runs, a second service, it is locked: that is waited for.
* Names are the same for all processes of one number in one IPC namespace: one conversation at a
  time has them.
* The original command can't speak with a process while we do: queues are there only as long as
  something is asked. With a request that was not answered in time they are thrown away, so that a
  late answer reaches nobody.
* A process that ends ends the conversation at once.
"""

import asyncio
import random
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, TypeVar

from buswork.appview import errors
from buswork.appview.native import mqueue
from buswork.appview.native.namespaces import Namespace, Traveller, own_namespace
from buswork.appview.native.pairs import InUse, Pair, named
from buswork.appview.native.target import Target
from buswork.appview.wire import requests
from buswork.appview.wire.frames import (
    FRAME_BYTES,
    MOST_UNIQ,
    AnswerJoiner,
    BadFrame,
    OtherAnswer,
    RefusedFrame,
    request_frames,
)
from buswork.appview.wire.requests import JSON, Request
from buswork.bus.places import Places
from buswork.errors import LimitsExceeded

# A process that works answers within 2 ms, one that connects to somewhere within seconds; the
# original gave up after 60 ms and called it not viewed (section 8).
ANSWER_SECONDS: Final = 5.0
# Frames under way, so that neither end waits for each: the process gives up on a frame that it
# can't place, or that does not come, after 70 ms. So few that everybody's usual RLIMIT_MSGQUEUE has
# room for 24 conversations: those of one user at once, and those just ended, whose queues the
# process has not closed yet.
MOST_MESSAGES: Final = 2
# The same where a request may be long, as many as the kernel allows everybody: where none was
# there, the process sleeps for 50 us, and then takes as many as came meanwhile.
MOST_LONG_MESSAGES: Final = 10
# Of a long exchange, a process that finds nothing, or no room, sleeps for 50 us, which the kernel
# makes 110. Who is there when it wakes up keeps pace with it; by the way through the loop one comes
# too late, and it sleeps for each ten frames. So it is tried again for some 200 us, and 2 ms in all
# of an exchange: who means well needs no more.
TRIES_AT_ONCE: Final = 100
TRIES: Final = 1_000
# Then others have their turn: whoever writes without an end does not hold up the loop.
FRAMES_PER_TURN: Final = 256
# How long room for queues is waited for, and how often it is looked for.
ROOM_SECONDS: Final = 1.0
ROOM_LOOK_SECONDS: Final = 0.002
# In every IPC namespace at once, and for one caller; the kernel has 256 queues for each namespace.
CONVERSATIONS: Final = 64
CONVERSATIONS_PER_UID: Final = 20

_Done = TypeVar("_Done")


def most_conversations() -> int:
    """As many as the queues of this process may be, if that is fewer."""
    charged = mqueue.Attributes(MOST_MESSAGES, FRAME_BYTES, 0).charged
    allowed, _ = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    if allowed == resource.RLIM_INFINITY:
        return CONVERSATIONS
    return max(1, min(CONVERSATIONS, allowed // (2 * charged)))


class Conversations:
    """All that are going on."""

    def __init__(self, seconds: float = ANSWER_SECONDS) -> None:
        self.seconds = seconds
        self._home = own_namespace()
        self._traveller = Traveller()
        self._places = Places(most_conversations(), CONVERSATIONS_PER_UID)
        self._turns: dict[tuple[Namespace, int], _Turn] = {}
        self._uniq = random.randrange(10_000)

    def close(self) -> None:
        self._traveller.close()

    @asynccontextmanager
    async def speak(
        self,
        target: Target,
        uid: int,
        most_messages: int = MOST_MESSAGES,
        check: Callable[[], None] = lambda: None,
    ) -> AsyncIterator["Conversation"]:
        """uid: who wants to know. Whoever waits for his turn with a process that does not answer
        takes no place meanwhile: he may ask others.

        check: before each request, raises what is wrong by now.
        """
        with self._turn(target) as turn:
            async with turn, self._places.place(uid):
                pair = await self._opened(target, most_messages)
                try:
                    yield Conversation(pair, self, check)
                finally:
                    await self._there(target, pair.remove)

    async def _opened(self, target: Target, most_messages: int) -> Pair:
        """A queue takes its room until the process has closed it as well, which is a moment after
        it has answered: the room of those before may not be free yet. Nor may the names, where
        another service speaks with the process."""
        until = time.monotonic() + ROOM_SECONDS
        while True:
            pair = Pair(target, most_messages)
            try:
                await self._there(target, pair.open)
                return pair
            except BaseException as error:
                await self._there(target, pair.remove)
                if not isinstance(error, LimitsExceeded | InUse) or time.monotonic() > until:
                    raise
            await asyncio.sleep(ROOM_LOOK_SECONDS)

    def next_uniq(self) -> int:
        self._uniq = (self._uniq + 1) % MOST_UNIQ
        return self._uniq

    @contextmanager
    def _turn(self, target: Target) -> Iterator[asyncio.Lock]:
        """One conversation at a time has the names."""
        key = target.namespace, target.own_pid
        turn = self._turns.setdefault(key, _Turn())
        turn.wanted += 1
        try:
            yield turn.lock
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[key]

    async def _there(self, target: Target, work: Callable[[], None]) -> None:
        """Where the process looks for its queues. Comes to its end, whoever gives up waiting."""
        if target.namespace == self._home:
            work()
            return
        going = asyncio.ensure_future(self._traveller.run(target.namespace_fd, work))
        try:
            await asyncio.shield(going)
        except asyncio.CancelledError:
            await asyncio.wait((going,))
            if not going.cancelled():
                going.exception()  # nobody else is told
            raise
        except OSError as error:
            raise named(error, target) from error


class _Turn:
    """Who has the names of a process, and how many want to."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class Conversation:
    """One request after the other, each answered before the next."""

    def __init__(self, pair: Pair, all_: Conversations, check: Callable[[], None]) -> None:
        self._pair = pair
        self._all = all_
        self._check = check
        self._is_spoilt = False
        self.seconds = all_.seconds

    async def ask(self, request: Request, **fields: Any) -> JSON:
        """What the process answers, checked."""
        payload = await self.exchange(requests.ask(request, **fields))
        try:
            return requests.read(request, payload)
        except requests.BadAnswer as error:
            raise errors.BadAnswer(self._said(error)) from error
        except requests.Refused as error:
            raise errors.Refused(self._said(error)) from error

    async def exchange(self, payload: bytes) -> bytearray:
        """Bytes for bytes. After a failure, nothing more can be asked in this conversation, but
        for BadFrame: what can't be sent was not sent."""
        if self._is_spoilt:
            raise errors.NotAnswering("an earlier request of this conversation was not answered")
        self._check()
        exchange = _Exchange(self._pair, payload, self._all.next_uniq())
        self._is_spoilt = True
        try:
            async with asyncio.timeout(self.seconds):
                answer = await exchange.run()
        except TimeoutError:
            raise errors.NotAnswering(
                f"process {self._pair.target.pid} did not answer within {self.seconds:g} seconds"
            ) from None
        except RefusedFrame as error:
            raise errors.Refused(self._said(error)) from error
        except BadFrame as error:
            raise errors.BadAnswer(self._said(error)) from error
        except OSError as error:
            raise named(error, self._pair.target) from error
        self._is_spoilt = False
        return answer

    def _said(self, error: Exception) -> str:
        return f"process {self._pair.target.pid}: {error}"


class _Exchange:
    """A request on its way out, and its answer on its way in."""

    def __init__(self, pair: Pair, payload: bytes, uniq: int) -> None:
        self._ask, self._answer = pair.ask, pair.answer
        self._target = pair.target
        frame_bytes = self._ask.attributes.message_bytes
        self._frames = request_frames(payload, uniq, frame_bytes)
        self._frame = next(self._frames, None)
        self._joiner = AnswerJoiner(uniq)
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[bytearray] = self._loop.create_future()
        self._tries = TRIES

    async def run(self) -> bytearray:
        loop = self._loop
        if self._target.has_ended:  # whoever has its number by now may look for these queues
            raise self._ended()
        try:
            loop.add_reader(self._answer, self._step, self._receive)
            loop.add_reader(self._target.pidfd, self._step, self._gone)
            self._step(self._send)
            if self._frame:
                loop.add_writer(self._ask, self._step, self._send_rest)
            return await self._done
        finally:
            loop.remove_reader(self._answer)
            loop.remove_reader(self._target.pidfd)
            if self._frame:
                loop.remove_writer(self._ask)

    def _step(self, what: Callable[[], None]) -> None:
        if self._done.done():
            return
        try:
            what()
        except BlockingIOError:
            pass  # called again when there is something to do
        except Exception as error:
            self._done.set_exception(error)

    def _send(self) -> None:
        while self._frame:
            self._tried(self._ask.send, self._frame)
            self._frame = next(self._frames, None)

    def _send_rest(self) -> None:
        self._send()
        self._loop.remove_writer(self._ask)

    def _receive(self) -> None:
        for _ in range(FRAMES_PER_TURN):
            frame = self._tried(self._answer.receive)
            try:
                payload = self._joiner.feed(frame)
            except OtherAnswer:
                continue
            if payload is not None:
                self._done.set_result(payload)
                return

    def _gone(self) -> None:
        """What it had answered before counts."""
        with suppress(BlockingIOError):
            self._receive()
        if not self._done.done():
            raise self._ended()

    def _tried(self, work: Callable[..., _Done], *arguments: bytes) -> _Done:
        """BlockingIOError: it takes longer."""
        failed = 0
        while True:
            try:
                return work(*arguments)
            except BlockingIOError:
                failed += 1
                self._tries -= 1
                if failed > TRIES_AT_ONCE or self._tries < 0:
                    raise

    def _ended(self) -> errors.ProcessGone:
        return errors.ProcessGone(f"process {self._target.pid} ended before it answered")

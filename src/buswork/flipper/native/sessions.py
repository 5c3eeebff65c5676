"""The life of a board: known when it is plugged in, its line open while there is work for it.

Each board has a task of its own that runs one turn after the other. The line is closed when there
was no work for a while, so that other programs can have the board; what goes wrong with it is told
to those who wait. No board waits for another one.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from buswork.errors import BusworkError, LimitsExceeded
from buswork.flipper.errors import AlreadyAttached, Disconnected
from buswork.flipper.model.boards import Board, BoardChanged, Boards, Change, Transport
from buswork.flipper.model.calls import look_up
from buswork.flipper.model.turns import POLLER, POLLER_UID, Asked
from buswork.flipper.native.jobs import finished
from buswork.flipper.native.line import Line, usb_line
from buswork.flipper.native.socketline import SocketLine
from buswork.flipper.native.texts import DebugTexts
from buswork.flipper.wire.carbon import is_carbon
from buswork.flipper.wire.terms import BadAnswer
from buswork.log import Sparing
from buswork.native.clock import Clock
from buswork.usb.devices import NAME, UsbDevice
from buswork.usb.discovery import Discovery
from buswork.usb.worker import Worker
from buswork.usb.workers import Workers

log = logging.getLogger(__name__)

# Long enough for a program that calls now and then; opening costs a quarter of a second.
IDLE_S = 2.0
# A board that was just plugged in needs a moment, and another program may be done with it soon.
OPEN_TRIES = 10
OPEN_PAUSE_S = 0.2
# A board that failed so often in a row may have restarted and forgotten its configuration
# (section 15, pitfall 6); it gets one more chance with a line that was opened afresh.
MAX_FAILURES = 2
# After what no line and no board should do, which is a defect of ours.
DEFECT_PAUSE_S = 1.0

# What boards do, and others with them.
EXPECTED = (BusworkError, BadAnswer)

# With True: afresh.
OpenLine = Callable[[bool], AbstractAsyncContextManager[Line]]


class Sessions:
    """The sessions of all boards."""

    def __init__(
        self,
        boards: Boards,
        discovery: Discovery,
        make_worker: Callable[[UsbDevice], Worker],
        clock: Clock | None = None,
    ) -> None:
        self._boards = boards
        self._discovery = discovery
        self._workers = Workers(make_worker)
        self._texts = DebugTexts(make_worker)
        # Called with what boards print that are listened to.
        self.on_text: Callable[[Board, str], None] = lambda board, text: None
        self._clock = clock or Clock()
        self._plugged: dict[str, UsbDevice] = {}  # by port
        self._sessions: dict[str, _Session] = {}  # by key
        self._ending: set[asyncio.Task[None]] = set()
        self._asleep = False
        self._claims_changed = asyncio.Event()

    async def start(self) -> None:
        self._boards.on_change.append(self._changed)
        self._expiring = asyncio.create_task(self._expire_claims(), name="flipper claims")
        await self._discovery.start(self._add, self._remove)

    async def stop(self) -> None:
        """All that was asked ends, and the boards are left to others."""
        self._discovery.stop()
        self._boards.on_change.remove(self._changed)
        self._expiring.cancel()
        for key in list(self._sessions):
            self._end(key)
        await asyncio.wait({self._expiring, *self._ending})

    def sleep(self, sleeping: bool) -> None:
        """The machine goes to sleep or wakes up: to a board, as if it were plugged in anew."""
        self._asleep = sleeping
        for device in self._plugged.values():
            if sleeping:
                self._end(_key(device.port))
            elif _key(device.port) not in self._sessions:
                self._begin_usb(device)

    def listen(self, board: Board, is_on: bool) -> None:
        """Whether what a board prints is read while its line is open; it costs a thread."""
        session = self._sessions.get(board.key)
        if session is not None:
            (session.listened.set if is_on else session.listened.clear)()

    # -- boards on USB ---------------------------------------------------------------------------

    def _add(self, device: UsbDevice) -> None:
        theirs = device.vendor, device.product, device.manufacturer, device.product_name
        if not is_carbon(*theirs):
            return
        self._plugged[device.port] = device
        if not self._asleep:
            self._begin_usb(device)

    def _remove(self, port: str) -> None:
        if self._plugged.pop(port, None) is not None:
            self._end(_key(port))

    def _begin_usb(self, device: UsbDevice) -> None:
        try:
            board = self._boards.attach(
                _key(device.port), name=device.properties.get(NAME, ""), transport=Transport.USB
            )
        except (AlreadyAttached, LimitsExceeded) as error:
            log.warning("%s is not taken: %s", device, error)
            return
        self._begin(board, lambda afresh: self._usb_line(board, device, afresh))

    @asynccontextmanager
    async def _usb_line(self, board: Board, device: UsbDevice, afresh: bool) -> AsyncIterator[Line]:
        async with usb_line(self._workers, device, afresh=afresh) as line:
            listened = self._sessions[board.key].listened
            async with self._texts.read(device, listened, partial(self.on_text, board)):
                yield line

    # -- boards behind sockets -------------------------------------------------------------------

    async def attach(self, key: str, sock: socket.socket, name: str = "") -> Board:
        """The socket is closed with the board; NotResponding: there is none."""
        line = SocketLine(sock)
        try:
            await line.open()
            board = self._boards.attach(
                key, name=name, transport=Transport.UDP, generation=line.generation
            )
        except BaseException:
            sock.close()
            raise
        session = self._begin(board, lambda afresh: _still_open(line))
        session.task.add_done_callback(lambda task: sock.close())
        try:
            # Only a board of the second generation knows where its modules are.
            await finished(board, POLLER, POLLER_UID, look_up(board), self._clock)
        except BaseException:
            self._end(key)
            raise
        return board

    def detach(self, key: str) -> None:
        """Of a board that was attached."""
        self._end(key)

    # -- claims ----------------------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        if isinstance(change, BoardChanged) and "claim" in change.names:
            self._claims_changed.set()

    async def _expire_claims(self) -> None:
        while True:
            self._claims_changed.clear()
            await self._clock.wait(self._claims_changed, self._boards.next_expiry())
            self._boards.expire(self._clock.now())

    # -- inside ----------------------------------------------------------------------------------

    def _begin(self, board: Board, open_line: OpenLine) -> "_Session":
        session = _Session(board, open_line, self._clock)
        self._sessions[board.key] = session
        session.task.add_done_callback(lambda task: self._has_ended(board.key, session))
        return session

    def _end(self, key: str) -> None:
        """The board is gone for everybody at once: it may be plugged in again in a moment."""
        session = self._sessions.pop(key, None)
        if session is None:
            return
        self._boards.detach(key)
        if not session.task.done():
            self._ending.add(session.task)
            session.task.cancel()

    def _has_ended(self, key: str, session: "_Session") -> None:
        self._ending.discard(session.task)
        if self._sessions.get(key) is session:  # by itself
            self._end(key)


class _Session:
    """One board, from its being plugged in to its end."""

    def __init__(self, board: Board, open_line: OpenLine, clock: Clock) -> None:
        self._board = board
        self._open_line = open_line
        self._clock = clock
        self._work = asyncio.Event()
        self.listened = asyncio.Event()  # set while what the board prints is wanted
        self._failures = 0  # of the line, in a row
        # A board may fail at each call, and calls cost nothing.
        self._sparing = Sparing(f"failures of {board.name}")
        board.turns.on_work = self._work.set
        self.task = asyncio.create_task(self._run(), name=f"flipper {board.key}")

    async def _run(self) -> None:
        while True:
            await self._until_needed()
            try:
                await self._use()
            except EXPECTED as error:
                self._give_up(error)
                if isinstance(error, Disconnected) and self._board.transport is Transport.UDP:
                    return
            except Exception as error:
                log.exception("%s: a defect", self._board.name)
                self._give_up(error)
                await self._clock.sleep(DEFECT_PAUSE_S)

    async def _until_needed(self) -> None:
        while not self._board.turns.has_work:
            self._work.clear()
            await self._clock.wait(self._work, self._board.next_poll())
            self._poll()

    def _poll(self) -> None:
        due, now = self._board.next_poll(), self._clock.now()
        if due is not None and due <= now:
            self._board.poll(now)

    def _give_up(self, error: Exception) -> None:
        """Nobody is left to wait for what does not work; the next one tries again."""
        if self._sparing.allows(log):
            log.warning("%s: %s", self._board.name, error)
        self._board.line_closed(str(error))
        self._board.turns.fail(error, self._clock.now())

    async def _use(self) -> None:
        """Opens the line and runs turns until there has been none for a while."""
        self._failures = 0
        while True:
            async with AsyncExitStack() as stack:
                line = await self._opened(stack)
                self._board.line_opened()
                failure = await self._serve(line)
            if failure is None:
                break
            if self._failures > MAX_FAILURES:
                raise failure
        self._board.line_closed()

    async def _opened(self, stack: AsyncExitStack) -> Line:
        afresh = self._failures > 0
        for tries in range(1, OPEN_TRIES + 1):
            try:
                return await stack.enter_async_context(self._open_line(afresh))
            except EXPECTED as error:
                if tries == OPEN_TRIES or isinstance(error, Disconnected):
                    raise
            await self._clock.sleep(OPEN_PAUSE_S)
        raise AssertionError  # the last try ends one way or the other

    async def _serve(self, line: Line) -> Exception | None:
        """Returns what went wrong too often; None: there is no more work."""
        idle_since = self._clock.now()
        while line.is_open:
            self._work.clear()
            self._poll()
            asked = self._board.turns.next()
            if asked is not None:
                error = await self._run_turn(line, asked)
                self._failures = self._failures + 1 if error is not None else 0
                if isinstance(error, Disconnected):
                    raise error
                if self._failures >= MAX_FAILURES:
                    return error
                idle_since = self._clock.now()
            elif not await self._wait(idle_since):
                return None
        return None

    async def _run_turn(self, line: Line, asked: Asked[Any]) -> Exception | None:
        """The error, if the line failed; that of a board is one who waits for it gets."""
        try:
            answer = await line.run(asked.turn)
        except Exception as error:
            asked.failed(error, self._clock.now())
            return error if isinstance(error, EXPECTED) else None
        asked.done(answer, self._clock.now())
        return None

    async def _wait(self, idle_since: float) -> bool:
        """For work; False: the line is to be closed."""
        board = self._board
        until: float | None = None  # who has claimed the board keeps it
        if board.is_lent:
            return False
        if board.claim is None:
            until = idle_since + IDLE_S
            if self._clock.now() >= until:
                return False
        times = [at for at in (until, board.next_poll()) if at is not None]
        await self._clock.wait(self._work, min(times, default=None))
        return True


@asynccontextmanager
async def _still_open(line: SocketLine) -> AsyncIterator[SocketLine]:
    if not line.is_open:
        raise Disconnected("the way to the board is closed")
    yield line


def _key(port: str) -> str:
    return f"usb:{port}"

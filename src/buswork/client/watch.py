"""A watch on the store: every change, with no gap and no repeat, or RevisionGone."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from buswork.bus.message import Frame
from buswork.bus.objects import PROPERTIES
from buswork.bus.writer import close_all
from buswork.client.daemon import BUS_NAME
from buswork.client.daemon import TARGET as DAEMON
from buswork.client.errors import (
    BusworkError,
    Disconnected,
    NoReply,
    NotRunning,
    RevisionGone,
)
from buswork.store.wire.lines import Cut, parse_line

if TYPE_CHECKING:
    from buswork.client.connection import Client, Target

# As much as a pipe holds.
CHUNK = 64 * 1024
# How long a watch waits for a daemon that restarts; systemd starts one anew within seconds.
RESTART_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the store from one revision to the next."""

    revision: int
    key: str | None  # None: every key went at once
    value: str | None  # None: the key went

    @property
    def kind(self) -> Literal["set", "gone", "clear"]:
        if self.key is None:
            return "clear"
        return "gone" if self.value is None else "set"


class LinePipe:
    """Lines out of a pipe, which is read only as fast as they are taken."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._partial: list[bytes] = []
        self._readable: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def line(self) -> bytes | None:
        """The next line with its newline; None at the end, where half a line is no line."""
        while not self._lines:
            piece = await self._read()
            if not piece:
                return None
            *whole, rest = piece.split(b"\n")
            if whole:
                whole[0] = b"".join((*self._partial, whole[0]))
                self._partial.clear()
                self._lines.extend(line + b"\n" for line in whole)
            self._partial.append(rest)
        return self._lines.popleft()

    async def _read(self) -> bytes:
        await asyncio.sleep(0)  # a pipe that is always full must not hold the loop
        while self._fd >= 0:
            try:
                return os.read(self._fd, CHUNK)
            except BlockingIOError:
                await self._wait_readable()
        raise Disconnected("this watch was closed")

    async def _wait_readable(self) -> None:
        self._readable = readable = self._loop.create_future()
        self._loop.add_reader(self._fd, _wake, readable)
        try:
            await readable
        finally:
            self._readable = None
            if self._fd >= 0:
                self._loop.remove_reader(self._fd)

    def close(self) -> None:
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        if self._readable is not None:
            _wake(self._readable)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Watch:
    """Changes, to be iterated over.

        async with client.store.watch("lamp/") as changes:
            async for change in changes: ...

    Where the stream ends (the daemon cut us off, or started anew) it goes on by itself if it can
    without a gap; else RevisionGone tells that the values have to be read again. Entering opens
    the watch, so whatever changes after that is in it; without, the first change opens it.
    """

    def __init__(
        self, client: Client, target: Target, prefix: str, from_revision: int | None
    ) -> None:
        self._client = client
        self._target = target
        self._prefix = prefix
        self._revision = from_revision
        self._pipe: LinePipe | None = None
        self._epoch = ""
        self._owner = ""
        self._ended = False

    async def open(self) -> None:
        """Opens the stream at one daemon, whose epoch and revision belong together."""
        answer = await self._get(BUS_NAME, DAEMON, "Epoch")
        self._owner = answer.header.sender or ""
        self._epoch = answer.values()[0].value
        if self._revision is None:
            revision = await self._get(self._owner, self._target, "Revision")
            self._revision = revision.values()[0].value
        await self._open_pipe()
        self._client.connection.closed.add_done_callback(self._lost)

    async def _get(self, to: str, target: Target, name: str) -> Frame:
        path, interface = target
        names = (interface, name)
        return await self._client.request(
            (path, PROPERTIES), "Get", "ss", names, returns="v", to=to
        )

    async def _open_pipe(self) -> None:
        values = (self._prefix, self._revision)
        frame = await self._client.request(
            self._target, "Watch", "st", values, returns="h", to=self._owner
        )
        try:
            (fd,) = frame.values()
        except BaseException:
            close_all(frame.fds)
            raise
        self._pipe = LinePipe(fd)

    def _lost(self, _: Any) -> None:
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    async def close(self) -> None:
        self._ended = True
        self._close_pipe()
        if self._epoch:
            self._client.connection.closed.remove_done_callback(self._lost)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        if self._ended:
            raise StopAsyncIteration
        try:
            if not self._epoch:
                await self.open()
            return await self._next()
        except asyncio.CancelledError:
            raise  # a wait that was given up; the watch goes on
        except BaseException:
            await self.close()
            raise

    async def _next(self) -> Change:
        while True:
            if self._pipe is None:
                raise Disconnected("this watch was closed, or the connection to the bus is gone")
            line = await self._pipe.line()
            if line is None:
                await self._resume()
                continue
            try:
                told = parse_line(line)
            except ValueError as error:
                raise BusworkError(f"the daemon's watch makes no sense: {error}") from error
            self._revision = told.revision
            if isinstance(told, Cut):
                await self._reopen()
                continue
            value = None if told.value is None else told.value.decode()
            return Change(told.revision, told.key, value)

    async def _reopen(self) -> None:
        self._close_pipe()
        await self._open_pipe()

    async def _resume(self) -> None:
        """The stream ended without a word: what has become of the daemon?"""
        owner, epoch = await self._present()
        if epoch != self._epoch:
            raise RevisionGone("the daemon started anew; read the values again")
        if owner == self._owner:
            raise Disconnected("somebody took this watch away")
        self._owner = owner
        await self._reopen()

    async def _present(self) -> tuple[str, str]:
        """The daemon that runs now, once there is one, and its epoch; does not start one."""
        client = self._client
        while True:
            owner = client.owner or await client.wait_running(timeout=RESTART_SECONDS, start=False)
            try:
                answer = await self._get(owner, DAEMON, "Epoch")
            except (NotRunning, NoReply, Disconnected):
                await client.wait_running(timeout=RESTART_SECONDS, not_by=owner, start=False)
            else:
                return owner, answer.values()[0].value

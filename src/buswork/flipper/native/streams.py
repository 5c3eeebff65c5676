"""Descriptors of callers, as where data come from and go to.

Rules
* A descriptor's flags belong to whoever else has it too, so they stay as they are: no read or
  write of ours waits in the loop, whatever the flags, and whoever else reads or writes there.
* A file may be on a disk that does not answer: what is done with it is done in a thread, of which
  there are a few, and which has a descriptor of its own for as long as it takes.
"""

import asyncio
import fcntl
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from buswork.bus.places import Places
from buswork.errors import InvalidArgs, LimitsExceeded

T = TypeVar("T")

# Threads that read or write files at once, and those of one user.
THREADS = 8
THREADS_PER_UID = 2

_NO_WAIT = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Stream(Protocol):
    """What fails raises OSError."""

    async def read(self, most: int) -> bytes:
        """What there is, as soon as there is something; b"" at the end."""

    async def write(self, data: bytes) -> None:
        """Returns when all of it is there."""

    def close(self) -> None:
        """The caller's descriptor stays open."""


class Streams:
    def __init__(self) -> None:
        self._files = _FileThreads()

    @asynccontextmanager
    async def opened(self, fd: int, uid: int) -> AsyncIterator[Stream]:
        """InvalidArgs: it is neither a pipe nor a stream socket nor a file."""
        try:
            stream = self._make(fd, uid)
        except OSError as error:
            text = f"the daemon has no descriptor left: {error.strerror}"
            raise LimitsExceeded(text) from error
        try:
            yield stream
        finally:
            stream.close()

    def _make(self, fd: int, uid: int) -> Stream:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode):
            return PipeStream(fd)
        if stat.S_ISREG(mode):
            return FileStream(fd, uid, self._files)
        if stat.S_ISSOCK(mode) and not _is_path(fd):
            stream = SocketStream(fd)
            if stream.is_stream:
                return stream
            stream.close()
        raise InvalidArgs("The descriptor must be that of a pipe, a stream socket or a file.")


class PipeStream:
    """Data are moved to and from a pipe of ours: only moving can't be made to wait."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    async def read(self, most: int) -> bytes:
        while (count := self._move(self._fd, self._in, most)) is None:
            await _readable(self._fd)
        return os.read(self._out, count) if count else b""

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            moving = os.write(self._in, rest)
            rest = rest[moving:]
            while moving:
                count = self._move(self._out, self._fd, moving)
                if count is None:
                    await _writable(self._fd)
                else:
                    moving -= count

    def close(self) -> None:
        os.close(self._in)
        os.close(self._out)

    @staticmethod
    def _move(source: int, sink: int, most: int) -> int | None:
        """None: not now."""
        try:
            return os.splice(source, sink, most, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return None


class SocketStream:
    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))

    @property
    def is_stream(self) -> bool:
        return self._socket.type == socket.SOCK_STREAM

    async def read(self, most: int) -> bytes:
        while True:
            with suppress(BlockingIOError):
                return self._socket.recv(most, _NO_WAIT)
            await _readable(self._socket.fileno())

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest, _NO_WAIT) :]
            except BlockingIOError:
                await _writable(self._socket.fileno())

    def close(self) -> None:
        self._socket.close()


class FileStream:
    def __init__(self, fd: int, uid: int, threads: "_FileThreads") -> None:
        self._fd = fd
        self._uid = uid
        self._threads = threads

    async def read(self, most: int) -> bytes:
        return await self._threads.run(self._uid, self._fd, lambda fd: os.read(fd, most))

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            work = partial(_written, rest)
            rest = rest[await self._threads.run(self._uid, self._fd, work) :]

    def close(self) -> None:
        """A thread that is still at it has its own descriptor."""


class _FileThreads:
    def __init__(self) -> None:
        self._places = Places(THREADS, THREADS_PER_UID)
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, uid: int, fd: int, work: Callable[[int], T]) -> T:
        """Who gives up waiting does not end the thread, nor gives its place to another one."""
        return await asyncio.shield(self._start(self._run(uid, os.dup(fd), work)))

    def _start(self, run: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(run)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.remove(task)
        if not task.cancelled():
            task.exception()  # whoever waits has it

    async def _run(self, uid: int, fd: int, work: Callable[[int], T]) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def in_thread() -> None:
            try:
                result = work(fd)
            except BaseException as error:
                tell(done.set_exception, error)
            else:
                tell(done.set_result, result)
            finally:
                os.close(fd)

        def tell(how: Callable[[Any], None], what: object) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_unless_cancelled, done, how, what)

        with ExitStack() as unstarted:
            unstarted.callback(os.close, fd)
            async with self._places.place(uid):
                try:
                    threading.Thread(target=in_thread, name="file", daemon=True).start()
                except RuntimeError as error:
                    raise LimitsExceeded(f"no thread can read or write a file: {error}") from error
                unstarted.pop_all()
                return await done


def _is_path(fd: int) -> bool:
    """Whether it only says where a thing is: Python loses a descriptor on a socket's."""
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH)


def _written(data: memoryview, fd: int) -> int:
    return os.write(fd, data)


def _unless_cancelled(
    future: asyncio.Future[Any], how: Callable[[Any], None], what: object
) -> None:
    if not future.done():
        how(what)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    await _until_ready(fd, loop.add_reader, loop.remove_reader)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    await _until_ready(fd, loop.add_writer, loop.remove_writer)


async def _until_ready(fd: int, begin: Callable[..., None], end: Callable[[int], bool]) -> None:
    ready = asyncio.Event()
    begin(fd, ready.set)
    try:
        await ready.wait()
    finally:
        end(fd)

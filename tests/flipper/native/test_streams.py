"""Tests of buswork.flipper.native.streams."""

import asyncio
import errno
import fcntl
import os
import pty
import socket
import threading

import pytest

from buswork.errors import InvalidArgs, LimitsExceeded
from buswork.flipper.native import streams as module
from buswork.flipper.native.streams import THREADS_PER_UID, Streams

UID = 1000
PATIENCE = 10.0
# More than any pipe or socket keeps.
MUCH = os.urandom(1 << 20)


@pytest.fixture
def streams():
    return Streams()


@pytest.fixture(params=["pipe", "socket"])
def ends(request):
    """What is read, and what is written; neither is to be waited for by anybody but us."""
    if request.param == "pipe":
        reader, writer = (os.fdopen(fd, mode) for fd, mode in zip(os.pipe(), "rw", strict=True))
    else:
        reader, writer = socket.socketpair()
    with reader, writer:
        yield reader, writer


async def soon(awaitable):
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def read_all(stream):
    found = b""
    while data := await stream.read(4096):
        found += data
    return found


async def test_data_come_when_they_are_there(streams, ends):
    reader, writer = ends
    async with streams.opened(reader.fileno(), UID) as stream:
        reading = asyncio.create_task(stream.read(100))
        await settle()
        assert not reading.done()
        os.write(writer.fileno(), b"first")
        assert await soon(reading) == b"first"
        os.write(writer.fileno(), b"second")
        assert await soon(stream.read(3)) == b"sec"
        assert await soon(stream.read(100)) == b"ond"
        writer.close()
        assert await soon(stream.read(100)) == b""


async def test_much_goes_through(streams, ends):
    reader, writer = ends
    async with streams.opened(reader.fileno(), UID) as source:
        reading = asyncio.create_task(read_all(source))
        async with streams.opened(writer.fileno(), UID) as sink:
            await soon(sink.write(MUCH))
        writer.close()
        assert await soon(reading) == MUCH


async def test_nobody_waits_for_a_sink_that_is_full(streams, ends):
    reader, writer = ends
    async with streams.opened(writer.fileno(), UID) as sink:
        writing = asyncio.create_task(sink.write(MUCH))
        await settle()
        assert not writing.done()
        reader.close()
        with pytest.raises(OSError, match="Broken pipe"):
            await soon(writing)


async def test_whoever_else_reads_may_be_faster(streams, ends):
    reader, writer = ends
    async with streams.opened(reader.fileno(), UID) as stream:
        reading = asyncio.create_task(stream.read(100))
        await settle()
        os.write(writer.fileno(), b"theirs")
        assert os.read(reader.fileno(), 100) == b"theirs"
        await settle()
        os.write(writer.fileno(), b"ours")
        assert await soon(reading) == b"ours"


async def test_flags_are_the_callers(streams, ends):
    for end in ends:
        before = fcntl.fcntl(end.fileno(), fcntl.F_GETFL)
        async with streams.opened(end.fileno(), UID) as stream:
            task = asyncio.create_task(stream.read(1) if end is ends[0] else stream.write(b"x"))
            await settle()
            assert fcntl.fcntl(end.fileno(), fcntl.F_GETFL) == before
            assert not before & os.O_NONBLOCK
            task.cancel()


async def test_who_gives_up_leaves_nothing(streams, ends):
    reader, _ = ends
    before = len(os.listdir("/proc/self/fd"))
    async with streams.opened(reader.fileno(), UID) as stream:
        reading = asyncio.create_task(stream.read(1))
        await settle()
        reading.cancel()
        await soon(asyncio.wait([reading]))
    assert len(os.listdir("/proc/self/fd")) == before
    assert not asyncio.get_running_loop().remove_reader(reader.fileno())


@pytest.mark.attack(23)
async def test_the_wrong_end(streams):
    reader, writer = os.pipe()
    try:
        async with streams.opened(writer, UID) as stream:
            with pytest.raises(OSError, match="Bad file descriptor"):
                await soon(stream.read(1))
        async with streams.opened(reader, UID) as stream:
            with pytest.raises(OSError, match="Bad file descriptor"):
                await stream.write(b"x")
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.attack(22, 23)
@pytest.mark.parametrize(
    "what",
    ["datagrams", "packets", "directory", "terminal", "path", "path of a socket", "event"],
)
async def test_other_descriptors_are_refused(streams, tmp_path, what):
    match what:
        case "datagrams":
            fd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()
        case "packets":
            fd = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).detach()
        case "directory":
            fd = os.open(tmp_path, os.O_RDONLY)
        case "terminal":
            fd, other = pty.openpty()
            os.close(other)
        case "path":
            fd = os.open("/dev/null", os.O_PATH)
        case "path of a socket":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(str(tmp_path / "socket"))
            fd = os.open(tmp_path / "socket", os.O_PATH)
        case "event":
            fd = os.eventfd(0)
    before = len(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(InvalidArgs, match="a pipe, a stream socket or a file"):
            async with streams.opened(fd, UID):
                pytest.fail("it was opened")
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(fd)


async def test_a_daemon_without_descriptors(streams, ends, monkeypatch):
    def fail(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(module.os, "pipe2", fail)
    monkeypatch.setattr(module.os, "dup", fail)
    with pytest.raises(LimitsExceeded, match="Too many open files"):
        async with streams.opened(ends[0].fileno(), UID):
            pytest.fail("it was opened")


# -- files ---------------------------------------------------------------------------------------


async def test_files(streams, tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as sink:
        async with streams.opened(sink.fileno(), UID) as stream:
            await soon(stream.write(MUCH))
            await soon(stream.write(b"end"))
    with path.open("rb") as source:
        source.seek(len(MUCH) - 1)
        async with streams.opened(source.fileno(), UID) as stream:
            assert await soon(read_all(stream)) == MUCH[-1:] + b"end"
            with pytest.raises(OSError, match="Bad file descriptor"):
                await stream.write(b"x")


class Disk:
    """One that answers when a test says so."""

    def __init__(self, monkeypatch):
        self.asked, self.answers = 0, threading.Event()
        self.changed = asyncio.Event()
        loop, read = asyncio.get_running_loop(), os.read

        def slow(fd, most):
            if threading.current_thread().name != "file":
                return read(fd, most)
            self.asked += 1
            loop.call_soon_threadsafe(self.changed.set)
            self.answers.wait(PATIENCE)
            return read(fd, most)

        monkeypatch.setattr(module.os, "read", slow)

    async def until(self, asked):
        while self.asked < asked:
            self.changed.clear()
            await soon(self.changed.wait())


@pytest.fixture
async def disk(monkeypatch):
    disk = Disk(monkeypatch)
    yield disk
    disk.answers.set()


async def test_a_disk_that_does_not_answer_holds_up_its_user_alone(streams, tmp_path, disk):
    (tmp_path / "file").write_bytes(b"abcd")
    with (tmp_path / "file").open("rb") as source:

        async def read(uid):
            async with streams.opened(source.fileno(), uid) as stream:
                return await stream.read(1)

        mine = [asyncio.create_task(read(UID)) for _ in range(THREADS_PER_UID + 1)]
        await disk.until(THREADS_PER_UID)
        # Who gives up waiting gives no place to the next one: the thread is still there.
        mine[0].cancel()
        await soon(asyncio.wait([mine[0]]))
        await settle()
        assert disk.asked == THREADS_PER_UID
        theirs = asyncio.create_task(read(UID + 1))
        await disk.until(THREADS_PER_UID + 1)
        disk.answers.set()
        found = await soon(asyncio.gather(*mine[1:], theirs))
        assert set(found) < {b"a", b"b", b"c", b"d"}  # one of them was for nobody
        assert disk.asked == THREADS_PER_UID + 2


async def test_a_thread_that_goes_on_has_its_own_descriptor(streams, tmp_path, disk):
    (tmp_path / "file").write_bytes(b"data")
    with (tmp_path / "file").open("rb") as source:
        async with streams.opened(source.fileno(), UID) as stream:
            reading = asyncio.create_task(stream.read(4))
            await disk.until(1)
            reading.cancel()
            await soon(asyncio.wait([reading]))
        number = source.fileno()
    reader, writer = os.pipe()
    assert number in (reader, writer) or os.dup2(reader, number) == number
    disk.answers.set()
    await soon(asyncio.wait(streams._files._running))
    os.write(writer, b"theirs")
    assert os.read(reader, 6) == b"theirs"
    for fd in {reader, writer, number}:
        os.close(fd)


async def test_a_system_that_allows_no_more_threads(streams, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"data")
    with (tmp_path / "file").open("rb") as source:
        before = len(os.listdir("/proc/self/fd"))

        def fail(thread):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            async with streams.opened(source.fileno(), UID) as stream:
                for _ in range(THREADS_PER_UID + 1):
                    with pytest.raises(LimitsExceeded, match="no thread"):
                        await soon(stream.read(1))
        assert len(os.listdir("/proc/self/fd")) == before
        async with streams.opened(source.fileno(), UID) as stream:
            assert await soon(stream.read(4)) == b"data"

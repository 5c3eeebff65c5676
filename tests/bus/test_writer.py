import asyncio
import errno
import functools
import os
import socket

import pytest
from support import reference

from buswork.bus import writer
from buswork.bus.message import SignalTemplate
from buswork.bus.writer import Writer, close_all

TOY = "/org/toy"
FACE = "org.toy"


@pytest.fixture
async def connection(bus):
    return await bus.connect()


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    close_all(ends)


def small_buffers(connection, bus, size=4096):
    connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    bus.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def ticks(bus):
    return [message.values[0] for message in bus.signals("Tick")]


def send_tick(connection, number, text=""):
    template = tick_template("us")
    connection.send(template.message(connection.next_serial(), (number, text)))


def tick_template(signature):
    return SignalTemplate(TOY, FACE, "Tick", signature, None)


async def test_32_a_full_socket_is_no_error_and_nothing_is_lost(bus, connection):
    small_buffers(connection, bus)
    bus.stop_listening()
    template = tick_template("us")
    for number in range(10_000):
        connection.send(template.message(connection.next_serial(), (number, "tick")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert connection.writer.is_blocked
    bus.listen()
    await connection.writer.drain()
    await bus.settle()
    assert ticks(bus) == list(range(10_000))
    assert connection.writer.queued == 0
    assert connection.writer.sent >= 10_000 * 90


async def test_32_large_messages_go_out_whole(bus, connection):
    text = "x" * (1 << 20)
    for number in range(50):
        send_tick(connection, number, text)
    await connection.writer.drain()
    await bus.settle()
    assert ticks(bus) == list(range(50))
    assert {len(message.body) for message in bus.signals("Tick")} == {(1 << 20) + 9}


async def test_many_small_messages_are_few_sends(bus, connection, monkeypatch):
    sends = []
    send = socket.socket.send
    monkeypatch.setattr(
        socket.socket, "send", lambda sock, data: sends.append(1) or send(sock, data)
    )
    for number in range(1000):
        send_tick(connection, number)
    await connection.writer.drain()
    await bus.settle()
    assert ticks(bus) == list(range(1000))
    assert len(sends) <= 1000 / writer.BATCH_PIECES + 8


async def test_descriptors_keep_their_place_between_other_messages(bus, connection, pipe):
    small_buffers(connection, bus)
    bus.stop_listening()
    template = tick_template("us")
    with_fd = reference.Message(
        reference.SIGNAL,
        1,
        {
            reference.PATH: TOY,
            reference.INTERFACE: FACE,
            reference.MEMBER: "Tick",
            reference.SIGNATURE: "us",
            reference.UNIX_FDS: 1,
        },
    )
    for number in range(300):
        if number % 3:
            connection.send(template.message(connection.next_serial(), (number, "x" * 100)))
        else:
            with_fd.body = reference.encode("us", [number, "y" * 3000])
            connection.send(with_fd.write(), [pipe[0]])
    bus.listen()
    await connection.writer.drain()
    await bus.settle()
    assert ticks(bus) == list(range(300))
    assert [len(message.fds) for message in bus.signals("Tick")] == [1, 0, 0] * 100


async def test_31_outgoing_descriptors_are_duplicated_when_they_are_queued(
    bus, connection, open_fds
):
    bus.stop_listening()
    before = open_fds()
    read, write = os.pipe()
    fields = {reference.PATH: TOY, reference.INTERFACE: FACE, reference.MEMBER: "Tick"}
    fields[reference.UNIX_FDS] = 1
    connection.send(reference.Message(reference.SIGNAL, 1, fields).write(), [read])
    os.close(read)
    os.write(write, b"still there")
    os.close(write)
    bus.listen()
    await connection.writer.drain()
    await bus.settle()
    (fd,) = bus.signals("Tick")[0].fds
    assert os.read(fd, 100) == b"still there"
    os.close(bus.signals("Tick")[0].fds.pop())
    assert open_fds() == before


async def test_31_descriptors_that_cannot_be_duplicated_leak_nothing(bus, connection, open_fds):
    before = open_fds()
    with pytest.raises(OSError, match="Bad file"):
        connection.send(b"x", [0, 1, 99999])
    assert open_fds() == before
    assert connection.writer.queued == 0


class Exhausted:
    """A socket while more descriptors are under way than the kernel lets us have."""

    def __init__(self, sock):
        self._sock = sock
        self.send = sock.send

    def sendmsg(self, data, rights):
        raise OSError(errno.ETOOMANYREFS, "too many references")


async def test_31_descriptors_that_the_kernel_does_not_carry_spoil_one_message_alone(
    bus, connection, open_fds
):
    before = open_fds()
    writer = connection.writer
    writer._sock = Exhausted(writer._sock)
    message = functools.partial(reference.Message, reference.SIGNAL)
    fields = {reference.PATH: TOY, reference.INTERFACE: FACE}
    with_fd = {**fields, reference.MEMBER: "With", reference.UNIX_FDS: 1}
    connection.send(message(1, {**fields, reference.MEMBER: "Before"}).write())
    without = message(2, {**fields, reference.MEMBER: "Instead"}).write()
    connection.send(message(2, with_fd).write(), [0], without)
    connection.send(message(3, {**fields, reference.MEMBER: "After"}).write())
    await writer.drain()
    await bus.settle()
    told = [each.member for each in bus.received if each.kind == reference.SIGNAL]
    assert told == ["Before", "Instead", "After"]
    assert writer.queued == 0
    assert connection.is_open
    assert open_fds() == before


async def test_31_queued_descriptors_are_closed_with_the_connection(bus, connection, open_fds):
    bus.stop_listening()
    before = open_fds()
    connection.send(bytes(8 << 20))
    for _ in range(20):
        connection.send(b"x", [0, 1])
    assert open_fds() == before + 40
    connection.close()
    assert open_fds() == before - 1


async def test_who_drains_does_not_wait_for_a_dead_bus(bus, connection):
    bus.stop_listening()
    connection.send(bytes(8 << 20))
    draining = asyncio.create_task(connection.writer.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    bus.hang_up()
    await draining


async def test_overfull_is_more_than_the_bus_carries_off(bus, connection, monkeypatch):
    monkeypatch.setattr(writer, "QUEUE_MAX", 1000)
    assert not connection.writer.is_overfull
    connection.send(bytes(1001))
    assert connection.writer.is_overfull


# The writer alone, on a pair of sockets


class Pair:
    """A writer, what it told, and the end to read from."""

    def __init__(self):
        self.sock, self.far = socket.socketpair()
        for end in (self.sock, self.far):
            end.setblocking(False)
        self.errors = []
        self.rooms = []
        loop = asyncio.get_running_loop()
        self.writer = Writer(self.sock, loop, self.errors.append, lambda: self.rooms.append(1))

    def close(self):
        self.writer.close()
        self.sock.close()
        self.far.close()


@pytest.fixture
async def pair():
    pair = Pair()
    yield pair
    pair.close()


async def test_what_is_queued_leaves_in_the_next_turn_and_in_order(pair):
    for piece in (b"a", b"b", b"c"):
        pair.writer.send(piece)
    with pytest.raises(BlockingIOError):
        pair.far.recv(10)
    assert (pair.writer.queued, pair.writer.sent) == (3, 0)
    await asyncio.sleep(0)
    assert pair.far.recv(10) == b"abc"
    assert (pair.writer.queued, pair.writer.sent) == (0, 3)


async def test_who_holds_the_writer_flushes_it(pair):
    pair.writer.is_held = True
    pair.writer.send(b"a")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pair.writer.queued == 1
    pair.writer.flush()
    assert pair.far.recv(10) == b"a"


async def test_output_is_told_once_a_step(pair, monkeypatch):
    monkeypatch.setattr(writer, "OUTPUT_STEP", 1000)
    pair.writer._report_at = 1000
    told = []
    pair.writer.on_output = lambda: told.append(pair.writer.sent)
    for _ in range(35):
        pair.writer.send(bytes(100))
        pair.writer.flush()
    assert told == [1000, 2000, 3000]


async def test_output_is_told_from_the_first_step_on(pair):
    """A megabyte; smaller output asks the bus nothing."""
    assert writer.OUTPUT_STEP == 1 << 20
    told = []
    pair.writer.on_output = lambda: told.append(pair.writer.sent)
    pair.writer.send(bytes(writer.OUTPUT_STEP))
    while pair.writer.queued:
        assert told == []
        await asyncio.sleep(0)
        try:
            pair.far.recv(1 << 20)
        except BlockingIOError:
            pass
    assert told == [writer.OUTPUT_STEP]


async def test_an_error_of_the_socket_is_told_and_who_drains_goes_on_at_the_close(pair):
    pair.writer.is_held = True
    pair.writer.send(b"x")
    draining = asyncio.create_task(pair.writer.drain())
    pair.far.close()
    await asyncio.sleep(0)
    pair.writer.flush()
    assert [type(error) for error in pair.errors] == [BrokenPipeError]
    await asyncio.sleep(0)
    assert not draining.done()
    pair.writer.close()
    await draining
    assert not pair.writer.is_open
    assert pair.writer.queued == 0


async def test_who_gives_up_draining_does_not_stop_the_others(pair):
    pair.writer.is_held = True
    pair.writer.send(b"x")
    one, two = (asyncio.create_task(pair.writer.drain()) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.sleep(0)
    pair.writer.flush()
    await two
    assert one.cancelled()


async def test_draining_nothing_does_not_wait(pair):
    await pair.writer.drain()
    pair.writer.close()
    await pair.writer.drain()


async def test_room_is_told_once_the_socket_takes_more(pair):
    pair.writer.send(bytes(4 << 20))
    await asyncio.sleep(0)
    assert pair.writer.is_blocked
    assert pair.rooms == []
    while pair.writer.queued:
        try:
            pair.far.recv(1 << 20)
        except BlockingIOError:
            pass
        await asyncio.sleep(0)
    assert pair.rooms
    assert not pair.writer.is_blocked


async def test_31_a_closed_writer_takes_nothing(pair, open_fds):
    before = open_fds()
    pair.writer.close()
    pair.writer.close()
    pair.writer.send(b"x", [0, 1])
    assert pair.writer.queued == 0
    assert open_fds() == before


async def test_31_closing_closes_each_descriptor_once(pair, monkeypatch):
    for _ in range(3):
        pair.writer.send(b"x", [0, 1])
    closed = []
    close = os.close
    monkeypatch.setattr(writer.os, "close", lambda fd: closed.append(fd) or close(fd))
    pair.writer.close()
    pair.writer.close()
    assert len(closed) == len(set(closed)) == 6


def test_closing_what_is_closed_is_no_error():
    read, write = os.pipe()
    close_all([read, write])
    close_all([read, write])

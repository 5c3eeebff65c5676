import asyncio
import errno
import itertools
import json
import mmap
import os
import socket
import subprocess
import sys

import pytest
from support.store_sockets import MEGA, UID, a_house, descriptors, error_of, setting, turns

from buswork.authority import Limits
from buswork.client.reader import Reader
from buswork.native.inflight import PER_UID
from buswork.native.room import Buffers
from buswork.store.native import requests
from buswork.store.native.connection import Patience
from buswork.store.native.requests import READ
from buswork.store.wire.requests import NULL_REPLY, READER_REQUEST

# Requests in pieces


async def test_a_set_in_pieces(house):
    request = setting("k", "a}b\\{")
    reader, writer = await house.connect(house.set_path)
    for byte in request:
        writer.write(bytes([byte]))
        await writer.drain()
        await turns(2)
    assert await reader.read() == request
    assert house.store.get(UID, "k") == b"a}b\\{"
    writer.close()


async def test_a_get_is_answered_at_the_first_packet(house):
    house.store.set(UID, "fo", b"half")
    reader, writer = await house.connect(house.get_path)
    writer.write(b"fo")
    assert json.loads(await reader.read()) == {"value": "half"}
    writer.close()


@pytest.mark.parametrize("escaped", [False, True])
async def test_a_mebibyte_there_and_back(house, escaped):
    value = "\x01" * MEGA if escaped else "x" * MEGA
    request = setting("big", value)
    assert await house.set(request) == request
    assert json.loads(await house.get(b"big")) == {"value": value}
    assert house.waiting == 0
    assert house.authority.quotas.used(UID, "waiting_bytes") == 0


async def test_the_end_of_a_stream_ends_a_request(house, caplog):
    assert await house.set(b'{"key":"k"', half_close=True) == b""
    assert "before its end" in caplog.text
    assert await house.get(b"", half_close=True) == NULL_REPLY
    assert await house.set(b"", half_close=True) == b""


async def test_who_leaves_early_costs_nothing(house):
    before = descriptors()
    for path in (house.set_path, house.get_path) * 10:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.send(b"f" if path == house.get_path else b"{")
        await turns()
    while len(house.doors):
        await turns()
    assert house.waiting == 0
    assert descriptors() <= before + 1  # the pidfd of this process


# The shared memory, handed over


def ask_for_memory(path, request=READER_REQUEST):
    """The reply, and the descriptors that came with it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(request)
        reply, fds, _, _ = socket.recv_fds(sock, 4096, 8)
        while piece := sock.recv(4096):
            reply += piece
        return reply, fds


async def memory_of(house, request=READER_REQUEST):
    return await asyncio.to_thread(ask_for_memory, house.get_path, request)


def readers(house):
    """How many are counted."""
    return house.authority.quotas.used(UID, "descriptors")


async def test_a_reader_by_the_get_socket(house):
    house.store.set(UID, "k", b"1")
    for number in (1, 2):  # the second time nobody has to be asked, and the memory is there
        reply, (fd,) = await memory_of(house)
        assert reply == NULL_REPLY
        with Reader(fd) as reader:
            assert reader.lookup("k") == (b"%d" % number, number)
            await house.set(setting("k", str(number + 1)))
            assert reader.lookup("k") == (b"%d" % (number + 1), number + 1)
            with pytest.raises(OSError, match=r"denied|permitted"):
                mmap.mmap(fd, reader.layout.size, prot=mmap.PROT_WRITE)
        assert readers(house) == number
    assert house.polkit.questions == 2  # one of them for the sets
    assert house.waiting == 0
    house.doors.peers.close()
    assert readers(house) == 0


@pytest.mark.parametrize(
    "request_", [READER_REQUEST[:-1], READER_REQUEST + b"\n", READER_REQUEST[1:], b"\0"]
)
async def test_what_only_looks_like_it_gets_no_reader(house, request_):
    assert await memory_of(house, request_) == (NULL_REPLY, [])
    assert readers(house) == 0


async def test_the_set_socket_hands_out_nothing(house):
    assert await house.set(READER_REQUEST, half_close=True) == b""
    assert readers(house) == 0


async def test_a_reader_is_for_those_who_may_read(house):
    house.polkit.denied = {READ}
    reply, fds = await memory_of(house)
    assert (error_of(reply), fds) == ("AccessDenied", [])
    assert readers(house) == 0
    assert house.memory.facts() == {}  # not even made


async def test_readers_are_counted(tmp_path, caplog):
    async with a_house(tmp_path, limits=Limits(descriptors=2)) as house:
        for _ in range(2):
            house.doors.in_flight._look()
            before = descriptors()
            _, (fd,) = await memory_of(house)
            os.close(fd)  # which nobody sees
        reply, fds = await memory_of(house)
        assert (error_of(reply), fds) == ("LimitsExceeded", [])
        assert "2 descriptors" in caplog.text
        house.doors.in_flight._look()
        assert descriptors() == before


async def test_a_reader_counts_until_its_process_ends(house):
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    code += "s.send(b'\\0mapipc-reader\\n'); print(len(socket.recv_fds(s, 99, 1)[1]), flush=True); "
    code += "sys.stdin.read()"
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", code, str(house.get_path),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert await client.stdout.readline() == b"1\n"
    assert readers(house) == 1
    await house.get(b"k")
    assert readers(house) == 1
    client.stdin.close()
    await client.wait()
    while readers(house):
        await turns()


async def test_without_a_memory_there_is_null(house, monkeypatch, caplog):
    async def open_reader():
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(house.memory, "open_reader", open_reader)
    assert await memory_of(house) == (NULL_REPLY, [])
    assert "no memory" in caplog.text
    assert readers(house) == 0


@pytest.mark.parametrize("how", ["process", "connection"])
async def test_who_is_gone_when_the_memory_is_ready_is_not_counted(house, monkeypatch, how):
    opened = house.memory.open_reader

    async def open_reader():
        if how == "process":  # or it was forgotten, for others
            house.doors.peers.close()
        else:
            for connection in tuple(house.doors.crowd.all):
                connection.sock.shutdown(socket.SHUT_RDWR)
        return await opened()

    await house.get(b"k")
    fd = await opened()
    before = descriptors()
    monkeypatch.setattr(house.memory, "open_reader", open_reader)
    try:
        _, fds = await memory_of(house)
    except ConnectionError:
        fds = []
    for each in (fd, *fds):
        os.close(each)
    while len(house.doors):
        await turns()
    assert readers(house) == house.waiting == 0
    assert descriptors() < before


async def test_a_connection_may_be_closed_while_it_waits_for_the_memory(house, monkeypatch):
    waits = asyncio.Event()

    async def open_reader():
        waits.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(house.memory, "open_reader", open_reader)
    asking = asyncio.create_task(memory_of(house))
    await waits.wait()
    for connection in tuple(house.doors.crowd.all):
        connection.close()
    assert await asking == (b"", [])
    await turns()
    assert readers(house) == house.waiting == 0


async def ask_without_reading(house):
    """The client's end, when the reply lies in it."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(house.get_path))
    sock.send(READER_REQUEST)
    await asyncio.to_thread(sock.recv, 1, socket.MSG_PEEK)
    return sock


async def test_readers_that_nobody_receives_are_few(house, monkeypatch):
    """They count against us in the kernel, for as long as anybody holds the client's end."""
    monkeypatch.setattr("buswork.native.inflight.LOOK_SECONDS", 0.01)
    clients = [await ask_without_reading(house) for _ in range(PER_UID)]
    house.doors.peers.close()  # as if the process had ended, and left its sockets to others
    assert readers(house) == 0
    reply, fds = await memory_of(house)
    assert (error_of(reply), fds) == ("LimitsExceeded", [])
    for client in clients:
        client.close()
    await asyncio.sleep(0.05)
    assert len(house.doors.in_flight) == 0
    _, (fd,) = await memory_of(house)
    os.close(fd)


async def test_where_no_descriptor_is_left_that_one_is_refused(house, monkeypatch):
    async def open_reader():
        raise OSError(errno.EMFILE, "no descriptor")

    monkeypatch.setattr(house.memory, "open_reader", open_reader)
    reply, fds = await memory_of(house)
    assert (error_of(reply), fds) == ("LimitsExceeded", [])
    assert readers(house) == house.waiting == 0


async def test_a_memory_that_fails_answers_all_the_same(house, monkeypatch, caplog):
    async def open_reader():
        raise RuntimeError("a defect")

    monkeypatch.setattr(house.memory, "open_reader", open_reader)
    reply, fds = await memory_of(house)
    assert (error_of(reply), fds) == ("Failed", [])
    assert "a defect" in caplog.text
    assert readers(house) == house.waiting == 0


# Patience and room


@pytest.mark.parametrize("what", ["polkit", "memory"])
async def test_who_is_not_answered_does_not_wait_for_ever(tmp_path, monkeypatch, what):
    async with a_house(tmp_path, patience=Patience(reply_seconds=0.05)) as house:
        if what == "polkit":
            house.polkit.may_answer.clear()
        else:
            monkeypatch.setattr(house.memory, "open_reader", asyncio.Event().wait)
        reply, fds = await memory_of(house)
        assert (error_of(reply), fds) == ("Timeout", [])
        assert house.waiting == readers(house) == 0
        house.polkit.may_answer.set()


async def test_the_idle_are_closed(tmp_path, caplog):
    async with a_house(tmp_path, patience=Patience(request_seconds=0.05)) as house:
        reader, writer = await house.connect(house.get_path)
        assert error_of(await reader.read()) == "Timeout"
        writer.close()
        reader, writer = await house.connect(house.set_path)
        writer.write(b'{"key":')
        assert await reader.read() == b""
        writer.close()
        assert house.waiting == 0
    assert "no whole request" in caplog.text


async def test_who_does_not_read_is_cut_off(tmp_path):
    async with a_house(tmp_path, patience=Patience(reply_seconds=0.05)) as house:
        house.store.set(UID, "big", b"x" * MEGA)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            sock.connect(str(house.get_path))
            sock.send(b"big")
            while house.authority.quotas.used(UID, "waiting_bytes") < MEGA:
                await turns()
            while len(house.doors):
                await turns()
        assert house.authority.quotas.used(UID, "waiting_bytes") == 0


async def test_all_uids_together_have_so_many_bytes(house, caplog):
    house.doors.buffers = Buffers(1000)
    assert await house.set(setting("k", "x" * 300_000)) == b""
    assert "bytes waiting" in caplog.text
    assert house.authority.quotas.used(UID, "waiting_bytes") == 0
    assert house.doors.buffers._used == {}
    assert await house.set(setting("k", "short"))


async def test_what_waits_counts_in_bytes(tmp_path, caplog):
    limits = Limits(waiting_bytes=100_000)
    async with a_house(tmp_path, limits=limits) as house:
        assert await house.set(setting("k", "x" * 300_000)) == b""
        house.store.set(UID, "big", b"x" * MEGA)
        assert caplog.text.count("waiting bytes") == 1
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(house.get_path))
            sock.send(b"big")
            while caplog.text.count("waiting bytes") < 2:
                await turns()
            assert len(sock.recv(2 * MEGA, socket.MSG_WAITALL)) < MEGA
        assert house.authority.quotas.used(UID, "waiting_bytes") == 0


async def test_a_long_reply_is_counted_before_it_is_made(house, monkeypatch):
    house.store.set(UID, "big", b"x" * MEGA)
    house.doors.buffers = Buffers(1000)
    monkeypatch.setattr(requests, "value_reply", None)
    assert error_of(await house.get(b"big")) == "LimitsExceeded"


async def test_long_requests_are_carried_out_one_by_one(house, monkeypatch):
    """So that everybody else has a turn after each."""
    monkeypatch.setattr("buswork.native.shares.TURN_SECONDS", 1e-9)  # however fast the machine is
    request = setting("k", [1] * 30_000)
    turn, at = 0, []

    async def count_turns():
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    house.store.on_change.append(lambda change: at.append(turn))
    counting = asyncio.create_task(count_turns())
    requests = [setting("k", [number] * 30_000) for number in range(6)]
    assert await asyncio.gather(*map(house.set, requests)) == requests
    counting.cancel()
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert len(gaps) == 5
    assert min(gaps) >= 1
    assert json.loads(request)


async def test_who_had_its_share_waits_and_is_answered(house, caplog):
    await house.get(b"k")
    shares, put_off = house.doors.shares, []
    later = shares.later
    shares._window_end = float("inf")
    shares.charge(UID, 1.0)
    shares.later = lambda uid, work: (put_off.append(uid), later(uid, work))
    reader, writer = await house.connect(house.get_path)
    while house.waiting < 1:
        await turns()
    writer.write(b"k")
    assert await reader.read() == NULL_REPLY
    assert await house.set(setting("k", "v")) == setting("k", "v")
    assert put_off[:2] == [UID, UID]
    assert house.waiting == 0
    writer.close()

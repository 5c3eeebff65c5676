import asyncio
import errno
import itertools
import json
import logging
import mmap
import os
import random
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from support.mapipcd import ask, large_request, matches, vectors

from buswork.authority import Authority, Limits
from buswork.bus.caller import Peer
from buswork.bus.polkit import Answer, PolkitAbsent
from buswork.client.reader import Reader
from buswork.errors import InvalidArgs
from buswork.log import Sparing
from buswork.native.inflight import PER_UID
from buswork.native.peers import Known
from buswork.native.places import PlaceTaken, SocketFile, make_sockets
from buswork.native.room import Buffers
from buswork.store.model.store import Store
from buswork.store.native import sockets as module
from buswork.store.native.memory import SharedMemory
from buswork.store.native.sockets import GET_NAME, NAMES, SET_NAME, Doors, Patience
from buswork.store.wire.requests import NULL_REPLY, READER_REQUEST
from buswork.store.wire.values import EMPTY, Json

UID = os.geteuid()
MEGA = 1 << 20

# Where an answer differs from the original's on purpose, and what it is: a malformed set is not
# acknowledged, it is logged; a half-closed request is answered, the empty key with null.
MALFORMED = b""
DIFFERENT = {
    "bad_json_text": MALFORMED,
    "json_array": MALFORMED,
    "json_string": MALFORMED,
    "two_objects": MALFORMED,
    "set_invalid_utf8": MALFORMED,
    "single_quotes": MALFORMED,
    "comment": MALFORMED,
    "set_half_close": None,  # its echo
    "get_empty_then_half_close": NULL_REPLY,
}
# The recorder left some sets out; what their gets show.
UNRECORDED = {
    "get_foo_overwritten": {"key": "foo", "value": "baz"},
    "get_ex": {"key": "ex", "value": "1", "more": [1]},
    "get_neg": {"key": "v_neg", "value": -7},
    "get_big": {"key": "v_big", "value": 12345678901234567890},
    "get_true": {"key": "v_true", "value": True},
    "get_array": {"key": "v_array", "value": [1, "a", None]},
    "get_empty_array": {"key": "v_empty_array", "value": []},
    "get_unicode": {"key": "u_unicode", "value": "héllo 世界 😀"},
    "get_controls": {"key": "u_controls", "value": "\x01\b\t\n\f\r\x1f\x7f"},
    "get_newline": {"key": "u_newline", "value": "l1\nl2\n"},
    "get_surrogate_pair_escape": {"key": "u_surrogate_pair_escape", "value": "😀"},
    "get_unicode_key": {"key": "clé", "value": "v"},
}


class FakePolkit:
    """Says yes at once, or what it was told to, when it was told to."""

    def __init__(self):
        self.questions = 0
        self.denied = set()
        self.absent = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Event()

    async def ask(self, subject, action, *, interactive):
        assert isinstance(subject, Peer)
        assert not interactive
        self.questions += 1
        self.asked.set()
        await self.may_answer.wait()
        if self.absent:
            raise PolkitAbsent("not there")
        return Answer(action not in self.denied, False, False)


class House:
    """A store with its doors, in a directory."""

    def __init__(self, directory, limits=None, patience=None):
        self.polkit = FakePolkit()
        self.store = Store(lambda: 0)
        self.authority = Authority(self.polkit, None, 12345, limits or Limits())
        self.memory = SharedMemory(self.store, bytes(16))
        self.doors = Doors(self.store, self.authority, patience, memory=self.memory)
        self.files = make_sockets(directory, NAMES)
        for file in self.files:
            self.doors.open(file.listener)
        self.set_path, self.get_path = directory / SET_NAME, directory / GET_NAME

    def close(self):
        for file in self.files:
            file.remove()
        self.doors.close()
        self.memory.close()

    async def set(self, request, **keywords):
        return await asyncio.to_thread(ask, self.set_path, request, **keywords)

    async def get(self, request, **keywords):
        return await asyncio.to_thread(ask, self.get_path, request, **keywords)

    async def connect(self, path):
        return await asyncio.open_unix_connection(str(path), limit=16 * MEGA)

    @property
    def listener_fd(self):
        return self.files[0].listener.fileno()

    @property
    def waiting(self):
        return self.authority.quotas.used(UID, "native_connections")


@asynccontextmanager
async def a_house(directory, **keywords):
    house = House(directory, **keywords)
    try:
        yield house
    finally:
        house.close()


@pytest.fixture
async def house(tmp_path):
    async with a_house(tmp_path) as house:
        yield house


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def setting(key, value):
    return json.dumps({"key": key, "value": value}).encode()


def error_of(reply):
    members = json.loads(reply)
    assert "value" not in members
    return members["error"].rpartition(".")[2]


async def turns(number=5):
    for _ in range(number):
        await asyncio.sleep(0)


# Replays


async def test_the_recorded_exchanges(house):
    for vector in vectors("raw_protocol"):
        name, request = vector["name"], bytes.fromhex(vector["request"]["hex"])
        if name in UNRECORDED:
            await house.set(json.dumps(UNRECORDED[name]).encode())
        if name == "get_silent":
            continue  # it is closed after a time; see below
        exchange = house.set if vector["socket"] == "mapipc_set" else house.get
        reply = await exchange(request, half_close="half_close" in name)
        if name in DIFFERENT:
            assert not matches(reply, vector["reply"]), name
            expected = DIFFERENT[name]
            assert reply == (request if expected is None else expected), name
        else:
            assert matches(reply, vector["reply"]), (name, reply)


async def test_the_recorded_large_values(house):
    for vector in vectors("large_values"):
        size = int(vector["name"].partition("_")[2])
        if vector["socket"] == "mapipc_get":
            reply = await house.get(b"L%d" % size)
            if size <= 212_000:
                assert matches(reply, vector["reply"])
            elif size <= MEGA:
                assert json.loads(reply) == {"value": house.store.get(UID, f"L{size}").decode()}
                assert len(house.store.get(UID, f"L{size}")) == size
            else:
                assert reply == NULL_REPLY
            continue
        request = large_request(vector)
        reply = await house.set(request)
        # Above 219,264 bytes the original answers what it has read so far, and keeps nothing.
        assert reply == (request if size <= MEGA else b""), size


async def test_what_the_originals_client_sends(house):
    for vector in vectors("mapipc_cli_wire"):
        request = vector["request"]
        if "hex" in request and vector["args"][0] == "set":
            data = bytes.fromhex(request["hex"])
            assert await house.set(data) == data


async def test_all_of_those_who_connect_at_once_are_answered(house):
    """The original answers 10 of 20 when all connect first, and then all send."""
    house.store.set(UID, "foo", b"bar")
    clients = [await house.connect(house.get_path) for _ in range(20)]
    for _, writer in clients:
        writer.write(b"foo")
    for reader, writer in clients:
        assert await reader.read() == b'{\n    "value": "bar"\n}\n'
        writer.close()
    assert house.waiting == 0


async def test_twenty_parallel_sets(house):
    """The original: 8 finished and stored, 12 hung."""
    requests = [setting(f"k{number}", "v") for number in range(20)]
    assert await asyncio.gather(*map(house.set, requests)) == requests
    assert house.store.count == 20


async def test_a_client_that_is_overtaken_is_answered(house):
    first_reader, first = await house.connect(house.set_path)
    await turns()
    assert await house.set(setting("b", "2"))
    first.write(setting("a", "1"))
    assert await first_reader.read() == setting("a", "1")
    first.close()


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


# One model for all


async def test_what_is_set_here_is_read_there(house):
    told = []
    house.store.on_change.append(told.append)
    await house.set(setting("k", "v"))
    assert house.store.lookup(UID, "k") == (True, b"v", 1)
    await house.set(setting("k", "v"))
    assert [(change.revision, change.value) for change in told] == [(1, b"v")]
    await house.set(setting("k", None))
    assert house.store.lookup(UID, "k")[0] is False
    assert [change.revision for change in told] == [1, 2]


@pytest.mark.parametrize(
    ("value", "kept"),
    [("", EMPTY), ("a\0b", Json(b'"a\\u0000b"')), (5, Json(b"5")), ([], Json(b"[]"))],
)
async def test_values_that_are_no_text(house, value, kept):
    await house.set(setting("k", value))
    assert house.store.get(UID, "k") == kept
    assert json.loads(await house.get(b"k")) == {"value": value}


async def test_a_uids_private_keys_are_its_own(house, caplog):
    own, foreign = f"~{UID}/k", f"~{UID + 1}/k"
    assert await house.set(setting(own, "v"))
    assert json.loads(await house.get(own.encode())) == {"value": "v"}
    assert await house.set(setting(foreign, "v")) == b""
    assert error_of(await house.get(foreign.encode())) == "AccessDenied"


async def test_the_stores_quotas_hold_here_too(house, caplog):
    assert await house.set(setting("k" * 1025, "v")) == b""
    assert await house.set(setting("k", "v" * (MEGA + 1))) == b""
    assert await house.set(setting("a\0b", "v")) == b""
    assert "MaxValueBytes" in caplog.text
    assert house.store.count == 0


# Bad input


@pytest.mark.parametrize("key", [b"\0", b"\0foo", b"k" * 1025, b"cl\xe9", b"k" * 70_000])
async def test_keys_that_nothing_can_have_are_null_and_logged(house, caplog, key):
    assert await house.get(key) == NULL_REPLY
    assert f"uid {UID}, pid {os.getpid()}" in caplog.text


@pytest.mark.parametrize("request_", [b'{"value":"x"}', b'{"key":5,"value":"x"}', b'{"key":""}'])
async def test_a_set_without_a_key_is_acknowledged_and_logged(house, caplog, request_):
    assert await house.set(request_) == request_
    assert "key" in caplog.text
    assert house.store.count == 0


@pytest.mark.parametrize(
    "bomb",
    [
        b'{"key":"k","value":' + b"[" * 200_000,
        b'{"key":"k","value":' + b"[" * 90_000 + b"]" * 90_000 + b"}",
        b'{"key":"k","value":' + b"9" * 100_000 + b"}",
        b'{"key":"k","value":[' + b"[]," * MEGA + b"1]}",
        b'{"key":"k","value":"' + b"\\" * 8 * MEGA,
    ],
    ids=["open", "deep", "digits", "many", "endless"],
)
async def test_bombs(house, bomb):
    assert await house.set(bomb, half_close=True) == b""
    assert house.store.count == 0
    assert house.authority.quotas.used(UID, "waiting_bytes") == 0


async def test_random_bytes_do_no_harm(house):
    chance = random.Random(1)
    for _ in range(200):
        data = chance.randbytes(chance.randrange(1, 200))
        await house.set(b"{" + data, half_close=True)
        assert await house.get(data)
    assert await house.set(setting("k", "v")) == setting("k", "v")


async def test_complaints_are_escaped_and_sparing(house, caplog):
    for _ in range(50):
        await house.set(b"\x1b[31mnonsense\n")
    assert len(caplog.records) == Sparing.LINES
    await house.get(b"~%d/\x1b[2J" % (UID + 1))
    assert "\x1b" not in "".join(map(module_line, caplog.records))


def module_line(record):
    from buswork.log import escaped

    return escaped(record.getMessage())


# Who may


async def test_polkit_is_asked_once_for_a_process(house):
    for _ in range(10):
        await house.set(setting("k", "v"))
        await house.get(b"k")
    assert house.polkit.questions == 2


@pytest.mark.parametrize("absent", [False, True])
async def test_the_denied(house, caplog, absent):
    house.polkit.absent = absent
    house.polkit.denied = {module.READ, module.WRITE}
    caplog.set_level(logging.INFO)
    if absent and UID == 0:
        return  # root needs no polkit
    assert error_of(await house.get(b"k")) == "AccessDenied"
    assert await house.set(setting("k", "v")) == b""
    assert house.store.count == 0
    assert caplog.text.count("denied") == 2
    assert house.waiting == 0


async def test_a_changed_rule_counts_from_the_next_request_on(house):
    assert await house.get(b"k") == NULL_REPLY
    house.polkit.denied = {module.READ}
    house.authority._forget_all()
    assert error_of(await house.get(b"k")) == "AccessDenied"


async def test_denials_are_logged_sparingly(house, caplog):
    house.polkit.denied = {module.READ}
    caplog.set_level(logging.INFO)
    for _ in range(30):
        await house.get(b"k")
    assert len(caplog.records) == Sparing.LINES
    assert house.authority.denials == 30


async def test_others_are_served_while_polkit_thinks(house):
    await house.get(b"k")
    house.polkit.may_answer.clear()
    house.polkit.asked.clear()
    waiting = asyncio.create_task(house.set(setting("k", "v")))
    await house.polkit.asked.wait()
    assert await house.get(b"k") == NULL_REPLY
    assert house.waiting == 1
    house.polkit.may_answer.set()
    assert await waiting == setting("k", "v")
    assert house.waiting == 0


async def run_client(path, request):
    """A process of its own that asks and ends."""
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    code += "s.send(sys.argv[2].encode()); print(s.recv(100).decode())"
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", code, str(path), request, stdout=subprocess.PIPE
    )
    out, _ = await client.communicate()
    return client.pid, out


async def test_each_process_is_asked_about_and_forgotten_when_it_ends(house):
    before = descriptors()
    pids = {(await run_client(house.get_path, "k"))[0] for _ in range(3)}
    assert len(pids) == 3
    assert house.polkit.questions == 3
    while len(house.doors.peers):
        await turns()
    assert not house.authority._kept
    assert descriptors() == before


async def test_a_process_that_ended_is_nobody(house, caplog):
    """Its pid may be somebody else's by now (ATTACKS 1)."""
    house.doors.loop.remove_reader(house.files[1].listener.fileno())
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c",
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.send(b'k')", str(house.get_path),
    )  # fmt: skip
    await client.wait()
    house.doors._acceptor._accept(house.files[1].listener, house.doors._doors[GET_NAME].serve)
    assert "ended before" in caplog.text
    assert house.polkit.questions == 0


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
    house.polkit.denied = {module.READ}
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


# Patience and limits


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


async def test_who_is_being_answered_is_not_silent(tmp_path):
    async with a_house(tmp_path, limits=Limits(native_connections=2)) as house:
        house.store.set(UID, "big", b"\x01" * 60_000)  # six times as long in JSON
        await house.get(b"k")
        with socket.socket(socket.AF_UNIX) as slow:
            slow.connect(str(house.get_path))
            slow.send(b"big")
            while house.waiting < 1:
                await turns()
            clients = [await house.connect(house.get_path) for _ in range(3)]
            assert await clients[0][0].read() == b""  # the oldest of the silent
            reply = await asyncio.to_thread(slow.recv, MEGA, socket.MSG_WAITALL)
            assert len(reply) > 360_000
        for _, client in clients:
            client.close()


async def test_all_uids_together_have_so_many_connections(tmp_path, caplog):
    async with a_house(tmp_path) as house:
        house.doors.crowd.most = 3
        clients = [await house.connect(house.get_path) for _ in range(4)]
        assert await clients[0][0].read() == b""
        assert "one was closed" in caplog.text
        clients[3][1].write(b"k")
        assert await clients[3][0].read() == NULL_REPLY
        for _, writer in clients:
            writer.close()


async def test_all_uids_together_have_so_many_bytes(house, caplog):
    house.doors.buffers = Buffers(1000)
    assert await house.set(setting("k", "x" * 300_000)) == b""
    assert "bytes waiting" in caplog.text
    assert house.authority.quotas.used(UID, "waiting_bytes") == 0
    assert house.doors.buffers._used == {}
    assert await house.set(setting("k", "short"))


async def test_a_long_reply_is_counted_before_it_is_made(house, monkeypatch):
    house.store.set(UID, "big", b"x" * MEGA)
    house.doors.buffers = Buffers(1000)
    monkeypatch.setattr(module, "value_reply", None)
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


async def test_the_complaints_about_one_hide_none_about_another(house, caplog):
    for uid in (1, 2):
        for _ in range(2 * Sparing.LINES):
            known = Known(Peer(uid, 1, house.listener_fd), b"")
            house.doors._doors[GET_NAME].complain(known, "a complaint")
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "uid 1," in line]) == Sparing.LINES
    assert len([line for line in lines if "uid 2," in line]) == Sparing.LINES


async def test_the_oldest_silent_connection_makes_room(tmp_path, caplog):
    async with a_house(tmp_path, limits=Limits(native_connections=4)) as house:
        clients = [await house.connect(house.get_path) for _ in range(6)]
        while house.waiting < 4 or "closed" not in caplog.text:
            await turns()
        assert await clients[0][0].read() == b""
        assert await clients[1][0].read() == b""
        clients[5][1].write(b"k")
        assert await clients[5][0].read() == NULL_REPLY
        for _, writer in clients:
            writer.close()


async def test_no_more_than_so_many_connections(tmp_path):
    async with a_house(tmp_path, limits=Limits(native_connections=2)) as house:
        clients = []
        for _ in range(2):
            clients.append(await house.connect(house.set_path))
            clients[-1][1].write(b'{"key"')
        while house.waiting < 2 or house.doors.crowd.oldest_silent(UID):
            await turns()
        reader, writer = await house.connect(house.set_path)
        assert await reader.read() == b""
        for _, each in [*clients, (reader, writer)]:
            each.close()


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


async def test_ten_thousand_half_open_connections_over_time(house):
    """Each is left behind in one of the ways there are; the bench does it 10 times as often."""
    await house.get(b"k")
    before = descriptors()
    kept = []
    for number in range(10_000):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(str((house.get_path, house.set_path)[number % 2]))
        if number % 4 == 1:
            sock.send(b'{"key":"')
        kept.append(sock)
        if len(kept) > 50:
            kept.pop(0).close()
        if number % 10 == 0:
            await turns(2)
    assert len(house.doors) <= Limits().native_connections
    while len(house.doors) > len(kept):  # it hears of the last ones that were closed
        await turns()
    assert await house.get(b"k") == NULL_REPLY
    for sock in kept:
        sock.close()
    while len(house.doors):
        await turns()
    assert house.waiting == 0
    assert descriptors() == before


async def test_a_socket_of_another_name_is_refused(house, tmp_path):
    other = SocketFile(tmp_path / "other")
    with pytest.raises(InvalidArgs, match="neither"):
        house.doors.open(other.listener)
    other.remove()


# Socket files


def test_a_socket_file_is_for_all_and_goes_with_us(tmp_path):
    path = tmp_path / "s"
    file = SocketFile(path)
    assert path.stat().st_mode & 0o777 == 0o666
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    file.remove()
    assert not path.exists()
    file.remove()
    file.listener.close()


def test_a_stale_socket_is_replaced(tmp_path):
    path = tmp_path / "s"
    SocketFile(path).listener.close()
    file = SocketFile(path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
    file.remove()
    file.listener.close()


def test_what_came_after_us_is_left_alone(tmp_path):
    path = tmp_path / "s"
    first = SocketFile(path)
    path.unlink()
    second = SocketFile(path)
    first.remove()
    assert path.exists()
    second.remove()
    for file in (first, second):
        file.listener.close()


@pytest.mark.parametrize("what", ["file", "link", "directory", "foreign", "served"])
def test_what_others_put_there_is_not_touched(tmp_path, caplog, what):
    path = tmp_path / SET_NAME
    served = None
    if what == "file":
        path.write_text("mine")
    elif what == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "directory":
        path.mkdir()
    else:
        served = SocketFile(path)
        if what == "foreign":
            if os.geteuid():
                pytest.skip("needs root to make another user's file")
            os.chown(path, 65534, 65534)
    assert make_sockets(tmp_path, NAMES) == []
    assert str(path) in caplog.text
    assert list(tmp_path.iterdir()) == [path]
    if served:
        served.remove()
        served.listener.close()


def test_somebody_who_is_faster_wins(tmp_path, monkeypatch):
    path = tmp_path / "s"

    def link(source, target, **keywords):
        raise FileExistsError

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(PlaceTaken, match="faster"):
        SocketFile(path)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there(tmp_path, caplog):
    assert make_sockets(tmp_path / "none", NAMES) == []
    assert "can't be served" in caplog.text

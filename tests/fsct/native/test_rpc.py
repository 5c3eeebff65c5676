import asyncio
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

import msgpack
import pytest
from fsct.wire.test_msgpackrpc import ENDS, OURS, SKIPPED
from fsct.wire.vectors import recorded, vectors
from support.displays import device
from support.rpc import UID, House

from buswork.authority import Limits
from buswork.fsct.model.players import MAX_TEXT_BYTES
from buswork.fsct.native import rpc as module
from buswork.fsct.native.rpc import MANAGE, MAX_IN_FLIGHT, OBSERVE, REGISTER, ROUTE, Patience
from buswork.fsct.wire import jsonrpc
from buswork.fsct.wire.methods import METHODS
from buswork.fsct.wire.msgpackrpc import encode_request
from buswork.fsct.wire.terms import Status, TextId

DEVICE = UUID("a1b2c3d4-e5f6-4789-8abc-def012345678")
VERSION = {"major": 1, "minor": 0}
VERSION_REQUEST = encode_request(7, "get_protocol_version", [])
VERSION_ANSWER = [1, 7, None, VERSION]
TIMELINE = {"position_ms": 1, "update_unix_ms": 2, "duration_ms": 3, "rate": 1.0}


@asynccontextmanager
async def a_house(directory, **keywords):
    house = House(directory / "fsct.sock", **keywords)
    try:
        yield house
    finally:
        house.polkit.may_answer.set()
        if house.path.exists():
            await house.stop()


@pytest.fixture
async def house(tmp_path):
    async with a_house(tmp_path) as house:
        yield house


class Client:
    """One connection. Answers are read as they come, in whichever protocol."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self._unpacker = msgpack.Unpacker(strict_map_key=False)
        self._msgid = 0

    def send(self, data):
        self.writer.write(data)

    def ask(self, method, *params):
        self._msgid += 1
        self.send(encode_request(self._msgid, method, list(params)))
        return self._msgid

    async def answer(self):
        while True:
            for message in self._unpacker:
                return message
            self._unpacker.feed(await self.read())

    async def read(self, size=None):
        """What comes, or so many bytes; EOFError at the end."""
        async with asyncio.timeout(30):
            if size is not None:
                return await self.reader.readexactly(size)
            data = await self.reader.read(65536)
        if not data:
            raise EOFError
        return data

    async def call(self, method, *params):
        msgid = self.ask(method, *params)
        kind, answered, error, result = await self.answer()
        assert (kind, answered) == (1, msgid)
        return result if error is None else error

    async def line(self, request=None):
        if request is not None:
            self.send(request if isinstance(request, bytes) else request.encode())
        async with asyncio.timeout(30):
            return (await self.reader.readline()).decode()

    async def ended(self):
        async with asyncio.timeout(30):
            return await self.reader.read(1) == b""

    def close(self):
        self.writer.transport.abort()


@asynccontextmanager
async def clients(house, number):
    found = []
    try:
        for _ in range(number):
            streams = await asyncio.open_unix_connection(str(house.path), limit=1 << 22)
            found.append(Client(*streams))
        yield found
    finally:
        for client in found:
            client.close()


@asynccontextmanager
async def a_client(house):
    async with clients(house, 1) as (client,):
        yield client


@pytest.fixture
async def client(house):
    async with a_client(house) as client:
        yield client


async def until(condition):
    for _ in range(100_000):
        if found := condition():
            return found
        await asyncio.sleep(0)
    raise AssertionError("it does not happen")


async def nobody(house):
    """All connections have ended, and nothing of them is left."""
    await until(lambda: not len(house.server))
    kinds = ("native_connections", "waiting_bytes", "objects")
    assert [house.used(kind) for kind in kinds] == [0, 0, 0]


async def push(client, data):
    """Sends as much of this as goes in; how often it was sent."""
    sock, times, idle = client.writer.get_extra_info("socket"), 0, 0
    while idle < 50:
        try:
            assert os.write(sock.fileno(), data) == len(data)
            times, idle = times + 1, 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(0)
    return times


async def is_sent_away(client, data):
    """Sends this, and reads nothing, until the other end is closed."""
    client.reader._transport.pause_reading()
    sock = client.writer.get_extra_info("socket")
    while True:
        try:
            os.write(sock.fileno(), data)
        except BlockingIOError:
            await asyncio.sleep(0)
        except (BrokenPipeError, ConnectionResetError):
            return True


def their_player(house):
    """A player of another user."""
    return house.register("theirs", UID + 1, "another connection")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


# The older protocol


async def test_the_recorded_methods_byte_for_byte(house, client):
    for vector in vectors("msgpack_rpc_methods"):
        if vector["label"].endswith("again"):  # the first time was not recorded
            assert await client.call(vector["method"], *vector["params"]) is None
        client.send(bytes.fromhex(vector["request_hex"]))
        expected = bytes.fromhex(vector["response_hex"])
        found = await client.read(len(expected))
        assert found == expected, vector["label"]


async def test_the_recorded_malformed_messages_each_on_a_connection(house, client):
    cases = recorded("msgpack_rpc_malformed")["cases"]
    first, *rest = cases
    assert await client.call("register_player", "p") == first["response"][3] == 1
    for case in rest:
        async with a_client(house) as other:
            await check(other, case)
    assert await client.call("get_protocol_version") == VERSION


async def check(client, case):
    label = case["label"]
    client.send(bytes.fromhex(case["request_hex"]))
    if label in ENDS:
        assert await client.reader.read() == ENDS[label], label
        return
    client.send(VERSION_REQUEST)
    expected = case["response"]
    if label in OURS:
        ours = OURS[label]
        expected = ours if ours is SKIPPED else [1, *ours[:2], ours[2] if ours[2:] else None]
    if expected is not None:
        assert await client.answer() == expected, label
    assert await client.answer() == VERSION_ANSWER, label


async def test_a_text_of_a_player_that_is_not_there(client):
    assert await client.call("update_player_metadata", 9, 1, "x") == "Player not found"
    assert await client.call("unregister_player", 9) == "unregister_player error"


# The newer protocol


@pytest.fixture
def dac():
    facts = {"vendor_id": 5824, "product_id": 1155, "product": "DAC", "serial": "X"}
    return replace(device(), id=str(DEVICE), **facts)


async def test_the_recorded_lines(house, client, dac):
    house.driver.add_device(dac)
    for vector in vectors("jsonrpc_later_protocol"):
        answer = await client.line(vector["request"])
        if vector["method"] == "get_timesync":
            result = json.loads(answer)["result"]
            assert {*result} == {"wall_ns", "mono_ns"}
        else:
            assert answer == vector["response"]


async def test_a_client_of_the_newer_protocol_is_told_of_devices(house, client, dac):
    async with a_client(house) as old, a_client(house) as silent:
        assert json.loads(await client.line(jsonrpc.encode_request(1, "get_protocol_version")))
        await old.call("get_protocol_version")
        house.driver.add_device(dac)
        assert await client.line() == recorded("jsonrpc_later_protocol")["notification"]
        house.driver.remove_device(dac.id)
        assert json.loads(await client.line())["params"]["event"] == "removed"
        # The others hear of nothing.
        assert await old.call("get_protocol_version") == VERSION
        silent.send(VERSION_REQUEST)
        assert await silent.answer() == VERSION_ANSWER


async def test_word_of_a_device_waits_for_no_answer(house, client, dac):
    await client.line(jsonrpc.encode_request(1, "get_detected_devices"))
    house.polkit.may_answer.clear()
    client.send(jsonrpc.encode_request(2, "register_player", "p"))
    await until(lambda: house.polkit.asked == [OBSERVE, REGISTER])
    house.driver.add_device(dac)
    assert json.loads(await client.line())["method"] == "device_changed"
    house.polkit.may_answer.set()
    assert json.loads(await client.line())["id"] == 2


async def test_nobody_is_asked_about_a_client_that_is_told_of_nothing(house, client, dac):
    await client.call("get_protocol_version")
    house.driver.add_device(dac)
    house.driver.remove_device(dac.id)
    await client.call("register_player", "p")
    assert house.polkit.asked == [REGISTER]


async def test_who_may_not_observe_is_told_of_no_device(house, client, dac):
    house.polkit.denied = {OBSERVE}
    await client.line(jsonrpc.encode_request(1, "get_protocol_version"))
    house.driver.add_device(dac)
    house.driver.remove_device(dac.id)
    await house.polkit.was_asked.wait()
    answer = json.loads(await client.line(jsonrpc.encode_request(2, "get_detected_devices")))
    assert "does not allow" in answer["error"]["message"]


async def test_a_device_that_comes_and_goes_while_polkit_thinks(house, client, dac):
    await client.line(jsonrpc.encode_request(1, "get_protocol_version"))
    house.polkit.may_answer.clear()
    for _ in range(3 * MAX_IN_FLIGHT):
        house.driver.add_device(dac)
        house.driver.remove_device(dac.id)
    answer = await client.line(jsonrpc.encode_request(2, "get_protocol_version"))
    assert json.loads(answer)["id"] == 2
    house.polkit.may_answer.set()
    events = [json.loads(await client.line())["params"]["event"] for _ in range(6 * MAX_IN_FLIGHT)]
    assert events == ["added", "removed"] * 3 * MAX_IN_FLIGHT
    assert house.polkit.asked == [OBSERVE]


@pytest.mark.parametrize("decided", [True, False])
async def test_who_leaves_much_unread_is_told_no_more(house, client, dac, decided):
    client.reader._transport.pause_reading()
    client.send(jsonrpc.encode_request(1, "get_preferred_player"))
    (connection,) = await until(lambda: house.server.crowd.all)
    await until(lambda: house.polkit.asked and not connection._waiting)
    if not decided:
        house.authority.forget_peer(connection.known.peer)
        house.polkit.may_answer.clear()
    for _ in range(4000):
        house.driver.add_device(dac)
        house.driver.remove_device(dac.id)
    kept = connection._unsent if decided else connection._news
    assert module.MAX_UNREAD_BYTES - 1000 < len(kept) <= module.MAX_UNREAD_BYTES


async def test_a_defect_in_telling_is_logged(house, client, dac, monkeypatch, caplog):
    async def fail(peer, action):
        raise RuntimeError("secret")

    await client.line(jsonrpc.encode_request(1, "get_protocol_version"))
    monkeypatch.setattr(house.authority, "require_peer", fail)
    house.driver.add_device(dac)
    await until(lambda: "secret" in caplog.text)
    answer = await client.line(jsonrpc.encode_request(2, "get_protocol_version"))
    assert json.loads(answer)["id"] == 2


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"{\n", b"\t{}\n", b" x\n"])
async def test_lines_that_are_no_request_are_answered_and_harm_nothing(client, line):
    assert json.loads(await client.line(line))["error"]["code"] in (-32700, -32600)
    answer = await client.line(jsonrpc.encode_request(1, "get_protocol_version"))
    assert json.loads(answer)["result"] == VERSION


async def test_errors_of_the_driver_in_json(house, client):
    answer = await client.line(jsonrpc.encode_request(1, "set_preferred_player", 7))
    error = {"code": -32000, "message": "player_id 7 not registered for this connection"}
    assert json.loads(answer)["error"] == error
    answer = await client.line(jsonrpc.encode_request(2, "get_device_info", DEVICE))
    assert json.loads(answer)["error"] == {"code": -32000, "message": "Device not found"}
    answer = await client.line(b'{"jsonrpc":"2.0","id":3,"method":"get_device_info"}\n')
    assert json.loads(answer)["error"] == {"code": -32000, "message": "missing device_id"}


# Which protocol


async def test_the_first_byte_tells_the_protocol_of_a_connection(house):
    async with clients(house, 4) as (old, new, spaced, garbage):
        assert await old.call("get_protocol_version") == VERSION
        line = jsonrpc.encode_request(1, "get_protocol_version")
        assert json.loads(await new.line(line))["result"] == VERSION
        assert json.loads(await spaced.line(b"\r\n \n" + line))["result"] == VERSION
        # In the older protocol, what a line is made of is numbers, and skipped.
        garbage.send(b"\xff" + line.replace(b"\n", b"") + VERSION_REQUEST)
        assert await garbage.answer() == VERSION_ANSWER


# Order, and in pieces


async def test_requests_that_come_together_are_answered_in_their_order(client):
    numbers = [client.ask("get_protocol_version") for _ in range(5000)]
    assert [(await client.answer())[1] for _ in numbers] == numbers


async def test_a_request_that_waits_makes_those_behind_it_wait(house, client):
    house.polkit.may_answer.clear()
    client.ask("register_player", "a")
    client.ask("update_player_status", 1, 1)
    client.ask("get_protocol_version")
    await house.polkit.was_asked.wait()
    async with a_client(house) as other:  # but nobody else
        assert await other.call("get_protocol_version") == VERSION
    assert not house.driver.players
    house.polkit.may_answer.set()
    answers = [await client.answer() for _ in range(3)]
    assert answers == [[1, 1, None, 1], [1, 2, None, None], [1, 3, None, VERSION]]
    assert house.driver.player(1).status is Status.PLAYING


async def test_messages_in_pieces(house, client):
    async with a_client(house) as new:
        for number in range(3):
            for byte in encode_request(number, "get_protocol_version", []):
                client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert await client.answer() == [1, number, None, VERSION]
            for byte in jsonrpc.encode_request(number, "get_protocol_version"):
                new.send(bytes([byte]))
                await asyncio.sleep(0)
            assert json.loads(await new.line())["id"] == number


async def test_notifications_and_responses_are_taken_and_change_nothing(house, client):
    player = house.register("p", UID, "x")
    client.send(msgpack.packb([2, "update_player_status", [player.id, 1]]))
    client.send(msgpack.packb([1, 7, None, None]))
    assert await client.call("get_protocol_version") == VERSION
    assert player.status is Status.UNKNOWN
    async with a_client(house) as new:
        line = jsonrpc.encode_notification("unregister_player", {"player_id": player.id})
        new.send(line + b'{"jsonrpc":"2.0","id":1,"result":null}\n')
        answer = await new.line(jsonrpc.encode_request(5, "get_protocol_version"))
        assert json.loads(answer)["id"] == 5
    assert player.id in house.driver.players


# Not more than can be answered


async def test_past_64_in_flight_a_socket_is_not_read(house, client):
    house.polkit.may_answer.clear()
    # A request for each of the kernel's packets, so that none is sent in part.
    request = encode_request(1, "update_player_metadata", [7, 1, "x" * 4000])
    sent = await push(client, request)
    (connection,) = house.server.crowd.all
    assert len(connection._waiting) == MAX_IN_FLIGHT
    assert not connection._reads
    # All that the kernel holds, and what we read: in flight, and the rest of one chunk.
    kernel = client.writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    read = MAX_IN_FLIGHT * len(request) + module.CHUNK_BYTES
    assert MAX_IN_FLIGHT < sent < (kernel + read) / len(request)
    house.polkit.may_answer.set()
    for _ in range(sent):
        assert (await client.answer())[:3] == [1, 1, "Player not found"]
    assert connection._reads


async def test_hundreds_of_requests_that_all_have_to_wait(house, client):
    house.polkit.may_answer.clear()
    numbers = [client.ask("register_player", "") for _ in range(400)]
    await house.polkit.was_asked.wait()
    (connection,) = house.server.crowd.all
    assert len(connection._waiting) == MAX_IN_FLIGHT
    house.polkit.may_answer.set()
    assert [await client.answer() for _ in numbers] == [[1, n, None, n] for n in numbers][:256] + [
        [1, n, f"uid {UID} may have 256 objects at once, and has them", None] for n in numbers[256:]
    ]


async def test_who_does_not_read_is_not_read_either(house):
    for number in range(100):
        house.driver.add_device(device(number + 1))
    async with clients(house, 2) as (deaf, other):
        # An answer is far longer than its request.
        deaf.reader._transport.pause_reading()
        request = jsonrpc.encode_request(1, "get_detected_devices")
        sent = await push(deaf, request)
        assert await other.call("get_protocol_version") == VERSION
        assert house.used("waiting_bytes") == 1 << 20
        (stuffed,) = (each for each in house.server.crowd.all if each._unsent)
        chunk = module.CHUNK_BYTES // len(request) * 4000  # answers to what was read at once
        assert module.MAX_UNREAD_BYTES < len(stuffed._unsent) < module.MAX_UNREAD_BYTES + chunk
        deaf.reader._transport.resume_reading()
        deaf.writer.write_eof()
        for _ in range(sent):
            assert len(json.loads(await deaf.line())["result"]) == 100
        assert await deaf.ended()
        assert house.used("waiting_bytes") == 0


async def test_who_leaves_answers_unread_for_long_is_sent_away(tmp_path):
    patience = Patience(unread_seconds=0.01)
    async with a_house(tmp_path, patience=patience) as house, a_client(house) as deaf:
        assert await is_sent_away(deaf, VERSION_REQUEST * 100)
        await nobody(house)


# The end of a stream


async def test_a_half_closed_connection_is_answered(house, client):
    client.send(VERSION_REQUEST)
    client.writer.write_eof()
    assert await client.answer() == VERSION_ANSWER
    assert await client.ended()
    await nobody(house)


@pytest.mark.parametrize("temporary", [False, True], ids=["one question", "a question each"])
@pytest.mark.parametrize("number", [1, 200])
async def test_what_waits_when_a_connection_is_half_closed_is_answered(
    house, client, number, temporary
):
    """More than may be in flight, too, so that some are still in the decoder."""
    house.polkit.temporary = temporary
    house.polkit.may_answer.clear()
    numbers = [client.ask("register_player", "") for _ in range(number)]
    client.writer.write_eof()
    await house.polkit.was_asked.wait()
    if number == 1:
        (connection,) = house.server.crowd.all
        await until(lambda: connection._ends)
    house.polkit.may_answer.set()
    assert [await client.answer() for _ in numbers] == [[1, n, None, n] for n in numbers]
    assert await client.ended()
    await nobody(house)


async def test_who_leaves_while_polkit_thinks_is_not_waited_for(house, client):
    house.polkit.may_answer.clear()
    client.ask("register_player", "p")
    await house.polkit.was_asked.wait()
    client.close()
    await nobody(house)
    house.polkit.may_answer.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert their_player(house).id == 1


async def test_half_a_message_at_the_end_is_none(house, client):
    client.send(VERSION_REQUEST + VERSION_REQUEST[:-1])
    client.writer.write_eof()
    assert await client.answer() == VERSION_ANSWER
    assert await client.ended()
    await nobody(house)


async def test_what_can_not_be_read_ends_a_connection_when_the_rest_is_answered(
    house, client, caplog
):
    house.polkit.may_answer.clear()
    client.ask("register_player", "p")
    client.send(bytes.fromhex("940009db7fffffff"))  # a method of 2 GiB
    client.send(VERSION_REQUEST)
    await house.polkit.was_asked.wait()
    await until(lambda: "at the most" in caplog.text)
    assert f"uid {UID}, pid {os.getpid()}" in caplog.text
    house.polkit.may_answer.set()
    assert await client.answer() == [1, 1, None, 1]
    kind, msgid, error, _ = await client.answer()
    assert (kind, msgid) == (1, 9)
    assert "1048576 bytes at the most" in error
    assert await client.ended()
    await nobody(house)


async def test_a_line_without_an_end_ends_its_connection(house, client, caplog):
    client.send(b"{" + b" " * (1 << 20))
    answer = json.loads(await client.line())
    assert answer["error"]["code"] == -32700
    assert await client.ended()
    await nobody(house)


# Time


async def test_a_message_that_does_not_end_ends_its_connection(tmp_path, caplog):
    patience = Patience(message_seconds=0.01)
    async with a_house(tmp_path, patience=patience) as house, clients(house, 2) as (slow, idle):
        assert await idle.call("get_protocol_version") == VERSION
        slow.send(VERSION_REQUEST[:-1])
        assert await slow.ended()
        assert "no whole message within 0.01 s" in caplog.text
        assert await idle.call("get_protocol_version") == VERSION


async def test_the_time_of_a_message_begins_with_the_message(house, client, monkeypatch):
    """A client that always has one on the way is not slow."""
    timers = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def noted(delay, callback, *arguments, **keywords):
        timer = call_later(delay, callback, *arguments, **keywords)
        if delay == Patience().message_seconds and "_too_slow" in repr(callback):
            timers.append((delay, timer))
        return timer

    monkeypatch.setattr(loop, "call_later", noted)
    client.send(VERSION_REQUEST[:3])
    for number in range(1, 4):
        await until(lambda number=number: len(timers) == number)
        assert [timer.cancelled() for _, timer in timers] == [True] * (number - 1) + [False]
        client.send(VERSION_REQUEST[3:] + VERSION_REQUEST[:3])
    await until(lambda: len(timers) == 4)
    client.send(VERSION_REQUEST[3:])
    await until(lambda: all(timer.cancelled() for _, timer in timers))


async def test_a_message_behind_one_that_waits_is_not_slow(house, client):
    """Nobody reads the rest of it."""
    house.polkit.may_answer.clear()
    client.send(encode_request(1, "register_player", ["p"]) + VERSION_REQUEST[:-1])
    await house.polkit.was_asked.wait()
    (connection,) = house.server.crowd.all
    assert connection._message_timer is None
    house.polkit.may_answer.set()
    assert await client.answer() == [1, 1, None, 1]
    assert connection._message_timer is not None
    client.send(VERSION_REQUEST[-1:])
    assert await client.answer() == VERSION_ANSWER
    assert connection._message_timer is None


async def test_a_request_that_nobody_decides_about_is_answered_all_the_same(tmp_path):
    async with a_house(tmp_path, patience=Patience(request_seconds=0.01)) as house:
        house.polkit.may_answer.clear()
        async with a_client(house) as client:
            numbers = [client.ask("register_player", "p") for _ in range(80)]
            client.ask("get_protocol_version")
            for number in numbers:
                text = "register_player was not allowed within 0.01 s"
                assert await client.answer() == [1, number, text, None]
            assert (await client.answer())[3] == VERSION
            assert not house.driver.players


# Quotas


async def test_a_uid_has_so_many_connections(tmp_path, caplog):
    limits = Limits(native_connections=2)
    async with a_house(tmp_path, limits=limits) as house, clients(house, 3) as found:
        *found, third = found
        assert await third.ended()
        assert "2 native connections" in caplog.text
        for client in found:
            assert await client.call("get_protocol_version") == VERSION
        found[0].close()
        await until(lambda: len(house.server) == 1)
        async with a_client(house) as fourth:
            assert await fourth.call("get_protocol_version") == VERSION


async def test_large_messages_are_counted_while_they_come(tmp_path, caplog):
    limits = Limits(waiting_bytes=1 << 20)
    async with a_house(tmp_path, limits=limits) as house, clients(house, 2) as (first, second):
        await first.call("register_player", "p")
        request = encode_request(9, "update_player_metadata", [1, 1, "x" * 300_000])
        first.send(request[:-1])
        await until(lambda: house.used("waiting_bytes") == 1 << 20)
        assert await is_sent_away(second, request[:-1])
        assert caplog.text.count("waiting bytes") == 1
        first.send(request[-1:])
        assert await first.answer() == [1, 9, None, None]
        assert house.used("waiting_bytes") == 0
        assert len(house.driver.player(1).texts.title) == MAX_TEXT_BYTES
        first.send(request[:-1])
        await until(lambda: house.used("waiting_bytes") == 1 << 20)
        first.close()
        await nobody(house)


async def test_a_request_for_which_there_is_no_room_is_answered(tmp_path, caplog):
    """With its id, if that was to be read by then; and behind those that wait."""
    long = "x" * 67_000
    limits = Limits(waiting_bytes=1)
    async with a_house(tmp_path, limits=limits) as house, clients(house, 2) as (old, new):
        house.polkit.may_answer.clear()
        old.ask("register_player", "p")
        await house.polkit.was_asked.wait()
        old.send(encode_request(9, "register_player", [long])[:67_000])
        await until(lambda: "waiting bytes" in caplog.text)
        house.polkit.may_answer.set()
        assert await old.answer() == [1, 1, None, 1]
        assert await old.answer() == [
            *(1, 9),
            f"invalid request: uid {UID} may have 1 waiting bytes at once, and has them",
            None,
        ]
        line = await new.line(jsonrpc.encode_request(9, "register_player", long)[:67_000])
        assert "1 waiting bytes" in json.loads(line)["error"]["message"]
        assert json.loads(line)["id"] is None
        await nobody(house)


async def test_so_many_connections_in_all(house, client, caplog):
    await client.call("register_player", "p")
    house.server.crowd.most = 2
    async with clients(house, 2) as (second, third):
        assert await third.call("get_protocol_version") == VERSION
        assert await second.call("get_protocol_version") == VERSION
        assert await client.ended()
        assert not house.driver.players
        assert len(house.server) == house.used("native_connections") == 2
        assert "2 connections: one was closed" in caplog.text


# Shares of the loop


@pytest.fixture
def line(house, monkeypatch):
    """What waits for its turn; nothing has it by itself."""
    works = []
    monkeypatch.setattr(house.server.shares, "later", lambda uid, work: works.append(work))
    return works


async def test_what_takes_long_is_charged_to_its_user(house, client, monkeypatch):
    charged = []
    monkeypatch.setattr(house.server.shares, "charge", lambda *args: charged.append(args))
    request = jsonrpc.encode_request(1, "get_protocol_version")
    await client.line(request * (module.CHUNK_BYTES // len(request)))
    uid, seconds = charged[0]
    assert uid == UID
    assert 0 < seconds < 10


async def test_who_had_his_share_waits_for_his_turn(house, client, line):
    assert await client.call("get_protocol_version") == VERSION
    house.server.shares.charge(UID, 1e9)
    for _ in range(3):
        house.server.shares._window_end = float("inf")
        client.ask("get_protocol_version")
        (turn,) = await until(lambda: line)
        for _ in range(20):
            await asyncio.sleep(0)
        (connection,) = house.server.crowd.all
        assert not connection._reads
        line.clear()
        turn()
        assert (await client.answer())[3] == VERSION


async def test_turns_come_by_themselves(house, client):
    house.server.shares.charge(UID, 1.0)
    for _ in range(50):
        assert await client.call("get_protocol_version") == VERSION


async def test_a_connection_that_ends_or_is_full_before_its_turn(house, client, line):
    house.server.shares.charge(UID, 1e9)
    house.server.shares._window_end = float("inf")
    client.send(VERSION_REQUEST)
    (turn,) = await until(lambda: line)
    (connection,) = house.server.crowd.all
    connection._unsent += bytes(module.MAX_UNREAD_BYTES + 1)
    turn()
    assert not connection._reads
    assert connection._tongue is None  # nothing was read
    connection.close()
    turn()
    await nobody(house)


async def test_who_waits_for_his_turn_at_the_end_is_answered(house, client, line):
    house.server.shares.charge(UID, 1e9)
    house.server.shares._window_end = float("inf")
    client.send(VERSION_REQUEST)
    await until(lambda: line)
    await house.stop()
    assert await client.answer() == VERSION_ANSWER
    assert await client.ended()


async def test_no_turn_comes_after_the_end(house):
    came = []
    house.server.shares.later(UID, lambda: came.append(True))
    await house.stop()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not came


async def test_unread_answers_are_counted_too(tmp_path):
    limits = Limits(waiting_bytes=1)
    async with a_house(tmp_path, limits=limits) as house, a_client(house) as deaf:
        assert await is_sent_away(deaf, VERSION_REQUEST * 100)
        await nobody(house)


async def test_a_uid_has_so_many_players(tmp_path):
    async with a_house(tmp_path, limits=Limits(objects=2)) as house, a_client(house) as client:
        assert [await client.call("register_player", "") for _ in range(2)] == [1, 2]
        assert "2 objects" in await client.call("register_player", "")
        await client.call("unregister_player", 1)
        assert await client.call("register_player", "") == 3
        client.close()
        await nobody(house)


# Rights

OWN = {
    "register_player": (("x",), REGISTER, REGISTER),
    "unregister_player": ((1,), REGISTER, MANAGE),
    "assign_player_to_device": ((1, DEVICE.bytes), ROUTE, MANAGE),
    "unassign_player_from_device": ((1, DEVICE.bytes), ROUTE, MANAGE),
    "update_player_state": ((1, {"status": 1}), REGISTER, MANAGE),
    "update_player_status": ((1, 1), REGISTER, MANAGE),
    "update_player_timeline": ((1, TIMELINE), REGISTER, MANAGE),
    "update_player_metadata": ((1, 1, "x"), REGISTER, MANAGE),
    "set_preferred_player": ((1,), ROUTE, MANAGE),
    "get_player_assigned_device": ((1,), OBSERVE, OBSERVE),
    "get_preferred_player": ((), OBSERVE, OBSERVE),
    "get_protocol_version": ((), None, None),
}
assert {*OWN} == {*METHODS}


def facts(house):
    """All that a client could have changed."""
    driver = house.driver
    players = [
        (p.id, p.self_id, p.status, p.timeline, p.texts, p.device) for p in driver.players.values()
    ]
    return players, driver.preferred


@pytest.mark.parametrize("whose", ["own", "others"])
@pytest.mark.parametrize("method", OWN)
async def test_what_is_asked_of_polkit(house, client, method, whose):
    params, own, others = OWN[method]
    player = house.register("p", UID if whose == "own" else UID + 1, "somebody")
    assert player.id == 1
    house.driver.assign(1, str(DEVICE if method.startswith("unassign") else UUID(int=1)))
    before = facts(house)
    expected = own if whose == "own" else others
    house.polkit.denied = {OBSERVE, REGISTER, ROUTE, MANAGE}
    answer = await client.call(method, *params)
    assert house.polkit.asked == ([expected] if expected else [])
    if expected is None:
        assert answer == VERSION
        return
    assert answer == f"polkit does not allow action {expected} to uid {UID}"
    assert facts(house) == before
    house.polkit.denied -= {expected}
    await client.call(method, *params)
    assert house.polkit.asked == [expected, expected]
    assert (facts(house) != before) == (not method.startswith("get_"))


async def test_a_yes_is_remembered_for_a_while(house, client):
    for _ in range(5):
        await client.call("register_player", "p")
    assert house.polkit.asked == [REGISTER]


async def test_a_yes_for_this_once_is_a_yes(house, client):
    house.polkit.temporary = True
    assert [await client.call("register_player", "p") for _ in range(3)] == [1, 2, 3]
    assert house.polkit.asked == [REGISTER] * 3


async def test_own_players_of_another_connection_are_ones_own(house, client):
    async with a_client(house) as other:
        assert await other.call("register_player", "p") == 1
        assert await client.call("update_player_status", 1, 2) is None
        assert house.driver.player(1).status is Status.PAUSED
    await until(lambda: not house.driver.players)
    assert await client.call("update_player_status", 1, 2) == "Player not found"


async def test_what_is_about_no_player_needs_no_more_than_ones_own(house, client):
    their_player(house)
    await client.call("set_preferred_player", None)
    await client.call("update_player_status", 99, 1)
    assert house.polkit.asked == [ROUTE, REGISTER]


async def test_methods_that_are_none_are_not_asked_about(house, client):
    assert await client.call("frobnicate") == "unknown method: frobnicate"
    assert await client.call("register_player", 5) == "invalid param: self_id must be string"
    assert house.polkit.asked == []


async def test_a_player_that_changes_hands_while_polkit_thinks_needs_the_other_right(house, client):
    """Its id is of nobody at first, then of somebody else: the yes was not for that."""
    house.polkit.may_answer.clear()
    house.polkit.denied = {MANAGE}
    client.ask("update_player_status", 1, 1)
    await house.polkit.was_asked.wait()
    player = their_player(house)
    house.polkit.may_answer.set()
    assert "does not allow" in (await client.answer())[2]
    assert house.polkit.asked == [REGISTER, MANAGE]
    assert player.status is Status.UNKNOWN


# Players end with their connection


async def test_players_end_with_their_connection(house, client):
    async with a_client(house) as other:
        assert await other.call("register_player", "theirs") == 1
        assert await client.call("register_player", "ours") == 2
    await until(lambda: list(house.driver.players) == [2])
    client.close()
    await nobody(house)
    assert not house.driver.players


KILLED = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(bytes.fromhex(sys.argv[2]))
sys.stdout.write(sock.recv(100).hex() + "\\n")
sys.stdout.flush()
sys.stdin.read()
"""


async def killed_client(house, data):
    """A process that has sent this and read one answer."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, str(house.path), data.hex()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    await process.stdout.readline()
    return process


@pytest.mark.parametrize("rest", [b"", VERSION_REQUEST[:-1]], ids=["between", "in a message"])
async def test_a_client_that_is_killed_leaves_no_player(house, rest):
    process = await killed_client(house, encode_request(1, "register_player", ["p"]) + rest)
    assert len(house.driver.players) == 1
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await nobody(house)
    assert not house.driver.players


@pytest.mark.parametrize("requests", [1, 3 * MAX_IN_FLIGHT], ids=["read", "not read"])
async def test_a_client_that_is_killed_while_polkit_thinks_leaves_no_player(house, requests):
    theirs = their_player(house)
    house.polkit.may_answer.clear()
    house.polkit.thinks_about = {MANAGE}
    register = encode_request(1, "register_player", ["p"])
    update = encode_request(2, "update_player_status", [theirs.id, 1])
    process = await killed_client(house, register + requests * update)
    await house.polkit.was_asked.wait()
    assert len(house.driver.players) == 2
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await nobody(house)
    assert list(house.driver.players.values()) == [theirs]
    assert theirs.status is Status.UNKNOWN


async def test_what_a_connection_asked_before_it_ended_is_not_done_later(house):
    house.polkit.may_answer.clear()
    async with a_client(house) as client:
        for _ in range(3 * MAX_IN_FLIGHT):
            client.ask("register_player", "p")
        await house.polkit.was_asked.wait()
    house.polkit.may_answer.set()
    await nobody(house)
    assert not house.driver.players
    assert house.register("next", UID, "x").id < MAX_IN_FLIGHT


async def test_an_answer_that_can_not_be_sent_ends_all_that_was_to_follow(house, client):
    """The client is found to be gone in the middle of its requests."""
    house.polkit.may_answer.clear()
    for _ in range(2 * MAX_IN_FLIGHT):
        client.ask("register_player", "p")
    client.writer.write_eof()
    await house.polkit.was_asked.wait()
    client.close()
    house.polkit.may_answer.set()
    await nobody(house)
    assert not house.driver.players


# The server's end


async def test_what_is_in_flight_at_the_end_is_answered(tmp_path):
    async with a_house(tmp_path) as house, clients(house, 2) as (first, second):
        listening = list(house.driver.on_change)
        house.polkit.may_answer.clear()
        first.ask("register_player", "p")
        await house.polkit.was_asked.wait()
        await second.call("get_protocol_version")
        second.send(VERSION_REQUEST * 3)
        stopping = asyncio.create_task(house.stop())
        for _ in range(3):
            assert await second.answer() == VERSION_ANSWER
        assert await second.ended()
        first.send(VERSION_REQUEST)  # too late
        house.polkit.may_answer.set()
        assert await first.answer() == [1, 1, None, 1]
        with pytest.raises((EOFError, ConnectionResetError)):
            await first.answer()
        await stopping
        assert not len(house.server)
        assert house.driver.on_change == listening[:1]  # whoever counts the players
        with pytest.raises(OSError, match="No such file"):
            await asyncio.open_unix_connection(str(house.path))


async def test_the_end_does_not_wait_for_ever(tmp_path):
    async with a_house(tmp_path, patience=Patience(drain_seconds=0.01)) as house:
        house.polkit.may_answer.clear()
        async with a_client(house) as client:
            client.ask("register_player", "p")
            await house.polkit.was_asked.wait()
            await house.stop()
            assert await client.ended()
            assert not len(house.server)


async def test_nothing_is_left_of_connections(house):
    async with clients(house, 1) as (client,):
        await client.call("get_protocol_version")
    await nobody(house)
    before, tasks = descriptors(), len(asyncio.all_tasks())
    for _ in range(5):
        async with clients(house, 20) as found:
            for client in found:
                await client.call("register_player", "p")
                client.send(VERSION_REQUEST[:-1])
            (known,) = {player.owner.known for player in house.driver.players.values()}
            assert known.holders == 20
        await nobody(house)
        assert known.holders == 0
    assert not house.driver.players
    assert descriptors() == before
    await until(lambda: len(asyncio.all_tasks()) == tasks)


# Defects


@pytest.mark.parametrize("later", [False, True])
async def test_a_defect_of_ours_is_logged_and_tells_nothing(
    house, client, monkeypatch, caplog, later
):
    def fail(*arguments):
        raise RuntimeError("secret")

    monkeypatch.setattr(house.driver, "update_status", fail)
    if not later:
        await client.call("register_player", "p")
    answer = await client.call("update_player_status", 1, 1)
    assert answer == "the driver failed; its log says how"
    assert "secret" in caplog.text
    assert await client.call("get_protocol_version") == VERSION


async def test_a_decision_that_fails_is_no(house, client, monkeypatch, caplog):
    async def fail(peer, action):
        raise RuntimeError("secret")

    monkeypatch.setattr(house.authority, "require_peer", fail)
    assert await client.call("register_player", "p") == "the driver failed; its log says how"
    assert "secret" in caplog.text
    assert not house.driver.players


async def test_words_of_strangers_stay_on_one_line(house, client, caplog):
    caplog.set_level(logging.DEBUG)
    answer = await client.call("evil\n<0>line\x1b[31m" + "x" * 1000)
    assert answer.startswith("unknown method: evil")
    assert len(answer) < 100
    assert "evil" not in caplog.text


# Many at once


@pytest.mark.parametrize("seed", range(3))
async def test_connections_do_not_hear_of_each_other(house, seed):
    choice = random.Random(seed)
    async with clients(house, 12) as found:

        async def live(client, number):
            mine = await client.call("register_player", f"c{number}")
            for _ in range(15):
                titles = [f"{number}-{choice.random()}" for _ in range(choice.randrange(1, 40))]
                stream = b"".join(
                    encode_request(number * 1000 + at, "update_player_metadata", [mine, 1, title])
                    for at, title in enumerate(titles)
                )
                while stream:
                    size = choice.randrange(1, len(stream) + 1)
                    client.send(stream[:size])
                    stream = stream[size:]
                    await asyncio.sleep(0)
                for at in range(len(titles)):
                    assert await client.answer() == [1, number * 1000 + at, None, None]
                assert house.driver.player(mine).texts.get(TextId.CURRENT_TITLE) == titles[-1]
            return mine

        mine = await asyncio.gather(*(live(client, at) for at, client in enumerate(found)))
        assert sorted(mine) == sorted(house.driver.players)
        owners = {player.owner for player in house.driver.players.values()}
        assert len(owners) == len(found)
    await nobody(house)

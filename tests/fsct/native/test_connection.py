import asyncio
import json
import logging
import os
import socket

import msgpack
import pytest
from support.displays import device
from support.rpc import UID
from support.rpc_clients import (
    VERSION,
    VERSION_ANSWER,
    VERSION_REQUEST,
    a_client,
    a_house,
    clients,
    is_sent_away,
    nobody,
    push,
    their_player,
    until,
)

from buswork.authority import Limits
from buswork.fsct.model.players import MAX_TEXT_BYTES
from buswork.fsct.native import connection as module
from buswork.fsct.native.calls import OBSERVE, REGISTER
from buswork.fsct.native.connection import MAX_IN_FLIGHT, Patience
from buswork.fsct.wire import jsonrpc
from buswork.fsct.wire.msgpackrpc import encode_request
from buswork.fsct.wire.terms import Status, TextId
from buswork.native.room import Buffers

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
        (stuffed,) = (each for each in house.server.crowd.all if each._unsent)
        assert house.used("waiting_bytes") >= len(stuffed._unsent) - module.FREE_BYTES
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


# Word of devices


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


async def test_large_messages_are_counted_while_they_come(tmp_path, caplog):
    limits = Limits(waiting_bytes=500_000)
    async with a_house(tmp_path, limits=limits) as house, clients(house, 2) as (first, second):
        await first.call("register_player", "p")
        request = encode_request(9, "update_player_metadata", [1, 1, "x" * 300_000])

        def is_there():
            return [each for each in house.server.crowd.all if each._kept == len(request) - 1]

        first.send(request[:-1])
        await until(is_there)
        assert house.used("waiting_bytes") > len(request) - module.FREE_BYTES
        assert await is_sent_away(second, request[:-1])
        assert caplog.text.count("waiting bytes") == 1
        first.send(request[-1:])
        assert await first.answer() == [1, 9, None, None]
        assert house.used("waiting_bytes") == 0
        assert len(house.driver.player(1).texts.title) == MAX_TEXT_BYTES
        first.send(request[:-1])
        await until(is_there)
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


LONG = "x" * 100_000


TITLE = encode_request(9, "update_player_metadata", [1, 1, LONG])


async def let_wait(house, client, number):
    """Sends so many long requests, one by one, that wait for polkit; returns the connection."""
    house.register("p", UID, "somebody")
    house.polkit.may_answer.clear()
    (connection,) = await until(lambda: house.server.crowd.all)
    for count in range(1, number + 1):
        client.send(TITLE)
        await until(lambda count=count: len(connection._waiting) == count or connection._ends)
        if connection._ends:
            break
    return connection


async def test_what_waits_for_polkit_is_counted(house, client):
    await let_wait(house, client, 20)
    assert house.used("waiting_bytes") > 20 * len(LONG) - module.FREE_BYTES
    assert house.commons.buffers._used == {UID: house.used("waiting_bytes")}
    house.polkit.may_answer.set()
    assert [await client.answer() for _ in range(20)] == [[1, 9, None, None]] * 20
    await until(lambda: not house.used("waiting_bytes"))
    assert house.commons.buffers._used == {}


@pytest.mark.parametrize("whose", ["the uid's", "all uids'"])
async def test_who_lets_too_much_wait_for_polkit_is_cut_off(tmp_path, caplog, whose):
    limits = Limits(waiting_bytes=500_000) if whose == "the uid's" else None
    async with a_house(tmp_path, limits=limits) as house:
        if whose == "all uids'":
            house.commons.buffers = Buffers(1_000_000)
        async with a_client(house) as client:
            connection = await let_wait(house, client, 20)
            assert 1 < len(connection._waiting) < 10
            assert connection._waiting_bytes < 700_000
            assert not connection._reads
            assert not connection._tongue.decoder.buffered
            assert len(caplog.records) == 1
            number = len(connection._waiting)
            house.polkit.may_answer.set()
            *done, last = [await client.answer() for _ in range(number)]
            assert done == [[1, 9, None, None]] * (number - 1)
            assert last[:2] == [1, 9]
            assert "wait" in last[2]
            assert await client.ended()
        house.driver.unregister(1)
        await nobody(house)
        assert house.commons.buffers._used == {}


async def test_what_was_read_is_counted_as_what_it_takes(house, client):
    """A single wide character makes all of a text four times as long."""
    house.polkit.may_answer.clear()
    client.ask("update_player_metadata", 1, 1, LONG + "\N{GRINNING FACE}")
    (connection,) = await until(lambda: house.server.crowd.all)
    await until(lambda: connection._waiting)
    assert house.used("waiting_bytes") > 4 * len(LONG) - module.FREE_BYTES


async def test_word_of_devices_is_counted(tmp_path, dac):
    async with a_house(tmp_path, limits=Limits(waiting_bytes=80_000)) as house:
        async with a_client(house) as client:
            await client.line(jsonrpc.encode_request(1, "get_protocol_version"))
            (connection,) = house.server.crowd.all
            house.polkit.may_answer.clear()
            for _ in range(2000):
                house.driver.add_device(dac)
                house.driver.remove_device(dac.id)
            assert 0 < house.used("waiting_bytes") <= 80_000
            assert connection._kept <= 80_000 + module.FREE_BYTES
            assert await client.line(jsonrpc.encode_request(2, "get_protocol_version"))
            house.polkit.may_answer.set()
            assert json.loads(await client.line())["method"] == "device_changed"
        await nobody(house)


# Shares of the loop


async def test_what_takes_long_is_charged_to_its_user(house, client, monkeypatch):
    charged = []
    monkeypatch.setattr(house.commons.shares, "charge", lambda *args: charged.append(args))
    request = jsonrpc.encode_request(1, "get_protocol_version")
    await client.line(request * (module.CHUNK_BYTES // len(request)))
    uid, seconds = charged[0]
    assert uid == UID
    assert 0 < seconds < 10


async def test_who_had_his_share_waits_for_his_turn(house, client, line):
    assert await client.call("get_protocol_version") == VERSION
    house.commons.shares.charge(UID, 1e9)
    for _ in range(3):
        house.commons.shares._window_end = float("inf")
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
    house.commons.shares.charge(UID, 1.0)
    for _ in range(50):
        assert await client.call("get_protocol_version") == VERSION


async def test_a_connection_that_ends_or_is_full_before_its_turn(house, client, line):
    house.commons.shares.charge(UID, 1e9)
    house.commons.shares._window_end = float("inf")
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


async def test_what_waited_for_polkit_is_charged_too(house, client, monkeypatch):
    house.polkit.may_answer.clear()
    for _ in range(10):
        client.ask("register_player", "p")
    await house.polkit.was_asked.wait()
    (connection,) = house.server.crowd.all
    await until(lambda: len(connection._waiting) == 10)
    charged = []
    monkeypatch.setattr(house.commons.shares, "charge", lambda uid, _: charged.append(uid))
    house.polkit.may_answer.set()
    for _ in range(10):
        await client.answer()
    assert charged == [UID], "all in one piece: what is short is not charged"


async def test_who_had_his_share_waits_for_his_turn_after_polkit_too(house, client, line):
    house.polkit.may_answer.clear()
    numbers = [client.ask("register_player", "p") for _ in range(10)]
    await house.polkit.was_asked.wait()
    house.commons.shares.charge(UID, 1e9)
    house.commons.shares._window_end = float("inf")
    house.polkit.may_answer.set()
    (turn,) = await until(lambda: line)
    assert not house.driver.players
    turn()
    assert len(house.driver.players) == 10
    assert [(await client.answer())[1] for _ in numbers] == numbers


async def test_who_leaves_before_his_turn_after_polkit_has_nothing_done(house, client, line):
    house.polkit.may_answer.clear()
    client.ask("register_player", "p")
    await house.polkit.was_asked.wait()
    house.commons.shares.charge(UID, 1e9)
    house.commons.shares._window_end = float("inf")
    house.polkit.may_answer.set()
    (turn,) = await until(lambda: line)
    client.close()
    await asyncio.sleep(0)  # asyncio closes in its next turn
    turn()
    await nobody(house)
    assert house.driver._registrations == 0


@pytest.mark.parametrize("is_json", [False, True])
async def test_a_long_message_is_read_in_turns(house, client, line, is_json):
    house.register("p", UID, "somebody")

    def send(number, text):
        title = (1, TextId(1), text)
        if is_json:
            client.send(jsonrpc.encode_request(number, "update_player_metadata", *title))
        else:
            client.send(encode_request(number, "update_player_metadata", list(title)))

    async def answer():
        return json.loads(await client.line())["id"] if is_json else (await client.answer())[1]

    send(1, "")
    assert await answer() == 1  # polkit has been asked
    send(2, LONG)
    turns = 0
    while house.driver.player(1).texts.title is None:
        (turn,) = await until(lambda: line)
        line.clear()
        turn()
        turns += 1
    assert turns >= (len(LONG) - module.LONG_BYTES) // module.CHUNK_BYTES
    assert await answer() == 2
    send(3, "short")
    assert await answer() == 3
    assert not line


async def test_unread_answers_are_counted_too(tmp_path):
    limits = Limits(waiting_bytes=1)
    async with a_house(tmp_path, limits=limits) as house, a_client(house) as deaf:
        assert await is_sent_away(deaf, VERSION_REQUEST * 100)
        await nobody(house)


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

import asyncio
import os
import random
import signal
import subprocess
import sys

import pytest
from support.rpc import UID
from support.rpc_clients import (
    VERSION,
    VERSION_ANSWER,
    VERSION_REQUEST,
    a_client,
    a_house,
    clients,
    nobody,
    their_player,
    until,
)

from buswork.authority import Limits
from buswork.bus.caller import Peer
from buswork.fsct.native.calls import MANAGE
from buswork.fsct.native.connection import MAX_IN_FLIGHT, Patience
from buswork.fsct.wire.msgpackrpc import encode_request
from buswork.fsct.wire.terms import Status, TextId
from buswork.log import Sparing
from buswork.native.peers import Known


def descriptors():
    return len(os.listdir("/proc/self/fd"))


# Connections


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


async def test_who_fills_the_log_hides_nothing_of_another(house, caplog):
    for uid in (UID, UID + 1):
        for _ in range(100):
            house.server.complain(Known(Peer(uid, 7, 0), b""), "nonsense")
    for uid in (UID, UID + 1):
        assert caplog.text.count(f"uid {uid}, pid 7: nonsense") == Sparing.LINES


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
        assert house.driver.on_change == listening[:2]  # whoever counts the players
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


async def test_who_waits_for_his_turn_at_the_end_is_answered(house, client, line):
    house.commons.shares.charge(UID, 1e9)
    house.commons.shares._window_end = float("inf")
    client.send(VERSION_REQUEST)
    await until(lambda: line)
    await house.stop()
    assert await client.answer() == VERSION_ANSWER
    assert await client.ended()


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

import asyncio
import contextlib
import os
import socket
import stat
from uuid import UUID

import pytest
from support.fakedriver import FakeDriver

from buswork.client import fsct as client
from buswork.client.fsct import (
    DriverError,
    IpcDriver,
    PlayerState,
    Status,
    TextId,
    Texts,
    Timeline,
)
from buswork.fsct import relay as module
from buswork.fsct.relay import Relay, make_socket
from buswork.fsct.wire import jsonrpc, msgpackrpc
from buswork.native.credentials import Credentials
from buswork.native.places import PlaceTaken

DEVICE = UUID("0e042ba4-82f1-4531-bd35-b455efebc627")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.01)


@pytest.fixture
async def server(tmp_path):
    async with FakeDriver(tmp_path / "driver.sock") as server:
        yield server


@pytest.fixture
def place(tmp_path):
    return tmp_path / "fsct" / "fsct.sock"


@pytest.fixture
async def relay(server, place):
    relay = Relay(lambda: IpcDriver(server.path))
    file = make_socket(place)
    relay.open(file.listener)
    yield relay
    file.remove()
    await relay.close()
    assert not relay._tasks


class Raw:
    """A client of bytes."""

    def __init__(self, place):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        self.sock.connect(str(place))
        self.decoder = msgpackrpc.Decoder()

    async def send(self, data):
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def recv(self):
        async with asyncio.timeout(10):
            return await asyncio.get_running_loop().sock_recv(self.sock, 65536)

    async def next(self):
        while (message := self.decoder.next()) is None:
            data = await self.recv()
            if not data:
                return None
            self.decoder.feed(data)
        return message

    def close(self):
        self.sock.close()


@pytest.fixture
def raw(relay, place):
    with contextlib.closing(Raw(place)) as raw:
        yield raw


# -- what it forwards ----------------------------------------------------------------------------


async def test_all_twelve_methods(server, relay, place):
    async with IpcDriver(str(place)) as driver:
        assert await driver.get_protocol_version() == (1, 0)
        player = await driver.register_player("radio")
        timeline = Timeline(1, 2, 3, 1.0)
        await driver.update_player_state(player, PlayerState(Status.PLAYING, None, Texts("a")))
        await driver.update_player_status(player, Status.PAUSED)
        await driver.update_player_timeline(player, timeline)
        await driver.update_player_metadata(player, TextId.CURRENT_TITLE, "b")
        await driver.assign_player_to_device(player, DEVICE)
        await driver.set_preferred_player(player)
        there = server.by_name("radio")
        assert there.state == PlayerState(Status.PAUSED, timeline, Texts("b"))
        assert there.device == DEVICE
        assert server.preferred == 1
        assert await driver.get_preferred_player() == player
        assert await driver.get_player_assigned_device(player) == DEVICE
        await driver.unassign_player_from_device(player, DEVICE)
        assert await driver.get_player_assigned_device(player) is None
        await driver.unregister_player(player)
        assert server.players == {}
        assert {asked.method for asked in server.log} == {*module.methods.METHODS}


async def test_a_player_belongs_to_its_connection(server, relay, place):
    async with IpcDriver(str(place)) as one, IpcDriver(str(place)) as other:
        await one.register_player("one")
        await other.register_player("other")
        assert len({player.connection for player in server.players.values()}) == 2
        await one.close()
        await server.until(lambda: server.names() == ["other"])


async def test_the_drivers_words_arrive_as_they_are(server, relay, place):
    async with IpcDriver(str(place)) as driver:
        with pytest.raises(DriverError, match=r"^Player not found$"):
            await driver.update_player_status(77, Status.PLAYING)


async def test_a_client_does_not_notice_a_restart_of_the_driver(server, relay, place, raw):
    ask = msgpackrpc.encode_request
    await raw.send(ask(1, "register_player", ["radio"]))
    assert await raw.next() == (1, None, 1)
    await raw.send(ask(2, "update_player_status", [1, 1]))
    await raw.send(ask(3, "assign_player_to_device", [1, DEVICE.bytes]))
    assert await raw.next() == (2, None, None)
    assert await raw.next() == (3, None, None)
    await server.restart(first_id=30)
    await server.until(lambda: server.players and server.by_name("radio").state.status == 1)
    assert server.by_name("radio").device == DEVICE
    await raw.send(ask(4, "update_player_metadata", [1, 1, "title"]))
    assert await raw.next() == (4, None, None)
    await server.until(lambda: server.by_name("radio").state.texts.title == "title")
    assert [*server.players] == [30]


async def test_a_client_may_come_before_the_driver(tmp_path, place):
    server = FakeDriver(tmp_path / "late.sock")
    relay = Relay(lambda: IpcDriver(server.path))
    relay.open(make_socket(place).listener)
    raw = Raw(place)
    await raw.send(msgpackrpc.encode_request(1, "register_player", ["radio"]))
    await asyncio.sleep(0.01)
    async with server:
        assert await raw.next() == (1, None, 1)
        raw.close()
        await server.until(lambda: not server.players)
        await relay.close()


async def test_answers_come_in_the_order_of_the_requests(server, raw):
    server.held.add("register_player")
    for msgid in range(1, 6):
        await raw.send(msgpackrpc.encode_request(msgid, "register_player", [f"p{msgid}"]))
    await raw.send(msgpackrpc.encode_request(6, "get_protocol_version", []))
    await server.asked("register_player", 5)
    server.release(backwards=True)
    answers = [await raw.next() for _ in range(6)]
    assert [answer.msgid for answer in answers] == [1, 2, 3, 4, 5, 6]
    assert sorted(answer.result for answer in answers[:5]) == [1, 2, 3, 4, 5]


async def test_past_so_many_requests_it_reads_no_more(server, raw):
    server.held.add("get_preferred_player")
    count = 4 * module.MAX_IN_FLIGHT
    requests = [msgpackrpc.encode_request(n, "get_preferred_player", []) for n in range(count)]
    await raw.send(b"".join(requests))
    await server.asked("get_preferred_player", module.MAX_IN_FLIGHT)
    await asyncio.sleep(0.01)
    assert len(server.calls("get_preferred_player")) == module.MAX_IN_FLIGHT
    assert len(asyncio.all_tasks()) < 2 * module.MAX_IN_FLIGHT
    server.release()
    assert [(await raw.next()).msgid for _ in range(count)] == [*range(count)]


async def test_a_client_that_shuts_its_side_down_gets_its_answers(server, raw):
    server.held.add("get_preferred_player")
    await raw.send(msgpackrpc.encode_request(1, "get_preferred_player", []))
    raw.sock.shutdown(socket.SHUT_WR)
    await server.asked("get_preferred_player")
    server.release()
    assert await raw.next() == (1, None, None)
    assert await raw.next() is None


# -- bad input -----------------------------------------------------------------------------------


async def test_whatever_has_an_id_is_answered(server, raw):
    ask = msgpackrpc.encode_request
    pack = msgpackrpc._packed
    await raw.send(
        ask(1, "no_such_method", [])
        + ask(2, "register_player", [])
        + ask(3, "update_player_status", [1, 257])
        + pack([0, 4, 5, []])
        + pack([2, "notified", []])
        + pack([1, 1, None, None])
        + b"\xc0\x05"
        + ask(5, "get_protocol_version", [])
    )
    answers = [await raw.next() for _ in range(5)]
    assert answers[:3] == [
        (1, "unknown method: no_such_method", None),
        (2, "expected 1 param: self_id", None),
        (3, "invalid status code: 257", None),
    ]
    assert answers[3].error.startswith("invalid request")
    assert answers[4] == (5, None, {"major": 1, "minor": 0})


async def test_what_can_not_be_read_ends_the_connection_with_an_answer(server, relay, raw, caplog):
    await raw.send(msgpackrpc.encode_request(1, "get_protocol_version", []) + b"\x94\x00\x02\xc1")
    assert (await raw.next()).msgid == 1
    refusal = await raw.next()
    assert refusal.msgid == 2
    assert refusal.error.startswith("invalid request")
    assert await raw.next() is None
    assert "0xc1" in caplog.text


async def test_json_is_told_where_it_is_understood(raw):
    await raw.send(b'{"jsonrpc":"2.0","id":1,"method":"get_protocol_version"}\n')
    decoder = jsonrpc.Decoder()
    decoder.feed(await raw.recv())
    assert "MessagePack" in decoder.next().error
    assert await raw.recv() == b""


async def test_a_defect_of_ours_is_answered_and_logged(place, caplog):
    class Broken:
        def start(self):
            pass

        async def close(self):
            pass

        async def get_protocol_version(self):
            raise LookupError("secret")

    relay = Relay(Broken)
    relay.open(make_socket(place).listener)
    with contextlib.closing(Raw(place)) as raw:
        await raw.send(msgpackrpc.encode_request(1, "get_protocol_version", []))
        assert (await raw.next()).error == "the agent failed; its log says how"
    assert "secret" in caplog.text
    await relay.close()


async def test_a_client_that_reads_nothing_is_left(server, relay, raw, monkeypatch):
    monkeypatch.setattr(module, "UNREAD_SECONDS", 0.02)
    server.refused["get_preferred_player"] = "x" * 1000
    requests = [msgpackrpc.encode_request(n, "get_preferred_player", []) for n in range(5000)]
    sending = asyncio.create_task(raw.send(b"".join(requests)))
    await server.asked("get_preferred_player")
    await asyncio.wait(set(relay._tasks), timeout=10)
    assert not len(relay)
    await server.until(lambda: not server._clients)
    with contextlib.suppress(OSError):
        await sending


async def test_clients_that_leave_at_any_point_leave_nothing(server, relay, place):
    request = msgpackrpc.encode_request(1, "register_player", ["radio"])
    for cut in range(len(request) + 1):
        with contextlib.closing(Raw(place)) as raw:
            await raw.send(request[:cut])
    with contextlib.closing(Raw(place)) as raw:
        await raw.send(msgpackrpc.encode_request(1, "get_protocol_version", []))
        await raw.next()  # so all of them have been accepted
    await asyncio.wait(set(relay._tasks), timeout=10)
    assert not len(relay)
    await server.until(lambda: not server.players)


async def test_no_more_connections_than_it_has_places(server, relay, place, monkeypatch, caplog):
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    raws = [Raw(place) for _ in range(5)]
    await server.until(lambda: server.connections == 2)
    for raw in raws[2:]:
        assert await raw.recv() == b""
    await raws[0].send(msgpackrpc.encode_request(1, "get_protocol_version", []))
    assert (await raws[0].next()).msgid == 1
    assert "2 connections already" in caplog.text
    for raw in raws:
        raw.close()


@pytest.mark.attack(14)
async def test_other_users_are_sent_away(server, relay, place, monkeypatch, caplog):
    monkeypatch.setattr(module, "peer_of", lambda sock: Credentials(1, 4711, 4711))
    with contextlib.closing(Raw(place)) as raw:
        assert await raw.recv() == b""
    assert "uid 4711" in caplog.text
    assert server.connections == 0


async def test_the_end_of_the_relay_is_the_end_of_its_clients(server, place):
    relay = Relay(lambda: IpcDriver(server.path))
    relay.open(make_socket(place).listener)
    server.held.add("get_preferred_player")
    with contextlib.closing(Raw(place)) as raw:
        await raw.send(msgpackrpc.encode_request(1, "register_player", ["radio"]))
        await raw.next()
        await raw.send(msgpackrpc.encode_request(1, "get_preferred_player", []))
        await server.asked("get_preferred_player")
        await relay.close()
        assert await raw.recv() == b""
        await server.until(lambda: not server.players)


# -- the socket ----------------------------------------------------------------------------------


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_socket_is_its_users_alone(place, monkeypatch):
    seen = []
    link = os.link

    def see(old, new, **options):
        seen.append(mode(old))  # before it has its name
        link(old, new, **options)

    monkeypatch.setattr(os, "link", see)
    before = os.umask(0)
    try:
        file = make_socket(place)
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert mode(place) == 0o600
    assert mode(place.parent) == 0o700
    file.close()
    assert not place.exists()


def test_a_folder_that_others_could_enter_is_closed(place):
    place.parent.mkdir()
    place.parent.chmod(0o777)
    make_socket(place).close()
    assert mode(place.parent) == 0o700


def test_what_is_no_folder_of_ours_is_not_used(place, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    place.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlaceTaken):
        make_socket(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders away")
def test_somebody_elses_folder_is_not_used(place):
    place.parent.mkdir()
    os.chown(place.parent, 12345, 12345)
    with pytest.raises(PlaceTaken):
        make_socket(place)


def test_a_socket_that_was_left_is_replaced_and_one_in_use_is_not(place):
    file = make_socket(place)
    with pytest.raises(PlaceTaken, match="served by another process"):
        make_socket(place)
    file.listener.close()  # as if it had been killed
    make_socket(place).close()

import asyncio
from uuid import UUID

import pytest
from support.fakedriver import FakeDriver

from buswork.client import Disconnected, InvalidArgs, TimedOut, link
from buswork.client import fsct as module
from buswork.client.fsct import (
    DriverError,
    IpcDriver,
    PlayerState,
    ProtocolVersion,
    Status,
    TextId,
    Texts,
    Timeline,
    WrongVersion,
)
from buswork.fsct.wire.protocol import MAX_MESSAGE_BYTES

pytestmark = pytest.mark.usefixtures("short_pauses")

DEVICE = UUID("0e042ba4-82f1-4531-bd35-b455efebc627")
TIMELINE = Timeline(1000, 1_700_000_000_000, 240_000, 1.0)
STATE = PlayerState(Status.PLAYING, None, Texts("title", "artist", "album", "genre"))


# -- the twelve methods --------------------------------------------------------------------------


async def test_all_twelve_methods(server, driver):
    assert await driver.get_protocol_version() == ProtocolVersion(1, 0)
    player = await driver.register_player("radio")
    assert player == 1
    await driver.assign_player_to_device(player, DEVICE)
    assert await driver.get_player_assigned_device(player) == DEVICE
    await driver.update_player_state(player, STATE)
    assert server.players[1].state == STATE
    await driver.update_player_status(player, Status.PAUSED)
    await driver.update_player_timeline(player, TIMELINE)
    await driver.update_player_metadata(player, TextId.CURRENT_GENRE, None)
    texts = Texts("title", "artist", "album")
    assert server.players[1].state == PlayerState(Status.PAUSED, TIMELINE, texts)
    await driver.update_player_timeline(player, None)
    assert server.players[1].state.timeline is None
    assert await driver.get_preferred_player() is None
    await driver.set_preferred_player(player)
    assert await driver.get_preferred_player() == player
    await driver.set_preferred_player(None)
    assert await driver.get_preferred_player() is None
    await driver.unassign_player_from_device(player, str(DEVICE))
    assert await driver.get_player_assigned_device(player) is None
    await driver.unregister_player(player)
    assert server.players == {}


async def test_plain_values_are_taken_as_well(server, driver):
    player = await driver.register_player("radio")
    timeline = {"position_ms": 1, "update_unix_ms": 2, "duration_ms": 3, "rate": 1}
    await driver.update_player_timeline(player, timeline)
    await driver.update_player_status(player, 1)
    await driver.update_player_metadata(player, 1, "title")
    expected = PlayerState(Status.PLAYING, Timeline(1, 2, 3, 1.0), Texts("title"))
    assert server.players[player].state == expected
    await driver.update_player_state(player, {"status": 2})
    assert server.players[player].state == PlayerState(Status.PAUSED)
    await driver.assign_player_to_device(player, DEVICE.bytes)
    assert server.players[player].device == DEVICE


async def test_what_makes_no_sense_is_not_sent(server, driver):
    player = await driver.register_player("radio")
    count = len(server.log)
    for attempt in (
        driver.register_player("half \udc80"),
        driver.register_player("x" * 5000),
        driver.update_player_status(player, 257),
        driver.update_player_metadata(player, TextId.QUEUE_TITLE, "x"),
        driver.update_player_metadata(player, 1, "half \udc80"),
        driver.update_player_timeline(player, Timeline(-1, 0, 0, 1.0)),
        driver.update_player_timeline(player, Timeline(0, 0, 0, float("nan"))),
        driver.update_player_state(player, {"titel": "x"}),
        driver.assign_player_to_device(player, "no uuid"),
        driver.set_preferred_player(0),
    ):
        with pytest.raises(InvalidArgs):
            await attempt
    assert len(server.log) == count


async def test_what_the_driver_refuses_is_told_in_its_words(server, driver):
    with pytest.raises(DriverError, match=r"^Player not found$"):
        await driver.update_player_status(77, Status.PLAYING)
    server.refused["register_player"] = "register_player error"
    with pytest.raises(DriverError, match=r"^register_player error$"):
        await driver.register_player("radio")


async def test_texts_that_no_display_shows_are_cut_so_that_a_message_holds_four(server, driver):
    player = await driver.register_player("radio")
    long = "\N{GRINNING FACE}" * 65535
    await driver.update_player_state(player, PlayerState(texts=Texts(long, long, long, long)))
    title = server.players[player].state.texts.title
    assert len(title.encode()) in range(module.MAX_TEXT_BYTES - 3, module.MAX_TEXT_BYTES + 1)
    assert long.startswith(title)
    assert 4 * module.MAX_TEXT_BYTES < MAX_MESSAGE_BYTES / 2
    await driver.update_player_metadata(player, 1, "x" * 65535)
    assert server.players[player].state.texts.title == "x" * 65535


# -- opening and closing -------------------------------------------------------------------------


async def test_no_driver(tmp_path):
    with pytest.raises(Disconnected, match="nowhere"):
        await IpcDriver(str(tmp_path / "nowhere")).open()


async def test_it_can_be_started_before_the_driver(tmp_path):
    server = FakeDriver(tmp_path / "fsct.sock")
    driver = IpcDriver(server.path)
    driver.start()
    asking = asyncio.create_task(driver.register_player("radio"))
    await asyncio.sleep(0)
    assert not driver.is_connected
    async with server:
        assert await asking == 1
        assert driver.is_connected
        await driver.close()


async def test_without_a_driver_a_question_times_out(tmp_path):
    driver = IpcDriver(str(tmp_path / "nowhere"), timeout=0.02)
    driver.start()
    with pytest.raises(TimedOut, match="is not there to answer register_player"):
        await driver.register_player("radio")
    await driver.close()


async def test_a_driver_of_another_major_is_left_at_once(server):
    server.version = ProtocolVersion(2, 0)
    driver = IpcDriver(server.path)
    with pytest.raises(WrongVersion, match=r"version 2\.0, we speak 1\.0"):
        await driver.open()
    await server.until(lambda: not server._clients)


async def test_another_minor_is_no_matter(server):
    server.version = ProtocolVersion(1, 9)
    async with IpcDriver(server.path) as driver:
        assert await driver.get_protocol_version() == (1, 9)


async def test_another_major_after_a_restart_ends_it_for_good(server, driver):
    player = await driver.register_player("radio")
    waiting = asyncio.create_task(_lost_and_found(driver))
    await asyncio.sleep(0)
    server.version = ProtocolVersion(2, 0)
    server.hang_up()
    with pytest.raises(WrongVersion):
        await waiting
    for attempt in (
        driver.register_player("x"),
        driver.update_player_status(player, Status.PLAYING),
        driver.wait_connected(),
    ):
        with pytest.raises(WrongVersion):
            await attempt


async def _lost_and_found(driver):
    await driver.wait_disconnected()
    await driver.wait_connected()


async def test_a_driver_that_takes_connections_and_says_nothing(server, monkeypatch):
    monkeypatch.setattr(link, "CONNECT_SECONDS", 0.02)
    server.held.add("get_protocol_version")
    with pytest.raises(Disconnected, match="did not answer in"):
        await IpcDriver(server.path).open()
    await server.until(lambda: not server._clients)


async def test_closing_ends_what_waits_and_the_players_go(server):
    driver = IpcDriver(server.path)
    await driver.open()
    await driver.register_player("radio")
    server.held.add("get_preferred_player")
    asking = asyncio.create_task(driver.get_preferred_player())
    await server.asked("get_preferred_player")
    await driver.close()
    await driver.close()
    with pytest.raises(Disconnected, match="closed"):
        await asking
    with pytest.raises(Disconnected, match="closed"):
        await driver.register_player("radio")
    await server.until(lambda: not server.players)


async def test_it_is_opened_once(server, driver):
    with pytest.raises(RuntimeError):
        await driver.open()
    with pytest.raises(RuntimeError):
        await IpcDriver(server.path).get_protocol_version()


# -- the driver restarts -------------------------------------------------------------------------


async def test_pauses_begin_anew_only_after_a_connection_that_lasted(
    server, driver, monkeypatch, back
):
    server.hang_up()
    await back(driver, 2)
    server.hang_up()
    await back(driver, 3)
    assert driver._backoff._pause > module.FIRST_PAUSE * 2
    monkeypatch.setattr(module, "GOOD_SECONDS", 0.0)
    server.hang_up()
    await back(driver, 4)
    assert driver._backoff._pause == module.FIRST_PAUSE * 2

import asyncio
import logging
import os
import random
import socket
import stat
import time
from pathlib import Path
from uuid import UUID

import pytest
from support.fakedriver import FakeDriver, FakePlayer

from buswork.client import Disconnected, InvalidArgs, TimedOut
from buswork.client import fsct as module
from buswork.client.errors import AccessDenied
from buswork.client.fsct import (
    Backoff,
    DriverError,
    IpcDriver,
    PlayerState,
    ProtocolVersion,
    Status,
    TextId,
    Texts,
    Timeline,
    WrongVersion,
    endpoints,
)
from buswork.fsct.wire import msgpackrpc
from buswork.fsct.wire.protocol import MAX_MESSAGE_BYTES

DEVICE = UUID("0e042ba4-82f1-4531-bd35-b455efebc627")
TIMELINE = Timeline(1000, 1_700_000_000_000, 240_000, 1.0)
STATE = PlayerState(Status.PLAYING, None, Texts("title", "artist", "album", "genre"))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.01)


@pytest.fixture
async def server(tmp_path):
    async with FakeDriver(tmp_path / "fsct.sock") as server:
        yield server


@pytest.fixture
async def driver(server):
    async with IpcDriver(server.path) as driver:
        yield driver


async def back(server: FakeDriver, driver: IpcDriver, connections: int) -> None:
    """The driver has been found again."""
    async with asyncio.timeout(10):
        while server.connections < connections:
            await server.until(lambda: server.connections >= connections)
        await driver.wait_connected()


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


# -- asking --------------------------------------------------------------------------------------


async def test_answers_find_their_question_in_whatever_order(server, driver):
    server.held.add("register_player")
    asking = [asyncio.create_task(driver.register_player(f"p{n}")) for n in range(10)]
    await server.asked("register_player", 10)
    server.release(backwards=True)
    handles = await asyncio.gather(*asking)
    assert [server.players[handle].self_id for handle in handles] == [f"p{n}" for n in range(10)]


async def test_requests_leave_in_their_order_and_no_more_at_once_than_the_driver_reads(
    server, driver
):
    server.held.add("register_player")
    asking = [asyncio.create_task(driver.register_player(f"p{n}")) for n in range(100)]
    await server.asked("register_player", module.MAX_IN_FLIGHT)
    await asyncio.sleep(0.01)
    assert len(server.calls("register_player")) == module.MAX_IN_FLIGHT
    server.release()
    await asyncio.gather(*asking)
    assert server.names() == [f"p{n}" for n in range(100)]


async def test_a_request_that_takes_too_long(server):
    async with IpcDriver(server.path, timeout=0.05) as driver:
        server.held.add("get_preferred_player")
        with pytest.raises(TimedOut, match="did not answer get_preferred_player"):
            await driver.get_preferred_player()
        server.release()  # too late, and it confuses nobody
        assert await driver.get_preferred_player() is None


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_player_that_nobody_waits_for_is_taken_back(server, how):
    async with IpcDriver(server.path, timeout=0.05 if how == "timed out" else 10) as driver:
        server.held.add("register_player")
        asking = asyncio.create_task(driver.register_player("radio"))
        await server.asked("register_player")
        if how == "cancelled":
            asking.cancel()
        with pytest.raises((asyncio.CancelledError, TimedOut)):
            await asking
        server.release()
        await server.asked("unregister_player")
        assert server.players == {}


async def test_a_player_that_comes_in_the_moment_of_the_cancellation_is_taken_back(server, driver):
    server.held.add("register_player")
    asking = asyncio.create_task(driver.register_player("radio"))
    await server.asked("register_player")
    link = driver._link
    answered = link._answered

    def cancel_too(response):
        answered(response)
        asking.cancel()

    link._answered = cancel_too
    server.release()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await server.asked("unregister_player")
    assert server.players == {}


async def test_a_player_of_a_driver_that_goes_in_the_moment_of_its_answer(server, driver):
    server.held.add("register_player")
    asking = asyncio.create_task(driver.register_player("radio"))
    await server.asked("register_player")
    link = driver._link
    answered = link._answered

    def end_too(response):
        answered(response)
        link.close()

    link._answered = end_too
    server.release()
    player = await asking
    await driver.update_player_status(player, Status.PLAYING)
    await server.until(lambda: server.by_name("radio").state.status is Status.PLAYING)


async def test_an_answer_that_comes_twice(server, driver):
    server.raw = lambda request: 2 * msgpackrpc.encode_response(request.msgid, 7)
    assert await driver.register_player("radio") == 7
    server.raw = lambda request: None
    assert await driver.get_protocol_version() == (1, 0)


async def test_an_answer_that_makes_no_sense(server, driver):
    server.raw = lambda request: msgpackrpc.encode_response(request.msgid, "one")
    with pytest.raises(DriverError, match="makes no sense"):
        await driver.register_player("radio")
    server.raw = lambda request: msgpackrpc._packed([1, request.msgid, {"half": b"\x80"}, None])
    with pytest.raises(DriverError, match="half"):
        await driver.register_player("radio")
    server.raw = lambda request: msgpackrpc.encode_error(request.msgid, "x" * 100_000)
    with pytest.raises(DriverError) as caught:
        await driver.register_player("radio")
    assert len(str(caught.value)) == module.MAX_ERROR_TEXT


async def test_messages_that_nobody_asked_for_are_passed_over(server, driver):
    server.write(
        msgpackrpc.encode_response(4711, 1)
        + b"\x93\x02\xa5hello\x90"
        + msgpackrpc.encode_request(1, "get_protocol_version", [])
        + b"\xc0\x01\x90"
    )
    assert await driver.get_protocol_version() == (1, 0)
    assert server.connections == 1


async def test_nonsense_ends_the_connection_and_the_next_one_is_as_good(server, driver):
    player = await driver.register_player("radio")
    server.write(b"\x94\x01\xc1")
    await back(server, driver, 2)
    await driver.update_player_status(player, Status.PLAYING)
    assert server.by_name("radio").state.status is Status.PLAYING


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
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.02)
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


async def test_players_come_back_with_all_they_had(server, driver):
    others = await driver.register_player("first")
    player = await driver.register_player("radio")
    await driver.update_player_state(player, STATE)
    await driver.update_player_metadata(player, TextId.CURRENT_TITLE, "newer")
    await driver.assign_player_to_device(player, DEVICE)
    await driver.set_preferred_player(player)
    await server.restart(first_id=50)
    await back(server, driver, 2)
    assert server.names() == ["first", "radio"]  # in their order
    found = server.by_name("radio")
    assert found.state == PlayerState(
        Status.PLAYING, None, Texts("newer", "artist", "album", "genre")
    )
    assert found.device == DEVICE
    assert server.preferred == 51
    # By the numbers that they had.
    assert await driver.get_preferred_player() == player
    assert await driver.get_player_assigned_device(player) == DEVICE
    await driver.update_player_status(others, Status.PAUSED)
    assert server.players[50].state.status is Status.PAUSED


async def test_numbers_stay_apart_when_the_driver_counts_from_one_again(server, driver):
    first = await driver.register_player("first")
    second = await driver.register_player("second")
    await driver.unregister_player(first)
    await server.restart()
    await back(server, driver, 2)
    assert server.names() == ["second"]  # and there it is number 1 now
    third = await driver.register_player("third")  # and this one 2, as ours was
    assert len({first, second, third}) == 3
    await driver.update_player_status(second, Status.PLAYING)
    await driver.update_player_status(third, Status.PAUSED)
    assert server.by_name("second").state.status is Status.PLAYING
    assert server.by_name("third").state.status is Status.PAUSED
    fourth = await driver.register_player("fourth")
    assert fourth == 3  # unused so far, so it can be the driver's
    await driver.unregister_player(second)
    assert server.names() == ["third", "fourth"]


async def test_players_of_others_have_numbers_that_are_none_of_ours(server, driver):
    async with IpcDriver(server.path) as other:
        theirs = await other.register_player("theirs")
        ours = await driver.register_player("ours")
        await other.set_preferred_player(theirs)
        assert await driver.get_preferred_player() == theirs
        await server.restart()
        await back(server, other, 4)
        await back(server, driver, 4)
        there = {player.self_id: number for number, player in server.players.items()}
        for name in ("theirs", "ours"):
            server.preferred = there[name]
            seen = await driver.get_preferred_player()
            assert (seen == ours) == (name == "ours")
            await driver.update_player_status(seen, Status.PLAYING)
            assert server.by_name(name).state.status is Status.PLAYING


async def test_a_player_of_others_whose_number_is_one_of_ours(server, driver):
    ours = await driver.register_player("ours")
    await server.restart(first_id=30)
    await back(server, driver, 2)
    server.players[ours] = FakePlayer("theirs", 0)
    server.preferred = ours
    theirs = await driver.get_preferred_player()
    assert theirs != ours
    assert await driver.get_preferred_player() == theirs
    await driver.update_player_status(theirs, Status.PLAYING)
    await driver.update_player_status(ours, Status.PAUSED)
    assert server.by_name("theirs").state.status is Status.PLAYING
    assert server.by_name("ours").state.status is Status.PAUSED
    # It is good until the driver restarts: then the same number may be another one's.
    await server.restart(first_id=60)
    await back(server, driver, 3)
    server.players[ours] = FakePlayer("another", 0)
    with pytest.raises(DriverError, match="not found"):
        await driver.update_player_status(theirs, Status.PLAYING)
    server.preferred = None
    server.players[77] = FakePlayer("far", 0)
    server.preferred = 77
    assert await driver.get_preferred_player() == 77


async def test_updates_without_a_driver_are_kept_and_the_newest_arrives(server, driver):
    player = await driver.register_player("radio")
    await server.stop()
    await driver.wait_disconnected()
    await driver.update_player_status(player, Status.PLAYING)
    await driver.update_player_status(player, Status.PAUSED)
    await driver.update_player_metadata(player, TextId.CURRENT_TITLE, "newest")
    await server.start()
    await back(server, driver, 2)
    assert server.by_name("radio").state == PlayerState(Status.PAUSED, None, Texts("newest"))
    assert len(server.calls("update_player_state")) == 1


async def test_an_update_in_flight_when_the_driver_goes_is_no_failure(server, driver):
    player = await driver.register_player("radio")
    server.held.add("update_player_status")
    asking = asyncio.create_task(driver.update_player_status(player, Status.PLAYING))
    await server.asked("update_player_status")
    server.hang_up()
    await asking
    await back(server, driver, 2)
    assert server.by_name("radio").state.status is Status.PLAYING


async def test_questions_in_flight_are_asked_again(server, driver):
    server.held.update(["register_player", "get_preferred_player"])
    registering = asyncio.create_task(driver.register_player("radio"))
    asking = asyncio.create_task(driver.get_preferred_player())
    await server.asked("get_preferred_player")
    server.held.clear()
    server.hang_up()
    player = await registering
    assert await asking is None
    await driver.update_player_status(player, Status.PLAYING)
    assert server.by_name("radio").state.status is Status.PLAYING


async def test_an_older_update_that_waited_for_its_turn_does_not_undo_the_newest(server, driver):
    player = await driver.register_player("radio")
    server.held.add("get_player_assigned_device")
    crowd = [
        asyncio.create_task(driver.get_player_assigned_device(player))
        for _ in range(module.MAX_IN_FLIGHT)
    ]
    await server.asked("get_player_assigned_device", module.MAX_IN_FLIGHT)
    late = asyncio.create_task(driver.update_player_status(player, Status.PLAYING))
    await asyncio.sleep(0)
    server.hang_up()
    await driver.wait_disconnected()
    await driver.update_player_status(player, Status.PAUSED)
    server.held.clear()
    await asyncio.gather(late, *crowd)
    assert server.by_name("radio").state.status is Status.PAUSED
    assert server.calls("update_player_status") == []


async def test_what_changes_during_the_re_registration_is_not_lost(server, driver):
    player = await driver.register_player("radio")
    gone = await driver.register_player("gone")
    waiting = await driver.register_player("waiting")
    server.held.add("update_player_state")
    server.hang_up()
    await server.asked("update_player_state", 3)
    await driver.update_player_status(player, Status.PLAYING)
    await driver.update_player_status(waiting, Status.PAUSED)
    leaving = asyncio.create_task(driver.unregister_player(gone))
    registering = asyncio.create_task(driver.register_player("new"))
    await asyncio.sleep(0)
    server.release()
    await leaving
    await registering
    assert server.names() == ["radio", "waiting", "new"]
    assert server.by_name("radio").state.status is Status.PLAYING
    assert server.by_name("waiting").state.status is Status.PAUSED


async def test_a_player_that_goes_while_it_is_registered_again(server, driver):
    player = await driver.register_player("radio")
    server.held.add("register_player")
    server.hang_up()
    await server.asked("register_player", 2)
    await driver.unregister_player(player)
    server.release()
    await server.asked("unregister_player")
    assert server.players == {}


async def test_a_player_that_goes_while_the_driver_goes_again(server, driver):
    await driver.register_player("radio")
    gone = await driver.register_player("gone")
    server.held.add("update_player_state")
    server.hang_up()
    await server.asked("update_player_state", 2)
    leaving = asyncio.create_task(driver.unregister_player(gone))
    await asyncio.sleep(0)
    server.held.clear()
    server.hang_up()
    await leaving
    await back(server, driver, 3)
    assert server.names() == ["radio"]
    assert server.calls("unregister_player") == []  # its number was another driver's


async def test_a_player_that_is_not_taken_again_does_not_keep_the_others(server, driver):
    player = await driver.register_player("radio")
    await driver.assign_player_to_device(player, DEVICE)
    server.refused["register_player"] = "Quota exceeded"
    server.hang_up()
    await back(server, driver, 2)
    with pytest.raises(DriverError, match="Quota exceeded"):
        await driver.update_player_status(player, Status.PAUSED)
    del server.refused["register_player"]
    # What was allowed then is not now.
    server.refused["assign_player_to_device"] = "No"
    server.hang_up()
    await back(server, driver, 3)
    assert server.by_name("radio").state.status is Status.PAUSED
    assert server.by_name("radio").device is None


async def test_a_player_that_is_not_taken_again_is_offered_until_it_is(
    server, driver, monkeypatch, caplog
):
    monkeypatch.setattr(module, "REFUSED_SECONDS", 0.001)
    player = await driver.register_player("radio")
    await driver.assign_player_to_device(player, DEVICE)
    server.refused["register_player"] = "Quota exceeded"
    server.hang_up()
    await server.asked("register_player", 5)
    with pytest.raises(DriverError, match="Quota exceeded"):
        await driver.update_player_status(player, Status.PAUSED)
    server.refused.clear()
    await server.until(lambda: server.by_name("radio").state.status is Status.PAUSED)
    assert server.by_name("radio").device == DEVICE
    assert caplog.text.count("does not take 'radio' again") == 1
    await driver.update_player_status(player, Status.PLAYING)
    assert server.by_name("radio").state.status is Status.PLAYING


async def test_a_player_that_is_not_taken_again_may_go(server, driver, monkeypatch):
    player = await driver.register_player("radio")
    server.refused["register_player"] = "Quota exceeded"
    server.hang_up()
    await back(server, driver, 2)
    await driver.unregister_player(player)
    with pytest.raises(DriverError):
        await driver.update_player_status(player, Status.PAUSED)
    assert server.calls("unregister_player") == []


async def test_the_preference_is_the_drivers_to_remember(server, driver):
    player = await driver.register_player("radio")
    await driver.set_preferred_player(player)
    async with IpcDriver(server.path) as other:
        await other.set_preferred_player(None)  # somebody else's choice, and a newer one
    await server.restart(first_id=50)
    await back(server, driver, 3)
    assert server.names() == ["radio"]
    assert server.preferred is None
    assert len(server.calls("set_preferred_player")) == 2


async def test_a_player_that_could_not_be_taken_back_in_time_may_be_once_more(server):
    async with IpcDriver(server.path, timeout=0.05) as driver:
        player = await driver.register_player("radio")
        await server.restart(first_id=50)
        await back(server, driver, 2)
        server.held.add("unregister_player")
        with pytest.raises(TimedOut):
            await driver.unregister_player(player)
        server.held.clear()
        await driver.unregister_player(player)
        assert server.names() == []
        assert [asked.args for asked in server.calls("unregister_player")] == [(50,), (50,)]


async def test_a_player_that_could_not_be_taken_back_in_time_ends_with_its_driver(server):
    async with IpcDriver(server.path, timeout=0.05) as driver:
        player = await driver.register_player("radio")
        server.held.add("unregister_player")
        with pytest.raises(TimedOut):
            await driver.unregister_player(player)
        server.held.clear()
        async with IpcDriver(server.path) as other:
            await server.restart()
            await back(server, driver, 4)
            await other.register_player("theirs, by the same number")
            assert server.names() == ["theirs, by the same number"]
            await driver.unregister_player(player)
            assert server.names() == ["theirs, by the same number"]


async def test_a_refused_removal_may_be_asked_for_again_by_the_same_number(server, driver):
    player = await driver.register_player("radio")
    await server.restart(first_id=50)
    await back(server, driver, 2)
    server.refused["unregister_player"] = "Not now"
    with pytest.raises(DriverError, match="Not now"):
        await driver.unregister_player(player)
    server.refused.clear()
    await driver.unregister_player(player)
    assert server.names() == []


async def test_what_was_taken_back_stays_so(server, driver):
    player = await driver.register_player("radio")
    await driver.assign_player_to_device(player, DEVICE)
    await driver.unassign_player_from_device(player, DEVICE)
    await driver.set_preferred_player(player)
    await driver.unregister_player(await driver.register_player("other"))
    await driver.set_preferred_player(None)
    server.hang_up()
    await back(server, driver, 2)
    assert server.names() == ["radio"]
    assert server.by_name("radio").device is None
    assert server.preferred is None


async def test_a_wall_clock_that_was_set_meanwhile_does_not_move_the_position(
    server, driver, monkeypatch
):
    player = await driver.register_player("radio")
    await driver.update_player_timeline(player, TIMELINE)
    await server.stop()
    await driver.wait_disconnected()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3_600_000_000_000)
    await driver.update_player_status(player, Status.PLAYING)  # the timeline is as old as it was
    await server.start()
    await back(server, driver, 2)
    expected = TIMELINE.update_unix_ms + 3_600_000
    sent = server.by_name("radio").state.timeline.update_unix_ms
    assert abs(sent - expected) < 1000


async def test_a_driver_that_dies_over_and_over(server, driver):
    player = await driver.register_player("radio")
    for n in range(10):
        await driver.update_player_metadata(player, TextId.CURRENT_TITLE, f"title {n}")
        server.hang_up()
    await back(server, driver, 2)
    assert await driver.get_protocol_version() == (1, 0)
    assert server.by_name("radio").state.texts.title == "title 9"


def test_pauses_double_up_to_a_limit_and_none_is_like_another(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 15.0)
    backoff = Backoff(random.Random(1).uniform)
    pauses = [backoff.next() for _ in range(12)]
    for n, pause in enumerate(pauses):
        longest = min(0.1 * 2**n, 15.0)
        assert longest / 2 <= pause <= longest
    assert len(set(pauses)) == len(pauses)
    backoff.reset()
    assert backoff.next() <= 0.1


async def test_pauses_begin_anew_only_after_a_connection_that_lasted(server, driver, monkeypatch):
    server.hang_up()
    await back(server, driver, 2)
    server.hang_up()
    await back(server, driver, 3)
    assert driver._backoff._pause > module.FIRST_PAUSE * 2
    monkeypatch.setattr(module, "GOOD_SECONDS", 0.0)
    server.hang_up()
    await back(server, driver, 4)
    assert driver._backoff._pause == module.FIRST_PAUSE * 2


# -- where the driver is -------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The three usual places, in a folder of the test; nothing is at any of them."""
    monkeypatch.delenv("FSCT_IPC_ENDPOINT", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "user"))
    monkeypatch.setattr(module, "SYSTEM_SOCKET", str(tmp_path / "run.sock"))
    monkeypatch.setattr(module, "TMP_SOCKET", str(tmp_path / "tmp.sock"))
    (tmp_path / "user" / "fsct").mkdir(parents=True)
    return tmp_path / "user" / "fsct" / "fsct.sock", tmp_path / "run.sock", tmp_path / "tmp.sock"


def make_socket(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    return sock


def test_the_variable_is_before_all_else(places, monkeypatch):
    with make_socket(places[0]):
        monkeypatch.setenv("FSCT_IPC_ENDPOINT", "/some/where")
        assert endpoints() == ["/some/where"]
        monkeypatch.setenv("FSCT_IPC_ENDPOINT", "  ")
        assert endpoints() == [str(places[0])]


def test_the_users_socket_then_the_systems_then_the_plans(places):
    assert endpoints() == []
    for path in reversed(places):
        make_socket(path).close()
    assert endpoints() == [str(path) for path in places]
    places[0].unlink()
    assert endpoints() == [str(path) for path in places[1:]]


def test_without_a_runtime_directory(places, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    make_socket(places[0]).close()
    make_socket(places[1]).close()
    assert endpoints() == [str(places[1])]


async def test_a_socket_that_nobody_serves_is_passed_over(places):
    make_socket(places[0]).close()
    async with FakeDriver(places[1]) as server, IpcDriver() as driver:
        await driver.register_player("radio")
        assert server.names() == ["radio"]


async def test_no_socket_anywhere(places):
    with pytest.raises(Disconnected, match="there is no socket of a driver"):
        await IpcDriver().open()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_in_tmp_only_a_socket_counts(places, kind):
    *_, path = places
    if kind == "file":
        path.write_bytes(b"")
    else:
        make_socket(path.with_name("elsewhere")).close()
        path.symlink_to(path.with_name("elsewhere"))
    assert endpoints() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_in_tmp_only_root_the_service_and_ourselves_are_trusted(places, monkeypatch, caplog):
    *_, path = places
    make_socket(path).close()
    assert endpoints() == [str(path)]
    os.chown(path, 12345, 12345)
    with caplog.at_level(logging.WARNING):
        assert endpoints() == []
    assert "it belongs to uid 12345" in caplog.text
    assert stat.S_ISSOCK(path.lstat().st_mode)

    class Entry:
        pw_uid = 12345

    monkeypatch.setattr(module.pwd, "getpwnam", lambda name: Entry)
    assert endpoints() == [str(path)]


async def test_whoever_answers_in_tmp_must_be_trusted_too(places, monkeypatch):
    """The name may have passed into other hands since it was looked at."""
    *_, path = places
    async with FakeDriver(path) as server:
        async with IpcDriver() as driver:
            assert await driver.get_protocol_version() == (1, 0)
        monkeypatch.setattr(module, "_is_trusted_file", lambda path: True)
        monkeypatch.setattr(module, "_is_trusted", lambda uid: uid != os.geteuid())
        with pytest.raises(AccessDenied, match="not trusted"):
            await module._Link.open(str(path))
        with pytest.raises(Disconnected, match="not trusted"):
            await IpcDriver().open()
        await server.until(lambda: server.connections == 3 and not server._clients)
        assert len(server.log) == 2  # it was asked nothing

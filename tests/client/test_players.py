"""Tests of buswork.client.players, through the IpcDriver that has them."""

import asyncio
import time
from uuid import UUID

import pytest
from support.fakedriver import FakePlayer, hurried

from buswork.client import TimedOut, fsct
from buswork.client.backoff import Backoff
from buswork.client.fsct import (
    DriverError,
    IpcDriver,
    PlayerState,
    Status,
    TextId,
    Texts,
    Timeline,
)
from buswork.client.link import MAX_IN_FLIGHT

pytestmark = pytest.mark.usefixtures("short_pauses")

DEVICE = UUID("0e042ba4-82f1-4531-bd35-b455efebc627")
OTHER_DEVICE = UUID(int=1)
TIMELINE = Timeline(1000, 1_700_000_000_000, 240_000, 1.0)
STATE = PlayerState(Status.PLAYING, None, Texts("title", "artist", "album", "genre"))


async def test_players_come_back_with_all_they_had(server, driver, back):
    others = await driver.register_player("first")
    player = await driver.register_player("radio")
    await driver.update_player_state(player, STATE)
    await driver.update_player_metadata(player, TextId.CURRENT_TITLE, "newer")
    await driver.assign_player_to_device(player, DEVICE)
    await driver.set_preferred_player(player)
    await server.restart(first_id=50)
    await back(driver, 2)
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


async def test_numbers_stay_apart_when_the_driver_counts_from_one_again(server, driver, back):
    first = await driver.register_player("first")
    second = await driver.register_player("second")
    await driver.unregister_player(first)
    await server.restart()
    await back(driver, 2)
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


async def test_players_of_others_have_numbers_that_are_none_of_ours(server, driver, back):
    async with IpcDriver(server.path) as other:
        theirs = await other.register_player("theirs")
        ours = await driver.register_player("ours")
        await other.set_preferred_player(theirs)
        assert await driver.get_preferred_player() == theirs
        await server.restart()
        await back(other, 4)
        await back(driver, 4)
        there = {player.self_id: number for number, player in server.players.items()}
        for name in ("theirs", "ours"):
            server.preferred = there[name]
            seen = await driver.get_preferred_player()
            assert (seen == ours) == (name == "ours")
            await driver.update_player_status(seen, Status.PLAYING)
            assert server.by_name(name).state.status is Status.PLAYING


async def test_a_player_of_others_whose_number_is_one_of_ours(server, driver, back):
    ours = await driver.register_player("ours")
    await server.restart(first_id=30)
    await back(driver, 2)
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
    await back(driver, 3)
    server.players[ours] = FakePlayer("another", 0)
    with pytest.raises(DriverError, match="not found"):
        await driver.update_player_status(theirs, Status.PLAYING)
    server.preferred = None
    server.players[77] = FakePlayer("far", 0)
    server.preferred = 77
    assert await driver.get_preferred_player() == 77


async def test_updates_without_a_driver_are_kept_and_the_newest_arrives(server, driver, back):
    player = await driver.register_player("radio")
    await server.stop()
    await driver.wait_disconnected()
    await driver.update_player_status(player, Status.PLAYING)
    await driver.update_player_status(player, Status.PAUSED)
    await driver.update_player_metadata(player, TextId.CURRENT_TITLE, "newest")
    await server.start()
    await back(driver, 2)
    assert server.by_name("radio").state == PlayerState(Status.PAUSED, None, Texts("newest"))
    assert len(server.calls("update_player_state")) == 1


async def test_an_update_in_flight_when_the_driver_goes_is_no_failure(server, driver, back):
    player = await driver.register_player("radio")
    server.held.add("update_player_status")
    asking = asyncio.create_task(driver.update_player_status(player, Status.PLAYING))
    await server.asked("update_player_status")
    server.hang_up()
    await asking
    await back(driver, 2)
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
        asyncio.create_task(driver.get_player_assigned_device(player)) for _ in range(MAX_IN_FLIGHT)
    ]
    await server.asked("get_player_assigned_device", MAX_IN_FLIGHT)
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


async def test_a_player_that_goes_while_the_driver_goes_again(server, driver, back):
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
    await back(driver, 3)
    assert server.names() == ["radio"]
    assert server.calls("unregister_player") == []  # its number was another driver's


async def test_a_player_that_is_not_taken_again_does_not_keep_the_others(server, driver, back):
    player = await driver.register_player("radio")
    await driver.assign_player_to_device(player, DEVICE)
    server.refused["register_player"] = "Quota exceeded"
    server.hang_up()
    await back(driver, 2)
    with pytest.raises(DriverError, match="Quota exceeded"):
        await driver.update_player_status(player, Status.PAUSED)
    del server.refused["register_player"]
    # What was allowed then is not now.
    server.refused["assign_player_to_device"] = "No"
    server.hang_up()
    await back(driver, 3)
    assert server.by_name("radio").state.status is Status.PAUSED
    assert server.by_name("radio").device is None


async def test_a_player_that_is_not_taken_again_is_offered_until_it_is(
    server, driver, monkeypatch, caplog
):
    monkeypatch.setattr(fsct, "FIRST_REFUSED_PAUSE", 0.001)
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
    assert caplog.text.count("the driver refuses register_player of 'radio'") == 1
    await driver.update_player_status(player, Status.PLAYING)
    assert server.by_name("radio").state.status is Status.PLAYING


async def test_what_is_refused_of_a_player_is_offered_until_it_is_taken(
    server, driver, monkeypatch, caplog, back
):
    pauses = []

    class Noted(Backoff):
        def next(self):
            pauses.append(self._pause)
            return super().next()

    monkeypatch.setattr(fsct, "Backoff", Noted)
    monkeypatch.setattr(fsct, "FIRST_REFUSED_PAUSE", 0.001)
    player = await driver.register_player("radio")
    await driver.assign_player_to_device(player, DEVICE)
    await driver.update_player_state(player, STATE)
    parts = ("assign_player_to_device", "update_player_state")
    server.refused |= dict.fromkeys(parts, "Too many")
    since = len(server.log)
    server.hang_up()
    await server.asked("update_player_state", 5)  # the first was before the restart
    assert driver.is_connected
    await driver.update_player_metadata(player, TextId.CURRENT_TITLE, "newer")
    server.refused.clear()
    await server.until(lambda: server.by_name("radio").state.status is Status.PLAYING)
    found = server.by_name("radio")
    assert found.state == PlayerState(
        Status.PLAYING, None, Texts("newer", "artist", "album", "genre")
    )
    assert found.device == DEVICE
    assert [asked.method for asked in server.log[since:]].count("register_player") == 1
    assert pauses == [0.001 * 2**n for n in range(len(pauses))]
    for part in parts:
        assert caplog.text.count(f"the driver refuses {part} of 'radio'") == 1
    await driver.unregister_player(player)
    assert driver._players.refused == []


async def test_a_device_that_was_refused_and_is_given_back_is_not_asked_for_again(
    server, driver, monkeypatch, back
):
    monkeypatch.setattr(fsct, "FIRST_REFUSED_PAUSE", 0.001)
    player = await driver.register_player("radio")
    await driver.assign_player_to_device(player, DEVICE)
    server.refused["assign_player_to_device"] = "Too many"
    server.hang_up()
    await back(driver, 2)
    server.refused["unassign_player_from_device"] = "unassign_player_from_device error"
    with pytest.raises(DriverError, match="unassign"):
        await driver.unassign_player_from_device(player, OTHER_DEVICE)
    await driver.unassign_player_from_device(player, DEVICE)
    with pytest.raises(DriverError):  # as ever where there is nothing to give back
        await driver.unassign_player_from_device(player, DEVICE)
    server.refused.clear()
    server.hang_up()
    await back(driver, 3)
    assert server.by_name("radio").device is None


async def test_a_player_that_went_with_its_driver_is_unknown_to_the_next(server, driver, back):
    player = await driver.register_player("radio")
    server.held.add("unregister_player")
    with hurried(driver), pytest.raises(TimedOut):
        await driver.unregister_player(player)
    server.hang_up()
    await back(driver, 2)
    with pytest.raises(DriverError, match="Player not found"):
        await driver.assign_player_to_device(player, DEVICE)


async def test_a_player_that_is_not_taken_again_may_go(server, driver, monkeypatch, back):
    player = await driver.register_player("radio")
    server.refused["register_player"] = "Quota exceeded"
    server.hang_up()
    await back(driver, 2)
    await driver.unregister_player(player)
    with pytest.raises(DriverError):
        await driver.update_player_status(player, Status.PAUSED)
    assert server.calls("unregister_player") == []


async def test_the_preference_is_the_drivers_to_remember(server, driver, back):
    player = await driver.register_player("radio")
    await driver.set_preferred_player(player)
    async with IpcDriver(server.path) as other:
        await other.set_preferred_player(None)  # somebody else's choice, and a newer one
    await server.restart(first_id=50)
    await back(driver, 3)
    assert server.names() == ["radio"]
    assert server.preferred is None
    assert len(server.calls("set_preferred_player")) == 2


async def test_a_player_that_could_not_be_taken_back_in_time_may_be_once_more(server, driver, back):
    player = await driver.register_player("radio")
    await server.restart(first_id=50)
    await back(driver, 2)
    server.held.add("unregister_player")
    with hurried(driver), pytest.raises(TimedOut):
        await driver.unregister_player(player)
    server.held.clear()
    await driver.unregister_player(player)
    assert server.names() == []
    assert [asked.args for asked in server.calls("unregister_player")] == [(50,), (50,)]


async def test_a_player_that_could_not_be_taken_back_in_time_ends_with_its_driver(
    server, driver, back
):
    player = await driver.register_player("radio")
    server.held.add("unregister_player")
    with hurried(driver), pytest.raises(TimedOut):
        await driver.unregister_player(player)
    server.held.clear()
    async with IpcDriver(server.path) as other:
        await server.restart()
        await back(driver, 4)
        await other.register_player("theirs, by the same number")
        assert server.names() == ["theirs, by the same number"]
        await driver.unregister_player(player)
        assert server.names() == ["theirs, by the same number"]


async def test_a_refused_removal_may_be_asked_for_again_by_the_same_number(server, driver, back):
    player = await driver.register_player("radio")
    await server.restart(first_id=50)
    await back(driver, 2)
    server.refused["unregister_player"] = "Not now"
    with pytest.raises(DriverError, match="Not now"):
        await driver.unregister_player(player)
    server.refused.clear()
    await driver.unregister_player(player)
    assert server.names() == []


async def test_what_was_taken_back_stays_so(server, driver, back):
    player = await driver.register_player("radio")
    await driver.assign_player_to_device(player, DEVICE)
    await driver.unassign_player_from_device(player, DEVICE)
    await driver.set_preferred_player(player)
    await driver.unregister_player(await driver.register_player("other"))
    await driver.set_preferred_player(None)
    server.hang_up()
    await back(driver, 2)
    assert server.names() == ["radio"]
    assert server.by_name("radio").device is None
    assert server.preferred is None


async def test_a_wall_clock_that_was_set_meanwhile_does_not_move_the_position(
    server, driver, monkeypatch, back
):
    player = await driver.register_player("radio")
    await driver.update_player_timeline(player, TIMELINE)
    await server.stop()
    await driver.wait_disconnected()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3_600_000_000_000)
    await driver.update_player_status(player, Status.PLAYING)  # the timeline is as old as it was
    await server.start()
    await back(driver, 2)
    expected = TIMELINE.update_unix_ms + 3_600_000
    sent = server.by_name("radio").state.timeline.update_unix_ms
    assert abs(sent - expected) < 1000


async def test_a_driver_that_dies_over_and_over(server, driver, back):
    player = await driver.register_player("radio")
    for n in range(10):
        await driver.update_player_metadata(player, TextId.CURRENT_TITLE, f"title {n}")
        server.hang_up()
    await back(driver, 2)
    assert await driver.get_protocol_version() == (1, 0)
    assert server.by_name("radio").state.texts.title == "title 9"

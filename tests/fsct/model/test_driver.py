from dataclasses import replace

import pytest
from support.displays import SONG, START, Screen, device, device_id

from buswork.errors import BusworkError, InvalidArgs, LimitsExceeded
from buswork.fsct.model.changes import (
    DeviceAdded,
    DeviceChanged,
    DeviceRemoved,
    PlayerAdded,
    PlayerChanged,
    PlayerRemoved,
    PreferredChanged,
)
from buswork.fsct.model.display import MAX_ERROR_CHARACTERS, NoSuchDevice
from buswork.fsct.model.driver import Driver, Limits
from buswork.fsct.model.players import NoSuchPlayer, NotAssigned
from buswork.fsct.model.selection import Reason
from buswork.fsct.wire.terms import PlayerState, Status, TextId, Texts

ME, YOU = 1000, 1001
ONE, TWO = device_id(1), device_id(2)


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def heard(driver):
    changes = []
    driver.on_change.append(changes.append)
    return changes


def taken(heard):
    changes = list(heard)
    heard.clear()
    return changes


# Players


def test_players_are_counted_from_one_and_known_in_order_of_registration(driver):
    players = [driver.register(name, ME, ":1.7") for name in ("a", "", "a")]
    assert [player.id for player in players] == [1, 2, 3]
    assert list(driver.players.values()) == players
    assert [player.self_id for player in players] == ["a", "", "a"]
    assert (players[0].uid, players[0].owner, players[0].status) == (ME, ":1.7", Status.UNKNOWN)


def test_an_id_is_not_given_twice(driver):
    driver.unregister(driver.register("a", ME, "me").id)
    assert driver.register("a", ME, "me").id == 2


def test_ids_begin_anew_beside_those_that_are_taken(driver):
    driver.register("a", ME, "me")
    driver._last_id = 2**32 - 1
    assert driver.register("b", ME, "me").id == 2


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("player", ()),
        ("unregister", ()),
        ("assign", (ONE,)),
        ("unassign", (ONE,)),
        ("update_state", (PlayerState(),)),
        ("update_status", (Status.PLAYING,)),
        ("update_timeline", (None,)),
        ("update_text", (TextId.CURRENT_TITLE, "x")),
        ("prefer", ()),
    ],
)
@pytest.mark.parametrize("player_id", [0, 1, 99, -1, 2**32 + 2])
def test_a_player_that_is_not_there(driver, heard, method, values, player_id):
    driver.unregister(driver.register("a", ME, "me").id)
    driver.register("b", ME, "me")
    heard.clear()
    with pytest.raises(NoSuchPlayer, match=r"^Player not found$"):
        getattr(driver, method)(player_id, *values)
    assert heard == []


def test_players_go_with_their_owner(driver, heard):
    mine = [driver.register("a", ME, ":1.7") for _ in range(3)]
    other = driver.register("b", ME, ":1.8")
    driver.unregister(mine[1].id)
    assert driver.owned_by(":1.7") == [mine[0], mine[2]]
    heard.clear()
    driver.release(":1.7")
    assert taken(heard) == [PlayerRemoved(mine[0]), PlayerRemoved(mine[2])]
    assert list(driver.players.values()) == [other]
    assert driver.owned_by(":1.7") == []
    driver.release(":1.7")
    driver.release("nobody")
    assert heard == []


def test_nothing_is_left_of_players_that_went(driver):
    driver.add_device(device(1))
    for number in range(100):
        player = driver.register("a", ME, number)
        driver.assign(player.id, ONE)
        driver.prefer(player.id)
        driver.update_status(player.id, Status.PLAYING)
        driver.release(number)
    assert driver._owned == {}
    groups = [driver._free, driver._assigned, *driver._groups.values()]
    assert [line._players for group in groups for line in group._lines.values()] == [[]] * 12
    driver.remove_device(ONE)
    assert (driver._groups, driver._work, list(driver._changes)) == ({}, {}, [])


def test_there_are_so_many_players_and_no_more(heard):
    driver = Driver(Limits(players=2))
    driver.register("a", ME, "me")
    player = driver.register("a", ME, "me")
    with pytest.raises(LimitsExceeded, match=r"There are 2 players.*MaxPlayers"):
        driver.register("a", ME, "me")
    assert len(driver.players) == 2
    driver.unregister(player.id)
    assert driver.register("a", ME, "me").id == 3


# What players say


def test_each_change_is_told_once_with_what_changed(driver, heard):
    player = driver.register("a", ME, "me")
    assert taken(heard) == [PlayerAdded(player)]
    driver.update_status(player.id, Status.PAUSED)
    assert taken(heard) == [PlayerChanged(player, ("status",))]
    driver.update_timeline(player.id, START)
    assert taken(heard) == [PlayerChanged(player, ("timeline",))]
    driver.update_text(player.id, TextId.CURRENT_TITLE, "Title")
    assert taken(heard) == [PlayerChanged(player, ("texts",))]
    driver.update_state(player.id, PlayerState(Status.STOPPED, None, SONG))
    assert taken(heard) == [PlayerChanged(player, ("status", "timeline", "texts"))]
    assert (player.status, player.timeline, player.texts) == (Status.STOPPED, None, SONG)


def test_an_equal_value_is_no_change(driver, heard):
    player = driver.register("a", ME, "me")
    screen = Screen(driver.add_device(device()))
    driver.update_state(player.id, PlayerState(Status.PLAYING, START, SONG))
    heard.clear()
    screen.calls = 0
    driver.update_state(player.id, PlayerState(Status.PLAYING, replace(START), SONG))
    driver.update_status(player.id, Status.PLAYING)
    driver.update_timeline(player.id, replace(START))
    driver.update_text(player.id, TextId.CURRENT_AUTHOR, "Artist")
    assert (heard, screen.calls) == ([], 0)


def test_a_running_position_is_not_told_until_it_is_elsewhere(driver, heard):
    player = driver.register("a", ME, "me")
    driver.update_timeline(player.id, START)
    heard.clear()
    for seconds in range(1, 10):
        now_ms = START.update_unix_ms + 1000 * seconds
        # Its clock is slow: in the end it is where nobody expects it.
        timeline = replace(START, position_ms=900 * seconds, update_unix_ms=now_ms)
        driver.update_timeline(player.id, timeline)
        assert player.timeline is timeline
    assert heard == [PlayerChanged(player, ("timeline",))]


def test_the_offset_of_the_wall_clock_is_that_of_when_a_timeline_was_told(heard):
    offsets = []
    driver = Driver(wall_offset_ms=offsets.pop)
    driver.on_change.append(heard.append)
    player = driver.register("a", ME, "me")
    screen = Screen(driver.add_device(device()))
    offsets.append(5)
    driver.update_timeline(player.id, START)
    assert (player.wall_offset_ms, screen.step().kind.value) == (5, "status")
    assert screen.step().wall_offset_ms == 5
    screen.steps()
    heard.clear()
    # What is no change is not of another time.
    offsets.append(3_600_005)
    driver.update_timeline(player.id, replace(START))
    driver.update_status(player.id, Status.PLAYING)
    driver.update_state(player.id, PlayerState(Status.PLAYING, START, SONG))
    assert (player.wall_offset_ms, offsets) == (5, [3_600_005])
    assert "progress" not in screen.kinds()
    assert ("timeline",) not in [change.names for change in heard]
    driver.update_state(player.id, PlayerState(Status.PLAYING, replace(START, rate=2.0), SONG))
    assert player.wall_offset_ms == 3_600_005
    assert screen.kinds() == ["progress"]


def test_texts_are_cut_to_what_is_kept():
    driver = Driver(Limits(text_bytes=8))
    player = driver.register("a", ME, "me")
    driver.update_text(player.id, TextId.CURRENT_TITLE, "1234567ż")
    assert player.texts == Texts("1234567")
    driver.update_state(player.id, PlayerState(texts=Texts("a" * 9, "", "b")))
    assert player.texts == Texts("a" * 8, None, "b")


@pytest.mark.parametrize("text_id", [TextId.QUEUE_TITLE, TextId.QUEUE_GENRE])
def test_texts_of_a_queue_are_refused(driver, heard, text_id):
    player = driver.register("a", ME, "me")
    heard.clear()
    with pytest.raises(InvalidArgs, match=f"Text {int(text_id)} is one of a queue"):
        driver.update_text(player.id, text_id, "x")
    assert (heard, player.texts) == ([], Texts())


# Assignment


def test_a_player_has_one_device_and_a_device_many_players(driver, heard):
    players = [driver.register("a", ME, "me") for _ in range(2)]
    heard.clear()
    for player in players:
        driver.assign(player.id, ONE)
    driver.assign(players[0].id, TWO)
    assert [player.device for player in players] == [TWO, ONE]
    assert taken(heard) == [PlayerChanged(players[at], ("device",)) for at in (0, 1, 0)]
    driver.assign(players[0].id, TWO)
    assert heard == []


def test_only_what_is_assigned_can_be_unassigned(driver, heard):
    player = driver.register("a", ME, "me")
    with pytest.raises(NotAssigned, match=r"^Player not assigned to the device$"):
        driver.unassign(player.id, ONE)
    driver.assign(player.id, ONE)
    with pytest.raises(NotAssigned):
        driver.unassign(player.id, TWO)
    heard.clear()
    driver.unassign(player.id, ONE)
    assert (player.device, taken(heard)) == (None, [PlayerChanged(player, ("device",))])


@pytest.mark.parametrize(
    "bad", ["", "1-2.3", "x" * 36, ONE.replace("0", "A"), "{" + ONE + "}", ONE.replace("-", "")]
)
def test_a_device_is_named_in_one_form(driver, bad):
    player = driver.register("a", ME, "me")
    with pytest.raises(InvalidArgs, match="UUID in lower case"):
        driver.assign(player.id, bad)
    with pytest.raises(InvalidArgs):
        driver.add_device(replace(device(), id=bad))
    assert (player.device, driver.displays) == (None, {})


def test_an_assignment_waits_for_its_device_and_outlives_it(driver):
    other, player = (driver.register("a", ME, "me") for _ in range(2))
    driver.update_status(other.id, Status.PLAYING)
    driver.update_status(player.id, Status.PLAYING)
    driver.assign(player.id, ONE)
    two = driver.add_device(device(2))
    assert two.active is other
    one = driver.add_device(device(1))
    assert (one.active, two.active) == (player, other)
    driver.unregister(other.id)
    assert two.reason is Reason.ELSEWHERE
    driver.remove_device(ONE)
    assert (player.device, two.active, two.reason) == (ONE, player, Reason.PLAYING)
    assert driver.add_device(device(1)).reason is Reason.ASSIGNED


# The preferred player


def test_one_player_is_preferred(driver, heard):
    one, two = (driver.register(name, ME, "me") for name in "ab")
    assert driver.preferred is None
    heard.clear()
    driver.prefer(one.id)
    driver.prefer(one.id)
    driver.prefer(two.id)
    driver.prefer(None)
    driver.prefer(None)
    assert heard == [PreferredChanged(one), PreferredChanged(two), PreferredChanged(None)]


def test_the_preferred_player_is_remembered_when_it_goes(driver, heard):
    player = driver.register("a", ME, "me")
    driver.prefer(player.id)
    driver.unregister(player.id)
    assert (driver.preferred, driver.remembered, driver.remembered_uid) == (None, "a", ME)
    heard.clear()
    driver.register("b", ME, "me")
    assert driver.preferred is None
    again = driver.register("a", ME, "me")
    assert driver.preferred == again.id
    assert heard[1:] == [PlayerAdded(again), PreferredChanged(again)]
    driver.prefer(None)
    assert (driver.remembered, driver.remembered_uid) == (None, None)


def test_another_users_player_is_not_taken_for_the_preferred_one(driver):
    driver.prefer(driver.register("a", ME, "me").id)
    driver.release("me")
    driver.register("a", YOU, "you")
    assert driver.preferred is None
    driver.register("a", ME, "me")
    assert driver.preferred == 3


def test_a_second_player_of_the_same_name_follows_the_preferred_one(driver, heard):
    first, second = (driver.register("a", ME, "me") for _ in range(2))
    driver.prefer(first.id)
    third = driver.register("a", ME, "me")
    assert driver.preferred == first.id
    heard.clear()
    driver.unregister(first.id)
    assert driver.preferred == second.id
    assert heard == [PreferredChanged(second), PlayerRemoved(first)]
    driver.unregister(third.id)
    assert driver.preferred == second.id


def test_a_player_without_a_name_is_preferred_but_not_remembered(driver):
    player = driver.register("", ME, "me")
    driver.prefer(player.id)
    assert (driver.preferred, driver.remembered) == (player.id, None)
    driver.unregister(player.id)
    driver.register("", ME, "me")
    assert driver.preferred is None


def test_forgetting_who_was_preferred_is_told(driver, heard):
    driver.remember("a", ME)
    driver.prefer(None)
    assert (driver.remembered, heard) == (None, [PreferredChanged(None)])


def test_preferring_the_heir_of_another_user_is_told(driver, heard):
    driver.remember("a")
    player = driver.register("a", ME, "me")
    assert driver.preferred == player.id
    heard.clear()
    driver.prefer(player.id)
    assert (driver.remembered_uid, heard) == (ME, [PreferredChanged(player)])


def test_what_an_earlier_life_remembered(driver, heard):
    driver.remember("a", YOU)
    assert heard == []
    driver.register("a", ME, "me")
    yours = driver.register("a", YOU, "you")
    assert driver.preferred == yours.id
    driver.remember("a", ME)
    assert driver.preferred == yours.id  # as long as it is there
    driver.prefer(None)
    driver.remember("a", ME)
    assert driver.preferred == 1


def test_an_empty_memory_knows_nobody(driver):
    driver.remember("")
    driver.register("", ME, "me")
    assert (driver.preferred, driver.remembered) == (None, None)


# Devices


def test_devices_come_and_go(driver, heard):
    player = driver.register("a", ME, "me")
    heard.clear()
    display = driver.add_device(device())
    assert driver.displays == {ONE: display}
    assert driver.display(ONE) is display
    assert (display.active, display.reason, display.error) == (player, Reason.ONLY, "")
    assert taken(heard) == [
        DeviceAdded(display),
        DeviceChanged(display, ("active", "reason")),
    ]
    driver.remove_device(ONE)
    assert taken(heard) == [DeviceRemoved(display)]
    assert driver.displays == {}


@pytest.mark.parametrize("method", ["display", "remove_device"])
def test_a_device_that_is_not_there(driver, method):
    with pytest.raises(NoSuchDevice, match="Device not found"):
        getattr(driver, method)(ONE)


def test_a_device_is_connected_once(driver, heard):
    display = driver.add_device(device())
    heard.clear()
    with pytest.raises(ValueError, match="connected already"):
        driver.add_device(device())
    assert (driver.displays, heard) == ({ONE: display}, [])


def test_there_are_so_many_devices_and_no_more():
    driver = Driver(Limits(devices=1))
    driver.add_device(device(1))
    with pytest.raises(LimitsExceeded, match=r"There are 1 devices.*MaxDevices"):
        driver.add_device(device(2))


def test_an_error_is_told_once_and_kept_short(driver, heard):
    display = driver.add_device(device())
    heard.clear()
    for text in ("stalled", "stalled", "x" * 1000, "x" * 2000, ""):
        driver.set_error(ONE, text)
    assert heard == [DeviceChanged(display, ("error",))] * 3
    driver.set_error(ONE, "x" * 1000)
    assert display.error == "x" * MAX_ERROR_CHARACTERS


def test_what_is_shown_is_told_before_a_player_is_gone(driver, heard):
    display = driver.add_device(device())
    one, two = (driver.register(name, ME, "me") for name in "ab")
    driver.prefer(one.id)
    heard.clear()
    driver.unregister(one.id)
    assert heard == [
        PreferredChanged(None),
        DeviceChanged(display, ("active", "reason")),
        PlayerRemoved(one),
    ]
    assert display.active is two


def test_the_reason_may_change_alone(driver, heard):
    display = driver.add_device(device())
    driver.register("a", ME, "me")
    heard.clear()
    other = driver.register("b", ME, "me")
    assert heard == [PlayerAdded(other), DeviceChanged(display, ("reason",))]


def test_the_seat_is_told_by_what_it_changes(driver, heard):
    display = driver.add_device(device())
    driver.register("a", ME, "me")
    you = driver.register("b", YOU, "you")
    heard.clear()
    driver.set_active_uids(frozenset({YOU}))
    assert (driver.active_uids, display.active) == (frozenset({YOU}), you)
    assert taken(heard) == [DeviceChanged(display, ("active",))]
    driver.set_active_uids(frozenset({YOU, 5}))
    assert heard == []


# Listeners


def test_listeners_read_what_is_so_and_devices_hear_first(driver):
    display = driver.add_device(device())
    order = []
    display.on_work = lambda: order.append("work")
    driver.on_change.append(lambda change: order.append((type(change), display.active)))
    player = driver.register("a", ME, "me")
    assert order == ["work", (PlayerAdded, player), (DeviceChanged, player)]


def test_a_listener_may_alter_the_model_and_all_hear_in_the_same_order(driver):
    first, second = [], []

    def unwelcome(change):
        first.append(type(change))
        if isinstance(change, PlayerAdded):
            driver.unregister(change.player.id)

    driver.on_change += [unwelcome, lambda change: second.append(type(change))]
    player = driver.register("a", ME, "me")
    assert player.id not in driver.players
    assert first == second == [PlayerAdded, PlayerRemoved]


def test_on_work_may_ask_for_a_step(driver):
    display = driver.add_device(device())
    steps = []
    display.on_work = lambda: steps.append(display.next_step(0))
    driver.register("a", ME, "me")
    assert len(steps) == 1


def test_a_listener_that_fails_does_not_silence_the_driver(driver, heard):
    def failing(change):
        driver.on_change.remove(failing)
        raise RuntimeError

    driver.on_change.insert(0, failing)
    with pytest.raises(RuntimeError):
        driver.register("a", ME, "me")
    driver.register("b", ME, "me")
    assert heard[-1] == PlayerAdded(driver.player(2))


def test_all_refusals_have_names():
    for error in (NoSuchPlayer, NotAssigned, NoSuchDevice):
        assert issubclass(error, BusworkError)
        assert error.name == f"org.fsct.Error.{error.__name__}"

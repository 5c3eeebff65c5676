"""What the original driver does wrong, as far as it is the model's to do right."""

import random
from dataclasses import replace

import pytest
from support.displays import BLANK, SONG, START, Screen, device, device_id, shown

from buswork.errors import InvalidArgs
from buswork.fsct.model.changes import DeviceRemoved
from buswork.fsct.model.display import RETRY_MAX_S, Kind
from buswork.fsct.model.driver import Driver
from buswork.fsct.model.players import NoSuchPlayer
from buswork.fsct.wire.terms import PlayerState, Status, TextId, Texts
from buswork.fsct.wire.uuids import device_uuid, twin_uuid

PLAYING = PlayerState(Status.PLAYING, START, SONG)
TITLE = TextId.CURRENT_TITLE


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def player(driver):
    player = driver.register("player", 1000, "me")
    driver.update_state(player.id, PLAYING)
    return player


@pytest.fixture
def screen(driver, player):
    screen = Screen(driver.add_device(device()))
    screen.steps()
    return screen


def test_fault_1_a_device_that_is_plugged_in_again_is_filled_again(driver, screen):
    driver.remove_device(device_id(1))
    assert Screen(driver.add_device(device())).steps() == shown()


def test_fault_2_one_step_that_fails_holds_up_no_other(driver, player, screen):
    for kind in Kind:
        screen.display.reset()
        screen.broken = {kind}
        assert screen.steps() == shown()
        driver.update_state(player.id, PlayerState(Status.STOPPED, None, Texts("a", "b", "c", "d")))
        later = {name for name, _ in screen.steps()}
        assert later == {other.value for other in Kind} - {kind.value}
        driver.update_state(player.id, PLAYING)
        screen.now += 2 * RETRY_MAX_S
        screen.broken = set()
        screen.steps()
        assert screen.shows == {Kind(name): value for name, value in shown()}


def test_fault_2_a_progress_that_fails_does_not_swallow_the_next_status(driver, player, screen):
    screen.broken = {Kind.PROGRESS}
    driver.update_timeline(player.id, replace(START, update_unix_ms=2**62))
    screen.steps()
    driver.update_status(player.id, Status.PAUSED)
    assert screen.steps() == [("status", Status.PAUSED)]


def test_fault_3_clearing_the_timeline_reaches_the_device(driver, player, screen):
    driver.update_timeline(player.id, None)
    assert screen.steps() == [("progress", None)]


def test_fault_3_a_cleared_timeline_does_not_come_back_when_players_change(driver, player, screen):
    driver.update_timeline(player.id, None)
    screen.steps()
    other = driver.register("other", 1000, "me")
    driver.update_state(other.id, PLAYING)
    driver.prefer(other.id)
    assert screen.steps() == [("progress", START)]
    driver.prefer(player.id)
    assert screen.steps() == [("progress", None)]


def test_fault_4_a_text_of_the_queue_is_refused_and_all_goes_on(driver, player, screen):
    for text_id in [text_id for text_id in TextId if text_id >= TextId.QUEUE_TITLE]:
        with pytest.raises(InvalidArgs):
            driver.update_text(player.id, text_id, "x")
    driver.update_text(player.id, TITLE, "new")
    assert screen.steps() == [("title", "new")]


def test_fault_5_of_two_devices_with_one_serial_each_has_its_own_life(driver, player):
    uuid = device_uuid(0x16C0, 0x0483, "")
    ids = [str(uuid), str(twin_uuid(uuid, "1-2"))]
    screens = [Screen(driver.add_device(replace(device(), id=id_))) for id_ in ids]
    assert [screen.steps() for screen in screens] == [shown(), shown()]
    driver.remove_device(ids[0])
    driver.update_status(player.id, Status.PAUSED)
    assert screens[1].steps() == [("status", Status.PAUSED)]


def test_fault_6_a_player_of_unknown_status_is_shown(driver):
    screen = Screen(driver.add_device(device()))
    player = driver.register("player", 1000, "me")
    assert screen.display.active is player
    assert screen.calls == 1
    driver.update_text(player.id, TITLE, "a")
    assert ("title", "a") in screen.steps()


def test_fault_8_of_600_updates_nothing_is_lost_that_counts(driver, player, screen):
    heard = []
    driver.on_change.append(heard.append)
    for number in range(600):
        driver.update_text(player.id, TITLE, f"t{number}")
    assert screen.steps() == [("title", "t599")]
    assert len(heard) == 600


def test_fault_8_ties_are_decided_the_same_each_time():
    for _ in range(5):
        driver = Driver()
        players = [driver.register(name, 1000, "me") for name in "abcdef"]
        assert driver.add_device(device()).active is players[0]


def test_fault_10_players_end_with_their_client(driver, player, screen):
    driver.release("me")
    assert screen.steps() == BLANK
    with pytest.raises(NoSuchPlayer):
        driver.update_status(player.id, Status.PLAYING)


def test_fault_13_a_device_that_hangs_holds_up_no_other(driver, player, screen):
    other = Screen(driver.add_device(device(2)))
    assert screen.display.next_step(0) is None
    driver.update_text(player.id, TITLE, "new")
    assert screen.display.next_step(0) is not None  # and no answer ever comes
    driver.update_text(player.id, TITLE, "newer")
    assert dict(other.steps())["title"] == "newer"


def test_fault_16_what_a_crash_left_on_a_display_goes(driver):
    screen = Screen(driver.add_device(device()))
    screen.shows = dict.fromkeys(Kind, "left over")
    player = driver.register("player", 1000, "me")
    driver.update_state(player.id, PlayerState(Status.PLAYING, None, Texts("new")))
    screen.steps()
    assert screen.shows == {Kind(name): value for name, value in shown(Texts("new"), timeline=None)}


def test_fault_17_when_the_last_player_goes_the_display_is_cleared(driver, player, screen):
    driver.unregister(player.id)
    assert screen.steps() == BLANK


def test_fault_17_each_device_that_goes_is_told(driver):
    heard = []
    displays = [driver.add_device(device(number)) for number in (1, 2)]
    driver.on_change.append(heard.append)
    for id_ in list(driver.displays):
        driver.remove_device(id_)
    assert heard == [DeviceRemoved(display) for display in displays]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_fails_on_the_way_in_the_end_the_newest_is_shown(driver, seed):
    choice = random.Random(seed)
    screens = [Screen(driver.add_device(device(number))) for number in (1, 2)]
    players = [driver.register(str(number), 1000, "me") for number in range(3)]
    timelines = [None, START, replace(START, rate=0.0), replace(START, position_ms=5)]
    texts = [None, "a", "b", "c"]
    for _ in range(300):
        player, screen = choice.choice(players), choice.choice(screens)
        match choice.randrange(6):
            case 0:
                driver.update_status(player.id, choice.choice(list(Status)))
            case 1:
                driver.update_timeline(player.id, choice.choice(timelines))
            case 2:
                text_id = TextId(choice.randint(1, 4))
                driver.update_text(player.id, text_id, choice.choice(texts))
            case 3:
                screen.broken = set(choice.sample(list(Kind), choice.randrange(4)))
            case 4:
                screen.now += choice.choice([0.1, 1, 10])
            case 5 if choice.random() < 0.1:
                screen.display.reset()
        if choice.random() < 0.5:
            screen.step()
    for screen in screens:
        screen.broken = set()
        screen.now += RETRY_MAX_S
        assert len(screen.steps()) <= 6
        assert (screen.display.next_step(screen.now), screen.display.next_retry()) == (None, None)
        active = screen.display.active
        expected = shown(active.texts, active.status, active.timeline)
        assert screen.shows == {Kind(name): value for name, value in expected}

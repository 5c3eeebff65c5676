from dataclasses import replace

import pytest
from support.displays import (
    BLANK,
    SONG,
    START,
    TEXT_BYTES,
    Screen,
    device,
    shown,
    vectors,
)

from buswork.fsct.model.display import (
    RETRY_FIRST_S,
    RETRY_MAX_S,
    Kind,
    ProgressStep,
    StatusStep,
    TextStep,
)
from buswork.fsct.model.driver import Driver
from buswork.fsct.wire.descriptors import parse_set
from buswork.fsct.wire.requests import Progress
from buswork.fsct.wire.terms import Functionality, PlayerState, Status, TextId, Texts
from buswork.fsct.wire.texts import encode_text

PLAYING = PlayerState(Status.PLAYING, START, SONG)


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def player(driver):
    return driver.register("player", 1000, "me")


@pytest.fixture
def screen(driver, player):
    return Screen(driver.add_device(device()))


# Steps


def test_of_a_new_device_nothing_is_known_so_everything_is_sent_in_order(driver, player, screen):
    driver.update_state(player.id, PLAYING)
    assert screen.steps() == shown()
    assert screen.steps() == []


def test_with_no_player_the_default_state_is_shown(driver):
    assert Screen(driver.add_device(device())).steps() == BLANK


def test_steps_say_what_to_do(driver, player, screen):
    driver.update_state(player.id, PLAYING)
    steps = [screen.step() for _ in Kind]
    assert [type(step) for step in steps] == [StatusStep, ProgressStep] + [TextStep] * 4
    assert [step.text_id for step in steps[2:]] == [1, 2, 3, 4]


def test_a_step_stays_the_next_until_it_is_done(screen):
    step = screen.display.next_step(0)
    assert step is not None
    assert screen.display.next_step(0) == step


def test_only_differences_are_sent(driver, player, screen):
    driver.update_state(player.id, PLAYING)
    screen.steps()
    driver.update_state(player.id, replace(PLAYING, texts=replace(SONG, album="Other")))
    assert screen.steps() == [("album", "Other")]
    driver.update_state(player.id, PLAYING)
    driver.update_state(player.id, replace(PLAYING, texts=replace(SONG, album="Other")))
    assert screen.steps() == []


def test_another_player_is_shown_by_differences_too(driver, player, screen):
    driver.update_state(player.id, PLAYING)
    screen.steps()
    other = driver.register("other", 1000, "me")
    driver.update_state(other.id, replace(PLAYING, texts=replace(SONG, title="Other")))
    assert screen.steps() == []
    driver.unregister(player.id)
    assert screen.steps() == [("title", "Other")]
    driver.unregister(other.id)
    assert screen.steps() == BLANK


def test_another_offset_of_the_wall_clock_is_no_difference(driver, player, screen):
    driver.update_state(player.id, PLAYING)
    step = next(step for step in iter(screen.step, None) if step.kind is Kind.PROGRESS)
    screen.steps()
    player.wall_offset_ms += 3_600_000
    assert screen.steps() == []
    screen.display.reset()
    again = next(step for step in iter(screen.step, None) if step.kind is Kind.PROGRESS)
    assert (again, again.wall_offset_ms) == (step, step.wall_offset_ms + 3_600_000)


def test_what_changes_while_a_step_is_under_way_is_sent_after_it(driver, player, screen):
    screen.steps()
    driver.update_text(player.id, TextId.CURRENT_TITLE, "one")
    step = screen.display.next_step(0)
    driver.update_text(player.id, TextId.CURRENT_TITLE, "two")
    screen.display.done(step)
    assert screen.steps() == [("title", "two")]


@pytest.mark.parametrize(
    ("facts", "kinds"),
    [
        ({"functionality": Functionality(0)}, ["status", "title", "artist", "album", "genre"]),
        ({"functionality": Functionality.PROGRESS, "texts": {}}, ["status", "progress"]),
        ({"coding": None}, ["status", "progress"]),
        ({"texts": {TextId.CURRENT_ALBUM: 0}}, ["status", "progress", "album"]),
        ({"texts": {TextId.QUEUE_TITLE: 64}}, ["status", "progress"]),
        ({"functionality": Functionality(0), "texts": {}, "coding": None}, ["status"]),
    ],
)
def test_a_device_gets_what_it_has_a_place_for(driver, player, facts, kinds):
    driver.update_state(player.id, PLAYING)
    assert Screen(driver.add_device(device(**facts))).kinds() == kinds


def test_after_a_reset_nothing_is_known(driver, player, screen):
    driver.update_state(player.id, PLAYING)
    screen.steps()
    screen.display.reset()
    assert screen.steps() == shown()


def test_after_a_reset_the_order_begins_anew(screen):
    for _ in range(3):
        screen.step()
    screen.display.reset()
    assert screen.step().kind is Kind.STATUS


def test_what_has_become_equal_again_is_not_sent(driver, player, screen):
    driver.update_timeline(player.id, START)
    screen.steps()
    driver.update_timeline(player.id, None)
    driver.update_timeline(player.id, replace(START))
    assert screen.steps() == []


def test_steps_of_before_a_reset_say_nothing(screen):
    step = screen.display.next_step(0)
    screen.display.reset()
    screen.display.done(step)
    assert screen.display.next_step(0).kind is Kind.STATUS
    screen.display.failed(step, 0)
    assert screen.display.next_retry() is None


def test_on_work_is_called_when_what_is_shown_changes(driver, player, screen):
    other = driver.register("other", 1000, "me")
    driver.update_text(other.id, TextId.CURRENT_TITLE, "unseen")
    assert screen.calls == 0
    driver.update_text(player.id, TextId.CURRENT_TITLE, "seen")
    driver.update_text(player.id, TextId.CURRENT_TITLE, "seen")
    assert screen.calls == 1
    driver.update_timeline(player.id, START)
    assert screen.calls == 2
    driver.update_status(other.id, Status.PLAYING)
    assert screen.calls == 3
    driver.release("me")
    assert screen.calls == 4


def test_a_timeline_that_runs_on_reaches_the_device(driver, player, screen):
    driver.update_timeline(player.id, START)
    screen.steps()
    new = replace(START, position_ms=1000, update_unix_ms=START.update_unix_ms + 1000)
    driver.update_timeline(player.id, new)
    assert screen.calls == 2
    assert screen.steps() == [("progress", new)]


# Rounds


def test_a_value_that_always_changes_keeps_none_of_the_others_waiting(driver, player, screen):
    screen.steps()
    driver.update_state(player.id, PLAYING)
    seen = []
    for number in range(12):
        driver.update_status(player.id, Status(number % 5))
        driver.update_timeline(player.id, replace(START, position_ms=number * 1000))
        seen.append(screen.step().kind.value)
    assert seen[:6] == [kind.value for kind in Kind]
    assert seen[6:8] == ["status", "progress"]


def test_the_last_of_a_burst_arrives_within_two_steps(driver, player, screen):
    screen.steps()
    under_way = None
    sent = 0
    for number in range(600):
        driver.update_text(player.id, TextId.CURRENT_TITLE, f"t{number}")
        if number % 50 == 0:
            if under_way is not None:
                screen.display.done(under_way)
            under_way = screen.display.next_step(0)
            sent += 1
    screen.display.done(under_way)
    assert screen.steps() == [("title", "t599")]
    assert sent == 12


# Failures


def test_a_step_that_fails_waits_alone_and_longer_each_time(driver, player, screen):
    driver.update_state(player.id, PLAYING)
    screen.broken = {Kind.ARTIST}
    assert screen.kinds() == ["status", "progress", "title", "artist", "album", "genre"]
    waits = []
    for _ in range(20):
        assert screen.steps() == []
        waits.append(screen.display.next_retry() - screen.now)
        screen.now = screen.display.next_retry()
        assert screen.steps() == [("artist", "Artist")]
    doubled = [RETRY_FIRST_S * 2**n for n in range(6)]
    assert waits == doubled + [RETRY_MAX_S] * 14
    screen.broken = set()
    screen.now = screen.display.next_retry()
    assert screen.steps() == [("artist", "Artist")]
    assert screen.display.next_retry() is None
    assert screen.shows[Kind.ARTIST] == "Artist"


def test_a_value_that_always_changes_and_fails_has_one_turn_in_each_round_too(
    driver, player, screen
):
    screen.broken = {Kind.STATUS}
    seen = []
    for number in range(6):
        driver.update_status(player.id, Status(number % 5))
        seen.append(screen.step().kind)
        screen.now += RETRY_FIRST_S
    assert seen == list(Kind)


def test_a_device_may_fail_for_years(screen):
    step = screen.display.next_step(0)
    for _ in range(3000):
        screen.display.failed(step, 5.0)
    assert screen.display.next_retry() == 5.0 + RETRY_MAX_S


def test_just_before_its_time_a_step_is_not_tried(driver, screen):
    screen.broken = {Kind.STATUS}
    screen.steps()
    screen.now = screen.display.next_retry() - 0.001
    assert screen.steps() == []


def test_a_success_ends_the_waiting(driver, player, screen):
    screen.broken = {Kind.TITLE}
    for _ in range(5):
        screen.steps()
        screen.now = screen.display.next_retry()
    screen.broken = set()
    screen.steps()
    screen.broken = {Kind.TITLE}
    driver.update_text(player.id, TextId.CURRENT_TITLE, "new")
    screen.steps()
    assert screen.display.next_retry() == screen.now + RETRY_FIRST_S


def test_a_new_value_waits_the_shortest_time_only(driver, player, screen):
    screen.broken = {Kind.TITLE}
    for _ in range(6):
        screen.steps()
        screen.now = screen.display.next_retry()
    screen.steps()
    failed_at = screen.now
    driver.update_text(player.id, TextId.CURRENT_TITLE, "new")
    assert screen.steps() == []
    assert screen.display.next_retry() == failed_at + RETRY_FIRST_S
    screen.now = failed_at + RETRY_FIRST_S
    screen.broken = set()
    assert screen.steps() == [("title", "new")]


def test_a_step_that_failed_may_have_been_carried_out_so_its_kind_is_sent_again(
    driver, player, screen
):
    driver.update_text(player.id, TextId.CURRENT_TITLE, "old")
    screen.steps()
    driver.update_text(player.id, TextId.CURRENT_TITLE, "new")
    screen.broken = {Kind.TITLE}
    screen.steps()
    screen.broken = set()
    driver.update_text(player.id, TextId.CURRENT_TITLE, "old")
    screen.now += RETRY_FIRST_S
    assert screen.steps() == [("title", "old")]


def test_a_device_that_refuses_everything_gets_each_kind_once(screen):
    screen.broken = set(Kind)
    assert screen.kinds() == [kind.value for kind in Kind]


def test_a_reset_forgets_failures(screen):
    screen.broken = {Kind.STATUS}
    screen.steps()
    screen.display.reset()
    screen.broken = set()
    assert screen.steps() == BLANK


# What the original sent, as captured


def captured(transfers):
    """By mark: the steps that the transfers of its group are, (kind, what was sent)."""
    groups, group = {}, []
    for entry in transfers:
        if "mark" in entry:
            # The same mark may come twice.
            groups.setdefault(entry["mark"], []).append(group)
            group = []
            continue
        index = int(entry["wIndex"], 16)
        data = bytes.fromhex(entry.get("data_out", ""))
        match entry["bmRequestType"], int(entry["bRequest"], 16):
            case "0x41", 0x04:
                group.append(("status", int(entry["wValue"], 16)))
            case "0x41", 0x03:
                group.append(("progress", Progress.decode(data)[0::3] if data else None))
            case "0x41", 0x10:
                group.append((["title", "artist", "album", "genre"][(index >> 8) - 1], data))
    return groups


def as_sent(steps, descriptors=None):
    """What the captured transfers tell of these steps."""
    sent = []
    for kind, value in steps:
        if kind == "progress":
            # Half a second counts as one, as the payload's own tests say.
            timeline = value and ((value.duration_ms + 500) // 1000, value.rate)
            sent.append((kind, timeline))
        elif kind == "status":
            sent.append((kind, int(value)))
        else:
            text_id = dict(zip(["title", "artist", "album", "genre"], TEXT_BYTES, strict=True))
            most = 64
            coding = 0
            if descriptors is not None:
                most, coding = descriptors.max_bytes(text_id[kind]), descriptors.coding
            sent.append((kind, encode_text(value, coding, most) if value else b""))
    return sent


TITLE, ARTIST, ALBUM, GENRE = TEXT_BYTES
FULL = PlayerState(
    Status.PLAYING,
    replace(START, position_ms=12_345),
    Texts("Title Żółw", "Artist", "Album", "Genre"),
)
FAST = replace(START, position_ms=60_000, rate=2.0)
STILL = replace(START, position_ms=1000, rate=0.0)
FUTURE = replace(START, update_unix_ms=START.update_unix_ms + 5000)
FIRST = "player registered (no state)"
CLEARED = "after timeline nil (partial)"
AHEAD = "after timeline from the future +5 s"
SWALLOWED = "status 1"


def full_actions():
    yield "after full state", "update_state", FULL
    yield "after state with timeline cleared", "update_state", replace(FULL, timeline=None)
    yield "after timeline ago 2500ms rate 2", "update_timeline", FAST
    yield CLEARED, "update_timeline", None
    yield "after timeline rate 0", "update_timeline", STILL
    yield AHEAD, "update_timeline", FUTURE
    for code in (0, 2, 3, 4, 5, 15, 1):
        yield f"status {code}", "update_status", Status(code)
    yield "status 1 again", "update_status", Status.PLAYING
    for text_id, text in [
        (TITLE, "New title"),
        (TITLE, "New title"),
        (ARTIST, "Łódź"),
        (ALBUM, ""),
        (GENRE, None),
        (TITLE, None),
        (TITLE, "x" * 100),
        (ARTIST, "é" * 40),
        (ALBUM, "日本語の音楽アルバム名テスト"),
        (GENRE, "🎵🎶🎼🎹🎷"),
    ]:
        yield f"text {int(text_id)} {text!r}", "update_text", text_id, text


@pytest.mark.parametrize(
    "name",
    [
        "full_utf8",
        "full_utf16",
        "full_ucs2",
        "func_status_only",
        "func_none_no_text",
        "func_with_image_and_queue",
    ],
)
def test_the_steps_of_a_life_are_those_captured(driver, name):
    transfers = vectors("usb_transfers")["scenarios"][name]["transfers"]
    sets = [entry["data_in"] for entry in transfers if entry.get("wValue") == "0x3100"]
    found = parse_set(bytes.fromhex(sets[-1]))
    groups = captured(transfers)
    # No device has room for so much as in these marks; the captures have them shortened.
    marks = {mark[:30]: group for mark, group in groups.items()}
    texts = dict(found.texts) if found.coding is not None else {}
    display = driver.add_device(
        device(functionality=found.functionality, texts=texts, coding=found.coding)
    )
    screen = Screen(display)
    player = driver.register("demo", 1000, "me")
    # The original waits for a reason to look at a player of unknown status.
    assert marks[FIRST[:30]] == [[]]
    assert screen.kinds()[0] == "status"
    has_progress = Functionality.PROGRESS in found.functionality
    for mark, method, *values in full_actions():
        getattr(driver, method)(player.id, *values)
        sent = as_sent(screen.steps(), found)
        expected = marks[mark[:30]].pop(0)
        if has_progress and mark in (CLEARED, AHEAD, SWALLOWED):
            # What the original lost.
            assert expected == []
            assert (
                sent
                == {
                    CLEARED: [("progress", None)],
                    AHEAD: [("progress", (241, 1.0))],
                    SWALLOWED: [("status", 1)],
                }[mark]
            )
        else:
            assert sent == expected, mark
    driver.unregister(player.id)
    assert as_sent(screen.steps(), found) == marks["player unregistered"][0]


def test_scenario_of_a_replug(driver, player):
    first, second = (
        captured(vectors("usb_scenarios")["scenarios"]["hp_basic"][at])
        for at in ("first", "second")
    )
    state = PlayerState(Status.PLAYING, START, Texts("T1", "A", "B", "G"))
    screen = Screen(driver.add_device(device()))
    driver.update_state(player.id, state)
    filled = as_sent(screen.steps())
    assert [filled] == first["state set"]
    driver.remove_device(screen.display.device.id)
    screen = Screen(driver.add_device(device()))
    assert second["replugged, no player change"] == [[]]
    assert as_sent(screen.steps()) == filled
    driver.update_status(player.id, Status.PAUSED)
    assert [as_sent(screen.steps())] == second["status paused"]
    driver.update_text(player.id, TITLE, "T2")
    assert [as_sent(screen.steps())] == second["title T2"]
    moved = replace(START, position_ms=100)
    driver.update_state(player.id, PlayerState(Status.PAUSED, moved, Texts("T2", "A2", "B", "G")))
    assert [as_sent(screen.steps())] == second["full state, artist changed + timeline"]


def test_scenario_of_a_text_that_stalls(driver, player, screen):
    groups = captured(vectors("usb_scenarios")["scenarios"]["text_stall"]["log"])
    screen.broken = {Kind.ARTIST}
    state = PlayerState(Status.PLAYING, None, Texts("T", "A"))
    driver.update_state(player.id, state)
    sent = as_sent(screen.steps())
    # The original stops at the artist.
    assert sent == [*groups["state (artist stalls)"][0], ("album", b""), ("genre", b"")]
    driver.update_state(player.id, replace(state, status=Status.PAUSED))
    # It sends all of it again, up to the artist.
    assert len(groups["state paused"][0]) == 4
    assert as_sent(screen.steps()) == groups["state paused"][0][:1]
    driver.update_text(player.id, ALBUM, "Album")
    assert groups["album partial"] == [[]]
    assert screen.steps() == [("album", "Album")]
    screen.broken = set()
    screen.now = screen.display.next_retry()
    assert screen.steps() == [("artist", "A")]


def test_scenario_of_a_slow_device(driver, player, screen):
    groups = captured(vectors("usb_scenarios")["scenarios"]["slow"]["log"])
    driver.update_status(player.id, Status.PLAYING)
    sent = [screen.step(), screen.step()]
    for number in range(8):
        driver.update_text(player.id, TITLE, f"t{number}")
    sent.append(screen.step())
    (expected,) = groups["10s later"]
    assert as_sent((step.kind.value, step.value) for step in sent) == expected
    assert set(screen.steps()) == {("artist", None), ("album", None), ("genre", None)}


def test_scenario_of_equal_serials(driver, player):
    scenario = vectors("usb_scenarios")["scenarios"]["same_serial"]
    screens = [Screen(driver.add_device(device(number))) for number in (1, 2)]
    driver.update_state(player.id, PlayerState(Status.PLAYING, None, Texts("P1")))
    # To the original, both are one, and only the second gets something.
    assert captured(scenario["A"])["state"] == [[]]
    expected = captured(scenario["B"])["state"][0]
    for screen in screens:
        assert as_sent(screen.steps())[: len(expected)] == expected
    driver.remove_device(screens[0].display.device.id)
    driver.update_status(player.id, Status.PAUSED)
    assert screens[1].steps() == [("status", Status.PAUSED)]

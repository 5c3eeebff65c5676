import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.fakebus import DRIVER, ERROR, FakeBus, Refused
from support.fakeplayers import SECOND, Clock, FakePlayer, Recorder, metadata, track
from support.reference import DESTINATION

from buswork.bus.library import variant
from buswork.fsct import mpris as module
from buswork.fsct import mpris_values
from buswork.fsct.mpris import (
    PATH,
    PLAYER,
    PREFIX,
    PROPERTIES,
    RULES,
    Players,
)
from buswork.fsct.mpris_values import Position, Shown, read_status, read_track
from buswork.fsct.wire.terms import Status, Texts

VECTORS = Path(__file__).parents[1] / "vectors" / "fsct"
PLAYING, PAUSED, STOPPED = (variant("s", word) for word in ("Playing", "Paused", "Stopped"))
M = 1_000_000


@pytest.fixture
async def bus():
    async with FakeBus() as bus:
        bus.answers[DRIVER, "ListNames"] = lambda call: ("as", [[DRIVER, *bus.names]])
        yield bus


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(mpris_values, "time", clock)
    return clock


@pytest.fixture
def sink():
    return Recorder()


@pytest.fixture
async def players(bus, sink, clock):
    players = Players(await bus.connect(), sink)
    yield players
    players.stop()


async def playing(bus, players, sink, **more) -> FakePlayer:
    """A player that plays a track of 240 s, at 60 s."""
    known = {
        "PlaybackStatus": PLAYING,
        "Metadata": track("one"),
        "Position": variant("x", 60 * M),
    }
    player = FakePlayer(bus, "aa", ":1.5", **known | more)
    await players.start()
    await sink.until(lambda: sink.last("aa").texts.title == "one")
    await bus.settle()
    return player


# -- which players there are ---------------------------------------------------------------------


async def test_players_that_are_there_and_those_that_come_and_go(bus, players, sink):
    FakePlayer(bus, "aa", ":1.5")
    bus.names["org.mpris.OtherThing"] = ":1.4"
    await players.start()
    assert sink.log == [("appeared", "aa")]
    second = FakePlayer(bus, "bb.instance7", ":1.6")
    second.appear()
    second.vanish()
    await sink.until(lambda: len(sink.log) == 3)
    assert sink.log[1:] == [("appeared", "bb.instance7"), ("vanished", "bb.instance7")]
    assert len(players) == 1


async def test_three_rules_serve_all_players(bus, players):
    for n in range(20):
        FakePlayer(bus, f"p{n}", f":1.{n}")
    await players.start()
    assert set(bus.matches) == set(RULES)
    assert len(players) == 20


async def test_playerctld_is_no_player(bus, players, sink):
    mirror = FakePlayer(bus, "playerctld", ":1.5")
    FakePlayer(bus, "aa", ":1.6")
    await players.start()
    mirror.appear()
    await bus.settle()
    assert sink.log == [("appeared", "aa")]
    assert bus.calls("GetNameOwner")[0].values == [PREFIX + "aa"]


async def test_a_player_that_goes_while_players_are_listed(bus, players, sink):
    player = FakePlayer(bus, "aa", ":1.5")

    def gone(call):
        player.vanish()  # the bus tells first, and answers then what was true before
        return "s", [":1.5"]

    bus.answers[DRIVER, "GetNameOwner"] = gone
    await players.start()
    assert len(players) == 0
    bus.answers[DRIVER, "GetNameOwner"] = lambda call: ("s", [":1.5"])
    player.appear()
    await sink.until(lambda: sink.log)
    assert sink.log == [("appeared", "aa")]


async def test_another_owner_without_a_gap_is_the_same_player_watched_anew(bus, players, sink):
    old = await playing(bus, players, sink)
    new = FakePlayer(bus, "aa", ":1.6", PlaybackStatus=PAUSED, Metadata=track("two"))
    bus.owner_changed(new.name, old.owner, new.owner)
    await sink.until(lambda: sink.last("aa").texts.title == "two")
    assert sink.log == [("appeared", "aa")]
    assert sink.last("aa").status is Status.PAUSED
    assert Shown() in sink.shown["aa"]  # what the old one did is over
    count = len(sink.shown["aa"])
    old.change(PlaybackStatus=STOPPED, Metadata=track("three"))
    old.seek(1)
    await bus.settle()
    assert len(sink.shown["aa"]) == count


async def test_two_names_of_one_process(bus, players, sink):
    player = FakePlayer(bus, "vlc", ":1.5", Metadata=track("one"))
    bus.names[PREFIX + "vlc.instance12"] = ":1.5"
    await players.start()
    for name in ("vlc", "vlc.instance12"):
        await sink.until(lambda name=name: sink.last(name).texts.title == "one")
    player.change(PlaybackStatus=PLAYING)
    for name in ("vlc", "vlc.instance12"):
        await sink.until(lambda name=name: sink.last(name).status is Status.PLAYING)


async def test_what_others_say_of_a_player_does_not_count(bus, players, sink):
    player = await playing(bus, players, sink)
    count = len(sink.shown["aa"])
    values = [PLAYER, {"PlaybackStatus": STOPPED}, []]
    bus.signal(":1.66", PATH, PROPERTIES, "PropertiesChanged", "sa{sv}as", values)
    bus.signal(":1.66", PATH, PLAYER, "Seeked", "x", [1])
    bus.signal(player.owner, "/other", PLAYER, "Seeked", "x", [1])
    values[0] = "org.mpris.MediaPlayer2"
    bus.signal(player.owner, PATH, PROPERTIES, "PropertiesChanged", "sa{sv}as", values)
    bus.owner_changed(player.name, player.owner, "", sender=":1.66")
    await bus.settle()
    assert len(players) == 1
    assert len(sink.shown["aa"]) == count


async def test_no_more_players_than_have_a_place(bus, players, sink, monkeypatch):
    monkeypatch.setattr(module, "MAX_PLAYERS", 3)
    everybody = [FakePlayer(bus, f"p{n}", f":1.{n + 10}") for n in range(1000)]
    await players.start()
    assert len(players) == 3
    assert len(bus.calls("GetNameOwner")) == 3
    late = FakePlayer(bus, "late", ":1.9")
    late.appear()
    await bus.settle()
    assert len(players) == 3
    everybody[0].vanish()
    await sink.until(lambda: ("appeared", "p3") in sink.log)
    assert len(players) == 3


# -- what they say -------------------------------------------------------------------------------


async def test_all_that_a_player_says_goes_to_its_place(bus, players, sink, clock):
    player = FakePlayer(
        bus,
        "aa",
        ":1.5",
        PlaybackStatus=PLAYING,
        Rate=variant("d", 1.5),
        Position=variant("x", 60 * M),
        Metadata=metadata(
            xesam_title=("s", "Clocks"),
            xesam_artist=("as", ["Coldplay", "Others"]),
            xesam_album=("s", "A Rush of Blood"),
            xesam_genre=("as", ["Rock", "Pop"]),
            mpris_length=("x", 307_000_000),
            mpris_trackid=("o", "/track/1"),
            mpris_artUrl=("s", "file:///cover.jpg"),
        ),
    )
    await players.start()
    await sink.until(lambda: sink.last("aa").texts.title)
    shown = sink.last("aa")
    texts = Texts("Clocks", "Coldplay, Others", "A Rush of Blood", "Rock, Pop")
    assert shown == Shown(Status.PLAYING, Position(60 * M, clock.now, 1.5), 307 * M, texts)
    # It was asked itself, not whoever may have its name by then, and is not started for it.
    ask = bus.calls("Get")[0]
    assert ask.fields[DESTINATION] == player.owner
    assert ask.values == [PLAYER, "Position"]
    assert ask.flags == 2


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (PLAYING, Status.PLAYING),
        (PAUSED, Status.PAUSED),
        (STOPPED, Status.STOPPED),
        (variant("s", "playing"), Status.UNKNOWN),
        (variant("s", ""), Status.UNKNOWN),
        (variant("u", 1), Status.UNKNOWN),
        (variant("as", ["Playing"]), Status.UNKNOWN),
        (None, Status.UNKNOWN),
    ],
)
async def test_statuses(bus, players, sink, said, status):
    assert read_status(said) is status
    player = FakePlayer(bus, "aa", ":1.5", PlaybackStatus=said, Metadata=track("one"))
    await players.start()
    await sink.until(lambda: sink.last("aa").texts.title)
    assert sink.last("aa").status is status
    if said is not None:
        player.change(PlaybackStatus=variant("s", "Buffering"))
        await bus.settle()
        assert sink.last("aa").status is Status.UNKNOWN


async def test_a_player_that_can_not_be_read_is_an_error_until_it_can(
    bus, players, sink, monkeypatch
):
    def refuse():
        raise Refused(ERROR + "Failed")

    player = FakePlayer(bus, "aa", ":1.5", GetAll=refuse)
    await players.start()
    await sink.until(lambda: sink.last("aa").status is Status.ERROR)
    # What it says of its own accord is a reason to ask again.
    player.properties["GetAll"] = None
    player.change(PlaybackStatus=PAUSED)
    await sink.until(lambda: sink.last("aa").status is Status.PAUSED)


async def test_a_player_that_can_not_be_read_is_asked_again_some_time(
    bus, players, sink, monkeypatch
):
    monkeypatch.setattr(module, "PROPERTIES_SECONDS", 0.01)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    player = FakePlayer(bus, "aa", ":1.5", PlaybackStatus=PAUSED)
    answer = bus.answers[":1.5", "GetAll"]
    bus.answers[":1.5", "GetAll"] = lambda call: None  # it hangs
    await players.start()
    await bus.asked("GetAll", 3)
    assert sink.last("aa").status is Status.ERROR
    bus.answers[":1.5", "GetAll"] = answer
    await sink.until(lambda: sink.last("aa").status is Status.PAUSED)
    assert player.name in bus.names


async def test_what_a_player_only_says_has_changed_is_read(bus, players, sink):
    player = await playing(bus, players, sink)
    player.properties |= {"PlaybackStatus": PAUSED, "Metadata": track("two", track_id="/2")}
    player.announce({}, "PlaybackStatus", "Metadata")
    await sink.until(lambda: sink.last("aa").texts.title == "two")
    assert sink.last("aa").status is Status.PAUSED


async def test_what_a_player_no_longer_says_is_gone(bus, players, sink):
    player = await playing(bus, players, sink)
    player.properties |= {"PlaybackStatus": None, "Metadata": None, "Rate": None}
    player.announce({}, "Metadata")
    await sink.until(lambda: sink.last("aa").texts == Texts())
    assert sink.last("aa") == Shown()


async def test_a_player_that_can_no_longer_be_read_is_an_error_whatever_it_jumps(
    bus, players, sink
):
    def refuse():
        raise Refused(ERROR + "Failed")

    player = await playing(bus, players, sink)
    player.properties["GetAll"] = refuse
    player.announce({}, "Metadata")
    await sink.until(lambda: sink.last("aa").status is Status.ERROR)
    player.seek(5 * M)
    await sink.until(lambda: sink.last("aa").position.us == 5 * M)
    assert sink.last("aa").status is Status.ERROR


async def test_players_that_say_nothing_but_nonsense(bus, players, sink, caplog):
    FakePlayer(
        bus,
        "aa",
        ":1.5",
        PlaybackStatus=variant("a{sv}", {}),
        Rate=variant("as", ["x"]),
        Position=variant("s", "here"),
        Metadata=variant("a{sv}", {"xesam:title": variant("(uu)", (1, 2))}),
    )
    player = FakePlayer(bus, "bb", ":1.6", PlaybackStatus=PLAYING, Metadata=track("one"))
    await players.start()
    await sink.until(lambda: sink.last("bb").texts.title == "one")
    for signature, values in (
        ("s", ["x"]),
        ("sa{sv}as", [PLAYER, {"Metadata": variant("u", 7), "Rate": variant("s", "")}, []]),
        ("sa{sv}as", [PLAYER, {"Other": variant("s", "x")}, ["Metadata", "Other"]]),
    ):
        bus.signal(":1.5", PATH, PROPERTIES, "PropertiesChanged", signature, values)
        bus.signal(":1.5", PATH, PLAYER, "Seeked", signature, values)
    bus.signal(":1.5", PATH, PLAYER, "Seeked")
    huge = {f"key{n}": variant("s", "x") for n in range(70_000)}  # more than is read at all
    values = [PLAYER, {"Metadata": variant("a{sv}", huge)}, []]
    bus.signal(":1.5", PATH, PROPERTIES, "PropertiesChanged", "sa{sv}as", values)
    player.change(PlaybackStatus=PAUSED)
    await sink.until(lambda: sink.last("bb").status is Status.PAUSED)
    assert sink.last("aa") == Shown()
    assert not [record for record in caplog.records if record.exc_info]


async def test_an_answer_that_can_not_be_read_is_none(bus, players, sink):
    huge = {f"key{n}": variant("s", "x") for n in range(70_000)}
    FakePlayer(bus, "aa", ":1.5", GetAll=lambda: ("a{sv}", [huge]))
    FakePlayer(bus, "bb", ":1.6", GetAll=lambda: ("", []))
    FakePlayer(bus, "cc", ":1.7", GetAll=lambda: ("u", [1]))
    await players.start()
    for name in ("aa", "bb", "cc"):
        await sink.until(lambda name=name: sink.last(name).status is Status.ERROR)


# -- where they are ------------------------------------------------------------------------------


async def test_a_position_holds_for_the_middle_between_call_and_reply(bus, players, sink, clock):
    def position():
        clock.advance(0.2)  # on its way to the player
        return variant("x", 60 * M)

    FakePlayer(bus, "aa", ":1.5", PlaybackStatus=PLAYING, Metadata=track("one"), Position=position)
    began = clock.now
    await players.start()
    await sink.until(lambda: sink.last("aa").position)
    assert sink.last("aa").position == Position(60 * M, began + SECOND // 10, 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"PlaybackStatus": PAUSED},
        {"Rate": variant("d", 2.0)},
        {"Metadata": track("other title")},
        {"Metadata": track("two", track_id="/2")},
    ],
)
async def test_every_change_that_may_move_it_has_the_position_read_afresh(
    bus, players, sink, change
):
    player = await playing(bus, players, sink)
    player.properties["Position"] = variant("x", 70 * M)
    player.change(**change)
    await sink.until(lambda: sink.last("aa").position.us == 70 * M)
    assert len(bus.calls("Get")) == 2


async def test_nothing_else_does(bus, players, sink):
    player = await playing(bus, players, sink)
    player.change(
        Volume=variant("d", 0.5),
        Metadata=track("one"),  # as it was
        PlaybackStatus=PLAYING,
        Rate=variant("d", 1.0),
        Position=variant("x", 5),  # which nobody may announce
    )
    player.announce({}, "Volume", "CanSeek")
    await bus.settle()
    assert len(bus.calls("Get")) == 1
    assert sink.last("aa").position.us == 60 * M


@pytest.mark.parametrize(
    ("status", "rate", "shown", "moves"),
    [
        (PLAYING, variant("d", 1.5), Status.PLAYING, 1.5),
        (PLAYING, None, Status.PLAYING, 1.0),
        (PAUSED, variant("d", 1.5), Status.PAUSED, 0.0),
        (STOPPED, variant("d", 1.0), Status.STOPPED, 0.0),
        (PLAYING, variant("d", 0.0), Status.PAUSED, 0.0),
    ],
)
async def test_only_what_plays_moves(bus, players, sink, status, rate, shown, moves):
    await playing(bus, players, sink, PlaybackStatus=status, Rate=rate)
    assert sink.last("aa").status is shown
    assert sink.last("aa").position.rate == moves


async def test_a_rate_of_zero_is_paused_and_another_one_plays_on(bus, players, sink):
    player = await playing(bus, players, sink)
    player.change(Rate=variant("d", 0.0))
    await sink.until(lambda: sink.last("aa").status is Status.PAUSED)
    player.change(Rate=variant("d", 1.0))
    await sink.until(lambda: sink.last("aa").status is Status.PLAYING)


async def test_the_status_is_first_the_position_follows(bus, players, sink):
    player = await playing(bus, players, sink)
    before = sink.last("aa")
    player.change(PlaybackStatus=PAUSED, Metadata=track("two", track_id="/2"))
    await sink.until(lambda: sink.last("aa").texts.title == "two")
    status, rest = sink.shown["aa"][-2:]
    assert (status.status, status.texts, status.position) == (
        Status.PAUSED,
        before.texts,
        before.position,
    )
    assert rest.position.rate == 0


async def test_a_jump_is_told_at_once(bus, players, sink, clock):
    player = await playing(bus, players, sink, Position=None)
    assert sink.last("aa").position is None  # nobody knows where it is
    clock.advance(3)
    player.bus.signal(player.owner, PATH, PLAYER, "Seeked", "x", [100 * M])
    await sink.until(lambda: sink.last("aa").position)
    assert sink.last("aa").position == Position(100 * M, clock.now, 1.0)


async def test_after_a_jump_the_position_is_read_too(bus, players, sink):
    player = await playing(bus, players, sink)
    player.bus.signal(player.owner, PATH, PLAYER, "Seeked", "x", [100 * M])
    player.properties["Position"] = variant("x", 100 * M + 5)
    await sink.until(lambda: sink.last("aa").position.us == 100 * M + 5)
    assert sink.shown["aa"][-2].position.us == 100 * M


@pytest.mark.parametrize("fails", [None, "hang", variant("s", "here")])
async def test_without_an_answer_it_goes_on_at_the_rate_that_was_valid(
    bus, players, sink, clock, monkeypatch, fails
):
    player = await playing(bus, players, sink, Rate=variant("d", 2.0))
    monkeypatch.setattr(module, "POSITION_SECONDS", 0.01)
    player.properties["Position"] = fails
    clock.advance(10)
    player.change(PlaybackStatus=PAUSED)
    await sink.until(lambda: sink.last("aa").position.rate == 0)
    assert sink.last("aa").position == Position(80 * M, clock.now, 0.0)
    clock.advance(10)  # in which it stands
    player.change(PlaybackStatus=PLAYING, Rate=variant("d", 1.0))
    await sink.until(lambda: sink.last("aa").position.rate == 1)
    assert sink.last("aa").position == Position(80 * M, clock.now, 1.0)
    clock.advance(1000)
    player.change(PlaybackStatus=PAUSED)
    await sink.until(lambda: sink.last("aa").position.rate == 0)
    assert sink.last("aa").position.us == 240 * M  # where the track ends


@pytest.mark.parametrize(
    ("before", "after", "is_new"),
    [
        (track("one", track_id="/1"), track("one", track_id="/2"), True),
        (track("one", track_id="/1"), track("two", 100, track_id="/1"), False),
        (track("one", track_id=None), track("two", track_id=None), True),
        (track("one", 240, track_id=None), track("one", 100, track_id=None), True),
        (track("one", track_id=None), track("one", track_id="/1"), True),
        (
            metadata(xesam_title=("s", "one"), mpris_length=("x", 240 * M)),
            metadata(
                xesam_title=("s", "one"), mpris_length=("x", 240 * M), xesam_album=("s", "album")
            ),
            False,
        ),
        (
            metadata(xesam_title=("s", "one"), mpris_length=("x", 9), mpris_trackid=("s", "t1")),
            metadata(xesam_title=("s", "one"), mpris_length=("x", 9), mpris_trackid=("s", "t2")),
            True,
        ),
    ],
)
async def test_a_new_track_begins_at_nought(bus, players, sink, clock, before, after, is_new):
    player = await playing(bus, players, sink, Metadata=before)
    expected = 0 if is_new else min(70 * M, read_track(before.value).length_us)
    player.properties["Position"] = None
    clock.advance(10)
    count = len(sink.shown["aa"])
    player.change(Metadata=after)
    await sink.until(lambda: len(sink.shown["aa"]) > count)
    assert sink.last("aa").position == Position(expected, clock.now, 1.0)


async def test_what_was_stopped_begins_at_nought(bus, players, sink, clock):
    player = await playing(bus, players, sink, PlaybackStatus=STOPPED)
    player.properties["Position"] = None
    clock.advance(10)
    player.change(PlaybackStatus=PLAYING)
    await sink.until(lambda: sink.last("aa").position.rate == 1)
    assert sink.last("aa").position == Position(0, clock.now, 1.0)


async def test_a_player_that_still_answers_the_old_position_is_asked_again(
    bus, players, sink, monkeypatch
):
    monkeypatch.setattr(module, "SECOND_LOOK_SECONDS", 0.01)
    player = await playing(bus, players, sink)

    def position():
        player.properties["Position"] = variant("x", 0)
        return variant("x", 200 * M)

    player.properties["Position"] = position
    player.change(Metadata=track("two", track_id="/2"))
    await sink.until(lambda: sink.last("aa").texts.title == "two")
    assert sink.last("aa").position.us == 200 * M
    await sink.until(lambda: sink.last("aa").position.us == 0)


async def test_a_second_look_that_finds_nothing_new_is_not_told(
    bus, players, sink, clock, monkeypatch
):
    monkeypatch.setattr(module, "SECOND_LOOK_SECONDS", 0.0)
    player = await playing(bus, players, sink)
    began = clock.now

    def position():
        clock.advance(0.1)  # on its way; so it is not quite where it was expected
        return variant("x", (clock.now - began) // 1000)

    player.properties["Position"] = position
    player.change(Metadata=track("two", track_id="/2"))
    await bus.asked("Get", 3)
    await bus.settle()
    assert [shown.texts.title for shown in sink.shown["aa"]].count("two") == 1
    # Unlike what is found after a change, however little it is.
    monkeypatch.setattr(module, "SECOND_LOOK_SECONDS", 1000.0)
    player.properties["Position"] = variant("x", sink.last("aa").position.us + 20_000)
    clock.now = sink.last("aa").position.at_ns
    player.change(PlaybackStatus=PAUSED)
    await sink.until(lambda: sink.last("aa").position.rate == 0)
    assert sink.last("aa").position.us == player.properties["Position"].value


async def test_the_second_look_is_that_of_the_last_track(bus, players, sink, monkeypatch):
    monkeypatch.setattr(module, "SECOND_LOOK_SECONDS", 0.05)
    player = await playing(bus, players, sink)
    for n in range(2, 10):
        player.change(Metadata=track(f"t{n}", track_id=f"/{n}"))
    await sink.until(lambda: sink.last("aa").texts.title == "t9")
    looked = len(bus.calls("Get"))
    await bus.asked("Get", looked + 1)
    await bus.settle()
    assert len(bus.calls("Get")) == looked + 1


async def test_without_a_length_there_is_no_timeline(bus, players, sink):
    radio = metadata(xesam_title=("s", "one"), mpris_trackid=("o", "/1"))
    player = await playing(bus, players, sink, Metadata=radio)
    assert sink.last("aa").position is None
    assert sink.last("aa").timeline() is None
    player.change(Metadata=track("one"))
    await sink.until(lambda: sink.last("aa").position)
    assert sink.last("aa").position.us == 60 * M
    player.change(Metadata=track("one", 0))
    await sink.until(lambda: sink.last("aa").position is None)


async def test_one_question_at_a_time_however_much_a_player_says(bus, players, sink, monkeypatch):
    monkeypatch.setattr(module, "MAX_SIGNALS", 10_000)
    player = await playing(bus, players, sink)
    player.properties["Position"] = "hang"
    for n in range(500):
        player.change(Metadata=track(f"t{n}", track_id=f"/{n}"))
        player.seek(n)
        player.properties["Position"] = "hang"
    await bus.settle()
    question = bus.calls("Get")[-1]
    assert len(bus.calls("Get")) == 2
    player.properties["Position"] = variant("x", 7 * M)
    bus.reply(question, "v", [variant("x", 5 * M)])
    await sink.until(lambda: sink.last("aa").position.us == 7 * M)
    assert sink.last("aa").texts.title == "t499"
    assert len(bus.calls("Get")) == 3


async def test_of_a_flood_some_signals_are_read_and_then_the_newest(
    bus, players, sink, monkeypatch
):
    monkeypatch.setattr(module, "FLOOD_SECONDS", 3600)
    player = await playing(bus, players, sink)
    reads = []
    monkeypatch.setattr(module, "read_track", lambda value: reads.append(0) or read_track(value))
    for n in range(1, 1001):
        player.change(Metadata=track(f"t{n}", track_id=f"/{n}"))
        player.change(PlaybackStatus=PAUSED if n % 2 else PLAYING)
        player.seek(n * M)
    await bus.settle()
    assert len(reads) <= module.MAX_SIGNALS
    assert sink.last("aa").texts.title == f"t{-(-module.MAX_SIGNALS // 3)}"
    (watch,) = players._watches.values()
    watch._catch_up()  # the time is over
    await sink.until(lambda: sink.last("aa").texts.title == "t1000")
    await sink.until(lambda: sink.last("aa").position.us == 1000 * M)
    assert sink.last("aa").status is Status.PLAYING
    assert len(bus.calls("GetAll")) == 2
    # And then it is heard as before.
    player.change(Metadata=track("quiet again"))
    await sink.until(lambda: sink.last("aa").texts.title == "quiet again")
    watch._catch_up()
    await bus.settle()
    assert len(bus.calls("GetAll")) == 2


async def test_a_flood_that_does_not_end(bus, players, sink, monkeypatch):
    monkeypatch.setattr(module, "FLOOD_SECONDS", 0.001)
    player = await playing(bus, players, sink)
    for n in range(500):
        player.change(Metadata=track(f"t{n}", track_id=f"/{n}"))
        if not n % 100:
            await bus.settle()
    await sink.until(lambda: sink.last("aa").texts.title == "t499")


async def test_the_flood_of_one_player_is_none_of_another(bus, players, sink, monkeypatch):
    monkeypatch.setattr(module, "FLOOD_SECONDS", 3600)
    other = FakePlayer(bus, "bb", ":1.6", PlaybackStatus=PLAYING, Metadata=track("one"))
    player = await playing(bus, players, sink)
    for n in range(100):
        player.change(Metadata=track(f"t{n}", track_id=f"/{n}"))
    other.change(PlaybackStatus=PAUSED)
    await sink.until(lambda: sink.last("bb").status is Status.PAUSED)


async def test_when_the_bus_ends_nothing_is_left_behind(bus, players, sink, caplog):
    player = await playing(bus, players, sink)
    player.properties["Position"] = "hang"
    player.change(PlaybackStatus=PAUSED)
    await bus.asked("Get", 2)
    bus.hang_up()
    await players._connection.closed
    players.stop()
    assert not [record for record in caplog.records if record.exc_info]


# -- as it was recorded --------------------------------------------------------------------------


def _variant(name, value):
    if name == "Metadata":
        types = {"mpris:length": "x", "mpris:trackid": "o"}
        fields = {key: variant(types.get(key, "s"), text) for key, text in value.items()}
        return variant("a{sv}", fields)
    if isinstance(value, bool):
        return variant("b", value)
    return variant("d" if isinstance(value, float) else "s", value)


async def test_mpv_as_it_was_recorded(bus, players, sink, clock):
    recorded = json.loads((VECTORS / "mpris_mpv_sample.json").read_text())
    said = dict(recorded["get_all_player"])
    said["Metadata"] = ["a{sv}", {k: variant(*v) for k, v in said["Metadata"][1].items()}]
    name = recorded["bus_name"].removeprefix(PREFIX)
    properties = {key: variant(*value) for key, value in said.items()}
    began = clock.now
    at = SimpleNamespace(us=0.0, since=0.0, rate=1.0)  # the film itself

    def position():
        now = (clock.now - began) / SECOND
        return variant("x", int(at.us + (now - at.since) * at.rate * M))

    def move(rate, us=None):
        at.us = position().value if us is None else us
        at.since, at.rate = (clock.now - began) / SECOND, rate

    player = FakePlayer(bus, name, ":1.5", **properties | {"Position": position})
    await players.start()
    await sink.until(lambda: sink.last("mpv").texts.title)
    assert sink.last("mpv").texts == Texts("a.wav")
    assert sink.last("mpv").length_us == 60 * M
    rate = 1.0
    for seconds, what, *value in recorded["events"]:
        clock.now = began + int(seconds * SECOND)
        if what == "Seeked":
            move(at.rate, value[0])
            player.bus.signal(":1.5", PATH, PLAYER, "Seeked", "x", value)
        elif what == "PropertiesChanged":
            rate = value[0].get("Rate", rate)
            status = value[0].get("PlaybackStatus", player.properties["PlaybackStatus"].value)
            move(rate if status == "Playing" else 0.0)
            changed = {key: _variant(key, said) for key, said in value[0].items()}
            player.announce(changed)
            player.properties |= {
                key: changed[key] for key in ("Rate", "PlaybackStatus") if key in changed
            }
        else:
            continue
        await bus.settle()
        shown = sink.last("mpv")
        assert shown.status is read_status(player.properties["PlaybackStatus"])
        assert shown.position.rate == (rate if shown.status is Status.PLAYING else 0.0)
        here = shown.position.us_at(clock.now, shown.length_us)
        assert abs(here - position().value) < 1000, (seconds, what)
    assert shown.status is Status.STOPPED

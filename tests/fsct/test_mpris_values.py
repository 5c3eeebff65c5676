"""Tests of buswork.fsct.mpris_values."""

import math

import pytest
from support.fakeplayers import SECOND, Clock

from buswork.bus.library import variant
from buswork.fsct import mpris_values as module
from buswork.fsct.mpris_values import (
    MAX_NAMES,
    MAX_TEXT_CHARACTERS,
    Position,
    Shown,
    Track,
    read_microseconds,
    read_rate,
    read_text,
    read_track,
)
from buswork.fsct.wire.terms import MAX_RATE, Status, Timeline


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (variant("s", "one"), "one"),
        (variant("s", ""), None),
        (variant("as", ["one", "two"]), "one, two"),
        (variant("as", ["", "two", ""]), "two"),
        (variant("as", []), None),
        (variant("av", [variant("s", "one"), variant("u", 2)]), "one"),
        (variant("v", variant("s", "one")), "one"),
        (variant("u", 5), None),
        (variant("ay", b"bytes"), None),
        (variant("a{sv}", {"one": variant("s", "two")}), None),
        (None, None),
        (variant("s", "x" * 100_000), "x" * MAX_TEXT_CHARACTERS),
        (variant("as", ["x" * 100_000] * 100), "x" * MAX_TEXT_CHARACTERS),
        (variant("as", ["x"] * 1000), ", ".join(["x"] * MAX_NAMES)),
    ],
)
def test_texts(value, text):
    assert read_text(value) == text


def test_an_artist_is_that_of_the_track_or_else_that_of_the_album():
    album = variant("as", ["Various"])
    for artist, expected in (
        (variant("as", ["One"]), "One"),
        (variant("s", "One"), "One"),
        (variant("as", []), "Various"),
        (variant("u", 1), "Various"),
    ):
        said = {"xesam:artist": artist, "xesam:albumArtist": album}
        assert read_track(said).texts.artist == expected
    assert read_track({"xesam:albumArtist": album}).texts.artist == "Various"


def test_a_genre_is_a_list_or_a_text():
    for genre in (variant("as", ["Rock", "Pop"]), variant("s", "Rock, Pop")):
        assert read_track({"xesam:genre": genre}).texts.genre == "Rock, Pop"


@pytest.mark.parametrize(
    ("value", "us"),
    [
        *((variant(type_, 240), 240) for type_ in "xtiuqn"),
        (variant("d", 240.9), 240),
        (variant("x", -5), 0),
        (variant("t", 2**64 - 1), 2**63 - 1),
        (variant("d", 1e300), 2**63 - 1),
        (variant("d", math.nan), None),
        (variant("d", math.inf), None),
        (variant("b", True), None),
        (variant("s", "240"), None),
        (None, None),
    ],
)
def test_microseconds_of_any_type(value, us):
    assert read_microseconds(value) == us
    assert read_track({"mpris:length": value}).length_us == (us or None)


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        (variant("d", 1.5), 1.5),
        (variant("d", 0.0), 0.0),
        (variant("d", -1.0), -1.0),
        (variant("i", 2), 2.0),
        (None, 1.0),
        (variant("s", "fast"), 1.0),
        (variant("b", True), 1.0),
        (variant("d", math.nan), 1.0),
        (variant("d", math.inf), 1.0),
        (variant("d", 1e308), 1.0),
        (variant("d", MAX_RATE), MAX_RATE),
    ],
)
def test_rates(value, rate):
    assert read_rate(value) == rate


@pytest.mark.parametrize("value", [None, variant("s", "x"), variant("as", []), variant("u", 1)])
def test_metadata_that_is_none(value):
    assert read_track(value) == Track()


def test_a_timeline_is_in_the_terms_of_the_wall_clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    at = clock.now
    clock.advance(2)
    shown = Shown(Status.PLAYING, Position(61_234_567, at, 1.5), 240_999_999)
    assert shown.timeline() == Timeline(61_234, 1_700_000_000_000, 240_999, 1.5)
    clock.wall += 3600 * SECOND  # it was set
    assert shown.timeline().update_unix_ms == 1_700_003_600_000
    assert shown.state().timeline == shown.timeline()

import math
import time
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.displays import START

from buswork.fsct.model.players import (
    MAX_TEXT_BYTES,
    RUNNING_TOLERANCE_MS,
    Player,
    kept_text,
    kept_texts,
    runs_on,
    wall_offset_ms,
)
from buswork.fsct.wire.terms import Texts


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (None, None),
        ("", None),
        ("a", "a"),
        ("12345678", "12345678"),
        ("123456789", "12345678"),
        ("żółwik", "żółwi"),
        ("1234567ż", "1234567"),
        ("🎵🎶", "🎵🎶"),
        ("1🎵🎶", "1🎵"),
        ("a\0b", "a\0b"),
    ],
)
def test_what_is_kept_of_a_text(text, kept):
    assert kept_text(text, 8) == kept


def test_a_text_of_which_not_one_character_fits_is_none():
    assert kept_text("🎵", 3) is None


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(4, 20))
def test_a_text_is_cut_before_the_first_character_that_does_not_fit(text, limit):
    kept = kept_text(text, limit)
    assert text.startswith(kept)
    assert len(kept.encode()) <= limit
    if kept != text:
        assert len(text[: len(kept) + 1].encode()) > limit


def test_a_title_of_three_megabytes_is_taken():
    assert kept_text("x" * 3 * 2**20) == "x" * MAX_TEXT_BYTES


def test_each_of_the_texts_is_cut():
    assert kept_texts(Texts("12345", "", None, "1234"), 4) == Texts("1234", None, None, "1234")


def later(ms, **members):
    return replace(START, update_unix_ms=START.update_unix_ms + ms, **members)


@pytest.mark.parametrize(
    ("new", "answer"),
    [
        (START, True),
        (later(10_000, position_ms=10_000), True),
        (later(10_000, position_ms=10_000 + RUNNING_TOLERANCE_MS), True),
        (later(10_000, position_ms=10_001 + RUNNING_TOLERANCE_MS), False),
        (later(10_000, position_ms=9_999 - RUNNING_TOLERANCE_MS), False),
        (later(10_000), False),
        (later(10_000, position_ms=10_000, rate=2.0), False),
        (later(10_000, position_ms=10_000, duration_ms=1), False),
        (None, False),
    ],
)
def test_a_timeline_that_runs_on(new, answer):
    assert runs_on(START, new) is answer
    assert runs_on(new, START) is answer


def test_a_paused_timeline_stands_still():
    paused = replace(START, rate=0.0)
    assert runs_on(paused, later(10**9, rate=0.0))


@pytest.mark.parametrize("rate", [math.inf, -math.inf, math.nan, 3e38])
def test_no_rate_is_too_strange_to_compare(rate):
    strange = replace(START, rate=rate)
    far = replace(strange, update_unix_ms=2**63 - 1, position_ms=2**63 - 1)
    assert runs_on(strange, far) is False


def test_none_runs_on_as_none():
    assert runs_on(None, None)


HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("offset_ms", "moved_ms"),
    [
        (7, 0),
        (7 + RUNNING_TOLERANCE_MS, 0),
        (7 - RUNNING_TOLERANCE_MS, 0),
        (8 + RUNNING_TOLERANCE_MS, 1 + RUNNING_TOLERANCE_MS),
        (7 + HOUR_MS, HOUR_MS),
        (7 - HOUR_MS, -HOUR_MS),
    ],
)
def test_a_timeline_goes_with_a_wall_clock_that_is_set(offset_ms, moved_ms):
    player = Player(1, "p", 1000, "me", 1, True, timeline=START, wall_offset_ms=7)
    assert player.timeline_by(offset_ms) == later(moved_ms)
    assert player.timeline is START


@pytest.mark.parametrize(("edge", "step_ms"), [(2**63 - 1, HOUR_MS), (-(2**63), -HOUR_MS)])
def test_it_goes_no_further_than_there_are_numbers(edge, step_ms):
    timeline = replace(START, update_unix_ms=edge)
    player = Player(1, "p", 1000, "me", 1, True, timeline=timeline)
    assert player.timeline_by(step_ms) == timeline


def test_no_timeline_is_none_at_any_time():
    assert Player(1, "p", 1000, "me", 1, True).timeline_by(HOUR_MS) is None


def test_the_offset_of_the_wall_clock():
    with (
        mock.patch.object(time, "time_ns", return_value=90_000_000),
        mock.patch.object(time, "monotonic_ns", return_value=20_000_000),
    ):
        assert wall_offset_ms() == 70

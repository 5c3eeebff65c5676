"""Tests of buswork.flipper.model.events."""

from itertools import pairwise

import pytest
from flipper.model.bench import Carbon, Fvm, run_job
from hypothesis import given
from hypothesis import strategies as st

from buswork.errors import InvalidArgs, LimitsExceeded
from buswork.flipper.model.events import (
    MAX_SUBSCRIPTIONS,
    MAX_SUBSCRIPTIONS_OF_OWNER,
    MAX_SUBSCRIPTIONS_OF_UID,
    Event,
    Kind,
    Polls,
    Source,
    check_source,
    parse_source,
    reading,
)
from buswork.flipper.model.processors import Processors
from buswork.flipper.wire.errors import BoardError
from buswork.flipper.wire.exchanges import Answer
from buswork.flipper.wire.results import Result
from buswork.flipper.wire.terms import BadValue, Generation

BUTTON, USART = Source(Kind.BUTTON), Source(Kind.USART)
PINS, OTHER_PINS = Source(Kind.GPIO, 0x0F), Source(Kind.GPIO, 0xF0)


# -- sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source", "shown"),
    [
        ("button", BUTTON, "button"),
        ("uart0", Source(Kind.UART0), "uart0"),
        ("usart", USART, "usart"),
        ("gpio:16", Source(Kind.GPIO, 16), "gpio:0x10"),
        ("gpio:0x10", Source(Kind.GPIO, 16), "gpio:0x10"),
        ("gpio:0XffffFFFF", Source(Kind.GPIO, 2**32 - 1), "gpio:0xffffffff"),
    ],
)
def test_what_can_be_watched(text, source, shown):
    assert parse_source(text) == source
    assert str(source) == shown
    assert parse_source(shown) == source


@pytest.mark.parametrize(
    "text",
    ["", "led", "Button", "button:", "button:1", "gpio", "gpio:", "gpio:0", "gpio:-1", "gpio:x",
     "gpio:0x", "gpio:4294967296", "gpio:0x100000000", "gpio:1_0", "gpio: 1", "gpio:\u0663",
     "gpio:0b1", "gpio:1:2", "x" * 10_000],
)  # fmt: skip
def test_what_can_not(text):
    with pytest.raises(InvalidArgs) as caught:
        parse_source(text)
    assert len(str(caught.value)) < 200


def test_who_asks_for_something_else_is_told_what_there_is():
    with pytest.raises(InvalidArgs, match=r"'led'; there are button, uart0, usart and gpio:MASK"):
        parse_source("led")


@given(st.text(max_size=20))
def test_whatever_is_asked_for_is_a_source_or_an_error(text):
    try:
        source = parse_source(text)
    except InvalidArgs:
        return
    assert parse_source(str(source)) == source


@pytest.mark.parametrize("interval", [0, 9, 60_001, -1])
def test_intervals_have_their_range(interval):
    with pytest.raises(InvalidArgs, match="10 to 60000 milliseconds"):
        Polls().subscribe("one", 1, BUTTON, interval)


# -- when what is read ---------------------------------------------------------------------------


def polled(polls, until, values=lambda source, now: 1, only=None):
    """What was read when, and what was told, until then."""
    read, told = [], []
    while (now := polls.next_poll(only)) is not None:
        now = max(now, 0.0)
        if now >= until:
            break
        for source in polls.due(now, only):
            read.append((round(now, 3), source))
            told += [(round(now, 3), event) for event in polls.polled(source, values(source, now))]
    return read, told


def test_nothing_is_read_for_nobody():
    assert Polls().next_poll() is None
    assert Polls().due(0.0) == []


def test_it_is_read_as_often_as_was_asked():
    polls = Polls()
    polls.subscribe("one", 1, BUTTON, 100)
    read, told = polled(polls, 0.45)
    assert read == [(at / 10, BUTTON) for at in range(5)]
    # The first value is told, and then only what is new.
    assert told == [(0.0, Event("one", BUTTON, 1, None))]


def test_for_all_that_watch_one_thing_it_is_read_once():
    polls = Polls()
    for owner in range(20):
        polls.subscribe(owner, 1, BUTTON, 100)
    polls.subscribe("slow", 1, BUTTON, 250)
    read, told = polled(polls, 0.95)
    assert len(read) == 10
    assert len(told) == 21


@given(st.lists(st.integers(10, 500), min_size=1, max_size=5))
def test_nobody_is_told_more_often_than_asked_nor_is_it_read_more_often(intervals):
    polls = Polls()
    for owner, interval in enumerate(intervals):
        polls.subscribe(owner, 1, BUTTON, interval)
    values = iter(range(100_000))
    read, told = polled(polls, 2.0, lambda source, now: next(values))
    times = [at for at, _ in read]
    fastest = min(intervals) / 1000
    assert all(b - a > fastest - 0.002 for a, b in pairwise(times))
    for owner, interval in enumerate(intervals):
        mine = [at for at, event in told if event.owner == owner]
        gaps = [b - a for a, b in pairwise(mine)]
        assert all(gap > interval / 1000 - 0.002 for gap in gaps)
        # And never is one that came in time left out.
        assert all(gap < interval / 1000 + fastest + 0.002 for gap in gaps)
        assert mine[0] == 0.0


def test_what_changed_is_told_with_what_it_was():
    polls = Polls()
    polls.subscribe("one", 1, BUTTON, 100)
    values = {0.0: 0, 0.1: 0, 0.2: 1, 0.3: 1, 0.4: 0}
    _, told = polled(polls, 0.45, lambda source, now: values[round(now, 1)])
    assert told == [
        (0.0, Event("one", BUTTON, 0, None)),
        (0.2, Event("one", BUTTON, 1, 0)),
        (0.4, Event("one", BUTTON, 0, 1)),
    ]


def test_pins_are_read_together_and_told_apart():
    polls = Polls()
    polls.subscribe("one", 1, PINS, 100)
    polls.subscribe("two", 1, OTHER_PINS, 100)
    values = {0.0: 0x11, 0.1: 0x21, 0.2: 0x22}
    read, told = polled(polls, 0.25, lambda source, now: values[round(now, 1)])
    assert {source for _, source in read} == {Source(Kind.GPIO, 0xFF)}
    assert told == [
        (0.0, Event("one", PINS, 0x01, None)),
        (0.0, Event("two", OTHER_PINS, 0x10, None)),
        (0.1, Event("two", OTHER_PINS, 0x20, 0x10)),
        (0.2, Event("one", PINS, 0x02, 0x01)),
    ]


def test_several_things_have_a_schedule_of_their_own():
    polls = Polls()
    polls.subscribe("one", 1, BUTTON, 100)
    polls.subscribe("one", 1, USART, 250)
    read, _ = polled(polls, 0.55)
    assert [at for at, source in read if source == BUTTON] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert [at for at, source in read if source == USART] == [0.0, 0.25, 0.5]


def test_what_is_being_read_is_not_asked_for_again():
    polls = Polls()
    polls.subscribe("one", 1, BUTTON, 100)
    assert polls.due(0.0) == [BUTTON]
    assert polls.next_poll() is None
    assert polls.due(5.0) == []
    assert polls.polled(BUTTON, 1)
    assert polls.next_poll() == pytest.approx(0.1)


def test_a_new_one_has_its_first_value_soon():
    polls = Polls()
    polls.subscribe("one", 1, BUTTON, 60_000)
    polled(polls, 0.1)
    assert polls.next_poll() == 60.0
    polls.subscribe("two", 1, BUTTON, 60_000)
    assert polls.next_poll() == pytest.approx(0.01)
    polls.due(1.0)
    assert polls.polled(BUTTON, 1) == [Event("two", BUTTON, 1, None)]
    assert polls.next_poll() == 61.0


def test_a_subscription_that_came_while_less_was_read_waits():
    polls = Polls()
    polls.subscribe("one", 1, PINS, 100)
    (source,) = polls.due(0.0)
    polls.subscribe("two", 1, OTHER_PINS, 100)
    assert polls.polled(source, 0x0A) == [Event("one", PINS, 0x0A, None)]
    (source,) = polls.due(0.1)
    assert polls.polled(source, 0xAA) == [Event("two", OTHER_PINS, 0xA0, None)]


def test_who_asks_again_has_another_interval():
    polls = Polls()
    polls.subscribe("one", 1, BUTTON, 100)
    polled(polls, 0.05)
    polls.subscribe("one", 1, BUTTON, 300)
    assert polls.subscribers() == [("one", 1, BUTTON)]
    read, told = polled(polls, 0.95)
    assert [at for at, _ in read] == [0.3, 0.6, 0.9]
    assert told == []


def test_what_can_not_be_read_is_tried_again_less_and_less_often():
    polls = Polls()
    polls.subscribe("one", 1, BUTTON, 100)
    times = []
    for _ in range(8):
        at = polls.next_poll()
        times.append(max(at, 0.0))
        assert polls.due(times[-1]) == [BUTTON]
        polls.failed(BUTTON)
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps == [1, 2, 4, 8, 16, 30, 30]
    polls.due(polls.next_poll())
    assert polls.polled(BUTTON, 1) == [Event("one", BUTTON, 1, None)]
    assert polls.next_poll() == pytest.approx(times[-1] + 30.1)


def test_a_slow_one_that_fails_does_not_get_faster():
    polls = Polls()
    polls.subscribe("one", 1, BUTTON, 60_000)
    polled(polls, 0.05)
    polls.due(60.0)
    polls.failed(BUTTON)
    assert polls.next_poll() == 120.0


# -- who comes and goes --------------------------------------------------------------------------


def test_with_the_last_one_reading_ends():
    polls = Polls()
    polls.subscribe("one", 1, BUTTON, 100)
    polls.subscribe("two", 2, BUTTON, 100)
    polls.due(0.0)
    polls.unsubscribe("one", BUTTON)
    assert polls.polled(BUTTON, 1) == [Event("two", BUTTON, 1, None)]
    polls.due(1.0)
    polls.unsubscribe("two", BUTTON)
    assert polls.polled(BUTTON, 0) == []
    polls.failed(BUTTON)
    assert polls.next_poll() is None
    with pytest.raises(InvalidArgs, match="not subscribed to button"):
        polls.unsubscribe("one", BUTTON)


def test_who_comes_back_begins_anew():
    polls = Polls()
    polls.subscribe("one", 1, BUTTON, 100)
    polled(polls, 0.05)
    polls.unsubscribe("one", BUTTON)
    polls.subscribe("one", 1, BUTTON, 100)
    _, told = polled(polls, 0.05)
    assert told == [(0.01, Event("one", BUTTON, 1, None))]


def test_what_fails_is_not_tried_more_often_for_who_comes_back():
    polls = Polls()
    polls.subscribe("one", 1, BUTTON, 10)
    polls.due(0.0)
    polls.failed(BUTTON)
    polls.unsubscribe("one", BUTTON)
    polls.subscribe("one", 1, BUTTON, 10)
    assert polls.next_poll() == 1.0


def test_only_so_many_subscribe():
    polls = Polls()
    for number in range(MAX_SUBSCRIPTIONS_OF_OWNER):
        polls.subscribe("one", 1, Source(Kind.GPIO, number + 1), 100)
    with pytest.raises(LimitsExceeded, match="You have 64 subscriptions"):
        polls.subscribe("one", 1, BUTTON, 100)
    polls.subscribe("one", 1, Source(Kind.GPIO, 1), 200)
    for number in range(MAX_SUBSCRIPTIONS_OF_UID - MAX_SUBSCRIPTIONS_OF_OWNER):
        polls.subscribe(number, 1, BUTTON, 100)
    with pytest.raises(LimitsExceeded, match="and all your programs 128"):
        polls.subscribe("another", 1, BUTTON, 100)
    for uid in range(2, 2 + MAX_SUBSCRIPTIONS - MAX_SUBSCRIPTIONS_OF_UID):
        polls.subscribe(("of", uid), uid, BUTTON, 100)
    with pytest.raises(LimitsExceeded, match="This board has 1024"):
        polls.subscribe("two", 2, PINS, 100)


def test_of_a_claimed_board_its_owner_alone_has_things_read():
    polls = Polls()
    polls.subscribe("one", 1, PINS, 100)
    polls.subscribe("two", 1, OTHER_PINS, 50)
    polls.subscribe("two", 1, BUTTON, 50)
    read, told = polled(polls, 0.25, only="one")
    assert read == [(0.0, PINS), (0.1, PINS), (0.2, PINS)]
    assert [event.owner for _, event in told] == ["one"]
    assert polls.next_poll("three") is None


# -- the reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("on_usb", [True, False])
@pytest.mark.parametrize("generation", Generation)
@pytest.mark.parametrize("text", ["button", "gpio:0x30", "uart0", "usart"])
def test_reading_is_a_call_of_the_board(generation, on_usb, text):
    if on_usb and generation is Generation.G2:
        return
    processors, source = Processors(generation, on_usb), parse_source(text)
    check_source(processors, source)
    asked = []

    def answer(exchange):
        asked.append(exchange.request)
        return Answer(Result(0x10 if text == "gpio:0x30" else 1))

    line = Carbon(on_u2=answer, on_s4=answer) if on_usb else Fvm(answer)
    job = reading(processors, source)
    if on_usb:  # it is set up for FMR first
        line._on_u2 = lambda exchange: (
            Answer(Result(0)) if exchange.request[:2] == (3, 0) else answer(exchange)
        )
    assert run_job(job, line) == (0x10 if text == "gpio:0x30" else 1)
    (request,) = asked
    module = processors.modules[source.kind]
    assert request.module == module.index
    assert module.at(request.function).name == ("ready" if "art" in text else "read")
    assert [value for _, value in request.arguments] == ([0x30] if source.mask else [])


def test_what_a_board_has_not_got_can_not_be_read():
    processors = Processors(Generation.G2, on_usb=False)
    processors.has_only({"led": 0})
    with pytest.raises(BadValue, match="no module 'button'"):
        check_source(processors, BUTTON)


def test_an_error_of_the_board_is_one():
    processors = Processors(Generation.G1, on_usb=False)
    with pytest.raises(BoardError, match="E_TIMER"):
        run_job(reading(processors, BUTTON), Fvm(lambda exchange: Answer(Result(0, 24))))

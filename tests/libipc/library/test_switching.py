"""The rules of a switch, between two ends that do as they are told."""

import asyncio

import pytest

from buswork.libipc.errors import QueueFull
from buswork.libipc.library import switching
from buswork.libipc.library.switching import Code, Switch, Switched, Unswitched, carry
from buswork.libipc.wire.forms import BadMessage, Form, Message, most_announced, most_payload

ONE, TWO, THREE = (Message(text, 7) for text in (b"one", b"two", b"three"))


class Fake:
    """Holds what it is given until `leave`."""

    def __init__(self, subject, form=Form.C, bound=2):
        self.subject = subject
        self.form = form
        self.bound = bound
        self.held = []
        self.reading = None
        self.closed = 0
        self.dies_of_it = False
        self.refuses = False
        self.side = None

    @property
    def full(self):
        return len(self.held) >= self.bound

    @property
    def empty(self):
        return not self.held

    def start(self, side):
        self.side = side
        self.reading = True

    def push(self, message):
        assert not self.closed
        if self.refuses:
            raise QueueFull("this one is too long for now")
        self.held.append(message)
        if self.dies_of_it:
            self.side.ended(Code.ERROR)

    def leave(self):
        """All of it."""
        left, self.held = self.held, []
        self.refuses = False
        self.side.room()
        return left

    def pause(self):
        self.reading = False

    def resume(self):
        self.reading = True

    def close(self):
        self.closed += 1
        self.reading = None


@pytest.fixture
def a():
    return Fake("a")


@pytest.fixture
def b():
    return Fake("b")


@pytest.fixture
def told():
    return []


@pytest.fixture
async def switch(a, b, told):
    switch = Switch(a, b, on_event=told.append)
    yield switch
    switch.close()
    assert a.closed
    assert b.closed
    assert [event.switch for event in told if isinstance(event, Unswitched)] == [switch]
    assert isinstance(told[-1], Unswitched)


async def test_both_ways(switch, a, b, told):
    assert switch.ends == ("a", "b")
    a.side.took(ONE)
    b.side.took(TWO)
    assert (b.held, a.held) == ([ONE], [TWO])
    assert told == [Switched("a", "b", ONE), Switched("b", "a", TWO)]


async def test_what_is_ignored_goes_nowhere(switch, a, b, told):
    a.side.ignored()
    assert b.held == []
    assert told == [Switched("a", "b", None)]


# -- backpressure ----------------------------------------------------------------------------------


async def test_a_full_end_stops_the_other(switch, a, b):
    a.side.took(ONE)
    assert a.reading
    a.side.took(TWO)
    assert not a.reading
    assert b.reading
    b.leave()
    assert a.reading


async def test_what_one_read_brings_beyond_the_bound_is_kept_in_order(switch, a, b):
    messages = [Message(bytes([number])) for number in range(8)]
    for message in messages:
        a.side.took(message)
    got = []
    while b.held:
        assert len(b.held) <= b.bound
        assert not a.reading
        got += b.leave()
    assert got == messages
    assert a.reading


async def test_one_that_is_too_long_for_now_waits(switch, a, b):
    b.refuses = True
    a.side.took(ONE)
    a.side.took(TWO)
    assert not a.reading
    assert b.held == []
    assert b.leave() == []
    assert b.held == [ONE, TWO]
    b.leave()
    assert a.reading


async def test_one_that_is_too_long_still_waits(switch, a, b):
    b.refuses = True
    a.side.took(ONE)
    b.side.room()
    assert not a.reading
    b.leave()
    assert b.held == [ONE]


async def test_room_without_need_changes_nothing(switch, a, b):
    b.side.room()
    a.side.room()
    assert (a.reading, b.reading) == (True, True)


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [Code.CLOSING, Code.ERROR, Code.PARSING])
async def test_the_other_end_is_closed_at_once_when_nothing_is_left(switch, a, b, told, code):
    error = ValueError("why") if code is not Code.CLOSING else None
    b.side.ended(code, error)
    assert (a.closed, b.closed) >= (1, 1)
    assert told == [Unswitched(switch, "b", code, error)]
    assert await switch.wait_closed() == told[0]


async def test_what_came_before_the_end_is_still_delivered(switch, a, b, told):
    for message in (ONE, TWO, THREE):
        a.side.took(message)
    a.side.ended(Code.CLOSING)
    assert a.closed
    assert not b.closed
    assert b.leave() == [ONE, TWO]
    assert not b.closed
    assert b.leave() == [THREE]
    assert b.closed
    assert told[-1] == Unswitched(switch, "a", Code.CLOSING, None)


async def test_meanwhile_what_comes_back_is_read_and_dropped(switch, a, b, told):
    """Or that one would wait for us to read, and we for it."""
    for _ in range(2):
        b.side.took(ONE)
        a.side.took(TWO)
    assert not b.reading
    a.side.ended(Code.CLOSING)
    assert b.reading
    before = len(told)
    b.side.took(THREE)
    b.side.ignored()
    assert len(told) == before
    assert not b.closed


async def test_the_second_end_may_go_meanwhile(switch, a, b, told):
    a.side.took(ONE)
    a.side.ended(Code.CLOSING)
    b.side.ended(Code.ERROR, OSError())
    assert b.closed
    assert told[1:] == [Unswitched(switch, "a", Code.CLOSING, None)]


async def test_an_end_that_takes_nothing_is_not_waited_for_without_end(monkeypatch, a, b, told):
    monkeypatch.setattr(switching, "LINGER_SECONDS", 0.01)
    switch = Switch(a, b, on_event=told.append)
    a.side.took(ONE)
    a.side.ended(Code.CLOSING)
    assert not b.closed
    assert (await switch.wait_closed()).source == "a"
    assert b.closed


async def test_an_end_that_goes_while_it_is_given_something(switch, a, b, told):
    b.dies_of_it = True
    a.side.took(ONE)
    assert told == [Unswitched(switch, "b", Code.ERROR, None)]
    assert a.closed


async def test_an_end_that_goes_while_it_is_given_what_waited(switch, a, b, told):
    for _ in range(5):
        a.side.took(ONE)
    b.dies_of_it = True
    b.leave()
    assert told[-1] == Unswitched(switch, "b", Code.ERROR, None)
    assert a.closed


async def test_closed_from_here(switch, a, b, told):
    a.side.took(ONE)
    assert not switch.is_closed
    switch.close()
    switch.close()
    assert switch.is_closed
    assert told[1:] == [Unswitched(switch, None, Code.CLOSING, None)]


async def test_closed_from_within_an_event(a, b):
    told = []

    def on_event(event):
        told.append(event)
        switch.close()

    switch = Switch(a, b, on_event=on_event)
    a.side.took(ONE)
    a.side.took(TWO)
    assert [type(event) for event in told] == [Switched, Unswitched]
    assert a.reading is None


async def test_whoever_waits_for_the_end_may_leave(switch):
    waiting = asyncio.create_task(switch.wait_closed())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not switch.is_closed


# -- between forms ---------------------------------------------------------------------------------

C, ZIG = Form.C, Form.ZIG
FULL = Message(b"text", 9, 1)
BARE = Message(b"text")


@pytest.mark.parametrize(
    ("source", "target", "typed", "message", "carried"),
    [
        (C, C, False, FULL, FULL),
        (C, C, True, FULL, FULL),
        (None, C, False, FULL, FULL),
        (C, None, True, FULL, FULL),
        (C, ZIG, False, FULL, BARE),
        (None, ZIG, False, FULL, BARE),
        (C, ZIG, True, FULL, Message(b"\x09text")),
        (C, ZIG, True, Message(b"", 9), Message(b"\x09")),
        (C, ZIG, False, Message(b"", 9), None),
        (ZIG, ZIG, True, BARE, BARE),
        (ZIG, C, False, BARE, BARE),
        (ZIG, C, True, Message(b"\x09text"), Message(b"text", 9)),
        (ZIG, None, True, Message(b"\x09"), Message(b"", 9)),
    ],
)
def test_carrying(source, target, typed, message, carried):
    assert carry(message, source, target, typed) == carried


@pytest.mark.parametrize(
    ("source", "target", "typed", "length"),
    [
        (C, ZIG, False, most_payload(ZIG) + 1),
        (C, ZIG, True, most_payload(ZIG)),
        (C, C, False, most_announced(C)),  # is taken, and is too long to be sent
    ],
)
def test_what_cannot_be_carried(source, target, typed, length):
    with pytest.raises(BadMessage):
        carry(Message(bytes(length)), source, target, typed)


def test_what_just_fits():
    longest = Message(bytes(most_payload(ZIG)))
    assert carry(longest, C, ZIG, typed=False) == longest


async def test_what_cannot_be_carried_ends_the_switch(told):
    a, b = Fake("a", C), Fake("b", ZIG)
    switch = Switch(a, b, on_event=told.append)
    a.side.took(ONE)
    a.side.took(Message(bytes(most_payload(ZIG) + 1)))
    assert b.leave() == [Message(b"one")]
    assert told[-1][:3] == (switch, "a", Code.PARSING)
    assert "does not fit" in str(told[-1].error)


async def test_an_empty_message_is_not_told_to_the_form_that_ends_by_it(told):
    a, b = Fake("a", C), Fake("b", ZIG)
    Switch(a, b, on_event=told.append)
    a.side.took(Message(b"", 9))
    assert b.held == []
    assert told == [Switched("a", "b", None)]


@pytest.mark.parametrize("target", list(Form))
async def test_an_empty_message_of_the_form_that_ends_by_it_is_an_end(told, target):
    a, b = Fake("a", ZIG), Fake("b", target)
    switch = Switch(a, b, on_event=told.append)
    a.side.took(BARE)
    a.side.took(Message(b""))
    assert b.leave() == [BARE]
    assert told[1:] == [Unswitched(switch, "a", Code.CLOSING, None)]

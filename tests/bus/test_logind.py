"""Tests of buswork.bus.logind."""

import asyncio
import logging
import os

import pytest
from support import reference
from support.fakebus import ERROR, Refused

from buswork.bus import logind as module
from buswork.bus.library import variant
from buswork.bus.logind import MANAGER, MAX_SEATS, NAME, PATH, PROPERTIES, Logind

OWNER, NEXT_OWNER = ":1.2", ":1.3"
SEAT0 = f"{PATH}/seat/seat0"


class Seats:
    """logind as far as it is asked: the user of each seat, None where nobody is."""

    def __init__(self, bus):
        self.bus = bus
        self.users = {}
        self.sleeping = False
        bus.names[NAME] = OWNER
        for owner in (OWNER, NEXT_OWNER):
            bus.answers[owner, "ListSeats"] = lambda call: (
                "a(so)",
                [[(seat, f"{PATH}/seat/{seat}") for seat in self.users]],
            )
            bus.answers[owner, "Get"] = self._get

    def _get(self, call):
        name = call.values[1]
        if name == "PreparingForSleep":
            return "v", [variant("b", self.sleeping)]
        place = call.fields[reference.PATH].rpartition("/")[2]
        if name == "ActiveSession":
            user = self.users[place]
            value = ("", "/") if user is None else ("c1", f"{PATH}/session/u{user}")
            return "v", [variant("(so)", value)]
        assert name == "User"
        return "v", [variant("(uo)", (int(place[1:]), f"{PATH}/user/{place}"))]

    def changed(self, path=SEAT0, sender=OWNER):
        values = [MANAGER.replace("Manager", "Seat"), {}, ["ActiveSession"]]
        self.bus.signal(sender, path, PROPERTIES, "PropertiesChanged", "sa{sv}as", values)

    def sleep(self, sleeping):
        self.sleeping = sleeping
        self.bus.signal(OWNER, PATH, MANAGER, "PrepareForSleep", "b", [sleeping])


class Delays:
    """The delays that logind grants: each is a pipe that somebody holds, or has let go of."""

    def __init__(self, bus):
        self.bus = bus
        self.reasons = []
        self.pipes = []
        for owner in (OWNER, NEXT_OWNER):
            bus.answers[owner, "Inhibit"] = self.grant

    def grant(self, call):
        self.reasons.append(call.values)
        mine, theirs = os.pipe()
        self.pipes.append(mine)
        self.bus.reply(call, "h", [0], fds=[theirs])
        os.close(theirs)

    @property
    def held(self):
        return [self._is_held(pipe) for pipe in self.pipes]

    @staticmethod
    def _is_held(pipe):
        os.set_blocking(pipe, False)
        try:
            return os.read(pipe, 1) != b""
        except BlockingIOError:
            return True

    def close(self):
        for pipe in self.pipes:
            os.close(pipe)


@pytest.fixture
def delays(bus):
    delays = Delays(bus)
    yield delays
    delays.close()


@pytest.fixture
def seats(bus):
    return Seats(bus)


@pytest.fixture
async def logind(bus):
    return Logind(await bus.connect())


async def settle(bus, logind):
    await bus.settle()
    while logind._looking is not None:
        await logind._looking
    if logind._inhibitor._asking is not None:
        await asyncio.wait([logind._inhibitor._asking])


async def test_who_sits_here_is_known_from_the_start_on(bus, seats, logind):
    seats.users = {"seat0": 1000, "seat1": None, "seat2": 1001}
    heard = []
    logind.on_seated.append(heard.append)
    await logind.start()
    await settle(bus, logind)
    assert logind.seated == {1000, 1001}
    assert heard == [{1000, 1001}]


async def test_another_user_s_turn_is_told_once(bus, seats, logind):
    seats.users = {"seat0": 1000}
    await logind.start()
    await settle(bus, logind)
    heard = []
    logind.on_seated.append(heard.append)
    seats.users = {"seat0": 1001}
    seats.changed()
    seats.changed()
    await settle(bus, logind)
    assert heard == [{1001}]


async def test_a_seat_that_comes_or_goes(bus, seats, logind):
    await logind.start()
    await settle(bus, logind)
    assert logind.seated == frozenset()
    seats.users = {"seat0": 1000}
    bus.signal(OWNER, PATH, MANAGER, "SeatNew", "so", ["seat0", SEAT0])
    await settle(bus, logind)
    assert logind.seated == {1000}
    seats.users = {}
    bus.signal(OWNER, PATH, MANAGER, "SeatRemoved", "so", ["seat0", SEAT0])
    await settle(bus, logind)
    assert logind.seated == frozenset()


async def test_without_logind_it_is_not_known(bus, seats, logind):
    seats.users = {"seat0": 1000}
    await logind.start()
    await settle(bus, logind)
    bus.owner_changed(NAME, OWNER, "")
    await settle(bus, logind)
    assert logind.seated is None


@pytest.mark.attack(37)
@pytest.mark.parametrize("sender", [":1.66", NAME])
async def test_37_only_logind_says_so(bus, seats, logind, sender):
    await logind.start()
    await settle(bus, logind)
    asked = len(bus.calls("ListSeats"))
    seats.changed(sender=sender)
    seats.changed(path=f"{PATH}/session/c1")  # of a session: nothing of ours
    await settle(bus, logind)
    assert len(bus.calls("ListSeats")) == asked


async def test_a_logind_that_does_not_answer_well_is_as_none(bus, seats, logind, caplog):
    caplog.set_level(logging.INFO)

    def refuse(call):
        raise Refused(ERROR + "AccessDenied")

    bus.answers[OWNER, "ListSeats"] = refuse
    await logind.start()
    await settle(bus, logind)
    assert logind.seated is None
    assert "does not say who sits here" in caplog.text
    bus.answers[OWNER, "ListSeats"] = lambda call: ("s", ["nonsense"])
    seats.changed()
    await settle(bus, logind)
    assert logind.seated is None


async def test_a_seat_that_goes_meanwhile_does_not_hide_the_others(bus, seats, logind):
    seats.users = {"seat0": 1000, "seat1": 1001}
    get = bus.answers[OWNER, "Get"]

    def gone(call):
        if call.fields[reference.PATH].endswith("seat0"):
            raise Refused(ERROR + "UnknownObject")
        return get(call)

    bus.answers[OWNER, "Get"] = gone
    await logind.start()
    await settle(bus, logind)
    assert logind.seated == {1001}


async def test_a_value_of_another_type_is_none(bus, seats, logind):
    seats.users = {"seat0": 1000}
    bus.answers[OWNER, "Get"] = lambda call: ("v", [variant("s", "x")])
    await logind.start()
    await settle(bus, logind)
    assert logind.seated == frozenset()


async def test_no_more_seats_are_asked_for_than_a_machine_has(bus, seats, logind):
    seats.users = {f"seat{number}": number for number in range(2 * MAX_SEATS)}
    await logind.start()
    await settle(bus, logind)
    assert len(logind.seated) == MAX_SEATS


# Sleep


@pytest.fixture
async def heard(bus, seats, logind):
    """What is told of sleep."""
    heard = []
    logind.on_sleep.append(heard.append)
    await logind.start()
    await settle(bus, logind)
    return heard


def taken(heard):
    told = list(heard)
    heard.clear()
    return told


async def test_sleep_and_waking_are_told_once(bus, seats, logind, heard):
    for sleeping in (False, True, True, False, False):
        seats.sleep(sleeping)
    await bus.settle()
    assert heard == [True, False]


@pytest.mark.parametrize("owner", [NEXT_OWNER, ""])
async def test_another_logind_knows_better_whether_the_machine_sleeps(
    bus, seats, logind, heard, owner
):
    seats.sleep(True)
    await settle(bus, logind)
    assert taken(heard) == [True]
    seats.sleeping = False  # and no signal of it
    bus.owner_changed(NAME, OWNER, owner)
    await settle(bus, logind)
    assert taken(heard) == [False]


async def test_a_logind_that_is_found_while_the_machine_goes_to_sleep(bus, seats, logind, heard):
    seats.sleeping = True
    bus.owner_changed(NAME, OWNER, NEXT_OWNER)
    await settle(bus, logind)
    assert heard == [True]


async def test_word_of_waking_that_was_lost_is_made_up_for(bus, seats, logind, heard, monkeypatch):
    monkeypatch.setattr(module, "SLEEP_CHECK_SECONDS", 0.001)
    woken = asyncio.Event()
    logind.on_sleep.append(lambda sleeping: sleeping or woken.set())
    asked = len(bus.calls("Get"))
    seats.sleep(True)
    async with asyncio.timeout(10):
        while len(bus.calls("Get")) < asked + 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert taken(heard) == [True]
    seats.sleeping = False
    async with asyncio.timeout(10):
        await woken.wait()
    assert taken(heard) == [False]
    assert logind._sleep_timer is None  # nobody asks any more


async def test_what_is_signalled_while_we_ask_is_newer(bus, seats, logind, heard):
    get, asked = bus.answers[OWNER, "Get"], []
    bus.answers[OWNER, "Get"] = asked.append
    seats.sleeping = True
    seats.changed()
    await bus.settle()
    bus.reply(asked[0], *get(asked[0]))
    bus.answers[OWNER, "Get"] = get
    seats.sleep(True)
    seats.sleep(False)
    await settle(bus, logind)
    assert heard == [True, False]


async def test_a_logind_that_does_not_say_changes_nothing(bus, seats, logind, heard, caplog):
    caplog.set_level(logging.INFO)
    seats.sleep(True)
    bus.answers[OWNER, "Get"] = lambda call: ("v", [variant("s", "no")])
    seats.changed()
    await settle(bus, logind)
    assert heard == [True]
    assert "does not say whether the machine is awake" in caplog.text


# The delay


async def test_the_machine_waits_while_that_is_wanted(bus, logind, heard, delays):
    assert delays.pipes == []
    logind.delay_sleep(True)
    logind.delay_sleep(True)
    await settle(bus, logind)
    assert [(*reason[:2], reason[3]) for reason in delays.reasons] == [
        ("sleep", "buswork", "delay")
    ]
    assert delays.held == [True]
    logind.delay_sleep(False)
    assert delays.held == [False]
    logind.delay_sleep(True)
    await settle(bus, logind)
    assert delays.held == [False, True]
    logind.delay_sleep(False)


async def test_who_does_not_want_it_any_more_does_not_get_it(bus, logind, heard, delays, open_fds):
    before = open_fds()
    logind.delay_sleep(True)
    await asyncio.sleep(0)
    logind.delay_sleep(False)
    await settle(bus, logind)
    await bus.settle()
    assert delays.held == [False]
    assert open_fds() == before + 1  # the end of the test


async def test_another_logind_is_asked_anew(bus, logind, heard, delays):
    logind.delay_sleep(True)
    await settle(bus, logind)
    bus.owner_changed(NAME, OWNER, NEXT_OWNER)
    await settle(bus, logind)
    assert delays.held == [False, True]
    bus.owner_changed(NAME, NEXT_OWNER, "")
    await settle(bus, logind)
    assert delays.held == [False, False]
    logind.delay_sleep(False)


async def test_without_logind_nobody_is_asked(bus, logind, delays):
    logind.delay_sleep(True)
    await bus.settle()
    assert delays.pipes == []
    await logind.start()
    await bus.settle()
    assert delays.pipes == []


@pytest.mark.parametrize("answer", [("", []), ("s", ["no"]), None])
async def test_a_delay_that_is_refused_is_logged(bus, logind, heard, caplog, answer):
    def answered(call):
        if answer is None:
            raise Refused(ERROR + "AccessDenied")
        return answer

    bus.answers[OWNER, "Inhibit"] = answered
    logind.delay_sleep(True)
    await settle(bus, logind)
    assert "Inhibit" in caplog.text or "will not wait for the displays" in caplog.text
    asked = len(bus.calls("Inhibit"))
    logind.delay_sleep(False)
    logind.delay_sleep(True)
    await settle(bus, logind)
    assert len(bus.calls("Inhibit")) == asked + 1

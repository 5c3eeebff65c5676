"""Tests of buswork.bus.logind."""

import logging

import pytest
from support import reference
from support.fakebus import ERROR, Refused

from buswork.bus.library import variant
from buswork.bus.logind import MANAGER, MAX_SEATS, NAME, PATH, PROPERTIES, Logind

OWNER = ":1.2"
SEAT0 = f"{PATH}/seat/seat0"


class Seats:
    """logind as far as it is asked: the user of each seat, None where nobody is."""

    def __init__(self, bus):
        self.bus = bus
        self.users = {}
        bus.names[NAME] = OWNER
        bus.answers[OWNER, "ListSeats"] = lambda call: (
            "a(so)",
            [[(seat, f"{PATH}/seat/{seat}") for seat in self.users]],
        )
        bus.answers[OWNER, "Get"] = self._get

    def _get(self, call):
        name = call.values[1]
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

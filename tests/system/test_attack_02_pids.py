"""Attack 2: a pid tells nothing of who calls; by the time that it is looked up, it is another's."""

import pytest
from support.fakebus import DRIVER, FakeBus, FakePolkit
from support.toyface import ALICE, BOB, Stack

from buswork.bus import logind
from buswork.bus.library import variant
from buswork.bus.logind import Logind

pytestmark = pytest.mark.attack(2)

PID = 4711
SEAT, SESSION = f"{logind.PATH}/seat/seat0", f"{logind.PATH}/session/c1"


def credentials(call):
    return "a{sv}", [{"UnixUserID": variant("u", 1000), "ProcessID": variant("u", PID)}]


def of_logind(call):
    """Somebody sits at the machine's one seat."""
    values = {
        "PreparingForSleep": variant("b", False),
        "ActiveSession": variant("(so)", ("c1", SESSION)),
        "User": variant("(uo)", (1000, f"{logind.PATH}/user/1000")),
    }
    return "v", [values[call.values[1]]]


async def test_nobody_is_looked_up_by_pid():
    async with FakeBus() as bus:
        polkit = FakePolkit(bus)
        polkit.rules["org.toy.guarded"] = "challenge"
        bus.answers[DRIVER, "GetConnectionCredentials"] = credentials
        bus.names[logind.NAME] = ":1.2"
        bus.answers[":1.2", "ListSeats"] = lambda call: ("a(so)", [[("seat0", SEAT)]])
        bus.answers[":1.2", "Get"] = of_logind
        stack = await Stack.make(bus)
        toy = stack.toy()
        seats = Logind(stack.connection)
        await seats.start()
        for caller in (ALICE, BOB):
            for flags in (0, 4):  # with a prompt, too
                await stack.call(caller, "Guarded", "s", "x", flags=flags)
        assert toy.calls == [(ALICE, "x"), (BOB, "x")]
        while seats.seated is None:
            await bus.next(lambda message: True)
        assert seats.seated == {1000}
        asked = {message.member for message in bus.received}
        assert {"CheckAuthorization", "GetConnectionCredentials", "ListSeats"} <= asked
        assert not {member for member in asked if "PID" in member or "ProcessID" in member}
        assert not [message for message in bus.received if str(PID) in repr(message.values)]

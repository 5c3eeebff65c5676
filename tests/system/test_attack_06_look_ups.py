"""Attack 6: whatever is answered when it is looked up who calls, no descriptor stays open."""

import os

import pytest
from support.fakebus import DRIVER, ERROR, FakeBus, FakePolkit, Refused
from support.toyface import ALICE, Stack

from buswork.bus import logind
from buswork.bus.library import variant
from buswork.bus.logind import Logind

pytestmark = pytest.mark.attack(6)

CALLERS = 300


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def pidfd():
    """Newer buses tell who a process is by a descriptor of it."""
    fd = os.pidfd_open(os.getpid())
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    "facts",
    [
        {"UnixUserID": variant("u", 1000), "ProcessFD": variant("h", 0)},
        {"ProcessFD": variant("h", 0)},
        {"UnixUserID": variant("h", 0)},
        None,
    ],
    ids=["known", "without a uid", "uid of a wrong type", "refused"],
)
async def test_who_calls(pidfd, facts):
    async with FakeBus() as bus:
        FakePolkit(bus)
        stack = await Stack.make(bus)
        stack.toy()

        def answer(call):
            if facts is None:
                raise Refused(ERROR + "LimitsExceeded")
            bus.reply(call, "a{sv}", [facts], fds=[pidfd])

        bus.answers[DRIVER, "GetConnectionCredentials"] = answer
        for number in range(CALLERS):
            bus.uids[f":1.{100 + number}"] = 1000
        await stack.call(ALICE, "Guarded", "s", "x")
        before = descriptors()
        for number in range(CALLERS):
            refused = await stack.call(f":1.{100 + number}", "Guarded", "s", "x")
            assert refused.error == ERROR + "AccessDenied"
        assert descriptors() == before


async def test_what_services_answer(pidfd):
    """polkit and logind need send none, and what comes all the same is closed."""
    async with FakeBus() as bus:
        polkit = FakePolkit(bus)
        stack = await Stack.make(bus)
        toy = stack.toy()

        def yes(call):
            bus.reply(call, *polkit.answer("temporary"), fds=[pidfd])

        def no_seats(call):
            bus.reply(call, "a(so)", [[]], fds=[pidfd])

        bus.answers[polkit.NAME, "CheckAuthorization"] = yes
        bus.names[logind.NAME] = ":1.2"
        bus.answers[":1.2", "ListSeats"] = no_seats
        await stack.call(ALICE, "Guarded", "s", "x")
        before = descriptors()
        for _ in range(20):
            await stack.call(ALICE, "Guarded", "s", "x")
        seats = Logind(stack.connection)
        await seats.start()
        while seats.seated is None:
            await bus.next(lambda message: True)
        assert len(toy.calls) == 21
        assert descriptors() == before

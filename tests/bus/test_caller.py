import asyncio

import pytest
from support import reference
from support.fakebus import DRIVER, DRIVER_PATH, ERROR, OWN_NAME, Refused

from buswork.bus import caller
from buswork.bus.caller import Callers, NameTracker, Peer, owner_changed_rule
from buswork.bus.library import variant
from buswork.errors import AccessDenied, Gone, LimitsExceeded

ALICE = ":1.7"


@pytest.fixture
async def callers(bus):
    bus.uids[ALICE] = 1000
    return Callers(await bus.connect())


def test_a_peer_is_equal_to_itself_alone():
    """A pid is used again, and what one process was granted is not the next one's."""
    peer = Peer(1, 2, 3)
    assert peer == peer
    assert peer != Peer(1, 2, 3)


# Uids (ATTACKS 3, 4, 5)


@pytest.mark.attack(4)
async def test_04_the_uid_is_what_the_bus_says(bus, callers):
    assert callers.known_uid(ALICE) is None
    assert await callers.uid(ALICE) == 1000
    assert callers.known_uid(ALICE) == 1000
    question = bus.calls("GetConnectionCredentials")[0]
    assert question.values == [ALICE]
    assert question.fields[reference.DESTINATION] == DRIVER


async def test_a_uid_is_asked_for_once(bus, callers):
    assert await asyncio.gather(*(callers.uid(ALICE) for _ in range(5))) == [1000] * 5
    assert await callers.uid(ALICE) == 1000
    assert len(bus.calls("GetConnectionCredentials")) == 1


async def test_one_who_gives_up_does_not_take_the_question_from_others(bus, callers):
    bus.answers[DRIVER, "GetConnectionCredentials"] = lambda call: None
    first = asyncio.create_task(callers.uid(ALICE))
    second = asyncio.create_task(callers.uid(ALICE))
    question = await bus.asked("GetConnectionCredentials")
    first.cancel()
    await asyncio.sleep(0)
    bus.reply(question, *bus._get_credentials(question))
    assert await second == 1000
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_05_who_has_left_is_gone(bus, callers):
    del bus.uids[ALICE]
    with pytest.raises(Gone):
        await callers.uid(ALICE)
    assert callers.known_uid(ALICE) is None


@pytest.mark.attack(5)
async def test_05_a_failed_question_is_a_denial_and_is_not_remembered(bus, callers):
    def refuse(call):
        raise Refused(ERROR + "LimitsExceeded")

    right = bus.answers[DRIVER, "GetConnectionCredentials"]
    bus.answers[DRIVER, "GetConnectionCredentials"] = refuse
    with pytest.raises(AccessDenied):
        await callers.uid(ALICE)
    bus.answers[DRIVER, "GetConnectionCredentials"] = right
    assert await callers.uid(ALICE) == 1000


async def test_29_remembered_uids_are_bounded_and_the_oldest_goes(bus, callers, monkeypatch):
    monkeypatch.setattr(caller, "MAX_KNOWN", 3)
    for number in range(4):
        bus.uids[f":2.{number}"] = number
        await callers.uid(":2.0")
        await callers.uid(f":2.{number}")
    known = [number for number in range(4) if callers.known_uid(f":2.{number}") is not None]
    assert known == [0, 2, 3]


async def test_a_uid_is_forgotten_when_its_owner_leaves(bus, callers):
    await callers.uid(ALICE)
    bus.owner_changed(ALICE, ALICE, "")
    await bus.settle()
    assert callers.known_uid(ALICE) is None


# Leaving (ATTACKS 33, 35, 37)


async def test_who_leaves_is_told_once_and_its_rule_goes(bus, callers):
    gone = []
    await callers.watch(ALICE, lambda: gone.append(1))
    await callers.watch(ALICE, lambda: gone.append(2))
    assert bus.matches == {owner_changed_rule(ALICE): 1}
    bus.leave(ALICE)
    bus.owner_changed(ALICE, ALICE, "")
    await bus.settle()
    assert gone == [1, 2]
    assert bus.matches == {}


async def test_33_the_rule_stays_while_somebody_watches(bus, callers):
    watchers = [lambda: None for _ in range(3)]
    for watcher in watchers:
        await callers.watch(ALICE, watcher)
    for watcher in watchers[:2]:
        callers.unwatch(ALICE, watcher)
    await bus.settle()
    assert bus.matches == {owner_changed_rule(ALICE): 1}
    callers.unwatch(ALICE, watchers[2])
    callers.unwatch(ALICE, watchers[2])
    await bus.settle()
    assert bus.matches == {}
    assert callers._watched == {}


async def test_35_the_match_comes_first_and_the_question_second(bus, callers):
    await callers.watch(ALICE, lambda: None)
    members = [message.member for message in bus.received]
    assert members.index("AddMatch") < members.index("GetNameOwner")


@pytest.mark.attack(35)
async def test_35_who_left_before_the_watch_is_gone_and_nothing_stays(bus, callers):
    del bus.uids[ALICE]
    gone = []
    with pytest.raises(Gone):
        await callers.watch(ALICE, lambda: gone.append(1))
    await bus.settle()
    assert bus.matches == {}
    assert callers._watched == {}


async def test_33_a_bus_that_takes_no_more_rules_is_limits_exceeded(bus, callers):
    def refuse(call):
        raise Refused(ERROR + "LimitsExceeded")

    bus.answers[DRIVER, "AddMatch"] = refuse
    with pytest.raises(LimitsExceeded):
        await callers.watch(ALICE, lambda: None)
    assert callers._watched == {}
    assert callers._connection._matches == {}
    assert bus.calls("GetNameOwner") == []


async def test_a_watch_that_is_given_up_leaves_nothing(bus, callers):
    bus.answers[DRIVER, "GetNameOwner"] = lambda call: None
    task = asyncio.create_task(callers.watch(ALICE, lambda: None))
    await bus.asked("GetNameOwner")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bus.settle()
    assert bus.matches == {}
    assert callers._watched == {}


async def test_a_future_until_somebody_is_gone(bus, callers):
    async with callers.until_gone(ALICE) as gone:
        assert not gone.done()
        bus.leave(ALICE)
        await gone
    bus.uids[ALICE] = 1000
    async with callers.until_gone(ALICE):
        assert bus.matches[owner_changed_rule(ALICE)] == 1
    await bus.settle()
    assert bus.matches == {}


@pytest.mark.parametrize("sender", [":1.66", ALICE, OWN_NAME, "org.freedesktop.DBusX"])
async def test_37_a_forged_departure_is_none(bus, callers, sender):
    gone = []
    await callers.uid(ALICE)
    await callers.watch(ALICE, lambda: gone.append(1))
    bus.owner_changed(ALICE, ALICE, "", sender=sender)
    await bus.settle()
    assert gone == []
    assert callers.known_uid(ALICE) == 1000


@pytest.mark.parametrize(
    ("signature", "values"),
    [("ss", [ALICE, ""]), ("", []), ("sss", [ALICE, "", ":1.8"]), ("sss", [":1.9", ":1.9", ""])],
)
async def test_26_only_a_departure_is_one(bus, callers, signature, values):
    gone = []
    await callers.watch(ALICE, lambda: gone.append(1))
    bus.signal(DRIVER, DRIVER_PATH, DRIVER, "NameOwnerChanged", signature, values)
    await bus.settle()
    assert gone == []


# Well-known names


NAME = "org.toy.Service"


async def test_a_tracker_knows_the_owner_from_the_start_on(bus, callers):
    bus.names[NAME] = ":1.3"
    tracker = NameTracker(callers._connection, NAME)
    changes = []
    tracker.on_change(lambda: changes.append(tracker.owner))
    await tracker.start()
    for owner in (":1.4", None, ":1.5"):
        bus.own(NAME, owner)
        await bus.settle()
    assert changes == [":1.3", ":1.4", None, ":1.5"]


async def test_a_tracker_of_nobody_waits(bus, callers):
    tracker = NameTracker(callers._connection, NAME)
    await tracker.start()
    assert tracker.owner is None
    bus.own(NAME, ":1.3")
    await bus.settle()
    assert tracker.owner == ":1.3"


async def test_37_only_the_owner_of_the_time_is_heard(bus, callers):
    bus.names[NAME] = ":1.3"
    tracker = NameTracker(callers._connection, NAME)
    await tracker.start()
    heard = []
    await tracker.listen("org.toy", "Tick", lambda frame: heard.append(frame.header.sender))
    for sender in (":1.3", ":1.4", NAME):
        bus.signal(sender, "/", "org.toy", "Tick")
    bus.own(NAME, ":1.4")
    for sender in (":1.3", ":1.4"):
        bus.signal(sender, "/", "org.toy", "Tick")
    bus.own(NAME, None)
    bus.signal(":1.4", "/", "org.toy", "Tick")
    await bus.settle()
    assert heard == [":1.3", ":1.4"]


async def test_37_a_forged_owner_is_none(bus, callers):
    bus.names[NAME] = ":1.3"
    tracker = NameTracker(callers._connection, NAME)
    await tracker.start()
    bus.owner_changed(NAME, ":1.3", ":1.66", sender=":1.66")
    bus.owner_changed("org.toy.Other", ":1.3", ":1.66")
    await bus.settle()
    assert tracker.owner == ":1.3"


async def test_37_what_the_bus_told_last_is_true(bus, callers):
    """The answer to GetNameOwner and a change behind it come in one go."""
    bus.names[NAME] = ":1.3"
    bus.answers[DRIVER, "GetNameOwner"] = lambda call: None
    tracker = NameTracker(callers._connection, NAME)
    task = asyncio.create_task(tracker.start())
    question = await bus.asked("GetNameOwner")
    reply = bus.reply_message(question, "s", [":1.3"]).write()
    fields = {1: DRIVER_PATH, 2: DRIVER, 3: "NameOwnerChanged", 7: DRIVER}
    values = [NAME, ":1.3", ":1.4"]
    change = bus.message(reference.SIGNAL, fields, "sss", values).write()
    bus.write(reply + change)
    await task
    assert tracker.owner == ":1.4"


# Processes


async def test_what_the_bus_says_of_a_process(bus, callers):
    assert await callers.process(ALICE) == (4711, None)
    facts = {
        "UnixUserID": variant("u", 1000),
        "ProcessID": variant("u", 77),
        "UnixGroupIDs": variant("au", [1000, 27]),
    }
    bus.answers[DRIVER, "GetConnectionCredentials"] = lambda call: ("a{sv}", [facts])
    assert await callers.process(ALICE) == (77, {1000, 27})
    facts["ProcessID"] = facts["UnixGroupIDs"] = variant("s", "nonsense")
    assert await callers.process(ALICE) == (0, None)


async def test_nothing_is_known_of_a_process_that_has_left(bus, callers):
    del bus.uids[ALICE]
    with pytest.raises(Gone):
        await callers.process(ALICE)

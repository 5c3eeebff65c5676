import asyncio

import pytest
from support import reference
from support.fakebus import DRIVER, DRIVER_PATH, ERROR, Refused

from buswork.bus.caller import Call, Callers, Peer, owner_changed_rule
from buswork.bus.ownership import Holdings
from buswork.errors import Gone, LimitsExceeded, UnknownObject
from buswork.log import CLAIMED, RESET, Sparing

ALICE = ":1.7"
PATH = "/org/toy/things/1"


@pytest.fixture
async def holdings(bus):
    bus.uids[ALICE] = 1000
    return Holdings(Callers(await bus.connect()))


@pytest.fixture
def taken():
    return []


def hold(holdings, taken, path=PATH):
    call = Call(ALICE, 1000, 0, "/")
    return holdings.hold(call, path, "toy", "a thing", lambda: taken.append(path))


async def test_what_is_held_says_by_whom(holdings, taken, caplog):
    caplog.set_level(0)
    held = await hold(holdings, taken)
    assert holdings.all() == [held]
    assert (held.path, held.wing, held.what, held.uid, held.client) == (
        PATH, "toy", "a thing", 1000, ALICE,
    )  # fmt: skip
    assert held.since_unix_us > 1_600_000_000_000_000
    assert [record.message_id for record in caplog.records] == [CLAIMED]


@pytest.mark.attack(35)
async def test_35_it_goes_when_its_owner_goes(bus, holdings, taken):
    await hold(holdings, taken)
    await hold(holdings, taken, PATH + "1")
    bus.leave(ALICE)
    await bus.settle()
    assert taken == [PATH, PATH + "1"]
    assert holdings.all() == []
    assert bus.matches == {}


async def test_what_is_given_back_is_not_taken_away(bus, holdings, taken):
    held = await hold(holdings, taken)
    holdings.let_go(held)
    holdings.let_go(held)
    await bus.settle()
    assert bus.matches == {}
    bus.owner_changed(ALICE, ALICE, "")
    await bus.settle()
    assert taken == []
    assert holdings.all() == []


async def test_it_can_be_taken_by_force_once(bus, holdings, taken, caplog):
    caplog.set_level(0)
    held = await hold(holdings, taken)
    assert holdings.force(PATH, Call(":1.8", 2000, 0, "/")) is held
    assert taken == [PATH]
    with pytest.raises(UnknownObject):
        holdings.force(PATH, Call(":1.8", 2000, 0, "/"))
    await bus.settle()
    assert bus.matches == {}
    assert [record.message_id for record in caplog.records] == [CLAIMED, RESET]


async def test_35_who_has_left_holds_nothing(bus, holdings, taken):
    del bus.uids[ALICE]
    with pytest.raises(Gone):
        await hold(holdings, taken)
    assert holdings.all() == []


async def test_35_who_leaves_before_the_hold_is_written_down_holds_nothing(bus, holdings, taken):
    """The answer that it is there and the news that it left come in one go: no ghost claim."""
    bus.answers[DRIVER, "GetNameOwner"] = lambda call: None
    task = asyncio.create_task(hold(holdings, taken))
    question = await bus.asked("GetNameOwner")
    reply = bus.reply_message(question, "s", [ALICE]).write()
    fields = {1: DRIVER_PATH, 2: DRIVER, 3: "NameOwnerChanged", 7: DRIVER}
    left = bus.message(reference.SIGNAL, fields, "sss", [ALICE, ALICE, ""]).write()
    bus.write(reply + left)
    with pytest.raises(Gone):
        await task
    assert holdings.all() == []
    assert taken == [PATH]


async def test_33_nothing_is_held_that_cannot_be_watched(bus, holdings, taken):
    def refuse(call):
        raise Refused(ERROR + "LimitsExceeded")

    bus.answers[DRIVER, "AddMatch"] = refuse
    with pytest.raises(LimitsExceeded):
        await hold(holdings, taken)
    assert holdings.all() == []
    assert taken == []


@pytest.mark.attack(35)
async def test_35_a_thing_is_made_for_one_who_is_watched(bus, holdings, taken):
    def make():
        assert bus.matches == {owner_changed_rule(ALICE): 1}
        return PATH, lambda: taken.append(PATH)

    held = await holdings.make(Call(ALICE, 1000, 0, "/"), "toy", "a thing", make)
    assert (holdings.all(), held.path) == ([held], PATH)
    bus.leave(ALICE)
    await bus.settle()
    assert (taken, holdings.all(), bus.matches) == ([PATH], [], {})


async def test_35_nothing_is_made_for_one_who_leaves_meanwhile(bus, holdings):
    bus.answers[DRIVER, "GetNameOwner"] = lambda call: None
    task = asyncio.create_task(
        holdings.make(Call(ALICE, 1000, 0, "/"), "toy", "a thing", pytest.fail)
    )
    question = await bus.asked("GetNameOwner")
    reply = bus.reply_message(question, "s", [ALICE]).write()
    fields = {1: DRIVER_PATH, 2: DRIVER, 3: "NameOwnerChanged", 7: DRIVER}
    left = bus.message(reference.SIGNAL, fields, "sss", [ALICE, ALICE, ""]).write()
    bus.write(reply + left)
    with pytest.raises(Gone):
        await task
    assert holdings.all() == []


async def test_33_what_cannot_be_made_is_not_watched(bus, holdings):
    def make():
        raise LimitsExceeded("enough")

    with pytest.raises(LimitsExceeded):
        await holdings.make(Call(ALICE, 1000, 0, "/"), "toy", "a thing", make)
    await bus.settle()
    assert (holdings.all(), bus.matches) == ([], {})


@pytest.mark.attack(33)
async def test_33_one_rule_a_client_however_much_it_holds(bus, holdings, taken):
    helds = [await hold(holdings, taken, f"{PATH}/{number}") for number in range(20)]
    assert bus.matches == {owner_changed_rule(ALICE): 1}
    for held in helds:
        holdings.let_go(held)
    await bus.settle()
    assert bus.matches == {}
    assert len(bus.calls("AddMatch")) == 1


async def test_a_native_peer_may_hold_something(bus, holdings, taken, caplog):
    caplog.set_level(0)
    peer = Peer(1000, 4711, -1)
    held = holdings.hold_natively(peer, PATH, "toy", "a thing", lambda: taken.append(PATH))
    assert holdings.all() == [held]
    assert (held.uid, held.client, held.what) == (1000, "pid:4711", "a thing")
    holdings.let_go(held)
    assert (holdings.all(), taken) == ([], [])

    holdings.hold_natively(peer, PATH, "toy", "a thing", lambda: taken.append(PATH))
    holdings.force(PATH, Call(":1.8", 2000, 0, "/"))
    assert (holdings.all(), taken, bus.matches) == ([], [PATH], {})
    assert [record.message_id for record in caplog.records] == [CLAIMED, CLAIMED, RESET]
    assert caplog.records[-1].fields["owner"] == "pid:4711"


async def test_whoever_claims_all_the_time_does_not_fill_the_log(holdings, caplog):
    caplog.set_level(0)
    for uid in (1000, 2000):
        for number in range(100):
            path = f"{PATH}/{uid}/{number}"
            holdings.hold_natively(Peer(uid, 1, -1), path, "toy", "a thing", lambda: None)
    uids = [record.fields["uid"] for record in caplog.records]
    assert uids == [1000] * Sparing.LINES + [2000] * Sparing.LINES

"""Tests of buswork.fsct.playerctld."""

import json
from pathlib import Path

import pytest
from support.fakebus import FakeBus

from buswork.bus.library import variant
from buswork.fsct.mpris import PATH, PLAYER, PLAYERCTLD, PREFIX, PROPERTIES
from buswork.fsct.playerctld import PLAYERCTLD_INTERFACE, Playerctld

VECTORS = Path(__file__).parents[1] / "vectors" / "fsct"


@pytest.fixture
async def bus():
    async with FakeBus() as bus:
        yield bus


@pytest.fixture
async def follower(bus):
    chosen = []
    follower = Playerctld(await bus.connect(), chosen.append)
    follower.chosen = chosen
    bus.answers[":1.9", "Get"] = lambda call: ("v", [variant("as", ["aa", "bb"])])
    yield follower
    follower.stop()


def tell(bus, names, owner=":1.9", interface=PLAYERCTLD_INTERFACE):
    values = [interface, {"PlayerNames": names}, []]
    bus.signal(owner, PATH, PROPERTIES, "PropertiesChanged", "sa{sv}as", values)


async def test_the_choice_of_playerctld_as_it_was_recorded(bus, follower):
    rows = json.loads((VECTORS / "playerctld_order.json").read_text())["rows"]
    bus.names[PLAYERCTLD] = ":1.9"
    first = [PREFIX + name for name in rows[0]["player_names"]]
    bus.answers[":1.9", "Get"] = lambda call: ("v", [variant("as", first)])
    await follower.start()
    await bus.settle()
    expected = []
    for row in rows:
        names = [PREFIX + name for name in row["player_names"]]
        expected.append(names[0])
        if row is not rows[0]:
            tell(bus, variant("as", names))
    await bus.settle()
    assert follower.chosen == expected


async def test_playerctld_comes_and_goes(bus, follower):
    await follower.start()
    assert follower.chosen == []
    assert not bus.calls("StartServiceByName")
    bus.own(PLAYERCTLD, ":1.9")
    await bus.settle()
    assert follower.chosen == [PREFIX + "aa"]
    bus.own(PLAYERCTLD, None)
    await bus.settle()
    assert follower.chosen == [PREFIX + "aa", None]


async def test_what_is_told_is_newer_than_what_was_asked(bus, follower):
    bus.answers[":1.9", "Get"] = lambda call: None
    bus.names[PLAYERCTLD] = ":1.9"
    await follower.start()
    question = await bus.asked("Get")
    tell(bus, variant("as", ["bb"]))
    await bus.settle()
    bus.reply(question, "v", [variant("as", ["aa"])])
    await bus.settle()
    assert follower.chosen == [PREFIX + "bb"]


async def test_a_playerctld_that_says_nonsense(bus, follower, caplog):
    bus.names[PLAYERCTLD] = ":1.9"
    await follower.start()
    await bus.settle()
    tell(bus, variant("as", ["cc"]), owner=":1.66")
    tell(bus, variant("as", ["cc"]), interface=PLAYER)
    tell(bus, variant("u", 1))
    tell(bus, variant("au", [1]))
    tell(bus, variant("as", []))
    bus.signal(":1.9", PATH, PROPERTIES, "PropertiesChanged", "s", ["x"])
    values = [PLAYERCTLD_INTERFACE, {}, ["PlayerNames"]]
    bus.signal(":1.9", PATH, PROPERTIES, "PropertiesChanged", "sa{sv}as", values)
    await bus.settle()
    assert follower.chosen == [PREFIX + "aa", None, None, PREFIX + "aa"]
    bus.answers[":1.9", "Get"] = lambda call: ("s", ["no list"])
    bus.signal(":1.9", PATH, PROPERTIES, "PropertiesChanged", "sa{sv}as", values)
    del bus.answers[":1.9", "Get"]
    bus.signal(":1.9", PATH, PROPERTIES, "PropertiesChanged", "sa{sv}as", values)
    await bus.settle()
    assert len(follower.chosen) == 4
    assert not [record for record in caplog.records if record.exc_info]

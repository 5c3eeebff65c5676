"""Tests of buswork.libipc.holders, through the objects of the wing on a scripted bus."""

import asyncio

import pytest
from libipc.bus_world import World
from support.fakebus import FakeBus, FakePolkit
from support.toyface import ALICE, ALICE_UID, BOB, BOB_UID, Stack

from buswork.authority import Limits
from buswork.bus.caller import Call
from buswork.libipc.errors import NoSuchService
from buswork.libipc.face import HUB
from buswork.libipc.holders import CHANNEL, ROOT, SERVICE, TAKEN_AWAY

FORCE = Call(BOB, BOB_UID, 0, "/")


async def watched(world, sender):
    await world.bus.settle()
    return any(sender in rule for rule in world.bus.matches)


def objects(world):
    return world.quotas.used(ALICE_UID, "objects")


async def test_who_has_what(world):
    channel, _ = await world.open(ALICE)
    service, _ = await world.serve(BOB, "ping")
    assert world.held() == [
        (channel, "a channel to pong", ALICE),
        (service, "the service ping", BOB),
    ]
    assert (channel, service) == (f"{ROOT}/channels/1", f"{ROOT}/services/2")


@pytest.mark.attack(34)
async def test_nobody_else_may_use_it(world):
    channel, inner = await world.open(ALICE)
    service, served = await world.serve(ALICE)
    number = served.come()
    for path, interface, member, signature, *values in (
        (channel, CHANNEL, "Send", "yay", 0, b"x"),
        (channel, CHANNEL, "Grant", "u", 1),
        (channel, CHANNEL, "Close", ""),
        (service, SERVICE, "Send", "uyay", number, 0, b"x"),
        (service, SERVICE, "Disconnect", "u", number),
        (service, SERVICE, "Grant", "u", 1),
        (service, SERVICE, "Close", ""),
    ):
        name, text = await world.refused(BOB, path, interface, member, signature, *values)
        assert name == "NotOwner"
        assert path in text
    assert (inner.sent, inner.credits, inner.is_closed) == ([], 32, False)
    assert (served.sent, served.credits, served.is_closed) == ([], 32, False)


async def test_another_connection_of_the_owner_is_somebody_else(world):
    channel, _ = await world.open(ALICE)
    world.bus.uids[":1.77"] = ALICE_UID
    assert (await world.refused(":1.77", channel, CHANNEL, "Close"))[0] == "NotOwner"


async def test_closing_it(world):
    channel, inner = await world.open(ALICE)
    service, served = await world.serve(ALICE)
    await world.call(ALICE, channel, CHANNEL, "Close")
    await world.call(ALICE, service, SERVICE, "Close")
    assert (inner.is_closed, served.is_closed) == (True, True)
    assert (world.held(), objects(world)) == ([], 0)
    assert not await watched(world, ALICE)
    for path, interface in ((channel, CHANNEL), (service, SERVICE)):
        assert (await world.refused(ALICE, path, interface, "Close"))[0] == "UnknownObject"
    assert not [news for news in await world.told() if news[2] == "Closed"]


async def test_all_goes_when_the_owner_leaves(world):
    await world.open(ALICE)
    await world.serve(ALICE)
    kept, _ = await world.open(BOB)
    await world.leave(ALICE)
    first, second = world.hub.channels
    assert (first.is_closed, second.is_closed) == (True, False)
    assert world.hub.services_[0].is_closed
    assert [path for path, _, _ in world.held()] == [kept]
    assert objects(world) == 0
    await world.until(lambda: world.stack.tree.children(ROOT) == ["channels"])


@pytest.mark.parametrize("reason", ["", "it sent nonsense"])
async def test_the_service_ends_it(world, reason):
    channel, inner = await world.open(ALICE)
    await world.told()
    inner.says(1, b"last")
    inner.ends(reason)
    assert await world.told() == [
        (ALICE, channel, "Message", 1, b"last"),
        (ALICE, channel, "Closed", reason),
    ]
    assert (world.held(), objects(world), inner.is_closed) == ([], 0, True)
    assert (await world.refused(ALICE, channel, CHANNEL, "Close"))[0] == "UnknownObject"


async def test_a_service_that_ends_by_itself(world):
    service, served = await world.serve(ALICE)
    await world.told()
    served.events.ended("somebody took its name")
    assert await world.told() == [(ALICE, service, "Closed", "somebody took its name")]
    assert world.held() == []


async def test_it_is_taken_away_by_force(world):
    channel, inner = await world.open(ALICE)
    await world.told()
    world.holdings.force(channel, FORCE)
    assert inner.is_closed
    assert await world.told() == [(ALICE, channel, "Closed", TAKEN_AWAY)]
    assert not await watched(world, ALICE)


async def test_what_could_not_be_made_is_not_held(world):
    world.hub.error = NoSuchService("no")
    for _ in range(3):
        await world.refused(ALICE, ROOT, HUB, "OpenChannel", "sa{sv}", "pong", {})
    assert (world.held(), objects(world)) == ([], 0)
    assert not await watched(world, ALICE)


async def test_the_owner_leaves_while_it_is_made(world):
    world.hub.gate = asyncio.get_running_loop().create_future()
    world.bus.call(ALICE, ROOT, HUB, "OpenChannel", "sa{sv}", ["pong", {}])
    await world.until(lambda: world.hub.asked)
    await world.leave(ALICE)
    world.hub.gate.set_result(None)
    await world.until(lambda: world.hub.channels)
    await world.until(lambda: world.hub.channels[0].is_closed)
    assert (world.held(), objects(world)) == ([], 0)
    assert not world.stack.tree.children(ROOT)


async def test_a_thousand_channels(world):
    async with FakeBus() as bus:
        small = World(bus, FakePolkit(bus), await Stack.make(bus, Limits(objects=3)))
        for _ in range(3):
            await small.open(ALICE)
        for member in ("OpenChannel", "Serve"):
            name, text = await small.refused(ALICE, ROOT, HUB, member, "sa{sv}", "pong", {})
            assert name == "LimitsExceeded"
            assert "3 objects" in text
        await small.open(BOB)
        await small.call(ALICE, f"{ROOT}/channels/2", CHANNEL, "Close")
        await small.open(ALICE)
        small.faces.close()

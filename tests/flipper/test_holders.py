"""Tests of buswork.flipper.holders, through the face of boards on a scripted bus."""

import asyncio
import os
from types import SimpleNamespace

import pytest
from flipper.world import World
from support.fakebus import FakeBus, FakePolkit
from support.toyface import ALICE, ALICE_UID, BOB, BOB_UID, Stack

from buswork.authority import Limits
from buswork.bus.caller import Call
from buswork.errors import LimitsExceeded
from buswork.flipper import holders as module
from buswork.flipper.errors import NotResponding
from buswork.flipper.holders import MAX_TEXT_CHARACTERS, ROOT
from buswork.flipper.wire.exchanges import Answer
from buswork.flipper.wire.results import Result

FORCE = Call(BOB, BOB_UID, 0, "/")
LED = ("Invoke", "ssav", "led", "configure", [])


@pytest.fixture
async def world():
    async with FakeBus() as bus:
        polkit = FakePolkit(bus)
        yield World(bus, polkit, await Stack.make(bus, Limits(watches=2, descriptors=2)))


@pytest.fixture
async def far(world):
    return world.reach()


@pytest.fixture
async def carbon(world):
    return world.plug()


async def claim(world, sender, line, reason="mine", seconds=60):
    return await world.call(sender, line, "Claim", "su", reason, seconds)


async def watched(world, sender):
    await world.bus.settle()
    return any(sender in rule for rule in world.bus.matches)


# -- claims --------------------------------------------------------------------------------------


async def test_a_claim_keeps_others_out(world, far):
    token = await claim(world, ALICE, far, "flashing")
    assert world.held() == [
        (f"{ROOT}/claims/1", "carbon-10.0.0.1 alone: flashing", ALICE),
    ]
    name, text = await world.refused(BOB, far, *LED)
    assert name == "Claimed"
    assert "flashing" in text
    assert token not in text
    assert (await world.refused(BOB, far, "Claim", "su", "mine", 5))[0] == "Claimed"
    assert (await world.refused(ALICE, far, "Claim", "su", "again", 5))[0] == "Claimed"
    await world.call(ALICE, far, *LED)
    for member in ("Renew", "Release"):
        assert (await world.refused(BOB, far, member, "s", token))[0] == "NotOwner"
        assert (await world.refused(ALICE, far, member, "s", "guessed"))[0] == "NotOwner"
    await world.call(ALICE, far, "Release", "s", token)
    assert world.held() == []
    assert not await watched(world, ALICE)
    await world.call(BOB, far, *LED)


@pytest.mark.parametrize(
    ("reason", "seconds"), [("", 5), ("mine", 0), ("mine", 3601), ("mine", 2**32 - 1)]
)
async def test_claims_have_a_reason_and_an_end(world, far, reason, seconds):
    name, _ = await world.refused(ALICE, far, "Claim", "su", reason, seconds)
    assert (name, world.held()) == ("InvalidArgs", [])
    assert not await watched(world, ALICE)


async def test_a_claim_is_granted_after_what_was_asked_before(world, far):
    far.hold()
    before = world.begin(BOB, far, *LED)
    await world.until(lambda: far.board.turns.has_work)
    waiting = world.begin(ALICE, far, "Claim", "su", "mine", 5)
    await world.until(world.held)
    assert world.bus.answer_now(waiting) is None
    assert (await world.refused(BOB, far, *LED))[0] == "Claimed"
    far.release()
    world.value(await world.bus.answer_to(before))
    assert isinstance(world.value(await world.bus.answer_to(waiting)), str)


async def test_a_lease_runs_out_unless_it_is_renewed(world, far):
    token = await claim(world, ALICE, far, seconds=5)
    world.clock.time = 4
    await world.call(ALICE, far, "Renew", "s", token)
    world.clock.time = 8
    world.boards.expire(world.clock.time)
    assert len(world.held()) == 1
    world.clock.time = 9
    world.boards.expire(world.clock.time)
    assert world.held() == []
    assert not await watched(world, ALICE)
    assert (await world.refused(ALICE, far, "Release", "s", token))[0] == "NotOwner"


async def test_a_claim_goes_with_its_owner(world, far):
    await claim(world, ALICE, far)
    await world.leave(ALICE)
    assert (world.held(), far.board.claim) == ([], None)
    await world.call(BOB, far, *LED)


async def test_who_leaves_before_a_claim_is_granted_does_not_get_it(world, far):
    far.hold()
    world.begin(BOB, far, *LED)
    await world.until(lambda: far.board.turns.has_work)
    world.begin(ALICE, far, "Claim", "su", "mine", 5)
    await world.until(world.held)
    await world.leave(ALICE)
    assert (world.held(), far.board.turns.holder) == ([], None)
    far.release()
    assert far.board.claim is None


async def test_a_claim_can_be_taken_by_force(world, far):
    token = await claim(world, ALICE, far)
    world.holdings.force(f"{ROOT}/claims/1", FORCE)
    assert far.board.claim is None
    await claim(world, BOB, far)
    assert (await world.refused(ALICE, far, "Release", "s", token))[0] == "NotOwner"


async def test_so_can_one_that_waits(world, far):
    far.hold()
    world.begin(BOB, far, *LED)
    await world.until(lambda: far.board.turns.has_work)
    waiting = world.begin(ALICE, far, "Claim", "su", "mine", 5)
    await world.until(world.held)
    world.holdings.force(f"{ROOT}/claims/1", FORCE)
    name, text = world.error(await world.bus.answer_to(waiting))
    assert (name, text) == ("NotClaimed", "The claim was taken away before it was granted.")
    assert (world.held(), far.board.turns.holder) == ([], None)


async def test_a_claim_outlives_the_board(world, carbon):
    token = await claim(world, ALICE, carbon)
    world.boards.detach("usb:1-2")
    assert len(world.held()) == 1
    again = world.plug()
    assert (await world.refused(BOB, again, *LED))[0] == "Claimed"
    await world.call(ALICE, again, "Release", "s", token)
    assert world.held() == []


async def test_a_claim_may_end_without_the_board(world, carbon):
    await claim(world, ALICE, carbon, seconds=5)
    world.boards.detach("usb:1-2")
    world.boards.expire(5.0)
    assert world.held() == []


async def test_a_claim_that_waits_ends_with_the_board(world, carbon):
    carbon.hold()
    world.begin(BOB, carbon, *LED)
    await world.until(lambda: carbon.board.turns.has_work)
    waiting = world.begin(ALICE, carbon, "Claim", "su", "mine", 5)
    await world.until(world.held)
    world.boards.detach("usb:1-2")
    assert world.error(await world.bus.answer_to(waiting))[0] == "Disconnected"
    assert world.held() == []


async def test_claims_that_are_refused_leave_nothing(world, far):
    await claim(world, ALICE, far)
    for _ in range(100):
        assert (await world.refused(BOB, far, "Claim", "su", "mine", 5))[0] == "Claimed"
    assert len(world.held()) == 1
    assert not await watched(world, BOB)


# -- lending -------------------------------------------------------------------------------------


async def test_a_board_is_lent_when_it_is_closed(world, carbon):
    carbon.board.line_opened()
    lending = world.begin(ALICE, carbon, "Lend", "su", "flash", 60)
    await world.until(lambda: carbon.board.is_lent)
    assert world.bus.answer_now(lending) is None
    carbon.board.line_closed()
    token = world.value(await world.bus.answer_to(lending))
    assert (await world.properties(ALICE, carbon))["State"] == "lent"
    assert (await world.refused(ALICE, carbon, *LED))[0] == "Claimed"
    await world.call(ALICE, carbon, "Release", "s", token)
    assert (await world.properties(ALICE, carbon))["State"] == "ready"


async def test_a_board_that_goes_is_lent_too(world, carbon):
    listeners = [*world.boards.on_change]
    carbon.board.line_opened()
    lending = world.begin(ALICE, carbon, "Lend", "su", "flash", 60)
    await world.until(lambda: carbon.board.is_lent)
    world.boards.detach("usb:1-2")
    world.value(await world.bus.answer_to(lending))
    assert len(world.held()) == 1
    assert world.boards.on_change == listeners


async def test_a_board_on_the_network_is_not_lent(world, far):
    assert (await world.refused(ALICE, far, "Lend", "su", "x", 5))[0] == "InvalidArgs"
    assert far.board.claim is None


# -- events --------------------------------------------------------------------------------------


async def read(world, line, value):
    """The board is asked for what is subscribed to, and answers this."""
    line.result = Result(value)
    world.clock.time += 60.0
    line.board.poll(world.clock.time)
    await world.bus.settle()


async def test_events_are_for_those_who_subscribed(world, far):
    await world.call(ALICE, far, "Subscribe", "su", "button", 100)
    await world.call(BOB, far, "Subscribe", "su", "gpio:0x30", 100)
    far.answer = lambda exchange: Answer(Result(1 if not exchange.request.arguments else 0x10))
    await read(world, far, 0)
    assert sorted(await world.events()) == [(ALICE, "button", 1), (BOB, "gpio:0x30", 0x10)]
    await read(world, far, 0)
    assert await world.events() == []


async def test_a_subscription_ends_when_it_is_ended(world, far):
    for source in ("button", "gpio:16"):
        await world.call(ALICE, far, "Subscribe", "su", source, 100)
    assert len(world.held()) == 1
    await world.call(ALICE, far, "Unsubscribe", "s", "button")
    await read(world, far, 0x10)
    assert await world.events() == [(ALICE, "gpio:0x10", 0x10)]
    assert (await world.refused(ALICE, far, "Unsubscribe", "s", "button"))[0] == "InvalidArgs"
    assert (await world.refused(BOB, far, "Unsubscribe", "s", "gpio:16"))[0] == "InvalidArgs"
    await world.call(ALICE, far, "Unsubscribe", "s", "gpio:0x10")
    assert world.held() == []
    assert not await watched(world, ALICE)
    assert far.board.next_poll() is None
    assert world.stack.authority.quotas.used(ALICE_UID, "watches") == 0


async def test_subscriptions_that_are_asked_for_at_once_are_one_thing(world, far):
    begun = [
        world.begin(ALICE, far, "Subscribe", "su", source, 100) for source in ("button", "gpio:1")
    ]
    for call in begun:
        world.value(await world.bus.answer_to(call))
    assert len(world.held()) == 1
    assert world.stack.authority.quotas.used(ALICE_UID, "watches") == 1
    await world.leave(ALICE)
    assert world.stack.authority.quotas.used(ALICE_UID, "watches") == 0


@pytest.mark.parametrize("end", ["leave", "force", "unplug", "close"])
async def test_subscriptions_end_otherwise(world, carbon, end):
    for source in ("button", "gpio:16", "debug"):
        await world.call(ALICE, carbon, "Subscribe", "su", source, 100)
    ((path, what, client),) = world.held()
    assert (what, client) == ("events of carbon-1-2", ALICE)
    match end:
        case "leave":
            await world.leave(ALICE)
        case "force":
            world.holdings.force(path, FORCE)
        case "unplug":
            world.boards.detach("usb:1-2")
        case "close":
            world.desk.subscriptions.close()
    assert world.held() == []
    assert not await watched(world, ALICE)
    assert world.stack.authority.quotas.used(ALICE_UID, "watches") == 0
    if end in ("leave", "force"):
        assert carbon.board.holders() == []


@pytest.mark.parametrize(
    ("source", "interval"),
    [("nothing", 100), ("gpio:0", 100), ("button", 9), ("button", 60_001), ("debug", 9)],
)
async def test_bad_subscriptions(world, far, source, interval):
    name, _ = await world.refused(ALICE, far, "Subscribe", "su", source, interval)
    assert (name, world.held()) == ("InvalidArgs", [])
    assert not await watched(world, ALICE)
    assert world.stack.authority.quotas.used(ALICE_UID, "watches") == 0


async def test_a_user_subscribes_to_so_many_boards(world):
    lines = [world.reach(f"10.0.0.{number}") for number in range(3)]
    for line in lines[:2]:
        await world.call(ALICE, line, "Subscribe", "su", "button", 100)
    name, _ = await world.refused(ALICE, lines[2], "Subscribe", "su", "button", 100)
    assert name == "LimitsExceeded"
    await world.call(BOB, lines[2], "Subscribe", "su", "button", 100)


async def test_what_cannot_be_read_is_in_the_log(world, far, caplog):
    far.error = NotResponding("it is silent")
    await world.call(ALICE, far, "Subscribe", "su", "button", 50)
    far.board.poll(0.0)
    await world.until(lambda: caplog.messages)
    assert caplog.messages == [
        "carbon-10.0.0.1: button can't be read for subscribers: it is silent"
    ]


# -- what boards print ---------------------------------------------------------------------------


class Timers:
    """They go off when a test says so."""

    def __init__(self):
        self.planned = []

    def call_later(self, seconds, callback):
        self.planned.append((seconds, callback))
        return self

    def cancel(self):
        self.planned.clear()


def test_texts_are_told_together(monkeypatch):
    timers, told = Timers(), []
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: timers)
    texts = module._Texts(0.5, told.append)
    texts.add("one ")
    texts.add("two")
    ((seconds, callback),) = timers.planned
    assert (seconds, told) == (0.5, [])
    callback()
    assert told == ["one two"]
    timers.planned.clear()
    texts.add("x" * MAX_TEXT_CHARACTERS)
    texts.add("end")
    timers.planned.pop()[1]()
    assert told[1:] == ["x" * (MAX_TEXT_CHARACTERS - 3) + "end"]
    texts.add("never told")
    texts.close()
    assert (timers.planned, len(told)) == ([], 2)


async def test_what_a_board_prints_is_told_to_who_wants_it(world, far):
    other = world.reach("10.0.0.2")
    listened = []
    world.desk.subscriptions.on_listen = lambda board, is_on: listened.append((board, is_on))
    await world.call(ALICE, far, "Subscribe", "su", "debug", 10)
    assert listened == [(far.board, True)]
    await world.call(BOB, far, "Subscribe", "su", "button", 10)
    await world.call(BOB, other, "Subscribe", "su", "debug", 10)
    printed = world.desk.subscriptions.printed
    printed(far.board, "hello\n")
    await world.bus.next(lambda message: message.member == "Event")
    assert await world.events() == [(ALICE, "debug", "hello\n")]
    await world.call(ALICE, far, "Unsubscribe", "s", "debug")
    printed(far.board, "again\n")
    assert dict(listened) == {far.board: False, other.board: True}
    assert [client for _, _, client in world.held()] == [BOB, BOB]
    assert (await world.refused(ALICE, far, "Unsubscribe", "s", "debug"))[0] == "InvalidArgs"


# -- channels ------------------------------------------------------------------------------------


async def test_a_channel_is_held_until_it_ends(world, far):
    answer = await world.answer(ALICE, far, "OpenChannel")
    assert answer.error == ""
    os.close(answer.fds.pop())
    assert world.held() == [(f"{ROOT}/channels/1", "a channel to carbon-10.0.0.1", ALICE)]
    quotas = world.stack.authority.quotas
    assert quotas.used(ALICE_UID, "descriptors") == 1
    world.channels.opened.pop().on_end()
    assert (world.held(), quotas.used(ALICE_UID, "descriptors")) == ([], 0)
    assert not await watched(world, ALICE)


async def test_channels_end_with_their_owner(world, far):
    for _ in range(2):
        await world.answer(ALICE, far, "OpenChannel")
    assert (await world.refused(ALICE, far, "OpenChannel"))[0] == "LimitsExceeded"
    await world.leave(ALICE)
    assert (world.held(), world.channels.opened) == ([], [])
    assert world.stack.authority.quotas.used(ALICE_UID, "descriptors") == 0


async def test_force_ends_one_channel(world, far):
    for _ in range(2):
        await world.answer(ALICE, far, "OpenChannel")
    world.holdings.force(f"{ROOT}/channels/1", FORCE)
    assert [path for path, *_ in world.held()] == [f"{ROOT}/channels/2"]
    assert len(world.channels.opened) == 1
    assert world.stack.authority.quotas.used(ALICE_UID, "descriptors") == 1


async def test_a_daemon_without_descriptors_opens_no_channel(world, far):
    def fail():
        raise OSError(24, "Too many open files")

    world.channels.make = fail
    name, text = await world.refused(ALICE, far, "OpenChannel")
    assert name == "LimitsExceeded"
    assert "Too many open files" in text
    assert world.held() == []
    assert world.stack.authority.quotas.used(ALICE_UID, "descriptors") == 0


# -- transfers -----------------------------------------------------------------------------------


async def test_a_transfer_that_is_cancelled_was_not_ended_by_force(world):
    async def transfer():
        async with world.desk.transfers.held(FORCE, "a push", 1):
            await asyncio.Event().wait()

    task = asyncio.create_task(transfer())
    await world.until(world.held)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert world.held() == []


async def test_what_was_asked_for_goes_if_its_caller_cannot_be_watched(world, monkeypatch):
    async def hold(*_):
        raise LimitsExceeded("the bus allows no more rules")

    monkeypatch.setattr(world.holdings, "hold", hold)
    said = []
    waiting = SimpleNamespace(cancel=lambda: said.append("cancelled"))

    def ask():
        said.append("asked")
        return waiting

    with pytest.raises(LimitsExceeded):
        async with world.desk.transfers.asked(FORCE, "a push", 1, ask):
            pytest.fail("nobody watches")
    assert said == ["asked", "cancelled"]

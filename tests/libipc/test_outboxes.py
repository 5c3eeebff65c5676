"""Tests of buswork.libipc.outboxes: what a caller is told waits until it has read enough."""

import asyncio

import pytest
from support.toyface import ALICE, ALICE_UID, BOB

from buswork.bus import backlog
from buswork.bus.caller import Call
from buswork.libipc import outboxes as module
from buswork.libipc.holders import CHANNEL, ROOT, SERVICE

MIB = 1 << 20
LONG = bytes(MIB // 2)
SECOND = ":1.77"  # another connection of Alice's


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Who does not read is looked at again at once."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0)


def numbers(told):
    return [values[0] for _, _, member, *values in told if member == "Message"]


async def test_a_caller_that_reads_misses_nothing(world):
    _, channel = await world.open(ALICE)
    for number in range(20):
        channel.says(number, LONG)
    await world.until(lambda: len(world.bus.signals("Message")) == 20)
    assert numbers(await world.told()) == list(range(20))
    assert not channel.is_paused


async def test_little_costs_no_more_than_one_look(world):
    _, channel = await world.open(ALICE)
    for number in range(100):
        channel.says(number, b"hello")
    await world.told()
    assert world.looks == [ALICE]


async def test_a_caller_that_reads_nothing_is_told_no_more(world):
    _, channel = await world.open(ALICE)
    _, served = await world.serve(ALICE, "ping")
    world.unread[ALICE] = MIB
    channel.says(1, b"first")
    served.come()
    channel.says(2, b"second")
    await world.until(lambda: len(world.looks) > 3)
    assert await world.told() == []
    assert channel.is_paused
    assert served.is_paused
    # What it opens meanwhile waits too.
    _, late = await world.open(ALICE)
    assert late.is_paused
    world.unread[ALICE] = 0
    await world.until(lambda: not channel.is_paused)
    told = await world.told()
    assert [member for _, _, member, *_ in told] == ["Message", "Connected", "Message"]
    assert not late.is_paused
    assert not served.is_paused


async def test_others_are_told_meanwhile(world):
    _, channel = await world.open(ALICE)
    _, other = await world.open(BOB)
    world.unread[ALICE] = 2 * MIB
    channel.says(1, b"first")
    await world.until(lambda: channel.is_paused)
    for number in range(5):
        other.says(number, LONG)
    await world.until(lambda: len(world.bus.signals("Message")) == 5)
    assert not other.is_paused
    assert channel.is_paused


async def test_one_deaf_program_does_not_stop_its_users_others_but_two_do(world):
    world.bus.uids[SECOND] = world.bus.uids[":1.78"] = ALICE_UID
    channels = {name: (await world.open(name))[1] for name in (ALICE, SECOND, ":1.78")}
    world.unread[ALICE] = MIB
    channels[ALICE].says(1, b"first")
    await world.until(lambda: channels[ALICE].is_paused)
    channels[SECOND].says(2, b"second")
    await world.until(lambda: numbers_of(world) == [2])
    world.unread[SECOND] = MIB
    channels[SECOND].says(3, LONG)
    channels[SECOND].says(4, LONG)
    channels[SECOND].says(5, LONG)
    await world.until(lambda: channels[SECOND].is_paused)
    channels[":1.78"].says(6, b"third")
    await world.until(lambda: world.looks.count(":1.78") > 3)
    assert 6 not in numbers_of(world)
    world.unread.clear()
    await world.until(lambda: not any(each.is_paused for each in channels.values()))
    assert sorted(numbers_of(world)) == [1, 2, 3, 4, 5, 6]


def numbers_of(world):
    return [message.values[0] for message in world.bus.signals("Message")]


async def test_a_long_message_is_told_to_who_has_read_all(world):
    _, channel = await world.open(ALICE)
    channel.says(1, bytes(1_999_988))
    await world.until(lambda: numbers_of(world) == [1])


async def test_what_others_leave_unread_of_the_wing_holds_nobody_up(world, monkeypatch):
    _, channel = await world.open(ALICE)
    monkeypatch.setattr(backlog, "PART_BYTES", -1)
    channel.says(1, b"first")
    await world.until(lambda: numbers_of(world) == [1])


async def test_no_user_may_leave_more_unread_than_is_left_free(world, monkeypatch):
    monkeypatch.setattr(module, "MOST_UNREAD_BYTES", 2 * MIB)
    _, channel = await world.open(ALICE)
    _, other = await world.open(BOB)
    world.unread[ALICE] = MIB - 1000
    channel.says(1, b"first")
    channel.says(2, LONG)
    await world.until(lambda: channel.is_paused and world.looks.count(ALICE) > 3)
    other.says(3, LONG)
    await world.until(lambda: numbers_of(world) == [1, 3])
    assert channel.is_paused


async def test_what_was_told_of_what_is_gone_counts_until_it_is_read(world):
    """Else one program after the other would fill the bus."""
    path, channel = await world.open(ALICE)
    channel.says(1, bytes(2 * MIB))
    await world.until(lambda: numbers_of(world) == [1])
    assert not channel.is_paused
    world.unread[ALICE] = 2 * MIB
    await world.call(ALICE, path, CHANNEL, "Close")
    world.bus.uids[SECOND] = ALICE_UID
    _, channel = await world.open(SECOND)
    channel.says(2, b"second")
    await world.until(lambda: world.looks.count(SECOND) > 3)
    assert numbers_of(world) == [1]
    world.unread.clear()
    await world.until(lambda: numbers_of(world) == [1, 2])
    await world.until(lambda: world.outboxes._boxes[ALICE].is_idle)


async def test_nothing_is_lost_while_all_signals_are_held_up(world, monkeypatch):
    _, channel = await world.open(ALICE)
    monkeypatch.setattr(backlog.Backlog, "is_silent", lambda self, part=None: True)
    channel.says(1, b"first")
    await world.until(lambda: len(world.looks) > 2)
    assert channel.is_paused
    monkeypatch.undo()
    channel.says(2, b"second")
    await world.until(lambda: numbers_of(world) == [1, 2])
    assert not channel.is_paused
    assert world.stack.edge.dropped_signals == 0


async def test_the_end_is_told_last(world):
    path, channel = await world.open(ALICE)
    world.unread[ALICE] = MIB
    channel.says(1, b"first")
    channel.ends("")
    await world.until(lambda: len(world.looks) > 2)
    assert world.stack.tree.get(path) is not None
    world.unread[ALICE] = 0
    await world.until(lambda: world.stack.tree.get(path) is None)
    assert [member for _, _, member, *_ in await world.told()] == ["Message", "Closed"]


async def test_what_waits_goes_with_its_object(world):
    path, channel = await world.open(ALICE)
    kept, other = await world.open(ALICE)
    world.unread[ALICE] = MIB
    channel.says(1, b"first")
    other.says(2, b"second")
    await world.call(ALICE, path, CHANNEL, "Close")
    world.unread[ALICE] = 0
    await world.until(lambda: numbers_of(world))
    assert [told[:3] for told in await world.told()] == [(ALICE, kept, "Message")]


async def test_who_comes_back_has_no_more_room_than_before(world):
    """Else to open, be told and close again would fill the bus."""
    for _ in range(2):
        path, channel = await world.open(ALICE)
        world.unread[ALICE] = 2 * MIB
        channel.says(1, b"first")
        await world.until(lambda channel=channel: channel.is_paused)
        await world.call(ALICE, path, CHANNEL, "Close")
    assert numbers_of(world) == []


async def test_what_comes_at_once_when_it_goes_on_may_be_too_much_again(world):
    """Then the others do not go on yet."""
    box = world.outboxes.of(Call(ALICE, ALICE_UID, 0, ROOT))
    path, _ = await world.open(BOB)
    held_up = []

    class Source:
        def pause(self):
            """It is told enough by `resume`."""

        def resume(self):
            held_up.append(box._task is not None)
            if len(held_up) == 1:
                for number in range(4):
                    box.tell(path, CHANNEL, "Message", number, LONG)

    for _ in range(2):
        box.join(Source())
    box.tell(path, CHANNEL, "Message", 9, b"first")
    await world.until(lambda: len(held_up) > 2)
    assert not any(held_up)
    assert numbers_of(world) == [9, 0, 1, 2, 3]


async def test_boxes_of_those_who_have_nothing_are_forgotten(world):
    for number in range(5):
        name = f":5.{number}"
        world.bus.uids[name] = 5000 + number
        path, _ = await world.serve(name)
        await world.call(name, path, SERVICE, "Close")
    await world.open(ALICE)
    assert list(world.outboxes._boxes) == [ALICE]
    assert not world.outboxes._unread_by_uid


async def test_in_the_end_nobody_is_looked_at(world, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 1000)
    path, channel = await world.open(ALICE)
    world.unread[ALICE] = MIB
    channel.says(1, b"first")
    await world.until(lambda: world.looks)
    world.faces.close()
    world.outboxes.close()
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if "_catch_up" in repr(task)]
    assert world.stack.tree.get(path) is None
    world.faces.__init__(world.stack.edge, world.hub, world.holders, world._whose)

"""Channels: a service's messages for a caller, as far as there are credits."""

import asyncio
from itertools import pairwise

import pytest
from libipc.native.town import ME, UID, fill, until

from buswork.authority import Limits
from buswork.errors import InvalidArgs, LimitsExceeded
from buswork.libipc.errors import NoSuchService, NotAllowed, PeerGone, QueueFull
from buswork.libipc.model.credits import MAX_CREDITS, START_CREDITS
from buswork.libipc.native.channels import TURN_MESSAGES
from buswork.libipc.wire.forms import Form, Message, frame


class Owner:
    """Opens a channel, and hears of it."""

    def __init__(self, town):
        self.town = town
        self.messages = []
        self.ended = []

    async def open(self, name="pong", form=None, directory=None):
        self.channel = await self.town.hub.open_channel(
            ME, name, form, directory, self._heard, self.ended.append
        )
        assert not self.messages
        return self.channel

    def _heard(self, user_type, payload):
        self.messages.append((user_type, payload))


@pytest.fixture
def owner(town):
    return Owner(town)


@pytest.fixture(params=Form)
async def pair(request, town, owner):
    """The channel, and the service's end of it."""
    directory = town.c if request.param is Form.C else town.zig
    service = town.service("pong", directory)
    channel = await owner.open()
    assert (channel.service, channel.form, channel.directory) == ("pong", *directory)
    return channel, await service.accept()


async def test_messages_go_both_ways(pair, owner):
    channel, service = pair
    channel.send(0, b"there")
    assert (await service.receive()).payload == b"there"
    await service.send(b"back")
    await until(lambda: owner.messages)
    assert owner.messages == [(0, b"back")]


async def test_user_types_go_both_ways_where_the_form_has_them(town, owner):
    service = town.service("pong")
    channel = await owner.open()
    program = await service.accept()
    channel.send(255, b"x")
    assert await program.receive() == Message(b"x", 255)
    await program.send(b"y", 42)
    await until(lambda: owner.messages)
    assert owner.messages == [(42, b"y")]


async def test_what_the_form_does_not_carry_is_refused(town, owner):
    town.service("pong", town.zig)
    channel = await owner.open()
    for user_type, payload in ((1, b"x"), (0, b""), (0, bytes(99_993))):
        with pytest.raises(InvalidArgs):
            channel.send(user_type, payload)


async def test_without_credits_nothing_is_read(pair, owner):
    channel, service = pair
    for number in range(START_CREDITS + 10):
        await service.send(b"%d" % number)
    await until(lambda: len(owner.messages) == START_CREDITS)
    assert channel.credits == 0
    while True:  # until the kernel takes no more
        try:
            service.sock.send(frame(service.form, bytes(1000)))
        except BlockingIOError:
            break
        await asyncio.sleep(0)
    assert len(owner.messages) == START_CREDITS
    channel.grant(5)
    await until(lambda: len(owner.messages) == START_CREDITS + 5)
    assert [int(payload) for _, payload in owner.messages] == [*range(START_CREDITS + 5)]
    assert channel.credits == 0


async def test_what_one_read_brings_is_not_more_than_there_are_credits(pair, owner):
    channel, service = pair
    service.sock.send(b"".join(frame(service.form, b"%d" % number) for number in range(500)))
    await until(lambda: owner.messages)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(owner.messages) == START_CREDITS
    for _ in range(500 - START_CREDITS):
        channel.grant(1)
    await until(lambda: len(owner.messages) == 500)
    assert [int(payload) for _, payload in owner.messages] == [*range(500)]


async def test_others_have_their_turn_while_many_come(pair, owner):
    channel, service = pair
    channel.grant(900)
    await asyncio.get_running_loop().sock_sendall(service.sock, frame(channel.form, b"x") * 100)
    told = [0]
    while told[-1] < 100:
        await asyncio.sleep(0)
        told.append(len(owner.messages))
    assert max(after - before for before, after in pairwise(told)) <= TURN_MESSAGES


async def test_a_channel_that_is_closed_amid_many_says_no_more(pair, owner):
    channel, service = pair
    channel.grant(900)
    await asyncio.get_running_loop().sock_sendall(service.sock, frame(channel.form, b"x") * 100)
    await until(lambda: len(owner.messages) == TURN_MESSAGES)
    channel.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(owner.messages) == TURN_MESSAGES


async def test_long_messages_cost_more(pair, owner):
    channel, service = pair
    sending = asyncio.create_task(service.send(bytes(70_000)))
    await until(lambda: owner.messages)
    await sending
    assert channel.credits == START_CREDITS - 2


async def test_no_more_credits_than_may_be_had(pair):
    with pytest.raises(InvalidArgs):
        pair[0].grant(MAX_CREDITS)


async def test_a_pause_is_none_of_credits(pair, owner):
    channel, service = pair
    channel.pause()
    channel.grant(1)
    await service.send(b"x")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not owner.messages
    channel.resume()
    await until(lambda: owner.messages)


async def test_the_end_comes_after_the_messages(pair, owner):
    channel, service = pair
    channel.pause()
    await service.send(b"last words")
    service.close()
    channel.resume()
    await until(lambda: owner.ended)
    assert owner.messages == [(0, b"last words")]
    assert owner.ended == [""]
    assert owner.town.quotas.used(UID, "descriptors") == 0
    assert not owner.town.hub._channels


async def test_a_service_that_talks_nonsense_is_told_as_the_reason(town, owner):
    service = town.service("pong")
    await owner.open()
    program = await service.accept()
    program.sock.send(b"\x02\xff\xff\xff\xff\x00")
    await until(lambda: owner.ended)
    assert "4294967295 bytes" in owner.ended[0]


async def test_after_the_end_nothing_is_sent(pair, owner):
    channel, service = pair
    service.close()
    await until(lambda: owner.ended)
    with pytest.raises(PeerGone):
        channel.send(0, b"x")
    channel.grant(1)
    channel.resume()
    channel.close()
    assert owner.ended == [""]


async def test_a_closed_channel_says_nothing_more(pair, owner):
    channel, service = pair
    await service.send(b"x")
    channel.close()
    assert await service.ends()
    assert not owner.messages
    assert not owner.ended


async def test_a_service_that_reads_nothing_fills_the_queue_and_then_there_is_room(pair, owner):
    channel, service = pair
    rooms = []
    channel.on_room = lambda: rooms.append(1)
    sent = fill(lambda number: channel.send(0, b"%d" % number))
    with pytest.raises(QueueFull):
        channel.send(0, b"x")
    assert not rooms
    for number in range(sent):
        assert (await service.receive()).payload == b"%d" % number
    assert rooms == [1]


async def test_a_thousand_channels_by_one_caller(town, owner):
    """Each may have so many as descriptors; the others are refused at once."""
    town.service("pong").listener.listen(2000)
    town.authority.quotas.limits = Limits(descriptors=100)
    channels, refused = [], 0
    for _ in range(1000):
        try:
            channels.append(await owner.open())
        except LimitsExceeded:
            refused += 1
    assert (len(channels), refused) == (100, 900)
    for channel in channels:
        channel.close()
    await owner.open()


async def test_a_channel_that_can_not_be_had_costs_nothing(town, owner):
    with pytest.raises(NoSuchService):
        await owner.open()
    town.service("pong", mode=0).close()
    with pytest.raises((NoSuchService, NotAllowed)):
        await owner.open()
    assert town.quotas.used(UID, "descriptors") == 0


async def test_its_owner_may_close_it_while_it_is_told(town, owner):
    service = town.service("pong")
    channel = await owner.open()
    program = await service.accept()
    channel._on_message = lambda user_type, payload: (
        owner.messages.append(payload),
        channel.close(),
    )
    program.sock.send(frame(Form.C, b"1") + frame(Form.C, b"2"))
    assert await program.ends()
    assert owner.messages == [b"1"]


# What a connection holds in memory is charged to somebody


def waiting(town):
    return town.quotas.used(UID, "waiting_bytes")


async def test_a_part_of_a_message_is_charged_as_it_comes(town, owner):
    service = town.service("pong")
    channel = await owner.open()
    program = await service.accept()
    data = frame(Form.C, bytes(1_000_000))
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(program.sock, data[:500_000])
    await until(lambda: waiting(town) > 400_000)
    assert waiting(town) < 1_000_000
    await loop.sock_sendall(program.sock, data[500_000:])
    await until(lambda: owner.messages)
    await until(lambda: not waiting(town))
    channel.close()


async def test_what_does_not_leave_is_charged_until_it_leaves(pair, owner):
    channel, service = pair
    sent = fill(lambda number: channel.send(0, bytes(10_000)))
    assert waiting(owner.town) > 500_000
    for _ in range(sent):
        await service.receive()
    await until(lambda: not waiting(owner.town))


async def test_what_one_read_brought_beyond_the_credits_is_charged(pair, owner):
    channel, service = pair
    service.sock.send(b"".join(frame(service.form, b"x") for _ in range(1000)))
    await until(lambda: len(owner.messages) == START_CREDITS)
    assert waiting(owner.town) > 1000 * 100
    channel.grant(1000)
    await until(lambda: len(owner.messages) == 1000)
    await until(lambda: not waiting(owner.town))


async def test_who_has_too_much_waiting_loses_the_connection_that_brings_more(town, owner):
    town.authority.quotas.limits = Limits(waiting_bytes=300_000)
    service = town.service("pong")
    await owner.open()
    program = await service.accept()
    sending = asyncio.create_task(program.send(bytes(1_000_000)))
    await until(lambda: owner.ended)
    assert "waiting bytes" in owner.ended[0]
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await sending
    assert not waiting(town)


async def test_and_sends_no_more(town, owner):
    town.authority.quotas.limits = Limits(waiting_bytes=300_000)
    service = town.service("pong")
    channel = await owner.open()
    program = await service.accept()
    sent = fill(lambda number: channel.send(0, bytes(30_000)), LimitsExceeded)
    assert 100_000 < waiting(town) <= 300_000
    for _ in range(sent):
        await program.receive()
    channel.close()  # and not what was refused
    assert await program.ends()
    assert not waiting(town)

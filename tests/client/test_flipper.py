"""Tests of buswork.client.flipper, and of its blocking face, on a private bus."""

import asyncio
import os
import socket

import pytest
from client.private_bus import PrivateBus

from buswork.client import (
    BoardFacts,
    BusworkError,
    Client,
    Disconnected,
    Event,
    InvalidArgs,
    NoReply,
    blocking,
)
from buswork.client import flipper as module
from buswork.flipper.wire.exchanges import AnswerReader, Exchange, outgoing
from buswork.flipper.wire.modules import TABLES
from buswork.flipper.wire.plans import standard
from buswork.flipper.wire.terms import Framing, Generation, Processor

SIMULATOR = ("/org/buswork/simulator/boards", "org.buswork.Simulator.Boards")
BUTTON = Exchange(standard(*TABLES[Generation.G1, Processor.S4].find("button", "read")))
PATIENCE = 10.0


@pytest.fixture(scope="module")
def simulated():
    with PrivateBus() as bus:
        bus.start_daemon("--simulate")
        yield bus


@pytest.fixture
async def client(simulated):
    async with Client(simulated.address) as client:
        yield client


@pytest.fixture
async def board(client):
    return await client.flipper.find("carbon-1-3")


async def simulator(client, member, signature, *values):
    await client.call(SIMULATOR, member, signature, values)


async def next_of(events):
    async with asyncio.timeout(PATIENCE):
        return await anext(events)


async def test_boards(client):
    flipper = client.flipper
    assert await flipper.current() == "bench"
    assert (await flipper.find()).name == "bench"
    found = {facts.name: facts for facts in await flipper.boards()}
    assert set(found) == {"bench", "carbon-1-3"}
    facts = await (await flipper.find("carbon-1-3")).facts()
    assert isinstance(facts, BoardFacts)
    assert facts.modules["button"] == ["configure()", "read()"]
    assert (facts.transport, facts.place, facts.generation) == ("usb", "1-3", 1)
    assert found["carbon-1-3"].modules == facts.modules
    with pytest.raises(BusworkError, match="there is no board nope") as caught:
        await flipper.find("nope")
    assert caught.value.name == "org.flipper.Error.NoSuchBoard"


async def test_there_may_be_no_board(client):
    await simulator(client, "Unplug", "s", "1-3")
    await simulator(client, "Unplug", "s", "1-4")
    try:
        async with asyncio.timeout(PATIENCE):
            while await client.flipper.boards():
                pass
        assert await client.flipper.current() is None
        with pytest.raises(BusworkError, match="there is no board"):
            await client.flipper.find()
    finally:
        await simulator(client, "Plug", "s", "1-3")
        await simulator(client, "Plug", "s", "1-4")
    async with asyncio.timeout(PATIENCE):
        while len(await client.flipper.boards()) < 2 or await client.flipper.current() != "bench":
            pass


async def test_calls(client, board):
    assert await board.invoke("led", "rgb", 0, 64, 255) is None
    assert await board.invoke("button", "read") == 0
    with pytest.raises(InvalidArgs, match="red"):
        await board.invoke("led", "rgb", -1, 0, 0)
    with pytest.raises(InvalidArgs, match="red"):
        await board.invoke("led", "rgb", 2**64 - 1, 0, 0)
    with pytest.raises(InvalidArgs, match="64 bits"):
        await board.invoke("led", "rgb", 2**64, 0, 0)
    await board.reset()


async def test_data(client, board, tmp_path):
    await simulator(client, "SendSerial", "say", "1-3", b"hello, world")
    assert await board.push("usart", "push", b"x" * 300) == 300
    assert await board.pull("usart", "pull", 5) == b"hello"
    with (tmp_path / "file").open("w+b") as file:
        assert await board.pull_to("usart", "pull", 7, file.fileno()) == 7
        file.seek(0)
        assert file.read() == b", world"
        file.seek(0)
        assert await board.push_from("usart", "push", file.fileno()) == 7


async def test_user_modules(board):
    with pytest.raises(BusworkError) as caught:
        await board.bind("nothing")
    assert caught.value.name == "org.flipper.Error.Module"
    with pytest.raises(InvalidArgs, match="no image"):
        await board.load(b"x")
    with pytest.raises(InvalidArgs, match="index"):
        await board.invoke_user(7, 0)


async def test_claims(simulated, client, board):
    token = await board.claim("mine", 60)
    await board.renew(token)
    async with Client(simulated.address) as other:
        theirs = await other.flipper.find(board.name)
        assert (await theirs.facts()).claim_reason == "mine"
        with pytest.raises(BusworkError, match="mine") as caught:
            await theirs.invoke("button", "read")
        assert caught.value.name == "org.flipper.Error.Claimed"
        await board.release(token)
        token = await theirs.lend("flash", 60)
        assert (await theirs.facts()).state == "lent"
    async with asyncio.timeout(PATIENCE):  # the other client has left
        while (await board.facts()).state == "lent":
            pass
    assert await board.invoke("button", "read") == 0


async def test_a_claim_for_service(board):
    pins = ("u2.gpio", "write", 0, 0)
    for service in (False, True):
        token = await board.claim("mine", 60, service=service)
        if service:
            assert await board.invoke(*pins) is None
        else:
            with pytest.raises(BusworkError, match="for service"):
                await board.invoke(*pins)
        await board.release(token)


async def test_a_channel(board):
    with socket.socket(fileno=await board.open_channel()) as channel:
        channel.settimeout(PATIENCE)
        for message in outgoing(BUTTON, Framing.UDP):
            channel.send(message)
        answer = AnswerReader(BUTTON, Framing.UDP).feed(await asyncio.to_thread(channel.recv, 100))
    assert answer.result == (0, 0)


async def test_boards_on_the_network(client):
    with pytest.raises(BusworkError) as caught:
        await client.flipper.attach("localhost")
    assert caught.value.name == "org.flipper.Error.NoDoors"
    with pytest.raises(InvalidArgs):
        await client.flipper.detach(await client.flipper.find())


# -- events --------------------------------------------------------------------------------------


async def test_events(client, board):
    async with board.events("button", interval_ms=10) as events:
        assert await next_of(events) == Event("button", 0)
        await simulator(client, "SetButton", "sb", "1-3", True)
        assert await next_of(events) == Event("button", 1)
        (holder,) = (await board.facts()).holders
        assert (holder.uid, holder.what) == (os.getuid(), "button")
    await simulator(client, "SetButton", "sb", "1-3", False)
    assert (await board.facts()).holders == ()


async def test_events_of_one_source_may_be_had_twice(client, board):
    async with board.events("button", interval_ms=10) as events:
        with pytest.raises(InvalidArgs, match="interval"):
            async with board.events("button", interval_ms=1):
                pytest.fail("nothing is read so often")
        async with board.events("button", "gpio:4194304", interval_ms=20) as others:
            heard = {await next_of(others), await next_of(others)}
            assert heard == {Event("button", 0), Event("gpio:0x400000", 0)}
        assert await next_of(events) == Event("button", 0)
        await simulator(client, "SetButton", "sb", "1-3", True)
        assert await next_of(events) == Event("button", 1)
    await simulator(client, "SetButton", "sb", "1-3", False)
    assert (await board.facts()).holders == ()


@pytest.mark.parametrize(
    ("source", "told"),
    [("gpio:16", "gpio:0x10"), ("gpio:0X0A", "gpio:0xa"), ("gpio:x", "gpio:x"), ("usart", "usart")],
)
def test_sources_are_called_as_events_call_them(source, told):
    assert module._as_told(source) == told


async def test_bad_sources_leave_nothing(board):
    with pytest.raises(InvalidArgs, match="no source"):
        async with board.events("button", "nothing"):
            pytest.fail("there is no such source")
    assert (await board.facts()).holders == ()


async def test_events_end_with_the_board(client):
    board = await client.flipper.find("bench")
    async with board.events("button") as events:
        await next_of(events)
        await simulator(client, "Unplug", "s", "1-4")
        with pytest.raises(Disconnected, match="bench is gone"):
            await next_of(events)
    await simulator(client, "Plug", "s", "1-4")


async def test_events_end_with_the_client(simulated):
    async with Client(simulated.address) as client:
        board = await client.flipper.find("carbon-1-3")
        async with board.events("button") as events:
            await next_of(events)
            await client.close()
            with pytest.raises(Disconnected, match="bus is gone"):
                await next_of(events)


async def test_events_end_with_the_daemon(bus):
    bus.kill_daemon()
    bus.start_daemon("--simulate")
    async with Client(bus.address) as client:
        board = await client.flipper.find("carbon-1-3")
        async with board.events("button") as events:
            await next_of(events)
            bus.kill_daemon()
            bus.start_daemon("--simulate")
            with pytest.raises(NoReply, match="anew"):
                await next_of(events)


async def test_of_many_events_the_newest_are_kept(monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    waiting = module._Waiting()
    for value in range(3):
        waiting.put(Event("button", value))
    events = waiting.events()
    assert [(await anext(events)).value for _ in range(2)] == [1, 2]


# -- blocking ------------------------------------------------------------------------------------


def test_without_asyncio(simulated, tmp_path):
    with blocking.Client(simulated.address) as client:
        flipper = client.flipper
        assert flipper.current() in {facts.name for facts in flipper.boards()}
        board = flipper.find("carbon-1-3")
        assert board.facts().name == "carbon-1-3"
        assert board.invoke("led", "rgb", 1, 2, 3) is None
        assert board.push("usart", "push", b"abc") == 3
        token = board.claim("mine", 5)
        board.renew(token)
        board.release(token)
        board.release(board.lend("mine", 5))
        board.reset()
        os.close(board.open_channel())
        with (tmp_path / "file").open("w+b") as file:
            assert board.pull_to("usart", "pull", 0, file.fileno()) == 0
            assert board.push_from("usart", "push", file.fileno()) == 0
        with board.events("button", interval_ms=10) as events:
            assert next(events) == Event("button", 0)
        for fails in (
            lambda: board.pull("usart", "push", 1),
            lambda: board.bind("nothing"),
            lambda: board.load(b""),
            lambda: board.invoke_user(7, 0),
            lambda: flipper.attach("localhost"),
            lambda: flipper.detach(board),
        ):
            with pytest.raises(BusworkError):
                fails()
        with board.events("button") as events:
            next(events)
            client.close()
            with pytest.raises(Disconnected):
                next(events)

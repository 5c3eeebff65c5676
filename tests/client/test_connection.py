import asyncio
import os

import pytest

from buswork.bus.message import FieldCode, Kind, encode_message
from buswork.bus.transport import Connection
from buswork.client import (
    AccessDenied,
    Client,
    Disconnected,
    InvalidArgs,
    NotRunning,
    TimedOut,
)

STORE = ("/org/mapipc/Store", "org.mapipc.Store")


async def test_a_thousand_gathered_calls(shared_bus):
    async with Client(shared_bus.address) as client:
        text = "x" * 1000
        keys = [f"gather/{n}" for n in range(1000)]
        await asyncio.gather(*(client.store.set(key, key + text) for key in keys))
        values = await asyncio.gather(*map(client.store.get, keys))
    assert values == [key + text for key in keys]


async def test_no_bus():
    with pytest.raises(Disconnected, match="no connection to the bus unix:path=/nowhere"):
        await Client("unix:path=/nowhere").open()


async def test_a_client_that_was_not_opened():
    with pytest.raises(Disconnected, match="not opened"):
        await Client().store.get("key")


async def test_after_closing(shared_bus):
    client = Client(shared_bus.address)
    await client.open()
    await client.close()
    await client.close()
    with pytest.raises(Disconnected):
        await client.store.get("key")


async def test_errors_have_their_classes(shared_bus):
    async with Client(shared_bus.address) as client:
        with pytest.raises(AccessDenied, match="uid 12345"):
            await client.store.set("~12345/key", "value")
        with pytest.raises(InvalidArgs):
            await client.store.set("key", "a\0b")
        with pytest.raises(InvalidArgs):
            await client.store.set("key", "half \udc80")
        await client.store.set("key", "still connected")


async def test_an_answer_of_another_type_is_refused_and_its_descriptors_closed(shared_bus):
    async with Client(shared_bus.address) as client:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(Exception, match="answered 'h', not 's'"):
            await client.call(STORE, "Watch", "st", ("", 0), returns="s")
        assert os.listdir("/proc/self/fd") == before


async def test_no_daemon(bus):
    bus.kill_daemon()
    async with Client(bus.address) as client:
        assert client.owner is None
        with pytest.raises(NotRunning):
            await client.store.get("key")
        with pytest.raises(NotRunning):
            await client.wait_running(timeout=0.01)


async def test_the_bus_starts_the_daemon(bus):
    bus.kill_daemon()
    bus.make_activatable()
    async with Client(bus.address) as client:
        owner = await client.wait_running(timeout=10)
        assert client.owner == owner
        assert await client.store.get("key") == ""
        assert await client.daemon.epoch()


async def test_a_restart_is_told(bus):
    async with Client(bus.address) as client:
        restarts: asyncio.Queue[str | None] = asyncio.Queue()
        client.on_restart(lambda: restarts.put_nowait(client.owner))
        epoch, owner = await client.daemon.epoch(), client.owner
        bus.kill_daemon()
        await asyncio.to_thread(bus.start_daemon)
        assert await asyncio.wait_for(restarts.get(), 10) not in (None, owner)
        assert await client.daemon.epoch() != epoch


async def test_a_loss_is_told_whether_another_daemon_comes_or_not(bus):
    async with Client(bus.address) as client:
        losses: asyncio.Queue[str | None] = asyncio.Queue()
        client.on_loss(lambda: losses.put_nowait(client.owner))
        await client.daemon.epoch()
        bus.kill_daemon()
        assert await asyncio.wait_for(losses.get(), 10) is None
        await asyncio.to_thread(bus.start_daemon)
        await client.wait_running(timeout=10)
        assert losses.empty()


async def test_the_end_of_the_bus_ends_what_waits(bus):
    async with Client(bus.address) as client:
        bus.daemon.send_signal(19)  # SIGSTOP: it will not answer
        call = asyncio.create_task(client.store.get("key"))
        waiting = asyncio.create_task(client.wait_running(not_by=client.owner))
        await client.connection.writer.drain()
        bus.kill_bus()
        with pytest.raises(Disconnected):
            await call
        with pytest.raises(Disconnected):
            await waiting


async def test_a_call_that_takes_too_long(bus):
    bus.daemon.send_signal(19)
    async with Client(bus.address, timeout=0.05) as client:
        with pytest.raises(TimedOut):
            await client.store.get("key")


@pytest.mark.attack(37)
async def test_a_signal_of_somebody_else_does_not_count(bus):
    forger = await Connection.open(bus.address)
    async with Client(bus.address) as client:
        heard: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        end = await client.store.on_changed(heard.put_nowait)
        fields = {
            FieldCode.PATH: STORE[0],
            FieldCode.INTERFACE: STORE[1],
            FieldCode.MEMBER: "Changed",
            FieldCode.DESTINATION: client.connection.unique_name,
            FieldCode.SIGNATURE: "st",
        }
        from buswork.bus.codec import body_encoder

        body = body_encoder("st")(("forged", 1))
        forger.send(encode_message(Kind.SIGNAL, 1, forger.next_serial(), fields, body))
        await forger.call_bus("GetId")  # the bus has passed it on
        revision = await client.store.set("real", "x")
        assert await asyncio.wait_for(heard.get(), 10) == ("real", revision)
        assert heard.empty()
        end()
    forger.close()
    await asyncio.sleep(0)


async def test_a_prompt_is_prepared_only_when_one_is_needed(shared_bus):
    prepared = []

    async def prepare() -> None:
        prepared.append(True)

    async with Client(shared_bus.address, interactive=True, before_prompt=prepare) as client:
        await client.store.set("key", "value")
        with pytest.raises(AccessDenied):
            await client.store.set("~12345/key", "value")
    assert not prepared

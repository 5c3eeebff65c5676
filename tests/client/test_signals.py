import asyncio

import pytest

from buswork.client import Client, Disconnected, Signals


async def test_signals_of_the_store(shared_bus):
    async with Client(shared_bus.address) as client, Signals(client) as signals:
        revision = await client.store.set("signal", "x")
        signal = await asyncio.wait_for(anext(signals), 10)
    assert (signal.interface, signal.member) == ("org.mapipc.Store", "Changed")
    assert signal.values == ["signal", revision]


async def test_too_many_are_dropped_and_counted(shared_bus, monkeypatch):
    monkeypatch.setattr("buswork.client.signals.MAX_WAITING", 1)
    async with Client(shared_bus.address) as client, Signals(client) as signals:
        arrived: asyncio.Queue[object] = asyncio.Queue()
        await client.store.on_changed(arrived.put_nowait)
        await client.store.set_many({"drop/1": "x", "drop/2": "x"})
        for _ in range(2):
            await asyncio.wait_for(arrived.get(), 10)
        assert signals.dropped == 1
        assert (await anext(signals)).values[0] == "drop/2"


async def test_the_end_of_the_bus(bus):
    async with Client(bus.address) as client, Signals(client) as signals:
        bus.kill_bus()
        with pytest.raises(Disconnected):
            await asyncio.wait_for(anext(signals), 10)

import pytest

from buswork import __version__
from buswork.client import BusworkError, Client


async def test_facts(shared_bus):
    async with Client(shared_bus.address) as client:
        facts = await client.daemon.facts()
        assert facts.version == __version__
        assert facts.wings["store"].state == "running"
        assert facts.epoch == await client.daemon.epoch()
        assert facts.statistics["calls"] >= 1
        assert facts.limits["MaxWatchesPerUid"] == 64


async def test_held_things(shared_bus):
    async with Client(shared_bus.address) as client:
        async with client.store.watch("x"):
            (held,) = await client.daemon.list_clients()
            assert (held.wing, held.client) == ("store", client.connection.unique_name)
        with pytest.raises(BusworkError, match="nobody holds"):
            await client.daemon.force_release("/org/none")

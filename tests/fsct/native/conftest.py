from dataclasses import replace

import pytest
from support.displays import device
from support.rpc_clients import DEVICE, a_client, a_house


@pytest.fixture
async def house(tmp_path):
    """A driver's socket, and whoever decides about its clients."""
    async with a_house(tmp_path) as house:
        yield house


@pytest.fixture
async def client(house):
    async with a_client(house) as client:
        yield client


@pytest.fixture
def dac():
    facts = {"vendor_id": 5824, "product_id": 1155, "product": "DAC", "serial": "X"}
    return replace(device(), id=str(DEVICE), **facts)


@pytest.fixture
def line(house, monkeypatch):
    """What waits for its turn; nothing has it by itself."""
    works = []
    monkeypatch.setattr(house.commons.shares, "later", lambda uid, work: works.append(work))
    return works

import pytest
from support.store_sockets import a_house


@pytest.fixture
async def house(tmp_path):
    """A store's native sockets."""
    async with a_house(tmp_path) as house:
        yield house

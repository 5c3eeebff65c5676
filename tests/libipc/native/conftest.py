import pytest
from libipc.native.town import Town


@pytest.fixture
async def town(tmp_path):
    town = Town(tmp_path)
    yield town
    await town.stop()

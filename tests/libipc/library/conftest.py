import pytest
from libipc.world import World


@pytest.fixture
async def make_world(tmp_path):
    worlds = []

    def make(*arguments, **options):
        worlds.append(World(tmp_path, *arguments, **options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
async def world(make_world):
    return make_world()

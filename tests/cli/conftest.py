import pytest
from cli.boards import Boards
from client.conftest import bus, shared_bus

__all__ = ["bus", "shared_bus"]


@pytest.fixture(scope="module")
def boards():
    with Boards() as boards:
        yield boards

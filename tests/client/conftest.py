from collections.abc import Iterator

import pytest
from client.private_bus import PrivateBus


@pytest.fixture(scope="module")
def shared_bus() -> Iterator[PrivateBus]:
    """For tests that leave the daemon alive."""
    with PrivateBus() as bus:
        bus.start_daemon()
        yield bus


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with PrivateBus() as bus:
        bus.start_daemon()
        yield bus

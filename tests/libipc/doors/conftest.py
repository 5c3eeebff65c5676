import pytest
from libipc.doors.house import Daemon


@pytest.fixture
async def daemon(tmp_path):
    daemon = Daemon(tmp_path)
    yield daemon
    await daemon.close()

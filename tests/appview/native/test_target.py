import os
import resource

import pytest
from appview.people import Viewed

pytestmark = pytest.mark.processes


async def test_its_queues_and_its_end():
    viewed = await Viewed.start()
    with viewed.held() as target:
        assert target.ask_name == f"AppViewIPCIn.{viewed.pid}"
        assert target.answer_name == f"AppViewIPCOut.{viewed.pid}"
        assert not target.has_ended
        await viewed.kill()
        assert target.has_ended


async def test_its_end_where_there_are_many_descriptors():
    """select(2) knows those below 1,024 alone."""
    viewed = await Viewed.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    fillers = [os.open(os.devnull, os.O_RDONLY) for _ in range(1024)]
    try:
        with viewed.held() as target:
            assert target.pidfd >= 1024
            assert not target.has_ended
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await viewed.kill()

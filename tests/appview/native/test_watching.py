import pytest
from appview.people import Viewed, descriptors, until

from buswork.appview.model import Processes, Removed
from buswork.appview.native import watching
from buswork.appview.native.conversations import Conversations
from buswork.appview.native.inspector import Inspector
from buswork.appview.native.watching import Watch

pytestmark = pytest.mark.processes


@pytest.fixture
async def inspector():
    inspector = Inspector(Processes(), Conversations(seconds=20))
    yield inspector
    await inspector.stop()


@pytest.fixture
async def viewed():
    viewed = await Viewed.start()
    yield viewed
    await viewed.kill()


async def test_an_end_is_heard_at_once(inspector, viewed):
    known, changes = inspector._known, []
    watch = Watch(known, inspector)
    await inspector.scan(0, of_all=True)
    known.on_change.append(changes.append)
    process = known.by_pid[viewed.pid]
    await viewed.kill()
    await until(lambda: changes)
    assert changes == [Removed(process)]
    await watch.stop()


async def test_new_ones_are_found(inspector, viewed, monkeypatch):
    """Whoever is looked at so often is looked at twice before it is what it was made for."""
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.01)
    watch = Watch(inspector._known, inspector)
    await until(lambda: viewed.pid in inspector._known.by_pid)
    await watch.stop()


async def test_a_look_that_fails_is_not_the_last(inspector, monkeypatch, caplog):
    looks = []

    async def look_for_new():
        looks.append(None)
        raise OSError("no /proc")

    monkeypatch.setattr(watching, "LOOK_SECONDS", 0)
    monkeypatch.setattr(inspector, "look_for_new", look_for_new)
    watch = Watch(inspector._known, inspector)
    await until(lambda: len(looks) > 2)
    await watch.stop()
    assert "no /proc" in caplog.text


async def test_nothing_is_left(inspector, viewed):
    before = descriptors()
    watch = Watch(inspector._known, inspector)
    await inspector.scan(0, of_all=True)
    assert viewed.pid in inspector._known.by_pid
    await watch.stop()
    assert descriptors() <= before

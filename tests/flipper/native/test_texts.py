"""What boards print, while somebody reads it."""

import asyncio

import pytest
from support.sessions import PATIENCE

from buswork.flipper.native import texts as module
from buswork.flipper.native.texts import DebugTexts
from buswork.flipper.wire.carbon import DEBUG_ENDPOINT, DEBUG_INTERFACE
from buswork.sim.carbon import SimCarbon
from buswork.sim.usb import SimBackend
from buswork.usb.worker import Worker


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(module, "READ_SECONDS", 0.01)


@pytest.fixture
def backend():
    return SimBackend()


@pytest.fixture
def carbon(backend):
    carbon = SimCarbon()
    backend.plug(carbon)
    return carbon


@pytest.fixture
def texts(backend):
    return DebugTexts(lambda device: Worker(device, backend))


@pytest.fixture
def wanted():
    wanted = asyncio.Event()
    wanted.set()
    return wanted


async def test_what_a_board_prints_is_read_until_nobody_wants_it(backend, carbon, texts, wanted):
    told = asyncio.Queue()
    async with texts.read(backend.devices[0], wanted, told.put_nowait):
        carbon.say("hello\n")
        assert await told.get() == "hello\n"
        carbon.say("\x1b[31m")
        assert await told.get() == "\ufffd[31m"
    plug = backend.plug_at("1-1")
    assert (plug.opened, plug.claims) == (0, {})
    carbon.say("to nobody")
    assert told.empty()


async def test_only_what_is_wanted_is_read(backend, carbon, texts, wanted):
    plug = backend.plug_at("1-1")
    told = asyncio.Queue()
    wanted.clear()
    async with texts.read(backend.devices[0], wanted, told.put_nowait):
        await asyncio.sleep(0)
        assert plug.opened == 0
        for text in ("hello", "hello again"):
            wanted.set()
            carbon.say(text)
            assert await told.get() == text
            wanted.clear()
            async with asyncio.timeout(PATIENCE):
                while plug.opened:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)


async def test_another_program_may_have_it(backend, carbon, texts, wanted, caplog):
    caplog.set_level("DEBUG")
    other = Worker(backend.devices[0], backend)
    await other.open()
    await other.claim(DEBUG_INTERFACE, DEBUG_ENDPOINT)
    async with texts.read(backend.devices[0], wanted, lambda text: None):
        (reading,) = [each for each in asyncio.all_tasks() if "texts" in each.get_name()]
        await asyncio.wait([reading])
    assert "another program" in caplog.text
    await other.close()


async def test_unplugging_ends_it(backend, carbon, texts, wanted):
    told = asyncio.Queue()
    async with texts.read(backend.devices[0], wanted, told.put_nowait):
        carbon.say("last words")
        await told.get()
        backend.unplug("1-1")

import asyncio
import math

from buswork.native.clock import Clock


async def test_an_event_is_waited_for():
    clock, event = Clock(), asyncio.Event()
    waiting = asyncio.create_task(clock.wait(event, None))
    await asyncio.sleep(0)
    assert not waiting.done()
    event.set()
    await waiting


async def test_and_so_is_a_time():
    clock, event = Clock(), asyncio.Event()
    before = clock.now()
    await clock.wait(event, before + 0.01)
    await clock.wait(event, before - 1)
    await clock.wait(event, -math.inf)
    await clock.sleep(0.01)
    assert clock.now() >= before + 0.02
    assert not event.is_set()


async def test_whoever_waits_can_leave():
    waiting = asyncio.create_task(Clock().sleep(3600))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()

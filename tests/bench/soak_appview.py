"""Load on viewed processes: they start, are asked and configured, and are killed."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Any

from soak_ledger import Changed, Desk
from soak_steps import caller, pause, steps

from buswork.client import AppView, ViewedProcess

PACE = 0.1
ERROR = "org.appview.Error."
# Of a process that was killed, or that takes longer than it should where everything is busy. Of one
# that is just ending, the kernel does not tell any more whether it is the caller's.
DYING = {
    *(ERROR + name for name in ("NoSuchProcess", "ProcessGone", "NotAnswering")),
    "org.freedesktop.DBus.Error.UnknownObject",
    "org.freedesktop.DBus.Error.AccessDenied",
}
SLOW = {ERROR + "NotAnswering"}


class Viewed:
    """One simulated process of ours."""

    def __init__(self, process: asyncio.subprocess.Process, pid: int) -> None:
        self.pid = pid
        self._process = process

    @classmethod
    async def start(cls, stack: AsyncExitStack) -> "Viewed":
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "buswork.sim.viewed", "--period", "1"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        viewed = cls(process, int(await process.stdout.readline()))
        stack.push_async_callback(viewed.kill)
        return viewed

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        await self._process.wait()


async def views(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(caller(desk))
        viewed = [await Viewed.start(stack) for _ in range(random.randrange(1, 4))]
        await desk.ask(finds(client.appview, {each.pid for each in viewed}))
        for _ in steps(desk, random, 10, 60):
            await one(desk, random, client.appview.process(random.choice(viewed).pid))
            await pause(random, PACE)
        victim = random.choice(viewed)
        killing = asyncio.create_task(kill_soon(random, victim))
        try:
            await desk.ask(client.appview.process(victim.pid).configuration(), may=DYING)
        finally:
            await killing
        await desk.ask(client.appview.scan(), may=DYING)


async def kill_soon(random: Random, victim: Viewed) -> None:
    await asyncio.sleep(random.uniform(0, 0.02))
    await victim.kill()


async def finds(appview: AppView, wanted: set[int]) -> None:
    found = {facts.pid for facts in await appview.scan()}
    if not wanted <= found:
        raise Changed(f"found {sorted(found)}, not {sorted(wanted)}")


async def one(desk: Desk, random: Random, process: ViewedProcess) -> None:
    match random.randrange(7):
        case 0:
            await desk.ask(process.is_viewed(), may=SLOW)
        case 1:
            await desk.ask(process.configuration(), may=SLOW)
        case 2:
            await desk.ask(process.details(), may=SLOW)
        case 3:
            await desk.ask(process.transport_status(), may=SLOW)
        case 4:
            await desk.ask(process.supported_commands(), may=SLOW)
        case 5:
            changes = {"tags": {"soak": str(random.randrange(1000))}}
            await desk.ask(process.merge_configuration(changes), may=SLOW)
        case 6:
            await desk.ask(process.facts())
            if random.random() < 0.1:
                await desk.ask(process.detach(), may=SLOW)
                await desk.ask(process.attach(), may=SLOW)

"""Simulated processes under AppView, as real processes with real queues."""

import asyncio
import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from buswork.appview.native import mqueue, processes

NAMES = ("AppViewIPCIn", "AppViewIPCOut")
SOURCES = Path(__file__).resolve().parents[2] / "src"


class Viewed:
    """One process; it is asked to end when the test does."""

    def __init__(self, process, pid):
        self.process = process
        self.pid = pid

    @classmethod
    async def start(cls, *options, before=()):
        """before: a command in which to run it, which may have a PID namespace."""
        process = await asyncio.create_subprocess_exec(
            *before,
            sys.executable,
            "-m",
            "buswork.sim.viewed",
            *options,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
        )
        own_pid = int(await process.stdout.readline())
        return cls(process, own_pid if not before else cls._outside(process.pid))

    @staticmethod
    def _outside(pid):
        """The pid, here, of the innermost child of a command."""
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(children[0])
        return pid

    @property
    def seen(self):
        seen = processes.look(self.pid)
        assert seen is not None
        return seen

    @contextmanager
    def held(self):
        with processes.held(self.seen) as target:
            yield target

    async def kill(self):
        with suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        await self.process.wait()

    async def stop(self):
        self.process.stdin.close()
        await self.process.wait()


def queues_of(own_pid):
    """Those of its two queues that are there."""
    found = []
    for name in NAMES:
        for flags in (os.O_RDONLY, os.O_WRONLY):
            try:
                mqueue.open_queue(f"{name}.{own_pid}", flags).close()
            except FileNotFoundError:
                continue
            except PermissionError:
                pass
            found.append(name)
            break
    return found


def descriptors():
    return len(os.listdir("/proc/self/fd"))


async def until(condition):
    """Nobody tells when it is so."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)

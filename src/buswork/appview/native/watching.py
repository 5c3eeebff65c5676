"""Hears of the end of processes at once (pidfd), and looks for new ones now and then: what would
tell of them (the kernel's connector of process events) wants a right that we do without.

With 5,000 processes a look takes some 5 ms of a thread, for nobody but who is new is read.
"""

import asyncio
import logging
import os
from typing import Final

from buswork.appview.model import Added, Change, Process, Processes, Removed
from buswork.appview.native.inspector import Inspector

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0


class Watch:
    def __init__(self, known: Processes, inspector: Inspector) -> None:
        self._known = known
        self._inspector = inspector
        self._loop = asyncio.get_running_loop()
        self._pidfds: dict[Process, int] = {}
        known.on_change.append(self._changed)
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        self._known.on_change.remove(self._changed)
        self._looking.cancel()
        await asyncio.wait((self._looking,))
        for process in [*self._pidfds]:
            self._forget(process)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._inspector.look_for_new()
            except Exception:
                log.exception("new processes could not be looked for")

    def _changed(self, change: Change) -> None:
        if isinstance(change, Added):
            self._await_end(change.process)
        elif isinstance(change, Removed):
            self._forget(change.process)

    def _await_end(self, process: Process) -> None:
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            return  # it is gone, or there is no descriptor for it: the next scan shows
        self._pidfds[process] = pidfd
        self._loop.add_reader(pidfd, self._inspector.ended, process)

    def _forget(self, process: Process) -> None:
        pidfd = self._pidfds.pop(process, None)
        if pidfd is not None:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)

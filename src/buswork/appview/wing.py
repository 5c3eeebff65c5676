"""Starts and stops the wing of viewed processes, and joins its rooms."""

import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass

from buswork.appview import model
from buswork.appview.face import Faces, InspectorFace
from buswork.appview.model import Processes
from buswork.appview.native.conversations import Conversations, most_conversations
from buswork.appview.native.inspector import Inspector
from buswork.appview.native.pairs import remove_orphans
from buswork.appview.native.processes import pids
from buswork.appview.native.watching import Watch
from buswork.host import Host, Kind

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many processes are shown, and how many of one user."""

    processes: int = model.MAX_PROCESSES
    processes_per_uid: int = model.MAX_PROCESSES_PER_UID


class AppViewWing:
    """The wing as the daemon sees it."""

    def __init__(self, host: Host, limits: Limits) -> None:
        self.host = host
        self.limits = limits

    async def start(self) -> None:
        """A wing that can't start leaves nothing behind."""
        async with AsyncExitStack() as started:
            if orphans := remove_orphans(pids):
                log.warning("%d queues of a daemon that was killed are removed", orphans)
            self.known = Processes(self.limits.processes, self.limits.processes_per_uid)
            self.inspector = Inspector(self.known, Conversations())
            started.push_async_callback(self.inspector.stop)
            face = InspectorFace(self.known, self.inspector, most_conversations())
            started.push_async_callback(Watch(self.known, self.inspector).stop)
            faces = Faces(self.host.edge, self.known, self.inspector, face)
            started.callback(faces.close)
            self._started = started.pop_all()

    async def stop(self, *, for_good: bool) -> None:
        await self._started.aclose()


APPVIEW = Kind(make=lambda host, limits, options: AppViewWing(host, limits), limits=Limits)

"""Starts and stops the wing of viewed processes, and joins its rooms."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from buswork.appview import model
from buswork.appview.face import Faces, InspectorFace
from buswork.appview.model import Processes
from buswork.appview.native.conversations import Conversations, most_conversations
from buswork.appview.native.inspector import Inspector
from buswork.appview.native.watching import Watch
from buswork.host import Host, Kind


@dataclass(frozen=True, slots=True)
class Limits:
    """How many processes are shown."""

    processes: int = model.MAX_PROCESSES


class AppViewWing:
    """The wing as the daemon sees it."""

    def __init__(self, host: Host, limits: Limits) -> None:
        self.host = host
        self.limits = limits

    async def start(self) -> None:
        """A wing that can't start leaves nothing behind."""
        async with AsyncExitStack() as started:
            self.known = Processes(self.limits.processes)
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

"""The IP sockets of libipc: ports behind which services of this machine are, and other hosts' ones.

They are the protocol daemons of the originals, `tcpd` and `websocketd`, in the process that has no
rights of its own: of services it gets what the daemon gives it, for the user who asks.
"""

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from buswork.libipc.doors.gate import Gate
from buswork.libipc.doors.options import Unsafe, add_options, settings
from buswork.libipc.doors.relay import LIMITS
from buswork.libipc.doors.tcp import Dialler, FarDoor, TcpDoor
from buswork.libipc.doors.websocket import WebSocketDoor
from buswork.libipc.library.contexts import Context

__all__ = ["IpcDoors", "Unsafe", "add_options"]

log = logging.getLogger(__name__)

ASK = "ipc"


class IpcDoors:
    """What was said on the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Unsafe: it does not fit together."""
        self._settings = settings(options)
        self.opens: Mapping[str, Callable[[str], Awaitable[FarDoor]]] = {ASK: self._dial}
        self._doors: list[TcpDoor | WebSocketDoor] = []
        self._context: Context | None = None

    async def start(self) -> None:
        """OSError: a port is taken."""
        context = self._context = Context(limits=LIMITS)
        self._dialler = Dialler(self._settings.dialled, context)
        gate = Gate(self._settings)
        for place, form in self._settings.tcp:
            self._doors.append(TcpDoor(place, form, gate, context))
        for place in self._settings.websockets:
            self._doors.append(WebSocketDoor(place, gate, context))
        for door in self._doors:
            log.info("services are at %s", await door.open())

    async def close(self) -> None:
        if self._doors:
            await asyncio.wait([asyncio.create_task(door.close()) for door in self._doors])
        if self._context is not None:
            self._context.close()

    async def _dial(self, text: str) -> FarDoor:
        return await self._dialler.dial(text)

"""The IP sockets of libipc: ports behind which services of this machine are, and other hosts' ones.

They are the protocol daemons of the originals, `tcpd` and `websocketd`, in the process that has no
rights of its own: of services it gets what the daemon gives it, for the user who asks.
"""

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from buswork.libipc.doors.gate import Gate
from buswork.libipc.doors.options import Place, Unsafe, add_options, settings
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

    async def start(self) -> list[str]:
        made = self._settings
        context = self._context = Context(limits=LIMITS)
        self._dialler = Dialler(made.dialled, context)
        gate = Gate(made)
        doors: list[tuple[Place, TcpDoor | WebSocketDoor]] = [
            (place, TcpDoor(place, form, gate, context)) for place, form in made.tcp
        ]
        doors += [(place, WebSocketDoor(place, gate, context)) for place in made.websockets]
        troubles = []
        for place, door in doors:
            try:
                log.info("services are at %s", await door.open())
                self._doors.append(door)
            except OSError as error:
                troubles.append(f"the door at {place}: {error}")
        return troubles

    @property
    def has_any(self) -> bool:
        return bool(self._doors or self._settings.dialled)

    async def close(self) -> None:
        if self._doors:
            await asyncio.wait([asyncio.create_task(door.close()) for door in self._doors])
        if self._context is not None:
            self._context.close()

    async def _dial(self, text: str) -> FarDoor:
        return await self._dialler.dial(text)

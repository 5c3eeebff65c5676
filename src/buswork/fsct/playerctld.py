"""The player that playerctld would control: the one last touched, not one that plays."""

import asyncio
import logging
from collections.abc import Callable

from buswork.bus.caller import NameTracker
from buswork.bus.message import Flag, Frame
from buswork.bus.transport import Connection
from buswork.bus.writer import close_all
from buswork.errors import BusworkError
from buswork.fsct.mpris import PATH, PLAYERCTLD, PREFIX, PROPERTIES, PROPERTIES_SECONDS
from buswork.fsct.mpris_values import bare, values_of

log = logging.getLogger(__name__)

PLAYERCTLD_INTERFACE = "com.github.altdesktop.playerctld"


class Playerctld:
    """Its choice, on a bus where it may come and go."""

    def __init__(self, connection: Connection, choose: Callable[[str | None], None]) -> None:
        self._connection = connection
        self._choose = choose
        self._tracker = NameTracker(connection, PLAYERCTLD)
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._tracker.on_change(self._read)
        await self._tracker.listen(PROPERTIES, "PropertiesChanged", self._changed)
        await self._tracker.start()

    def stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    def _changed(self, frame: Frame) -> None:
        if frame.header.signature != "sa{sv}as":
            return
        values = values_of(frame)
        if values is None or values[0] != PLAYERCTLD_INTERFACE:
            return
        _, changed, invalidated = values
        if "PlayerNames" in changed:
            self.stop()  # this is newer than what is being read
            self._take(changed["PlayerNames"])
        elif "PlayerNames" in invalidated:
            self._read()

    def _read(self) -> None:
        self.stop()
        if self._tracker.owner is None:
            self._choose(None)
        else:
            self._reading = asyncio.create_task(self._read_names(self._tracker.owner))

    async def _read_names(self, owner: str) -> None:
        try:
            frame = await self._connection.call(
                owner,
                PATH,
                PROPERTIES,
                "Get",
                "ss",
                (PLAYERCTLD_INTERFACE, "PlayerNames"),
                flags=Flag.NO_AUTO_START,
                timeout=PROPERTIES_SECONDS,
            )
        except BusworkError as error:
            log.info("playerctld does not tell its players: %s", error)
            return
        self._take(next(iter(values_of(frame) or ()), None))
        close_all(frame.fds)

    def _take(self, names: object) -> None:
        names = bare(names)
        if not isinstance(names, list):
            return
        head = bare(names[0]) if names else None
        if not isinstance(head, str):
            self._choose(None)
        else:
            self._choose(head if head.startswith(PREFIX) else PREFIX + head)

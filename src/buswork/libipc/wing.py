"""Starts and stops the wing of messages between programs, and joins its rooms."""

import argparse
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from buswork.bus.caller import Call
from buswork.host import Host, Kind
from buswork.libipc.face import Faces
from buswork.libipc.holders import Holders
from buswork.libipc.model.terms import Limits, Who
from buswork.libipc.native.directories import add_options, directories, make, unusable
from buswork.libipc.native.groups import groups_of
from buswork.libipc.native.hub import Hub
from buswork.libipc.outboxes import Outboxes
from buswork.native.places import SocketFile, make_sockets

# As the units have them: of the doors process's socket, and of ours for the doors.
RUN_DIRECTORY: Final = Path("/run/buswork")
DOORS_SOCKET: Final = "doors.sock"
PASSAGE_SOCKET: Final = "ipc.sock"
# The service manager's names: of the passage, and of the look-ups in directories of each form,
# with what is off by default.
PASSAGE: Final = "ipc"
LOOKUPS: Final = {"ipc-c": False, "ipc-zig": True}


class LibIpcWing:
    """The wing as the daemon sees it."""

    def __init__(self, host: Host, limits: Limits, options: argparse.Namespace) -> None:
        self.host = host
        self._limits = limits
        self._named = options.ipc_rundir

    async def start(self) -> None:
        """A wing that can't start leaves nothing behind."""
        async with AsyncExitStack() as started:
            await self._start(started)
            self._started = started.pop_all()

    async def _start(self, started: AsyncExitStack) -> None:
        host = self.host
        self.hub = self._make_hub()
        started.push_async_callback(self.hub.stop)
        outboxes = Outboxes(host.edge)
        started.callback(outboxes.close)
        self.holders = Holders(self.hub, host.holdings, host.authority.quotas, outboxes)
        faces = Faces(host.edge, self.hub, self.holders, self._whose)
        started.callback(faces.close)
        self._files: list[SocketFile] = []
        started.callback(self._remove_files)
        self._open_sockets()

    def _make_hub(self) -> Hub:
        host = self.host
        where = directories(host.socket_dirs, self._named)
        if host.places(RUN_DIRECTORY):
            make(where)
        for what in unusable(where):
            host.lacks(what)
        doors = (host.socket_dirs[0] if host.socket_dirs else RUN_DIRECTORY) / DOORS_SOCKET
        return Hub(where, host.authority, host.commons, doors=doors, limits=self._limits)

    def _open_sockets(self) -> None:
        """Those that were passed to us, and where we make our own, those that are missing."""
        host, hub = self.host, self.hub
        for name, optional in LOOKUPS.items():
            for listener in host.sockets(name, optional=optional):
                hub.open_lookups(listener)
        for place in host.places(RUN_DIRECTORY):
            self._files += make_sockets(
                place, [PASSAGE_SOCKET], socket.SOCK_SEQPACKET, tell=host.lacks
            )
            hub.make_lookups(host.lacks)
        for listener in (*host.sockets(PASSAGE), *(made.listener for made in self._files)):
            hub.open_passage(listener)

    def _remove_files(self) -> None:
        for made in self._files:
            made.remove()

    async def _whose(self, call: Call) -> Who:
        pid, groups = await self.host.edge.callers.process(call.sender)
        if groups is None:
            groups = await groups_of(call.uid)
        return Who(call.uid, groups, call.sender, pid)

    async def stop(self, *, for_good: bool) -> None:
        await self._started.aclose()


LIBIPC = Kind(make=LibIpcWing, limits=Limits, add_options=add_options)

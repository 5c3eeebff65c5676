"""Starts and stops the wing of Flipper boards, and joins its rooms."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

from buswork.authority import Authority
from buswork.bus.caller import Call
from buswork.errors import AccessDenied, Gone
from buswork.flipper.face import Desk, Faces, HubFace, told
from buswork.flipper.holders import ChannelHolders, ClaimHolders, Subscriptions, TransferHolders
from buswork.flipper.model import boards as model
from buswork.flipper.model import turns
from buswork.flipper.model.boards import Board, Boards
from buswork.flipper.model.claims import Owner
from buswork.flipper.model.work import Job
from buswork.flipper.native.fmr import NAME, SOCKET_NAME, FmrServer, Origin
from buswork.flipper.native.jobs import Waiting
from buswork.flipper.native.network import RUN_DIRECTORY, Network, doors_path
from buswork.flipper.native.sessions import Sessions
from buswork.flipper.native.streams import Streams
from buswork.host import Host, Kind
from buswork.native.clock import Clock
from buswork.native.places import SocketFile, make_sockets
from buswork.usb.devices import UsbDevice
from buswork.usb.discovery import Discovery, NoHotplug, UdevDiscovery
from buswork.usb.worker import Worker

log = logging.getLogger(__name__)

T = TypeVar("T")
MakeWorker = Callable[[UsbDevice], Worker]


@dataclass(frozen=True, slots=True)
class Limits(turns.Limits):
    """How many boards, and how much waits at each of them."""

    boards: int = model.MAX_BOARDS


class Channels:
    """Channels of callers on the bus."""

    def __init__(self, server: FmrServer, authority: Authority) -> None:
        self._server = server
        self._authority = authority

    def open(
        self, board: Board, call: Call, on_end: Callable[[], None]
    ) -> tuple[int, Callable[[], None]]:
        async def require(action: str) -> None:
            try:
                await self._authority.require(call.sender, call.uid, action, interactive=False)
            except Gone as error:
                raise AccessDenied(f"{call.sender} has left the bus") from error

        origin = Origin(call.sender, call.uid, require, board.name)
        theirs, end = self._server.open_channel(origin, on_end)
        return theirs.detach(), end


class FlipperWing:
    """The wing as the daemon sees it."""

    def __init__(self, host: Host, limits: Limits) -> None:
        self.host = host
        self.limits = limits
        self.clock = Clock()

    async def start(self) -> None:
        """A wing that can't start leaves nothing behind."""
        async with AsyncExitStack() as started:
            await self._start(started)
            self._started = started.pop_all()

    async def _start(self, started: AsyncExitStack) -> None:
        """started: how to stop what was started."""
        host, clock = self.host, self.clock
        self.boards = Boards(model.Limits(self.limits.boards, self.limits))
        self.fmr = FmrServer(self.boards, host.authority, commons=host.commons, clock=clock)
        desk = self._desk(started)
        self.sessions = self._make_sessions(started)
        network = Network(self.boards, self.sessions, doors_path(host.socket_dirs))
        self.faces = Faces(host.edge, self.boards, HubFace(self.boards, network), desk)
        started.callback(self.faces.close)
        started.push_async_callback(self._stop_serving)
        host.logind.on_sleep.append(self.sessions.sleep)
        started.callback(host.logind.on_sleep.remove, self.sessions.sleep)
        try:
            await self.sessions.start()
        except NoHotplug as error:
            host.lacks(f"there will be no boards on USB: {error}")
        started.callback(self._remove_files)
        self._open_sockets()

    def _desk(self, started: AsyncExitStack) -> Desk:
        host, boards, clock = self.host, self.boards, self.clock
        quotas = host.authority.quotas

        def ask(board: Board, owner: Owner, uid: int, job: Job[T]) -> Waiting[T]:
            return Waiting(board, owner, uid, job, clock)

        claims = ClaimHolders(boards, host.holdings, clock.now)
        started.callback(claims.close)
        self.subscriptions = Subscriptions(boards, host.holdings, quotas, told(host.edge))
        started.callback(self.subscriptions.close)
        channels = Channels(self.fmr, host.authority)
        return Desk(
            boards,
            ask,
            Streams(),
            claims,
            self.subscriptions,
            TransferHolders(host.holdings),
            ChannelHolders(channels, host.holdings, quotas),
        )

    def _make_sessions(self, started: AsyncExitStack) -> Sessions:
        simulate = self.host.simulate
        discovery, make_worker = self._simulated(started) if simulate else self._real()
        sessions = Sessions(self.boards, discovery, make_worker, self.clock)
        sessions.on_text = self.subscriptions.printed
        self.subscriptions.on_listen = sessions.listen
        return sessions

    def _real(self) -> tuple[Discovery, MakeWorker]:
        return UdevDiscovery(), Worker

    def _simulated(self, started: AsyncExitStack) -> tuple[Discovery, MakeWorker]:
        # What real devices don't need is not even looked for.
        from buswork.flipper.simulator import PATH, Simulator, SimulatorFace

        edge, simulator = self.host.edge, Simulator()
        started.callback(simulator.close)
        edge.export(PATH, SimulatorFace(edge, PATH, simulator), wing=PATH)
        started.callback(edge.unexport, PATH)
        self.simulator = simulator
        return simulator.discovery(), simulator.worker

    def _open_sockets(self) -> None:
        host = self.host
        self._files: list[SocketFile] = []
        for place in host.places(RUN_DIRECTORY):
            self._files += make_sockets(
                place, [SOCKET_NAME], socket.SOCK_SEQPACKET, tell=host.lacks
            )
        for listener in (*host.sockets(NAME), *(made.listener for made in self._files)):
            self.fmr.open(listener)

    def _remove_files(self) -> None:
        for made in self._files:
            made.remove()

    async def _stop_serving(self) -> None:
        # Together: what a peer still waits for ends with the boards.
        await asyncio.gather(self.fmr.stop(), self.sessions.stop())

    async def stop(self, *, for_good: bool) -> None:
        await self._started.aclose()


FLIPPER = Kind(make=lambda host, limits, options: FlipperWing(host, limits), limits=Limits)

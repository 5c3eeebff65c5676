"""Starts and stops the wing of players and displays, and joins its rooms."""

import argparse
import asyncio
import logging
import os
import time
from collections.abc import Hashable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from buswork.authority import Lease, Quotas
from buswork.bus.caller import Peer
from buswork.bus.ownership import Held, Holdings
from buswork.errors import LimitsExceeded
from buswork.fsct.face import MAX_SHOWN_CHARACTERS, DriverFace, Faces, player_path
from buswork.fsct.model.changes import Change, PlayerRemoved, PreferredChanged
from buswork.fsct.model.driver import Driver, Limits
from buswork.fsct.model.players import Player
from buswork.fsct.native.remembered import Preferred, Remembered
from buswork.fsct.native.rpc import RpcServer
from buswork.fsct.native.sessions import MakeWorker, Sessions
from buswork.fsct.wire.protocol import ENDPOINT_VARIABLE
from buswork.host import Host, Kind
from buswork.native.places import SocketFile, make_sockets
from buswork.usb.discovery import Discovery, NoHotplug, UdevDiscovery
from buswork.usb.worker import Worker

if TYPE_CHECKING:
    from buswork.fsct.simulator import Simulator

log = logging.getLogger(__name__)

# The socket's name, as unit and as file.
SOCKET = "fsct"
SOCKET_NAME = "fsct.sock"
# As systemd/buswork-fsct.socket has it.
RUN_DIRECTORY = Path("/run/fsct")
SIMULATOR_PATH = "/org/buswork/simulator"
# Each registration is told to everybody on the bus. So many of a uid at once, as many as it may
# have objects, and then so many a second: a desktop has a handful, which begin with it.
REGISTRATIONS_AT_ONCE = 256
REGISTRATIONS_A_SECOND = 50


class Registrar:
    """Registers players, each of which counts against its user for as long as it is there."""

    def __init__(self, driver: Driver, quotas: Quotas) -> None:
        self._driver = driver
        self._quotas = quotas
        self._leases: dict[int, Lease] = {}
        # Until when what a uid registered lately, at the rate that is allowed, would have taken.
        self._paid_until: dict[int, float] = {}
        driver.on_change.append(self._changed)

    def register(self, self_id: str, uid: int, owner: Hashable) -> Player:
        lease = self._quotas.take(uid, "objects")
        try:
            self._pay(uid)
            player = self._driver.register(self_id, uid, owner)
        except BaseException:
            lease.release()
            raise
        self._leases[player.id] = lease
        return player

    def _pay(self, uid: int) -> None:
        now = time.monotonic()
        self._paid_until = {uid: until for uid, until in self._paid_until.items() if until > now}
        until = self._paid_until.get(uid, now) + 1 / REGISTRATIONS_A_SECOND
        if until - now > REGISTRATIONS_AT_ONCE / REGISTRATIONS_A_SECOND:
            raise LimitsExceeded(
                f"uid {uid} may register {REGISTRATIONS_A_SECOND} players a second, and did"
            )
        self._paid_until[uid] = until

    def _changed(self, change: Change) -> None:
        if isinstance(change, PlayerRemoved):
            self._leases.pop(change.player.id).release()


class NativePlayers:
    """Players of native peers: it can be seen who holds them, and they can be taken away."""

    def __init__(self, driver: Driver, registrar: Registrar, holdings: Holdings) -> None:
        self._driver = driver
        self._registrar = registrar
        self._holdings = holdings
        self._held: dict[int, Held] = {}
        driver.on_change.append(self._changed)

    def register(self, self_id: str, peer: Peer, owner: Hashable) -> Player:
        player = self._registrar.register(self_id, peer.uid, owner)
        what = f"player {self_id[:MAX_SHOWN_CHARACTERS]!r}"

        def take_away() -> None:
            self._driver.unregister(player.id)

        self._held[player.id] = self._holdings.hold_natively(
            peer, player_path(player), "fsct", what, take_away
        )
        return player

    def _changed(self, change: Change) -> None:
        if isinstance(change, PlayerRemoved):
            held = self._held.pop(change.player.id, None)
            if held is not None:
                self._holdings.let_go(held)


class FsctWing:
    """The wing as the daemon sees it."""

    def __init__(self, host: Host, limits: Limits, options: argparse.Namespace) -> None:
        self.host = host
        self.limits = limits
        self.seated_users_first: bool = options.seats
        self.usb_unmarked: bool = options.usb_unmarked
        self.simulator: Simulator | None = None

    async def start(self) -> None:
        """A wing that can't start leaves nothing behind."""
        async with AsyncExitStack() as started:
            await self._start(started)
            self._started = started.pop_all()

    async def _start(self, started: AsyncExitStack) -> None:
        """started: how to stop what was started."""
        host = self.host
        self.driver = Driver(self.limits)
        self.remembered = Remembered(host.state_dir)
        started.push_async_callback(self.remembered.close)
        preferred = self.remembered.load()
        if preferred is not None:
            self.driver.remember(*preferred)
        self.driver.on_change.append(self._remember)
        registrar = Registrar(self.driver, host.authority.quotas)
        face = DriverFace(
            self.driver,
            registrar.register,
            host.holdings,
            seated_users_first=self.seated_users_first,
        )
        self.faces = Faces(host.edge, self.driver, face)
        started.callback(self.faces.close)
        self.sessions = self._make_sessions(started)
        native = NativePlayers(self.driver, registrar, host.holdings)
        self.rpc = RpcServer(self.driver, host.authority, native.register, commons=host.commons)
        started.push_async_callback(self._stop_serving)
        self._follow_seats(started)
        await self._start_sessions(started)
        started.callback(self._remove_files)
        self._open_sockets()

    def _follow_seats(self, started: AsyncExitStack) -> None:
        if self.seated_users_first:
            logind = self.host.logind
            self.driver.set_active_uids(logind.seated)
            logind.on_seated.append(self.driver.set_active_uids)
            started.callback(logind.on_seated.remove, self.driver.set_active_uids)

    def _make_sessions(self, started: AsyncExitStack) -> Sessions:
        simulate = self.host.simulate
        discovery, make_worker = self._simulated(started) if simulate else self._real()
        return Sessions(self.driver, discovery, make_worker, unmarked=self.usb_unmarked)

    async def _start_sessions(self, started: AsyncExitStack) -> None:
        # Displays are to be dark before the machine sleeps, so it waits for them.
        self.sessions.on_lit = self.host.logind.delay_sleep
        self.host.logind.on_sleep.append(self.sessions.sleep)
        started.callback(self.host.logind.on_sleep.remove, self.sessions.sleep)
        try:
            await self.sessions.start()
        except NoHotplug as error:
            self.host.lacks(f"there will be no displays: {error}")

    def _real(self) -> tuple[Discovery, MakeWorker]:
        return UdevDiscovery(), Worker

    def _simulated(self, started: AsyncExitStack) -> tuple[Discovery, MakeWorker]:
        # What real devices don't need is not even looked for.
        from buswork.fsct.simulator import Simulator, SimulatorFace

        edge, simulator = self.host.edge, Simulator()
        started.callback(simulator.close)
        face = SimulatorFace(edge, SIMULATOR_PATH, simulator)
        edge.export(SIMULATOR_PATH, face, wing=SIMULATOR_PATH)
        started.callback(edge.unexport, SIMULATOR_PATH)
        self.simulator = simulator
        return simulator.discovery(), simulator.worker

    def _open_sockets(self) -> None:
        self._files: list[SocketFile] = []
        for path in self._socket_paths():
            self._files += make_sockets(path.parent, [path.name], tell=self.host.lacks)
        # The variable may have it made elsewhere.
        passed = self.host.sockets(SOCKET, optional=bool(self._files))
        for listener in (*passed, *(made.listener for made in self._files)):
            self.rpc.open(listener)

    def _socket_paths(self) -> list[Path]:
        """Where to make the socket; the plan's variable decides, if it is there."""
        endpoint = os.environ.get(ENDPOINT_VARIABLE, "")
        if endpoint.strip():
            return [Path(endpoint)]
        return [place / SOCKET_NAME for place in self.host.places(RUN_DIRECTORY)]

    def _remember(self, change: Change) -> None:
        if not isinstance(change, PreferredChanged):
            return
        self_id, uid = self.driver.remembered, self.driver.remembered_uid
        if self_id is None or uid is None:
            self.remembered.store(None)
        else:
            self.remembered.store(Preferred(self_id, uid))

    async def stop(self, *, for_good: bool) -> None:
        await self._started.aclose()

    def _remove_files(self) -> None:
        for made in self._files:
            made.remove()

    async def _stop_serving(self) -> None:
        # Together: a client that does not read its answers must not keep the displays lit.
        await asyncio.gather(self.rpc.stop(), self.sessions.stop())


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-seats",
        dest="seats",
        action="store_false",
        help="all players are equal (default: those of users who sit at this machine come first)",
    )
    parser.add_argument(
        "--usb-unmarked",
        action="store_true",
        help="also open devices that look like displays but were not marked by udev's rules",
    )


FSCT = Kind(
    make=FsctWing,
    limits=Limits,
    add_options=_add_options,
)

"""The driver's socket: MessagePack-RPC, and the newer JSON-RPC, on the same connections.

Rules
* The first byte tells which protocol a connection speaks.
* Answers come in the order of the requests. One that has to wait, for polkit, makes those behind
  it wait too, so that what they do is done in order; past MAX_IN_FLIGHT the socket is not read.
* Word of devices waits for no answer, and no answer for it. Who may not observe gets none, nor
  does who leaves much unread.
* A user who has had his share of the loop's time waits for his turn, with all his connections.
* A player belongs to the connection that registered it, and goes with it. Who may alter it is
  decided by its user: whoever is the same user may, others need `manage`.
* Everything that has an id is answered. What can't be read any more ends the connection.
"""

import asyncio
import logging
import socket
from contextlib import suppress
from uuid import UUID

from buswork.authority import Authority
from buswork.bus.caller import Peer
from buswork.errors import BusworkError, LimitsExceeded
from buswork.fsct.model.changes import Change, DeviceAdded, DeviceRemoved
from buswork.fsct.model.driver import Driver
from buswork.fsct.native.calls import Calls, Register
from buswork.fsct.native.connection import Connection, Patience
from buswork.fsct.wire import jsonrpc
from buswork.log import Sparing, SparingByUid
from buswork.native.accept import Acceptor
from buswork.native.commons import Commons
from buswork.native.peers import Known, Peers
from buswork.native.room import Crowd

log = logging.getLogger(__name__)


class RpcServer:
    """All connections, and what their requests do."""

    def __init__(
        self,
        driver: Driver,
        authority: Authority,
        register: Register,
        patience: Patience | None = None,
        commons: Commons | None = None,
    ) -> None:
        """commons: what the native sockets of other wings have a part of too."""
        self.authority = authority
        self.quotas = authority.quotas
        self.patience = patience or Patience()
        self.driver = driver
        self.calls = Calls(driver, authority, register)
        self.commons = commons or Commons()
        self.crowd: Crowd[Connection] = Crowd()
        self._peers = Peers(self._ended)
        self._acceptor = Acceptor()
        self._complaints = SparingByUid("complaints about clients of the driver's socket")
        self._strangers = Sparing("clients of the driver's socket that were sent away")
        self._idle = asyncio.Event()
        driver.on_change.append(self._changed)

    def __len__(self) -> int:
        return len(self.crowd)

    def open(self, listener: socket.socket) -> None:
        """Serves a listening socket, which is ours from now on."""
        self._acceptor.open(listener, self._serve)

    async def stop(self) -> None:
        """Answers what is in flight, and ends."""
        self._acceptor.close()
        self.driver.on_change.remove(self._changed)
        for connection in self.crowd.all:
            connection.finish()
        if self.crowd:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.patience.drain_seconds):
                    await self._idle.wait()
        for connection in self.crowd.all:
            connection.close()
        self._peers.close()

    # -- connections ---------------------------------------------------------------------------

    def _serve(self, sock: socket.SocketType) -> None:
        try:
            known = self._peers.of(sock)
        except BusworkError as error:
            if self._strangers.allows(log):
                log.warning("a client of the driver's socket is sent away: %s", error)
            sock.close()
            return
        try:
            lease = self.quotas.take(known.peer.uid, "native_connections")
        except LimitsExceeded as error:
            self.complain(known, error)
            sock.close()
            return
        if self.crowd.is_full:
            self.complain(known, f"there are {self.crowd.most} connections: one was closed")
            self.crowd.oldest_of_most().close()
        self._peers.hold(known)
        self._idle.clear()
        self.crowd.add(Connection(self, sock, known, lease))

    def _ended(self, peer: Peer) -> None:
        """A process has ended; a connection may live on in its children."""
        self.authority.forget_peer(peer)
        for connection in self.crowd.all:
            if connection.known.peer == peer:
                connection.close_if_left()

    def forget(self, connection: Connection) -> None:
        """The connection has ended, and so have its players."""
        self.crowd.remove(connection)
        self.driver.release(connection)
        self._peers.let_go(connection.known)
        if not self.crowd:
            self._idle.set()

    def complain(self, known: Known, error: object) -> None:
        peer = known.peer
        if self._complaints.allows(log, peer.uid):
            log.warning("driver's socket: uid %d, pid %d: %s", peer.uid, peer.pid, error)

    # -- word of devices -----------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        if isinstance(change, (DeviceAdded, DeviceRemoved)):
            event = "added" if isinstance(change, DeviceAdded) else "removed"
            news = jsonrpc.device_changed(event, UUID(change.display.device.id))
            for connection in self.crowd.all:
                connection.tell(news)

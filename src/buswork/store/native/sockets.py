"""mapipcd's sockets, mapipc_set and mapipc_get: one connection for each request.

The short road: a connection whose request is there already, from a process that polkit has
allowed a moment ago, is read, answered and closed in one go. Everybody else becomes a
`Connection`, counts against the quota of its uid, and has a deadline for each of its steps.
"""

import asyncio
import logging
import socket
import time

from buswork.authority import Authority, Lease
from buswork.errors import BusworkError, InvalidArgs, LimitsExceeded
from buswork.log import Sparing
from buswork.native.accept import Acceptor
from buswork.native.commons import Commons
from buswork.native.inflight import InFlight
from buswork.native.peers import Known, Peers
from buswork.native.room import Crowd
from buswork.native.shares import CHEAP_SECONDS
from buswork.store.model.store import Store
from buswork.store.native.connection import (
    CHUNK_BYTES,
    DONTWAIT,
    Connection,
    Patience,
    hang_up,
    send,
)
from buswork.store.native.memory import SharedMemory
from buswork.store.native.requests import GET_NAME, SET_NAME, GetRequests, Requests, SetRequests

log = logging.getLogger(__name__)


class _Door:
    """One kind of socket. Several listeners may lead to it (/run/buswork, /tmp)."""

    def __init__(self, doors: "Doors", requests: Requests) -> None:
        self.doors = doors
        self.authority = doors.authority
        self.requests = requests
        self._strangers = Sparing(
            f"connections to {requests.name} of processes that can't be known"
        )

    def serve(self, sock: socket.SocketType) -> None:
        begin = time.monotonic()
        try:
            known = self.doors.peers.of(sock)
        except BusworkError as error:
            self._turn_away(sock, error)
            return
        uid = known.peer.uid
        if self.doors.shares.is_over(uid):
            connection = self.doors.connection(self.requests, sock, known)
            if connection is not None:
                connection.await_turn()
            return
        self._serve(sock, known)
        taken = time.monotonic() - begin
        if taken > CHEAP_SECONDS:
            self.doors.shares.charge(uid, taken)

    def _serve(self, sock: socket.SocketType, known: Known) -> None:
        """The short road, or the beginning of the long one."""
        data = request = reply = None
        try:
            data = sock.recv(CHUNK_BYTES, DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            sock.close()
            return
        if data and self.authority.peer_is_known(known.peer, self.requests.action):
            request = self.requests.first(data)
            if request is not None:
                reply = self.requests.reply(known, request, at_once=True)
        if reply is None:
            connection = self.doors.connection(self.requests, sock, known)
            if connection is not None:
                connection.await_request(data)
            return
        sent = send(sock, reply)
        if sent == len(reply):
            sock.close()
        elif (connection := self.doors.connection(self.requests, sock, known)) is not None:
            connection.send_rest(reply, sent)

    def _turn_away(self, sock: socket.SocketType, error: BusworkError) -> None:
        """For those of whom it is not even known who they are."""
        if self._strangers.allows(log):
            log.warning("%s: %s", self.requests.name, error)
        send(sock, self.requests.refusal(error))
        hang_up(sock)


class Doors:
    """All native connections of the store."""

    def __init__(
        self,
        store: Store,
        authority: Authority,
        patience: Patience | None = None,
        *,
        memory: SharedMemory,
        commons: Commons | None = None,
    ) -> None:
        """commons: what the native sockets of other wings have a part of too."""
        self.memory = memory
        self.authority = authority
        self.patience = patience or Patience()
        self.loop = asyncio.get_running_loop()
        self.peers = Peers(authority.forget_peer)
        commons = commons or Commons()
        self.shares = commons.shares
        self.buffers = commons.buffers
        self.in_flight = InFlight()
        self.crowd: Crowd[Connection] = Crowd()
        kinds = GetRequests(store), SetRequests(store)
        self._doors = {kind.name: _Door(self, kind) for kind in kinds}
        self._acceptor = Acceptor()

    def __len__(self) -> int:
        return len(self.crowd)

    def open(self, listener: socket.socket) -> None:
        """Serves a listening socket as the name of its file says; it is ours from now on."""
        name = str(listener.getsockname()).rpartition("/")[2]
        door = self._doors.get(name)
        if door is None:
            listener.close()
            raise InvalidArgs(f"{name!r} is neither {SET_NAME} nor {GET_NAME}")
        self._acceptor.open(listener, door.serve)

    def connection(
        self, requests: Requests, sock: socket.SocketType, known: Known
    ) -> Connection | None:
        """A connection that takes its time; None: its uid has too many that do."""
        try:
            lease = self._lease(requests, known)
        except LimitsExceeded as error:
            requests.complain(known, error)
            send(sock, requests.refusal(error))
            hang_up(sock)
            return None
        if self.crowd.is_full:
            requests.complain(known, f"{self.crowd.most} connections wait already: one was closed")
            self.crowd.oldest_of_most().close()
        connection = Connection(self, requests, sock, known, lease)
        self.crowd.add(connection)
        return connection

    def _lease(self, requests: Requests, known: Known) -> Lease:
        """A place; if need be that of the uid's oldest connection that never said a word."""
        uid = known.peer.uid
        try:
            return self.authority.quotas.take(uid, "native_connections")
        except LimitsExceeded as error:
            silent = self.crowd.oldest_silent(uid)
            if silent is None:
                raise
            requests.complain(known, f"a silent connection was closed: {error}")
            silent.close()
            return self.authority.quotas.take(uid, "native_connections")

    def close(self) -> None:
        self._acceptor.close()
        for connection in self.crowd.all:
            connection.close()
        self.in_flight.close()
        self.peers.close()

"""Boards for programs that speak FMR: over a socket of ours, and over channels handed to callers.

Rules
* A connection is a board on UDP: a message is a datagram. It answers each request, in their order.
* It is for the board that it names first, or for the one that is current at its first request; it
  stays with that name, so that nobody's calls move to a board that is plugged in meanwhile.
* What is asked is understood and put in line like any call; the boards get our packets, not those
  of strangers, and a request with data only when the data are there.
* Who is no longer there to read the answer takes the request along.
* A connection has one request at a time, and is not read meanwhile. Who leaves an answer unread
  or a push without its data is cut off in the end.
"""

import asyncio
import logging
import os
import pwd
import select
import socket
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from buswork.authority import Authority, Lease
from buswork.bus.caller import Peer
from buswork.errors import AccessDenied, BusworkError, LimitsExceeded
from buswork.flipper.errors import NoSuchBoard, refusal
from buswork.flipper.model.boards import Board, Boards
from buswork.flipper.model.claims import Owner
from buswork.flipper.model.packets import MEMORY_REQUESTS, packet
from buswork.flipper.native.jobs import finished
from buswork.flipper.wire import greetings
from buswork.flipper.wire.exchanges import Answer, Exchange, Refused, RequestReader, answering
from buswork.flipper.wire.greetings import Greeting, parse_greeting
from buswork.flipper.wire.packets import data_to_host
from buswork.flipper.wire.terms import UDP_TRANSFER_BYTES, BadValue, Framing, Generation
from buswork.log import Sparing, SparingByUid, escaped
from buswork.native.accept import Acceptor
from buswork.native.clock import Clock
from buswork.native.commons import Commons
from buswork.native.peers import Known, Peers
from buswork.native.room import Charges, Crowd

log = logging.getLogger(__name__)

# Of the socket unit's descriptor, and of the file.
NAME = "fmr"
SOCKET_NAME = "fmr.sock"
DOORS_USER = "buswork-doors"

USE = "org.flipper.device.use"
LOAD = "org.flipper.device.load"

# More than any datagram, so that what is too long can be told from what is not.
MESSAGE_BYTES = UDP_TRANSFER_BYTES + 1
# What a connection may keep in memory without being charged for it: calls, and small transfers.
FREE_BYTES = 4096

# What receiving a message and answering it costs the loop, besides what is done with it: those who
# flood over a hundred connections would pay for the least part of what they cost.
MESSAGE_SECONDS = 0.0001

# Raises AccessDenied, or what else speaks against an action.
Require = Callable[[str], Awaitable[None]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take; a test may have less."""

    # From a request to its data. The U2 gives them 200 ms.
    data_seconds: float = 30.0
    # How long a program may leave an answer unread.
    unread_seconds: float = 30.0
    # What is in flight at the end has so long.
    drain_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose requests they are, and for which board: its name, or "" for the current one."""

    owner: Owner
    uid: int
    require: Require
    board: str = ""
    is_door: bool = False  # it may speak for other users
    is_admitted: bool = False  # to use boards, once and for all


@dataclass(eq=False, slots=True)
class Stranger:
    """The owner of what is asked over one connection."""

    peer: Peer

    def __str__(self) -> str:
        return f"pid:{self.peer.pid}"


def doors_uids() -> frozenset[int]:
    """Who may say for whom he asks: the doors process, which looks up whose datagrams it gets."""
    with suppress(KeyError):
        return frozenset((os.geteuid(), pwd.getpwnam(DOORS_USER).pw_uid))
    return frozenset((os.geteuid(),))


class Channel:
    """One connection. What it keeps is a request and an answer, of a datagram's size at most."""

    def __init__(self, server: "FmrServer", sock: socket.SocketType, origin: Origin) -> None:
        sock.setblocking(False)
        self.origin = origin
        self.uid = origin.uid  # who is charged for it
        self._server = server
        self._charges = server.charges(self.uid)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._generation = Generation.G1
        self._reader = RequestReader(Framing.UDP, self._generation)
        self._may_name_a_board = not origin.board
        self._is_idle = True
        self._ends = False
        self.task = asyncio.create_task(self._run(), name="fmr")

    def close(self) -> None:
        self.task.cancel()

    def finish(self) -> None:
        """Ends when it has answered what it is at."""
        self._ends = True
        if self._is_idle:
            self.close()

    def ended(self) -> None:
        """Gives everything back; its task may never have begun."""
        self._charges.release()
        self._socket.close()

    async def _run(self) -> None:
        with suppress(OSError):  # a timeout is one too
            while not self._ends and (message := await self._receive()):
                self._is_idle = False
                await self._take(message)
                self._is_idle = True
                # What is refused at once waits for nothing: others have their turn here.
                await asyncio.sleep(0)

    async def _receive(self) -> bytes:
        seconds = None if self._reader.pending is None else self._server.patience.data_seconds
        async with asyncio.timeout(seconds):
            return await self._loop.sock_recv(self._socket, MESSAGE_BYTES)  # type: ignore[arg-type]

    async def _take(self, message: bytes) -> None:
        may_name, self._may_name_a_board = self._may_name_a_board, False
        if may_name and message.startswith(greetings.BEGINNING):
            await self._send([await self._greeted(message)])
            return
        for asked in await self._in_turn(lambda: self._read(message)):
            answer = await self._answered(asked)
            await self._send(answering(answer, Framing.UDP, self._generation))
            self._charges.release()

    async def _in_turn(self, work: Callable[[], T]) -> T:
        """Does it, or waits if the user has had his share of the loop's time."""
        shares, uid = self._server.commons.shares, self.origin.uid
        if shares.is_over(uid):
            return await shares.turn(uid, work)
        begin = time.monotonic()
        result = work()
        shares.charge(uid, time.monotonic() - begin + MESSAGE_SECONDS)
        return result

    async def _send(self, messages: list[bytes]) -> None:
        async with asyncio.timeout(self._server.patience.unread_seconds):
            for message in messages:
                await self._loop.sock_sendall(self._socket, message)  # type: ignore[arg-type]

    # -- which board -----------------------------------------------------------------------------

    async def _greeted(self, message: bytes) -> bytes:
        """A board that is not there may come, and who may not use it may be let: requests for it
        get such answers too. A greeting that can't be meant ends the connection."""
        try:
            greeting = parse_greeting(message)
            assert greeting is not None  # it begins like one
            self.origin = _spoken_for(self.origin, greeting)
        except (BadValue, AccessDenied) as error:
            self._ends = True
            return greetings.refused(escaped(str(error)))
        try:
            await _admit(self.origin)
            self._board()
        except BusworkError as error:
            return greetings.refused(escaped(str(error)))
        return greetings.OK

    def _board(self) -> Board:
        board = self._server.boards.find(self.origin.board)
        if not self.origin.board:
            self.origin = replace(self.origin, board=board.name)
        return board

    # -- requests --------------------------------------------------------------------------------

    def _read(self, message: bytes) -> list[Exchange | Refused]:
        if self._reader.pending is None:
            self._speak_as_the_board()
        return self._reader.feed(message)

    def _speak_as_the_board(self) -> None:
        with suppress(NoSuchBoard):
            generation = self._board().generation
            if generation is not self._generation:
                self._generation = generation
                self._reader = RequestReader(Framing.UDP, generation)

    async def _answered(self, asked: Exchange | Refused) -> Answer | Refused:
        """The answer; it ends with the connection when nobody is there to read it."""
        if isinstance(asked, Refused):
            return asked
        self._loop.add_reader(self._socket.fileno(), self._look)
        try:
            self._charges.adjust(len(asked.data) + data_to_host(asked.request))
            return await self._answer(asked)
        except BusworkError as error:
            return refusal(error)
        finally:
            self._loop.remove_reader(self._socket.fileno())

    async def _answer(self, asked: Exchange) -> Answer | Refused:
        origin, server = self.origin, self._server
        await _admit(origin)
        touches_memory = isinstance(asked.request, MEMORY_REQUESTS)
        if touches_memory:
            await origin.require(LOAD)
        board = self._board()
        job = await self._in_turn(lambda: packet(board, asked, touches_memory))
        return await finished(board, origin.owner, origin.uid, job, server.clock)

    def _look(self) -> None:
        """Something came while a request is answered: the next one, or the end. Whoever only has
        nothing more to ask still reads."""
        self._loop.remove_reader(self._socket.fileno())
        poll = select.poll()
        poll.register(self._socket.fileno(), 0)
        if any(found & select.POLLHUP for _, found in poll.poll(0)):
            self.close()


async def _admit(origin: Origin) -> None:
    if not origin.is_admitted:
        await origin.require(USE)


def _spoken_for(origin: Origin, greeting: Greeting) -> Origin:
    if greeting.uid is None:
        return replace(origin, board=greeting.board)
    if not origin.is_door:
        raise AccessDenied(f"uid {origin.uid} may not speak for others")
    return replace(origin, board=greeting.board, uid=greeting.uid)


class FmrServer:
    """All connections."""

    def __init__(
        self,
        boards: Boards,
        authority: Authority,
        patience: Patience | None = None,
        commons: Commons | None = None,
        clock: Clock | None = None,
        doors: Collection[int] | None = None,
    ) -> None:
        """commons: what the native sockets of other wings have a part of too; doors: uids."""
        self.boards = boards
        self.patience = patience or Patience()
        self.commons = commons or Commons()
        self.clock = clock or Clock()
        self.crowd: Crowd[Channel] = Crowd()
        self._doors = doors_uids() if doors is None else doors
        self._authority = authority
        self._channels: set[Channel] = set()
        self._peers = Peers(authority.forget_peer)
        self._acceptor = Acceptor()
        self._complaints = SparingByUid("complaints about clients of the boards' socket")
        self._strangers = Sparing("clients of the boards' socket that were sent away")

    def __len__(self) -> int:
        return len(self._channels)

    def charges(self, uid: int) -> Charges:
        return Charges(self._authority.quotas, self.commons.buffers, uid, FREE_BYTES)

    def open(self, listener: socket.socket) -> None:
        """Serves a listening socket of the kind SOCK_SEQPACKET, which is ours from now on."""
        self._acceptor.open(listener, self._serve)

    def open_channel(
        self, origin: Origin, on_end: Callable[[], None]
    ) -> tuple[socket.socket, Callable[[], None]]:
        """The other end of a connection, and what ends it; on_end is called when it has ended.

        Whoever was given it may use the board with it, and is asked about memory alone.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = Channel(self, ours, replace(origin, is_admitted=True))
        self._begin(channel, on_end)
        return theirs, channel.close

    async def stop(self) -> None:
        """Answers what is in flight, and ends."""
        self._acceptor.close()
        tasks = [channel.task for channel in self._channels]
        for channel in self._channels:
            channel.finish()
        if tasks:
            await asyncio.wait(tasks, timeout=self.patience.drain_seconds)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._peers.close()

    def _begin(self, channel: Channel, on_end: Callable[[], None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            channel.ended()
            self._channels.remove(channel)
            on_end()
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("a channel ended", exc_info=error)

        self._channels.add(channel)
        channel.task.add_done_callback(ended)

    # -- the socket ------------------------------------------------------------------------------

    def _serve(self, sock: socket.SocketType) -> None:
        try:
            known = self._peers.of(sock)
        except BusworkError as error:
            if self._strangers.allows(log):
                log.warning("a client of the boards' socket is sent away: %s", error)
            sock.close()
            return
        try:
            lease = self._authority.quotas.take(known.peer.uid, "native_connections")
        except LimitsExceeded as error:
            self._complain(known, error)
            sock.close()
            return
        if self.crowd.is_full:
            self._complain(known, f"there are {self.crowd.most} connections: one was closed")
            self.crowd.oldest_of_most().close()
        channel = Channel(self, sock, self._origin(known.peer))
        self._peers.hold(known)
        self.crowd.add(channel)
        self._begin(channel, lambda: self._let_go(channel, known, lease))

    def _origin(self, peer: Peer) -> Origin:
        async def require(action: str) -> None:
            await self._authority.require_peer(peer, action)

        return Origin(Stranger(peer), peer.uid, require, is_door=peer.uid in self._doors)

    def _let_go(self, channel: Channel, known: Known, lease: Lease) -> None:
        self.crowd.remove(channel)
        self._peers.let_go(known)
        lease.release()

    def _complain(self, known: Known, error: object) -> None:
        peer = known.peer
        if self._complaints.allows(log, peer.uid):
            log.warning("boards' socket: uid %d, pid %d: %s", peer.uid, peer.pid, error)

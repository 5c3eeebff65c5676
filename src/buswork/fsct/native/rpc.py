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
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from buswork.authority import Authority, Lease
from buswork.bus.caller import Peer
from buswork.errors import BusworkError, LimitsExceeded, TimedOut
from buswork.fsct.model.driver import Change, DeviceAdded, DeviceRemoved, Driver
from buswork.fsct.model.players import NoSuchPlayer, NotAssigned, Player
from buswork.fsct.wire import jsonrpc, methods, msgpackrpc
from buswork.fsct.wire.methods import UnknownMethod
from buswork.fsct.wire.protocol import (
    MAX_MESSAGE_BYTES,
    VERSION,
    Broken,
    protocol_of,
)
from buswork.fsct.wire.protocol import Protocol as Speech
from buswork.fsct.wire.terms import BadValue, DeviceInfo, TimeSync
from buswork.log import Sparing
from buswork.native.accept import Acceptor
from buswork.native.peers import Known, Peers
from buswork.native.room import Crowd
from buswork.native.shares import Shares

log = logging.getLogger(__name__)

OBSERVE = "org.fsct.driver.observe"
REGISTER = "org.fsct.driver.register"
ROUTE = "org.fsct.driver.route"
MANAGE = "org.fsct.driver.manage"

# Requests of a connection that wait for their answer; who sends more has to wait.
MAX_IN_FLIGHT = 64
# Read at a time before others have their turn: eighty small requests, about two milliseconds.
CHUNK_BYTES = 4 * 1024
# What a client has not read; then its requests are not read either, and it is told no more.
MAX_UNREAD_BYTES = 256 * 1024
# What a connection may keep in memory without being charged for it.
FREE_BYTES = 64 * 1024

_DONTWAIT = int(socket.MSG_DONTWAIT)
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

Register = Callable[[str, int, Hashable], Player]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take; a test may have less."""

    # From the first byte of a message to its last.
    message_seconds: float = 30.0
    # How long a client may leave its answers unread.
    unread_seconds: float = 30.0
    # From a request's coming to its answer. Longer than polkit is waited for.
    request_seconds: float = 25.0
    # What is in flight at the end has so long.
    drain_seconds: float = 5.0


class _Right(NamedTuple):
    """What is asked for one's own player, or for no player at all, and for those of others."""

    own: str
    others: str


# A method that is not here needs no right: it tells what everybody may know.
RIGHTS = {
    "register_player": _Right(REGISTER, REGISTER),
    "unregister_player": _Right(REGISTER, MANAGE),
    "assign_player_to_device": _Right(ROUTE, MANAGE),
    "unassign_player_from_device": _Right(ROUTE, MANAGE),
    "update_player_state": _Right(REGISTER, MANAGE),
    "update_player_status": _Right(REGISTER, MANAGE),
    "update_player_timeline": _Right(REGISTER, MANAGE),
    "update_player_metadata": _Right(REGISTER, MANAGE),
    "set_preferred_player": _Right(ROUTE, MANAGE),
    "get_preferred_player": _Right(OBSERVE, OBSERVE),
    "get_player_assigned_device": _Right(OBSERVE, OBSERVE),
    "get_detected_devices": _Right(OBSERVE, OBSERVE),
    "get_device_info": _Right(OBSERVE, OBSERVE),
}
_ABOUT_A_PLAYER = frozenset(
    name
    for name, method in jsonrpc.METHODS.items()
    if method.params and method.params[0] in ("player_id", "preferred_player_id")
)


# -- the two protocols ---------------------------------------------------------------------------


class _Tongue:
    """What the two protocols do differently."""

    is_told_of_devices: ClassVar[bool]
    decoder: msgpackrpc.Decoder | jsonrpc.Decoder

    def arguments(self, request: Any) -> tuple[Any, ...]:
        raise NotImplementedError

    def result(self, request: Any, value: Any) -> bytes:
        raise NotImplementedError

    def error(self, request: Any, error: Exception) -> bytes:
        raise NotImplementedError

    def refused(self, message: Any) -> bytes:
        raise NotImplementedError

    def cut_off(self, text: str) -> bytes:
        """What to answer to a message that is not read to its end."""
        raise NotImplementedError


# What needs no look at each time: methods without parameters, and the version in its wire's form.
_BARE = frozenset(name for name, method in methods.METHODS.items() if not method.params)
_VERSION = methods.encode_result(VERSION)


class _MessagePack(_Tongue):
    is_told_of_devices = False
    decoder: msgpackrpc.Decoder

    def __init__(self) -> None:
        self.decoder = msgpackrpc.Decoder()

    def arguments(self, request: msgpackrpc.Request) -> tuple[Any, ...]:
        if not request.params and request.method in _BARE:
            return ()
        return methods.parse_params(request.method, request.params)

    def result(self, request: msgpackrpc.Request, value: Any) -> bytes:
        if value is VERSION:
            value = _VERSION
        elif value is not None:
            value = methods.encode_result(value)
        return msgpackrpc.encode_response(request.msgid, value)

    def error(self, request: msgpackrpc.Request, error: Exception) -> bytes:
        text = _text(error)
        if isinstance(error, (NoSuchPlayer, NotAssigned)):
            text = methods.error_text(request.method, text)
        return msgpackrpc.encode_error(request.msgid, text)

    def refused(self, message: msgpackrpc.Refused) -> bytes:
        return msgpackrpc.encode_error(message.msgid, message.text)

    def cut_off(self, text: str) -> bytes:
        return self.decoder.broken(text).answer


class _Json(_Tongue):
    is_told_of_devices = True

    def __init__(self) -> None:
        self.decoder = jsonrpc.Decoder()

    def arguments(self, request: jsonrpc.Request) -> tuple[Any, ...]:
        mono_to_unix_ns = time.time_ns() - time.monotonic_ns()
        return jsonrpc.parse_params(request.method, request.params, mono_to_unix_ns)

    def result(self, request: jsonrpc.Request, value: Any) -> bytes:
        return jsonrpc.encode_result(request.id, value)

    def error(self, request: jsonrpc.Request, error: Exception) -> bytes:
        code, text = jsonrpc.DRIVER_ERROR, _text(error)
        if isinstance(error, UnknownMethod):
            code = jsonrpc.UNKNOWN_METHOD
        elif isinstance(error, NoSuchPlayer):
            player_id = request.params[jsonrpc.METHODS[request.method].params[0]]
            text = f"player_id {player_id} not registered for this connection"
        return jsonrpc.encode_error(request.id, code, text)

    def refused(self, message: jsonrpc.Refused) -> bytes:
        return jsonrpc.encode_error(message.id, message.code, message.text)

    def cut_off(self, text: str) -> bytes:
        return jsonrpc.encode_error(None, jsonrpc.DRIVER_ERROR, text)  # its id may be at its end


_TONGUES: dict[Speech, type[_Tongue]] = {
    Speech.MSGPACK_RPC: _MessagePack,
    Speech.JSON_RPC: _Json,
}
_REQUESTS = (msgpackrpc.Request, jsonrpc.Request)
_REFUSED = (msgpackrpc.Refused, jsonrpc.Refused)


def _request_or_answer(tongue: _Tongue, message: Any) -> Any:
    """A request, or the answer (bytes) to what is none."""
    if type(message) in _REQUESTS:
        return message
    # Notifications are taken, and change nothing; there are no requests of ours.
    return tongue.refused(message) if isinstance(message, _REFUSED) else b""


def _text(error: Exception) -> str:
    """What a client is told; of our own defects nothing."""
    known = isinstance(error, (BusworkError, BadValue, UnknownMethod))
    return str(error) if known else "the driver failed; its log says how"


# -- a connection --------------------------------------------------------------------------------


class _Connection:
    """One client, for as long as it is connected."""

    def __init__(
        self, server: "RpcServer", sock: socket.SocketType, known: Known, lease: Lease
    ) -> None:
        self.known = known
        self._server = server
        self._patience = server.patience
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._lease = lease
        self._tongue: _Tongue | None = None
        # Requests that are not answered yet, and until when they have to be; and between them
        # answers (bytes) that others stand in front of.
        self._waiting: deque[tuple[Any, float]] = deque()
        self._pump: asyncio.Task[None] | None = None
        # Word of devices, until it is known whether the client may observe.
        self._news = bytearray()
        self._teller: asyncio.Task[None] | None = None
        self._unsent = bytearray()
        self._message_bytes = 0  # read since the last message ended
        self._large: Lease | None = None  # for a message, or answers, that take much room
        self._message_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._reads = False
        self._in_line = False  # for a turn of its uid
        self._ends = False  # as soon as everything is answered
        self._broken = False  # what else it sent can't be read
        self._read_on()

    @property
    def uid(self) -> int:
        return self.known.peer.uid

    @property
    def is_open(self) -> bool:
        return self._sock.fileno() >= 0

    # -- reading -------------------------------------------------------------------------------

    @property
    def _has_room(self) -> bool:
        """Whether there is room for what comes of reading."""
        return (
            not self._ends
            and len(self._waiting) < MAX_IN_FLIGHT
            and len(self._unsent) <= MAX_UNREAD_BYTES
        )

    def _read_on(self) -> None:
        may = self._has_room and not self._in_line
        if may and not self._reads:
            self._loop.add_reader(self._sock.fileno(), self._readable)
        elif self._reads and not may:
            self._loop.remove_reader(self._sock.fileno())
        self._reads = may

    def _readable(self) -> None:
        shares = self._server.shares
        if shares.is_over(self.uid):
            self._in_line = True
            self._read_on()
            shares.later(self.uid, self._read_in_turn)
            return
        begin = time.monotonic()
        self._read()
        shares.charge(self.uid, time.monotonic() - begin)

    def _read_in_turn(self) -> None:
        self._in_line = False
        if self.is_open and self._has_room:
            self._read()
        if self.is_open:
            self._read_on()

    def _read(self) -> None:
        try:
            data = self._sock.recv(CHUNK_BYTES, _DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            if not self.close_if_left():
                self.end()
            return
        if self._tongue is None:
            self._tongue = _TONGUES[protocol_of(data[0])]()
        self._tongue.decoder.feed(data)
        self._message_bytes += len(data)
        self._take_messages(self._tongue, b"")

    def _take_messages(self, tongue: _Tongue, answer: bytes) -> None:
        """Answers what can be answered at once, behind the answer that there is; the rest waits."""
        answers = bytearray(answer)
        taken = False
        try:
            while not self._broken and len(self._waiting) < MAX_IN_FLIGHT:
                message = tongue.decoder.next()
                if message is None:
                    break
                taken = True
                answers += self._answer_or_wait(tongue, _request_or_answer(tongue, message))
            if taken:
                self._message_bytes = 0
            partial = tongue.decoder.partial and not self._waiting
            if partial or self._message_timer is not None:
                self._look_at_time(partial, begun=taken)
            if self._message_bytes > FREE_BYTES:
                self._charge(self._message_bytes)
        except (Broken, LimitsExceeded) as error:
            self._server.complain(self.known, error)
            self._ends = self._broken = True
            self._message_bytes = 0
            last = error.answer if isinstance(error, Broken) else tongue.cut_off(str(error))
            answers += self._answer_or_wait(tongue, last)
        self._send(answers)

    def _look_at_time(self, partial: bool, *, begun: bool) -> None:
        """A message that has begun must end some time; begun: it is not the one of before."""
        if self._message_timer is not None and (begun or not partial):
            self._message_timer.cancel()
            self._message_timer = None
        if partial and self._message_timer is None:
            seconds = self._patience.message_seconds
            self._message_timer = self._loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        seconds = self._patience.message_seconds
        self._server.complain(self.known, f"no whole message within {seconds:g} s")
        self.close()

    def _charge(self, size: int) -> None:
        """What takes much room, coming or going, counts as waiting bytes of its uid."""
        size = max(size, len(self._unsent))
        if size > FREE_BYTES and self._large is None:
            quotas = self._server.quotas
            self._large = quotas.take(self.uid, "waiting_bytes", MAX_MESSAGE_BYTES)
        elif size <= FREE_BYTES and self._large is not None:
            self._large.release()
            self._large = None

    # -- answering -----------------------------------------------------------------------------

    def _answer_or_wait(self, tongue: _Tongue, message: Any) -> bytes:
        """The answer, unless it has to wait; then it will come in its turn."""
        if not self._waiting:
            answer = self._answer_now(tongue, message)
            if answer is not None:
                return answer
        until = self._loop.time() + self._patience.request_seconds
        self._waiting.append((message, until))
        if self._pump is None:
            self._pump = self._loop.create_task(self._answer_waiting(tongue))
        return b""

    def _answer_now(
        self, tongue: _Tongue, message: Any, allowed: str | None = None
    ) -> bytes | None:
        """The answer; None: somebody must be asked first. allowed: an action that was asked for."""
        if isinstance(message, bytes):
            return message
        try:
            server, method = self._server, message.method
            arguments = tongue.arguments(message)
            action = server.action(self.known, method, arguments)
            if action is not None and action != allowed and not server.may(self.known, action):
                return None
            return tongue.result(message, METHODS[method](server, self, *arguments))
        except Exception as error:
            return self._failure(tongue, message, error)

    async def _answer_waiting(self, tongue: _Tongue) -> None:
        while self._waiting:
            answer = await self._answer_later(tongue, *self._waiting[0])
            self._waiting.popleft()
            # Those that were left in the decoder come now, before anything ends.
            self._take_messages(tongue, answer)
        self._pump = None

    async def _answer_later(self, tongue: _Tongue, message: Any, until: float) -> bytes:
        action: str | None = None
        try:
            async with asyncio.timeout_at(until):
                while (answer := self._answer_now(tongue, message, action)) is None:
                    action = self._action(tongue, message)
                    await self._server.authority.require_peer(self.known.peer, action)
        except TimeoutError:
            seconds = self._patience.request_seconds
            error = TimedOut(f"{message.method} was not allowed within {seconds:g} s")
            return tongue.error(message, error)
        except Exception as error:
            return self._failure(tongue, message, error)
        return answer

    def _action(self, tongue: _Tongue, message: Any) -> str:
        arguments = tongue.arguments(message)
        action = self._server.action(self.known, message.method, arguments)
        assert action is not None  # else there would be an answer
        return action

    def _failure(self, tongue: _Tongue, message: Any, error: Exception) -> bytes:
        if not isinstance(error, (BusworkError, BadValue, UnknownMethod)):
            log.error("%s failed", message.method, exc_info=error)
        return tongue.error(message, error)

    # -- word of devices -----------------------------------------------------------------------

    def tell(self, news: bytes) -> None:
        """Sends it to a client that is told of devices, as soon as it is known that it may be."""
        if self._tongue is None or not self._tongue.is_told_of_devices or not self.is_open:
            return
        if len(self._unsent) + len(self._news) + len(news) > MAX_UNREAD_BYTES:
            return
        if self._teller is None and self._server.may(self.known, OBSERVE):
            self._send(news)
            return
        self._news += news
        if self._teller is None:
            self._teller = self._loop.create_task(self._tell_later())

    async def _tell_later(self) -> None:
        news = b""
        try:
            await self._server.authority.require_peer(self.known.peer, OBSERVE)
            news = bytes(self._news)
        except BusworkError:
            pass  # the authority has logged what it denied
        except Exception as error:
            log.error("nobody could say who may observe", exc_info=error)
        self._news.clear()
        self._teller = None
        self._send(news)

    # -- writing -------------------------------------------------------------------------------

    def _send(self, data: bytes | bytearray) -> None:
        if self._unsent:
            self._unsent += data
        elif data and self.is_open:
            sent = self._try(data)
            if sent < len(data):
                self._unsent += data[sent:]
                self._await_reader()
        if self.is_open:
            self._settle()

    def _write_on(self) -> None:
        """The client has read something."""
        sent = self._try(self._unsent)
        if not self.is_open:
            return
        del self._unsent[:sent]
        if sent and self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        if self._unsent:
            self._await_reader()
        else:
            self._loop.remove_writer(self._sock.fileno())
        self._settle()

    def _try(self, data: bytes | bytearray) -> int:
        """How much went out; the connection is closed when there is nobody to read it."""
        try:
            return self._sock.send(data, _SEND)
        except BlockingIOError:
            return 0
        except OSError:
            self.close()
            return len(data)

    def _await_reader(self) -> None:
        if self._unread_timer is None:
            self._loop.add_writer(self._sock.fileno(), self._write_on)
            self._unread_timer = self._loop.call_later(self._patience.unread_seconds, self.close)

    def _settle(self) -> None:
        """Goes on reading, or ends, as things are now."""
        if self._large is not None or len(self._unsent) > FREE_BYTES:
            try:
                self._charge(self._message_bytes)
            except LimitsExceeded as error:
                self._server.complain(self.known, error)
                self.close()
                return
        if self._ends and not self._waiting and not self._unsent:
            self.close()
        else:
            self._read_on()

    # -- ending --------------------------------------------------------------------------------

    def finish(self) -> None:
        """Takes what has come by now, and ends."""
        if self._has_room:
            self._read()
        if self.is_open:
            self.end()

    def end(self) -> None:
        """Reads no more; ends when everything is answered."""
        self._ends = True
        self._settle()

    def close_if_left(self) -> bool:
        """Whether nobody is there who could read an answer; then there is no need to wait."""
        poll = select.poll()
        poll.register(self._sock.fileno(), 0)
        if any(found & select.POLLHUP for _, found in poll.poll(0)):
            self.close()
        return not self.is_open

    def close(self) -> None:
        if not self.is_open:
            return
        for timer in (self._message_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        for task in (self._pump, self._teller):
            if task is not None:
                task.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._waiting.clear()
        self._broken = True  # what is left of what it sent is nobody's
        for lease in (self._lease, self._large):
            if lease is not None:
                lease.release()
        self._server.forget(self)


# -- the server ----------------------------------------------------------------------------------


class RpcServer:
    """All connections, and what their requests do."""

    def __init__(
        self,
        driver: Driver,
        authority: Authority,
        register: Register,
        patience: Patience | None = None,
    ) -> None:
        """register: the driver's, with what a player costs its user."""
        self.authority = authority
        self.quotas = authority.quotas
        self.patience = patience or Patience()
        self.driver = driver
        self.register = register
        self.shares = Shares()
        self.crowd: Crowd[_Connection] = Crowd()
        self._peers = Peers(self._ended)
        self._acceptor = Acceptor()
        self._sparing = Sparing("complaints about clients of the driver's socket")
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
        self.shares.close()  # nobody waits for his turn any more
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
            lease = self.quotas.take(known.peer.uid, "native_connections")
        except BusworkError as error:
            if self._sparing.allows(log):
                log.warning("a client of the driver's socket is sent away: %s", error)
            sock.close()
            return
        if self.crowd.is_full:
            self.complain(known, f"there are {self.crowd.most} connections: one was closed")
            self.crowd.oldest_of_most().close()
        self._peers.hold(known)
        self._idle.clear()
        self.crowd.add(_Connection(self, sock, known, lease))

    def _ended(self, peer: Peer) -> None:
        """A process has ended; a connection may live on in its children."""
        self.authority.forget_peer(peer)
        for connection in self.crowd.all:
            if connection.known.peer == peer:
                connection.close_if_left()

    def forget(self, connection: _Connection) -> None:
        """The connection has ended, and so have its players."""
        self.crowd.remove(connection)
        self.driver.release(connection)
        self._peers.let_go(connection.known)
        if not self.crowd:
            self._idle.set()

    def complain(self, known: Known, error: object) -> None:
        if self._sparing.allows(log):
            peer = known.peer
            log.warning("driver's socket: uid %d, pid %d: %s", peer.uid, peer.pid, error)

    # -- requests ------------------------------------------------------------------------------

    def action(self, known: Known, method: str, arguments: tuple[Any, ...]) -> str | None:
        """What must be allowed for this; None: nothing."""
        right = RIGHTS.get(method)
        if right is None:
            return None
        if method in _ABOUT_A_PLAYER:
            player = self.driver.players.get(arguments[0])
            if player is not None and player.uid != known.peer.uid:
                return right.others
        return right.own

    def may(self, known: Known, action: str) -> bool:
        """Whether it is allowed without asking anybody."""
        return self.authority.peer_is_known(known.peer, action)

    def _changed(self, change: Change) -> None:
        if isinstance(change, (DeviceAdded, DeviceRemoved)):
            event = "added" if isinstance(change, DeviceAdded) else "removed"
            news = jsonrpc.device_changed(event, UUID(change.display.device.id))
            for connection in self.crowd.all:
                connection.tell(news)


# -- what requests do ----------------------------------------------------------------------------


def _register_player(server: RpcServer, owner: _Connection, self_id: str) -> int:
    return server.register(self_id, owner.uid, owner).id


def _assigned_device(server: RpcServer, owner: _Connection, player_id: int) -> UUID | None:
    device = server.driver.player(player_id).device
    return None if device is None else UUID(device)


def _device_info(server: RpcServer, owner: _Connection, device_id: UUID) -> DeviceInfo:
    device = server.driver.display(str(device_id)).device
    return DeviceInfo(
        device_id,
        device.product or None,
        device.vendor or None,
        device.vendor_id,
        device.product_id,
        device.serial or None,
    )


# Called with the server, the connection and the arguments.
METHODS: dict[str, Callable[..., Any]] = {
    "get_protocol_version": lambda server, owner: VERSION,
    "register_player": _register_player,
    "unregister_player": lambda server, owner, *args: server.driver.unregister(*args),
    "assign_player_to_device": lambda server, owner, player_id, device: server.driver.assign(
        player_id, str(device)
    ),
    "unassign_player_from_device": lambda server, owner, player_id, device: server.driver.unassign(
        player_id, str(device)
    ),
    "update_player_state": lambda server, owner, *args: server.driver.update_state(*args),
    "update_player_status": lambda server, owner, *args: server.driver.update_status(*args),
    "update_player_timeline": lambda server, owner, *args: server.driver.update_timeline(*args),
    "update_player_metadata": lambda server, owner, *args: server.driver.update_text(*args),
    "set_preferred_player": lambda server, owner, *args: server.driver.prefer(*args),
    "get_preferred_player": lambda server, owner: server.driver.preferred,
    "get_player_assigned_device": _assigned_device,
    "get_timesync": lambda server, owner: TimeSync(time.time_ns(), time.monotonic_ns()),
    "get_detected_devices": lambda server, owner: [UUID(known) for known in server.driver.displays],
    "get_device_info": _device_info,
}

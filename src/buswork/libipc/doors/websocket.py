"""Services for browsers, and for whoever else speaks WebSocket: ws://HOST:PORT/SERVICE.

A binary frame is a message. The subprotocol says of which form, and what is in the frame:

    buswork.libipc.c      a byte, which is the user type; then the payload
    buswork.libipc.zig    the payload

A page of any site can make a browser connect to this machine, as its user. So the page's origin has
to be on a list, and the name that it calls us by: a site can have its own name mean this machine
(DNS rebinding). And it has to know the token, which it offers as one more subprotocol,
buswork.token.TOKEN: unlike a part of the URL, that lands in no log and no history; and nothing is
done for who does not know it. It is never chosen, so never told back.
"""

import asyncio
import hmac
import logging
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.frames import CloseCode
from websockets.headers import parse_subprotocol
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from buswork.errors import (
    AccessDenied,
    BusworkError,
    Busy,
    InteractiveAuthorizationRequired,
    TimedOut,
)
from buswork.libipc.doors.gate import Gate, Guest
from buswork.libipc.doors.options import Place
from buswork.libipc.doors.relay import ConnectionEnd, carry
from buswork.libipc.doors.sockets import listening, prepare
from buswork.libipc.errors import NoSuchService, NotAllowed, PeerGone
from buswork.libipc.library.contexts import Context
from buswork.libipc.wire.forms import Form, Message, most_payload
from buswork.libipc.wire.names import BadName, parse
from buswork.log import Sparing

log = logging.getLogger(__name__)

SUBPROTOCOLS: Final = {f"buswork.libipc.{form}": form for form in Form}
TOKEN_PREFIX: Final = "buswork.token."

# From the connection to the answer, the daemon's part included.
OPEN_SECONDS = 15.0
# Whoever does not answer a ping is left.
PING_SECONDS = 20.0
# From our good-bye to theirs.
CLOSE_SECONDS = 3.0
# A frame at a time waits here; what comes behind it, in the kernel.
MAX_QUEUED_FRAMES: Final = 1
PIECE_BYTES: Final = 1 << 16
# The user type comes on top.
MAX_FRAME_BYTES: Final = max(most_payload(form) for form in Form) + 1
MAX_REASON_BYTES: Final = 123
# What may wait here for one that does not read: never more than two pieces, but for what the
# library answers by itself, however fast it is asked.
MAX_UNREAD_BYTES: Final = 4 * PIECE_BYTES

_LOOPBACK_NAMES: Final = frozenset(("localhost", "127.0.0.1", "[::1]"))
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?")

# What a refusal of the daemon is to a browser.
_STATUS: Final = {
    AccessDenied.name: HTTPStatus.FORBIDDEN,
    InteractiveAuthorizationRequired.name: HTTPStatus.FORBIDDEN,
    NotAllowed.name: HTTPStatus.FORBIDDEN,
    NoSuchService.name: HTTPStatus.NOT_FOUND,
    Busy.name: HTTPStatus.GATEWAY_TIMEOUT,
    TimedOut.name: HTTPStatus.GATEWAY_TIMEOUT,
}

# Of what the library says only its defects: its details would have the token. And not all of them:
# some can be brought about, like one where nonsense came before a refusal.
_frames_log = logging.getLogger(f"{__name__}.frames")
_frames_log.setLevel(logging.ERROR)
_sparing = Sparing("defects of connections")
_frames_log.addFilter(lambda _: _sparing.allows(log))


class Misuse(BusworkError):
    """What came is no message."""

    def __init__(self, text: str, code: CloseCode = CloseCode.POLICY_VIOLATION) -> None:
        super().__init__(text)
        self.code = code


class Refused(Exception):
    """Nobody comes in like this."""

    def __init__(self, status: HTTPStatus, why: object) -> None:
        super().__init__(str(why))
        self.status = status


# -- one connection ------------------------------------------------------------------------------


# For every read, until it is taken apart: see Shared.buffer. The loop of the process is one.
_buffer: Final = memoryview(bytearray(PIECE_BYTES))


class Visit(ServerConnection, asyncio.BufferedProtocol):
    """A connection, with what was found for it during the handshake."""

    guest: Guest
    form: Form
    _service: socket.socket | None = None
    _is_lost = False
    _room = _buffer

    def keep(self, service: socket.socket) -> None:
        """Until it is taken, or the connection is lost."""
        if self._is_lost:
            service.close()
        else:
            self._service = service

    def take(self) -> socket.socket | None:
        """None: it was lost meanwhile."""
        service, self._service = self._service, None
        return service

    async def handshake(self, *arguments: Any, **options: Any) -> None:
        try:
            await super().handshake(*arguments, **options)
        except asyncio.CancelledError:
            self.transport.abort()  # which is left to us
            raise

    def get_buffer(self, sizehint: int) -> memoryview:
        """sizehint: what TLS has. There has to be room for all of it: at the end of the stream, it
        drops what it could not give at once."""
        self._room = _buffer if sizehint <= PIECE_BYTES else memoryview(bytearray(sizehint))
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        data, self._room = bytes(self._room[:nbytes]), _buffer
        self.data_received(data)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()  # it pings, and does not read the answers

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._is_lost = True
        if (service := self.take()) is not None:
            service.close()


class WebSocketEnd:
    """One side of a relay."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._form = visit.form

    async def receive(self) -> Message:
        try:
            data = await self._visit.recv()
        except ConnectionClosed:
            raise PeerGone("the browser left") from None
        if isinstance(data, str):
            raise Misuse("messages are binary frames", CloseCode.UNSUPPORTED_DATA)
        return _message(self._form, data)

    async def send(self, message: Message) -> None:
        first = bytes((message.user_type,)) if self._form is Form.C else b""
        try:
            if len(message.payload) < PIECE_BYTES:
                await self._visit.send(first + message.payload)
            else:
                await self._visit.send(_pieces(first, message.payload))
        except ConnectionClosed:
            raise PeerGone("the browser left") from None

    async def finish(self) -> None:
        await self._visit.close(CloseCode.GOING_AWAY, "the service left")


def _pieces(first: bytes, payload: bytes) -> Iterator[bytes]:
    """Fragments of one message: the next one is made when this one has left."""
    yield first + payload[:PIECE_BYTES]
    for at in range(PIECE_BYTES, len(payload), PIECE_BYTES):
        yield payload[at : at + PIECE_BYTES]


def _message(form: Form, data: bytes) -> Message:
    if not data:
        # In the form ZIG an empty message ends the connection of the originals.
        raise Misuse("an empty frame is no message of either form")
    message = Message(data) if form is Form.ZIG else Message(data[1:], data[0])
    if len(message.payload) > most_payload(form):
        raise Misuse("a message of this form is not so long", CloseCode.MESSAGE_TOO_BIG)
    return message


# -- accepting -----------------------------------------------------------------------------------


class _Visitor(socket.socket):
    """Gives its place back when it is closed, whoever does that."""

    on_close: Callable[[int], None]

    def close(self) -> None:
        number = self.fileno()
        super().close()
        self.on_close(number)


class _Listener(socket.socket):
    """Accepts those alone who may come in."""

    welcome: Callable[[socket.socket], socket.socket | None]

    def accept(self) -> tuple[socket.socket, object]:
        accepted, address = super().accept()
        visitor = self.welcome(accepted)
        if visitor is None:
            accepted.close()
            raise ConnectionAbortedError  # the loop comes again for the next one
        return visitor, address


class WebSocketDoor:
    """A port behind which services are."""

    def __init__(self, place: Place, gate: Gate, context: Context) -> None:
        self._place = place
        self._gate = gate
        self._settings = gate.settings
        self._context = context
        # By descriptors: an address may come again before we have closed what had it before.
        self._guests: dict[int, Guest] = {}
        self._hosts = {_written(place.host), *gate.settings.hosts}
        if place.is_loopback:
            self._hosts |= _LOOPBACK_NAMES
        self._server: Server | None = None

    async def open(self) -> Place:
        """Where it is. OSError: the port is taken."""
        listener = _Listener(fileno=listening(self._place).detach())
        listener.welcome = self._welcome
        self._server = await serve(
            self._serve,
            sock=listener,
            ssl=self._settings.tls,
            process_request=self._refusal,
            select_subprotocol=self._subprotocol,
            create_connection=Visit,
            compression=None,  # a bomb, and a side channel
            server_header=None,
            open_timeout=OPEN_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=CLOSE_SECONDS,
            max_size=MAX_FRAME_BYTES,
            max_queue=MAX_QUEUED_FRAMES,
            write_limit=PIECE_BYTES,
            logger=_frames_log,
        )
        host, port, *_ = listener.getsockname()
        return Place(host, port)

    async def close(self) -> None:
        server = self._server
        if server is None:
            return
        server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await server.wait_closed()
        # Those that do not read, and those that are not connected yet.
        for visit in list(server.all_connections):
            visit.transport.abort()
        for task in list(server.handler_tasks):
            task.cancel()
        await server.wait_closed()

    def _welcome(self, accepted: socket.socket) -> socket.socket | None:
        prepare(accepted)
        guest = self._gate.enter(accepted)
        if guest is None:
            return None
        visitor = _Visitor(fileno=accepted.detach())
        self._guests[visitor.fileno()] = guest
        visitor.on_close = self._left
        return visitor

    def _left(self, number: int) -> None:
        guest = self._guests.pop(number, None)
        if guest is not None:
            guest.leave()

    # The handshake

    async def _refusal(self, visit: ServerConnection, request: Request) -> Response | None:
        visit = cast("Visit", visit)
        guest = self._guests.get(visit.transport.get_extra_info("socket").fileno())
        if guest is None:
            return visit.respond(HTTPStatus.SERVICE_UNAVAILABLE, "")  # it left already
        visit.guest = guest
        try:
            await self._let_in(visit, request)
        except Refused as refused:
            self._gate.complain(guest.uid, refused)
            return visit.respond(refused.status, f"{refused}\n")
        return None

    async def _let_in(self, visit: Visit, request: Request) -> None:
        self._check_host(request.headers.get_all("Host"))
        origins = request.headers.get_all("Origin")
        self._check_origin(origins)
        offered = _offered(request.headers.get_all("Sec-WebSocket-Protocol"))
        if origins or visit.guest.is_remote:
            self._check_token(offered)
        visit.form = _form(offered)
        visit.keep(await self._connected(visit, _service(request.path)))

    def _check_host(self, hosts: Sequence[str]) -> None:
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None or found[1].lower() not in self._hosts:
            raise Refused(HTTPStatus.FORBIDDEN, "this host is not called like that (--ipc-host)")

    def _check_origin(self, origins: Sequence[str]) -> None:
        if any(origin not in self._settings.origins for origin in origins):
            raise Refused(HTTPStatus.FORBIDDEN, "no pages from there come in (--ipc-origin)")

    def _check_token(self, offered: Sequence[str]) -> None:
        prefix, token = TOKEN_PREFIX, self._settings.token
        told = [each.removeprefix(prefix) for each in offered if each.startswith(prefix)]
        if token is None or not any(hmac.compare_digest(each.encode(), token) for each in told):
            raise Refused(HTTPStatus.UNAUTHORIZED, f"the token is missing: {TOKEN_PREFIX}TOKEN")

    async def _connected(self, visit: Visit, service: str) -> socket.socket:
        try:
            return await self._gate.connect(visit.guest, visit.form, service)
        except BusworkError as error:
            status = _STATUS.get(error.name, HTTPStatus.BAD_GATEWAY)
            raise Refused(status, f"{service}: {error}") from error

    def _subprotocol(self, visit: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol:
        return next(each for each in offered if each in SUBPROTOCOLS)

    # Messages

    async def _serve(self, visit: ServerConnection) -> None:
        visit = cast("Visit", visit)
        service = visit.take()
        if service is None:
            return
        with closing(self._context.adopt(service, form=visit.form, pull=True)) as connection:
            why = await carry(WebSocketEnd(visit), ConnectionEnd(connection))
        if why is not None:
            self._gate.complain(visit.guest.uid, why)
        if visit.paused:
            visit.transport.abort()  # it does not read, and would not read why
        elif why is not None:
            code = why.code if isinstance(why, Misuse) else CloseCode.INTERNAL_ERROR
            await visit.close(code, _reason(str(why)))


def _written(host: str) -> str:
    """As it is in a URL."""
    return f"[{host}]" if ":" in host else host


def _offered(headers: Sequence[str]) -> list[str]:
    try:
        return [each for header in headers for each in parse_subprotocol(header)]
    except InvalidHandshake:
        # Its text would have the token.
        raise Refused(HTTPStatus.BAD_REQUEST, "the subprotocols can't be read") from None


def _form(offered: Sequence[str]) -> Form:
    """Of the first that we know."""
    for each in offered:
        if each in SUBPROTOCOLS:
            return SUBPROTOCOLS[each]
    raise Refused(HTTPStatus.BAD_REQUEST, f"subprotocols here are {' and '.join(SUBPROTOCOLS)}")


def _service(path: str) -> str:
    try:
        return parse(unquote_to_bytes(path.removeprefix("/")))
    except BadName as error:
        raise Refused(HTTPStatus.NOT_FOUND, error) from error


def _reason(text: str) -> str:
    """As much of it as fits into the frame."""
    return text.encode()[:MAX_REASON_BYTES].decode(errors="ignore")

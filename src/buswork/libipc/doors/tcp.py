"""The TCP leg of the originals' TCP daemons, from both sides (section 9).

A client sends the bare name of a service, and is told OK or ok, as its form has it; then messages
pass. Who is not let through is not answered. The name has no end but that of what one read brought:
here it ends before the first byte that no name has, or where more would be no name of a service.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Final

from buswork.errors import AccessDenied, BusworkError, InvalidArgs, LimitsExceeded, TimedOut
from buswork.libipc.doors.gate import Gate, Guest
from buswork.libipc.doors.options import Place
from buswork.libipc.doors.relay import ConnectionEnd, carry
from buswork.libipc.doors.sockets import listening, prepare, readable
from buswork.libipc.errors import named
from buswork.libipc.library.contexts import Context
from buswork.libipc.wire.forms import Form
from buswork.libipc.wire.lookups import DOOR_AGREED, BadRequest, Uri
from buswork.libipc.wire.names import MAX_NAME_BYTES, BadName, parse
from buswork.native.accept import Acceptor

log = logging.getLogger(__name__)

# From the connection to the whole name.
NAME_SECONDS = 5.0
# From the look-up of a host to its door's answer.
DIAL_SECONDS = 10.0
# As many of other hosts' doors at a time: two descriptors each.
MAX_DIALLED = 64
MAX_PATH_BYTES: Final = 255
SCHEME: Final = "tcp"
_NAME_BEGINS: Final = 0x20


async def switch(context: Context, form: Form, ours: socket.socket, far: socket.socket) -> None:
    """Carries messages between a socket of this machine and one of the network, and closes both."""
    with (
        closing(context.adopt(ours, form=form, pull=True)) as here,
        closing(context.adopt(far, form=form, eager=True, pull=True)) as there,
    ):
        why = await carry(ConnectionEnd(here), ConnectionEnd(there))
    if why is not None:
        raise named(why)


# -- in ------------------------------------------------------------------------------------------


class TcpDoor:
    """A port behind which services are."""

    def __init__(self, place: Place, form: Form, gate: Gate, context: Context) -> None:
        self._place = place
        self._form = form
        self._gate = gate
        self._context = context
        self._acceptor = Acceptor()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> Place:
        """Where it is. OSError: the port is taken."""
        listener = listening(self._place)
        self._acceptor.open(listener, self._accept)
        host, port, *_ = listener.getsockname()
        return Place(host, port)

    async def close(self) -> None:
        self._acceptor.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, accepted: socket.SocketType) -> None:
        sock = socket.socket(fileno=accepted.detach())
        guest = self._gate.enter(sock)
        if guest is None:
            sock.close()
            return
        task = asyncio.create_task(self._serve(sock, guest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket, guest: Guest) -> None:
        try:
            with sock, suppress(OSError):  # it left; a timeout is one too
                prepare(sock)
                async with asyncio.timeout(NAME_SECONDS):
                    service = await self._asked(sock)
                with await self._gate.connect(guest, self._form, service) as found:
                    await asyncio.get_running_loop().sock_sendall(sock, DOOR_AGREED[self._form])
                    await switch(self._context, self._form, found, sock)
        except BusworkError as error:
            self._gate.complain(guest.uid, error)
        finally:
            guest.leave()

    async def _asked(self, sock: socket.socket) -> str:
        """The name of a service; whatever comes behind it stays in the socket."""
        raw = b""
        while True:
            await readable(sock)
            seen = sock.recv(MAX_NAME_BYTES + 1, socket.MSG_PEEK)
            if not seen:
                raise ConnectionAbortedError
            part = _name_part(seen)
            raw += sock.recv(len(part)) if part else b""
            if len(part) < len(seen) or self._is_whole(raw):
                break
        try:
            return parse(raw)
        except BadName as error:
            raise InvalidArgs(str(error)) from error

    def _is_whole(self, raw: bytes) -> bool:
        services = [name.encode() for name in self._gate.settings.services]
        return raw in services or not any(name.startswith(raw) for name in services)


def _name_part(data: bytes) -> bytes:
    ends = (at for at, byte in enumerate(data) if byte < _NAME_BEGINS)
    return data[: next(ends, len(data))]


# -- out -----------------------------------------------------------------------------------------


class FarDoor:
    """A service behind another host's door; the daemon gets a socket that leads there."""

    def __init__(
        self,
        context: Context,
        form: Form,
        far: socket.socket,
        told: str,
        on_close: Callable[[], None],
    ) -> None:
        self.told = told
        self._on_close = on_close
        self.handed: socket.socket | None
        self.handed, self._ours = socket.socketpair()
        self._ours.setblocking(False)
        self._context = context
        self._form = form
        self._far = far

    async def carry(self, daemon: socket.socket) -> None:
        """Until one of the ends is closed; it is not the daemon that has one."""
        try:
            await switch(self._context, self._form, self._ours, self._far)
        except BusworkError as error:
            log.warning("the way to %s ended: %s", self.told, error)

    def close(self) -> None:
        for sock in (self.handed, self._ours, self._far):
            if sock is not None:
                sock.close()
        self._on_close()


class Dialler:
    """Other hosts' doors, as far as they are on the list."""

    def __init__(self, allowed: frozenset[tuple[str, int]], context: Context) -> None:
        self._allowed = allowed
        self._context = context
        self._count = 0

    async def dial(self, text: str) -> FarDoor:
        """text: the form and the URI."""
        form, uri = _parsed(text)
        host, port = _endpoint(uri)
        if (host, port) not in self._allowed:
            raise AccessDenied(f"{uri.address} is no door that may be dialled (--ipc-dial)")
        if self._count >= MAX_DIALLED:
            raise LimitsExceeded(f"{MAX_DIALLED} doors of other hosts are all that may be dialled")
        self._count += 1
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                return await self._let_in(form, await _connected(host, port), uri)
        except BaseException as error:
            self._left()
            if isinstance(error, TimeoutError):
                raise TimedOut(f"{uri.address} did not answer in time") from None
            if isinstance(error, OSError | UnicodeError):
                raise BusworkError(f"there is no way to {uri.address}: {error}") from error
            raise

    def _left(self) -> None:
        self._count -= 1

    async def _let_in(self, form: Form, far: socket.socket, uri: Uri) -> FarDoor:
        host, port, *_ = far.getpeername()
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            await asyncio.get_running_loop().sock_sendall(far, uri.path.encode())
            if (await _answer(far)).upper() != DOOR_AGREED[Form.C]:
                raise BusworkError(f"the door at {place} did not let us in to {uri.path!r}")
            return FarDoor(self._context, form, far, place, self._left)
        except BaseException:
            far.close()
            raise


def _parsed(text: str) -> tuple[Form, Uri]:
    word, _, rest = text.partition(" ")
    try:
        form, uri = Form(word), Uri.parse(rest)
    except ValueError as error:
        raise InvalidArgs(f"say the form, c or zig, and a URI: {error}") from error
    if uri.scheme != SCHEME:
        raise InvalidArgs(f"there are doors to {SCHEME}://, and none to {uri.scheme}://")
    if not 0 < len(uri.path.encode()) <= MAX_PATH_BYTES:
        raise InvalidArgs(f"a URI names a service: {SCHEME}://HOST:PORT/SERVICE")
    return form, uri


def _endpoint(uri: Uri) -> tuple[str, int]:
    try:
        host, port = uri.endpoint()
    except BadRequest as error:
        raise InvalidArgs(str(error)) from error
    return host.lower(), port


async def _connected(host: str, port: int) -> socket.socket:
    """The first address of the host at which somebody listens."""
    loop = asyncio.get_running_loop()
    failure = OSError("nobody knows where it is")
    for family, kind, number, _, address in await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, number)
        try:
            prepare(sock)
            await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure


async def _answer(far: socket.socket) -> bytes:
    """Not one byte more: messages may follow."""
    loop = asyncio.get_running_loop()
    answer = b""
    while len(answer) < len(DOOR_AGREED[Form.C]):
        part = await loop.sock_recv(far, len(DOOR_AGREED[Form.C]) - len(answer))
        if not part:
            break
        answer += part
    return answer

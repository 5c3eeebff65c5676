"""Asking a network daemon for a connection to a service that may be elsewhere (section 8).

As the originals do, so that programs of one machine end up at the same services:

- The form C asks `network` if IPC_NETWORK seems to name the service, and goes to the service of
  that name right here if that fails, whatever the failure was. That other service may be another
  one than was meant: `fallback=False` is for those who mind.
- The form ZIG asks `ipc` if IPC_NETWORK is set at all, and goes nowhere else if that fails.

What the originals get wrong is not repeated: a daemon that agrees and hands out nothing is a
failure, not descriptor 0; one that says nothing is not waited for without end; and descriptors
that come too early or too many are neither lost nor kept.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from buswork.errors import BusworkError, TimedOut
from buswork.libipc.errors import NoSuchService
from buswork.libipc.library import descriptors
from buswork.libipc.wire import lookups
from buswork.libipc.wire.forms import BadMessage, Form
from buswork.libipc.wire.lookups import AGREED, DAEMONS, BadRequest, Request

log = logging.getLogger(__name__)

# A daemon dials, or asks its doors to, before it answers.
LOOKUP_SECONDS: Final = 30.0

# Connects to a socket of the run directory by its name; the socket doesn't block. BusworkError.
Dial = Callable[[str], Awaitable[socket.socket]]


class _Failed(Exception):
    """The look-up came to nothing, and why."""


async def connect(
    name: str,
    form: Form,
    dial: Dial,
    *,
    network: str | None = None,
    fallback: bool | None = None,
    seconds: float = LOOKUP_SECONDS,
) -> socket.socket:
    """A connection to the service, which the caller closes.

    `network` None: what the environment's IPC_NETWORK says. `fallback` None: as the originals of
    this form do. NoSuchService and TimedOut tell that the look-up failed and nothing else was
    tried; else what `dial` raises.
    """
    if network is None:
        network = os.environ.get("IPC_NETWORK")
    if name in DAEMONS.values() or not lookups.asks(form, name, network):
        return await dial(name)
    try:
        async with asyncio.timeout(seconds):
            return await _look_up(Request(name, network or ""), form, dial)
    except TimeoutError:
        failure = f"no answer in {seconds:g} s"
        error: NoSuchService | TimedOut = TimedOut(_told(name, form, failure))
    except (_Failed, OSError) as caught:
        failure = str(caught)
        error = NoSuchService(_told(name, form, failure))
    if form is Form.C if fallback is None else fallback:
        log.info("%s; the service of this machine is taken", error)
        return await dial(name)
    raise error


def _told(name: str, form: Form, failure: str) -> str:
    return f"{name!r} was looked up at the service {DAEMONS[form]!r}, in vain: {failure}"


async def _look_up(request: Request, form: Form, dial: Dial) -> socket.socket:
    try:
        asked = lookups.encode_request(form, request)
    except (BadRequest, BadMessage) as error:
        raise _Failed(str(error)) from None
    try:
        daemon = await dial(DAEMONS[form])
    except BusworkError as error:
        raise _Failed(str(error)) from None
    with daemon:
        # The originals read a request in one go, as they do any message.
        await asyncio.get_running_loop().sock_sendall(daemon, asked)
        return _fit(await _Answer(daemon, form).handed_out())


def _fit(sock: socket.socket) -> socket.socket:
    """If it is of use; else it is closed."""
    try:
        if sock.type != socket.SOCK_STREAM:
            raise _Failed("the socket that was handed out is no stream")
        sock.getpeername()
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _Failed(f"the socket that was handed out is of no use: {error}") from None
    except _Failed:
        sock.close()
        raise
    return sock


class _Answer:
    """What a daemon says, and the sockets that come along.

    Descriptors of another kind are passed over: the daemon's library may use them to part its
    messages, as ours does.
    """

    def __init__(self, daemon: socket.socket, form: Form) -> None:
        self._daemon = daemon
        self._form = form
        self._said = b""
        self._sockets: list[socket.socket] = []

    async def handed_out(self) -> socket.socket:
        """The one that was asked for."""
        try:
            await self._agreement()
            if self._form is Form.C and not self._sockets:
                await self._receive(1)
            if not self._sockets:
                raise _Failed("it agreed, and handed out no socket")
            return self._sockets.pop(0)
        finally:
            for sock in self._sockets:
                sock.close()

    async def _agreement(self) -> None:
        wanted = len(AGREED[self._form])
        while len(self._said) < wanted:
            await self._receive(wanted - len(self._said))
            if not self._may_agree():
                raise _Failed("it refused")

    def _may_agree(self) -> bool:
        agreed = AGREED[self._form]
        if self._form is Form.ZIG:
            return agreed.startswith(self._said)
        # The original looks at nothing but the length, which are the bytes 1 to 4.
        return agreed[1:5].startswith(self._said[1:5])

    async def _receive(self, size: int) -> None:
        data, fds = await self._readable(size)
        for fd in fds:
            try:
                self._sockets.append(socket.socket(fileno=fd))
            except OSError:
                os.close(fd)
        if not data:
            raise _Failed("it left")
        self._said += data

    async def _readable(self, size: int) -> tuple[bytes, list[int]]:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(BlockingIOError):
                return descriptors.receive_all(self._daemon, size)
            readable = loop.create_future()
            loop.add_reader(self._daemon, _done, readable)
            try:
                await readable
            finally:
                loop.remove_reader(self._daemon)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

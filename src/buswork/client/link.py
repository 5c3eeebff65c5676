"""One connection to the driver's socket: requests go out, answers find whoever waits for them."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Self

from buswork.client import endpoints
from buswork.client.errors import AccessDenied, BusworkError, Disconnected
from buswork.fsct.wire import methods, msgpackrpc
from buswork.fsct.wire.protocol import VERSION, Broken
from buswork.fsct.wire.terms import BadValue
from buswork.native.credentials import peer_of

log = logging.getLogger(__name__)

REGISTER = "register_player"

# From connecting to the driver's version; it tells that without asking anybody.
CONNECT_SECONDS = 10.0
# Past as many unanswered requests the driver reads no more; others wait here for their turn.
MAX_IN_FLIGHT = 64
# An error's text is a sentence; it comes from whoever has the socket.
MAX_ERROR_TEXT = 1024


class DriverError(BusworkError):
    """The driver refused; the text is what it said."""


class WrongVersion(BusworkError):
    """The driver's protocol has another major version: the two can't understand each other."""

    name = "org.fsct.Error.WrongVersion"


class Link(asyncio.Protocol):
    """A connection; a lost one stays lost."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_lost: Callable[[], None] = lambda: None
        self._transport: asyncio.Transport | None = None
        self._decoder = msgpackrpc.Decoder()
        self._places = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._msgid = 0
        self._waiting: dict[int, asyncio.Future[msgpackrpc.Response]] = {}
        self._registering: set[int] = set()  # requests whose answer is a new player

    @classmethod
    async def open(cls, path: str) -> Self:
        """Connected, and of a version that we speak."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, link = await loop.create_unix_connection(cls, path)
                try:
                    await link._greet(path)
                except BaseException:
                    link.close()
                    raise
        except TimeoutError:
            raise Disconnected(f"{path} did not answer in {CONNECT_SECONDS:g} s") from None
        except OSError as error:
            raise Disconnected(f"no connection to {path}: {error}") from error
        return link

    async def _greet(self, path: str) -> None:
        if path == endpoints.TMP_SOCKET:
            self._check_peer()
        version = await self.request("get_protocol_version")
        if not VERSION.is_compatible(version):
            theirs, ours = (f"{major}.{minor}" for major, minor in (version, VERSION))
            raise WrongVersion(f"the driver at {path} speaks version {theirs}, we speak {ours}")
        self.check()  # it may have ended with the very bytes of the answer

    def _check_peer(self) -> None:
        assert self._transport is not None
        uid = peer_of(self._transport.get_extra_info("socket")).uid
        if not endpoints.is_trusted(uid):
            path = endpoints.TMP_SOCKET
            raise AccessDenied(f"{path} is answered by uid {uid}, which is not trusted")

    def check(self) -> None:
        """Disconnected if it is lost."""
        if self.lost.done():
            raise Disconnected("the connection to the driver is gone")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._end()

    # -- what asyncio calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._decoder.feed(data)
        try:
            while not self.lost.done() and (message := self._decoder.next()) is not None:
                if isinstance(message, msgpackrpc.Response):
                    self._answered(message)
        except Broken as error:
            log.warning("the driver's answers can't be read any more: %s", error)
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if self.lost.done():
            return
        self.lost.set_result(None)
        self.on_lost()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Disconnected("the connection to the driver is gone"))

    # -- requests ------------------------------------------------------------------------------

    async def request(self, method: str, *args: Any) -> Any:
        """The result; a player that is registered when its asker is gone is taken back."""
        async with self._places:
            return _result(method, await self._exchange(method, methods.encode_params(*args)))

    async def _exchange(self, method: str, params: list[Any]) -> msgpackrpc.Response:
        future: asyncio.Future[msgpackrpc.Response] = asyncio.get_running_loop().create_future()
        msgid = self._send(method, params)
        self._waiting[msgid] = future
        if method == REGISTER:
            self._registering.add(msgid)
        try:
            response = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._take_back(future.result())
            raise
        finally:
            del self._waiting[msgid]
        self._registering.discard(msgid)
        return response

    def _send(self, method: str, params: list[Any]) -> int:
        self.check()
        assert self._transport is not None
        self._msgid = (self._msgid + 1) & 0xFFFFFFFF
        self._transport.write(msgpackrpc.encode_request(self._msgid, method, params))
        return self._msgid

    def _answered(self, response: msgpackrpc.Response) -> None:
        future = self._waiting.get(response.msgid)
        # Who was cancelled hears of it only later: until then its future is still here.
        if future is None or future.cancelled():
            self._take_back(response)
        elif not future.done():
            future.set_result(response)

    def _take_back(self, response: msgpackrpc.Response) -> None:
        if response.msgid in self._registering:
            self._registering.remove(response.msgid)
            with contextlib.suppress(DriverError):
                self.unregister(_result(REGISTER, response))

    def unregister(self, player_id: int) -> None:
        """Takes back a player that nobody waits for; the answer does not matter."""
        if not self.lost.done():
            self._send("unregister_player", [player_id])


def _result(method: str, response: msgpackrpc.Response) -> Any:
    if response.error is not None:
        text = response.error if isinstance(response.error, str) else repr(response.error)
        raise DriverError(text[:MAX_ERROR_TEXT].encode(errors="replace").decode())
    try:
        return methods.parse_result(method, response.result)
    except BadValue as error:
        raise DriverError(f"the answer to {method} makes no sense: {error}") from None

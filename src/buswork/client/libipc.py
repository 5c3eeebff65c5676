"""org.libipc.Hub, .Channel and .Service, typed: messages between programs.

    async with client.libipc.connect("pong") as connection:  # a socket of your own
        connection.send(b"hello")
        print(await connection.receive())

    async with client.libipc.serve("pong") as service:
        async for event in service:
            match event:
                case Received(number, message):
                    await service.send(number, message.payload, message.user_type)

What a client has opened and serves goes when it leaves the bus.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from buswork.bus.library import Variant, variant
from buswork.bus.writer import close_all
from buswork.client import errors
from buswork.client.errors import BusworkError, NoReply
from buswork.libipc import Connection, Context, Form, Message
from buswork.libipc.errors import NoSuchService, PeerGone, QueueFull

if TYPE_CHECKING:
    from buswork.bus.message import Frame
    from buswork.client.connection import Client

ROOT = "/org/libipc"
HUB = (ROOT, "org.libipc.Hub")
CHANNEL = "org.libipc.Channel"
SERVICE = "org.libipc.Service"
TOLD = {
    CHANNEL: ("Message", "Drained", "Closed"),
    SERVICE: ("Connected", "Message", "Disconnected", "Drained", "Closed"),
}

# Of the 32 credits that there are in the beginning; granting takes a call.
GRANT_AT_ONCE = 16
# A message costs one credit, and one more for so many bytes each.
BYTES_FOR_ONE = 65_536


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """What there is to know of a service."""

    name: str
    form: str
    directory: str
    alive: bool
    owner_uid: int
    mode: int
    connections: int
    served: bool  # by a program on the bus


class Connected(NamedTuple):
    """A client came."""

    client: int
    uid: int
    pid: int


class Received(NamedTuple):
    """A client sent a message."""

    client: int
    message: Message


class Disconnected(NamedTuple):
    """A client left."""

    client: int


Event = Connected | Received | Disconnected
OnSignal = Callable[[str, Sequence[Any]], None]
T = TypeVar("T")


class _Post:
    """What the daemon tells of channels and services, to whoever has their paths."""

    def __init__(self, client: Client) -> None:
        self._by_path: dict[str, OnSignal] = {}
        # Of those whose path the reply has brought, and who have not been told so yet.
        self._early: dict[str, list[tuple[str, Sequence[Any]]]] = {}
        self._expected = 0
        for interface, members in TOLD.items():
            for member in members:
                client.hear((interface, member), self._heard)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Meanwhile a path may come that is not known here."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            if not self._expected:
                self._early.clear()

    def give(self, path: str, take: OnSignal) -> None:
        self._by_path[path] = take
        for member, values in self._early.pop(path, ()):
            take(member, values)

    def forget(self, path: str) -> None:
        self._by_path.pop(path, None)

    def _heard(self, frame: Frame) -> None:
        path, member = frame.header.path or "", frame.header.member or ""
        take = self._by_path.get(path)
        if take is not None:
            take(member, frame.values())
        elif self._expected:
            self._early.setdefault(path, []).append((member, frame.values()))


class _Owned(Generic[T]):
    """What a channel and a service have in common: news that come, credits for them, an end."""

    interface: ClassVar[str]

    def __init__(self, client: Client, post: _Post, path: str) -> None:
        self.path = path
        self._target = (path, self.interface)
        self._client = client
        self._post = post
        self._news: asyncio.Queue[tuple[T, int] | None] = asyncio.Queue()
        self._end: BusworkError | None = None
        self._owed = 0
        self._granting: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._room = asyncio.Event()
        client.connection.closed.add_done_callback(self._bus_left)
        post.give(path, self._told)

    async def close(self) -> None:
        self._client.connection.closed.remove_done_callback(self._bus_left)
        self._post.forget(self.path)
        if self._granting is not None:
            self._granting.cancel()
        if self._end is None:
            self._ended(PeerGone("it was closed here"))
            with suppress(BusworkError):
                await self._client.call(self._target, "Close")

    # -- what comes ----------------------------------------------------------------------------

    def _told(self, member: str, values: Sequence[Any]) -> None:
        if member == "Drained":
            self._room.set()
        elif member == "Closed":
            self._ended(PeerGone(values[0] or "the service has closed the connection"))
        else:
            self._news.put_nowait(self._read(member, values))

    def _read(self, member: str, values: Sequence[Any]) -> tuple[T, int]:
        """A signal as whoever waits has it, and what it costs."""
        raise NotImplementedError

    def _bus_left(self, _: object) -> None:
        self._ended(errors.Disconnected("the connection to the bus is gone"))

    def lost(self) -> None:
        self._ended(NoReply("the daemon is gone"))

    def _ended(self, error: BusworkError) -> None:
        """Whoever waits gets what has come before, and then this."""
        if self._end is None:
            self._end = error
            self._room.set()
            self._news.put_nowait(None)

    async def _next(self) -> T:
        found = await self._news.get()
        if found is None:
            self._news.put_nowait(None)  # for whoever else waits
            assert self._end is not None
            raise self._end.with_traceback(None)  # or it kept all that it was raised by
        news, cost = found
        self._owed += cost
        if self._owed >= GRANT_AT_ONCE and self._granting is None:
            self._granting = asyncio.get_running_loop().create_task(self._grant())
        return news

    async def _grant(self) -> None:
        while self._owed and self._end is None:
            number, self._owed = self._owed, 0
            with suppress(BusworkError):  # it has ended, and that is told
                await self._client.call(self._target, "Grant", "u", (number,))
        self._granting = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self._next()
        except PeerGone:
            raise StopAsyncIteration from None

    # -- what goes -----------------------------------------------------------------------------

    async def _send(self, signature: str, *values: Any) -> None:
        async with self._sending:
            while True:
                self._room.clear()
                if self._end is not None:
                    raise self._end.with_traceback(None)  # or it kept all that it was raised by
                try:
                    await self._client.call(self._target, "Send", signature, values)
                    return
                except BusworkError as error:
                    if error.name != QueueFull.name:
                        raise
                await self._room.wait()


class Channel(_Owned[Message]):
    """Messages to a service and from it, by the daemon's hands; iterate, or `receive`."""

    interface = CHANNEL

    async def send(self, payload: bytes, user_type: int = 0) -> None:
        """Returns when the daemon has it; waits while it has too many."""
        await self._send("yay", user_type, payload)

    async def receive(self) -> Message:
        """PeerGone when there is nothing more to come."""
        return await self._next()

    def _read(self, member: str, values: Sequence[Any]) -> tuple[Message, int]:
        return _message(*values)


class Service(_Owned[Event]):
    """A service whose clients are those of any other; iterate over what happens there."""

    interface = SERVICE

    async def send(self, client: int, payload: bytes, user_type: int = 0) -> None:
        """Returns when the daemon has it; waits while it has too many for this client."""
        await self._send("uyay", client, user_type, payload)

    async def disconnect(self, client: int) -> None:
        await self._client.call(self._target, "Disconnect", "u", (client,))

    async def socket_path(self) -> str:
        path: str = await self._client.get(self._target, "Path")
        return path

    async def next_event(self) -> Event:
        return await self._next()

    def _read(self, member: str, values: Sequence[Any]) -> tuple[Event, int]:
        if member == "Message":
            message, cost = _message(*values[1:])
            return Received(values[0], message), cost
        return (Connected(*values), 1) if member == "Connected" else (Disconnected(*values), 0)


O = TypeVar("O", Channel, Service)  # noqa: E741


class LibIpc:
    """The services of this machine, and new ones."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._post: _Post | None = None
        self._open: set[Channel | Service] = set()

    @asynccontextmanager
    async def connect(
        self, name: str, *, form: str | None = None, directory: str | None = None
    ) -> AsyncIterator[Connection]:
        """A connection of your own: what is sent over it never passes the daemon."""
        spoken = form or await self.form_of(name, directory)
        sock = await self.connect_socket(name, form=form, directory=directory)
        async with Context(form=Form(spoken)) as context:
            yield context.adopt(sock, pull=True)

    async def connect_socket(
        self, name: str, *, form: str | None = None, directory: str | None = None
    ) -> socket.socket:
        """A connected socket, for you to close."""
        return await self._socket("Connect", name, _options(form=form, directory=directory))

    async def dial_socket(self, address: str, *, form: str | None = None) -> socket.socket:
        """The same to a service of another machine, tcp://HOST:PORT/SERVICE."""
        return await self._socket("Dial", address, _options(form=form))

    @asynccontextmanager
    async def channel(
        self, name: str, *, form: str | None = None, directory: str | None = None
    ) -> AsyncIterator[Channel]:
        """A connection that needs no socket."""
        options = _options(form=form, directory=directory)
        async with self._owned(Channel, "OpenChannel", name, options) as channel:
            yield channel

    @asynccontextmanager
    async def serve(
        self,
        name: str,
        *,
        form: str | None = None,
        directory: str | None = None,
        access: str | None = None,
    ) -> AsyncIterator[Service]:
        """A service of this name. access: `own` lets in your own programs alone."""
        options = _options(form=form, directory=directory, access=access)
        async with self._owned(Service, "Serve", name, options) as service:
            yield service

    async def on_services_changed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls back when services have come or gone; what is returned ends that."""
        return await self._client.listen(HUB, "ServicesChanged", lambda _: callback())

    async def list(self) -> list[ServiceFacts]:
        found = await self._client.call(HUB, "ListServices", returns="aa{sv}")
        names = ServiceFacts.__slots__
        return [ServiceFacts(**{name: facts[name].value for name in names}) for facts in found]

    async def form_of(self, name: str, directory: str | None) -> str:
        """The directory decides it, and a socket does not tell of what it was found in."""
        found = {
            facts.form
            for facts in await self.list()
            if facts.name == name and directory in (None, facts.directory)
        }
        if len(found) != 1:
            ways = "in both forms: say which one" if found else "in no run directory"
            raise NoSuchService(f"there is {name} {ways}")
        return found.pop()

    async def _socket(self, member: str, *values: Any) -> socket.socket:
        frame = await self._client.request(HUB, member, "sa{sv}", values, returns="h")
        try:
            (descriptor,) = frame.values()
            return socket.socket(fileno=descriptor)
        except BaseException:
            close_all(frame.fds)
            raise

    @asynccontextmanager
    async def _owned(
        self, kind: type[O], member: str, name: str, options: dict[str, Variant]
    ) -> AsyncIterator[O]:
        post = self._listening()
        with post.expecting():
            path = await self._client.call(HUB, member, "sa{sv}", (name, options), returns="o")
            owned = kind(self._client, post, path)
        self._open.add(owned)
        try:
            yield owned
        finally:
            self._open.discard(owned)
            await owned.close()

    def _listening(self) -> _Post:
        if self._post is None:
            self._post = _Post(self._client)
            self._client.on_loss(self._lost)
        return self._post

    def _lost(self) -> None:
        """Another daemon will know nothing of what this one had."""
        for owned in self._open:
            owned.lost()


def _message(user_type: int, payload: bytes) -> tuple[Message, int]:
    return Message(bytes(payload), user_type), 1 + len(payload) // BYTES_FOR_ONE


def _options(**options: str | None) -> dict[str, Variant]:
    return {name: variant("s", value) for name, value in options.items() if value is not None}

"""The library without asyncio: the same names, blocking, from any thread.

    with blocking.connect("pong") as connection:
        connection.send(b"hello")
        print(connection.receive(timeout=1).payload)

    with blocking.serve("pong") as service:
        for event in service:
            if isinstance(event, blocking.Received):
                event.connection.send(event.message.payload)

Each context has one thread of its own, where the asyncio library runs; it ends with `close`.
Everything may be used from several threads at once: an event or a message goes to one of those
that wait for it, and what one thread sends keeps its order. Callbacks of a switch run in the
context's thread, and so can't wait for it.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from buswork.libipc.errors import ClosedContext, QueueFull
from buswork.libipc.library import contexts, events, switching
from buswork.libipc.library.connections import Connection as LoopConnection
from buswork.libipc.library.connections import Limits
from buswork.libipc.library.events import External, Timer
from buswork.libipc.library.handoff import Externals, Handoff
from buswork.libipc.library.lines import In, Out
from buswork.libipc.library.rundirs import RunDir
from buswork.libipc.library.switching import Code, End
from buswork.libipc.wire.forms import DATA, Form, Message
from buswork.loopthread import LoopThread
from buswork.native.credentials import Credentials

__all__ = [
    "Connected", "Connection", "Context", "Disconnected", "Event", "External", "Received",
    "Service", "Switch", "Switched", "Timer", "Unswitched", "connect", "serve",
]  # fmt: skip

T = TypeVar("T")


class Connected(NamedTuple):
    connection: "Connection"


class Received(NamedTuple):
    connection: "Connection"
    message: Message


class Disconnected(NamedTuple):
    """The last event of a connection; no error: an ordinary end."""

    connection: "Connection"
    error: Exception | None


class Switched(NamedTuple):
    """A message went on from one end of a switch to the other; None: nothing was for that one."""

    source: object
    target: object
    message: Message | None


class Unswitched(NamedTuple):
    """Both ends of a switch are closed, because of this one (None: it was closed here)."""

    switch: "Switch"
    source: object
    code: Code
    error: Exception | None


Event = Connected | Received | Disconnected | Timer | External | Switched | Unswitched


class Context:
    """See the asyncio Context for what the arguments mean."""

    def __init__(
        self,
        rundir: RunDir | None = None,
        *,
        form: Form = Form.C,
        limits: Limits | None = None,
    ) -> None:
        self._arguments = rundir, form, limits
        self._thread = LoopThread("libipc", lambda text: ClosedContext(f"the context: {text}"))
        self._inner: contexts.Context
        self._events: Handoff[Event] = Handoff(self._thread)
        self._externals = Externals(self._thread, self._tell_external)
        # Whom events are about; in the thread alone.
        self._known: dict[LoopConnection, Connection] = {}
        self._services: dict[contexts.Service, Service] = {}
        self._switches: dict[switching.Switch, Switch] = {}

    # -- opening and closing -------------------------------------------------------------------

    def open(self) -> None:
        self._thread.open(self._live)

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        rundir, form, limits = self._arguments
        async with contexts.Context(rundir, form=form, limits=limits) as self._inner:
            bringing = asyncio.create_task(self._bring_events())
            try:
                yield
            finally:
                bringing.cancel()
                self._events.close()

    async def _bring_events(self) -> None:
        async for event in self._inner:
            if not isinstance(event, Timer) or not self._events.holds(event):
                await self._events.put(self._told(event))

    def close(self) -> None:
        """Closes all; whoever waits in another thread gets ClosedContext."""
        self._thread.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- services and connections --------------------------------------------------------------

    @property
    def connections(self) -> "list[Connection]":
        return self._thread.call(lambda: [self._connection(c) for c in self._inner.connections])

    def serve(self, name: str, *, mode: int | None = None) -> "Service":
        async def served() -> Service:
            return self.service(await self._inner.serve(name, mode=mode))

        return self.run(served())

    def connect(
        self,
        name: str,
        *,
        pull: bool = False,
        fallback: bool | None = None,
        timeout: float | None = None,
    ) -> "Connection":
        """TimedOut if it takes longer than so many seconds."""

        async def connected() -> Connection:
            return self._connection(await self._inner.connect(name, pull=pull, fallback=fallback))

        return self.run(connected(), timeout)

    def adopt(
        self,
        sock: socket.socket,
        *,
        form: Form | None = None,
        eager: bool = False,
        pull: bool = False,
    ) -> "Connection":
        def adopted() -> Connection:
            return self._connection(self._inner.adopt(sock, form=form, eager=eager, pull=pull))

        return self._thread.call(adopted)

    def switch(
        self,
        a: "Connection | socket.socket | End",
        b: "Connection | socket.socket | End",
        *,
        a_in: In | None = None,
        a_out: Out | None = None,
        b_in: In | None = None,
        b_out: Out | None = None,
        typed: bool = False,
    ) -> "Switch":
        """Ties two ends together; the callbacks are called in the context's thread.

        Its events have to be taken like all others, or it comes to a halt.
        """

        def switched() -> Switch:
            for end in (a, b):
                if isinstance(end, socket.socket):
                    self._forget_external(end.fileno())
            inner = self._inner.switch(
                _inner(a), _inner(b), a_in=a_in, a_out=a_out, b_in=b_in, b_out=b_out, typed=typed
            )
            known = self._switches[inner] = Switch(self, inner)
            return known

        return self._thread.call(switched)

    # -- events --------------------------------------------------------------------------------

    def wait_event(self, timeout: float | None = None) -> Event:
        """TimedOut when none comes in so many seconds; ClosedContext when none will come."""
        self._externals.release()
        event = self._events.take(timeout)
        if isinstance(event, External):
            self._externals.taken(event.fd)
        return event

    def __iter__(self) -> Iterator[Event]:
        """Ends when the context is closed."""
        while True:
            try:
                yield self.wait_event()
            except ClosedContext:
                return

    def add_external(self, fd: int) -> None:
        """An event when it is readable; the next one after the thread that got it waits again."""
        self._thread.call(self._externals.add, fd)

    def remove_external(self, fd: int) -> None:
        self._thread.call(self._forget_external, fd)

    def set_timer(self, seconds: float | None) -> None:
        self._thread.call(self._inner.set_timer, seconds)

    # -- for what belongs to this context ------------------------------------------------------

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Runs a coroutine of the asyncio library in the context's thread."""
        return self._thread.run(coroutine, timeout)

    def service(self, inner: contexts.Service) -> "Service":
        """The one that stands for this one; in the thread alone."""
        known = self._services.get(inner)
        if known is None:
            known = self._services[inner] = Service(self, self._thread, inner)
        return known

    def _connection(self, inner: LoopConnection) -> "Connection":
        known = self._known.get(inner)
        if known is None:
            known = self._known[inner] = Connection(self, self._thread, inner)
        return known

    def forget(self, inner: LoopConnection) -> None:
        self._known.pop(inner, None)

    def _forget_external(self, fd: int) -> None:
        self._externals.remove(fd)
        self._events.drop(External(fd))

    def _tell_external(self, fd: int) -> None:
        self._events.put_now(External(fd))

    def _told(self, event: events.Event) -> Event:
        match event:
            case events.Connected(connection):
                return Connected(self._connection(connection))
            case events.Received(connection, message):
                return Received(self._connection(connection), message)
            case events.Disconnected(connection, error):
                told = Disconnected(self._connection(connection), error)
                self.forget(connection)
                return told
            case switching.Switched(source, target, carried):
                return Switched(self._end(source), self._end(target), carried)
            case switching.Unswitched():
                return self._unswitched(event)
        return event

    def _unswitched(self, event: switching.Unswitched) -> Unswitched:
        switch = self._switches.pop(event.switch)
        told = Unswitched(switch, self._end(event.source), event.code, event.error)
        for end in event.switch.ends:
            if isinstance(end, LoopConnection):
                self.forget(end)
        return told

    def _end(self, end: object) -> object:
        return self._connection(end) if isinstance(end, LoopConnection) else end


class Service:
    """A name that is served; iterating gives the events of its context."""

    def __init__(self, context: Context, thread: LoopThread, inner: contexts.Service) -> None:
        self.context = context
        self.name: str = inner.name
        self.path: Path = inner.path
        self._thread = thread
        self._inner = inner

    def close(self) -> None:
        """Takes no new connections; those that are stay."""
        try:
            self._thread.call(self._inner.close)
        except ClosedContext:
            pass  # closing the context has closed it

    def __iter__(self) -> Iterator[Event]:
        return iter(self.context)


class Connection:
    """See the asyncio Connection; `data` is yours, say for the state of this client."""

    def __init__(self, context: Context, thread: LoopThread, inner: LoopConnection) -> None:
        self.context = context
        self.inner = inner
        self.form: Form = inner.form
        self.name: str = inner.name
        self.peer: Credentials = inner.peer
        self.service = None if inner.service is None else context.service(inner.service)
        self.data: object = None
        self._thread = thread
        # The asyncio side has one waiter at a time.
        self._receiving = asyncio.Lock()

    def fileno(self) -> int:
        return self.inner.fileno()

    @property
    def is_open(self) -> bool:
        return self.inner.is_open

    @property
    def queued(self) -> tuple[int, int]:
        """How many messages, and how many bytes, have not left yet."""
        return self.inner.queued

    def send(
        self,
        payload: bytes,
        user_type: int = 0,
        type: int = DATA,  # noqa: A002 - what the format calls it
        *,
        timeout: float | None = None,
    ) -> None:
        """Queues it, and waits while the queue is full; TimedOut: it was not queued."""
        self.send_message(Message(payload, user_type, type), timeout=timeout)

    def send_message(self, message: Message, *, timeout: float | None = None) -> None:
        try:
            self._thread.call(self.inner.send_message, message)
        except QueueFull:
            self.context.run(self._send_when_there_is_room(message), timeout)

    async def _send_when_there_is_room(self, message: Message) -> None:
        await self.inner.drain()
        while True:
            try:
                return self.inner.send_message(message)
            except QueueFull:
                if self.inner.queued == (0, 0):
                    raise
            # Less than half full, and still not room enough for this one.
            await self.inner.consumed()

    def drain(self, timeout: float | None = None) -> None:
        self.context.run(self.inner.drain(), timeout)

    def consumed(self, timeout: float | None = None) -> None:
        self.context.run(self.inner.consumed(), timeout)

    def receive(self, timeout: float | None = None) -> Message:
        """Of a connection made by `connect` of this module, or with `pull`."""
        return self.context.run(self._receive(), timeout)

    async def _receive(self) -> Message:
        async with self._receiving:
            return await self.inner.receive()

    def send_descriptor(self, fd: int, data: bytes = b"\0") -> None:
        self._thread.call(self.inner.send_descriptor, fd, data)

    def receive_descriptor(self, most: int = 1, timeout: float | None = None) -> tuple[bytes, int]:
        return self.context.run(self._receive_descriptor(most), timeout)

    async def _receive_descriptor(self, most: int) -> tuple[bytes, int]:
        async with self._receiving:
            return await self.inner.receive_descriptor(most)

    def pause(self) -> None:
        self._thread.call(self.inner.pause)

    def resume(self) -> None:
        self._thread.call(self.inner.resume)

    def detach(self) -> socket.socket:
        return self._thread.call(self._leave, self.inner.detach)

    def close(self) -> None:
        try:
            self._thread.call(self._leave, self.inner.close)
        except ClosedContext:
            pass  # closing the context has closed it

    def _leave(self, leave: Callable[[], T]) -> T:
        self.context.forget(self.inner)
        return leave()


class Switch:
    """Two ends that are tied together."""

    def __init__(self, context: Context, inner: switching.Switch) -> None:
        self._context = context
        self._inner = inner

    @property
    def is_closed(self) -> bool:
        return self._inner.is_closed

    def wait_closed(self, timeout: float | None = None) -> None:
        self._context.run(self._wait_closed(), timeout)

    async def _wait_closed(self) -> None:
        await self._inner.wait_closed()

    def close(self) -> None:
        try:
            self._context.run(self._close())
        except ClosedContext:
            pass  # closing the context has closed it

    async def _close(self) -> None:
        self._inner.close()


@contextmanager
def serve(
    name: str,
    *,
    rundir: RunDir | None = None,
    form: Form = Form.C,
    mode: int | None = None,
    limits: Limits | None = None,
) -> Iterator[Service]:
    """A service with a context of its own."""
    with Context(rundir, form=form, limits=limits) as context:
        yield context.serve(name, mode=mode)


@contextmanager
def connect(
    name: str,
    *,
    rundir: RunDir | None = None,
    form: Form = Form.C,
    limits: Limits | None = None,
    fallback: bool | None = None,
    timeout: float | None = None,
) -> Iterator[Connection]:
    """A connection with a context of its own, to send and to `receive`."""
    with Context(rundir, form=form, limits=limits) as context:
        yield context.connect(name, pull=True, fallback=fallback, timeout=timeout)


def _inner(
    end: "Connection | socket.socket | End",
) -> "LoopConnection | socket.socket | End":
    return end.inner if isinstance(end, Connection) else end

"""A context: services, connections and what else a program waits for, in one loop.

async with serve("pong") as service:
    async for event in service:
        if isinstance(event, Received):
            event.connection.send(event.message.payload)

async with connect("pong") as connection:
    connection.send(b"hello")
    print((await connection.receive()).payload)
"""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Self

from buswork.libipc.errors import ClosedContext
from buswork.libipc.library import network
from buswork.libipc.library.connections import Connection
from buswork.libipc.library.deadlines import Deadlines
from buswork.libipc.library.ends import join
from buswork.libipc.library.events import Connected, Disconnected, Event, External, Received, Timer
from buswork.libipc.library.lines import In, Out
from buswork.libipc.library.readiness import Boundary, Poll
from buswork.libipc.library.rundirs import Place, RunDir, dial, from_environment
from buswork.libipc.library.services import Service
from buswork.libipc.library.shared import DEFAULT_LIMITS, Limits, Shared
from buswork.libipc.library.switching import End, Switch
from buswork.libipc.wire.forms import Form, Message

__all__ = ["DEFAULT_LIMITS", "Context", "Limits", "Service", "connect", "serve"]

# Events that wait for who takes them; the kernel keeps what comes beyond that.
MOST_EVENTS: Final = 64
FEW_EVENTS: Final = MOST_EVENTS // 2

# A program that takes one event after the other is made to wait for each so many-th one.
LOOKS: Final = 64

SwitchEnd = Connection | socket.socket | End


class Context:
    """Of one running loop. Events go to `on_event`, if it is set, or wait for `wait_event`."""

    def __init__(
        self,
        rundir: RunDir | None = None,
        *,
        form: Form = Form.C,
        limits: Limits | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.rundir = rundir or from_environment(form)
        self.form = self.rundir.form
        self.limits = limits or DEFAULT_LIMITS
        self._loop = loop = asyncio.get_running_loop()
        self._reading = Poll(loop)
        self._sending = Poll(loop)
        self._boundary = Boundary()
        self._deadlines = Deadlines(loop, self.limits.message_seconds, Connection.late)
        self._shared = Shared(
            context=self, loop=loop, limits=self.limits,
            buffer=memoryview(bytearray(self.limits.read_bytes)), reading=self._reading,
            sending=self._sending, boundary=self._boundary, deadlines=self._deadlines,
            emit=self._keep, ended=self._ended, reclaim=self._reclaim, closed=self._closed,
        )  # fmt: skip
        self._connections: set[Connection] = set()
        self._services: dict[Service, None] = {}
        self._switches: set[Switch] = set()
        self._externals: set[int] = set()
        self._told_externals: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._looks = 0
        self._is_closed = False
        self.on_event = on_event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """All that is in it, at once; what waits for an event is told that there is none."""
        if self._is_closed:
            return
        self._is_closed = True
        for closed in (list(self._switches), list(self._services), list(self._connections)):
            for each in closed:
                each.close()
        self.set_timer(None)
        self._deadlines.close()
        self._reading.close()
        self._sending.close()
        self._boundary.close()
        self._events.clear()
        self._wake()

    @property
    def connections(self) -> Collection[Connection]:
        return self._connections

    # -- what is in it -------------------------------------------------------------------------

    async def serve(self, name: str, *, mode: int | None = None) -> Service:
        """Takes the name; the socket file has the mode that the originals give it, if not this."""
        self._check_open()
        service = Service(self, Place.take(self.rundir, name, mode), self._shared)
        self._services[service] = None
        return service

    async def connect(
        self, name: str, *, pull: bool = False, fallback: bool | None = None
    ) -> Connection:
        """To a service; as the originals do also over the network, where IPC_NETWORK says so."""
        self._check_open()
        by_name = partial(dial, self.rundir)
        sock = await network.connect(name, self.form, by_name, fallback=fallback)
        return self._add(sock, self.form, pull=pull, name=name)

    def adopt(
        self,
        sock: socket.socket,
        *,
        form: Form | None = None,
        eager: bool = False,
        pull: bool = False,
    ) -> Connection:
        """A connected stream socket, which is the context's from now on.

        eager: its peer puts messages together again, as we do, and gets them as fast as it reads.
        pull: it gives no events; what it receives is asked for.
        """
        self._check_open()
        if sock.gettimeout():
            sock.setblocking(False)  # or Python would wait before it reads
        return self._add(sock, form or self.form, eager=eager, pull=pull)

    def switch(
        self,
        a: SwitchEnd,
        b: SwitchEnd,
        *,
        a_in: In | None = None,
        a_out: Out | None = None,
        b_in: In | None = None,
        b_out: Out | None = None,
        typed: bool = False,
    ) -> Switch:
        """Ties two ends together, see `join`; they are the switch's from now on."""
        self._check_open()
        for end in (a, b):
            if isinstance(end, socket.socket):  # whose first words were waited for
                self.remove_external(end.fileno())
        switch = join(
            a, b, a_in=a_in, a_out=a_out, b_in=b_in, b_out=b_out, typed=typed,
            on_event=self._emit, reading=self._reading,
        )  # fmt: skip
        self._switches = {each for each in self._switches if not each.is_closed} | {switch}
        return switch

    def add_external(self, fd: int) -> None:
        """An event tells when it is readable, and again after that was taken; nothing is read."""
        self._check_open()
        self._reading.read_once(fd, partial(self._external_readable, fd))
        self._externals.add(fd)

    def remove_external(self, fd: int) -> None:
        if fd in self._externals:
            self._externals.discard(fd)
            self._reading.forget(fd)

    def set_timer(self, seconds: float | None) -> None:
        """An event each time that so many have passed, whatever happens meanwhile; None: none.

        One that was not taken yet stands for all of them.
        """
        if seconds is not None and seconds <= 0:
            raise ValueError(f"a timer needs some time, not {seconds} s")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._check_open()
            self._timer = self._loop.call_later(seconds, self._time_is_over, seconds)

    # -- events --------------------------------------------------------------------------------

    @property
    def on_event(self) -> Callable[[Event], None] | None:
        """Called at once with each event: the fastest way. It must not wait for anything.

        What it raises is the loop's to report, and the next event comes all the same.
        """
        return self._on_event

    @on_event.setter
    def on_event(self, on_event: Callable[[Event], None] | None) -> None:
        self._on_event = on_event
        self._shared.emit = on_event or self._keep
        while on_event is not None and self._events:
            self._take_event(on_event)

    async def wait_event(self) -> Event:
        """The next one, for one task at a time; ClosedContext: there will be none."""
        if self._on_event is not None:
            raise RuntimeError("events go to on_event")
        self._watch_externals_again()
        if not self._events:
            self._look()
        while not self._events:
            self._check_open()
            await self._wait()
        return self._take_event()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self.wait_event()
        except ClosedContext:
            raise StopAsyncIteration from None

    def _emit(self, event: Event) -> None:
        self._shared.emit(event)

    def _keep(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) >= MOST_EVENTS:
            self._reading.hold()
        self._wake()

    def _take_event(self, on_event: Callable[[Event], None] | None = None) -> Event:
        event = self._events.popleft()
        self._go_on_reading()
        if on_event is not None:
            on_event(event)
            self._watch_externals_again()
        if isinstance(event, Disconnected):
            event.connection.finish()
        return event

    def _go_on_reading(self) -> None:
        if len(self._events) <= FEW_EVENTS and not self._is_closed:
            self._reading.release()

    def _reclaim(self, connection: Connection) -> list[Message]:
        """Its messages that nobody took; its end is not told either."""
        theirs, others = [], deque[Event]()
        for event in self._events:
            if isinstance(event, Received | Disconnected) and event.connection is connection:
                theirs.append(event)
            else:
                others.append(event)
        self._events = others
        self._go_on_reading()
        return [event.message for event in theirs if isinstance(event, Received)]

    def _look(self) -> None:
        """What has come meanwhile needs no turn of the loop, of which others have theirs too."""
        self._looks += 1
        if self._looks % LOOKS and not self._is_closed:
            self._reading.turn()

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("another task waits for an event")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _external_readable(self, fd: int, events: int) -> None:
        self._told_externals.append(fd)
        self._emit(External(fd))
        if self._on_event is not None:
            self._watch_externals_again()

    def _watch_externals_again(self) -> None:
        while self._told_externals:
            fd = self._told_externals.pop()
            if fd in self._externals:
                self._reading.again(fd)

    def _time_is_over(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._time_is_over, seconds)
        if not any(isinstance(event, Timer) for event in self._events):
            self._emit(Timer())

    # -- connections ---------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedContext("the context is closed")

    def _add(
        self,
        sock: socket.socket,
        form: Form,
        *,
        eager: bool = False,
        pull: bool = False,
        name: str = "",
    ) -> Connection:
        eager = eager or sock.family != socket.AF_UNIX  # no other kind tells what was read
        connection = Connection(self._shared, sock, form, eager=eager, pull=pull, name=name)
        self._connections.add(connection)
        return connection

    def has_room(self) -> bool:
        return len(self._connections) < self.limits.connections

    def welcome(self, sock: socket.socket, service: Service) -> None:
        """One that a service accepted."""
        connection = Connection(self._shared, sock, self.form, service=service)
        self._connections.add(connection)
        self._emit(Connected(connection))

    def _ended(self, connection: Connection, error: Exception | None) -> None:
        try:
            self._emit(Disconnected(connection, error))
        finally:
            if self._on_event is not None:
                connection.finish()

    def _closed(self, connection: Connection) -> None:
        was_full = not self.has_room()
        self._connections.discard(connection)
        if was_full:
            for service in self._services:
                service.listen()

    def left(self, service: Service) -> None:
        self._services.pop(service, None)


@asynccontextmanager
async def serve(
    name: str,
    *,
    rundir: RunDir | None = None,
    form: Form = Form.C,
    mode: int | None = None,
    limits: Limits | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> AsyncIterator[Service]:
    """A service in a context of its own."""
    async with Context(rundir, form=form, limits=limits, on_event=on_event) as context:
        yield await context.serve(name, mode=mode)


@asynccontextmanager
async def connect(
    name: str,
    *,
    rundir: RunDir | None = None,
    form: Form = Form.C,
    limits: Limits | None = None,
    fallback: bool | None = None,
) -> AsyncIterator[Connection]:
    """A connection in a context of its own; what comes is waited for with `receive`."""
    async with Context(rundir, form=form, limits=limits) as context:
        yield await context.connect(name, pull=True, fallback=fallback)

"""One connection to the daemon: calls, signals that really are the daemon's, and its restarts."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from buswork.bus.address import bus_address
from buswork.bus.caller import NameTracker
from buswork.bus.codec import CodecError
from buswork.bus.message import Flag, Frame
from buswork.bus.objects import PROPERTIES
from buswork.bus.transport import Connection
from buswork.bus.writer import close_all
from buswork.client.appview import AppView
from buswork.client.daemon import BUS_NAME, Daemon
from buswork.client.driver import Driver, Simulator
from buswork.client.errors import (
    BusworkError,
    Disconnected,
    InteractiveAuthorizationRequired,
    InvalidArgs,
    NotRunning,
    typed,
)
from buswork.client.flipper import Flipper
from buswork.client.store import Store

if TYPE_CHECKING:
    from buswork.client.libipc import LibIpc

# Longer than the daemon waits for polkit (20 s), so that its error, which says more, is first.
PLAIN_SECONDS = 25.0
# Longer than the daemon lets a prompt stay open (120 s) after having asked without one (20 s).
INTERACTIVE_SECONDS = 150.0

# The system bus refuses a connection's 129th unanswered call; these many go at once, and others
# wait their turn, so that a program may gather a thousand.
MAX_IN_FLIGHT = 100

Target = tuple[str, str]  # object path and interface
OnSignal = Callable[[Frame], None]


class Client:
    """The daemon on a bus: "system", "session" or an address in its own right.

        async with Client() as client:
            await client.store.set("greeting", "hello")

    interactive: calls may open a password prompt. timeout: the seconds that a call may take;
    without one 25, or 150 where a prompt may open. before_prompt is awaited before the first
    call that may prompt: it can provide an agent where no desktop does.

    A connection that the bus has ended stays ended (Disconnected): open a new client.
    """

    def __init__(
        self,
        bus: str = "system",
        *,
        interactive: bool = False,
        timeout: float | None = None,
        before_prompt: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.bus = bus
        self.interactive = interactive
        self.timeout = timeout
        self.store = Store(self)
        self.daemon = Daemon(self)
        self.driver = Driver(self)
        self.flipper = Flipper(self)
        self.appview = AppView(self)
        self.simulator = Simulator(self)
        self._before_prompt = before_prompt
        self._connection: Connection | None = None
        self._trackers: dict[str, NameTracker] = {}
        self._known_owner: str | None = None
        self._last_owner: str | None = None
        self._on_restart: list[Callable[[], None]] = []
        self._on_loss: list[Callable[[], None]] = []
        self._owner_changed = asyncio.Event()
        self._places = asyncio.Semaphore(MAX_IN_FLIGHT)

    @functools.cached_property
    def libipc(self) -> LibIpc:
        # Who does not use it need not wait for the library that it brings along.
        from buswork.client.libipc import LibIpc

        return LibIpc(self)

    # -- opening and closing -------------------------------------------------------------------

    async def open(self) -> None:
        try:
            connection = await Connection.open(bus_address(self.bus))
        except (OSError, TimeoutError, BusworkError) as error:
            raise Disconnected(f"no connection to the bus {self.bus}: {error}") from error
        self._connection = connection
        self._trackers.clear()
        try:
            await self.track(BUS_NAME, self._note_owner)
        except BaseException:
            connection.close()
            raise

    async def close(self) -> None:
        """Leaves the bus: what waits fails with Disconnected, what is held is let go."""
        if self._connection is not None:
            self._connection.close()
            await asyncio.sleep(0)  # whoever waits for `closed` hears of it now

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            raise Disconnected("this client was not opened")
        return self._connection

    # -- the daemon's presence -----------------------------------------------------------------

    @property
    def owner(self) -> str | None:
        """The unique name of the daemon that runs now."""
        return self.owner_of(BUS_NAME)

    def owner_of(self, name: str) -> str | None:
        """Of the daemon's name, and of others that are tracked."""
        tracker = self._trackers.get(name)
        return tracker.owner if tracker is not None else None

    async def track(self, name: str, on_change: Callable[[], None]) -> None:
        """Who has another name of ours is known from now on, and told when it changes."""
        tracker = self._trackers.get(name)
        if tracker is None:
            tracker = self._trackers[name] = NameTracker(self.connection, name)
            tracker.on_change(on_change)
            await tracker.start()

    def on_restart(self, callback: Callable[[], None]) -> None:
        """Calls back when another daemon has taken the place of the one before.

        What was learnt of the earlier one (revisions, held things) holds no longer.
        """
        self._on_restart.append(callback)

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Calls back when the daemon has gone, whether another one takes its place or not."""
        self._on_loss.append(callback)

    def _note_owner(self) -> None:
        self._owner_changed.set()
        gone, self._known_owner = self._known_owner, self.owner
        if gone is not None:
            for callback in self._on_loss:
                callback()
        owner, before = self.owner, self._last_owner
        if owner is None:
            return
        self._last_owner = owner
        if before is not None:
            for callback in self._on_restart:
                callback()

    async def wait_running(
        self, *, timeout: float | None = None, not_by: str | None = None, start: bool = True
    ) -> str:
        """Waits for a daemon (another one than `not_by`), and has the bus start it if it can."""
        try:
            async with asyncio.timeout(timeout):
                while (owner := self.owner) in (None, not_by):
                    self._owner_changed.clear()
                    if owner is None and start:
                        await self._start_service()
                    if self.owner == owner:
                        await self._unless_closed(self._owner_changed.wait())
        except TimeoutError:
            raise NotRunning(f"nobody became {BUS_NAME} in {timeout:g} s") from None
        assert owner is not None
        return owner

    async def _start_service(self) -> None:
        with contextlib.suppress(BusworkError):  # not every bus can, and somebody else may
            await self.connection.call_bus("StartServiceByName", "su", (BUS_NAME, 0))

    async def _unless_closed(self, awaited: Awaitable[Any]) -> None:
        """Waits, but not for what a connection that is gone will never bring."""
        task = asyncio.ensure_future(awaited)
        try:
            waits = (task, self.connection.closed)
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Disconnected("the connection to the bus is gone")
        finally:
            task.cancel()

    # -- calls ---------------------------------------------------------------------------------

    async def call(
        self,
        target: Target,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
        *,
        returns: str = "",
        to: str = BUS_NAME,
        is_slow: bool = False,
    ) -> Any:
        """Calls a method of the daemon; returns its value, or the sequence of several.

        is_slow: it takes as long as the daemon lets it, unless this client has a timeout.
        """
        frame = await self.request(
            target, member, signature, values, returns=returns, to=to, is_slow=is_slow
        )
        result = frame.values()
        return result[0] if len(result) == 1 else result

    async def request(
        self,
        target: Target,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
        *,
        returns: str,
        to: str = BUS_NAME,
        is_slow: bool = False,
    ) -> Frame:
        """The reply to a call as it came: with its sender, and descriptors for you to close."""

        async def send(flags: int) -> Frame:
            timeout = self.timeout
            if timeout is None and not is_slow:
                timeout = INTERACTIVE_SECONDS if flags else PLAIN_SECONDS
            return await self._exchange(to, target, member, signature, values, flags, timeout)

        try:
            if not self.interactive:
                frame = await send(0)
            elif self._before_prompt is None:
                frame = await send(Flag.ALLOW_INTERACTIVE_AUTHORIZATION)
            else:
                frame = await self._prompting(send, self._before_prompt)
        except BusworkError as error:
            raise typed(error) from None
        if frame.header.signature != returns:
            close_all(frame.fds)
            raise BusworkError(f"{member} answered {frame.header.signature!r}, not {returns!r}")
        return frame

    async def _exchange(
        self,
        to: str,
        target: Target,
        member: str,
        signature: str,
        values: Sequence[Any],
        flags: int,
        timeout: float | None,
    ) -> Frame:
        try:
            async with self._places:
                return await self.connection.call(
                    to, *target, member, signature, values, flags=flags, timeout=timeout
                )
        except CodecError as error:
            raise InvalidArgs(f"{member}: {error}") from error

    async def _prompting(
        self, send: Callable[[int], Awaitable[Frame]], before_prompt: Callable[[], Awaitable[None]]
    ) -> Frame:
        """Most calls need no prompt, and an agent takes its time to start: first without."""
        try:
            return await send(0)
        except BusworkError as error:
            if not isinstance(typed(error), InteractiveAuthorizationRequired):
                raise
        await before_prompt()
        return await send(Flag.ALLOW_INTERACTIVE_AUTHORIZATION)

    async def get(self, target: Target, name: str) -> Any:
        """One property."""
        path, interface = target
        names = (interface, name)
        return (await self.call((path, PROPERTIES), "Get", "ss", names, returns="v")).value

    async def get_all(self, target: Target, *, to: str = BUS_NAME) -> dict[str, Any]:
        """The properties that the caller may read."""
        path, interface = target
        properties = (path, PROPERTIES)
        found = await self.call(properties, "GetAll", "s", (interface,), returns="a{sv}", to=to)
        return {name: variant.value for name, variant in found.items()}

    # -- signals -------------------------------------------------------------------------------

    async def listen(self, target: Target, member: str, callback: OnSignal) -> Callable[[], None]:
        """Calls back for signals that the daemon sent; what is returned ends that."""
        path, interface = target
        rule = f"type='signal',sender='{BUS_NAME}',path='{path}',interface='{interface}'"
        stop_hearing = self.hear((interface, member), callback, path=path)
        try:
            await self.match(rule)
        except BaseException:
            stop_hearing()
            raise

        def end() -> None:
            stop_hearing()
            self.connection.remove_match(rule)

        return end

    async def match(self, rule: str) -> None:
        """Has the bus bring what the rule describes."""
        try:
            await self.connection.add_match(rule)
        except BusworkError as error:
            raise typed(error) from None

    def hear(
        self,
        signal: tuple[str, str],
        callback: OnSignal,
        *,
        path: str | None = None,
        sender: str = BUS_NAME,
    ) -> Callable[[], None]:
        """The same without asking the bus for the signal: somebody has, or it is unicast."""

        def check(frame: Frame) -> None:
            # Anybody may send us anything; only what the owner of the name sent counts.
            if frame.header.sender == self.owner_of(sender):
                callback(frame)

        connection = self.connection
        listener = connection.listen(*signal, check, sender=None, path=path)
        return lambda: connection.unlisten(listener)

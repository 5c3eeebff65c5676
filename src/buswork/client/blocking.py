"""The client without asyncio: the same calls, blocking, from any thread.

    with Client() as client:
        client.store.set("greeting", "hello")

One thread of its own runs the asyncio client; it ends with `close`.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import UUID

from buswork.client import connection, daemon, driver, flipper, store, watch
from buswork.client.appview_blocking import AppView
from buswork.client.daemon import BUS_NAME, Facts, Held
from buswork.client.driver import Device, Player
from buswork.client.errors import Disconnected, TimedOut
from buswork.client.flipper import BoardFacts, Event
from buswork.client.reader import Reader
from buswork.client.store import Description, Hint, Lookup, Swap
from buswork.client.watch import Change
from buswork.fsct.wire.protocol import ProtocolVersion
from buswork.fsct.wire.terms import PlayerState, Status, TextId, Timeline
from buswork.loopthread import LoopThread

if TYPE_CHECKING:
    from buswork.client.libipc_blocking import LibIpc

__all__ = ["AppView", "Board", "Client", "Daemon", "Driver", "Events", "Flipper", "Store", "Watch"]

T = TypeVar("T")


class Client:
    """The daemon on a bus; see the asyncio Client for what the arguments mean."""

    def __init__(
        self, bus: str = "system", *, interactive: bool = False, timeout: float | None = None
    ) -> None:
        self._client = connection.Client(bus, interactive=interactive, timeout=timeout)
        self._thread = LoopThread(
            "buswork-client", lambda text: Disconnected(f"this client: {text}")
        )
        self.store = Store(self, self._client.store)
        self.daemon = Daemon(self, self._client.daemon)
        self.driver = Driver(self, self._client.driver)
        self.flipper = Flipper(self, self._client.flipper)
        self.appview = AppView(self, self._client.appview)

    @functools.cached_property
    def libipc(self) -> "LibIpc":
        # As in the asyncio client.
        from buswork.client.libipc_blocking import LibIpc

        return LibIpc(self, self._client.libipc)

    # -- opening and closing -------------------------------------------------------------------

    def open(self) -> None:
        self._thread.open(lambda: self._client)

    def close(self) -> None:
        """Leaves the bus. Whoever waits in another thread gets Disconnected."""
        self._thread.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- using it ------------------------------------------------------------------------------

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine of the asyncio client in the thread, and waits for its result."""
        return self._thread.run(coroutine)

    def on_restart(self, callback: Callable[[], None]) -> None:
        """Calls back, in the client's thread, when another daemon took the earlier one's place."""
        self._client.on_restart(callback)

    def wait_running(self, *, timeout: float | None = None) -> str:
        return self.run(self._client.wait_running(timeout=timeout))


class Store:
    """Named values in memory, shared by every process of the machine."""

    def __init__(self, client: Client, inner: store.Store) -> None:
        self._client = client
        self._inner = inner

    def set(
        self, key: str, value: str, *, ttl: float | None = None, until_i_leave: bool = False
    ) -> int:
        return self._client.run(self._inner.set(key, value, ttl=ttl, until_i_leave=until_i_leave))

    def set_many(self, values: Mapping[str, str]) -> int:
        return self._client.run(self._inner.set_many(values))

    def compare_and_set(self, key: str, expected: int, value: str) -> Swap:
        return self._client.run(self._inner.compare_and_set(key, expected, value))

    def delete(self, key: str) -> bool:
        return self._client.run(self._inner.delete(key))

    def clear(self) -> int:
        return self._client.run(self._inner.clear())

    def mark(self, text: str = "") -> str:
        return self._client.run(self._inner.mark(text))

    def get(self, key: str) -> str:
        return self._client.run(self._inner.get(key))

    def get_many(self, keys: Iterable[str]) -> dict[str, str]:
        return self._client.run(self._inner.get_many(keys))

    def lookup(self, key: str) -> Lookup:
        return self._client.run(self._inner.lookup(key))

    def describe(self, key: str) -> Description | None:
        return self._client.run(self._inner.describe(key))

    def list(self, prefix: str = "") -> list[str]:
        return self._client.run(self._inner.list(prefix))

    def last_mark(self) -> str:
        return self._client.run(self._inner.last_mark())

    def revision(self) -> int:
        return self._client.run(self._inner.revision())

    def open_reader(self) -> Reader:
        """Reads in memory that the daemon shares, in any thread; outlives this client."""
        return self._client.run(self._inner.open_reader())

    def watch(self, prefix: str = "", from_revision: int | None = None) -> "Watch":
        """Every change from now on, or after from_revision: no gap, no repeat."""
        return Watch(self._client, self._inner.watch(prefix, from_revision))

    def on_changed(self, callback: Callable[[Hint], None]) -> Callable[[], None]:
        """Calls back in the client's thread; what is returned ends that."""
        end = self._client.run(self._inner.on_changed(callback))

        async def end_in_thread() -> None:
            end()

        return lambda: self._client.run(end_in_thread())


class Daemon:
    """What the daemon runs, who uses it, and the means to take a thing away."""

    def __init__(self, client: Client, inner: daemon.Daemon) -> None:
        self._client = client
        self._inner = inner

    def facts(self, name: str = BUS_NAME) -> Facts:
        return self._client.run(self._inner.facts(name))

    def epoch(self) -> str:
        return self._client.run(self._inner.epoch())

    def list_clients(self) -> "list[Held]":
        return self._client.run(self._inner.list_clients())

    def force_release(self, path: str) -> None:
        self._client.run(self._inner.force_release(path))


class Driver:
    """Players, and the USB audio displays that show what they play."""

    def __init__(self, client: Client, inner: driver.Driver) -> None:
        self._client = client
        self._inner = inner

    def get_protocol_version(self) -> ProtocolVersion:
        return self._client.run(self._inner.get_protocol_version())

    def register_player(self, self_id: str) -> int:
        """A player of this client's, until it leaves the bus."""
        return self._client.run(self._inner.register_player(self_id))

    def unregister_player(self, player_id: int) -> None:
        self._client.run(self._inner.unregister_player(player_id))

    def update_player_state(self, player_id: int, state: PlayerState) -> None:
        self._client.run(self._inner.update_player_state(player_id, state))

    def update_player_status(self, player_id: int, status: Status) -> None:
        self._client.run(self._inner.update_player_status(player_id, status))

    def update_player_timeline(self, player_id: int, timeline: Timeline | None) -> None:
        self._client.run(self._inner.update_player_timeline(player_id, timeline))

    def update_player_metadata(self, player_id: int, metadata_id: TextId, text: str | None) -> None:
        self._client.run(self._inner.update_player_metadata(player_id, metadata_id, text))

    def list_players(self) -> list[int]:
        return self._client.run(self._inner.list_players())

    def players(self) -> list[Player]:
        return self._client.run(self._inner.players())

    def assign_player_to_device(self, player_id: int, device_id: str | UUID) -> None:
        self._client.run(self._inner.assign_player_to_device(player_id, device_id))

    def unassign_player_from_device(self, player_id: int, device_id: str | UUID) -> None:
        self._client.run(self._inner.unassign_player_from_device(player_id, device_id))

    def get_player_assigned_device(self, player_id: int) -> str | None:
        return self._client.run(self._inner.get_player_assigned_device(player_id))

    def set_preferred_player(self, player_id: int | None) -> None:
        self._client.run(self._inner.set_preferred_player(player_id))

    def get_preferred_player(self) -> int | None:
        return self._client.run(self._inner.get_preferred_player())

    def list_devices(self) -> list[str]:
        return self._client.run(self._inner.list_devices())

    def devices(self) -> list[Device]:
        return self._client.run(self._inner.devices())


class Flipper:
    """Flipper boards, which several programs use at once."""

    def __init__(self, client: Client, inner: flipper.Flipper) -> None:
        self._client = client
        self._inner = inner

    def boards(self) -> list[BoardFacts]:
        return self._client.run(self._inner.boards())

    def current(self) -> str | None:
        return self._client.run(self._inner.current())

    def find(self, name: str = "") -> "Board":
        return Board(self._client, self._client.run(self._inner.find(name)))

    def attach(self, endpoint: str) -> "Board":
        return Board(self._client, self._client.run(self._inner.attach(endpoint)))

    def detach(self, board: "Board") -> None:
        self._client.run(self._inner.detach(board.inner))


class Board:
    """One board."""

    def __init__(self, client: Client, inner: flipper.Board) -> None:
        self.name = inner.name
        self.inner = inner
        self._client = client

    def facts(self) -> BoardFacts:
        return self._client.run(self.inner.facts())

    def invoke(self, module: str, function: str, *values: int) -> int | None:
        return self._client.run(self.inner.invoke(module, function, *values))

    def push(self, module: str, function: str, data: bytes) -> int:
        return self._client.run(self.inner.push(module, function, data))

    def pull(self, module: str, function: str, length: int) -> bytes:
        return self._client.run(self.inner.pull(module, function, length))

    def push_from(self, module: str, function: str, source: int) -> int:
        return self._client.run(self.inner.push_from(module, function, source))

    def pull_to(self, module: str, function: str, length: int, sink: int) -> int:
        return self._client.run(self.inner.pull_to(module, function, length, sink))

    def reset(self) -> None:
        self._client.run(self.inner.reset())

    def bind(self, name: str, image: bytes = b"") -> int:
        return self._client.run(self.inner.bind(name, image))

    def invoke_user(self, index: int, function: int, *values: int) -> int:
        return self._client.run(self.inner.invoke_user(index, function, *values))

    def load(self, image: bytes) -> None:
        self._client.run(self.inner.load(image))

    def claim(self, reason: str, lease_seconds: int, *, service: bool = False) -> str:
        return self._client.run(self.inner.claim(reason, lease_seconds, service=service))

    def lend(self, reason: str, lease_seconds: int) -> str:
        return self._client.run(self.inner.lend(reason, lease_seconds))

    def renew(self, token: str) -> None:
        self._client.run(self.inner.renew(token))

    def release(self, token: str) -> None:
        self._client.run(self.inner.release(token))

    def open_channel(self) -> int:
        return self._client.run(self.inner.open_channel())

    def events(self, *sources: str, interval_ms: int = 50) -> "Events":
        return Events(self._client, self.inner.events(*sources, interval_ms=interval_ms))


class Events:
    """Events of a board, to be iterated over inside `with`."""

    def __init__(
        self, client: Client, inner: AbstractAsyncContextManager[AsyncIterator[Event]]
    ) -> None:
        self._client = client
        self._inner = inner

    def __enter__(self) -> Iterator[Event]:
        events = self._client.run(_enter(self._inner))
        return iter(lambda: self._client.run(_next(events)), None)

    def __exit__(self, *_: object) -> None:
        try:
            self._client.run(_leave(self._inner))
        except Disconnected:
            pass  # closing the client has ended them


async def _enter(
    inner: AbstractAsyncContextManager[AsyncIterator[Event]],
) -> AsyncIterator[Event]:
    return await inner.__aenter__()


async def _next(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def _leave(inner: AbstractAsyncContextManager[AsyncIterator[Event]]) -> None:
    await inner.__aexit__(None, None, None)


class Watch:
    """Changes, to be iterated over; `with` opens it at once and closes it for certain."""

    def __init__(self, client: Client, inner: watch.Watch) -> None:
        self._client = client
        self._inner = inner

    def __enter__(self) -> Self:
        self._client.run(self._inner.open())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        return self.next()

    def next(self, timeout: float | None = None) -> Change:
        """The next change; TimedOut when none comes in so many seconds, and the watch goes on."""
        change = self._client.run(self._next(timeout))
        if change is None:
            raise StopIteration
        return change

    async def _next(self, timeout: float | None) -> Change | None:
        # A coroutine that raises StopAsyncIteration can't tell anybody.
        try:
            async with asyncio.timeout(timeout):
                return await anext(self._inner, None)
        except TimeoutError:
            raise TimedOut(f"nothing changed in {timeout:g} s") from None

    def close(self) -> None:
        try:
            self._client.run(self._inner.close())
        except Disconnected:
            pass  # closing the client has closed it

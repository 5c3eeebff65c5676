"""A driver behind a socket, inside the test: what it was asked, and every fault a driver can have.

    async with FakeDriver(path) as server:
        ...
        assert (await server.asked("register_player")).args == ("radio",)
        server.hang_up()            # and on the next connection all is forgotten

It keeps players as simply as can be, and speaks with the functions of fsct.wire.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from buswork.client.fsct import IpcDriver
from buswork.fsct.wire import methods, msgpackrpc
from buswork.fsct.wire.protocol import VERSION, ProtocolVersion
from buswork.fsct.wire.terms import PlayerState, TextId

# How long a test waits before it says that nothing will come; only a failing test waits.
PATIENCE = 10.0


@contextlib.contextmanager
def hurried(driver: IpcDriver) -> Iterator[None]:
    """Inside, it waits for no answer that does not come at once."""
    before, driver.timeout = driver.timeout, 0.01
    try:
        yield
    finally:
        driver.timeout = before


@dataclass
class Asked:
    connection: int
    method: str
    args: tuple[Any, ...]


@dataclass
class FakePlayer:
    self_id: str
    connection: int
    state: PlayerState = field(default_factory=PlayerState)
    device: Any = None


class FakeDriver:
    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self.version = VERSION
        self.log: list[Asked] = []
        self.players: dict[int, FakePlayer] = {}
        self.preferred: int | None = None
        self.remembered: str | None = None  # what the preferred one calls itself, as on disk
        self.connections = 0  # that there ever were
        # Faults: methods that are refused, with what text; those that are answered when released.
        self.refused: dict[str, str] = {}
        self.held: set[str] = set()
        self.first_id = 1
        self.raw: Callable[[msgpackrpc.Request], bytes | None] = lambda request: None
        self.on_request: Callable[[msgpackrpc.Request], None] = lambda request: None
        self._waiting: list[tuple[_Client, msgpackrpc.Request]] = []
        self._clients: set[_Client] = set()
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Condition()

    # -- its life ------------------------------------------------------------------------------

    async def start(self) -> None:
        self._clear()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Client(self), self.path)

    async def stop(self) -> None:
        """It ends, and its socket with it."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._clear()
        self.hang_up()
        await asyncio.sleep(0)

    def _clear(self) -> None:
        Path(self.path).unlink(missing_ok=True)

    async def restart(self, first_id: int = 1) -> None:
        """Another one with the same socket, which knows only who is to be preferred."""
        await self.stop()
        self.first_id = first_id
        self.preferred = None
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def hang_up(self) -> None:
        for client in tuple(self._clients):
            client.transport.abort()
            self.left(client)

    def write(self, data: bytes) -> None:
        """Any bytes to everybody."""
        for client in self._clients:
            client.transport.write(data)

    # -- what the test asks --------------------------------------------------------------------

    def calls(self, method: str) -> list[Asked]:
        return [asked for asked in self.log if asked.method == method]

    async def asked(self, method: str, count: int = 1) -> Asked:
        """The count-th request of this method, as soon as it has come."""
        await self.until(lambda: len(self.calls(method)) >= count)
        return self.calls(method)[count - 1]

    async def until(self, predicate: Callable[[], Any]) -> None:
        """Waits until this holds, and finds what it looks for, whenever something has happened."""

        def holds() -> Any:
            try:
                return predicate()
            except LookupError:
                return False

        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(holds)

    def by_name(self, self_id: str) -> FakePlayer:
        found = [player for player in self.players.values() if player.self_id == self_id]
        if len(found) != 1:
            raise LookupError(f"{len(found)} players {self_id}")
        return found[0]

    def names(self) -> list[str]:
        return [player.self_id for player in self.players.values()]

    def release(self, *, backwards: bool = False) -> None:
        """Answers what was held."""
        self.held.clear()
        waiting, self._waiting = self._waiting, []
        for client, request in reversed(waiting) if backwards else waiting:
            self._answer(client, request)

    # -- its clients ---------------------------------------------------------------------------

    def _notify(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._task = asyncio.ensure_future(notify())

    def came(self, client: "_Client") -> None:
        self.connections += 1
        client.number = self.connections
        self._clients.add(client)
        self._notify()

    def left(self, client: "_Client") -> None:
        self._clients.discard(client)
        self._waiting = [waiting for waiting in self._waiting if waiting[0] is not client]
        for number, player in tuple(self.players.items()):
            if player.connection == client.number:
                self._remove(number)
        self._notify()

    def _remove(self, number: int) -> None:
        del self.players[number]
        if self.preferred == number:
            self.preferred = None

    def request(self, client: "_Client", request: msgpackrpc.Request) -> None:
        self.on_request(request)
        args = methods.parse_params(request.method, request.params)
        self.log.append(Asked(client.number, request.method, args))
        if request.method in self.held:
            self._waiting.append((client, request))
        else:
            self._answer(client, request)
        self._notify()

    def _answer(self, client: "_Client", request: msgpackrpc.Request) -> None:
        raw = self.raw(request)
        if raw is not None:
            client.transport.write(raw)
            return
        text = self.refused.get(request.method)
        if text is None:
            try:
                args = methods.parse_params(request.method, request.params)
                result = getattr(self, "_" + request.method)(client, *args)
            except LookupError:
                text = "Player not found"
        if text is not None:
            client.transport.write(msgpackrpc.encode_error(request.msgid, text))
        else:
            plain = methods.encode_result(result)
            client.transport.write(msgpackrpc.encode_response(request.msgid, plain))
        self._notify()

    # -- its methods ---------------------------------------------------------------------------

    def _get_protocol_version(self, client: "_Client") -> ProtocolVersion:
        return self.version

    def _register_player(self, client: "_Client", self_id: str) -> int:
        number, self.first_id = self.first_id, self.first_id + 1
        self.players[number] = FakePlayer(self_id, client.number)
        if self.preferred is None and self_id == self.remembered:
            self.preferred = number
        return number

    def _unregister_player(self, client: "_Client", number: int) -> None:
        self._remove(number)

    def _assign_player_to_device(self, client: "_Client", number: int, device: Any) -> None:
        self.players[number].device = device

    def _unassign_player_from_device(self, client: "_Client", number: int, device: Any) -> None:
        self.players[number].device = None

    def _update_player_state(self, client: "_Client", number: int, state: PlayerState) -> None:
        self.players[number].state = state

    def _alter(self, number: int, **members: Any) -> None:
        old = self.players[number].state
        known = {"status": old.status, "timeline": old.timeline, "texts": old.texts}
        self.players[number].state = PlayerState(**(known | members))

    def _update_player_status(self, client: "_Client", number: int, status: Any) -> None:
        self._alter(number, status=status)

    def _update_player_timeline(self, client: "_Client", number: int, timeline: Any) -> None:
        self._alter(number, timeline=timeline)

    def _update_player_metadata(
        self, client: "_Client", number: int, text_id: TextId, text: str | None
    ) -> None:
        self._alter(number, texts=self.players[number].state.texts.with_text(text_id, text))

    def _set_preferred_player(self, client: "_Client", number: int | None) -> None:
        self.remembered = None if number is None else self.players[number].self_id
        self.preferred = number

    def _get_preferred_player(self, client: "_Client") -> int | None:
        return self.preferred

    def _get_player_assigned_device(self, client: "_Client", number: int) -> Any:
        return self.players[number].device


class _Client(asyncio.Protocol):
    def __init__(self, server: FakeDriver) -> None:
        self.number = 0
        self._server = server
        self._decoder = msgpackrpc.Decoder()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._server.came(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.left(self)

    def data_received(self, data: bytes) -> None:
        self._decoder.feed(data)
        while (message := self._decoder.next()) is not None:
            assert isinstance(message, msgpackrpc.Request), message
            self._server.request(self, message)

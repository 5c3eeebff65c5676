"""org.flipper.Hub and .Device, typed: Flipper boards, which several programs use at once.

    board = await client.flipper.find()
    await board.invoke("led", "rgb", 10, 20, 30)
    async with board.events("button") as events:
        async for event in events:
            print(event.value)

What a client has asked for, claimed and subscribed to goes when it leaves the bus.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from buswork.bus.library import Variant, variant
from buswork.bus.objects import OBJECT_MANAGER, escape_name
from buswork.bus.writer import close_all
from buswork.client.errors import BusworkError, Disconnected, InvalidArgs, NoReply, UnknownObject

if TYPE_CHECKING:
    from buswork.bus.message import Frame
    from buswork.client.connection import Client

ROOT = "/org/flipper"
HUB = (ROOT, "org.flipper.Hub")
MANAGER = (ROOT, OBJECT_MANAGER)
DEVICE = "org.flipper.Device"

# The source whose events are text.
DEBUG = "debug"
# Events that wait for a slow reader; of more, the oldest are dropped.
MAX_WAITING = 10_000
_OBJECTS = "a{oa{sa{sv}}}"
_MAX_I64, _MAX_U64 = 2**63 - 1, 2**64 - 1


class Holder(NamedTuple):
    """Who uses a board."""

    client: str
    uid: int
    what: str


@dataclass(frozen=True, slots=True)
class BoardFacts:
    """What there is to know of a board."""

    name: str
    transport: str
    place: str
    generation: int
    modules: dict[str, list[str]]  # with their functions, as in "rgb(red, green, blue)"
    state: str
    last_error: str
    incarnation: int
    claim_reason: str
    holders: tuple[Holder, ...]


class Event(NamedTuple):
    """A source is another one now; of `debug`, the value is what the board has printed."""

    source: str
    value: int | str


class _Waiting:
    """Events that nobody has taken yet, and what ends them."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event | BusworkError] = asyncio.Queue()

    def put(self, event: Event | BusworkError) -> None:
        if self._queue.qsize() >= MAX_WAITING:
            self._queue.get_nowait()
        self._queue.put_nowait(event)

    async def events(self) -> AsyncIterator[Event]:
        while not isinstance(event := await self._queue.get(), BusworkError):
            yield event
        raise event


@dataclass(eq=False, slots=True)
class _Subscription:
    """One for a board and source, whoever of this client's parts listens."""

    interval_ms: int
    listeners: int = 0
    last: Event | None = None  # as it is now, for who comes later; of text there is no such thing


class Board:
    """One board; its name stays good when it is plugged in anew."""

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self.path = f"{ROOT}/devices/{escape_name(name)}"
        self._target = (self.path, DEVICE)
        self._client = client

    async def _call(self, member: str, signature: str, *values: Any, returns: str = "") -> Any:
        return await self._client.call(self._target, member, signature, values, returns=returns)

    async def facts(self) -> BoardFacts:
        return _facts(await self._client.get_all(self._target))

    # -- calls ---------------------------------------------------------------------------------

    async def invoke(self, module: str, function: str, *values: int) -> int | None:
        """What the function returns; None of one that returns nothing."""
        numbers = [_number(value) for value in values]
        answer: Variant = await self._call("Invoke", "ssav", module, function, numbers, returns="v")
        return None if answer.signature == "s" else int(answer.value)

    async def push(self, module: str, function: str, data: bytes) -> int:
        """How many bytes the board took."""
        taken: int = await self._call("Push", "ssay", module, function, data, returns="u")
        return taken

    async def pull(self, module: str, function: str, length: int) -> bytes:
        return bytes(await self._call("Pull", "ssu", module, function, length, returns="ay"))

    async def push_from(self, module: str, function: str, source: int) -> int:
        """All that can be read from a descriptor, while the client's timeout lasts."""
        taken: int = await self._call("PushFrom", "ssh", module, function, source, returns="t")
        return taken

    async def pull_to(self, module: str, function: str, length: int, sink: int) -> int:
        """So many bytes, to a descriptor, while the client's timeout lasts."""
        values = (module, function, length, sink)
        written: int = await self._call("PullTo", "ssth", *values, returns="t")
        return written

    async def reset(self) -> None:
        await self._call("Reset", "")

    # -- user modules --------------------------------------------------------------------------

    async def bind(self, name: str, image: bytes = b"") -> int:
        """The index of a user module, which is loaded if it has to be."""
        index: int = await self._call("Bind", "say", name, image, returns="u")
        return index

    async def invoke_user(self, index: int, function: int, *values: int) -> int:
        numbers = [_number(value) for value in values]
        result: int = await self._call("InvokeUser", "uuav", index, function, numbers, returns="i")
        return result

    async def load(self, image: bytes) -> None:
        await self._call("Load", "ay", image)

    # -- claims --------------------------------------------------------------------------------

    async def claim(self, reason: str, lease_seconds: int, *, service: bool = False) -> str:
        """A token that names the claim; it is granted when what was asked before is done.

        service: one that may also use what disturbs the calls of others, flashing for example.
        """
        member = "ClaimForService" if service else "Claim"
        token: str = await self._call(member, "su", reason, lease_seconds, returns="s")
        return token

    async def lend(self, reason: str, lease_seconds: int) -> str:
        """As `claim`, for a program that opens the device by itself."""
        token: str = await self._call("Lend", "su", reason, lease_seconds, returns="s")
        return token

    async def renew(self, token: str) -> None:
        await self._call("Renew", "s", token)

    async def release(self, token: str) -> None:
        await self._call("Release", "s", token)

    async def open_channel(self) -> int:
        """A socket that speaks FMR, for you to close."""
        frame = await self._client.request(self._target, "OpenChannel", returns="h")
        try:
            (channel,) = frame.values()
        except BaseException:
            close_all(frame.fds)
            raise
        return int(channel)

    # -- events --------------------------------------------------------------------------------

    @asynccontextmanager
    async def events(
        self, *sources: str, interval_ms: int = 50
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """What the sources are now, and whenever they change; Disconnected when the board goes."""
        client, waiting = self._client, _Waiting()
        subscriptions: dict[str, _Subscription] = {}

        def heard(frame: Frame) -> None:
            if frame.header.signature == "sv":
                event = Event(frame.values()[0], frame.values()[1].value)
                if event.source in subscriptions:
                    subscriptions[event.source].last = None if event.source == DEBUG else event
                    waiting.put(event)

        def removed(frame: Frame) -> None:
            if frame.header.signature == "oas" and frame.values()[0] == self.path:
                waiting.put(Disconnected(f"{self.name} is gone"))

        def closed(_: object) -> None:
            waiting.put(Disconnected("the connection to the bus is gone"))

        async with AsyncExitStack() as stack:
            stack.callback(client.hear((DEVICE, "Event"), heard, path=self.path))
            stack.callback(await client.listen(MANAGER, "InterfacesRemoved", removed))
            stack.callback(client.flipper.until_restart(waiting))
            client.connection.closed.add_done_callback(closed)
            stack.callback(client.connection.closed.remove_done_callback, closed)
            for source in dict.fromkeys(map(_as_told, sources)):
                known = client.flipper.subscription(self.path, source, interval_ms)
                subscriptions[source] = known
                stack.push_async_callback(self._unsubscribe, source, known)
                if known.last is not None:
                    waiting.put(known.last)
                most_eager = min(known.interval_ms, interval_ms)
                await self._call("Subscribe", "su", source, most_eager)
                known.interval_ms = most_eager
            yield waiting.events()

    async def _unsubscribe(self, source: str, known: _Subscription) -> None:
        if not self._client.flipper.is_last(self.path, source, known):
            return
        try:
            await self._call("Unsubscribe", "s", source)
        except BusworkError:
            pass  # it ended with the board, the daemon or the connection


class Flipper:
    """The boards of this machine."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: set[_Waiting] | None = None
        self._subscriptions: dict[tuple[str, str], _Subscription] = {}

    async def boards(self) -> list[BoardFacts]:
        """All boards that may be looked at."""
        objects = await self._client.call(MANAGER, "GetManagedObjects", returns=_OBJECTS)
        found = [faces[DEVICE] for faces in objects.values() if DEVICE in faces]
        return [
            _facts({name: fact.value for name, fact in facts.items()}) for facts in found if facts
        ]

    async def current(self) -> str | None:
        """The name of the board that is meant where none is named."""
        path: str = await self._client.get(HUB, "Current")
        return None if path == "/" else await self._name(path)

    async def find(self, name: str = "") -> Board:
        """The board of this name; without one, the current one."""
        found = await self._name(Board(self._client, name).path) if name else await self.current()
        if found is None:
            text = f"there is no board {name}" if name else "there is no board"
            raise BusworkError(text, "org.flipper.Error.NoSuchBoard")
        return Board(self._client, found)

    async def attach(self, endpoint: str) -> Board:
        """A board on the network, as host or host:port."""
        path: str = await self._client.call(HUB, "Attach", "s", (endpoint,), returns="o")
        found = await self._name(path)
        if found is None:
            raise Disconnected(f"{endpoint} is gone already")
        return Board(self._client, found)

    async def detach(self, board: Board) -> None:
        await self._client.call(HUB, "Detach", "o", (board.path,))

    async def _name(self, path: str) -> str | None:
        try:
            name: str = await self._client.get((path, DEVICE), "Name")
        except UnknownObject:
            return None
        return name

    def subscription(self, path: str, source: str, interval_ms: int) -> _Subscription:
        """For one more listener."""
        known = self._subscriptions.setdefault((path, source), _Subscription(interval_ms))
        known.listeners += 1
        return known

    def is_last(self, path: str, source: str, known: _Subscription) -> bool:
        """One listener less; whether there is none now."""
        known.listeners -= 1
        if known.listeners == 0:
            del self._subscriptions[path, source]
        return known.listeners == 0

    def until_restart(self, waiting: _Waiting) -> Callable[[], None]:
        """Another daemon knows nothing of subscriptions; what is returned ends that."""
        if self._waiting is None:
            self._waiting = set()
            self._client.on_restart(self._restarted)
        everybody = self._waiting
        everybody.add(waiting)
        return lambda: everybody.discard(waiting)

    def _restarted(self) -> None:
        for waiting in self._waiting or ():
            waiting.put(NoReply("the daemon was started anew"))


def _as_told(source: str) -> str:
    """As events call it: the mask of pins is hexadecimal."""
    kind, _, mask = source.partition(":")
    if kind != "gpio":
        return source
    try:
        return f"{kind}:{int(mask, 16 if mask[1:2] in ('x', 'X') else 10):#x}"
    except ValueError:
        return source


def _number(value: int) -> Variant:
    if not -_MAX_I64 - 1 <= value <= _MAX_U64:
        raise InvalidArgs(f"{value} has more than 64 bits")
    return variant("x" if value <= _MAX_I64 else "t", value)


def _facts(facts: dict[str, Any]) -> BoardFacts:
    return BoardFacts(
        facts["Name"],
        facts["Transport"],
        facts["Place"],
        facts["Generation"],
        facts["Modules"],
        facts["State"],
        facts["LastError"],
        facts["Incarnation"],
        facts["ClaimReason"],
        tuple(Holder(*holder) for holder in facts["Holders"]),
    )

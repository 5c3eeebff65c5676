"""org.flipper.Hub and .Device: calls become jobs of a board, changes become signals.

Whatever a caller asks of a board waits for its turn there; who gives up waiting takes it along.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from buswork.bus.caller import Call, Peer
from buswork.bus.export import Edge
from buswork.bus.library import Variant, variant
from buswork.bus.objects import Face, escape_name, in_order
from buswork.errors import BusworkError, InvalidArgs
from buswork.flipper.errors import NoSuchBoard, TransferFailed, named
from buswork.flipper.holders import (
    ROOT,
    ChannelHolders,
    ClaimHolders,
    Subscriptions,
    Tell,
    TransferHolders,
)
from buswork.flipper.model import calls
from buswork.flipper.model.boards import (
    Board,
    BoardAdded,
    BoardChanged,
    BoardRemoved,
    Boards,
    Change,
    Holder,
    Transport,
)
from buswork.flipper.model.claims import Owner
from buswork.flipper.model.work import Job
from buswork.flipper.wire.errors import BoardError
from buswork.flipper.wire.modules import Kind
from buswork.flipper.wire.plans import BridgeError
from buswork.flipper.wire.terms import MAX_IMAGE_BYTES, BadAnswer, BadValue, Type

HUB = "org.flipper.Hub"
DEVICE = "org.flipper.Device"

# A caller whose push or pull is longer than this, eight turns of most boards, is watched: it ends
# with its caller.
WATCHED_BYTES = 1024
# What is read from a descriptor, or written to it, at once; what fits into most pipes.
PIECE_BYTES = 16 * 1024

_FAILURES = (BadValue, BoardError, BridgeError, BadAnswer)
# How a number is typed that a function returned.
_SIGNATURES: Final = {
    Type.UINT8: "y", Type.UINT16: "q", Type.UINT32: "u", Type.UINT64: "t", Type.PTR: "t",
    Type.INT8: "n", Type.INT16: "n", Type.INT32: "i", Type.INT64: "x", Type.INT: "i",
}  # fmt: skip

T = TypeVar("T")
P = ParamSpec("P")


def board_path(board: Board) -> str:
    return f"{ROOT}/devices/{escape_name(board.name)}"


R = TypeVar("R", covariant=True)


class Waiting(Protocol[R]):
    """For a job that was asked for; who gives up waiting takes it along."""

    async def result(self) -> R: ...

    def cancel(self) -> None: ...


class Ask(Protocol):
    def __call__(self, board: Board, owner: Owner, uid: int, job: Job[T]) -> Waiting[T]: ...


class Network(Protocol):
    """Who reaches boards on the network; the native room does."""

    async def attach(self, endpoint: str) -> Board: ...

    def detach(self, board: Board) -> None: ...


class Stream(Protocol):
    """A caller's descriptor; what fails raises OSError."""

    async def read(self, most: int) -> bytes: ...

    async def write(self, data: bytes) -> None: ...


class Streams(Protocol):
    """Who reads and writes callers' descriptors; the native room does."""

    def opened(self, fd: int, uid: int) -> AbstractAsyncContextManager[Stream]: ...


@dataclass(frozen=True, slots=True)
class Desk:
    """Where callers are served: what all boards' faces have together."""

    boards: Boards
    ask: Ask
    streams: Streams
    claims: ClaimHolders
    subscriptions: Subscriptions
    transfers: TransferHolders
    channels: ChannelHolders


class HubFace(Face):
    interface = HUB
    max_image_bytes = MAX_IMAGE_BYTES
    max_transfer_bytes = calls.MAX_TRANSFER_BYTES

    def __init__(self, boards: Boards, network: Network) -> None:
        self._boards = boards
        self._network = network
        self.max_boards = boards.limits.boards

    async def attach(self, call: Call, endpoint: str) -> str:
        try:
            return board_path(await self._network.attach(endpoint))
        except _FAILURES as error:
            raise named(error) from error

    def detach(self, call: Call, path: str) -> None:
        for board in self._boards.boards.values():
            if board_path(board) == path:
                self._network.detach(board)
                return
        raise NoSuchBoard(f"There is no board {path}.")

    @property
    def current(self) -> str:
        board = self._boards.current
        return "/" if board is None else board_path(board)


class DeviceFace(Face):
    interface = DEVICE

    def __init__(self, board: Board, desk: Desk) -> None:
        self._board = board
        self._desk = desk
        self.name = board.name
        self.transport = str(board.transport)
        self.place = board.key.partition(":")[2]
        self.generation = int(board.generation)
        self.incarnation = board.incarnation

    # -- calls ---------------------------------------------------------------------------------

    async def invoke(
        self, call: Call, module: str, function: str, arguments: list[Variant]
    ) -> Variant:
        values = [argument.value for argument in arguments]
        number = await self._do(call, calls.invoke, module, function, values)
        returns = calls.target(self._board, module, function).function.returns
        return variant("s", "") if number is None else variant(_SIGNATURES[returns], number)

    async def push(self, call: Call, module: str, function: str, data: bytes) -> int:
        what = f"a push to {self._board.name}"
        job = self._job(calls.push, module, function, bytes(data))
        return await self._transferred(call, what, len(data), job)

    async def pull(self, call: Call, module: str, function: str, length: int) -> bytes:
        what = f"a pull from {self._board.name}"
        job = self._job(calls.pull, module, function, length)
        return await self._transferred(call, what, length, job)

    async def push_from(self, call: Call, module: str, function: str, source: int) -> int:
        self._check(module, function, Kind.PUSH)
        done = 0
        async with (
            self._desk.streams.opened(source, call.uid) as stream,
            self._desk.transfers.held(call, f"a push to {self._board.name}", PIECE_BYTES),
        ):
            with _counting(lambda: done):
                while data := await stream.read(PIECE_BYTES):
                    done += await self._do(call, calls.push, module, function, data)
        return done

    async def pull_to(self, call: Call, module: str, function: str, length: int, sink: int) -> int:
        self._check(module, function, Kind.PULL)
        done = 0
        async with (
            self._desk.streams.opened(sink, call.uid) as stream,
            self._desk.transfers.held(call, f"a pull from {self._board.name}", PIECE_BYTES),
        ):
            with _counting(lambda: done):
                while done < length:
                    size = min(length - done, PIECE_BYTES)
                    data = await self._do(call, calls.pull, module, function, size)
                    await stream.write(data)
                    done += size
        return done

    async def reset(self, call: Call) -> None:
        await self._do(call, calls.reset)

    # -- user modules --------------------------------------------------------------------------

    async def bind(self, call: Call, name: str, image: bytes) -> int:
        return await self._do(call, calls.bind, name, bytes(image) or None)

    async def load(self, call: Call, image: bytes) -> None:
        await self._do(call, calls.load, bytes(image))

    async def invoke_user(
        self, call: Call, index: int, function: int, arguments: list[Variant]
    ) -> int:
        values = [argument.value for argument in arguments]
        return await self._do(call, calls.user_call, index, function, values) or 0

    # -- who has it ----------------------------------------------------------------------------

    async def claim(self, call: Call, reason: str, lease_seconds: int) -> str:
        claim = await self._desk.claims.claim(call, self._board, reason, lease_seconds)
        return claim.token

    async def claim_for_service(self, call: Call, reason: str, lease_seconds: int) -> str:
        claim = await self._desk.claims.claim(
            call, self._board, reason, lease_seconds, service=True
        )
        return claim.token

    async def lend(self, call: Call, reason: str, lease_seconds: int) -> str:
        """Returns when the device is closed."""
        if self._board.transport is not Transport.USB:
            raise InvalidArgs("A board on the network can't be lent: nobody else is kept from it.")
        claim = await self._desk.claims.claim(call, self._board, reason, lease_seconds)
        self._desk.boards.lend(claim.token, call.sender)
        await self._until_closed()
        return claim.token

    async def _until_closed(self) -> None:
        board, boards = self._board, self._desk.boards
        closed = asyncio.Event()

        def changed(change: Change) -> None:
            if isinstance(change, BoardRemoved) or not board.is_open:
                closed.set()

        boards.on_change.append(changed)
        try:
            if board.is_open:
                await closed.wait()
        finally:
            boards.on_change.remove(changed)

    def renew(self, call: Call, token: str) -> None:
        self._desk.claims.renew(call, token)

    def release(self, call: Call, token: str) -> None:
        self._desk.boards.release(token, call.sender)

    @in_order
    async def subscribe(self, call: Call, source: str, interval_ms: int) -> None:
        try:
            await self._desk.subscriptions.subscribe(call, self._board, source, interval_ms)
        except _FAILURES as error:
            raise named(error) from error

    def unsubscribe(self, call: Call, source: str) -> None:
        self._desk.subscriptions.unsubscribe(call, self._board, source)

    async def open_channel(self, call: Call) -> int:
        return await self._desk.channels.open(call, self._board)

    # -- properties ----------------------------------------------------------------------------

    @property
    def modules(self) -> dict[str, list[str]]:
        return {
            name: [function.usage for function in module.functions.values()]
            for name, module in self._board.modules.items()
        }

    @property
    def state(self) -> str:
        return str(self._board.state)

    @property
    def last_error(self) -> str:
        # D-Bus knows no NUL.
        return self._board.error.replace("\0", "?")

    @property
    def claim_reason(self) -> str:
        claim = self._board.claim
        return "" if claim is None else claim.reason

    @property
    def holders(self) -> list[tuple[str, int, str]]:
        return [
            (_client(holder.owner), holder.uid, _use(holder)) for holder in self._board.holders()
        ]

    # -- inside --------------------------------------------------------------------------------

    async def _do(
        self,
        call: Call,
        make: Callable[Concatenate[Board, P], Job[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """make: refuses what no board should see."""
        return await self._done(self._ask(call, self._job(make, *args, **kwargs)))

    def _job(
        self,
        make: Callable[Concatenate[Board, P], Job[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Job[T]:
        try:
            return make(self._board, *args, **kwargs)
        except BadValue as error:
            raise named(error) from error

    def _ask(self, call: Call, job: Job[T]) -> Waiting[T]:
        return self._desk.ask(self._board, call.sender, call.uid, job)

    async def _done(self, waiting: Waiting[T]) -> T:
        try:
            return await waiting.result()
        except _FAILURES as error:
            raise named(error) from error

    async def _transferred(self, call: Call, what: str, length: int, job: Job[T]) -> T:
        """It is asked for before anything is waited for: calls of a sender are in order."""
        if length <= WATCHED_BYTES:
            return await self._done(self._ask(call, job))
        ask = partial(self._ask, call, job)
        async with self._desk.transfers.asked(call, what, length, ask) as waiting:
            return await self._done(waiting)

    def _check(self, module: str, function: str, kind: Kind) -> None:
        try:
            calls.target(self._board, module, function, kind)
        except BadValue as error:
            raise named(error) from error


_PROPERTIES = {"state": "State", "error": "LastError", "claim": "ClaimReason"}


class Faces:
    """All objects of the wing: the hub's, and one for each board."""

    def __init__(self, edge: Edge, boards: Boards, hub: HubFace, desk: Desk) -> None:
        self._edge = edge
        self._boards = boards
        self._desk = desk
        edge.export(ROOT, hub, wing=ROOT, manager=True)
        boards.on_change.append(self._changed)

    def close(self) -> None:
        self._boards.on_change.remove(self._changed)
        for board in self._boards.boards.values():
            self._edge.unexport(board_path(board))
        self._edge.unexport(ROOT)

    def _changed(self, change: Change) -> None:
        path = board_path(change.board)
        match change:
            case BoardChanged(_, names):
                self._edge.changed(path, DEVICE, *[_PROPERTIES[name] for name in names])
                return
            case BoardAdded(board):
                self._edge.export(path, DeviceFace(board, self._desk), wing=ROOT)
            case BoardRemoved():
                self._edge.unexport(path)
        self._edge.changed(ROOT, HUB, "Current")


def told(edge: Edge) -> Tell:
    """Events go to those who asked for them, and to nobody else."""

    def tell(board: Board, owner: str, source: str, value: Variant) -> None:
        edge.emit(board_path(board), DEVICE, "Event", source, value, to=owner)

    return tell


def _client(owner: Owner) -> str:
    return f"pid:{owner.pid}" if isinstance(owner, Peer) else str(owner)


def _use(holder: Holder) -> str:
    uses = [] if holder.claim is None else [f"alone: {holder.claim.reason}"]
    if holder.waiting:
        uses.append(f"{holder.waiting} calls")
    return ", ".join((*uses, *map(str, holder.sources)))


@contextmanager
def _counting(done: Callable[[], int]) -> Iterator[None]:
    """What fails says how much had been done before."""
    try:
        yield
    except OSError as error:
        text = f"The descriptor failed ({error.strerror}) after {done()} bytes."
        raise BusworkError(text, TransferFailed.name) from error
    except BusworkError as error:
        raise BusworkError(f"{error} (after {done()} bytes)", error.name) from error

"""The driver of Ferrum Streaming Control Technology(TM) (FSCT) displays, for asyncio.

    async with IpcDriver() as driver:
        player = await driver.register_player("radio")
        await driver.update_player_metadata(player, TextId.CURRENT_TITLE, "Clocks")
        await driver.update_player_status(player, Status.PLAYING)

A player is there for as long as its IpcDriver is open. When the driver restarts, it gets all
players again, each with its state and device; the numbers that `register_player` gave stay good.
Which player is preferred the driver itself remembers. So an update of one's own player never fails
for want of a driver: it is kept, and the next one gets the newest. Everything else waits for a
driver, for `timeout` seconds.

Failures are BusworkErrors: InvalidArgs before anything is sent, DriverError when the driver said
no, TimedOut, Disconnected, and WrongVersion, after which nothing is tried any more.
"""

import asyncio
import contextlib
import logging
import os
import pwd
import random
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar
from uuid import UUID

from buswork.client.errors import (
    AccessDenied,
    BusworkError,
    Disconnected,
    InvalidArgs,
    TimedOut,
)
from buswork.fsct.wire import checks, methods, msgpackrpc
from buswork.fsct.wire.protocol import VERSION, Broken, ProtocolVersion
from buswork.fsct.wire.terms import (
    FIELDS,
    TRACK_TEXTS,
    BadValue,
    PlayerState,
    Status,
    TextId,
    Texts,
    Timeline,
)

__all__ = [
    "DriverError",
    "IpcDriver",
    "PlayerState",
    "ProtocolVersion",
    "Status",
    "TextId",
    "Texts",
    "Timeline",
    "WrongVersion",
    "endpoints",
]

log = logging.getLogger(__name__)
T = TypeVar("T")

ENDPOINT_VARIABLE = "FSCT_IPC_ENDPOINT"
USER_SOCKET = "fsct/fsct.sock"  # in $XDG_RUNTIME_DIR: the user's agent
SYSTEM_SOCKET = "/run/fsct/fsct.sock"
TMP_SOCKET = "/tmp/fsct.sock"
SERVICE_USER = "buswork"

# A little more than the driver itself lets a request take (25 s), so that its error is first.
REQUEST_SECONDS = 30.0
# From connecting to the driver's version; it tells that without asking anybody.
CONNECT_SECONDS = 10.0
# Past as many unanswered requests the driver reads no more; others wait here for their turn.
MAX_IN_FLIGHT = 64

# Before the first attempt to connect again: a restart takes about so long.
FIRST_PAUSE = 0.1
# Each pause is twice the one before, up to this: hardly any load, and soon enough for a person.
LONGEST_PAUSE = 15.0
# When a driver does not take a player that the one before it had: for a limit perhaps.
REFUSED_SECONDS = 30.0
# A connection that lasted so long was a good one: after it, pauses are short again.
GOOD_SECONDS = 10.0

# No display shows more: its limit, of 16 bits, counts bytes, and what is shortest in UTF-16
# (two for each) has three in UTF-8. Four of these fit into one message.
MAX_TEXT_BYTES = 0xFFFF // 2 * 3
# An error's text is a sentence; it comes from whoever has the socket.
MAX_ERROR_TEXT = 1024
MAX_ID = int(FIELDS["player_id"].highest)

_CREDENTIALS = struct.Struct("3i")


class DriverError(BusworkError):
    """The driver refused; the text is what it said."""


class WrongVersion(BusworkError):
    """The driver's protocol has another major version: the two can't understand each other."""

    name = "org.fsct.Error.WrongVersion"


# -- where the driver is -------------------------------------------------------------------------


def endpoints() -> list[str]:
    """The sockets to try, in their order.

    FSCT_IPC_ENDPOINT, if it is set and not blank, and nothing else. Or else, of these, those that
    are there: $XDG_RUNTIME_DIR/fsct/fsct.sock, /run/fsct/fsct.sock, /tmp/fsct.sock.

    In /tmp anybody can put a socket. That one counts only if it belongs to root, to the user
    buswork or to ourselves; whoever answers there must be one of them, too.
    """
    named = os.environ.get(ENDPOINT_VARIABLE, "")
    if named.strip():
        return [named]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    usual = [os.path.join(runtime, USER_SOCKET)] if runtime else []
    found = [path for path in (*usual, SYSTEM_SOCKET) if os.path.exists(path)]
    if _is_trusted_file(TMP_SOCKET):
        found.append(TMP_SOCKET)
    return found


def _is_trusted_file(path: str) -> bool:
    try:
        facts = os.lstat(path)
    except OSError:
        return False
    if not stat.S_ISSOCK(facts.st_mode):
        return False
    if not _is_trusted(facts.st_uid):
        log.warning("%s is passed over: it belongs to uid %d", path, facts.st_uid)
        return False
    return True


def _is_trusted(uid: int) -> bool:
    if uid in (0, os.geteuid()):
        return True
    try:
        return uid == pwd.getpwnam(SERVICE_USER).pw_uid
    except KeyError:
        return False


class Backoff:
    """Pauses that double, each with some chance in it, so that not all clients come at once."""

    def __init__(self, chance: Callable[[float, float], float] = random.uniform) -> None:
        self._chance = chance
        self._pause = FIRST_PAUSE

    def reset(self) -> None:
        self._pause = FIRST_PAUSE

    def next(self) -> float:
        pause = self._pause
        self._pause = min(2 * pause, LONGEST_PAUSE)
        return self._chance(pause / 2, pause)


# -- one connection ------------------------------------------------------------------------------

Undo = Callable[[Any], None]


class _Link(asyncio.Protocol):
    """A connection: requests go out, answers find whoever waits for them, in whatever order."""

    def __init__(self) -> None:
        self.version: ProtocolVersion | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_lost: Callable[[], None] = lambda: None
        self._transport: asyncio.Transport | None = None
        self._decoder = msgpackrpc.Decoder()
        self._msgid = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._undo: dict[int, Undo] = {}  # answers that nobody waits for any more

    @classmethod
    async def open(cls, path: str) -> "_Link":
        """Connected, and of a version that we speak."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, link = await loop.create_unix_connection(cls, path)
                try:
                    if path == TMP_SOCKET:
                        link.check_peer()
                    link.version = await link.request("get_protocol_version", [])
                except BaseException:
                    link.close()
                    raise
        except TimeoutError:
            raise Disconnected(f"{path} did not answer in {CONNECT_SECONDS:g} s") from None
        except OSError as error:
            raise Disconnected(f"no connection to {path}: {error}") from error
        assert link.version is not None
        if not VERSION.is_compatible(link.version):
            link.close()
            theirs, ours = (f"{major}.{minor}" for major, minor in (link.version, VERSION))
            raise WrongVersion(f"the driver at {path} speaks version {theirs}, we speak {ours}")
        return link

    def check_peer(self) -> None:
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(raw)
        if not _is_trusted(uid):
            raise AccessDenied(f"{TMP_SOCKET} is answered by uid {uid}, which is not trusted")

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

    async def request(self, method: str, params: list[Any], undo: Undo | None = None) -> Any:
        """The result. undo gets the one that comes when its asker has been cancelled."""
        self._msgid = msgid = (self._msgid + 1) & 0xFFFFFFFF
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[msgid] = future
        try:
            self.send(msgid, method, params)
            response = await future
        except asyncio.CancelledError:
            if undo is not None:
                self._undo[msgid] = undo
                if future.done() and not future.cancelled() and future.exception() is None:
                    self._take_back(future.result())
            raise
        finally:
            del self._waiting[msgid]
        return _result(method, response)

    def send(self, msgid: int, method: str, params: list[Any]) -> None:
        if self.lost.done() or self._transport is None:
            raise Disconnected("the connection to the driver is gone")
        self._transport.write(msgpackrpc.encode_request(msgid, method, params))

    def _answered(self, response: msgpackrpc.Response) -> None:
        future = self._waiting.get(response.msgid)
        if future is None:
            self._take_back(response)
        elif not future.done():
            future.set_result(response)

    def _take_back(self, response: msgpackrpc.Response) -> None:
        undo = self._undo.pop(response.msgid, None)
        if undo is not None and response.error is None:
            undo(response.result)

    def unregister(self, player_id: Any) -> None:
        """Takes back a player that nobody waits for; the answer does not matter."""
        if not self.lost.done():
            self._msgid = (self._msgid + 1) & 0xFFFFFFFF
            self.send(self._msgid, "unregister_player", [player_id])


def _result(method: str, response: msgpackrpc.Response) -> Any:
    if response.error is not None:
        text = response.error if isinstance(response.error, str) else repr(response.error)
        raise DriverError(text[:MAX_ERROR_TEXT].encode(errors="replace").decode())
    try:
        return methods.parse_result(method, response.result)
    except BadValue as error:
        raise DriverError(f"the answer to {method} makes no sense: {error}") from None


# -- the driver ----------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Player:
    """One of our players, as the next driver is to have it."""

    self_id: str
    state: PlayerState = field(default_factory=PlayerState)
    # Wall clock less monotonic clock when the timeline came: the former may be set meanwhile.
    wall_ns: int = 0
    device: UUID | None = None
    remote: int | None = None  # its number at the driver that we are connected to
    refusal: DriverError | None = None  # why it has none there
    is_gone: bool = False  # unregistered, as far as we are concerned

    def set(self, state: PlayerState) -> None:
        if state.timeline is not self.state.timeline:
            self.wall_ns = _wall_ns()
        self.state = state

    def state_now(self) -> PlayerState:
        """The state, in what the wall clock says now."""
        timeline = self.state.timeline
        step_ms = round((_wall_ns() - self.wall_ns) / 1_000_000)
        if timeline is None or not step_ms:
            return self.state
        moved = replace(timeline, update_unix_ms=timeline.update_unix_ms + step_ms)
        return replace(self.state, timeline=moved)


class IpcDriver:
    """The driver behind a socket, with the methods that the driver has.

    endpoint: the socket; without it, what `endpoints` finds, anew for each attempt to connect.
    timeout: the seconds that a call may take, with all that it waits for.

    A player is a number, one that this IpcDriver does not give again. Mostly it is the number
    that the driver itself knows the player by; after a restart of the driver it is another one.
    Players of others have numbers, too, which are good until the driver restarts.
    """

    def __init__(self, endpoint: str | None = None, *, timeout: float = REQUEST_SECONDS) -> None:
        self.timeout = timeout
        self._endpoint = endpoint
        self._backoff = Backoff()
        self._link: _Link | None = None  # connected; all players are registered if it is ready
        self._ready = asyncio.Event()  # or it has failed
        self._failure: BusworkError | None = None  # why it will never connect again
        self._keeper: asyncio.Task[None] | None = None
        self._places = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._players: dict[int, _Player] = {}
        # Numbers: those of others' players, as they are here and as they are there; the largest
        # one of ours that is the driver's, too; the next one that is not.
        self._foreign: dict[int, int] = {}
        self._highest = 0
        self._from_top = MAX_ID

    # -- opening and closing -------------------------------------------------------------------

    async def open(self) -> None:
        """Connects; Disconnected or WrongVersion if that is not possible now.

        Connections that are lost later are replaced for as long as this is not closed.
        """
        self._check_unopened()
        link = await self._connect()
        self._hold(link)
        self._ready.set()
        self._keeper = asyncio.create_task(self._keep(link))

    def start(self) -> None:
        """The same for those who can wait: connects as soon as there is a driver."""
        self._check_unopened()
        self._keeper = asyncio.create_task(self._keep(None))

    async def close(self) -> None:
        """Leaves the driver, which forgets our players; what waits fails with Disconnected."""
        self._fail(Disconnected("this driver was closed"))
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def is_connected(self) -> bool:
        """Whether there is a driver now that has all of our players."""
        return self._link is not None and self._ready.is_set()

    async def wait_connected(self) -> None:
        """Waits for that, however long it takes."""
        while not self.is_connected:
            await self._ready.wait()
            if self._failure is not None:
                raise self._failure

    async def wait_disconnected(self) -> None:
        """Waits until the driver is gone, if there is one."""
        if self._link is not None:
            await asyncio.shield(self._link.lost)

    def _check_unopened(self) -> None:
        if self._keeper is not None or self._failure is not None:
            raise RuntimeError("an IpcDriver is opened once")

    def _fail(self, failure: BusworkError) -> None:
        if self._failure is None:
            self._failure = failure
        link, self._link = self._link, None
        self._ready.set()
        if link is not None:
            link.close()

    # -- connecting, again and again -----------------------------------------------------------

    async def _connect(self) -> _Link:
        failure = Disconnected("there is no socket of a driver")
        for path in [self._endpoint] if self._endpoint is not None else endpoints():
            try:
                return await _Link.open(path)
            except WrongVersion:
                raise
            except BusworkError as error:
                failure = Disconnected(str(error))
        raise failure

    def _hold(self, link: _Link) -> None:
        self._link = link
        link.on_lost = self._lose

    def _lose(self) -> None:
        """The connection is gone, and with it all numbers that the driver gave."""
        if self._failure is not None:
            return
        self._link = None
        self._ready.clear()
        self._foreign.clear()
        for player in self._players.values():
            player.remote = player.refusal = None

    async def _keep(self, link: _Link | None) -> None:
        while True:
            try:
                link = link or await self._reconnect()
            except WrongVersion as error:
                log.error("%s", error)
                self._fail(error)
                return
            except BusworkError as error:
                log.debug("%s", error)
            if link is not None:
                since = time.monotonic()
                await self._until_lost(link)
                log.info("the connection to the driver is gone")
                if time.monotonic() - since >= GOOD_SECONDS:
                    self._backoff.reset()
                link = None
            await asyncio.sleep(self._backoff.next())

    async def _until_lost(self, link: _Link) -> None:
        """Meanwhile, players that the driver did not take are offered again."""
        while not link.lost.done():
            refused = [player for player in self._players.values() if player.refusal is not None]
            await asyncio.wait([link.lost], timeout=REFUSED_SECONDS if refused else None)
            for player in refused:
                if player.refusal is not None and not player.is_gone:
                    with contextlib.suppress(Disconnected):
                        await self._restore(link, player, {})

    async def _reconnect(self) -> _Link:
        link = await self._connect()
        self._hold(link)
        try:
            async with asyncio.timeout(self.timeout):
                await self._replay(link)
        except TimeoutError:
            link.close()
            raise TimedOut("the driver did not take our players back in time") from None
        except BaseException:
            link.close()
            raise
        self._ready.set()
        log.info("connected to the driver")
        return link

    # -- after a restart -----------------------------------------------------------------------

    async def _replay(self, link: _Link) -> None:
        """Has the driver know all that the one before it knew of us."""
        sent: dict[_Player, PlayerState] = {}
        players = [player for player in self._players.values() if not player.is_gone]
        await asyncio.gather(*(self._restore(link, player, sent) for player in players))
        # What has changed meanwhile was only noted.
        while behind := [player for player in sent if sent[player] is not player.state]:
            await asyncio.gather(*(self._restore_state(link, player, sent) for player in behind))

    async def _restore(
        self, link: _Link, player: _Player, sent: dict[_Player, PlayerState]
    ) -> None:
        try:
            async with self._places:
                player.remote = await link.request("register_player", [player.self_id])
        except DriverError as error:
            if player.refusal is None:
                log.warning("the driver does not take %r again: %s", player.self_id, error)
            player.refusal = error
            return
        player.refusal = None
        if player.is_gone:
            link.unregister(player.remote)
            return
        if player.device is not None:
            await self._retry(link, "assign_player_to_device", player.remote, player.device)
        await self._restore_state(link, player, sent)

    async def _restore_state(
        self, link: _Link, player: _Player, sent: dict[_Player, PlayerState]
    ) -> None:
        sent[player] = player.state
        if not player.is_gone:
            await self._retry(link, "update_player_state", player.remote, player.state_now())

    async def _retry(self, link: _Link, method: str, *args: Any) -> None:
        """What was allowed once may be forbidden now; the rest has to go on."""
        try:
            async with self._places:
                await link.request(method, methods.encode_params(*args))
        except DriverError as error:
            log.warning("the driver refuses %s after its restart: %s", method, error)

    # -- numbers of players --------------------------------------------------------------------

    def _new_handle(self, remote: int) -> int:
        """For a player of ours: the driver's number, unless it may have been given here before."""
        if remote > self._highest and remote not in self._foreign:
            self._highest = remote
            return remote
        return self._next_from_top()

    def _next_from_top(self) -> int:
        while self._from_top in self._players or self._from_top in self._foreign:
            self._from_top -= 1
        self._from_top -= 1
        return self._from_top + 1

    def _handle(self, remote: int) -> int:
        """The number here of a player that the driver told us of."""
        for numbers in (self._ours(), self._foreign.items()):
            for handle, there in numbers:
                if there == remote:
                    return handle
        handle = self._next_from_top() if remote in self._players else remote
        self._foreign[handle] = remote
        return handle

    def _ours(self) -> Iterator[tuple[int, int | None]]:
        return ((handle, player.remote) for handle, player in self._players.items())

    def _remote(self, handle: int) -> int:
        """The number at the driver; one that is not known here may be one there all the same."""
        player = self._players.get(handle)
        if player is None:
            return self._foreign.get(handle, handle)
        if player.remote is None:
            raise player.refusal or Disconnected("the connection to the driver is gone")
        return player.remote

    # -- asking --------------------------------------------------------------------------------

    async def _ask(
        self,
        method: str,
        *args: Any,
        handle: int | None = None,
        undo: Undo | None = None,
        over: _Link | None = None,
    ) -> tuple[_Link, Any]:
        """The driver's answer and whose it is; when a driver goes, the next one is asked.

        over: only over this connection, for what the next one gets in another way.
        """
        try:
            async with asyncio.timeout(self.timeout):
                while True:
                    try:
                        return await self._ask_once(method, args, handle, undo, over)
                    except Disconnected:
                        if self._failure is not None:
                            raise self._failure from None
                        if over is not None:
                            raise
        except TimeoutError:
            why = "did not answer" if self.is_connected else "is not there to answer"
            text = f"the driver {why} {method}, for {self.timeout:g} s"
            raise TimedOut(text) from None

    async def _ask_once(
        self,
        method: str,
        args: tuple[Any, ...],
        handle: int | None,
        undo: Undo | None,
        over: _Link | None,
    ) -> tuple[_Link, Any]:
        if self._keeper is None:
            raise RuntimeError("this IpcDriver was not opened")
        await self.wait_connected()
        async with self._places:
            link = self._link
            if link is None or not self.is_connected or over not in (None, link):
                raise Disconnected("the connection to the driver is gone")
            ids = () if handle is None else (self._remote(handle),)
            params = methods.encode_params(*ids, *args)
            return link, await link.request(method, params, undo)

    async def _update(
        self, handle: int, method: str, value: tuple[Any, ...], state: Callable[[PlayerState], Any]
    ) -> None:
        """Alters a player's state here and at the driver."""
        player = self._players.get(handle)
        if player is None:
            await self._ask(method, *value, handle=handle)
            return
        if self._failure is not None:
            raise self._failure
        player.set(state(player.state))
        if not self.is_connected:
            return  # the next driver gets it
        try:
            await self._ask(method, *value, handle=handle, over=self._link)
        except Disconnected:
            if self._failure is not None:
                raise

    # -- the driver's methods ------------------------------------------------------------------

    async def get_protocol_version(self) -> ProtocolVersion:
        """The driver's; that its major is ours was seen to when connecting."""
        _, version = await self._ask("get_protocol_version")
        assert isinstance(version, ProtocolVersion)
        return version

    async def register_player(self, self_id: str) -> int:
        """A new player, by the name that it is remembered by; the number that stands for it."""
        self_id = _checked(checks.self_id, self_id)
        while True:
            link, remote = await self._ask("register_player", self_id, undo=self._unregister_late)
            if link is self._link:
                break
        handle = self._new_handle(remote)
        self._players[handle] = _Player(self_id, remote=remote)
        return handle

    def _unregister_late(self, remote: Any) -> None:
        """For a player whose asker is gone."""
        if self._link is not None:
            self._link.unregister(remote)

    async def unregister_player(self, player: int) -> None:
        """After TimedOut it may be asked for again; the next driver does not get the player."""
        own = self._players.get(player)
        if own is None:
            await self._ask("unregister_player", handle=player)
            return
        own.is_gone = True
        if self._link is not None and own.remote is not None:  # else it went with the connection
            try:
                await self._ask("unregister_player", own.remote, over=self._link)
            except Disconnected:
                pass
            except DriverError:
                # It is no player of ours any more; its number is good for as long as that one.
                if self._players.pop(player, None) is not None and own.remote not in (None, player):
                    self._foreign[player] = own.remote
                raise
        self._players.pop(player, None)

    async def assign_player_to_device(self, player: int, device: UUID | str | bytes) -> None:
        """Has a device show this player first; the device need not be there yet."""
        device_id = _checked(checks.device_id, device)
        await self._ask("assign_player_to_device", device_id, handle=player)
        if player in self._players:
            self._players[player].device = device_id

    async def unassign_player_from_device(self, player: int, device: UUID | str | bytes) -> None:
        device_id = _checked(checks.device_id, device)
        await self._ask("unassign_player_from_device", device_id, handle=player)
        if player in self._players:
            self._players[player].device = None

    async def update_player_state(
        self, player: int, state: PlayerState | Mapping[str, Any]
    ) -> None:
        """All at once: status, timeline and texts."""
        checked = _checked(checks.player_state, methods.plain(state))
        checked = replace(checked, texts=_cut_texts(checked.texts))
        await self._update(player, "update_player_state", (checked,), lambda _: checked)

    async def update_player_status(self, player: int, status: Status | int) -> None:
        checked = _checked(checks.status, status)
        await self._update(
            player, "update_player_status", (checked,), lambda state: replace(state, status=checked)
        )

    async def update_player_timeline(
        self, player: int, timeline: Timeline | Mapping[str, Any] | None
    ) -> None:
        """Where the track is; None: it is not known, or there is none."""
        checked = _checked(checks.timeline, methods.plain(timeline))
        await self._update(
            player,
            "update_player_timeline",
            (checked,),
            lambda state: replace(state, timeline=checked),
        )

    async def update_player_metadata(
        self, player: int, text_id: TextId | int, text: str | None
    ) -> None:
        """One text of the track; None: it has none."""
        which = _checked(checks.text_id, text_id)
        checked = _cut(_checked(checks.text, text))
        await self._update(
            player,
            "update_player_metadata",
            (which, checked),
            lambda state: replace(state, texts=state.texts.with_text(which, checked)),
        )

    async def set_preferred_player(self, player: int | None) -> None:
        """The player that devices show which none is assigned to; None: no such player."""
        _checked(checks.optional_player_id, player)
        if player is None:
            await self._ask("set_preferred_player", None)
        else:
            await self._ask("set_preferred_player", handle=player)

    async def get_preferred_player(self) -> int | None:
        """It may be a player of somebody else."""
        while True:
            link, remote = await self._ask("get_preferred_player")
            if remote is None:
                return None
            if link is self._link:
                return self._handle(remote)

    async def get_player_assigned_device(self, player: int) -> UUID | None:
        _, device = await self._ask("get_player_assigned_device", handle=player)
        assert device is None or isinstance(device, UUID)
        return device


def _checked(check: Callable[[Any], T], value: Any) -> T:
    try:
        return check(value)
    except BadValue as error:
        raise InvalidArgs(str(error)) from None


def _cut(text: str | None) -> str | None:
    """What no display can show is not sent: it might not fit into a message."""
    if text is None or 4 * len(text) <= MAX_TEXT_BYTES:
        return text
    return text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")


def _cut_texts(texts: Texts) -> Texts:
    return Texts(**{name: _cut(getattr(texts, name)) for name in TRACK_TEXTS})


def _wall_ns() -> int:
    return time.time_ns() - time.monotonic_ns()

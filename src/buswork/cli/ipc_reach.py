"""Where the commands of `buswork ipc` find services, and have their own.

First the run directories, as any program of the user's would; what the user may not do there, or is
not there, is asked of busworkd, but only if it runs: a name that was mistyped starts no daemon.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import stat
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Protocol, Self

from buswork.cli.ipc_parser import FORMS
from buswork.client import BusworkError, Client
from buswork.client.libipc import Connected, Disconnected, Received, ServiceFacts
from buswork.client.libipc import Service as DaemonService
from buswork.libipc import Connected as Accepted
from buswork.libipc import Connection, Context, Form, Message, RunDir, Service
from buswork.libipc import Disconnected as Ended
from buswork.libipc import Received as Came
from buswork.libipc.errors import NoSuchService, NotAllowed, PeerGone
from buswork.libipc.errors import named as named_error
from buswork.libipc.library.rundirs import DEFAULTS, VARIABLES
from buswork.libipc.native.unix_sockets import File, all_sockets
from buswork.libipc.wire.forms import BadMessage

# How long a client may leave all that was sent to it unread, before others suffer from it.
PATIENCE_SECONDS = 2.0
GONE = ("org.libipc.Error.PeerGone", "org.libipc.Error.NoSuchClient")
Event = Connected | Received | Disconnected


class Served(Protocol):
    """A service of ours, in a run directory or by the daemon."""

    name: str
    form: Form

    def events(self) -> AsyncIterator[Event]: ...

    async def send(self, client: int, payload: bytes, user_type: int) -> None:
        """In order; one that has gone gets nothing. PeerGone: it does not read, and was let go."""

    async def settle(self) -> None:
        """Waits until clients have read what was sent, if that does not take long."""


def rundirs(form: Form) -> list[RunDir]:
    named = os.environ.get(VARIABLES[form])
    places = (named,) if named else DEFAULTS[form]
    return [RunDir.of(place, form) for place in places]


def named(word: str, options: argparse.Namespace) -> tuple[list[Form], str]:
    """The forms that are meant, the first one first, and the name; c:NAME says the form."""
    if options.form is not None:
        return [Form(options.form)], word
    before, _, name = word.partition(":")
    if before in FORMS and name:
        return [Form(before)], name
    return [Form(form) for form in FORMS], word


class Reach:
    """For one command; all that it opened goes with it."""

    def __init__(self, client: Client, options: argparse.Namespace) -> None:
        self._client = client
        self._options = options
        self._stack = contextlib.AsyncExitStack()
        self._contexts: dict[RunDir, Context] = {}
        self._is_open = False
        self._is_told_to_end = False

    async def __aenter__(self) -> Self:
        # Or the socket of a service would stay.
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._end, task)
        return self

    def _end(self, task: asyncio.Task[Any]) -> None:
        """Once: what is closed then is closed to its end."""
        if not self._is_told_to_end:
            self._is_told_to_end = True
            task.cancel()

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        was_cancelled = isinstance(error, asyncio.CancelledError)
        is_told_to_end, self._is_told_to_end = self._is_told_to_end, True
        await self._stack.aclose()
        if is_told_to_end and was_cancelled:
            raise SystemExit(128 + signal.SIGTERM) from None
        if isinstance(error, Exception) and named_error(error) is not error:
            raise named_error(error) from error

    async def daemon(self) -> Client | None:
        """The daemon, if it may be asked; NotRunning if it must be, and can't."""
        if self._options.direct:
            return None
        try:
            if not self._is_open:
                await self._stack.enter_async_context(self._client)
                self._is_open = True
        except BusworkError:
            if self._options.daemon:
                raise
            return None
        return self._client if self._options.daemon or self._client.owner else None

    async def context(self, rundir: RunDir) -> Context:
        if rundir not in self._contexts:
            self._contexts[rundir] = await self._stack.enter_async_context(Context(rundir))
        return self._contexts[rundir]

    # -- what there is -------------------------------------------------------------------------

    async def services(self) -> list[ServiceFacts]:
        if not self._options.daemon:
            try:
                return await _look()
            except PermissionError:
                if await self.daemon() is None:
                    raise
        daemon = await self.daemon()
        assert daemon is not None
        return await daemon.libipc.list()

    # -- to a service --------------------------------------------------------------------------

    async def connect(self, word: str, *, pull: bool = True) -> Connection:
        forms, name = named(word, self._options)
        refused: BusworkError = NoSuchService(f"there is no service {name}")
        if not self._options.daemon:
            for rundir in (rundir for form in forms for rundir in rundirs(form)):
                try:
                    return await (await self.context(rundir)).connect(name, pull=pull)
                except NoSuchService:
                    continue
                except NotAllowed as error:
                    refused = error
        return await self._connect_by_daemon(forms, name, refused, pull=pull)

    async def _connect_by_daemon(
        self, forms: list[Form], name: str, refused: BusworkError, *, pull: bool
    ) -> Connection:
        daemon = await self.daemon()
        if daemon is None:
            raise refused
        for form in forms:
            try:
                sock = await daemon.libipc.connect_socket(name, form=form)
            except BusworkError as error:
                if error.name != NoSuchService.name:
                    raise
            else:
                context = await self.context(rundirs(form)[0])
                return context.adopt(sock, form=form, pull=pull)
        raise refused

    # -- as a service --------------------------------------------------------------------------

    async def serve(self, word: str) -> Served:
        """In the first of the directories where the user may."""
        forms, name = named(word, self._options)
        refused: BusworkError = NotAllowed(f"there is no directory to serve {name} in")
        if not self._options.daemon:
            try:
                return Direct(await self.serve_directly(word))
            except NotAllowed as error:
                refused = error
        daemon = await self.daemon()
        if daemon is None:
            raise refused
        service = await self._stack.enter_async_context(daemon.libipc.serve(name, form=forms[0]))
        return ByDaemon(service, name, forms[0])

    async def serve_directly(self, word: str) -> Service:
        forms, name = named(word, self._options)
        rundir = rundirs(forms[0])[0]
        return await (await self.context(rundir)).serve(name)


async def _look() -> list[ServiceFacts]:
    """By the files alone: nobody is connected to."""
    sockets, found = await all_sockets(), []
    for rundir in (rundir for form in Form for rundir in rundirs(form)):
        directory = str(rundir.path)
        for name in rundir.names():
            try:
                status = rundir.path_of(name).lstat()
            except FileNotFoundError:
                continue
            state = sockets.of(File(directory, name, status.st_dev, status.st_ino))
            found.append(
                ServiceFacts(
                    name=name, form=rundir.form, directory=directory, alive=state.listens,
                    owner_uid=status.st_uid, mode=stat.S_IMODE(status.st_mode),
                    connections=state.connections, served=False,
                )
            )  # fmt: skip
    return found


class Direct:
    """A service in a run directory."""

    def __init__(self, service: Service) -> None:
        self.name = service.name
        self.form = service.context.form
        self._service = service
        self._clients: dict[int, Connection] = {}
        self._behind: dict[int, deque[Message]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def events(self) -> AsyncIterator[Event]:
        last = 0
        async for event in self._service:
            match event:
                case Accepted(connection):
                    last += 1
                    connection.data, self._clients[last] = last, connection
                    yield Connected(last, connection.peer.uid, connection.peer.pid)
                case Came(connection, message):
                    yield Received(_number(connection), message)
                case Ended(connection, _):
                    self._clients.pop(_number(connection), None)
                    yield Disconnected(_number(connection))

    async def send(self, client: int, payload: bytes, user_type: int) -> None:
        """Nothing more is read from a client that does not read what it is sent."""
        connection, message = self._clients.get(client), Message(payload, user_type)
        if connection is None:
            return
        if client in self._behind:
            self._behind[client].append(message)
            return
        try:
            connection.send_message(message)
        except PeerGone:
            return
        except BadMessage as error:
            raise named_error(error) from error
        if connection.is_full:
            connection.pause()
            self._behind[client] = deque()
            task = asyncio.create_task(self._catch_up(client, connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _catch_up(self, client: int, connection: Connection) -> None:
        """There may be messages still that were read before the pause."""
        try:
            await connection.consumed()
            while self._behind[client]:
                connection.send_message(self._behind[client].popleft())
                await connection.consumed()
            connection.resume()
        except (PeerGone, BadMessage):
            connection.close()
            self._clients.pop(client, None)
        del self._behind[client]

    async def settle(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                for connection in self._clients.values():
                    with contextlib.suppress(PeerGone):
                        await connection.consumed()


def _number(connection: Connection) -> int:
    assert isinstance(connection.data, int)
    return connection.data


class ByDaemon:
    """A service of the daemon's, which tells us what comes."""

    def __init__(self, service: DaemonService, name: str, form: Form) -> None:
        self.name = name
        self.form = form
        self._service = service

    def events(self) -> AsyncIterator[Event]:
        return aiter(self._service)

    async def send(self, client: int, payload: bytes, user_type: int) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._service.send(client, payload, user_type)
        except TimeoutError:
            await self._service.disconnect(client)
            raise PeerGone("it does not read what it is sent, and was let go") from None
        except BusworkError as error:
            if error.name not in GONE:
                raise

    async def settle(self) -> None:
        """The daemon has what was sent, and tells nobody when it was read."""

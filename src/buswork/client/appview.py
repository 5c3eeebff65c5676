"""org.appview.Inspector and .Process, typed: processes under AppView.

    for facts in await client.appview.scan():
        process = client.appview.process(facts.pid)
        await process.merge_configuration({"tags": {"team": "a"}})

It is a service of its own, org.buswork.AppView, which the first call starts where it is installed.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from buswork.bus.objects import OBJECT_MANAGER, PROPERTIES
from buswork.client.errors import (
    AccessDenied,
    BusworkError,
    Disconnected,
    InteractiveAuthorizationRequired,
    InvalidArgs,
    NoReply,
    NotRunning,
    UnknownObject,
)

if TYPE_CHECKING:
    from buswork.bus.message import Frame
    from buswork.client.connection import Client

BUS_NAME = "org.buswork.AppView"
ROOT = "/org/appview"
PROCESSES = f"{ROOT}/processes"
INSPECTOR = (ROOT, "org.appview.Inspector")
MANAGER = (ROOT, OBJECT_MANAGER)
PROCESS = "org.appview.Process"
NO_SUCH_PROCESS = "org.appview.Error.NoSuchProcess"

_OBJECTS = "a{oa{sa{sv}}}"
# Of a process that one may not look at, or that has gone meanwhile.
_HIDDEN = (AccessDenied, InteractiveAuthorizationRequired, UnknownObject)

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What there is to know of a process without asking it."""

    pid: int
    uid: int
    name: str
    command: str
    state: str  # Active, Latent, Setup or Inert
    viewed: bool
    uuid: str  # empty, as the next two, until it has answered
    id: str
    machine_id: str


class ProcessChange(NamedTuple):
    what: str  # added, changed or removed
    process: ProcessFacts  # of one that was removed: as it was


class ViewedProcess:
    """One process, by its number."""

    def __init__(self, client: Client, pid: int) -> None:
        self.pid = pid
        self.path = f"{PROCESSES}/{pid}"
        self._target = (self.path, PROCESS)
        self._client = client

    async def facts(self) -> ProcessFacts:
        return _facts(await self._client.get_all(self._target, to=BUS_NAME))

    async def _ask(self, member: str, signature: str = "", *values: Any) -> JSON:
        """What the process answers, as it wrote it."""
        _, text = await self._call(member, signature, values, returns="a{sv}s")
        answer: JSON = json.loads(text)
        return answer

    async def _call(
        self, member: str, signature: str = "", values: Sequence[Any] = (), **how: Any
    ) -> Any:
        try:
            return await self._client.call(
                self._target, member, signature, values, to=BUS_NAME, **how
            )
        except UnknownObject:
            text = f"there is no process {self.pid}, or it has not got the library"
            raise BusworkError(text, NO_SUCH_PROCESS) from None

    async def supported_commands(self) -> JSON:
        return await self._ask("GetSupportedCommands")

    async def is_viewed(self) -> bool:
        viewed: bool = (await self._ask("GetStatus"))["viewed"]
        return viewed

    async def configuration(self) -> JSON:
        current: JSON = (await self._ask("GetConfiguration"))["cfg"]["current"]
        return current

    async def set_configuration(self, configuration: str | Mapping[str, Any]) -> None:
        """All of it: what is left out goes back to its default, but for protocols."""
        await self._call("SetConfiguration", "s", (_text(configuration),))

    async def merge_configuration(self, changes: str | Mapping[str, Any]) -> JSON:
        """Only what is named; returns the configuration that it has then."""
        return await self._ask("MergeConfiguration", "s", _text(changes))

    async def transport_status(self) -> list[JSON]:
        interfaces: list[JSON] = (await self._ask("GetTransportStatus"))["interfaces"]
        return interfaces

    async def details(self) -> JSON:
        return await self._ask("GetProcessDetails")

    async def attach(self, settings: Mapping[str, str] | None = None) -> None:
        """Returns when it was done, which takes up to the period of the process (10 seconds, or
        what it is configured to); a client with a timeout gives up before."""
        await self._call("Attach", "a{ss}", (dict(settings or {}),), is_slow=True)

    async def detach(self) -> None:
        """As attach."""
        await self._call("Detach", is_slow=True)


class AppView:
    """The processes of this machine that have the library."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._on_restart: set[Callable[[], None]] = set()

    def process(self, pid: int) -> ViewedProcess:
        """Whether there is one shows when it is asked something."""
        return ViewedProcess(self._client, pid)

    async def scan(self, *, others: bool = False) -> list[ProcessFacts]:
        """Looks for processes: one's own, or those of others too."""
        member = "ScanAll" if others else "Scan"
        paths = set(await self._client.call(INSPECTOR, member, returns="ao", to=BUS_NAME))
        objects = await self._client.call(
            MANAGER, "GetManagedObjects", returns=_OBJECTS, to=BUS_NAME
        )
        found = [faces.get(PROCESS) for path, faces in objects.items() if path in paths]
        return [
            _facts({name: each.value for name, each in facts.items()}) for facts in found if facts
        ]

    @asynccontextmanager
    async def watch(self, *, others: bool = False) -> AsyncIterator[AsyncIterator[ProcessChange]]:
        """Those that are there, as added, and then whatever changes; it ends with the service."""
        client, waiting = self._client, _Waiting()

        def removed(frame: Frame) -> None:
            if frame.header.signature == "oas":
                waiting.put(frame.values()[0])

        def added(frame: Frame) -> None:
            if frame.header.signature == "oa{sa{sv}}":
                waiting.put(frame.values()[0])

        def changed(frame: Frame) -> None:
            waiting.put(frame.header.path or "")

        def restarted() -> None:
            waiting.end(_ended())

        def closed(_: object) -> None:
            waiting.end(Disconnected("the connection to the bus is gone"))

        async with AsyncExitStack() as stack:
            await client.track(BUS_NAME, self._owner_changed)
            for signal, callback in (
                ((OBJECT_MANAGER, "InterfacesAdded"), added),
                ((OBJECT_MANAGER, "InterfacesRemoved"), removed),
                ((PROPERTIES, "PropertiesChanged"), changed),
            ):
                stack.callback(client.hear(signal, callback, sender=BUS_NAME))
            rule = f"type='signal',sender='{BUS_NAME}',path_namespace='{ROOT}'"
            await client.match(rule)
            stack.callback(client.connection.remove_match, rule)
            client.connection.closed.add_done_callback(closed)
            stack.callback(client.connection.closed.remove_done_callback, closed)
            there = await self.scan(others=others)
            self._on_restart.add(restarted)
            stack.callback(self._on_restart.discard, restarted)
            yield self._changes(waiting, there, None if others else os.geteuid())

    def _owner_changed(self) -> None:
        for told in [*self._on_restart]:
            told()

    async def _changes(
        self, waiting: _Waiting, there: list[ProcessFacts], uid: int | None
    ) -> AsyncIterator[ProcessChange]:
        known = {facts.pid: facts for facts in there}
        for facts in there:
            yield ProcessChange("added", facts)
        while True:
            pid = int((await waiting.next()).rpartition("/")[2])
            before, now = known.pop(pid, None), await self._look(pid, uid)
            if now is not None:
                known[pid] = now
            if now is None and before is not None:
                yield ProcessChange("removed", before)
            elif now is not None and now != before:
                yield ProcessChange("added" if before is None else "changed", now)

    async def _look(self, pid: int, uid: int | None) -> ProcessFacts | None:
        try:
            facts = await self.process(pid).facts()
        except _HIDDEN:
            return None
        except NotRunning:
            raise _ended() from None
        return facts if uid in (None, facts.uid) else None


class _Waiting:
    """Paths of processes of which there is news, each once, and what ends them."""

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}
        self._end: BusworkError | None = None
        self._news = asyncio.Event()

    def put(self, path: str) -> None:
        if path.startswith(f"{PROCESSES}/"):
            self._paths[path] = None
            self._news.set()

    def end(self, error: BusworkError) -> None:
        self._end = error
        self._news.set()

    async def next(self) -> str:
        while not self._paths and self._end is None:
            self._news.clear()
            await self._news.wait()
        if self._end is not None:
            raise self._end
        path = next(iter(self._paths))
        del self._paths[path]
        return path


def _ended() -> NoReply:
    return NoReply(f"{BUS_NAME} has ended")


def _text(configuration: str | Mapping[str, Any]) -> str:
    if isinstance(configuration, str):
        return configuration
    try:
        return json.dumps(configuration, default=dict)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgs(f"the configuration can't be said in JSON: {error}") from None


def _facts(facts: Mapping[str, Any]) -> ProcessFacts:
    if not facts:
        raise AccessDenied("it is a process of somebody else")
    return ProcessFacts(
        facts["Pid"],
        facts["Uid"],
        facts["Name"],
        facts["Command"],
        facts["State"],
        facts["Viewed"],
        facts["Uuid"],
        facts["Id"],
        facts["MachineId"],
    )

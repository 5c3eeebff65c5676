"""org.appview.Inspector and .Process: calls become requests, changes become signals."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from buswork.appview.model import Added, Asker, Change, Changed, Process, Processes, Removed
from buswork.appview.wire import requests
from buswork.appview.wire.requests import JSON, Request
from buswork.bus.caller import Call
from buswork.bus.export import Edge
from buswork.bus.library import Variant, variant
from buswork.bus.objects import Face, Values

ROOT = "/org/appview"
INSPECTOR = "org.appview.Inspector"
PROCESS = "org.appview.Process"

# A process that belongs to no user but root; what is nobody's would be everybody's.
NOBODYS = -1
_INT64 = 1 << 63


class Inspector(Protocol):
    """Who asks processes; the native room does."""

    @property
    def unreadable(self) -> int: ...

    async def scan(self, uid: int, *, of_all: bool) -> None: ...

    def owner(self, process: Process) -> int | None: ...

    async def ask(self, process: Process, asker: Asker, request: Request) -> JSON: ...

    async def set_configuration(self, process: Process, asker: Asker, text: str) -> None: ...

    async def merge_configuration(self, process: Process, asker: Asker, text: str) -> JSON: ...

    async def attach(self, process: Process, asker: Asker, settings: dict[str, str]) -> None: ...

    async def detach(self, process: Process, asker: Asker) -> None: ...


Answer = tuple[dict[str, Variant], str]
Telling = Coroutine[Any, Any, None]
Answering = Coroutine[Any, Any, Answer]


def process_path(process: Process) -> str:
    return f"{ROOT}/processes/{process.pid}"


class InspectorFace(Face):
    interface = INSPECTOR

    def __init__(self, known: Processes, inspector: Inspector, conversations: int) -> None:
        self._known = known
        self._inspector = inspector
        self.conversations = conversations

    @property
    def unreadable(self) -> int:
        return self._inspector.unreadable

    @property
    def left_out(self) -> int:
        return len(self._known.left_out)

    async def scan(self, call: Call) -> list[str]:
        await self._inspector.scan(call.uid, of_all=False)
        processes = self._known.by_pid.values()
        return [process_path(each) for each in processes if each.owner == call.uid]

    async def scan_all(self, call: Call) -> list[str]:
        await self._inspector.scan(call.uid, of_all=True)
        return [process_path(each) for each in self._known.by_pid.values()]


class ProcessFace(Face):
    """No handler of a method is a coroutine itself: whether a caller is the owner of the process is
    noted in the moment of the call, in which it was found that he may."""

    interface = PROCESS

    def __init__(self, process: Process, inspector: Inspector, saying: asyncio.Lock) -> None:
        """saying: of all processes, one answer at a time is made into D-Bus's values: between two,
        others have their turn."""
        self._process = process
        self._inspector = inspector
        self._saying = saying
        self.pid = process.pid

    def owner_uid(self, path: str, values: Values) -> int | None:
        """As it is now: a program may be replaced by one with other rights."""
        owner = self._inspector.owner(self._process)
        return NOBODYS if owner is None else owner

    # -- asking --------------------------------------------------------------------------------

    def get_supported_commands(self, call: Call) -> Answering:
        return self._asked(call, requests.SUPPORTED)

    def get_status(self, call: Call) -> Answering:
        return self._asked(call, requests.STATUS)

    def get_configuration(self, call: Call) -> Answering:
        return self._asked(call, requests.GET_CONFIGURATION)

    def get_transport_status(self, call: Call) -> Answering:
        return self._asked(call, requests.TRANSPORTS)

    def get_process_details(self, call: Call) -> Answering:
        return self._asked(call, requests.DETAILS)

    def _asked(self, call: Call, request: Request) -> Answering:
        asker = self._process.asker(call.uid)
        return self._answered(partial(self._inspector.ask, self._process, asker, request))

    async def _answered(self, ask: Callable[[], Coroutine[Any, Any, JSON]]) -> Answer:
        answer = await ask()
        async with self._saying:
            await asyncio.sleep(0)
            values = {_text(name): _value(value) for name, value in answer.items()}
            return values, _text(json.dumps(answer, separators=(",", ":"), ensure_ascii=False))

    # -- changing ------------------------------------------------------------------------------

    def set_configuration(self, call: Call, text: str) -> Telling:
        asker = self._process.asker(call.uid)
        return self._inspector.set_configuration(self._process, asker, text)

    def merge_configuration(self, call: Call, text: str) -> Answering:
        asker = self._process.asker(call.uid)
        merge = self._inspector.merge_configuration
        return self._answered(partial(merge, self._process, asker, text))

    def attach(self, call: Call, settings: dict[str, str]) -> Telling:
        return self._inspector.attach(self._process, self._process.asker(call.uid), settings)

    def detach(self, call: Call) -> Telling:
        return self._inspector.detach(self._process, self._process.asker(call.uid))

    # -- properties ----------------------------------------------------------------------------

    @property
    def uid(self) -> int:
        return self._process.uid

    @property
    def name(self) -> str:
        return _text(self._process.name)

    @property
    def command(self) -> str:
        return _text(self._process.command)

    @property
    def state(self) -> str:
        return str(self._process.state)

    @property
    def viewed(self) -> bool:
        return self._process.is_viewed

    @property
    def uuid(self) -> str:
        return self._process.uuid

    @property
    def id(self) -> str:
        return self._process.id

    @property
    def machine_id(self) -> str:
        return self._process.machine_id


_PROPERTIES = {
    "uid": ("Uid",),
    "name": ("Name",),
    "command": ("Command",),
    "state": ("State", "Viewed"),
    "uuid": ("Uuid",),
    "id": ("Id",),
    "machine_id": ("MachineId",),
}


class Faces:
    """All objects of the wing: the inspector's, and one for each process."""

    def __init__(self, edge: Edge, known: Processes, inspector: Inspector, face: Face) -> None:
        self._edge = edge
        self._known = known
        self._inspector = inspector
        self._saying = asyncio.Lock()
        edge.export(ROOT, face, wing=ROOT, manager=True)
        known.on_change.append(self._changed)

    def close(self) -> None:
        self._known.on_change.remove(self._changed)
        for process in self._known.by_pid.values():
            self._edge.unexport(process_path(process))
        self._edge.unexport(ROOT)

    def _changed(self, change: Change) -> None:
        path = process_path(change.process)
        match change:
            case Added(process):
                face = ProcessFace(process, self._inspector, self._saying)
                self._edge.export(path, face, wing=ROOT)
            case Changed(_, names):
                news = [each for name in names for each in _PROPERTIES.get(name, ())]
                if news:
                    self._edge.changed(path, PROCESS, *news)
            case Removed():
                self._edge.unexport(path)


def _value(value: Any) -> Variant:
    """As D-Bus has it; what it has not is a text: JSON's nothing, and whole numbers of more than
    64 bits. How deep it goes was looked at when it was read."""
    match value:
        case bool():
            return variant("b", value)
        case int() if -_INT64 <= value < _INT64:
            return variant("x", value)
        case float():
            return variant("d", value)
        case str():
            return variant("s", _text(value))
        case list():
            return variant("av", [_value(each) for each in value])
        case dict():
            named = {_text(name): _value(each) for name, each in value.items()}
            return variant("a{sv}", named)
        case _:
            return variant("s", "" if value is None else str(value))


def _text(value: str) -> str:
    """D-Bus knows no NUL, and no halves of characters."""
    return value.replace("\0", "?").encode(errors="replace").decode()

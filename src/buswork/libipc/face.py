"""org.libipc.Hub, .Channel and .Service: calls become what the hub does, news become signals."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from buswork.bus.caller import Call
from buswork.bus.export import Edge
from buswork.bus.library import Variant, variant
from buswork.bus.objects import Face
from buswork.errors import InvalidArgs
from buswork.libipc.errors import named
from buswork.libipc.holders import CHANNEL, ROOT, SERVICE, Holders, Owned
from buswork.libipc.model.credits import MAX_CREDITS, START_CREDITS
from buswork.libipc.model.hub import Channel, Hub, Served
from buswork.libipc.model.terms import Access, ServiceFacts, Who
from buswork.libipc.wire import names
from buswork.libipc.wire.forms import Form, most_payload

HUB = "org.libipc.Hub"

# For whom something is done, of who calls.
Whose = Callable[[Call], Awaitable[Who]]


class HubFace(Face):
    interface = HUB
    start_credits = START_CREDITS
    max_credits = MAX_CREDITS

    def __init__(self, hub: Hub, holders: Holders, whose: Whose) -> None:
        self._hub = hub
        self._holders = holders
        self._whose = whose
        self.directories = [(str(form), path) for form, path in hub.directories]
        self.max_payload = {str(form): most_payload(form) for form in Form}

    async def list_services(self, call: Call) -> list[dict[str, Variant]]:
        return [_described(facts) for facts in await self._hub.services(await self._whose(call))]

    async def connect(self, call: Call, service: str, options: dict[str, Variant]) -> int:
        which = _which(service, options)
        sock = await self._hub.connect(await self._whose(call), *which)
        return sock.detach()

    async def open_channel(self, call: Call, service: str, options: dict[str, Variant]) -> str:
        which = _which(service, options)
        return await self._holders.open_channel(call, await self._whose(call), *which)

    async def serve(self, call: Call, name: str, options: dict[str, Variant]) -> str:
        access = _one_of(Access, options, "access") or Access.ALL
        which = _which(name, options)
        return await self._holders.serve(call, await self._whose(call), *which, access)

    async def dial(self, call: Call, address: str, options: dict[str, Variant]) -> int:
        form = _one_of(Form, options, "form")
        _refuse_unknown(options)
        sock = await self._hub.dial(await self._whose(call), address, form)
        return sock.detach()


class ChannelFace(Face):
    interface = CHANNEL

    def __init__(self, owned: Owned[Channel], holders: Holders) -> None:
        self._owned = owned
        self._holders = holders
        channel = owned.known
        self.service = channel.service
        self.form = str(channel.form)
        self.directory = channel.directory
        self.uid = owned.call.uid

    def send(self, call: Call, user_type: int, payload: bytes) -> None:
        self._owned.of(call).send(user_type, bytes(payload))

    def grant(self, call: Call, number: int) -> None:
        self._owned.of(call).grant(number)

    def close(self, call: Call) -> None:
        self._owned.of(call)
        self._holders.close(self._owned)

    @property
    def credits(self) -> int:
        return max(0, self._owned.known.credits)


class ServiceFace(Face):
    interface = SERVICE

    def __init__(self, owned: Owned[Served], holders: Holders) -> None:
        self._owned = owned
        self._holders = holders
        served = owned.known
        self.name = served.name
        self.form = str(served.form)
        self.directory = served.directory
        self.path = served.path
        self.access = str(served.access)
        self.uid = owned.call.uid

    def send(self, call: Call, client: int, user_type: int, payload: bytes) -> None:
        self._owned.of(call).send(client, user_type, bytes(payload))

    def disconnect(self, call: Call, client: int) -> None:
        self._owned.of(call).disconnect(client)

    def grant(self, call: Call, number: int) -> None:
        self._owned.of(call).grant(number)

    def close(self, call: Call) -> None:
        self._owned.of(call)
        self._holders.close(self._owned)

    @property
    def clients(self) -> list[tuple[int, int, int]]:
        return list(self._owned.known.clients)

    @property
    def credits(self) -> int:
        return max(0, self._owned.known.credits)


class Faces:
    """All objects of the wing: the hub's, and one for each channel and service of callers."""

    def __init__(self, edge: Edge, hub: Hub, holders: Holders, whose: Whose) -> None:
        self._edge = edge
        self._hub = hub
        self._holders = holders
        edge.export(ROOT, HubFace(hub, holders, whose), wing=ROOT)
        holders.show, holders.hide = self._show, edge.unexport
        hub.on_services_changed.append(self._changed)

    def close(self) -> None:
        self._hub.on_services_changed.remove(self._changed)
        self._holders.close_all()
        self._edge.unexport(ROOT)

    def _show(self, owned: Owned[Any]) -> None:
        face = ChannelFace if owned.interface == CHANNEL else ServiceFace
        self._edge.export(owned.path, face(owned, self._holders), wing=ROOT)

    def _changed(self) -> None:
        self._edge.emit(ROOT, HUB, "ServicesChanged")


class _Which(NamedTuple):
    """Which service is meant."""

    name: str
    form: Form | None
    directory: str | None


def _which(name: str, options: dict[str, Variant]) -> _Which:
    form = _one_of(Form, options, "form")
    directory = _text(options, "directory")
    _refuse_unknown(options)
    try:
        return _Which(names.check(name), form, directory)
    except names.BadName as error:
        raise named(error) from error


E = TypeVar("E", bound=StrEnum)


def _one_of(kind: type[E], options: dict[str, Variant], name: str) -> E | None:
    text = _text(options, name)
    try:
        return None if text is None else kind(text)
    except ValueError:
        raise InvalidArgs(f"option {name} is one of {', '.join(kind)}") from None


def _text(options: dict[str, Variant], name: str) -> str | None:
    """Takes an option out of the dictionary; whatever is left in the end is unknown."""
    option = options.pop(name, None)
    if option is None:
        return None
    if option.signature != "s":
        raise InvalidArgs(f"option {name} is of type 's', not {option.signature!r}")
    return str(option.value)


def _refuse_unknown(options: dict[str, Variant]) -> None:
    if options:
        raise InvalidArgs(f"no such option: {', '.join(sorted(options))}")


def _described(facts: ServiceFacts) -> dict[str, Variant]:
    return {
        "name": variant("s", facts.name),
        "form": variant("s", str(facts.form)),
        "directory": variant("s", facts.directory),
        "alive": variant("b", facts.alive),
        "owner_uid": variant("u", facts.owner_uid),
        "mode": variant("u", facts.mode),
        "connections": variant("u", facts.connections),
        "served": variant("b", facts.served),
    }

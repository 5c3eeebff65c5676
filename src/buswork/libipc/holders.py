"""What callers hold of the wing: channels to services, and services of their own.

Rules
* Each belongs to the one connection that made it, and goes when that leaves, or by force.
* Its owner is told what happens in the order in which it happened, and in the end that it is over.
"""

import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar

from buswork.authority import Lease, Quotas
from buswork.bus.caller import Call
from buswork.bus.ownership import Held, Holdings
from buswork.errors import Gone
from buswork.libipc.errors import NotOwner
from buswork.libipc.model.hub import Channel, Hub, Served
from buswork.libipc.model.terms import Access, ClientFacts, Who
from buswork.libipc.outboxes import Outbox, Outboxes
from buswork.libipc.wire.forms import Form

WING = "libipc"
ROOT = "/org/libipc"
CHANNEL = "org.libipc.Channel"
SERVICE = "org.libipc.Service"
TAKEN_AWAY = "it was taken away by force"

Thing = TypeVar("Thing", Channel, Served)


class Owned(Generic[Thing]):
    """A channel or a service in the hands of its owner: an object on the bus."""

    def __init__(self, path: str, interface: str, call: Call, lease: Lease) -> None:
        self.path = path
        self.interface = interface
        self.call = call  # which made it
        self.lease = lease
        self.held: Held | None = None
        self.thing: Thing | None = None
        self.outbox: Outbox | None = None
        self.is_over = False

    def of(self, call: Call) -> Thing:
        """For its owner."""
        if call.sender != self.call.sender:
            raise NotOwner(f"{self.path} is not yours")
        return self.known

    @property
    def known(self) -> Thing:
        assert self.thing is not None
        return self.thing

    def tell(self, member: str, *values: Any, **how: Any) -> None:
        if self.outbox is not None:
            self.outbox.tell(self.path, self.interface, member, *values, **how)


class _Events:
    """What happens at a service, told to its owner."""

    def __init__(self, owned: Owned[Served], end: Callable[[str], None]) -> None:
        self._tell = owned.tell
        self.ended = end

    def connected(self, client: ClientFacts) -> None:
        self._tell("Connected", *client)

    def message(self, client: int, user_type: int, payload: bytes) -> None:
        self._tell("Message", client, user_type, payload)

    def disconnected(self, client: int) -> None:
        self._tell("Disconnected", client)


class Holders:
    """All channels and services of callers."""

    def __init__(self, hub: Hub, holdings: Holdings, quotas: Quotas, outboxes: Outboxes) -> None:
        self._hub = hub
        self._holdings = holdings
        self._quotas = quotas
        self._outboxes = outboxes
        self._ids = itertools.count(1)
        self._shown: dict[str, Owned[Any]] = {}
        # Puts one on the bus, and takes it away from there.
        self.show: Callable[[Owned[Any]], None] = lambda owned: None
        self.hide: Callable[[str], None] = lambda path: None

    async def open_channel(
        self, call: Call, who: Who, name: str, form: Form | None, directory: str | None
    ) -> str:
        """The path of its object."""

        def make(owned: Owned[Channel]) -> Awaitable[Channel]:
            on_message, on_end = partial(owned.tell, "Message"), partial(self._end, owned)
            return self._hub.open_channel(who, name, form, directory, on_message, on_end)

        return await self._make(call, CHANNEL, f"a channel to {name}", make)

    async def serve(
        self,
        call: Call,
        who: Who,
        name: str,
        form: Form | None,
        directory: str | None,
        access: Access,
    ) -> str:
        """The path of its object."""

        def make(owned: Owned[Served]) -> Awaitable[Served]:
            events = _Events(owned, partial(self._end, owned))
            return self._hub.serve(who, name, form, directory, access, events)

        return await self._make(call, SERVICE, f"the service {name}", make)

    async def _make(
        self,
        call: Call,
        interface: str,
        what: str,
        make: Callable[[Owned[Thing]], Awaitable[Thing]],
    ) -> str:
        folder = "channels" if interface == CHANNEL else "services"
        lease = self._quotas.take(call.uid, "objects")
        path = f"{ROOT}/{folder}/{next(self._ids)}"
        owned: Owned[Thing] = Owned(path, interface, call, lease)
        try:
            take_away = partial(self._end, owned, TAKEN_AWAY)
            owned.held = await self._holdings.hold(call, path, WING, what, take_away)
        except BaseException:
            lease.release()
            raise
        try:
            thing = await make(owned)
        except BaseException:
            self._forget(owned)
            raise
        if owned.is_over:  # while it was made
            thing.close()
            raise Gone(call.sender)
        self._begin(owned, thing)
        return path

    def _begin(self, owned: Owned[Thing], thing: Thing) -> None:
        owned.thing = thing
        owned.outbox = self._outboxes.of(owned.call)
        owned.outbox.join(thing)
        thing.on_room = partial(owned.tell, "Drained")
        self._shown[owned.path] = owned
        self.show(owned)

    def close(self, owned: Owned[Any]) -> None:
        """Its owner wants to hear no more of it."""
        self._forget(owned)
        self._hide(owned)

    def close_all(self) -> None:
        for owned in list(self._shown.values()):
            self.close(owned)

    def _end(self, owned: Owned[Any], reason: str) -> None:
        """It is over, and once its owner knows of that, it is gone."""
        if self._forget(owned):
            owned.tell("Closed", reason, told=partial(self._hide, owned))

    def _hide(self, owned: Owned[Any]) -> None:
        if self._shown.pop(owned.path, None) is not None:
            assert owned.outbox is not None
            owned.outbox.drop(owned.path)
            self.hide(owned.path)

    def _forget(self, owned: Owned[Any]) -> bool:
        """False: it was over already."""
        if owned.is_over:
            return False
        owned.is_over = True
        if owned.thing is not None and owned.outbox is not None:
            owned.thing.close()
            owned.outbox.leave(owned.thing)
        if owned.held is not None:
            self._holdings.let_go(owned.held)
        owned.lease.release()
        return True

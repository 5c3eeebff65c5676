"""What the D-Bus objects are faces of; `native` has what does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from buswork.libipc.model.terms import Access, ClientFacts, RunDirectory, ServiceFacts, Who
from buswork.libipc.wire.forms import Form

if TYPE_CHECKING:
    import socket

OnMessage = Callable[[int, bytes], None]
OnEnd = Callable[[str], None]


class Channel(Protocol):
    """A connection to a service whose messages are told, as long as there are credits."""

    service: str
    form: Form
    directory: str
    # Called once when half of the queue is free again, after it was full.
    on_room: Callable[[], None]

    @property
    def credits(self) -> int: ...

    def send(self, user_type: int, payload: bytes) -> None:
        """In order; QueueFull, PeerGone, InvalidArgs."""

    def grant(self, number: int) -> None: ...

    def pause(self) -> None:
        """Nothing is read from the service, whatever the credits are."""

    def resume(self) -> None: ...

    def close(self) -> None:
        """Nothing is called back afterwards."""


class ServedEvents(Protocol):
    """What happens at a service of ours."""

    def connected(self, client: ClientFacts) -> None: ...

    def message(self, client: int, user_type: int, payload: bytes) -> None: ...

    def disconnected(self, client: int) -> None: ...

    def ended(self, reason: str) -> None: ...


class Served(Protocol):
    """A service of ours, for a caller. The credits are those of all clients together."""

    name: str
    form: Form
    directory: str
    path: str
    access: Access
    on_room: Callable[[int], None]

    @property
    def clients(self) -> list[ClientFacts]: ...

    @property
    def credits(self) -> int: ...

    def send(self, client: int, user_type: int, payload: bytes) -> None: ...

    def disconnect(self, client: int) -> None:
        """What it has not read yet may be lost; `disconnected` is called."""

    def grant(self, number: int) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        """Nothing is called back afterwards."""


class Hub(Protocol):
    directories: Sequence[RunDirectory]
    # Called when services may have come or gone; a few times a second at the most.
    on_services_changed: list[Callable[[], None]]

    async def services(self, who: Who) -> list[ServiceFacts]:
        """Those in directories that `who` may list."""

    async def connect(
        self, who: Who, name: str, form: Form | None = None, directory: str | None = None
    ) -> socket.socket:
        """A socket to hand out: nothing of it stays here."""

    async def dial(self, who: Who, uri: str, form: Form | None = None) -> socket.socket:
        """The same to a service behind another host's doors."""

    async def open_channel(
        self,
        who: Who,
        name: str,
        form: Form | None,
        directory: str | None,
        on_message: OnMessage,
        on_end: OnEnd,
    ) -> Channel: ...

    async def serve(
        self,
        who: Who,
        name: str,
        form: Form | None,
        directory: str | None,
        access: Access,
        events: ServedEvents,
    ) -> Served: ...

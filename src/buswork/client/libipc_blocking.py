"""Messages between programs, for the client without asyncio (buswork.client.blocking)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from buswork.client import libipc
from buswork.client.errors import Disconnected, TimedOut
from buswork.client.libipc import Event, ServiceFacts
from buswork.libipc import Form, Message, blocking
from buswork.libipc.errors import PeerGone

if TYPE_CHECKING:
    import socket

    from buswork.client.blocking import Client

T = TypeVar("T")
Owned = TypeVar("Owned", libipc.Channel, libipc.Service)


class _Thing(Generic[Owned]):
    _inner: Owned

    def __init__(self, client: Client, inner: Owned) -> None:
        self.path = inner.path
        self._client = client
        self._inner = inner

    def __iter__(self) -> Self:
        return self

    def _wait(self, coroutine: Coroutine[Any, Any, T], seconds: float | None) -> T:
        async def wait() -> T:
            try:
                async with asyncio.timeout(seconds):
                    return await coroutine
            except TimeoutError:
                raise TimedOut(f"nothing came in {seconds:g} s") from None

        return self._client.run(wait())


class Channel(_Thing[libipc.Channel]):
    """Messages to a service and from it, by the daemon's hands; iterate, or `receive`."""

    def send(self, payload: bytes, user_type: int = 0) -> None:
        self._client.run(self._inner.send(payload, user_type))

    def receive(self, timeout: float | None = None) -> Message:
        """PeerGone when there is nothing more to come, TimedOut when nothing comes in time."""
        return self._wait(self._inner.receive(), timeout)

    def __next__(self) -> Message:
        try:
            return self.receive()
        except PeerGone:
            raise StopIteration from None


class Service(_Thing[libipc.Service]):
    """A service whose clients are those of any other; iterate over what happens there."""

    def send(self, client: int, payload: bytes, user_type: int = 0) -> None:
        self._client.run(self._inner.send(client, payload, user_type))

    def disconnect(self, client: int) -> None:
        self._client.run(self._inner.disconnect(client))

    def socket_path(self) -> str:
        return self._client.run(self._inner.socket_path())

    def next_event(self, timeout: float | None = None) -> Event:
        """PeerGone when there is nothing more to come, TimedOut when nothing comes in time."""
        return self._wait(self._inner.next_event(), timeout)

    def __next__(self) -> Event:
        try:
            return self.next_event()
        except PeerGone:
            raise StopIteration from None


class LibIpc:
    """The services of this machine, and new ones."""

    def __init__(self, client: Client, inner: libipc.LibIpc) -> None:
        self._client = client
        self._inner = inner

    @contextmanager
    def connect(
        self, name: str, *, form: str | None = None, directory: str | None = None
    ) -> Iterator[blocking.Connection]:
        """A connection of your own, which outlives this client."""
        run, inner = self._client.run, self._inner
        spoken = form or run(inner.form_of(name, directory))
        sock = self.connect_socket(name, form=form, directory=directory)
        with blocking.Context(form=Form(spoken)) as context:
            yield context.adopt(sock, pull=True)

    def connect_socket(
        self, name: str, *, form: str | None = None, directory: str | None = None
    ) -> socket.socket:
        """A connected socket, for you to close."""
        wanted = self._inner.connect_socket(name, form=form, directory=directory)
        return self._client.run(wanted)

    def dial_socket(self, address: str, *, form: str | None = None) -> socket.socket:
        """The same to a service of another machine, tcp://HOST:PORT/SERVICE."""
        return self._client.run(self._inner.dial_socket(address, form=form))

    @contextmanager
    def channel(
        self, name: str, *, form: str | None = None, directory: str | None = None
    ) -> Iterator[Channel]:
        """A connection that needs no socket."""
        with self._entered(self._inner.channel(name, form=form, directory=directory)) as channel:
            yield Channel(self._client, channel)

    @contextmanager
    def serve(
        self,
        name: str,
        *,
        form: str | None = None,
        directory: str | None = None,
        access: str | None = None,
    ) -> Iterator[Service]:
        """A service of this name. access: `own` lets in your own programs alone."""
        wanted = self._inner.serve(name, form=form, directory=directory, access=access)
        with self._entered(wanted) as service:
            yield Service(self._client, service)

    @contextmanager
    def _entered(self, inner: AbstractAsyncContextManager[T]) -> Iterator[T]:
        async def enter() -> T:
            return await inner.__aenter__()

        async def leave() -> None:
            await inner.__aexit__(None, None, None)

        entered = self._client.run(enter())
        try:
            yield entered
        finally:
            with suppress(Disconnected):  # closing the client has ended it
                self._client.run(leave())

    def on_services_changed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls back in the client's thread; what is returned ends that."""
        end = self._client.run(self._inner.on_services_changed(callback))

        async def end_in_thread() -> None:
            end()

        return lambda: self._client.run(end_in_thread())

    def list(self) -> list[ServiceFacts]:
        return self._client.run(self._inner.list())

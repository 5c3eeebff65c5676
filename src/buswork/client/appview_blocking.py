"""The processes under AppView, for the client without asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from buswork.client import appview
from buswork.client.appview import JSON, ProcessChange, ProcessFacts
from buswork.client.errors import Disconnected

if TYPE_CHECKING:
    from buswork.client.blocking import Client


class AppView:
    """The processes of this machine that have the library."""

    def __init__(self, client: Client, inner: appview.AppView) -> None:
        self._client = client
        self._inner = inner

    def process(self, pid: int) -> ViewedProcess:
        return ViewedProcess(self._client, self._inner.process(pid))

    def scan(self, *, others: bool = False) -> list[ProcessFacts]:
        return self._client.run(self._inner.scan(others=others))

    def watch(self, *, others: bool = False) -> Changes:
        return Changes(self._client, self._inner.watch(others=others))


class ViewedProcess:
    """One process, by its number."""

    def __init__(self, client: Client, inner: appview.ViewedProcess) -> None:
        self.pid = inner.pid
        self._client = client
        self._inner = inner

    def facts(self) -> ProcessFacts:
        return self._client.run(self._inner.facts())

    def supported_commands(self) -> JSON:
        return self._client.run(self._inner.supported_commands())

    def is_viewed(self) -> bool:
        return self._client.run(self._inner.is_viewed())

    def configuration(self) -> JSON:
        return self._client.run(self._inner.configuration())

    def set_configuration(self, configuration: str | Mapping[str, Any]) -> None:
        self._client.run(self._inner.set_configuration(configuration))

    def merge_configuration(self, changes: str | Mapping[str, Any]) -> JSON:
        return self._client.run(self._inner.merge_configuration(changes))

    def transport_status(self) -> list[JSON]:
        return self._client.run(self._inner.transport_status())

    def details(self) -> JSON:
        return self._client.run(self._inner.details())

    def attach(self, settings: Mapping[str, str] | None = None) -> None:
        self._client.run(self._inner.attach(settings))

    def detach(self) -> None:
        self._client.run(self._inner.detach())


class Changes:
    """Changes of processes, to be iterated over inside `with`."""

    def __init__(
        self, client: Client, inner: AbstractAsyncContextManager[AsyncIterator[ProcessChange]]
    ) -> None:
        self._client = client
        self._inner = inner

    def __enter__(self) -> Iterator[ProcessChange]:
        changes = self._client.run(self._entered())
        return iter(lambda: self._client.run(_next(changes)), None)

    def __exit__(self, *_: object) -> None:
        try:
            self._client.run(self._left())
        except Disconnected:
            pass  # closing the client has ended them

    async def _entered(self) -> AsyncIterator[ProcessChange]:
        return await self._inner.__aenter__()

    async def _left(self) -> None:
        await self._inner.__aexit__(None, None, None)


async def _next(changes: AsyncIterator[ProcessChange]) -> ProcessChange:
    return await anext(changes)

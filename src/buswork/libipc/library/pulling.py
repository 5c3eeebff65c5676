"""Messages one by one, for who asks for the next: nothing is read before that."""

import asyncio
from collections import deque
from typing import Protocol

from buswork.libipc.errors import PeerGone
from buswork.libipc.wire.forms import Message


class Source(Protocol):
    """What an inbox needs of its connection."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Inbox:
    """Of a connection; one task at a time waits for it."""

    __slots__ = ("_end", "_messages", "_only_looks", "_source", "_waiter")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._messages: deque[Message] = deque()
        self._end: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._only_looks = False

    async def message(self) -> Message:
        while not self._messages:
            await self._wait()
        return self._messages.popleft()

    async def readable(self) -> None:
        """Until there is something to read; it is left there."""
        self._only_looks = True
        try:
            await self._wait()
        finally:
            self._only_looks = False
        if self._end is not None:
            raise self._end.with_traceback(None)  # or it kept all that it was raised by

    def expect_whole(self, waiting: int) -> None:
        """What comes next must not belong to what came before."""
        if waiting or self._messages:
            raise RuntimeError("messages come first")

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("another task waits for this connection")
        if self._end is not None:
            raise self._end.with_traceback(None)  # or it kept all that it was raised by
        self._waiter = asyncio.get_running_loop().create_future()
        self._source.resume()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def give_up(self) -> list[Message]:
        """What nobody has asked for, which is for another one now."""
        messages = list(self._messages)
        self._messages.clear()
        self.disconnected(PeerGone("its messages go elsewhere"))
        return messages

    # -- for the connection --------------------------------------------------------------------

    def takes(self) -> bool:
        """Whether to read what has come; if not, it is asked no more until somebody waits."""
        if self._waiter is None or self._waiter.done():
            self._source.pause()
            return False
        if self._only_looks:
            self._source.pause()
            self._wake()
            return False
        return True

    def received(self, message: Message) -> None:
        self._messages.append(message)
        self._wake()

    def room(self) -> None: ...

    def disconnected(self, error: Exception | None) -> None:
        if self._end is None:
            self._end = error or PeerGone("the connection is closed")
        self._wake()

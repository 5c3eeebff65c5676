"""Names that clients connect to."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from buswork.libipc.library.events import Event
from buswork.libipc.library.rundirs import Place
from buswork.libipc.library.shared import Shared

if TYPE_CHECKING:
    from buswork.libipc.library.contexts import Context

# Connections that are accepted before others have their turn.
TURN_CONNECTIONS: Final = 16
# How long none is accepted when no descriptor is left.
PAUSE_SECONDS: Final = 0.2
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Service:
    """A name that clients connect to; iterating gives the events of its context."""

    def __init__(self, context: "Context", place: Place, shared: Shared) -> None:
        self.context = context
        self.name = place.path.name
        self._place = place
        self._shared = shared
        self._is_closed = False
        self._pause: asyncio.TimerHandle | None = None
        self.listen()

    @property
    def path(self) -> Path:
        return self._place.path

    def close(self) -> None:
        """No more clients; the ones that are there stay."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._stop_listening()
        self._place.close()
        self.context.left(self)

    def __aiter__(self) -> AsyncIterator[Event]:
        return aiter(self.context)

    def listen(self) -> None:
        """Goes on, if it had to stop."""
        self._pause = None
        fd = self._place.sock.fileno()
        if not self._is_closed and fd not in self._shared.reading:
            self._shared.reading.read(fd, self._accept)

    def _stop_listening(self) -> None:
        self._shared.reading.forget(self._place.sock.fileno())

    def _accept(self, events: int) -> None:
        for _ in range(TURN_CONNECTIONS):
            if not self.context.has_room():
                self._stop_listening()
                return
            try:
                sock, _address = self._place.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._could_not_accept(error)
                return
            self.context.welcome(sock, self)
            if self._is_closed:
                return

    def _could_not_accept(self, error: OSError) -> None:
        if error.errno in _EXHAUSTED and self._pause is None:
            # The socket stays readable, and nothing tells when there is a descriptor again.
            self._stop_listening()
            self._pause = self._shared.loop.call_later(PAUSE_SECONDS, self.listen)

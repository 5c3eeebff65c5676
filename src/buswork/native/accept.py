"""Accepting connections: some at a time, and not in circles when no descriptor is left."""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable

from buswork.log import Sparing

log = logging.getLogger(__name__)

# As many connections are accepted before others have their turn, about half a millisecond; fewer
# where they take longer.
TURN_CONNECTIONS = 16
TURN_SECONDS = 0.002
# Where clients come one by one, it is only now and then looked whether there is another one.
LOOK_TURNS = 8
# How long we do not accept when no descriptor is left.
PAUSE_SECONDS = 0.2

# Called for every connection, and an enum's value is looked up each time.
_UNIX = int(socket.AF_UNIX)
_STREAM = int(socket.SOCK_STREAM)

Serve = Callable[[socket.SocketType], None]


class Acceptor:
    """Listening sockets, each with what serves its connections; they are ours to close."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._sparing = Sparing("failures to accept")
        self._turns = 0
        self._is_crowded = True

    def open(self, listener: socket.socket, serve: Serve) -> None:
        listener.setblocking(False)
        self._listeners.append(listener)
        self._listen(listener, serve)

    def close(self) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()

    def _listen(self, listener: socket.socket, serve: Serve) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener.fileno(), self._accept, listener, serve)

    def _accept(self, listener: socket.socket, serve: Serve) -> None:
        # To look in vain for a second one takes a tenth of the time of serving the first.
        self._turns += 1
        if not self._is_crowded and self._turns % LOOK_TURNS:
            self._accept_one(listener, serve)
            return
        until = time.monotonic() + TURN_SECONDS
        for number in range(TURN_CONNECTIONS):
            if not self._accept_one(listener, serve):
                self._is_crowded = number > 1
                return
            if time.monotonic() > until:
                break
        self._is_crowded = True

    def _accept_one(self, listener: socket.socket, serve: Serve) -> bool:
        """False: there is none."""
        try:
            # Not accept(), which wraps the descriptor in layers that take as long as all else.
            fd, _ = listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return False
        except OSError as error:
            self._could_not_accept(listener, serve, error)
            return False
        serve(socket.SocketType(_UNIX, _STREAM, 0, fd))
        return True

    def _could_not_accept(self, listener: socket.socket, serve: Serve, error: OSError) -> None:
        if error.errno == errno.ECONNABORTED:
            return
        if self._sparing.allows(log):
            log.error("can't accept native clients for a moment: %s", error)
        # The socket stays readable; looking again at once would turn the loop in circles.
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(PAUSE_SECONDS, self._listen, listener, serve)

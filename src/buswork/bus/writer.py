"""The sending half of a connection: a queue that a full socket does not break.

Messages that are queued while the reader works leave together in one send. Descriptors travel
with the message they belong to; they are duplicated when it is queued, so that the caller may
close its own at once.
"""

import array
import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence

# Past this much unsent data nothing large should be queued: somebody asks for more than the
# bus carries off. 64 calls in flight with replies of 1 MiB fit twice.
QUEUE_MAX = 128 * 1024 * 1024
# How much goes into one send: more does not fit into a socket buffer anyway.
BATCH_BYTES = 128 * 1024
BATCH_PIECES = 256
# How long a peer may take to read the last that it is sent.
DRAIN_SECONDS = 5.0
# How much output passes between two calls of `on_output`.
OUTPUT_STEP = 1024 * 1024


class Writer:
    """Sends what is queued as fast as the socket takes it, in order."""

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_error: Callable[[OSError], None],
        on_room: Callable[[], None],
    ) -> None:
        self.is_open = True
        self.is_blocked = False
        # What was queued and is not sent yet, and what was sent, in bytes.
        self.queued = 0
        self.sent = 0
        self.on_output: Callable[[], None] = lambda: None
        # While held, messages are only queued: whoever holds it will flush.
        self.is_held = False
        self._sock = sock
        self._loop = loop
        self._on_error = on_error
        self._on_room = on_room
        # Each message with its descriptors, and what is sent in place of both if they can't go.
        self._queue: deque[tuple[bytes, Sequence[int], bytes]] = deque()
        self._rest: bytes | memoryview | None = None
        self._report_at = OUTPUT_STEP
        self._flush_planned = False
        self._drained: asyncio.Future[None] | None = None

    @property
    def is_overfull(self) -> bool:
        """Whether nothing large should be queued any more."""
        return self.queued > QUEUE_MAX

    def send(self, message: bytes, fds: Sequence[int] = (), instead: bytes = b"") -> None:
        """Queues a message; fds are duplicated and remain the caller's.

        The kernel counts descriptors that nobody has received yet, and past our own limit it
        carries no more of them: then `instead` is sent.
        """
        if not self.is_open:
            return
        if fds:
            fds = _duplicate(fds)
        self._queue.append((message, fds, instead))
        self.queued += len(message)
        if not self.is_held and not self._flush_planned and not self.is_blocked:
            self._flush_planned = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Sends what the socket takes now; the rest follows when it takes more."""
        self._flush_planned = False
        if self.is_blocked or not self.is_open:
            return
        try:
            self._send_all()
        except (BlockingIOError, InterruptedError):
            self.is_blocked = True
            self._loop.add_writer(self._sock, self._writable)
        except OSError as error:
            self._on_error(error)
        else:
            self._tell_drained()
        if self.sent >= self._report_at:
            self._report_at = self.sent + OUTPUT_STEP
            self.on_output()

    def _send_all(self) -> None:
        """Raises BlockingIOError when the socket is full, having lost nothing."""
        queue, send = self._queue, self._sock.send
        while self.queued:
            data = self._rest
            if data is None:
                if queue[0][1]:
                    self._send_with_fds(*queue[0])
                    continue
                data = self._rest = queue.popleft()[0] if len(queue) == 1 else self._next_batch()
            self._count(data, send(data))

    def _count(self, data: bytes | memoryview, count: int) -> None:
        self.queued -= count
        self.sent += count
        self._rest = memoryview(data)[count:] if count < len(data) else None

    def _next_batch(self) -> bytes:
        """As many messages without descriptors as go into one send."""
        queue = self._queue
        pieces: list[bytes] = []
        size = 0
        while queue and not queue[0][1] and size < BATCH_BYTES and len(pieces) < BATCH_PIECES:
            piece = queue.popleft()[0]
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    def _send_with_fds(self, data: bytes, fds: Sequence[int], instead: bytes) -> None:
        """The message stays in the queue until its descriptors have gone, with its first byte."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        try:
            count = self._sock.sendmsg((data,), (rights,))
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS or not instead:
                raise
            self._queue[0] = (instead, (), b"")
            self.queued += len(instead) - len(data)
            close_all(fds)
            return
        self._queue.popleft()
        close_all(fds)
        self._count(data, count)

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock)
        self.is_blocked = False
        self.flush()
        self._on_room()

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Returns when all that was queued has gone, or never will, or takes too long."""
        if self.is_open and self.queued:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.wait((self._drained,), timeout=seconds)

    def _tell_drained(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def close(self) -> None:
        """Gives up what is queued. The socket is its owner's to close."""
        self.is_open = False
        if self.is_blocked:
            self._loop.remove_writer(self._sock)
        for _, fds, _ in self._queue:
            close_all(fds)
        self._queue.clear()
        self._rest = None
        self.queued = 0
        self._tell_drained()


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _duplicate(fds: Sequence[int]) -> list[int]:
    copies: list[int] = []
    try:
        copies.extend(os.dup(fd) for fd in fds)
    except OSError:
        close_all(copies)
        raise
    return copies

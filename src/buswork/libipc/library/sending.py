"""The sending side of a connection, by the rules for unmodified originals (section 3).

A message leaves in one send, and the next one when the peer has read it: TIOCOUTQ tells whether,
and an edge of EPOLLOUT when. What must wait is queued, in order and bounded.
"""

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from buswork.libipc.errors import PeerGone, QueueFull
from buswork.libipc.library import descriptors
from buswork.libipc.library.readiness import outstanding
from buswork.libipc.library.shared import Shared
from buswork.libipc.wire.forms import DATA, SAFE_BYTES, BadMessage, Form, Message, frame

_FLAGS: Final = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
_NO_DESCRIPTOR: Final = -1


class _Piece(NamedTuple):
    data: bytes | memoryview
    fd: int = _NO_DESCRIPTOR  # one of our own that goes along


class Sender:
    __slots__ = (
        "_failure", "_fd", "_is_amid", "_is_eager", "_moved", "_queue", "_queued_bytes", "_shared",
        "_sock", "_waiters", "form",
    )  # fmt: skip

    def __init__(self, shared: Shared, sock: socket.socket, form: Form, eager: bool) -> None:
        self.form = form
        self._shared = shared
        self._sock = sock
        self._fd = sock.fileno()
        self._is_eager = eager
        self._failure: str | None = None  # why nothing is taken any more
        self._queue: deque[_Piece] | None = None  # never empty
        self._queued_bytes = 0
        self._is_amid = False  # a part of the first of the queue has left
        self._waiters = 0
        self._moved: asyncio.Future[None] | None = None

    @property
    def queued(self) -> tuple[int, int]:
        """How many messages, and how many bytes, have not left yet."""
        return len(self._queue or ()), self._queued_bytes

    @property
    def is_full(self) -> bool:
        """Half of what may be queued is: time for the sender to `drain`."""
        limits = self._shared.limits
        messages, size = self.queued
        return 2 * messages >= limits.queued_messages or 2 * size >= limits.queued_bytes

    def send(self, payload: bytes, user_type: int = 0, type: int = DATA) -> None:  # noqa: A002
        """Never waits; what can't leave is queued. QueueFull, PeerGone, BadMessage."""
        data = frame(self.form, payload, user_type, type)
        if not payload and self.form is Form.ZIG:
            # Rule 5: it would be one of those that end.
            raise BadMessage("an empty message of this form tells the peer that we are gone")
        may_send = self._queue is None and self._failure is None
        if may_send and (self._is_eager or not outstanding(self._fd)):
            sent = self._transmit(data)
            if sent != len(data):
                self._keep_rest(data, sent)
        else:
            self._enqueue(_Piece(data))

    def send_message(self, message: Message) -> None:
        self.send(*message)

    def send_descriptor(self, fd: int, data: bytes = descriptors.DESCRIPTOR_BYTE) -> None:
        """In its turn, with raw bytes that are no message; the caller's own stays open."""
        if not data:
            raise BadMessage("a descriptor needs a byte that carries it")
        self._enqueue(_Piece(data, os.dup(fd)))
        self._moves(0)
        self._check_is_taken()

    async def drain(self) -> None:
        """Until it is not full; PeerGone."""
        await self._until(lambda: not self.is_full)

    async def consumed(self) -> None:
        """Until the peer has read all of it; PeerGone: it left before that."""
        await self._until(lambda: self._queue is None and not outstanding(self._fd))
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise self._lost(OSError(number, os.strerror(number)))

    # -- the queue -----------------------------------------------------------------------------

    def _enqueue(self, piece: _Piece) -> None:
        try:
            self._check_may_queue(len(piece.data))
        except BaseException:
            _discard(piece)
            raise
        if self._queue is None:
            self._queue = deque()
            self._watch()
        self._queue.append(piece)
        self._queued_bytes += len(piece.data)

    def _check_is_taken(self) -> None:
        """A new error each time: one that is raised keeps all that it came by, payloads too."""
        if self._failure is not None:
            raise PeerGone(self._failure)

    def _check_may_queue(self, size: int) -> None:
        self._check_is_taken()
        limits = self._shared.limits
        if self._queue is None:
            return
        too_many = len(self._queue) >= limits.queued_messages
        if too_many or self._queued_bytes + size > limits.queued_bytes:
            text = f"the peer has not read {len(self._queue)} messages, {self._queued_bytes} bytes"
            raise QueueFull(text)

    def _keep_rest(self, data: bytes, sent: int) -> None:
        """Of what did not fit into the kernel."""
        self._is_amid = sent > 0
        self._queue = deque([_Piece(memoryview(data)[sent:])])
        self._queued_bytes = len(data) - sent
        self._watch()

    def _transmit(self, data: bytes | memoryview, fd: int = _NO_DESCRIPTOR) -> int:
        """How many bytes have left."""
        try:
            if fd != _NO_DESCRIPTOR:
                return descriptors.send(self._sock, fd, bytes(data))
            if self._is_eager or len(data) > SAFE_BYTES:
                return self._sock.send(data, _FLAGS)
            return self._sock.sendmsg((data,), self._shared.boundary.ancillary, _FLAGS)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS and fd == _NO_DESCRIPTOR:
                return self._transmit_plainly(data)
            raise self._lost(error) from error

    def _transmit_plainly(self, data: bytes | memoryview) -> int:
        """Too many descriptors of ours are on their way for one more."""
        try:
            return self._sock.send(data, _FLAGS)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._lost(error) from error

    def _lost(self, error: OSError) -> PeerGone:
        """There may still be something to read; the end is told after that."""
        self._failure = f"the peer reads no more: {error.strerror}"
        self._drop_queue()
        return PeerGone(self._failure)

    def _shut(self, why: str = "the connection is closed") -> None:
        """Nothing is taken any more; what is queued may still leave."""
        if self._failure is None:
            self._failure = why
        self._wake()

    def _drop_queue(self) -> None:
        for piece in self._queue or ():
            _discard(piece)
        self._queue = None
        self._queued_bytes = 0
        self._is_amid = False

    # -- what the kernel tells of the peer's reading ---------------------------------------------

    def _watch(self) -> None:
        if self._fd not in self._shared.sending:
            self._shared.sending.watch(self._fd, self._moves)

    def _moves(self, events: int) -> None:
        """The peer has read something, or is gone."""
        was_full = self._queue is not None and self.is_full
        try:
            self._send_queued()
        except PeerGone:
            pass  # its end is told where it is read, or by the next send
        self._wake()
        if self._queue is None and not self._waiters:
            self._shared.sending.forget(self._fd)
        if self._queue is None or (was_full and not self.is_full):
            self._has_room()

    def _has_room(self) -> None:
        """The queue was half full and is no more, or has become empty."""

    def _send_queued(self) -> None:
        while self._queue is not None:
            if not (self._is_eager or self._is_amid):
                left = outstanding(self._fd)
                if left == 1:  # nearly, and there is no edge any more
                    self._shared.loop.call_soon(self._look_again)
                if left:
                    return
            if not self._send_first(self._queue):
                return

    def _send_first(self, queue: deque[_Piece]) -> bool:
        """False: a part of it is left."""
        data, fd = queue[0]
        sent = self._transmit(data, fd)
        if not sent:
            return False
        _discard(queue[0])  # its descriptor went with the first byte
        self._queued_bytes -= sent
        self._is_amid = sent < len(data)
        if self._is_amid:
            queue[0] = _Piece(memoryview(data)[sent:])
            return False
        queue.popleft()
        if not queue:
            self._queue = None
        return True

    def _look_again(self) -> None:
        if self._queue is not None:
            self._moves(0)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Asks anew at each edge, and again and again in the short time when there is none."""
        self._waiters += 1
        try:
            while True:
                self._check_is_taken()
                if is_so():
                    return
                self._watch()
                if outstanding(self._fd) <= 1:  # it may have become 0 since is_so saw the 1
                    await asyncio.sleep(0)
                    continue
                if self._moved is None:
                    self._moved = self._shared.loop.create_future()
                await asyncio.shield(self._moved)
        finally:
            self._waiters -= 1

    def _wake(self) -> None:
        if self._moved is not None:
            self._moved.set_result(None)
            self._moved = None


def _discard(piece: _Piece) -> None:
    if piece.fd != _NO_DESCRIPTOR:
        os.close(piece.fd)

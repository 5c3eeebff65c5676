"""One connection: messages in and out; the sending side is `sending`.

Rules
* What comes is put together again whatever pieces it comes in, and several at once are several.
* A peer that announces more than it sends has a deadline, and no memory before its bytes come.
* A peer that has sent all it wants to (a half-closed socket) still gets what is queued for it.
* What nobody asked for, like descriptors, is closed by the kernel, see `descriptors`.
"""

import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol

from buswork.errors import BusworkError
from buswork.libipc.errors import PeerGone, Stalled
from buswork.libipc.library import descriptors
from buswork.libipc.library.events import Received
from buswork.libipc.library.leaving import leave
from buswork.libipc.library.pulling import Inbox
from buswork.libipc.library.sending import Sender
from buswork.libipc.library.shared import DEFAULT_LIMITS, Limits, Shared
from buswork.libipc.wire.forms import Assembler, BadMessage, Form, Message
from buswork.native.credentials import Credentials, peer_of

if TYPE_CHECKING:
    from buswork.libipc.library.contexts import Context
    from buswork.libipc.library.services import Service

__all__ = ["DEFAULT_LIMITS", "Connection", "Limits", "Receiver"]

# What a message takes beside its payload.
HELD_BYTES: Final = 128

_DONT_WAIT: Final = int(socket.MSG_DONTWAIT)

# A connection's life; what is queued still leaves until it is closed.
_OPEN: Final = 0
_ENDED: Final = 1  # the peer sends no more, and that was told
_LEAVING: Final = 2  # closed as soon as the queue is empty
_CLOSED: Final = 3


class Receiver(Protocol):
    """Who is told instead of the context, see `Connection.divert`."""

    def received(self, message: Message) -> None: ...

    def room(self) -> None:
        """The queue was half full and is no more, or has become empty."""

    def disconnected(self, error: Exception | None) -> None: ...


class Connection(Sender):
    """Made by a context, for one loop; `data` is the program's own."""

    __slots__ = (
        "__weakref__", "_assembler", "_error", "_held", "_inbox", "_is_end_told", "_is_paused",
        "_is_timed", "_receiver", "_state", "data", "meter", "name", "service",
    )  # fmt: skip

    def __init__(
        self,
        shared: Shared,
        sock: socket.socket,
        form: Form,
        *,
        eager: bool = False,
        pull: bool = False,
        service: "Service | None" = None,
        name: str = "",
    ) -> None:
        super().__init__(shared, sock, form, eager)
        self.service = service  # that the peer came to
        self.name = name  # of the service that we went to
        self.data: object = None
        # Told what is kept of what came, in bytes, as that changes; what it raises is the end.
        self.meter: Callable[[int], None] | None = None
        self._assembler = Assembler(form, shared.limits.message)
        self._is_timed = False  # a message has begun
        self._state = _OPEN
        self._error: Exception | None = None  # that it ended with
        self._is_end_told = False
        self._receiver: Receiver | None = None
        self._inbox: Inbox | None = None
        # What was read and is to be told before anything else, and the end after it.
        self._held: deque[Message] | None = None
        self._is_paused = pull
        if pull:
            self._receiver = self._inbox = Inbox(self)
        else:
            shared.reading.read(self._fd, self._read)

    # -- about it ------------------------------------------------------------------------------

    @property
    def context(self) -> "Context":
        return self._shared.context

    @property
    def is_open(self) -> bool:
        return self._state != _CLOSED

    @property
    def peer(self) -> Credentials:
        """Who connected, or listened; as long as it is open."""
        return peer_of(self._sock)

    def fileno(self) -> int:
        return self._fd

    # -- receiving -----------------------------------------------------------------------------

    def divert(self, receiver: Receiver | None) -> None:
        """Its messages and its end go to this one, also those that nobody took; None: back."""
        if receiver is None and self._receiver is None:
            return
        untold = self._untold()
        self._receiver = receiver
        if untold or self._state in (_ENDED, _LEAVING):
            self._held = deque((*untold, *(self._held or ())))
            self._is_end_told = False
            self._stop_reading()
            if not self._is_paused:
                self._shared.loop.call_soon(self._tell_held)

    def _untold(self) -> list[Message]:
        if self._inbox is not None:
            inbox, self._inbox = self._inbox, None
            return inbox.give_up()
        return self._shared.reclaim(self) if self._receiver is None else []

    def pause(self) -> None:
        """What the peer sends stays in the kernel, and its end too, until `resume`."""
        if not self._is_paused and self._state != _CLOSED:
            self._is_paused = True
            self._stop_reading()

    def resume(self) -> None:
        if self._is_paused and self._state != _CLOSED:
            self._is_paused = False
            if self._held is None and self._state == _OPEN:
                self._go_on_reading()
            else:
                self._shared.loop.call_soon(self._tell_held)

    async def receive(self) -> Message:
        """The next message of a connection that was made with `pull`; PeerGone at its end."""
        return await self._pulled.message()

    async def receive_descriptor(self, most: int = 1) -> tuple[bytes, int]:
        """Raw bytes and the descriptor that came along, with `pull` alone; NoDescriptor."""
        self._pulled.expect_whole(self._assembler.waiting)
        await self._pulled.readable()
        return descriptors.receive(self._sock, most)

    # -- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """At once, and with what is queued; nothing is told any more."""
        if self._state == _CLOSED:
            return
        nothing_comes = self._state != _OPEN
        self._let_go()
        if nothing_comes:
            self._sock.close()
        else:
            leave(self._sock)

    def detach(self) -> socket.socket:
        """The socket, which is the caller's from now on; what is queued or held is dropped."""
        if self._state == _CLOSED:
            raise PeerGone("the connection is closed")
        self._let_go()
        return self._sock

    def finish(self) -> None:
        """Its end was told: what is queued still leaves, then it is closed."""
        if self._state != _ENDED or not self._is_end_told:
            return
        if self._queue is None:
            self.close()
        else:
            self._state = _LEAVING
            self._shut()
            self._shared.deadlines.start(self)

    def late(self) -> None:
        """For the context: its deadline is over."""
        if self._state == _LEAVING:
            self.close()
        else:
            seconds = self._shared.limits.message_seconds
            missing = f"{self._assembler.waiting} bytes of a message came, and not the rest"
            self._end(Stalled(f"{missing} within {seconds:g} s"))

    def _let_go(self) -> None:
        self._state = _CLOSED
        self._stop_reading()
        self._drop_queue()
        self._shared.sending.forget(self._fd)
        self._held = None
        # What it keeps of a message goes at once, and not when garbage is looked for.
        self._assembler = Assembler(self.form)
        self._error = self.meter = None
        self._shut()
        if self._inbox is not None:
            self._inbox.disconnected(None)
        self._shared.closed(self)

    def _end(self, error: Exception | None) -> None:
        """The peer sends no more, or nothing that we can read."""
        self._stop_reading()
        self._state = _ENDED
        if error is not None:
            self._drop_queue()
            self._shut(str(error))
        self._error = error or (None if self._failure is None else PeerGone(self._failure))
        self._tell_end()

    def _tell_end(self) -> None:
        self._is_end_told = True
        if self._receiver is None:
            self._shared.ended(self, self._error)
            return
        try:
            self._receiver.disconnected(self._error)
        finally:
            if self._inbox is None:
                self.finish()

    # -- reading -------------------------------------------------------------------------------

    @property
    def _pulled(self) -> Inbox:
        if self._inbox is None:
            raise RuntimeError("what this connection receives are events of its context")
        return self._inbox

    def _go_on_reading(self) -> None:
        if self._fd not in self._shared.reading:
            self._shared.reading.read(self._fd, self._read)
            self._look_after_rest(renewed=True)

    def _stop_reading(self) -> None:
        self._shared.reading.forget(self._fd)
        self._is_timed = False
        self._shared.deadlines.stop(self)

    def _read(self, events: int) -> None:
        if self._inbox is not None and not self._inbox.takes():
            return
        was_amid = self._is_timed  # who is told may pause, and so forget it
        buffer = self._shared.buffer
        try:
            size = self._sock.recv_into(buffer, 0, _DONT_WAIT)
            messages = self._assembler.feed(buffer[:size]) if size else ()
        except BlockingIOError:
            return
        except BadMessage as error:
            self._end(error)
            return
        except OSError as error:
            self._end(PeerGone(f"the peer has closed without reading all: {error.strerror}"))
            return
        if not size:
            self._end(self._cut_off())
            return
        coming = iter(messages)
        try:
            for message in coming:
                self._tell(message)
        except Exception:
            self._tell_later(coming)  # who failed at one may be able to take the next one
            raise
        if self._assembler.waiting or was_amid or self._held is not None:
            self._look_after_rest(renewed=bool(messages))
            self._weigh()

    def _tell(self, message: Message) -> None:
        if self._is_paused:
            if self._held is None:
                self._held = deque()
            self._held.append(message)
        elif self._state != _CLOSED:
            if self._receiver is None:
                self._shared.emit(Received(self, message))
            else:
                self._receiver.received(message)

    def _tell_later(self, messages: Iterable[Message]) -> None:
        if self._state != _CLOSED:
            self._held = deque((*(self._held or ()), *messages))
            self._stop_reading()
            self._shared.loop.call_soon(self._tell_held)

    def _tell_held(self) -> None:
        try:
            while self._held and not self._is_paused:
                self._tell(self._held.popleft())
        except Exception:
            self._tell_later(())
            raise
        if self._held or self._is_paused:
            return
        self._held = None
        self._weigh()
        if self._state == _OPEN:
            self._go_on_reading()
        elif self._state != _CLOSED and not self._is_end_told:
            self._tell_end()

    def _look_after_rest(self, renewed: bool) -> None:
        """Of a message that has begun, or of a stream that has ended in what is none."""
        if self._is_paused or self._state != _OPEN:
            return
        if not self._assembler.waiting:
            self._is_timed = False
            self._shared.deadlines.stop(self)
            return
        try:
            self._assembler.check()
        except BadMessage as error:
            self._end(error)
            return
        if renewed or not self._is_timed:
            self._is_timed = True
            self._shared.deadlines.start(self)

    def _weigh(self) -> None:
        if self.meter is None or self._state != _OPEN:
            return
        # At the most: what is held back has come with one read.
        size = self._shared.limits.read_bytes
        held = size + HELD_BYTES * len(self._held) if self._held else 0
        try:
            self.meter(self._assembler.waiting + held)
        except BusworkError as error:
            self._end(error)

    def _cut_off(self) -> PeerGone | None:
        if not self._assembler.waiting:
            return None
        return PeerGone(f"the peer left after {self._assembler.waiting} bytes of a message")

    def _has_room(self) -> None:
        if self._state == _LEAVING and self._queue is None:
            self.close()
        elif self._receiver is not None:
            self._receiver.room()

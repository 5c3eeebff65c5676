"""Connections to services whose messages are told to somebody, as far as there are credits.

When they are used up nothing is read any more, and the service's next messages, and its end, wait
where they are. What a connection holds all the same is charged to a uid: what did not leave yet,
and of a message what came.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from buswork.authority import Lease
from buswork.libipc.errors import QueueFull, named
from buswork.libipc.library.connections import HELD_BYTES, Connection
from buswork.libipc.model.credits import Credits
from buswork.libipc.model.hub import OnEnd, OnMessage
from buswork.libipc.model.terms import RunDirectory
from buswork.libipc.wire.forms import BadMessage, Message
from buswork.native.room import Charges

# What a connection may have in memory without being charged for it: small messages.
FREE_BYTES: Final = 4096
# What one read takes: in so much there are more than a thousand of the shortest messages, which
# take half a millisecond. And how many are told before others have their turn.
READ_BYTES: Final = 8192
TURN_MESSAGES: Final = 16


class Line:
    """A connection, and what it holds in memory: a part of a message, some that are not told yet,
    and those that have not left. Who has filled its queue hears when there is room again."""

    def __init__(self, connection: Connection, charges: Charges) -> None:
        self.connection = connection
        self.on_room: Callable[[], None] = lambda: None
        self._charges = charges
        self._came = self._untold = 0
        self._was_full = False
        connection.meter = self._weigh_in

    def send(self, user_type: int, payload: bytes) -> None:
        """QueueFull, PeerGone, InvalidArgs; LimitsExceeded: its user has too much waiting."""
        self._weigh(HELD_BYTES + len(payload))
        try:
            self.connection.send(payload, user_type)
        except BadMessage as error:
            raise named(error) from error
        except QueueFull:
            self._was_full = True
            raise
        finally:
            self._weigh()

    def keep(self, message: Message) -> None:
        """It waits to be told; LimitsExceeded."""
        self._untold = HELD_BYTES + len(message.payload)
        self._weigh()

    def told(self) -> None:
        self._untold = 0
        self._weigh()

    def room(self) -> None:
        self._weigh()
        if self._was_full:
            self._was_full = False
            self.on_room()

    def close(self) -> None:
        self.connection.close()
        self._charges.release()

    def _weigh_in(self, size: int) -> None:
        self._came = size
        self._weigh()

    def _weigh(self, more: int = 0) -> None:
        messages, size = self.connection.queued
        self._charges.adjust(self._came + self._untold + size + HELD_BYTES * messages + more)


class Channel:
    """What a caller has of a service; the receiver of its connection."""

    def __init__(
        self,
        line: Line,
        service: str,
        directory: RunDirectory,
        lease: Lease,
        on_message: OnMessage,
        on_end: OnEnd,
    ) -> None:
        self.service = service
        self.form, self.directory = directory
        self.on_close: Callable[[], None] = lambda: None
        self._line = line
        self._lease = lease
        self._credits = Credits()
        self._is_paused = False
        self._told = 0
        self._resting: asyncio.Handle | None = None
        self._on_message = on_message
        self._on_end = on_end
        line.connection.divert(self)

    @property
    def on_room(self) -> Callable[[], None]:
        return self._line.on_room

    @on_room.setter
    def on_room(self, callback: Callable[[], None]) -> None:
        self._line.on_room = callback

    @property
    def credits(self) -> int:
        return max(0, self._credits.left)

    def send(self, user_type: int, payload: bytes) -> None:
        self._line.send(user_type, payload)

    def grant(self, number: int) -> None:
        self._credits.grant(number)
        self._read_or_not()

    def pause(self) -> None:
        self._is_paused = True
        self._read_or_not()

    def resume(self) -> None:
        self._is_paused = False
        self._read_or_not()

    def close(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
        self._line.close()
        self._lease.release()
        self.on_close()

    def _rest(self) -> None:
        self._resting = asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._resting = None
        self._read_or_not()

    def _read_or_not(self) -> None:
        if self._is_paused or self._credits.are_used_up or self._resting is not None:
            self._line.connection.pause()
        else:
            self._line.connection.resume()

    # -- for the connection --------------------------------------------------------------------

    def received(self, message: Message) -> None:
        self._credits.take(len(message.payload))
        self._on_message(message.user_type, message.payload)
        self._told += 1
        if self._told % TURN_MESSAGES == 0 and self._resting is None:
            self._rest()
        self._read_or_not()

    def room(self) -> None:
        self._line.room()

    def disconnected(self, error: Exception | None) -> None:
        self.close()
        self._on_end("" if error is None else str(error))

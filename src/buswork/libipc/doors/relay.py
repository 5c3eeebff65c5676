"""Carrying messages between two ends until one of them leaves.

Rules
* A message at a time, each way: the next one is taken when this one has left.
* An end that takes nothing stops the reading of the other one; one that does so for long is left.
* What came before an end still arrives: the other side is told of the end behind it, and what it
  says until it ends as well is passed on, or read at least (section 3: who closes with something
  unread resets the connection, and an original may not survive that).
"""

import asyncio
import os
import socket
from typing import Final, Protocol

from buswork.errors import BusworkError, TimedOut
from buswork.libipc.errors import PeerGone
from buswork.libipc.library.connections import Connection, Limits
from buswork.libipc.wire.forms import BadMessage, Form, Message

# How long an end may take for a message before it is left.
STUCK_SECONDS = 30.0
# How long the second end may take after the first one.
LINGER_SECONDS = 5.0
# Of connections: what is drained then has left.
LIMITS: Final = Limits(queued_messages=1)

Failure = BusworkError | BadMessage


class End(Protocol):
    """One side. PeerGone: it has left; other failures say what is wrong with it."""

    async def receive(self) -> Message: ...

    async def send(self, message: Message) -> None:
        """Returns when it has left."""

    async def finish(self) -> None:
        """Nothing more will be sent."""


class ConnectionEnd:
    """A socket that the library has."""

    def __init__(self, connection: Connection) -> None:
        """connection: one that is pulled, with our limits."""
        self._connection = connection

    async def receive(self) -> Message:
        message = await self._connection.receive()
        if not message.payload and self._connection.form is Form.ZIG:
            raise PeerGone("an empty message of this form is an end")  # section 2
        return message

    async def send(self, message: Message) -> None:
        self._connection.send_message(message)
        await self._connection.drain()

    async def finish(self) -> None:
        if self._connection.is_open:
            with socket.socket(fileno=os.dup(self._connection.fileno())) as sock:
                sock.shutdown(socket.SHUT_WR)


async def carry(one: End, other: End) -> Failure | None:
    """Both ways. Why it ended; None: one of them left."""
    ways = {asyncio.create_task(_forward(one, other)), asyncio.create_task(_forward(other, one))}
    try:
        done, last = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        why = next(iter(done)).result()
        if last and why is None:
            await asyncio.wait(last, timeout=LINGER_SECONDS)
        return why
    finally:
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)


async def _forward(source: End, target: End) -> Failure | None:
    is_target_there = True
    while True:
        try:
            message = await source.receive()
        except PeerGone:
            break
        except (BusworkError, BadMessage) as error:
            return error
        if is_target_there:
            try:
                async with asyncio.timeout(STUCK_SECONDS):
                    await target.send(message)
            except PeerGone:
                is_target_there = False
            except TimeoutError:
                return TimedOut(f"nothing was read for {STUCK_SECONDS:.0f} seconds")
            except (BusworkError, BadMessage) as error:
                return error
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            await target.finish()
    except TimeoutError:
        return TimedOut("the last messages were not read")
    except (BusworkError, OSError):
        pass  # it has left, too
    return None

"""What the connections of a context have in common."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from buswork.libipc.library.deadlines import Deadlines
from buswork.libipc.library.events import Event
from buswork.libipc.library.readiness import Boundary, Poll
from buswork.libipc.wire.forms import Message

if TYPE_CHECKING:
    from buswork.libipc.library.connections import Connection
    from buswork.libipc.library.contexts import Context


class Limits(NamedTuple):
    """Of one context."""

    # Few programs may have more descriptors; more clients wait in their services' backlogs.
    connections: int = 16_384
    # For each connection. One message is queued however long it is.
    queued_messages: int = 1_024
    queued_bytes: int = 1 << 20
    # The longest payload taken; None: the longest of the form.
    message: int | None = None
    # From the first byte of a message to its last, and for what is queued at the end.
    message_seconds: float = 30.0
    # What one read takes; a busy connection has the next one after others had theirs. Messages of
    # 64 KiB come whole; that many short ones are taken apart in 7 ms.
    read_bytes: int = 131_000


DEFAULT_LIMITS: Final = Limits()


@dataclass(slots=True, eq=False)
class Shared:
    context: "Context"
    loop: asyncio.AbstractEventLoop
    limits: Limits
    # For every read, until it is taken apart. Of one for each, small ones are left over where there
    # was room for a big one: malloc would take several MiB in the end, nearly all of them free.
    buffer: memoryview
    reading: Poll
    sending: Poll
    boundary: Boundary
    deadlines: Deadlines["Connection"]
    emit: Callable[[Event], None]
    ended: Callable[["Connection", Exception | None], None]
    reclaim: Callable[["Connection"], list[Message]]
    closed: Callable[["Connection"], None]

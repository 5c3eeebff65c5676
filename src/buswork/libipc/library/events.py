"""What happens in a context."""

from typing import TYPE_CHECKING, NamedTuple

from buswork.libipc.library.switching import Switched, Unswitched
from buswork.libipc.wire.forms import Message

if TYPE_CHECKING:
    from buswork.libipc.library.connections import Connection


class Connected(NamedTuple):
    """A client has come; `connection.service` is where to."""

    connection: "Connection"


class Received(NamedTuple):
    connection: "Connection"
    message: Message


class Disconnected(NamedTuple):
    """The last event of a connection; no error: an ordinary end."""

    connection: "Connection"
    error: Exception | None


class Timer(NamedTuple):
    """The time that was set is over; it runs anew already."""


class External(NamedTuple):
    """There is something to read on a descriptor that is not ours; nothing was read."""

    fd: int


Event = Connected | Received | Disconnected | Timer | External | Switched | Unswitched

"""What goes wrong with services and messages, as callers are told."""

from buswork.errors import BusworkError, InvalidArgs
from buswork.libipc.wire.forms import BadMessage
from buswork.libipc.wire.lookups import BadRequest
from buswork.libipc.wire.names import BadName
from buswork.libipc.wire.typed import BadTyped

_PREFIX = "org.libipc.Error."


class NoSuchService(BusworkError):
    """Nobody listens there."""

    name = _PREFIX + "NoSuchService"


class NameTaken(BusworkError):
    """Another process serves this name, or its socket can't be taken away."""

    name = _PREFIX + "NameTaken"


class NotAllowed(BusworkError):
    """The mode or the owner of a socket or directory stands against it."""

    name = _PREFIX + "NotAllowed"


class PeerGone(BusworkError):
    """The other end has closed, and what was sent may have been read or not."""

    name = _PREFIX + "PeerGone"


class QueueFull(BusworkError):
    """The peer does not read as fast as it is sent to."""

    name = _PREFIX + "QueueFull"


class Stalled(BusworkError):
    """The peer announced a message and did not send all of it in time."""

    name = _PREFIX + "Stalled"


class NoDescriptor(BusworkError):
    """What came had no descriptor with it."""

    name = _PREFIX + "NoDescriptor"


class NoSuchClient(BusworkError):
    name = _PREFIX + "NoSuchClient"


class NotOwner(BusworkError):
    name = _PREFIX + "NotOwner"


class ClosedContext(BusworkError):
    """It is closed, and all its connections with it."""

    name = _PREFIX + "ClosedContext"


def named(error: Exception) -> Exception:
    """As D-Bus callers are told; what is no failure of theirs or of peers stays what it is."""
    if isinstance(error, BadMessage | BadName | BadRequest | BadTyped):
        return InvalidArgs(str(error))
    return error

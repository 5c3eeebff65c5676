"""The failures that a call may have, as classes: `except AccessDenied` works for any of them.

The daemon's names and those of the bus are one family. What has no class of its own is a plain
BusworkError, and `name` tells the D-Bus name of each.
"""

from buswork.errors import (
    FREEDESKTOP,
    AccessDenied,
    BusworkError,
    Busy,
    Disconnected,
    InteractiveAuthorizationRequired,
    InvalidArgs,
    LimitsExceeded,
    NotOwner,
    PropertyReadOnly,
    TimedOut,
    UnknownInterface,
    UnknownMethod,
    UnknownObject,
    UnknownProperty,
)

__all__ = [
    "AccessDenied",
    "BusworkError",
    "Busy",
    "Disconnected",
    "InteractiveAuthorizationRequired",
    "InvalidArgs",
    "LimitsExceeded",
    "NoReply",
    "NotOwner",
    "NotRunning",
    "PropertyReadOnly",
    "RevisionGone",
    "TimedOut",
    "UnknownInterface",
    "UnknownMethod",
    "UnknownObject",
    "UnknownProperty",
    "typed",
]


class NotRunning(BusworkError):
    """Nobody has the daemon's name, and the bus could not start it."""

    name = FREEDESKTOP + "ServiceUnknown"


class NoReply(BusworkError):
    """The daemon went while it had the call, which may have taken effect or not."""

    name = FREEDESKTOP + "NoReply"


class RevisionGone(BusworkError):
    """The changes asked for are not kept, or are of another epoch: read the values again."""

    name = "org.mapipc.Error.RevisionGone"


_CLASSES: dict[str, type[BusworkError]] = {
    error.name: error
    for error in (
        AccessDenied,
        Busy,
        Disconnected,
        InteractiveAuthorizationRequired,
        InvalidArgs,
        LimitsExceeded,
        NoReply,
        NotOwner,
        NotRunning,
        PropertyReadOnly,
        RevisionGone,
        TimedOut,
        UnknownInterface,
        UnknownMethod,
        UnknownObject,
        UnknownProperty,
    )
}
_CLASSES[FREEDESKTOP + "NameHasNoOwner"] = NotRunning
# How the bus, and systemd through it, tell that they could not start a service.
_NOT_STARTED = (FREEDESKTOP + "Spawn.", "org.freedesktop.systemd1.")


def typed(error: BusworkError) -> BusworkError:
    """The same failure as the class that its D-Bus name stands for."""
    if type(error) is not BusworkError:
        return error
    if error.name.startswith(_NOT_STARTED):
        return NotRunning(str(error), error.name)
    return _CLASSES.get(error.name, BusworkError)(str(error), error.name)

"""Failures that may reach a caller: each has a D-Bus error name and a sentence that helps.

One family serves every face of a wing, D-Bus and native alike. Anything else that a handler
raises is a defect of ours: the caller learns `Failed`, the traceback goes to the log.
"""

FREEDESKTOP = "org.freedesktop.DBus.Error."


class BusworkError(Exception):
    """Base of all named failures; `name` is the D-Bus error name."""

    name = FREEDESKTOP + "Failed"

    def __init__(self, text: str, name: str | None = None) -> None:
        super().__init__(text)
        if name is not None:
            self.name = name


class UnknownObject(BusworkError):
    name = FREEDESKTOP + "UnknownObject"


class UnknownInterface(BusworkError):
    name = FREEDESKTOP + "UnknownInterface"


class UnknownMethod(BusworkError):
    name = FREEDESKTOP + "UnknownMethod"


class UnknownProperty(BusworkError):
    name = FREEDESKTOP + "UnknownProperty"


class PropertyReadOnly(BusworkError):
    name = FREEDESKTOP + "PropertyReadOnly"


class InvalidArgs(BusworkError):
    name = FREEDESKTOP + "InvalidArgs"


class AccessDenied(BusworkError):
    name = FREEDESKTOP + "AccessDenied"


class InteractiveAuthorizationRequired(BusworkError):
    name = FREEDESKTOP + "InteractiveAuthorizationRequired"


class LimitsExceeded(BusworkError):
    name = FREEDESKTOP + "LimitsExceeded"


class TimedOut(BusworkError):
    name = FREEDESKTOP + "Timeout"


class Disconnected(BusworkError):
    """The bus connection is gone; what was asked over it will never be answered."""

    name = FREEDESKTOP + "Disconnected"


class Busy(BusworkError):
    name = "org.buswork.Error.Busy"


class NotOwner(BusworkError):
    name = "org.buswork.Error.NotOwner"


class Gone(Exception):
    """The caller left while its question was open: there is nobody to answer."""

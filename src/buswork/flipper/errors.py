"""What goes wrong with boards, as callers are told: on D-Bus by a name, over FMR by a number."""

from typing import Final

from buswork.errors import (
    AccessDenied,
    BusworkError,
    Busy,
    InteractiveAuthorizationRequired,
    InvalidArgs,
    LimitsExceeded,
)
from buswork.flipper.wire.checks import refusal as refusal_of_value
from buswork.flipper.wire.errors import BoardError, Error
from buswork.flipper.wire.exchanges import Refused
from buswork.flipper.wire.plans import BridgeError
from buswork.flipper.wire.terms import BadAnswer, BadValue

_PREFIX = "org.flipper.Error."


class Disconnected(BusworkError):
    """The board is gone; what was asked of it may have been done or not."""

    name = _PREFIX + "Disconnected"


class AlreadyAttached(BusworkError):
    name = _PREFIX + "AlreadyAttached"


class NoSuchBoard(BusworkError):
    name = _PREFIX + "NoSuchBoard"


class Claimed(BusworkError):
    """Another caller has the board to itself."""

    name = _PREFIX + "Claimed"


class NotClaimed(BusworkError):
    """This is for who has the board to itself alone."""

    name = _PREFIX + "NotClaimed"


class NotOwner(BusworkError):
    name = _PREFIX + "NotOwner"


class NotResponding(BusworkError):
    """The board, or its 4S, did not answer in time."""

    name = _PREFIX + "NotResponding"


class ModuleUnsafe(BusworkError):
    """The 4S says that it has a user module whose memory it has freed."""

    name = _PREFIX + "ModuleUnsafe"


class TransferFailed(BusworkError):
    """A push or pull ended before its end; with the board's own name for it where it has one."""

    name = _PREFIX + "TransferFailed"

    def __init__(self, why: BoardError | str, done: int, length: int) -> None:
        name = _PREFIX + why.camel if isinstance(why, BoardError) else None
        super().__init__(f"{why}; {done} of {length} bytes had gone through", name)
        self.done = done


def named(error: Exception) -> Exception:
    """As D-Bus callers are told; what is no failure of boards or callers stays what it is."""
    match error:
        case BadValue():
            return InvalidArgs(str(error))
        case BoardError():
            return BusworkError(str(error), _PREFIX + error.camel)
        case BridgeError():
            return NotResponding(f"{error}; a reset may help")
        case BadAnswer():
            return BusworkError(str(error), _PREFIX + "BadAnswer")
        case _:
            return error


# What a board would call it.
_NUMBERS: Final[dict[type[Exception], Error]] = {
    Disconnected: Error.E_NOT_ATTACHED,
    NoSuchBoard: Error.E_NO_DEVICE,
    Claimed: Error.E_ALREADY_ATTACHED,
    NotClaimed: Error.E_UNIMPLEMENTED,
    AccessDenied: Error.E_UNIMPLEMENTED,
    InteractiveAuthorizationRequired: Error.E_UNIMPLEMENTED,  # nobody can be asked
    NotResponding: Error.E_TIMEOUT,
    BridgeError: Error.E_TIMEOUT,
    ModuleUnsafe: Error.E_MODULE,
    LimitsExceeded: Error.E_OVERFLOW,
    Busy: Error.E_OVERFLOW,
}


def refusal(error: Exception) -> Refused:
    """As peers are told that speak FMR."""
    match error:
        case BadValue():
            return refusal_of_value(error)
        case BoardError():
            return Refused(error.error or Error.E_FMR, str(error))
        case _:
            return Refused(_NUMBERS.get(type(error), Error.E_COMMUNICATION), str(error))

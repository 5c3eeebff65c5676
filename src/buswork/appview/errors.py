"""What goes wrong with viewed processes, as callers are told."""

from buswork.errors import BusworkError

_PREFIX = "org.appview.Error."


class NoSuchProcess(BusworkError):
    """There is no such process, or it is none that has the library."""

    name = _PREFIX + "NoSuchProcess"


class ProcessGone(BusworkError):
    """It ended before it answered; what was asked of it may have been done or not."""

    name = _PREFIX + "ProcessGone"


class NotAnswering(BusworkError):
    """It has the library, and did not answer in time."""

    name = _PREFIX + "NotAnswering"


class QueueTaken(BusworkError):
    """Somebody else has a queue with the name that this process looks for."""

    name = _PREFIX + "QueueTaken"


class FileTaken(BusworkError):
    """There is a file of commands for this process already, which it has not read yet."""

    name = _PREFIX + "FileTaken"


class BadAnswer(BusworkError):
    """What came is no answer of the protocol."""

    name = _PREFIX + "BadAnswer"


class Refused(BusworkError):
    """The process says that it can't."""

    name = _PREFIX + "Refused"


class BadConfiguration(BusworkError):
    """The text names each member that is wrong, and how."""

    name = _PREFIX + "BadConfiguration"


class Unsupported(BusworkError):
    """It can't be done over queues and files."""

    name = _PREFIX + "Unsupported"

"""Values as D-Bus shows them, whose strings have no NUL and no half characters."""

from buswork.errors import BusworkError
from buswork.store.wire.values import shown


class NotText(BusworkError):
    """A native client stored a string that D-Bus can't carry."""

    name = "org.mapipc.Error.NotText"


def as_text(key: str, value: bytes) -> str:
    """The value as D-Bus shows it: JSON as its compact text, NotText for what is no string."""
    text = value.decode() if type(value) is bytes else shown(value)
    if text is None:
        raise NotText(f"The value of {key} has NUL or half a character; mapipc reads it.")
    return text

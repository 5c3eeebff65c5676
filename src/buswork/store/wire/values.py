"""What a value of the store can be: text, or JSON that came by the native sockets.

Text is `bytes`: UTF-8, not empty, without NUL; what D-Bus carries as a string. Everything else
that mapipcd's clients may store is `Json`.
"""


class Json(bytes):
    """A value that is no plain text, as JSON's compact text: 5, [1,"a"], "", "a\\u0000b".

    It is valid UTF-8 without NUL, and never empty, like any text; so whoever keeps, measures or
    compares values need not know it. It never equals the text that looks the same.
    """

    __slots__ = ()

    # bytes == Json comes here too: the right side is asked first when its class is the narrower.
    def __eq__(self, other: object) -> bool:
        return type(other) is Json and bytes.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = bytes.__hash__

    @property
    def is_string(self) -> bool:
        """Whether it is a string that D-Bus can't carry: empty, with NUL or half a character."""
        return self[:1] == b'"'


EMPTY = Json(b'""')  # kept, unlike the empty value of D-Bus, which clears a key


def shown(value: bytes) -> str | None:
    """The value as D-Bus shows it; None: it is no D-Bus string."""
    if type(value) is Json and value.is_string:
        return "" if value == EMPTY else None
    return value.decode()

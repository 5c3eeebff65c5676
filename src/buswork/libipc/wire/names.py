"""Names of services: file names of their sockets, so what a socket's path takes (section 1)."""

from typing import Final

# What a socket's path takes, for want of a 0 at its end.
PATH_BYTES: Final = 108
MAX_NAME_BYTES: Final = PATH_BYTES - len("//")

# The originals' own services: who serves them answers for others.
RESERVED: Final = frozenset(("network", "ipc", "tcp"))

LOCK_SUFFIX: Final = ".lock"
_SHOWN_CHARACTERS: Final = 64


class BadName(ValueError):
    """No service has such a name."""


def check(name: object) -> str:
    """This name, if a service may have it."""
    if not isinstance(name, str) or not name:
        raise BadName("the name of a service is a text that is not empty")
    # Nor half characters, which stand for bytes that are no UTF-8.
    if not name.isprintable():
        raise BadName(f"the name of a service has printable characters alone, not {_shown(name)}")
    if "/" in name or name in (".", ".."):
        text = "the name of a service is that of a file, without its directory"
        raise BadName(f"{text}, not {_shown(name)}")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise BadName(f"the name of a service has at most {MAX_NAME_BYTES} bytes")
    return name


def check_served(name: object) -> str:
    """This name, if it is one to serve."""
    checked = check(name)
    if checked.endswith(LOCK_SUFFIX):
        text = f"{checked!r} would be in the way of {checked.removesuffix(LOCK_SUFFIX)!r}"
        raise BadName(f"{text}, whose lock has this name")
    return checked


def parse(data: bytes) -> str:
    """A name as it comes from a peer."""
    try:
        return check(data.decode())
    except UnicodeDecodeError:
        raise BadName("the name of a service is no UTF-8") from None


def path(directory: str, name: str) -> str:
    """Where a service's socket is; a directory with a slash at its end gives two, as there."""
    return f"{directory}/{name}"


def fits(directory: str, name: str) -> bool:
    """Whether the originals reach a service of this name here."""
    return len(path(directory, name).encode()) <= PATH_BYTES


def _shown(name: str) -> str:
    shown = ascii(name[:_SHOWN_CHARACTERS])
    return shown if len(name) <= _SHOWN_CHARACTERS else f"{shown}..."

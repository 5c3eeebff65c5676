"""Whose a key is: those that begin with ~UID/ belong to that uid alone."""

import re

from buswork.errors import AccessDenied
from buswork.store.wire.lines import Change

_PRIVATE = re.compile(r"~(0|[1-9][0-9]*)/")


def is_private(key: str) -> bool:
    return _PRIVATE.match(key) is not None


def is_foreign(uid: int, key: str) -> bool:
    """Whether key is private to another uid.

    Uids are compared as text: a caller may write more digits than int() takes.
    """
    if key[:1] != "~":
        return False
    match = _PRIVATE.match(key)
    return match is not None and match[1] != str(uid)


def visible(change: Change, uid: int, prefix: str) -> bool:
    """Whether a watcher with this uid and prefix is to see the change."""
    key = change.key
    if key is None:
        return True
    return key.startswith(prefix) and not is_foreign(uid, key)


def check_access(uid: int, key: str) -> None:
    if is_foreign(uid, key):
        owner = key[1 : key.index("/")][:20]
        raise AccessDenied(f"Keys that begin with ~{owner}/ belong to uid {owner} alone.")

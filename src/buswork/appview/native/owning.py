"""Whose a process is. It is a caller's own if nothing in it is above the caller: else to ask it,
or to set where it writes to, would be a way to what it may and the caller may not."""

import os
from functools import cache

from buswork.appview.native.processes import PROC, Seen


def owner(seen: Seen) -> int | None:
    """The user whose own process it is; None: nobody's but root's.

    All four of its uids must be his (a setuid program has others), it has no capabilities, and it
    may be traced by him: of what may not, /proc belongs to root (proc(5), dumpable).
    """
    uid = seen.uid
    if set(seen.uids) != {uid} or (seen.has_capabilities and uid != 0):
        return None
    try:
        # Not of the directory, which is its user's in any case.
        shown = os.stat(f"{PROC}/{seen.pid}/maps").st_uid
    except OSError:
        return None
    return uid if shown == uid and _is_at_home(seen.pid) else None


def _is_at_home(pid: int) -> bool:
    """Whether it is in our user namespace: in another one, uids and capabilities mean others."""
    try:
        return _namespace(pid) == _home()
    except OSError:
        return False


@cache
def _home() -> tuple[int, int]:
    return _namespace("self")  # for good: a process of several threads can't go into another


def _namespace(pid: int | str) -> tuple[int, int]:
    found = os.stat(f"{PROC}/{pid}/ns/user")
    return found.st_dev, found.st_ino

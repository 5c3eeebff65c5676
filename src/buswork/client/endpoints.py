"""Where the driver's socket is, and whether whoever made it may be believed."""

import logging
import os
import pwd
import stat

from buswork.fsct.wire.protocol import ENDPOINT_VARIABLE

log = logging.getLogger(__name__)

USER_SOCKET = "fsct/fsct.sock"  # in $XDG_RUNTIME_DIR: the user's agent
SYSTEM_SOCKET = "/run/fsct/fsct.sock"
TMP_SOCKET = "/tmp/fsct.sock"
SERVICE_USER = "buswork"


def endpoints() -> list[str]:
    """The sockets to try, in their order.

    FSCT_IPC_ENDPOINT, if it is set and not blank, and nothing else. Or else, of these, those that
    are there: $XDG_RUNTIME_DIR/fsct/fsct.sock, /run/fsct/fsct.sock, /tmp/fsct.sock.

    In /tmp anybody can put a socket. That one counts only if it belongs to root, to the user
    buswork or to ourselves; whoever answers there must be one of them, too.
    """
    named = os.environ.get(ENDPOINT_VARIABLE, "")
    if named.strip():
        return [named]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    usual = [os.path.join(runtime, USER_SOCKET)] if runtime else []
    found = [path for path in (*usual, SYSTEM_SOCKET) if os.path.exists(path)]
    if _is_trusted_file(TMP_SOCKET):
        found.append(TMP_SOCKET)
    return found


def _is_trusted_file(path: str) -> bool:
    try:
        facts = os.lstat(path)
    except OSError:
        return False
    if not stat.S_ISSOCK(facts.st_mode):
        return False
    if not is_trusted(facts.st_uid):
        log.warning("%s is passed over: it belongs to uid %d", path, facts.st_uid)
        return False
    return True


def is_trusted(uid: int) -> bool:
    if uid in (0, os.geteuid()):
        return True
    try:
        return uid == pwd.getpwnam(SERVICE_USER).pw_uid
    except KeyError:
        return False

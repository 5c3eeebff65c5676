"""What a connection to the boards' socket may begin with: which board is meant, and for whom.

    board NAME            answered with "ok" or "error WHY"; each a message with a newline
    board NAME for UID    the same, of a door: it speaks for a user of this machine

No packet begins so, and without it the current board is meant.
"""

import re
from typing import Final, NamedTuple

from buswork.flipper.wire.terms import BadValue

BEGINNING: Final = b"board "
OK: Final = b"ok\n"
# No name is longer, and none has a space; "=" ends it on command lines.
_NAME: Final = r"[!-<>-~]{1,128}"
_GREETING: Final = re.compile(rf"board ({_NAME})(?: for ([0-9]{{1,10}}))?\n?".encode())


class Greeting(NamedTuple):
    board: str
    uid: int | None = None

    def __bytes__(self) -> bytes:
        speaks_for = "" if self.uid is None else f" for {self.uid}"
        return f"board {self.board}{speaks_for}\n".encode()


def is_name(text: str) -> bool:
    return re.fullmatch(_NAME, text) is not None


def parse_greeting(message: bytes) -> Greeting | None:
    """None: it is something else."""
    if not message.startswith(BEGINNING):
        return None
    found = _GREETING.fullmatch(message)
    if found is None:
        raise BadValue("board", "a connection begins with: board NAME")
    name, uid = found.groups()
    return Greeting(name.decode(), None if uid is None else int(uid))


def refused(why: str) -> bytes:
    return f"error {why}\n".encode(errors="replace")

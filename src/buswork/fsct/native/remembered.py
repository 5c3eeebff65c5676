"""What outlives the daemon: who the preferred player was, by what it calls itself and by its user.

A thread writes the file, so that nobody waits for a disk; the newest state is always written in
the end, and those between may be skipped. What could not be written is tried again, later each
time, and once more at the end. A file that can't be read is as good as none.
"""

import asyncio
import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import NamedTuple

from buswork.fsct.wire import checks
from buswork.fsct.wire.terms import BadValue

log = logging.getLogger(__name__)

NAME = "fsct.json"

# The longest self id, each byte of it escaped (6 bytes), and our own words.
MAX_FILE_BYTES = 4096
# Whoever changes his mind ten times a second does not make a disk write as often.
PAUSE_SECONDS = 1.0
# A disk that is full has room again some day; one small try in so long disturbs nobody.
MAX_PAUSE_SECONDS = 300.0
# -1 is no uid.
MAX_UID = 2**32 - 2


class Preferred(NamedTuple):
    self_id: str
    uid: int


class Remembered:
    """The file in the state directory; without one, nothing is remembered."""

    def __init__(self, state_dir: Path | None) -> None:
        self._path = None if state_dir is None else state_dir / NAME
        self._written: Preferred | None = None
        self._wanted: Preferred | None = None
        self._writing: asyncio.Task[None] | None = None
        self._failed = False  # the last time
        self._lock = threading.Lock()

    def load(self) -> Preferred | None:
        if self._path is None:
            return None
        try:
            found = _parse(_read(self._path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s is not used: %s", self._path, error)
            return None
        self._written = self._wanted = found
        return found

    def store(self, preferred: Preferred | None) -> None:
        self._wanted = preferred
        if self._path is not None and self._writing is None and self._wanted != self._written:
            self._writing = asyncio.create_task(self._keep_writing())

    async def _keep_writing(self) -> None:
        pause = PAUSE_SECONDS
        try:
            while self._wanted != self._written:
                await asyncio.to_thread(self._write)
                pause = min(pause * 2, MAX_PAUSE_SECONDS) if self._failed else PAUSE_SECONDS
                await asyncio.sleep(pause)
        finally:
            self._writing = None

    def _write(self) -> None:
        """Writes the newest, in whatever thread; a second one at the same time waits."""
        with self._lock:
            preferred = self._wanted
            if self._path is None or preferred == self._written:
                return
            try:
                _replace(self._path, _text(preferred))
            except OSError as error:
                if not self._failed:  # once for all tries
                    log.error("the preferred player is not remembered: %s", error)
                self._failed = True
            else:
                self._written, self._failed = preferred, False

    async def close(self) -> None:
        """Writes what is not written yet."""
        if self._writing is not None:
            self._writing.cancel()
        await asyncio.to_thread(self._write)


def _read(path: Path) -> bytes:
    """Whatever is there: a start must not wait for somebody to write into a FIFO."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is no regular file")
        return os.read(fd, MAX_FILE_BYTES + 1)
    finally:
        os.close(fd)


def _text(preferred: Preferred | None) -> bytes:
    return json.dumps({"preferred": preferred and preferred._asdict()}).encode() + b"\n"


def _parse(data: bytes) -> Preferred | None:
    """ValueError for whatever we did not write."""
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
    state = json.loads(data)
    if not isinstance(state, dict) or "preferred" not in state:
        raise ValueError("it does not say who is preferred")
    preferred = state["preferred"]
    if preferred is None:
        return None
    if not isinstance(preferred, dict):
        raise ValueError("it does not say who is preferred")
    self_id, uid = checks.self_id(preferred.get("self_id")), preferred.get("uid")
    if not self_id or type(uid) is not int or not 0 <= uid <= MAX_UID:
        raise BadValue("preferred", "the player that it says is preferred can't be one")
    return Preferred(self_id, uid)


def _replace(path: Path, data: bytes) -> None:
    """The file is the old one or the new one, whole, whatever happens meanwhile."""
    draft = path.with_name(f".{path.name}.new")
    how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(draft, how, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)

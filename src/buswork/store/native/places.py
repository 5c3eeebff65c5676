"""Socket files that the daemon makes by itself, where no systemd does.

A name appears complete: bound, listening and with its mode, in a directory of ours, then linked
to where clients look. What somebody else put there is never touched.
"""

import logging
import os
import socket
import stat
import tempfile
from pathlib import Path

from buswork.errors import BusworkError
from buswork.store.native.sockets import BACKLOG, GET_NAME, SET_NAME

log = logging.getLogger(__name__)

# Whoever may connect may ask; what he is answered is polkit's to say.
MODE = 0o666


class PlaceTaken(BusworkError):
    """There is something that we must not replace."""


class SocketFile:
    """A listening socket at a path, until it is removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        _make_way(path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._identity = _bind(self.listener, path)
        except BaseException:
            self.listener.close()
            raise

    def remove(self) -> None:
        """Takes the name away, if it still is ours."""
        try:
            if _identity(self._path.lstat()) == self._identity:
                self._path.unlink()
        except OSError:
            pass  # somebody did it for us, and the directory perhaps as well


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _make_way(path: Path) -> None:
    """Removes a socket that an earlier daemon of ours left; raises for anything else."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(facts.st_mode):
        raise PlaceTaken(f"{path} is there already, and is no socket")
    if facts.st_uid != os.geteuid():
        raise PlaceTaken(f"{path} is a socket of uid {facts.st_uid}, not ours")
    if _is_served(path):
        raise PlaceTaken(f"{path} is served by another process")
    path.unlink()


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # a full backlog, or we may not: in either case somebody is there
        return True


def _bind(listener: socket.socket, path: Path) -> tuple[int, int]:
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as ours:
        place = Path(ours) / path.name
        listener.bind(os.fspath(place))
        place.chmod(MODE)
        listener.listen(BACKLOG)
        try:
            # Unlike a renaming, a link never replaces what came there since we looked.
            os.link(place, path, follow_symlinks=False)
        except FileExistsError:
            raise PlaceTaken(f"somebody was faster at {path}") from None
        return _identity(place.lstat())


def make_sockets(directory: Path) -> list[SocketFile]:
    """Both sockets of the store in a directory; those that can't be made are logged."""
    made = []
    for name in (SET_NAME, GET_NAME):
        try:
            made.append(SocketFile(directory / name))
        except (PlaceTaken, OSError) as error:
            log.error("native clients can't reach the store at %s: %s", directory / name, error)
    return made

"""Socket files that the daemon makes by itself, where no systemd does.

A name appears complete: bound, listening and with its mode, in a directory of ours, then linked
to where clients look. What somebody else put there is never touched.
"""

import fcntl
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from buswork.errors import BusworkError

log = logging.getLogger(__name__)

# Whoever may connect may ask; what he is answered is polkit's to say.
MODE = 0o666
# Clients that wait while we are busy: one that does not block, and finds the line full, fails.
BACKLOG = 1024
# What Python takes for the path of a socket; where it is bound, it is ten bytes longer.
PATH_BYTES = 107


class PlaceTaken(BusworkError):
    """There is something that we must not replace."""


class SocketFile:
    """A listening socket at a path, until it is removed."""

    def __init__(
        self, path: Path, mode: int = MODE, kind: socket.SocketKind = socket.SOCK_STREAM
    ) -> None:
        self._path = path
        with _only_one(path):
            _make_way(path)
            self.listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
            try:
                self._identity = _bind(self.listener, path, mode)
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

    def close(self) -> None:
        """As if it had never been."""
        self.remove()
        self.listener.close()


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Two daemons of one user that start at once must not both take the same old socket away.

    The lock is a file of our own beside the socket, for anybody may lock a directory.
    """
    lock = path.with_name(f".{path.name}.lock")
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        facts = os.fstat(fd)
        if facts.st_uid != os.geteuid() or not stat.S_ISREG(facts.st_mode):
            raise PlaceTaken(f"{lock} is not ours")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # One who had the lock before may have taken the file away since we opened it.
            if _identity(lock.lstat()) != _identity(facts):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            raise PlaceTaken(f"another process is making {path}") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _make_way(path: Path) -> None:
    """Takes away what an earlier daemon of ours left here; raises for anything else."""
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


def _bind(listener: socket.socket, path: Path, mode: int) -> tuple[int, int]:
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as ours:
        place = Path(ours) / path.name
        if len(os.fsencode(place)) > PATH_BYTES:
            place = place.with_name("s")
        listener.bind(os.fspath(place))
        place.chmod(mode)
        listener.listen(BACKLOG)
        try:
            # Unlike a renaming, a link never replaces what came there since we looked.
            os.link(place, path, follow_symlinks=False)
        except FileExistsError:
            raise PlaceTaken(f"somebody was faster at {path}") from None
        return _identity(place.lstat())


def make_sockets(
    directory: Path,
    names: Sequence[str],
    kind: socket.SocketKind = socket.SOCK_STREAM,
    *,
    tell: Callable[[str], None] = log.error,
) -> list[SocketFile]:
    """All of a wing's sockets in a directory, or none, which is told: where one name is
    somebody else's, clients would say one thing to us and another to him."""
    made: list[SocketFile] = []
    for name in names:
        try:
            made.append(SocketFile(directory / name, kind=kind))
        except (PlaceTaken, OSError) as error:
            what = " and ".join(names)
            tell(f"native clients can't be served in {directory}, by {what}: {error}")
            for each in made:
                each.close()
            return []
    return made

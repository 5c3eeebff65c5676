"""Names of services for callers: a socket in a run directory, for as long as it is served.

Everything about it is done at once, and nobody can make us wait: a lock that is held, a socket that
is served, a file of somebody else all mean that the name is taken.
"""

import fcntl
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from buswork.libipc.errors import NameTaken, NotAllowed
from buswork.libipc.model.terms import RunDirectory
from buswork.libipc.wire.forms import Form
from buswork.libipc.wire.names import LOCK_SUFFIX
from buswork.native.places import PlaceTaken, SocketFile

# The service's owner says whose programs it lets in, and sees whose they are.
MODE: Final = 0o666


class Taken:
    """A listening socket, and its files."""

    def __init__(self, directory: RunDirectory, name: str) -> None:
        """NameTaken, NotAllowed."""
        path = Path(directory.path, name)
        self._lock = (
            _Lock(path.with_name(name + LOCK_SUFFIX)) if directory.form is Form.ZIG else None
        )
        try:
            self._file = SocketFile(path, MODE)
        except BaseException as error:
            self._unlock()
            if isinstance(error, PlaceTaken):
                raise NameTaken(str(error)) from error
            if isinstance(error, OSError):
                raise NotAllowed(f"can't serve at {path}: {error.strerror or error}") from error
            raise
        self.path = path
        self._identity = _identity(path)

    @property
    def is_there(self) -> bool:
        """Whether the name still is ours. A C server that may takes it without asking."""
        return _identity(self.path) == self._identity

    @property
    def listener(self) -> socket.socket:
        return self._file.listener

    def close(self) -> None:
        self._file.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _Lock:
    """Held as long as a service lives, as servers of the newer Zig version do.

    Those leave the file. Ours would be in the way of others: who is not its owner can't open it in
    a directory of everybody (protected_regular, proc_sys_fs(5)). So it goes with the service. Who
    opened it before and locks it afterwards has a lock of his own; that takes two at once.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._path = path
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise NameTaken(f"{path} is in the way: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise NameTaken(f"{path} is in the way: it is no file")
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise NameTaken(f"another process has locked {path}") from error
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        with suppress(OSError):
            ours, there = os.fstat(self._fd), self._path.lstat()
            if os.path.samestat(ours, there) and ours.st_uid == os.geteuid():
                self._path.unlink()
        os.close(self._fd)

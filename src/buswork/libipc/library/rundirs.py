"""Run directories: where services have their sockets (section 1).

A name is taken over only from a process that is gone: an original of form C takes it from a living
one too, and deletes at its end what is there then. Here only what is still ours is deleted.
"""

import asyncio
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from buswork.errors import Busy
from buswork.libipc.errors import NameTaken, NoSuchService, NotAllowed
from buswork.libipc.wire import names
from buswork.libipc.wire.forms import Form

# What says where the directory is.
VARIABLES: Final = {Form.C: "IPC_RUNDIR", Form.ZIG: "RUNDIR"}
# Where it is otherwise, with that of older versions last.
DEFAULTS: Final = {
    Form.C: (Path("/run/ipc"),),
    Form.ZIG: (Path("/tmp/.libipc-run"), Path("/tmp/libipc-run")),
}

# As the originals; the kernel has an upper bound of its own.
BACKLOG: Final = 128
_SOCKET_MODES: Final = {Form.C: None, Form.ZIG: 0o660}  # None: what the umask leaves
_LOCK_MODE: Final = 0o666

# Others that serve here at this moment need a fraction of one; who holds it up longer means harm,
# and is not waited for.
_LOCK_TRIES: Final = 25
_LOCK_PAUSE: Final = 0.002

# How long a service may leave no room for one more client; nothing tells that there is some.
CONNECT_SECONDS: Final = 5.0
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.1

# What Python takes for the path of a socket, one less than the kernel.
_MOST_ADDRESS: Final = names.PATH_BYTES - 1
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED, errno.ELOOP)


class RunDir(NamedTuple):
    path: Path
    form: Form

    @classmethod
    def of(cls, path: str | os.PathLike[str], form: Form = Form.C) -> Self:
        return cls(Path(path), form)

    def path_of(self, name: str) -> Path:
        """Where the socket of a service of this name is, or would be; BadName."""
        return self.path / names.check(name)

    def names(self) -> list[str]:
        """Of all sockets that are there, whether somebody listens or not."""
        found = []
        with suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError, names.BadName):
                    if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                        found.append(names.check(entry.name))
        return sorted(found)

    def make(self) -> None:
        """Unless it is there; as the originals of this form make it."""
        try:
            if self.form is Form.C:
                for directory in reversed((self.path, *self.path.parents)):
                    _make_directory(directory, 0o1750)
            elif _make_directory(self.path, 0o770):
                self.path.chmod(0o770)
        except OSError as error:
            raise NotAllowed(f"there is no {self.path}: {error.strerror}") from error


def from_environment(form: Form = Form.C) -> RunDir:
    named = os.environ.get(VARIABLES[form])
    return RunDir(Path(named) if named else DEFAULTS[form][0], form)


def _make_directory(path: Path, mode: int) -> bool:
    try:
        path.mkdir(mode)
    except FileExistsError:
        return False
    return True


# -- connecting ------------------------------------------------------------------------------------


def connect_to(path: Path) -> socket.socket:
    """Does not block, nor does the socket; BlockingIOError: too many clients wait already."""
    with ExitStack() as stack:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        stack.callback(sock.close)
        try:
            _connect(sock, path)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in (*_ABSENT, errno.EPROTOTYPE):
                raise NoSuchService(f"nobody serves {path.name!r} in {path.parent}") from None
            raise NotAllowed(f"can't connect to {path}: {error.strerror}") from error
        stack.pop_all()
        return sock


async def dial(rundir: RunDir, name: str) -> socket.socket:
    """Waits while too many others do."""
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + CONNECT_SECONDS, _FIRST_PAUSE
    while True:
        try:
            return connect_to(rundir.path_of(name))
        except BlockingIOError:
            if loop.time() > until:
                raise Busy(f"{name!r} has accepted nobody for {CONNECT_SECONDS:g} s") from None
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def is_alive(path: Path) -> bool:
    """Whether somebody has this socket open; a service sees a client come and go."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            _connect(sock, path)
        except OSError as error:
            return error.errno not in _ABSENT  # as far as we can tell
    return True


def _connect(sock: socket.socket, path: Path) -> None:
    with _file_address(path) as address:
        sock.connect(address)


@contextmanager
def _file_address(path: Path) -> Iterator[str]:
    """Of a socket that is there, however long its path is."""
    if len(os.fsencode(path)) <= _MOST_ADDRESS:
        yield str(path)
        return
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


# -- serving ---------------------------------------------------------------------------------------


class Place:
    """A listening socket and its file, which goes with it."""

    def __init__(self, sock: socket.socket, path: Path, lock: int | None) -> None:
        self.sock = sock
        self.path = path
        self._lock = lock  # kept as long as the service lives, as the originals of form ZIG do
        self._identity = _identity(path)

    @classmethod
    def take(cls, rundir: RunDir, name: str, mode: int | None = None) -> Self:
        """NameTaken, NotAllowed, BadName; the mode is the originals' unless it is given."""
        path = rundir.path / names.check_served(name)
        if len(os.fsencode(path)) > _MOST_ADDRESS:
            raise names.BadName(f"the path of a socket has at most {_MOST_ADDRESS} bytes: {path}")
        rundir.make()
        lock = None
        if rundir.form is Form.ZIG:
            lock = _lock_for_life(path.with_name(name + names.LOCK_SUFFIX))
        try:
            with _directory_locked(rundir.path):
                sock = _listen(path, _SOCKET_MODES[rundir.form] if mode is None else mode)
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise
        return cls(sock, path, lock)

    def close(self) -> None:
        """What is there by now may be another one's."""
        with suppress(OSError):
            if _identity(self.path) == self._identity:
                self.path.unlink()
        self.sock.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _lock_for_life(path: Path) -> int:
    """The file stays, for whoever has it open may lock it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, _LOCK_MODE)
    except OSError as error:
        raise NotAllowed(f"can't open {path}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise NameTaken(f"another process has locked {path}") from error
    return fd


@contextmanager
def _directory_locked(path: Path) -> Iterator[None]:
    """So that two who find the same stale socket don't take it away from one another."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # not to be read; whether sockets may be made there will be seen
        yield
        return
    try:
        for _ in range(_LOCK_TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_LOCK_PAUSE)
        yield
    finally:
        os.close(fd)


def _listen(path: Path, mode: int | None) -> socket.socket:
    with ExitStack() as stack:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        stack.callback(sock.close)
        if mode is not None:
            os.fchmod(sock.fileno(), mode)  # the file's, less the umask
        try:
            if not _bind(sock, path):
                _remove_stale(path)
                if not _bind(sock, path):
                    raise NameTaken(f"another process serves {path.name!r} in {path.parent}")
            if mode is not None:
                path.chmod(mode)
            sock.listen(BACKLOG)
        except OSError as error:
            raise NotAllowed(f"can't serve at {path}: {error.strerror}") from error
        stack.pop_all()
        return sock


def _bind(sock: socket.socket, path: Path) -> bool:
    try:
        sock.bind(str(path))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def _remove_stale(path: Path) -> None:
    """NameTaken: it is not. What is deleted is what was looked at, and nothing else."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISSOCK(status.st_mode):
            raise NameTaken(f"{path} is no socket")
        if is_alive(Path(f"/proc/self/fd/{fd}")):
            raise NameTaken(f"another process serves {path.name!r} in {path.parent}")
        if _identity(path) == (status.st_dev, status.st_ino):
            path.unlink()
    except FileNotFoundError:
        pass
    finally:
        os.close(fd)

"""Attaching and detaching: a file of commands, which the process reads once in its period.

The file is in the process's own file system, whose directories anybody there may write: nothing on
the way to it is followed, nothing that is there is opened, and it is made for the process's user
alone (protocol section 5). It is known by itself, not by its name, and so is its directory: what
somebody else has put in their place meanwhile is not touched.

Of two files with the same second of change the library drops the later one unread. So each has a
second that none before it had.
"""

import ctypes
import errno
import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from buswork.appview.native.target import Target
from buswork.errors import InvalidArgs

DIRECTORY: Final = "dev/shm"
ATTACH: Final = "APPVIEW_CMD_ATTACH"
# What may be set along with it: the library's own variables, and nothing but words.
_NAME = re.compile(r"APPVIEW_[A-Z0-9_]{1,56}\Z")
MOST_VALUE: Final = 4096
MOST_SETTINGS: Final = 64
_MODE: Final = 0o600

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_OPENAT2: Final = 437
_HOW = struct.Struct("QQQ")  # struct open_how: flags, mode, resolve
# What must not happen, each said: no link of any kind, and nothing outside of where we begin.
_RESOLVE: Final = 0x02 | 0x04 | 0x10  # NO_MAGICLINKS, NO_SYMLINKS, IN_ROOT


def lines(is_attached: bool, settings: Mapping[str, str]) -> bytes:
    """The file's text; InvalidArgs: that can't be said there."""
    if len(settings) > MOST_SETTINGS:
        raise InvalidArgs(f"there are {len(settings)} settings; {MOST_SETTINGS} are taken")
    for name, value in settings.items():
        if not _NAME.match(name) or name == ATTACH:
            raise InvalidArgs(f"{name!r} is no setting of the library (APPVIEW_...)")
        if len(value) > MOST_VALUE or any(ord(character) < 32 for character in value):
            raise InvalidArgs(f"the value of {name} is too long, or has control characters")
    said = {ATTACH: "true" if is_attached else "false", **settings}
    return "".join(f"{name}={value}\n" for name, value in said.items()).encode()


class CommandFile:
    """One file, until the process has read it or nobody waits any more."""

    def __init__(self, target: Target, directory: int) -> None:
        """directory: where the process looks for it, open."""
        self._target = target
        self._directory = directory
        self._name = f"appview_dconf.{target.own_pid}"
        self.path = f"/{DIRECTORY}/{self._name}"

    @contextmanager
    def written(self, text: bytes, second: int) -> Iterator[None]:
        """It is there. FileExistsError: there is one already, of us or of somebody else."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._fd = _open_below(self._directory, self._name, flags, _MODE)
        try:
            self._fill(text, second)
            yield
        finally:
            try:
                if self.is_there():
                    os.unlink(self._name, dir_fd=self._directory)
            finally:
                os.close(self._fd)

    def _fill(self, text: bytes, second: int) -> None:
        with memoryview(text) as rest:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        os.utime(self._fd, (second, second))
        if self._target.uid != os.geteuid():
            os.fchown(self._fd, self._target.uid, self._target.gid)

    def is_there(self) -> bool:
        """Until the process has read it. It is open, so no other file has its number."""
        try:
            found = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._fd))


@contextmanager
def directory_of(target: Target) -> Iterator[int]:
    """Where a process looks for its file. Its file system is to be entered through here alone."""
    root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target.proc)
    try:
        directory = _open_below(root, DIRECTORY, os.O_PATH | os.O_DIRECTORY)
    finally:
        os.close(root)
    try:
        yield directory
    finally:
        os.close(directory)


def _open_below(root: int, path: str, flags: int, mode: int = 0) -> int:
    how = _HOW.pack(flags | os.O_CLOEXEC, mode, _RESOLVE)
    fd: int = _libc.syscall(_OPENAT2, root, path.encode(), how, len(how))
    if fd < 0:
        number = ctypes.get_errno()
        if number == errno.ELOOP:
            raise OSError(number, "there is a symbolic link on the way", path)
        raise OSError(number, os.strerror(number), path)
    return fd

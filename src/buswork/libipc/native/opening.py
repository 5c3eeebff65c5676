"""A service's socket, held while it is looked at and connected to.

Rules
* A name is opened once, without following a link, and what was opened is what is judged and what is
  connected to: whoever exchanges the file meanwhile changes nothing.
* The daemon has no rights over files of others, and where it has (as root) it uses only those that
  the one has for whom it connects; from then on the service sees the daemon.
* A socket with a second name may be somebody's who serves elsewhere, and meant for other callers.
* In a directory where strangers may exchange files no name means anything: it is left alone. So is
  one to which a way leads that they may exchange: it could be that of the system's own sockets.
"""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from buswork.errors import Busy, LimitsExceeded
from buswork.libipc.errors import NoSuchService, NotAllowed
from buswork.libipc.model.access import CONNECT, SEARCH, FileFacts, may
from buswork.libipc.model.terms import RunDirectory, Who
from buswork.libipc.native.unix_sockets import File

# How long a service may leave no room in its line of clients. Nothing tells that there is some.
CONNECT_SECONDS: Final = 5.0
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.1

_MOST_LINKS: Final = 8
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_NO_LIST: Final = (errno.ENODATA, errno.EOPNOTSUPP)
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class Unsafe(NotAllowed):
    """A run directory that is not used."""


@dataclass(frozen=True, slots=True)
class OpenDirectory:
    fd: int
    directory: RunDirectory
    facts: FileFacts
    above: Sequence[FileFacts]

    def may(self, who: Who, want: int) -> bool:
        return all(may(who, facts, SEARCH) for facts in self.above) and may(who, self.facts, want)


@contextmanager
def open_directory(directory: RunDirectory, own_uid: int) -> Iterator[OpenDirectory]:
    """NoSuchService: there is none; Unsafe."""
    try:
        path = _without_links(directory.path, own_uid)
        above = [_directory_facts(parent, own_uid) for parent in _parents(path)]
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _not_opened(directory.path, error) from error
    try:
        facts = _facts(fd)
        _check_safe(path, facts, own_uid)
        yield OpenDirectory(fd, directory, facts, above)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class OpenService:
    fd: int
    name: str
    directory: RunDirectory
    facts: FileFacts

    @property
    def file(self) -> File:
        status = os.fstat(self.fd)
        return File(self.directory.path, self.name, status.st_dev, status.st_ino)

    @property
    def _described(self) -> str:
        mode, uid = stat.S_IMODE(self.facts.mode), self.facts.uid
        return f"the socket of {self.name!r} (mode {mode:04o}, uid {uid})"

    def check(self, who: Who) -> None:
        if not may(who, self.facts, CONNECT):
            raise NotAllowed(f"{self._described} does not let uid {who.uid} connect")

    async def connect(self) -> socket.socket:
        """A socket that does not block, and nobody else has."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await self._connect(sock)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                raise self._not_connected(error) from error
            raise
        return sock

    async def _connect(self, sock: socket.socket) -> None:
        pause = _FIRST_PAUSE
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                while True:
                    try:
                        sock.connect(f"/proc/self/fd/{self.fd}")
                        return
                    except BlockingIOError:
                        await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError:
            raise Busy(f"{self.name!r} takes no new clients") from None

    def _not_connected(self, error: OSError) -> Exception:
        if error.errno in (errno.EACCES, errno.EPERM):
            return NotAllowed(
                f"{self._described} does not let the daemon connect; its owner may let it: "
                f"setfacl -m u:{os.geteuid()}:rw"
            )
        if error.errno == errno.ECONNREFUSED:
            return NoSuchService(f"nobody serves {self.name!r} any more")
        if error.errno == errno.EPROTOTYPE:
            return NoSuchService(f"the socket of {self.name!r} is none for streams")
        return error


@contextmanager
def open_service(
    directory: RunDirectory, name: str, who: Who, own_uid: int
) -> Iterator[OpenService]:
    """NoSuchService, or NotAllowed where `who` may not even know whether there is one.

    Whether it may connect is for `check`.
    """
    with open_directory(directory, own_uid) as opened:
        if not opened.may(who, SEARCH):
            raise NotAllowed(f"uid {who.uid} has no way into {directory.path}")
        try:
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=opened.fd)
        except OSError as error:
            raise _not_opened(f"service {name!r} in {directory.path}", error) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISSOCK(status.st_mode):
            raise NoSuchService(f"{name!r} in {directory.path} is no socket")
        if status.st_nlink != 1:
            raise NotAllowed(f"{name!r} in {directory.path} has another name too")
        yield OpenService(fd, name, directory, _facts(fd))
    finally:
        os.close(fd)


def _without_links(path: str, own_uid: int) -> str:
    """Where it is. A stranger's link in /tmp might lead to where the system's own sockets are."""
    for _ in range(_MOST_LINKS):
        link = next((each for each in (*_parents(path), path) if os.path.islink(each)), None)
        if link is None:
            return path
        owner = os.lstat(link).st_uid
        if owner not in (0, own_uid):
            raise Unsafe(f"{link} is a link of uid {owner}, who may say where it leads")
        target = os.path.join(os.path.dirname(link), os.readlink(link))
        path = os.path.normpath(target + path[len(link) :])
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _check_safe(path: str, facts: FileFacts, own_uid: int) -> None:
    if facts.uid not in (0, own_uid):
        raise Unsafe(f"{path} belongs to uid {facts.uid}, who may exchange what is there")
    if facts.mode & _OTHERS_WRITE and not facts.mode & stat.S_ISVTX:
        raise Unsafe(f"{path} lets others exchange what is there: it needs the sticky bit")


def _parents(path: str) -> list[str]:
    """From the root on."""
    found = []
    while path != "/":
        path = os.path.dirname(path)
        found.append(path)
    return found[::-1]


def _directory_facts(path: str, own_uid: int) -> FileFacts:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = _facts(fd)
    finally:
        os.close(fd)
    _check_safe(path, facts, own_uid)
    return facts


def _facts(fd: int) -> FileFacts:
    status = os.fstat(fd)
    return FileFacts(status.st_uid, status.st_gid, status.st_mode, _access_list(fd))


def _access_list(fd: int) -> bytes:
    try:
        # Not of the descriptor itself: what was opened by O_PATH has no attributes to read.
        return os.getxattr(f"/proc/self/fd/{fd}", "system.posix_acl_access")
    except OSError as error:
        if error.errno in _NO_LIST:
            return b""
        raise


def _not_opened(what: str, error: OSError) -> Exception:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return NoSuchService(f"there is no {what}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotAllowed(f"the daemon has no way to {what}")
    if error.errno in _EXHAUSTED:
        return LimitsExceeded(f"the daemon has no descriptor left: {error.strerror}")
    return error

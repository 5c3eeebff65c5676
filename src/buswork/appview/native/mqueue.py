"""POSIX message queues, which Python has no module for, by the C library (protocol section 6).

A queue's number is a descriptor on Linux: fchown, fstat and epoll know it, and it closes on exec.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, NoReturn

_libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_long),
        ("maxmsg", ctypes.c_long),
        ("msgsize", ctypes.c_long),
        ("curmsgs", ctypes.c_long),
        ("reserved", ctypes.c_long * 4),
    )


_libc.mq_getattr.argtypes = (ctypes.c_int, ctypes.POINTER(_Attributes))
_libc.mq_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint)
_libc.mq_receive.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)
_libc.mq_receive.restype = ctypes.c_ssize_t
_libc.syscall.restype = ctypes.c_long
_libc.mq_unlink.argtypes = (ctypes.c_char_p,)

# The same on every machine (since Linux 5.2).
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6

# What the kernel counts for each message of a queue beside its bytes (struct msg_msg and the
# node of a tree for each priority, of which there may be as many; mq_overview(7), RLIMIT_MSGQUEUE).
MESSAGE_BYTES: Final = 48 + 48


class Attributes(NamedTuple):
    most_messages: int
    message_bytes: int
    waiting: int

    @property
    def charged(self) -> int:
        """What a queue like this takes of its user's RLIMIT_MSGQUEUE."""
        return self.most_messages * (self.message_bytes + MESSAGE_BYTES)


class Queue:
    """An open queue, which never waits: BlockingIOError when it is full or empty."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.attributes = attributes(fd)
        self._buffer = ctypes.create_string_buffer(self.attributes.message_bytes)
        self._received = memoryview(self._buffer)

    def fileno(self) -> int:
        return self._fd

    def send(self, message: bytes) -> None:
        if _libc.mq_send(self._fd, message, len(message), 0):
            _fail()

    def receive(self) -> bytes:
        length = _libc.mq_receive(self._fd, self._buffer, len(self._buffer), None)
        if length < 0:
            _fail()
        return self._received[:length].tobytes()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def create(name: str, flags: int, most_messages: int, message_bytes: int) -> Queue:
    """A new queue for us alone; FileExistsError: somebody was here before."""
    wanted = _Attributes(maxmsg=most_messages, msgsize=message_bytes)
    flags |= os.O_CREAT | os.O_EXCL | os.O_NONBLOCK
    mode = ctypes.c_uint(0o600)
    fd = _libc.mq_open(_named(name), flags, mode, ctypes.byref(wanted))
    if fd < 0:
        _fail(name)
    return Queue(fd)


def open_queue(name: str, flags: int) -> Queue:
    """One that is there."""
    fd = _libc.mq_open(_named(name), flags | os.O_NONBLOCK)
    if fd < 0:
        _fail(name)
    return Queue(fd)


def unlink(name: str) -> None:
    if _libc.mq_unlink(_named(name)):
        _fail(name)


def look(name: str) -> os.stat_result:
    """Whose a queue is, without opening it, in the IPC namespace of this thread."""
    with _mounted() as mount:
        return os.stat(name, dir_fd=mount, follow_symlinks=False)


def all_queues() -> dict[str, os.stat_result]:
    """The same of all that are there."""
    with _mounted() as mount:
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
        try:
            with os.scandir(folder) as entries:
                return {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        finally:
            os.close(folder)


@contextmanager
def _mounted() -> Iterator[int]:
    """The file system of queues, mounted where nobody else can see it (fsmount(2)):
    PermissionError without CAP_SYS_ADMIN."""
    context = _system(_FSOPEN, b"mqueue", _FSOPEN_CLOEXEC)
    try:
        _system(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        mount = _system(_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        yield mount
    finally:
        os.close(mount)


def attributes(fd: int) -> Attributes:
    found = _Attributes()
    if _libc.mq_getattr(fd, ctypes.byref(found)):
        _fail()
    return Attributes(found.maxmsg, found.msgsize, found.curmsgs)


def _system(*arguments: int | bytes | None) -> int:
    result: int = _libc.syscall(*arguments)
    if result < 0:
        _fail()
    return result


def _named(name: str) -> bytes:
    if "\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
    return b"/" + os.fsencode(name)


def _fail(name: str | None = None) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), name)

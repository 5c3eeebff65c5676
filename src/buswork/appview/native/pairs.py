"""The two queues of a conversation: made, known by their mode, owner and lock, and removed.

Of what is there already, only that goes which a daemon that was killed has left. That it was ours
shows in its mode; that whoever made it is gone, in a lock that it no longer has. It is looked at
without one (F_OFD_GETLK): who takes a lock to see whether there is one is taken for its owner.
"""

import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Final

from buswork.appview import errors
from buswork.appview.native import mqueue
from buswork.appview.native.mqueue import Queue
from buswork.appview.native.target import ANSWER, ASK, Target
from buswork.appview.wire.frames import FRAME_BYTES
from buswork.errors import AccessDenied, BusworkError, LimitsExceeded

# Each end belongs to the process: it reads the one and writes the other.
ASK_MODE: Final = 0o400
ANSWER_MODE: Final = 0o200
_UNFINISHED_MODE: Final = 0o600

_NAME: Final = re.compile(rf"({ASK}|{ANSWER})\.([1-9]\d{{0,9}})")
_MODES: Final = {ASK: ASK_MODE, ANSWER: ANSWER_MODE}
_LOCK: Final = struct.Struct("hhqqi")  # struct flock: type, whence, start, length, pid


class InUse(errors.QueueTaken):
    """By one like us."""


class Pair:
    """The two queues of one conversation."""

    def __init__(self, target: Target, most_messages: int) -> None:
        self.target = target
        self._most_messages = most_messages
        self._queues: dict[str, Queue] = {}

    def open(self) -> None:
        """The one for requests comes last: a process that sees it, and no other, complains."""
        try:
            self.answer = self._made(self.target.answer_name, os.O_RDONLY, ANSWER_MODE)
            self.ask = self._made(self.target.ask_name, os.O_WRONLY, ASK_MODE)
        except OSError as error:
            raise named(error, self.target) from error

    def remove(self) -> None:
        """Whatever had been made, and not what has its name by now: the user of the process may
        have removed ours, and somebody else have made another."""
        for name, queue in self._queues.items():
            if os.fstat(queue.fileno()).st_nlink:
                with suppress(FileNotFoundError):
                    mqueue.unlink(name)
            queue.close()
        self._queues.clear()

    def _made(self, name: str, flags: int, mode: int) -> Queue:
        try:
            queue = mqueue.create(name, flags, self._most_messages, FRAME_BYTES)
        except FileExistsError:
            with suppress(FileNotFoundError):  # it went meanwhile
                _reclaim(name, mode, self.target)
            queue = mqueue.create(name, flags, self._most_messages, FRAME_BYTES)
        self._queues[name] = queue
        _lock(queue, fcntl.F_RDLCK if flags == os.O_RDONLY else fcntl.F_WRLCK)
        os.fchmod(queue.fileno(), mode)
        if self.target.uid != os.geteuid():
            os.fchown(queue.fileno(), self.target.uid, self.target.gid)
        return queue


def remove_orphans(pids: Callable[[], set[int]]) -> int:
    """Removes what a daemon that was killed has left for processes that are gone as well: nobody
    asks about those again, so nobody would find it, and it takes room. How many there were.

    Those of containers go with their namespaces. Without the right to list queues, nothing is done.
    """
    try:
        found = mqueue.all_queues()
    except PermissionError:
        return 0
    alive = pids()  # later: whoever has a queue and has not ended is among them
    removed = 0
    for name, status in found.items():
        match = _NAME.fullmatch(name)
        if match and _is_ours(status, _MODES[match[1]]) and int(match[2]) not in alive:
            with suppress(OSError):  # it went meanwhile
                mqueue.unlink(name)
                removed += 1
    return removed


def _is_ours(status: os.stat_result, mode: int) -> bool:
    is_unfinished = status.st_uid == os.geteuid() and _has_mode(status, _UNFINISHED_MODE)
    return is_unfinished or _has_mode(status, mode)


def _has_mode(status: os.stat_result, mode: int) -> bool:
    return stat.S_IMODE(status.st_mode) == mode


def _reclaim(name: str, mode: int, target: Target) -> None:
    """Removes what a daemon that was killed has left, and nothing else: nobody but us makes one
    with this mode for the user of the process, unless it is that user, who harms himself."""
    found, is_locked = _looked_at(name, mode)
    if found.st_uid not in (target.uid, os.geteuid()) or not _is_ours(found, mode):
        raise errors.QueueTaken(
            f"uid {found.st_uid} has made the queue /{name}, which process {target.pid} looks for; "
            "the original command does so while it runs, and leaves it behind when it is killed"
        )
    if is_locked:
        raise InUse(f"another service speaks with process {target.pid}")
    mqueue.unlink(name)


def _looked_at(name: str, mode: int) -> tuple[os.stat_result, bool]:
    """Whose it is, and whether a daemon that made it still has it, as far as can be seen."""
    try:
        with closing(
            mqueue.open_queue(name, os.O_RDONLY if mode & 0o444 else os.O_WRONLY)
        ) as queue:
            return os.fstat(queue.fileno()), _is_locked(queue)
    except PermissionError:
        return mqueue.look(name), False


def _lock(queue: Queue, kind: int) -> None:
    """For as long as it is open; nobody else can have opened it by now."""
    fcntl.fcntl(queue, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, 0, 0, 0))


def _is_locked(queue: Queue) -> bool:
    wanted = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind: int = _LOCK.unpack(fcntl.fcntl(queue, fcntl.F_OFD_GETLK, wanted))[0]
    return kind != fcntl.F_UNLCK


def named(error: OSError, target: Target) -> BusworkError:
    """What went wrong with the queues of a process, as callers are told."""
    if isinstance(error, PermissionError):
        return AccessDenied(f"the queues of process {target.pid} can't be made: {error.strerror}")
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM):
        return LimitsExceeded(f"there is no room for the queues of process {target.pid}: {error}")
    if error.errno == errno.EOVERFLOW:
        return errors.Unsupported(
            f"process {target.pid} is in a container of another user namespace, where nothing can "
            "belong to this service"
        )
    if isinstance(error, FileExistsError):
        return errors.QueueTaken(f"somebody was faster at the queues of process {target.pid}")
    return errors.NotAnswering(f"the queues of process {target.pid} failed: {error}")

"""Who is at the other end of a native socket: uid, pid, and whether that process still lives.

Most clients connect once for each request. A process is therefore remembered by a descriptor
(pidfd) for as long as it lives: while that is so, no other process can have its pid, and whoever
connects with this pid and uid is the same one.
"""

import asyncio
import errno
import os
import select
import socket
from collections import OrderedDict
from collections.abc import Callable

from buswork.authority import Lease
from buswork.bus.caller import Peer
from buswork.errors import AccessDenied, LimitsExceeded
from buswork.native.credentials import CREDENTIALS

# Processes that are remembered while none of their connections is open: a descriptor each. Those
# for which something is counted until they end come on top, as many as their quotas allow.
MAX_PEERS = 256

# Linux 6.5: the process that connected, even if its pid has been used again since.
SO_PEERPIDFD = 77

_CREDENTIALS_BYTES = CREDENTIALS.size
_SOCKET = int(socket.SOL_SOCKET)
_PEERCRED = int(socket.SO_PEERCRED)


class Known:
    """A process that has connected; kept open while connections of it are."""

    __slots__ = ("credentials", "ended", "holders", "is_kept", "leases", "peer")

    def __init__(self, peer: Peer, credentials: bytes) -> None:
        self.peer = peer
        self.credentials = credentials  # as the kernel gave them
        # What is counted against its uid until it ends, or is forgotten here.
        self.leases: list[Lease] = []
        self.holders = 0
        self.is_kept = True
        poll = select.poll()
        poll.register(peer.pidfd, select.POLLIN)
        self.ended = poll.poll  # ended(0) is true when the process has ended


class Peers:
    """The processes that connected of late."""

    def __init__(self, on_end: Callable[[Peer], None], most: int = MAX_PEERS) -> None:
        self._on_end = on_end
        self._most = most
        # By their credentials as they come: pid, uid and gid, which need not be taken apart.
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, sock: socket.SocketType) -> Known:
        """The process that connected; AccessDenied when it has ended: nobody can vouch for it."""
        credentials = sock.getsockopt(_SOCKET, _PEERCRED, _CREDENTIALS_BYTES)
        known = self._known.get(credentials)
        if known is not None:
            if not known.ended(0):
                self._known.move_to_end(credentials)
                return known
            self._drop(known)
        return self._learn(sock, credentials)

    def _learn(self, sock: socket.SocketType, credentials: bytes) -> Known:
        pid, uid, _ = CREDENTIALS.unpack(credentials)
        known = Known(Peer(uid, pid, _open_pidfd(sock, pid)), credentials)
        if known.ended(0):
            os.close(known.peer.pidfd)
            raise AccessDenied(f"process {pid} ended before it was answered")
        self._make_room()
        self._known[credentials] = known
        self._loop.add_reader(known.peer.pidfd, self._drop, known)
        return known

    def _make_room(self) -> None:
        """Forgets who has not come for longest; never one who has something of ours: it would be
        counted no longer, though it is still there."""
        if len(self._known) >= self._most:
            idle = (each for each in self._known.values() if not each.leases and not each.holders)
            oldest = next(idle, None)
            if oldest is not None:
                self._drop(oldest)

    def hold(self, known: Known) -> None:
        """Keeps the descriptor open until it is let go, whatever happens to the process."""
        known.holders += 1

    def let_go(self, known: Known) -> None:
        known.holders -= 1
        self._close_unused(known)

    def _drop(self, known: Known) -> None:
        if not known.is_kept:
            return
        known.is_kept = False
        self.hold(known)  # whoever hears of its end may let it go
        peer = known.peer
        del self._known[known.credentials]
        self._loop.remove_reader(peer.pidfd)
        for lease in known.leases:
            lease.release()
        # Also of one that lives: it will be another peer when it comes again, and its descriptor's
        # number that of another process.
        self._on_end(peer)
        self.let_go(known)

    def _close_unused(self, known: Known) -> None:
        if not known.is_kept and not known.holders:
            os.close(known.peer.pidfd)

    def close(self) -> None:
        for known in tuple(self._known.values()):
            self._drop(known)


def _open_pidfd(sock: socket.SocketType, pid: int) -> int:
    try:
        return sock.getsockopt(_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        _explain(error, pid)
    # An older kernel. Should the pid have been used again within this moment, then the process
    # that polkit is asked about is the new one, with the uid of the old one.
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        _explain(error, pid)
        raise AccessDenied(f"process {pid} can't be watched: {error.strerror}") from None


def _explain(error: OSError, pid: int) -> None:
    """Raises what the error means; returns when the kernel does not know the question."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise LimitsExceeded("the daemon has no descriptor left") from error
    if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENODATA):
        raise AccessDenied(f"process {pid} ended before it was answered") from error

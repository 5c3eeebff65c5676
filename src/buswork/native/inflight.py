"""Descriptors that were sent over native sockets, and that nobody has received yet.

The kernel counts them against our uid, and gives nobody another one when there are as many as
a process may have open (ETOOMANYREFS). They stay in flight for as long as anybody holds the other
end unread, which need not be who asked: sockets can be passed on. So our own end stays open, and
is counted, until nothing that we sent lies there. To close it earlier would change nothing but
that we no longer know.
"""

import array
import asyncio
import errno
import fcntl
import resource
import socket
import struct
import termios
from collections import Counter

from buswork.errors import LimitsExceeded

# A client has received its descriptor when it has read the reply: nobody honest needs more.
PER_UID = 8
# All together: this part of the descriptors that we may have open, or send.
PART = 8
# How often it is looked. The reply's end is sent with it, so no client waits for this.
LOOK_SECONDS = 0.25

_INT = struct.Struct("i")
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_EXHAUSTED = (errno.ETOOMANYREFS, errno.EMFILE, errno.ENFILE)


class InFlight:
    """Sends descriptors, so many at a time."""

    def __init__(self, total: int | None = None) -> None:
        self._total = total or resource.getrlimit(resource.RLIMIT_NOFILE)[0] // PART
        self._sent: dict[socket.socket, int] = {}
        self._count: Counter[int] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._sent)

    def check(self, uid: int) -> None:
        """LimitsExceeded: uid, or all together, have not received enough of what they got."""
        if not self._is_full(uid):
            return
        self._look()
        if self._is_full(uid):
            raise LimitsExceeded("too many descriptors were sent that nobody has received yet")

    def send(self, uid: int, sock: socket.SocketType, reply: bytes, fd: int) -> None:
        """Sends a reply, a descriptor and the end; the socket is ours from then on."""
        self.check(uid)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (fd,)))
        try:
            sock.sendmsg((reply,), (rights,), _SEND)  # a new socket has room
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise LimitsExceeded(f"no descriptor can be sent now: {error.strerror}") from error
            raise
        kept = socket.socket(fileno=sock.detach())
        kept.shutdown(socket.SHUT_WR)
        self._sent[kept] = uid
        self._count[uid] += 1
        self._plan()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for sock in self._sent:
            sock.close()
        self._sent.clear()
        self._count.clear()

    def _is_full(self, uid: int) -> bool:
        return self._count[uid] >= PER_UID or len(self._sent) >= self._total

    def _plan(self) -> None:
        if self._timer is None and self._sent:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for sock, uid in [*self._sent.items()]:
            # Not whether it reads to its end: a client may shut down what it goes on holding.
            if not _unread(sock):
                sock.close()
                del self._sent[sock]
                self._count[uid] -= 1
        self._count = +self._count
        self._plan()


def _unread(sock: socket.socket) -> int:
    """What lies there that we sent; nothing as soon as the last holder of the other end closes."""
    return int(_INT.unpack(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(_INT.size)))[0])

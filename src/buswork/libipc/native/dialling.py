"""Services behind other hosts' doors: the daemon has no IP socket, so the doors process dials."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Final

from buswork.authority import Lease
from buswork.errors import AccessDenied, BusworkError, LimitsExceeded, TimedOut
from buswork.libipc.wire.forms import Form
from buswork.libipc.wire.lookups import Uri

# A name has to be looked up; longer than the doors process waits for that.
DIAL_SECONDS: Final = 15.0
ANSWER_BYTES: Final = 4096


class NoDoors(BusworkError):
    """The process that has the IP sockets is not there."""

    name = "org.libipc.Error.NoDoors"


class Dialler:
    """Asks the doors, and keeps each answer's lease until the way has ended."""

    def __init__(self, doors: Path) -> None:
        self._doors = str(doors)
        self._open: dict[socket.socket, Lease] = {}

    async def dial(self, form: Form, uri: Uri, lease: Lease) -> socket.socket:
        """A socket that does not block. The lease is ours to release."""
        asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                sock = await _asked(asking, self._doors, f"ipc {form} {uri}")
        except BaseException as error:
            asking.close()
            lease.release()
            raise _named(error, uri) from error
        self._open[asking] = lease
        asyncio.get_running_loop().add_reader(asking.fileno(), self._ended, asking)
        return sock

    def close(self) -> None:
        for asking in [*self._open]:
            self._ended(asking)

    def _ended(self, asking: socket.socket) -> None:
        """The doors have nothing more to say: it is the end."""
        asyncio.get_running_loop().remove_reader(asking.fileno())
        asking.close()
        self._open.pop(asking).release()


async def _asked(asking: socket.socket, doors: str, line: str) -> socket.socket:
    asking.connect(doors)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(asking, f"{line}\n".encode())
    return _answer(*await _received(asking))


async def _received(asking: socket.socket) -> tuple[bytes, list[int]]:
    loop = asyncio.get_running_loop()
    came: asyncio.Future[None] = loop.create_future()

    def has_come() -> None:
        if not came.done():  # who asked may have given up a moment ago
            came.set_result(None)

    loop.add_reader(asking.fileno(), has_come)
    try:
        await came
    finally:
        loop.remove_reader(asking.fileno())
    answer, fds, _, _ = socket.recv_fds(asking, ANSWER_BYTES, 1)  # it takes no flags (3.11)
    return answer, fds


def _answer(answer: bytes, fds: list[int]) -> socket.socket:
    word, _, rest = answer.decode(errors="replace").rstrip("\n").partition(" ")
    if word == "ok" and fds:
        sock = socket.socket(fileno=fds[0])
        sock.set_inheritable(False)
        sock.setblocking(False)
        return sock
    for fd in fds:
        os.close(fd)
    if word == "denied":
        raise AccessDenied(rest)
    raise BusworkError(rest or "the doors gave no answer")


def _named(error: BaseException, uri: Uri) -> BaseException:
    if isinstance(error, TimeoutError):
        return TimedOut(f"{uri} could not be dialled in time")
    if isinstance(error, BlockingIOError):
        return LimitsExceeded("the doors have too much to do")
    if isinstance(error, OSError):
        return NoDoors(
            f"services of other hosts are reached through buswork-doors, which is not there "
            f"({error.strerror}); to have it: systemctl enable --now buswork-doors"
        )
    return error

"""Asking the daemon for services: this process may reach none.

A connection for each question, a line each way; the descriptor of the answer is connected to the
service. It is the daemon that looks whether this user may.
"""

import asyncio
import socket
from typing import Final

from buswork.errors import AccessDenied, BusworkError, TimedOut
from buswork.libipc.doors.sockets import readable
from buswork.libipc.wire.forms import Form

# From the question to the answer; the daemon may have to ask polkit.
SECONDS = 10.0
_ANSWER_BYTES: Final = 4096


class NoPassage(BusworkError):
    """The daemon does not answer."""


async def connect(passage: str, uid: int, form: Form, service: str) -> socket.socket:
    """The service, as this user reaches it: a stream that does not block."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as sock:
        try:
            async with asyncio.timeout(SECONDS):
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, passage)
                await loop.sock_sendall(sock, f"connect {uid} {form} {service}\n".encode())
                answer, descriptor = await _answer(sock)
        except TimeoutError:
            raise TimedOut("the daemon did not answer in time") from None
        except OSError as error:
            raise NoPassage(f"the daemon is not there: {error.strerror}") from error
    return _service(answer, descriptor)


def _service(answer: str, descriptor: int | None) -> socket.socket:
    word, _, rest = answer.rstrip("\n").partition(" ")
    if descriptor is not None:
        service = socket.socket(fileno=descriptor)
        if word == "ok":
            service.set_inheritable(False)
            service.setblocking(False)
            return service
        service.close()
    if word == "denied":
        raise AccessDenied(rest)
    if word == "error":
        name, _, text = rest.partition(" ")
        raise BusworkError(text, name)
    raise NoPassage("the daemon left without an answer")


async def _answer(sock: socket.socket) -> tuple[str, int | None]:
    await readable(sock)
    raw, descriptors, _, _ = socket.recv_fds(sock, _ANSWER_BYTES, 1)
    return raw.decode(errors="replace"), next(iter(descriptors), None)

"""What the doors do with sockets."""

import asyncio
import socket

from buswork.libipc.doors.options import Place

# As many as may wait while we are busy; each door serves them one after another.
BACKLOG = 64
# An end that was silent for so long is asked for a sign of life; the kernel's two hours are long
# for who takes one of a few places.
SILENT_SECONDS = 60


def listening(place: Place) -> socket.socket:
    """OSError: the place is taken."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    sock = socket.create_server((place.host, place.port), family=family, backlog=BACKLOG)
    sock.setblocking(False)
    return sock


def prepare(sock: socket.socket) -> None:
    """For messages: each leaves at once, and an end that vanished is noticed in a quarter hour."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_SECONDS)


async def readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    is_readable = loop.create_future()
    loop.add_reader(sock, _set, is_readable)
    try:
        await is_readable
    finally:
        loop.remove_reader(sock)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)

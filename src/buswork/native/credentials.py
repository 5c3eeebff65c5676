"""Who is at the other end of a socket, as the kernel says (SO_PEERCRED)."""

import socket
import struct
from typing import NamedTuple, Protocol

CREDENTIALS = struct.Struct("3i")


class Credentials(NamedTuple):
    """Those of the process that connected, or listened, at that time."""

    pid: int
    uid: int
    gid: int


class Connected(Protocol):
    """A socket, or what asyncio shows of one."""

    def getsockopt(self, level: int, name: int, size: int, /) -> bytes: ...


def peer_of(sock: Connected) -> Credentials:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return Credentials(*CREDENTIALS.unpack(raw))

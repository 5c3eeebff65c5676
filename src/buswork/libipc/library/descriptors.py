"""Descriptors over sockets, as the originals pass them (section 8).

A byte carries them, for nothing passes without one. Whoever reads that byte without asking for
descriptors loses them: the kernel closes them, so that nobody fills up with what it did not ask
for. All ordinary reading here is of that kind.
"""

import os
import socket
import struct
from typing import Final

from buswork.libipc.errors import NoDescriptor

DESCRIPTOR_BYTE: Final = b"\0"
# One is taken; so many more are seen, and closed. The kernel closes the rest.
_MOST: Final = 16
_ROOM: Final = socket.CMSG_SPACE(_MOST * struct.calcsize("i"))


def send(sock: socket.socket, fd: int, data: bytes = DESCRIPTOR_BYTE) -> int:
    """In one piece with the data; how much of that has left."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]
    return sock.sendmsg([data], rights, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)


def receive(sock: socket.socket, most: int = 1) -> tuple[bytes, int]:
    """Some bytes, at the most so many, and the descriptor that came along; the caller closes it."""
    data, fds = receive_all(sock, most)
    if not fds:
        raise NoDescriptor("the peer has closed" if not data else "no descriptor came")
    first, *others = fds
    for fd in others:
        os.close(fd)
    return data, first


def receive_all(sock: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """All the descriptors that came along."""
    flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
    data, ancillary, _, _ = sock.recvmsg(most, _ROOM, flags)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(payload) // struct.calcsize("i")
            fds += struct.unpack_from(f"{whole}i", payload)
    return data, fds

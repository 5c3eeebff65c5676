"""The groups of users and of peers, which decide with the uid whom a socket lets in."""

import asyncio
import ctypes
import os
import pwd
import socket
import struct
import time
from collections import OrderedDict
from typing import Final

from buswork.native.credentials import peer_of

# Linux 4.13: the supplementary groups of who connected, at that time.
SO_PEERGROUPS: Final = 59
MAX_GROUPS: Final = 65_536  # NGROUPS_MAX
_FEW_BYTES: Final = 1024

_libc: Final = ctypes.CDLL(None, use_errno=True)

# A change of somebody's groups holds for new sessions alone, anyway.
KEEP_SECONDS: Final = 30.0
MAX_KEPT: Final = 256


def groups_of_peer(sock: socket.SocketType) -> frozenset[int]:
    """Of the process at the other end."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _FEW_BYTES)
    except OSError:
        raw = _many_groups(sock)
    return frozenset((peer_of(sock).gid, *(gid for (gid,) in struct.iter_unpack("=I", raw))))


def _many_groups(sock: socket.SocketType) -> bytes:
    """The same of one who is in more groups than Python has room for."""
    length = ctypes.c_uint32(4 * MAX_GROUPS)
    raw = ctypes.create_string_buffer(length.value)
    number, option = int(socket.SOL_SOCKET), SO_PEERGROUPS
    if _libc.getsockopt(sock.fileno(), number, option, raw, ctypes.byref(length)) < 0:
        raise OSError(ctypes.get_errno(), "no groups of the peer")
    return raw.raw[: length.value]


_kept: Final[OrderedDict[int, tuple[float, frozenset[int]]]] = OrderedDict()


async def groups_of(uid: int) -> frozenset[int]:
    """Of a user, as a new session would have them; none of one that has no name.

    Who knows users may be far away and slow, so it is asked in a thread.
    """
    until, groups = _kept.get(uid, (0.0, frozenset()))
    if time.monotonic() < until:
        return groups
    groups = await asyncio.to_thread(_look_up, uid)
    _kept[uid] = time.monotonic() + KEEP_SECONDS, groups
    _kept.move_to_end(uid)
    if len(_kept) > MAX_KEPT:
        _kept.popitem(last=False)
    return groups


def _look_up(uid: int) -> frozenset[int]:
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return frozenset()
    return frozenset(os.getgrouplist(user.pw_name, user.pw_gid))

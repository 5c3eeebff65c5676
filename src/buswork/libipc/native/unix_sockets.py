"""Which unix sockets there are in the kernel: who listens at a file, and how many are connected.

Tried in the daemon's sandbox (its own user, no capabilities, /proc of others hidden, PrivateTmp):
the kernel's sock_diag tells everybody about all unix sockets of the network namespace, with device
and inode of the file of each. A connection that was accepted has the listener's file. So no
service is connected to only to see whether it lives. Where a kernel has no such answer (built
without UNIX_DIAG), the paths in /proc/self/net/unix have to do, as they were given to bind(2).

A listener in another network namespace is seen in neither way: it passes for dead, though it can
be connected to.
"""

import asyncio
import os
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from buswork.native.sock_diag import DUMP, NETLINK_SOCK_DIAG, aligned, answers, question

TABLE: Final = Path("/proc/self/net/unix")

# linux/unix_diag.h
_SHOW_NAME_AND_FILE: Final = 1 | 2
_NAME, _FILE = 0, 1
# enum tcp_states, which unix sockets have too.
_ESTABLISHED, _LISTENING = 1, 10
_ASKED: Final = struct.Struct("=BBHIIIII")
_SOCKET: Final = struct.Struct("=BBBBIII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_INODE_DEVICE: Final = struct.Struct("=II")
# The kernel puts so much into one answer; a few hundred sockets.
_CHUNK: Final = 32_768

# Of /proc/net/unix.
_FLAGS, _STATE, _PATH = 3, 5, 7
_ACCEPTS: Final = 0x10000
_CONNECTED: Final = "03"


class State(NamedTuple):
    listens: bool
    connections: int


class File(NamedTuple):
    """A socket's file, as it may be recognised."""

    directory: str
    name: str
    device: int
    inode: int


class Sockets(Protocol):
    def of(self, file: File) -> State: ...


async def all_sockets() -> Sockets:
    try:
        return await _asked()
    except OSError:
        return Table(_read())


class Seen(NamedTuple):
    """A socket with a file."""

    device: int
    name: bytes
    listens: bool


class Dump:
    """By the files' inodes, of which the kernel tells the lower half."""

    def __init__(self) -> None:
        self._seen: dict[int, list[Seen]] = {}

    def add(self, inode: int, seen: Seen) -> None:
        self._seen.setdefault(inode, []).append(seen)

    def of(self, file: File) -> State:
        device = os.major(file.device) << 20 | os.minor(file.device)
        name = os.fsencode(file.name)
        # Some file systems (overlay) have one device for the kernel and another one for us.
        found = [
            seen
            for seen in self._seen.get(file.inode & 0xFFFFFFFF, ())
            if seen.device == device or seen.name == name
        ]
        listening = sum(seen.listens for seen in found)
        return State(listening > 0, len(found) - listening)


async def _asked() -> Dump:
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG) as kernel:
        kernel.send(_question())
        dump, is_all = Dump(), False
        while not is_all:
            sockets, is_all = answers(await loop.sock_recv(kernel, _CHUNK))
            for each in sockets:
                _add(dump, each)
            await asyncio.sleep(0)  # there may be tens of thousands: others have their turn
        return dump


def _question() -> bytes:
    states = 1 << _ESTABLISHED | 1 << _LISTENING
    no_cookie = 0xFFFFFFFF
    asked = _ASKED.pack(socket.AF_UNIX, 0, 0, states, 0, _SHOW_NAME_AND_FILE, no_cookie, no_cookie)
    return question(asked, DUMP)


def _add(dump: Dump, told: bytes) -> None:
    _, _, state, *_ = _SOCKET.unpack_from(told)
    name, file = b"", b""
    at = _SOCKET.size
    while at < len(told):
        length, kind = _ATTRIBUTE.unpack_from(told, at)
        value = told[at + _ATTRIBUTE.size : at + length]
        if kind == _NAME:
            name = value.rstrip(b"\0").rpartition(b"/")[2]
        elif kind == _FILE:
            file = value
        at += aligned(length)
    if file:
        inode, device = _INODE_DEVICE.unpack(file)
        dump.add(inode, Seen(device, name, state == _LISTENING))


class Table:
    """By their paths: what the kernel tells in text."""

    def __init__(self, text: str) -> None:
        self._listening: set[str] = set()
        self._connections: dict[str, int] = {}
        for line in text.splitlines()[1:]:
            fields = line.split(None, _PATH)
            if len(fields) <= _PATH or not fields[_PATH].startswith("/"):
                continue
            path = os.path.normpath(fields[_PATH])
            if int(fields[_FLAGS], 16) & _ACCEPTS:
                self._listening.add(path)
            elif fields[_STATE] == _CONNECTED:
                self._connections[path] = self._connections.get(path, 0) + 1

    def of(self, file: File) -> State:
        path = os.path.normpath(os.path.join(file.directory, file.name))
        return State(path in self._listening, self._connections.get(path, 0))


def _read() -> str:
    try:
        return TABLE.read_text(errors="surrogateescape")
    except OSError:
        return ""

"""Who has a port of this machine, for programs that connect over IP and bring no credentials.

That is the uid that the kernel's tables show for the socket at the moment of the look: a port
changes hands when it is closed, so an answer holds for one datagram, or for as long as the
socket's inode is the same.
"""

import socket
import sys
from pathlib import Path
from typing import Final, NamedTuple

# Those of this process's own network; a sandbox that hides the rest of /proc leaves them.
TABLES: Final = (Path("/proc/self/net/udp"), Path("/proc/self/net/udp6"))

_LOCAL, _UID, _INODE = 1, 7, 9


class PortOwner(NamedTuple):
    uid: int
    inode: int


def udp_owner(host: str, port: int) -> PortOwner | None:
    """Who sends from this IPv4 address; None: nobody any more, or more than one socket may."""
    end = f":{port:04X}"
    ours = {address + end for address in _addresses(host)}
    found: set[PortOwner] = set()
    for table in TABLES:
        for line in _read(table).splitlines():
            if end in line:
                fields = line.split()
                if fields[_LOCAL] in ours:
                    found.add(PortOwner(int(fields[_UID]), int(fields[_INODE])))
    return found.pop() if len(found) == 1 else None


def _read(table: Path) -> str:
    try:
        return table.read_text()
    except FileNotFoundError:  # a kernel without IPv6
        return ""


def _addresses(host: str) -> list[str]:
    """As the tables write it, and what stands for any address: in words of the machine's order."""
    raw = socket.inet_aton(host)
    word = f"{int.from_bytes(raw, sys.byteorder):08X}"
    mapped = f"{int.from_bytes(bytes((0, 0, 255, 255)), sys.byteorder):08X}"
    return [word, "0" * 8, "0" * 16 + mapped + word, "0" * 32]

"""Who has a port of this machine, for programs that connect over IP and bring no credentials.

That is the uid that the kernel shows for the socket at the moment of the look: a port changes
hands when it is closed, so an answer holds for one datagram, for as long as the socket's inode is
the same, or for a connection that was accepted. The kernel is asked (native.sock_diag); where it
can't be, its tables are read, which takes longer the more sockets there are.
"""

import errno
import socket
import sys
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, NamedTuple

from buswork.native import sock_diag
from buswork.native.sock_diag import End, plain

# Those of this process's own network; a sandbox that hides the rest of /proc leaves them.
NET: Final = Path("/proc/self/net")

_LOCAL, _REMOTE, _UID, _INODE = 1, 2, 7, 9
_ANY: Final = (IPv4Address(0), IPv6Address(0))

# As sockets tell it: the host, the port, and what IPv6 has besides.
SocketAddress = tuple[str, int] | tuple[str, int, int, int]


class PortOwner(NamedTuple):
    uid: int
    inode: int


def udp_owner(host: str, port: int) -> PortOwner | None:
    """Who sends from this IPv4 address; None: nobody any more, or more than one socket may."""
    ours = {ip_address(host), *_ANY}
    try:
        found = {
            PortOwner(each.uid, each.inode)
            for family in (socket.AF_INET, socket.AF_INET6)
            for each in sock_diag.udp_sockets(family, port)
            if each.local.address in ours
        }
    except OSError:
        found = _in_tables("udp", [(End(each, port), None) for each in ours])
    return found.pop() if len(found) == 1 else None


def tcp_owner(theirs: SocketAddress, ours: SocketAddress) -> PortOwner | None:
    """Who has the other end of a connection, as the addresses of both are seen from here; None:
    nobody any more, or nobody of this machine."""
    local, remote = _end(theirs), _end(ours)
    try:
        found = sock_diag.tcp_socket(local, remote)
    except OSError:
        return _tcp_owner_in_tables(local, remote)
    # One that was closed is the kernel's own, and the kernel is root.
    return PortOwner(found.uid, found.inode) if found is not None and found.inode else None


def is_here(address: SocketAddress) -> bool:
    """Whether somebody at this address is on this machine, be it known who it is or not."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    host, _, *scope = address
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0, *scope))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def _tcp_owner_in_tables(local: End, remote: End) -> PortOwner | None:
    found = {owner for owner in _in_tables("tcp", [(local, remote)]) if owner.inode}
    return found.pop() if len(found) == 1 else None


def _end(address: SocketAddress) -> End:
    return End(plain(ip_address(address[0].partition("%")[0])), address[1])


# -- the tables ----------------------------------------------------------------------------------


def _in_tables(protocol: str, sought: Iterable[tuple[End, End | None]]) -> set[PortOwner]:
    """Whose sockets have one of these pairs of ends; None: whatever the other end is."""
    wanted = set(sought)
    ports = tuple(f":{local.port:04X} " for local, _ in wanted)
    found = set()
    for table in (NET / protocol, NET / f"{protocol}6"):
        for line in _read(table).splitlines()[1:]:
            if any(port in line for port in ports):
                fields = line.split()
                local, remote = _read_end(fields[_LOCAL]), _read_end(fields[_REMOTE])
                if (local, remote) in wanted or (local, None) in wanted:
                    found.add(PortOwner(int(fields[_UID]), int(fields[_INODE])))
    return found


def _read(table: Path) -> str:
    try:
        return table.read_text()
    except FileNotFoundError:  # a kernel without IPv6
        return ""


def _read_end(text: str) -> End:
    """It is written in words of the machine's order."""
    host, _, port = text.partition(":")
    words = (host[at : at + 8] for at in range(0, len(host), 8))
    raw = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    return End(plain(ip_address(raw)), int(port, 16))

"""Who may do what with a file, by its mode, its owner and its access list.

The daemon connects for others, and a service sees the daemon's uid then: so whoever the file
would refuse must be refused before. This is the kernel's own rule (path_resolution(7), acl(5)),
over facts that were read from the very file that is used afterwards.
"""

import struct
from typing import Final, NamedTuple

from buswork.libipc.model.terms import Who

# To go through a directory, to make files in it, to see what it holds; to connect to a socket.
SEARCH: Final = 1
WRITE: Final = 2
CONNECT: Final = WRITE
READ: Final = 4

_VERSION: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_ACL_VERSION: Final = 2
_OWNER, _USER, _GROUP, _NAMED_GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


class FileFacts(NamedTuple):
    uid: int
    gid: int
    mode: int
    acl: bytes = b""  # as the kernel gives it; b"": there is none


def may(who: Who, facts: FileFacts, want: int) -> bool:
    if who.uid == 0:
        return True
    if facts.acl:
        return _listed(who, facts, want)
    if who.uid == facts.uid:
        return _grants(facts.mode >> 6, want)
    if facts.gid in who.gids:
        return _grants(facts.mode >> 3, want)
    return _grants(facts.mode, want)


def _grants(bits: int, want: int) -> bool:
    return bits & want == want


def _listed(who: Who, facts: FileFacts, want: int) -> bool:
    """What the access list says. The mode's bits for the group are its mask here, and no answer."""
    entries = _entries(facts.acl)
    mask = next((bits for tag, bits, _ in entries if tag == _MASK), 7)
    if who.uid == facts.uid:
        return any(tag == _OWNER and _grants(bits, want) for tag, bits, _ in entries)
    for tag, bits, number in entries:
        if tag == _USER and number == who.uid:
            return _grants(bits & mask, want)
    groups = [
        bits
        for tag, bits, number in entries
        if (tag == _GROUP and facts.gid in who.gids) or (tag == _NAMED_GROUP and number in who.gids)
    ]
    if groups:
        return any(_grants(bits & mask, want) for bits in groups)
    return any(tag == _OTHER and _grants(bits, want) for tag, bits, _ in entries)


def _entries(acl: bytes) -> list[tuple[int, int, int]]:
    """Tag, rights and number of each; none, which lets nobody in, where it can't be understood."""
    if len(acl) < _VERSION.size or _VERSION.unpack_from(acl)[0] != _ACL_VERSION:
        return []
    if (len(acl) - _VERSION.size) % _ENTRY.size:
        return []
    return list(_ENTRY.iter_unpack(acl[_VERSION.size :]))

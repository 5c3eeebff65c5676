"""The log that outlives the daemon: every change of the store as a record, one after the other.

It lies in memory that the service manager holds for us, and is read once, by the next daemon
after a crash. A record that was being written when the daemon died fails its checksum; it and
whatever might follow are left out.
"""

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from zlib import crc32

from buswork.store.wire.values import Json

Log = bytes | mmap

MAGIC = b"buswork store 1\n"

# checksum of all that follows, operation, kind of value, uid, time, expiry (0: none), sizes
_RECORD = struct.Struct("<IBBxxIQQII")
RECORD_BYTES = _RECORD.size  # besides key and value
_CHECKSUM = struct.Struct("<I")
_pack_checksum = _CHECKSUM.pack
_pack = struct.Struct("<BBxxIQQII").pack


class ValueKind(enum.IntEnum):
    """What a value is, besides its bytes."""

    TEXT = 0
    JSON = 1


class Operation(enum.IntEnum):
    PUT = 1
    REMOVE = 2
    CLEAR = 3
    # Whatever is before this is a whole store; a log without it was being made.
    WHOLE = 4


# A member of an enum takes longer to look up and to pack.
PUT = int(Operation.PUT)
_TEXT = int(ValueKind.TEXT)
_JSON = int(ValueKind.JSON)


@dataclass(frozen=True, slots=True)
class Record:
    operation: Operation
    key: str = ""
    value: bytes = b""
    kind: int = 0
    uid: int = 0
    time_us: int = 0
    expires_us: int = 0


def encode_record(
    operation: int,
    key: str = "",
    value: bytes = b"",
    uid: int = 0,
    time_us: int = 0,
    expires_us: int = 0,
) -> bytes:
    """Every set of the daemon comes here, so no Record is made for it."""
    name = key.encode()
    kind = _JSON if type(value) is Json else _TEXT
    rest = _pack(operation, kind, uid, time_us, expires_us, len(name), len(value)) + name + value
    return _pack_checksum(crc32(rest)) + rest


def read_records(log: Log) -> Iterator[Record]:
    """The records of a log, up to the first that is not whole; nothing if it is no log."""
    if log[: len(MAGIC)] != MAGIC:
        return
    at = len(MAGIC)
    while len(log) - at >= _RECORD.size:
        fields = _RECORD.unpack_from(log, at)
        checksum, operation, kind, uid, time_us, expires_us, key_size, value_size = fields
        key_at = at + _RECORD.size
        value_at = key_at + key_size
        end = value_at + value_size
        if end > len(log) or crc32(log[at + _CHECKSUM.size : end]) != checksum:
            return
        key = log[key_at:value_at].decode()
        yield Record(Operation(operation), key, log[value_at:end], kind, uid, time_us, expires_us)
        at = end


def is_whole(log: Log) -> bool:
    """Whether the log once was finished, so that it may be believed."""
    return any(record.operation == Operation.WHOLE for record in read_records(log))

"""Values out of shared memory: no call, no system call, one or two microseconds.

    with client.store.open_reader() as reader:
        reader.get("greeting")               # b"hello", or None

The layout is store.wire.memory's. Nothing in the memory is trusted: whatever it holds, `get` ends
soon, with the value, None or one of the errors here. Threads may share a reader.

Long values and private keys (~UID/) are not in the memory: for those get raises TooLarge.
"""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self
from zlib import adler32, crc32

from buswork.errors import BusworkError, InvalidArgs
from buswork.store.wire.memory import (
    BLOCK_BYTES,
    BLOCK_MASK,
    ELSEWHERE,
    FLOCK,
    HEADER_BYTES,
    IS_JSON,
    LIVE,
    OUTSIDE_AT,
    RECORD_BYTES,
    RETIRED,
    SEQUENCE_AT,
    STATE_AT,
    STRONGLY_ORDERED,
    BadLayout,
    Record,
    check_of,
    decode_header,
    is_private,
    records,
    tag_of,
)
from buswork.store.wire.values import Json

# One try takes a microsecond, and the writer several for a change: who fails so often is stopped
# and started all the time, or looks at a spoilt memory.
TRIES = 64

_STATE = STATE_AT // 8
_OUTSIDE = OUTSIDE_AT // 8
_SEQUENCE = SEQUENCE_AT // 8
_head = struct.Struct("=QQIHH").unpack_from


class TooLarge(BusworkError):
    """What the key has is not in the memory: use the store's `get`.

    The value is too long, or the key is private, or there was no room; those may be not set, too.
    """

    name = "org.mapipc.Error.TooLarge"


class Reopen(BusworkError):
    """The memory has moved: ask for a reader again."""

    name = "org.mapipc.Error.Reopen"


class Closed(Reopen):
    """The daemon ended, and the values with it; a new one may be there."""

    name = "org.mapipc.Error.Closed"


class Again(BusworkError):
    """The value kept changing while it was read, or the memory is spoilt."""

    name = "org.mapipc.Error.Again"


class Reader:
    """One generation of the memory. The descriptor is the reader's from now on."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        try:
            size = _sealed_size(fd)
            self._memory = mmap.mmap(fd, size, prot=mmap.PROT_READ)
            self.layout = decode_header(self._memory[:HEADER_BYTES], size)
        except (OSError, BadLayout) as error:
            self._fd = -1
            os.close(fd)
            raise InvalidArgs(f"this is no memory of a store: {error}") from error
        self._words = memoryview(self._memory).cast("Q")
        table = self.layout.table_offset // 8
        self._slots = self._words[table : table + self.layout.slots]
        self._mask = self.layout.slots - 1
        self._shift = self.layout.shift
        self._heap = self.layout.heap_offset
        self._blocks = self.layout.blocks
        self._max_value = self.layout.max_value

    def get(self, key: str) -> bytes | None:
        """The value, None when the key is not set; TooLarge, Reopen, Closed, Again.

        It is a `Json` where a native client stored something that is no text.
        """
        # What lookup does, as long as all is as it mostly is: it takes half of the time.
        name = key.encode()
        tag = crc32(name)
        slots, memory, words = self._slots, self._memory, self._words
        word = slots[slot := tag >> self._shift]
        block = word & BLOCK_MASK
        is_here = word >> 32 == tag and ELSEWHERE < block < self._blocks
        if is_here and words[_STATE] == LIVE and STRONGLY_ORDERED:
            at = self._heap + (block << 6)
            check, _, value_bytes, key_bytes, flags = _head(memory, at)
            end = at + RECORD_BYTES + value_bytes
            if value_bytes <= self._max_value and key_bytes == len(name):
                body = memory[at + 8 : end]
                same = memory[end : end + key_bytes] == name
                whole = check == crc32(body, tag) | adler32(body) << 32
                if same and whole and words[at >> 3] == check and slots[slot] == word:
                    return body[16:] if not flags else _value(body, flags)
        record = self.lookup(key)
        return None if record is None else record[0]

    def lookup(self, key: str) -> tuple[bytes, int] | None:
        """The value and the revision of the key's last change."""
        name = key.encode()
        tag = crc32(name)
        words, slots, mask = self._words, self._slots, self._mask
        for _ in range(TRIES):
            if words[_STATE] != LIVE:
                self._say_why()
            # Before the search: it is lowered when a key has got a slot, which we may have passed.
            outside = words[_OUTSIDE]
            _order_loads()
            at = tag >> self._shift
            for _ in range(self.layout.max_probes):
                word = slots[at]
                if not word:
                    self._check_miss(key, outside)
                    return None
                if word >> 32 == tag and (block := word & BLOCK_MASK):
                    if block == ELSEWHERE:
                        raise TooLarge(f"the value of {key!r} is not in the memory: fetch it")
                    found = self._record(block, name, tag)
                    _order_loads()
                    if found is _TORN or slots[at] != word:
                        break
                    if found is not None:
                        return found
                at = (at + 1) & mask
            else:
                self._check_miss(key, outside)
                return None
        raise Again(f"the value of {key!r} kept changing while it was read")

    def _record(self, block: int, name: bytes, tag: int) -> tuple[bytes, int] | None:
        """What the record here says of the key; None when it is another key's."""
        memory = self._memory
        if block >= self._blocks:
            return _TORN
        _order_loads()
        at = self._heap + block * BLOCK_BYTES
        check, revision, value_bytes, key_bytes, flags = _head(memory, at)
        end = at + RECORD_BYTES + value_bytes
        if value_bytes > self._max_value or end + key_bytes > self.layout.size:
            return _TORN
        if (theirs := memory[end : end + key_bytes]) != name:
            return None if tag_of(theirs) == tag else _TORN
        body = memory[at + 8 : end]
        _order_loads()
        if check != check_of(body, tag) or check != self._words[at >> 3]:
            return _TORN
        return _value(body, flags), revision

    def _check_miss(self, key: str, outside: int) -> None:
        if outside:
            raise TooLarge(f"the memory has not room for every key; fetch {key!r}")
        if is_private(key.encode()):
            raise TooLarge(f"{key!r} is private, so it is not in the memory; fetch it")

    def _say_why(self) -> None:
        if self._words[_STATE] == RETIRED:
            raise Reopen("the memory has moved: ask for a reader again")
        raise Closed("the daemon ended, and the values with it")

    @property
    def sequence(self) -> int:
        """The revision of the last change that the memory has."""
        return self._words[_SEQUENCE]

    @property
    def alive(self) -> bool:
        """Whether the daemon that writes still runs. This one is a system call.

        Reopen: the memory has moved, and only the new one can tell.
        """
        question = FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, question)
        # After the lock, which the daemon lets go after it has said that the memory moved.
        state = self._words[_STATE]
        if state == RETIRED:
            self._say_why()
        return bool(FLOCK.unpack(answer)[0] == fcntl.F_WRLCK and state == LIVE)

    def records(self) -> Iterator[Record]:
        """Everything that is here, as far as it does not change meanwhile."""
        with memoryview(self._memory) as memory:
            yield from records(memory, self.layout)

    def close(self) -> None:
        if self._fd >= 0:
            self._slots.release()
            self._words.release()
            self._memory.close()
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_TORN = (b"", -1)


def _value(body: bytes, flags: int) -> bytes:
    return Json(body[16:]) if flags & IS_JSON else body[16:]


def _sealed_size(fd: int) -> int:
    """The size, which nobody can lessen any more: a shorter memory would end this process."""
    if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise BadLayout("it is not sealed")
    size = os.fstat(fd).st_size
    if size < HEADER_BYTES or size % 8:
        raise BadLayout("it is too short")
    return size


def _order_loads() -> None:
    """What was loaded before is older than what will be: a release, then an acquire, see to it."""
    if STRONGLY_ORDERED:
        return
    lock = threading.Lock()
    lock.acquire()
    lock.release()
    lock.acquire()

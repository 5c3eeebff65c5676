"""What is asked at mapipcd's sockets, and what is answered.

A get is answered in any case, with a member `error` in place of `value` when it is refused: an
unmodified client then ends with status 1. A set is echoed when it has been done; one that is
refused is closed without a word, because unmodified clients take any answer for a yes.
"""

import logging
from typing import Any, ClassVar

from buswork.errors import BusworkError
from buswork.log import SparingByUid
from buswork.native.peers import Known
from buswork.store.model.store import Store
from buswork.store.wire.requests import (
    NULL_REPLY,
    READER_REQUEST,
    Assembly,
    Malformed,
    SetRequest,
    error_reply,
    parse_get,
    parse_set,
    value_reply,
)

log = logging.getLogger(__name__)

READ = "org.mapipc.store.read"
WRITE = "org.mapipc.store.write"

SET_NAME = "mapipc_set"
GET_NAME = "mapipc_get"
NAMES = (SET_NAME, GET_NAME)

# Longer requests and values wait for their turn: a list of numbers takes 0.2 us for each byte,
# text a hundredth of that.
LONG_REQUEST = 4096
LONG_VALUE = 64 * 1024
# Every byte of a key or value may be written as \u0000; and something for the rest.
ESCAPED = 6
ROOM_BYTES = 4096


class Requests:
    """One kind of request."""

    name: ClassVar[str]
    action: ClassVar[str]

    def __init__(self, store: Store) -> None:
        self.store = store
        self._complaints = SparingByUid(f"complaints about {self.name}")

    # What the two kinds do differently.

    def first(self, data: bytes) -> Any:
        """The request, if all of it is in the first packet; None: take the long road."""
        raise NotImplementedError

    def more(self, assembly: Assembly, data: bytes) -> Any:
        """The request when this piece (empty: the last one) completes it."""
        raise NotImplementedError

    def carry_out(self, known: Known, request: Any, at_once: bool) -> bytes | None:
        """The reply; None where that would take long, and it is to be at once."""
        raise NotImplementedError

    def reply_size(self, known: Known, request: Any) -> int:
        """How long the reply will be, or a little more; found out before it is made."""
        raise NotImplementedError

    def refusal(self, error: Exception) -> bytes:
        raise NotImplementedError

    # What they have in common.

    def assembly(self) -> Assembly:
        limits = self.store.limits
        return Assembly(ESCAPED * (limits.key_bytes + limits.value_bytes) + ROOM_BYTES)

    def reply(self, known: Known, request: Any, *, at_once: bool = False) -> bytes | None:
        try:
            return self.carry_out(known, request, at_once)
        except (BusworkError, Malformed) as error:
            self.complain(known, error)
            return self.refusal(error)
        except Exception as error:
            log.exception("%s failed", self.name)
            return self.refusal(error)

    def complain(self, known: Known, error: object) -> None:
        peer = known.peer
        if self._complaints.allows(log, peer.uid):
            log.warning("%s: uid %d, pid %d: %s", self.name, peer.uid, peer.pid, error)


class GetRequests(Requests):
    """The request is the key, as it comes with the first packet."""

    name = GET_NAME
    action = READ

    def first(self, data: bytes) -> bytes | None:
        return None if data == READER_REQUEST else data

    def more(self, assembly: Assembly, data: bytes) -> bytes:
        return data

    def carry_out(self, known: Known, request: bytes, at_once: bool) -> bytes | None:
        try:
            key = parse_get(request, self.store.limits.key_bytes)
        except Malformed as error:
            self.complain(known, error)
            return NULL_REPLY
        value = self.store.get(known.peer.uid, key)
        return None if at_once and len(value) > LONG_VALUE else value_reply(value)

    def reply_size(self, known: Known, request: bytes) -> int:
        key = parse_get(request, self.store.limits.key_bytes)
        return len(self.store.get(known.peer.uid, key)) + len(NULL_REPLY)

    def refusal(self, error: Exception) -> bytes:
        name = error.name if isinstance(error, BusworkError) else BusworkError.name
        text = str(error) if isinstance(error, (BusworkError, Malformed)) else "see the log"
        return error_reply(name, text)


class SetRequests(Requests):
    """The request is a JSON object, which may come in pieces; the answer is its echo."""

    name = SET_NAME
    action = WRITE

    def first(self, data: bytes) -> tuple[bytes, SetRequest | None] | None:
        if len(data) > LONG_REQUEST or (data[-1] != 0x7D and not data.rstrip().endswith(b"}")):
            return None
        try:
            return data, parse_set(data)
        except Malformed:
            return None  # or not complete: the long road finds out

    def more(self, assembly: Assembly, data: bytes) -> tuple[bytes, SetRequest | None] | None:
        if data:
            assembly.feed(data)
            if not assembly.complete:
                return None
        request = assembly.request()
        if not assembly.complete:
            raise Malformed(f"the request ended after {len(request)} bytes, before its end")
        return request, None

    def carry_out(
        self, known: Known, request: tuple[bytes, SetRequest | None], at_once: bool
    ) -> bytes | None:
        data, parsed = request
        if parsed is None:
            if at_once and len(data) > LONG_REQUEST:
                return None
            limits = self.store.limits
            parsed = parse_set(data, limits.key_bytes + limits.value_bytes + ROOM_BYTES)
        key, value, complaint = parsed
        if complaint:
            self.complain(known, complaint)
        if key:
            # An empty value clears the key; the empty string of JSON is a value of its own.
            self.store.set(known.peer.uid, key, value or b"")
        elif not complaint:
            self.complain(known, "the key is empty, nothing was stored")
        return data

    def reply_size(self, known: Known, request: tuple[bytes, SetRequest | None]) -> int:
        return len(request[0])

    def refusal(self, error: Exception) -> bytes:
        return b""

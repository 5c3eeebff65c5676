"""Frames of the two queues: a request in one or several, and its answer (protocol section 2).

A frame is metadata in JSON, a NUL, and a part of the payload; a frame of a request ends with one
more NUL. The metadata must be as compact as JSON can be: the process prints what it has read anew
and takes that length for where the payload begins.

We send as the careful do, and believe nothing: of an answer, every member and every byte count is
checked. What the process makes of requests is here too, for a simulated one; it checks little.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

# Of a queue as the original makes it, and as the kernel allows everybody.
FRAME_BYTES: Final = 8192
# With the one NUL at its end; looked at when frames are joined.
MOST_JOINED_BYTES: Final = 1024 * 1024
MOST_REQUEST_BYTES: Final = MOST_JOINED_BYTES - 1
# The process has no limit; one for us. Four times the longest configuration that it can be given:
# protocols come to those that it has.
MOST_ANSWER_BYTES: Final = 4 * 1024 * 1024
# Of a frame's metadata, in which three numbers are: to read more takes too long.
MOST_HEAD_BYTES: Final = 256
# The original takes one below 9,999, the process keeps an int32.
MOST_UNIQ: Final = 2**31 - 1
# Who could not be understood at all is answered with this.
NO_UNIQ: Final = -1


class Status(IntEnum):
    """Of a frame, and, but for MORE, of the answer in it (section 3)."""

    UNREACHABLE = 4  # what one build says where the source says that it can't be
    DONE = 200
    MORE = 206
    BAD = 400
    FAILED = 500
    UNKNOWN = 501


class BadFrame(ValueError):
    """It is not what the protocol allows; the text says why."""


class OtherAnswer(Exception):
    """An answer to somebody else's request, or to an earlier one."""


class RefusedFrame(Exception):
    """The process did not understand the frames of a request."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the process did not take the request: {status}")
        self.status = status


# -- ours: requests out, answers in ----------------------------------------------------------------

_REQUEST_HEAD: Final = b'{"req":%d,"uniq":%d,"remain":%d}'
_MORE_HEAD: Final = b'{"status":206,"uniq":%d,"remain":%d}\0'
# As every process has it that was seen, which need not go through a reader of all JSON.
_USUAL_ANSWER_HEAD: Final = re.compile(
    rb'\{"status":(?P<status>[1-9]\d\d),"uniq":(?P<uniq>0|[1-9]\d{0,8}),'
    rb'"remain":(?P<remain>0|[1-9]\d{0,8})\}'
)


def request_frames(payload: bytes, uniq: int, frame_bytes: int = FRAME_BYTES) -> Iterator[bytes]:
    """A request as a queue of messages of this size takes it; BadFrame: it can't be sent."""
    if not payload or len(payload) > MOST_REQUEST_BYTES:
        raise BadFrame(f"a request has 1 to {MOST_REQUEST_BYTES} bytes, and not {len(payload)}")
    if b"\0" in payload:
        raise BadFrame("a request has no NUL in it")
    if not 0 <= uniq <= MOST_UNIQ:
        raise BadFrame(f"a request's number is 0 to {MOST_UNIQ}, and not {uniq}")
    if frame_bytes < len(_REQUEST_HEAD % (1, uniq, len(payload))) + 3:
        raise BadFrame(f"no request fits into messages of {frame_bytes} bytes")
    return _cut(memoryview(payload), uniq, frame_bytes)


def _cut(payload: memoryview, uniq: int, frame_bytes: int) -> Iterator[bytes]:
    """One after the other: to have all of a long request's at once takes four times as long."""
    while payload:
        remain = len(payload)
        head = _REQUEST_HEAD % (1, uniq, remain)
        room = frame_bytes - len(head) - 2
        if remain <= room:
            head = _REQUEST_HEAD % (0, uniq, remain)
        yield b"".join((head, b"\0", payload[:room], b"\0"))
        payload = payload[room:]


class AnswerJoiner:
    """One answer, frame by frame."""

    def __init__(self, uniq: int, most: int = MOST_ANSWER_BYTES) -> None:
        self._uniq = uniq
        self._most = most
        self._remain: int | None = None  # what is still to come, once something came
        self._payload = bytearray()
        self._next_head = b""  # of a frame that is not the last, once something came

    def feed(self, frame: bytes) -> bytearray | None:
        """The payload as soon as it is whole.

        OtherAnswer: this frame does not count. BadFrame or RefusedFrame: there will be no answer.
        """
        if self._remain is not None and frame.startswith(self._next_head):
            # One of many: nothing in it has to be read.
            self._take(self._remain, frame[len(self._next_head) :], is_last=False)
            return None
        text, _, part = frame.partition(b"\0")
        head = _answer_head(text)
        if head["uniq"] != self._uniq:
            if self._remain is not None:
                raise BadFrame("an answer was interrupted by another one")
            raise OtherAnswer(f"of request {head['uniq']}")
        if head["status"] not in (Status.DONE, Status.MORE):
            raise RefusedFrame(head["status"])
        is_last = head["status"] == Status.DONE
        self._take(head["remain"], part, is_last=is_last)
        return self._payload if is_last else None

    def _take(self, remain: int, part: bytes, *, is_last: bool) -> None:
        self._check(remain, part, is_last=is_last)
        if self._remain is None:
            # All of its room at once: one that grows is copied again and again.
            self._payload = bytearray(remain)
        at = len(self._payload) - remain
        self._payload[at : at + len(part)] = part
        self._remain = remain - len(part)
        self._next_head = _MORE_HEAD % (self._uniq, self._remain)

    def _check(self, remain: int, part: bytes, *, is_last: bool) -> None:
        if self._remain is None:
            if remain > self._most:
                raise BadFrame(f"an answer of {remain} bytes is announced; {self._most} are taken")
        elif remain != self._remain:
            # So it falls with every frame: none but the first may be empty, and that is below.
            raise BadFrame(f"{remain} bytes are announced where {self._remain} remain")
        if is_last and len(part) != remain:
            raise BadFrame(f"the last frame has {len(part)} bytes of the {remain} that remain")
        if not is_last and not 0 < len(part) < remain:
            raise BadFrame(f"a frame of several has {len(part)} bytes of the {remain} that remain")


def _answer_head(text: bytes) -> dict[str, int]:
    if usual := _USUAL_ANSWER_HEAD.fullmatch(text):
        return {name: int(number) for name, number in usual.groupdict().items()}
    head = first_object(text) if len(text) <= MOST_HEAD_BYTES else None
    if head is None:
        raise BadFrame("a frame of an answer has no metadata")
    for name in ("status", "uniq", "remain"):
        if type(head.get(name)) is not int:
            raise BadFrame(f"a frame of an answer has no {name}")
    return head


# -- the process's: requests in, answers out -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joined:
    """What became of a request: its payload, or the status that its sender gets instead."""

    uniq: int
    payload: bytes = b""
    fault: int = 0


@dataclass(slots=True)
class RequestJoiner:
    """One request, as the library in the process reads it: nothing but req, uniq and remain of
    each frame is looked at, and none of them is compared with that of the frame before."""

    _uniq: int = NO_UNIQ
    _gathered: bytes = b""
    _frames: int = 0

    def feed(self, frame: bytes) -> Joined | None:
        """None: more frames follow."""
        text, nul, _ = frame.partition(b"\0")
        head = first_object(text) if nul else None
        req = None if head is None else as_int(head.get("req"))
        if head is None or req not in (0, 1):
            return self.failed(Status.BAD)
        uniq = as_int(head.get("uniq"))
        if uniq is None:
            return self.failed(Status.BAD)
        self._uniq = uniq
        if as_int(head.get("remain")) in (None, -1):
            return self.failed(Status.UNREACHABLE)
        part = frame[len(_printed(head)) + 1 :]
        if not part:
            return self.failed(Status.BAD)
        self._frames += 1
        # Each frame is laid over the last byte before it, which is meant to be a NUL.
        self._gathered = self._gathered[:-1] + part
        if self._frames > 1 and len(self._gathered) > MOST_JOINED_BYTES:
            return self.failed(Status.BAD)
        if req == 1:
            return None
        return Joined(self._uniq, self._gathered.partition(b"\0")[0])

    def failed(self, status: int) -> Joined:
        """Also when the next frame did not come in time (Status.FAILED)."""
        return Joined(self._uniq, fault=status)


def answer_frames(payload: bytes, uniq: int, frame_bytes: int) -> list[bytes]:
    """An answer as the process cuts it; none at all where not even its metadata fit."""
    frames: list[bytes] = []
    at = 0
    while True:
        remain = len(payload) - at
        room = frame_bytes - len(_compact(status=Status.MORE, uniq=uniq, remain=remain)) - 1
        if room < 1:
            return frames
        part = payload[at : at + room]
        at += len(part)
        status = Status.DONE if at == len(payload) else Status.MORE
        frames.append(b"%b\0%b" % (_compact(status=status, uniq=uniq, remain=remain), part))
        if status == Status.DONE:
            return frames


def fault_frames(joined: Joined, frame_bytes: int) -> list[bytes]:
    """What is said of frames that could not be joined: metadata alone, without a NUL."""
    frame = _compact(status=joined.fault, uniq=joined.uniq, remain=0)
    return [frame] if len(frame) < frame_bytes else []


# -- JSON ----------------------------------------------------------------------------------------


def _compact(**members: int) -> bytes:
    return b"{%b}" % b",".join(b'"%b":%d' % (name.encode(), n) for name, n in members.items())


def first_object(text: bytes) -> dict[str, Any] | None:
    """The JSON object at the beginning; what follows it is not looked at, and of two members with
    one name the first counts: so the process reads both its frames and its requests."""
    try:
        value, _ = _DECODER.raw_decode(text.decode().lstrip(" \t\r\n"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _first_counts(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _no_such_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_first_counts, parse_constant=_no_such_number)


def as_int(value: object) -> int | None:
    """As the process's reader of JSON has it: cut to whole, and to 32 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if math.isinf(value):
        return MOST_UNIQ if value > 0 else -MOST_UNIQ - 1
    return max(-MOST_UNIQ - 1, min(MOST_UNIQ, int(value)))


def _printed(head: dict[str, Any]) -> bytes:
    """The metadata as the process prints it anew."""
    plain = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in head.items()
    }
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")

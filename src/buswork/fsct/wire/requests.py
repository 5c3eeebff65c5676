"""The control requests of FSCT as data: what to ask of a device's interface, and its answers.

Times are arguments. The host's are milliseconds since 1970, a device's since it was switched on.
"""

import math
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from buswork.fsct.wire.descriptors import MAX_BOS_BYTES, SET_HEADER_BYTES
from buswork.fsct.wire.terms import PROGRESS_FIELDS, Field, Status, TextId, Timeline

_STANDARD_IN = 0x80
_STANDARD_INTERFACE_IN = 0x81
_VENDOR_OUT = 0x41
_VENDOR_IN = 0xC1
_GET_DESCRIPTOR = 0x06
_BOS_VALUE = 0x0F00
_SET_VALUE = 0x3100
_BOS = 0x0F
_BOS_HEADER_BYTES = 5

_PROGRESS = struct.Struct("<IiQf")
_TIMESTAMP = struct.Struct("<Q")
_FLOAT = struct.Struct("<f")


class Request(IntEnum):
    """bRequest; images and the queue are numbers that no host ever used."""

    ENABLE = 0x01
    TIMESTAMP = 0x02
    PROGRESS = 0x03
    STATUS = 0x04
    POLL = 0x05
    CURRENT_TEXT = 0x10
    CURRENT_IMAGE = 0x11
    QUEUE_LENGTH = 0x21
    QUEUE_POSITION = 0x22
    QUEUE_TEXT = 0x23


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """One control transfer: `data` goes out, or up to `length` bytes come in."""

    request_type: int
    request: int
    value: int
    index: int
    data: bytes = b""
    length: int = 0


class BadAnswer(ValueError):
    """A device answered what is no answer to the request."""


# -- descriptors -------------------------------------------------------------------------------


def read_bos() -> ControlRequest:
    return ControlRequest(_STANDARD_IN, _GET_DESCRIPTOR, _BOS_VALUE, 0, length=MAX_BOS_BYTES)


def read_set_header(interface: int) -> ControlRequest:
    return read_set(interface, SET_HEADER_BYTES)


def read_set(interface: int, length: int) -> ControlRequest:
    return ControlRequest(
        _STANDARD_INTERFACE_IN, _GET_DESCRIPTOR, _SET_VALUE, interface, length=length
    )


# -- what FSCT asks for ------------------------------------------------------------------------


def enable(interface: int, on: bool = True) -> ControlRequest:
    return ControlRequest(_VENDOR_OUT, Request.ENABLE, int(on), interface)


def read_timestamp(interface: int) -> ControlRequest:
    return ControlRequest(_VENDOR_IN, Request.TIMESTAMP, 0, interface, length=_TIMESTAMP.size)


def progress(interface: int, payload: bytes = b"") -> ControlRequest:
    """What progress_payload() made; nothing: there is no progress to show."""
    return ControlRequest(_VENDOR_OUT, Request.PROGRESS, 0, interface, payload)


def status(interface: int, code: Status) -> ControlRequest:
    return ControlRequest(_VENDOR_OUT, Request.STATUS, int(code), interface)


def text(interface: int, text_id: TextId, data: bytes) -> ControlRequest:
    """What encode_text() made; nothing clears the text."""
    return ControlRequest(_VENDOR_OUT, Request.CURRENT_TEXT, 0, interface | int(text_id) << 8, data)


# -- answers -----------------------------------------------------------------------------------


def whole_bos(answer: bytes) -> bytes:
    """The BOS if it is all there; what was cut short may be whole when it is asked for again."""
    total = int.from_bytes(answer[2:4], "little") if answer[1:2] == bytes((_BOS,)) else 0
    return _whole(answer, max(total, _BOS_HEADER_BYTES))


def whole_set_header(answer: bytes) -> bytes:
    return _whole(answer, SET_HEADER_BYTES)


def _whole(answer: bytes, length: int) -> bytes:
    if len(answer) < length:
        raise BadAnswer(f"the device sent {len(answer)} of {length} bytes")
    return answer


def parse_timestamp(answer: bytes) -> int:
    if len(answer) != _TIMESTAMP.size:
        raise BadAnswer(f"a device tells its time in 8 bytes, not {len(answer)}")
    (device_ms,) = _TIMESTAMP.unpack(answer)
    return int(device_ms)


def clock_difference_ms(before_ms: int, after_ms: int, device_ms: int) -> int:
    """The host's clock minus the device's, which was read between these two moments.

    Negative is no error, as it was to the original: a host without a clock of its own may
    believe that it is 1970.
    """
    return (before_ms + after_ms) // 2 - device_ms


# -- progress ----------------------------------------------------------------------------------


class Progress(NamedTuple):
    """The payload of a progress request."""

    duration_s: int
    position_ms: int
    device_timestamp_ms: int  # when the position is right
    rate: float

    def encode(self) -> bytes:
        return _PROGRESS.pack(*self[:3], _float(self.rate))

    @classmethod
    def decode(cls, payload: bytes) -> "Progress":
        if len(payload) != _PROGRESS.size:
            raise BadAnswer(f"a progress has {_PROGRESS.size} bytes, not {len(payload)}")
        return cls(*_PROGRESS.unpack(payload))


def progress_payload(timeline: Timeline, now_ms: int, difference_ms: int) -> bytes:
    """A timeline as a device wants it now: its own time, and the position then.

    A timeline of the future, by clocks that don't agree, stands where it begins.
    """
    elapsed_ms = max(now_ms - timeline.update_unix_ms, 0)
    # Python would stumble over an infinite rate times nothing; Rust makes it no number, and that 0.
    position_ms = timeline.position_ms + elapsed_ms * timeline.rate
    return Progress(
        _saturated(timeline.duration_ms / 1000, PROGRESS_FIELDS["duration_s"]),
        _saturated(position_ms, PROGRESS_FIELDS["position_ms"]),
        _saturated(now_ms - difference_ms, PROGRESS_FIELDS["device_timestamp_ms"]),
        timeline.rate,
    ).encode()


def _saturated(number: float, field: Field) -> int:
    """Rounded half away from zero, unlike round(); cut to the range; 0 if it is no number."""
    if math.isnan(number):
        return 0
    number = min(max(number, field.lowest), field.highest)
    whole = math.trunc(number)
    if abs(number - whole) >= 0.5:
        whole += 1 if number > 0 else -1
    return whole


def _float(number: float) -> float:
    """As 32 bits can hold it: beyond them it is infinite, and there is one NaN alone."""
    if math.isnan(number):
        return math.nan
    try:
        _FLOAT.pack(number)
    except OverflowError:
        return math.copysign(math.inf, number)
    return number

"""The vocabulary of FSCT as data: what checks, codecs and the documentation have in common."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from uuid import UUID


class BadValue(ValueError):
    """A caller's value is not what its field takes; the text names the field and says why."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class Status(enum.IntEnum):
    """What a player is doing."""

    STOPPED = 0
    PLAYING = 1
    PAUSED = 2
    SEEKING = 3
    BUFFERING = 4
    ERROR = 5
    UNKNOWN = 15


class TextId(enum.IntEnum):
    """Which text; those of the queue are numbers that devices know and no host ever sent."""

    CURRENT_TITLE = 0x01
    CURRENT_AUTHOR = 0x02
    CURRENT_ALBUM = 0x03
    CURRENT_GENRE = 0x04
    QUEUE_TITLE = 0x31
    QUEUE_AUTHOR = 0x32
    QUEUE_ALBUM = 0x33
    QUEUE_GENRE = 0x34


class Functionality(enum.IntFlag):
    """What a device says that it can do; a host asks for PROGRESS alone before it sends."""

    METADATA = 0x01
    PROGRESS = 0x02
    STATUS = 0x04
    QUEUE = 0x08


class Coding(enum.IntEnum):
    """How a device wants its texts, in little endian, without mark and terminator."""

    UTF8 = 0
    UTF16 = 1
    UCS2 = 2
    UTF32 = 3


class PixelFormat(enum.IntEnum):
    RGB565 = 1
    RGB888 = 2
    BGR565 = 3
    BGR888 = 4
    GRAY4 = 5
    GRAY8 = 6


# The texts of a track by the names that callers use, in the order in which devices get them.
TRACK_TEXTS = {
    "title": TextId.CURRENT_TITLE,
    "artist": TextId.CURRENT_AUTHOR,
    "album": TextId.CURRENT_ALBUM,
    "genre": TextId.CURRENT_GENRE,
}
_TEXT_NAMES = {text_id: name for name, text_id in TRACK_TEXTS.items()}


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of a track; None where there is none."""

    title: str | None = None
    artist: str | None = None
    album: str | None = None
    genre: str | None = None

    def get(self, text_id: TextId) -> str | None:
        text: str | None = getattr(self, _TEXT_NAMES[text_id])
        return text

    def with_text(self, text_id: TextId, text: str | None) -> "Texts":
        return replace(self, **{_TEXT_NAMES[text_id]: text})


@dataclass(frozen=True, slots=True)
class Timeline:
    """Where a track is: `position_ms` at `update_unix_ms`, moving by `rate` from there on."""

    position_ms: int
    update_unix_ms: int
    duration_ms: int
    rate: float


@dataclass(frozen=True, slots=True)
class PlayerState:
    status: Status = Status.UNKNOWN
    timeline: Timeline | None = None
    texts: Texts = Texts()


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device as the newer protocol tells of it."""

    id: UUID
    name: str | None
    manufacturer: str | None
    vendor_id: int
    product_id: int
    serial_number: str | None


class TimeSync(NamedTuple):
    """Two clocks of the driver, read at once."""

    wall_ns: int
    mono_ns: int


@dataclass(frozen=True, slots=True)
class Field:
    """A value that callers give or get, or a device gets: what it may be, and what it means.

    The range is that of the number; where the unit is bytes or characters, that of their count.
    """

    name: str
    unit: str
    lowest: float
    highest: float
    meaning: str
    codes: Mapping[int, str] = field(default_factory=dict)  # what the numbers stand for

    def takes(self, number: float) -> bool:
        return self.lowest <= number <= self.highest  # NaN isn't


def _coded(name: str, meaning: str, codes: Mapping[int, str]) -> Field:
    return Field(name, "", min(codes), max(codes), meaning, codes)


def _by_name(*fields: Field) -> Mapping[str, Field]:
    return {each.name: each for each in fields}


# Beyond it no device can show anything: its own limit has 16 bits, and a character a byte or more.
MAX_TEXT_CHARACTERS = 0xFFFF
# Self ids are remembered over restarts; a bus name, the usual one, has 255 bytes at the most.
MAX_SELF_ID_BYTES = 256
# A device gets the rate as a float of 32 bits, in which anything larger is infinite.
MAX_RATE = (2 - 2**-23) * 2.0**127

STATUS_WORDS = {
    int(status): "not known" if status is Status.UNKNOWN else status.name.lower()
    for status in Status
}
TEXT_WORDS = {int(text_id): name for name, text_id in TRACK_TEXTS.items()}

FIELDS = _by_name(
    Field(
        "major", "", 0, 2**16 - 1, "the version of the protocol: another one is another protocol"
    ),
    Field("minor", "", 0, 2**16 - 1, "a higher one has something more"),
    Field(
        "player_id",
        "",
        1,
        2**32 - 1,
        "a player, counted from 1; a number comes again only after all others",
    ),
    Field("self_id", "bytes", 0, MAX_SELF_ID_BYTES, "what a player calls itself, in UTF-8"),
    Field("device_id", "bytes", 16, 16, "a device's UUID; in text, its 36 characters"),
    _coded("status", "what the player is doing", STATUS_WORDS),
    _coded("metadata_id", "which text", TEXT_WORDS),
    Field(
        "text", "characters", 0, MAX_TEXT_CHARACTERS, "a text or none; what is beyond is cut off"
    ),
    Field("position_ms", "ms", 0, 2**63 - 1, "where the track was at that time"),
    Field("update_unix_ms", "ms", -(2**63), 2**63 - 1, "that time, since 1970 in UTC"),
    Field("duration_ms", "ms", 0, 2**64 - 1, "the length of the track; 0 is one that is not known"),
    Field("rate", "", -MAX_RATE, MAX_RATE, "seconds of the track per second; 0 stands still"),
)

# What JSON-RPC has more.
JSON_FIELDS = _by_name(
    Field("update_mono_ns", "ns", -(2**63), 2**63 - 1, "in place of update_unix_ms: by `mono_ns`"),
    Field("wall_ns", "ns", 0, 2**64 - 1, "the driver's time, since 1970 in UTC"),
    Field("mono_ns", "ns", 0, 2**64 - 1, "its monotonic clock at the same moment"),
    Field("vendor_id", "", 0, 2**16 - 1, "the number of a device's vendor"),
    Field("product_id", "", 0, 2**16 - 1, "the number that the vendor gave to the product"),
)

# The payload of a device's progress request, in its order.
PROGRESS_FIELDS = _by_name(
    Field("duration_s", "s", 0, 2**32 - 1, "the length of the track"),
    Field("position_ms", "ms", -(2**31), 2**31 - 1, "where the track is at that time"),
    Field("device_timestamp_ms", "ms", 0, 2**64 - 1, "that time, since the device was switched on"),
    Field("rate", "", -MAX_RATE, MAX_RATE, "seconds of the track per second; 0 stands still"),
)

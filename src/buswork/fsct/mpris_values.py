"""What an MPRIS player says of itself, made sense of.

It is of any type and size; what makes no sense is taken for missing.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from buswork.bus.codec import CodecError
from buswork.bus.library import Variant
from buswork.bus.message import Frame
from buswork.errors import BusworkError
from buswork.fsct.wire.terms import MAX_RATE, PlayerState, Status, Texts, Timeline

# No display has room for so much. The driver keeps as many bytes of a text.
MAX_TEXT_CHARACTERS = 4096
# Of a list of artists or genres.
MAX_NAMES = 64
MAX_MICROSECONDS = 2**63 - 1

_STATUSES = {"Playing": Status.PLAYING, "Paused": Status.PAUSED, "Stopped": Status.STOPPED}

NO_TEXTS = Texts()


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the track, at a time of the monotonic clock, and how it goes on from there."""

    us: int
    at_ns: int
    rate: float

    def us_at(self, now_ns: int, length_us: int | None) -> int:
        moved = self.us + (now_ns - self.at_ns) / 1000 * self.rate
        return int(min(max(moved, 0), MAX_MICROSECONDS if length_us is None else length_us))


@dataclass(frozen=True, slots=True)
class Track:
    """The Metadata of a player, as far as displays have a place for it."""

    texts: Texts = NO_TEXTS
    length_us: int | None = None
    track_id: str | None = None

    def is_same(self, other: "Track") -> bool:
        """Whether these are two descriptions of one track."""
        if self.track_id is not None or other.track_id is not None:
            return self.track_id == other.track_id
        return (self.texts.title, self.length_us) == (other.texts.title, other.length_us)


@dataclass(frozen=True, slots=True)
class Shown:
    """What of a player goes to the driver."""

    status: Status = Status.UNKNOWN
    position: Position | None = None  # with a length only
    length_us: int = 0
    texts: Texts = NO_TEXTS

    def state(self) -> PlayerState:
        return PlayerState(self.status, self.timeline(), self.texts)

    def timeline(self) -> Timeline | None:
        """The position in the terms of the driver, whose clock is the wall's."""
        if self.position is None:
            return None
        age_ns = time.monotonic_ns() - self.position.at_ns
        at_ms = (time.time_ns() - age_ns) // 1_000_000
        return Timeline(self.position.us // 1000, at_ms, self.length_us // 1000, self.position.rate)


def read_status(value: object) -> Status:
    value = bare(value)
    return _STATUSES.get(value, Status.UNKNOWN) if isinstance(value, str) else Status.UNKNOWN


def read_rate(value: object) -> float:
    """1.0 where there is none of sense; 0.0 is forbidden, but said by some that stand still."""
    value = bare(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 1.0
    return float(value) if -MAX_RATE <= value <= MAX_RATE else 1.0  # NaN isn't, either


def read_microseconds(value: object) -> int | None:
    """Of any numeric type: players disagree about it."""
    value = bare(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return None
    return max(0, min(int(value), MAX_MICROSECONDS))


def read_text(value: object) -> str | None:
    """A text, or a list of them joined; what is said to be the one is often the other."""
    value = bare(value)
    if isinstance(value, list | tuple):
        parts = [bare(part) for part in value[:MAX_NAMES]]
        names = [part[:MAX_TEXT_CHARACTERS] for part in parts if isinstance(part, str) and part]
        value = ", ".join(names)
    if not isinstance(value, str):
        return None
    return value[:MAX_TEXT_CHARACTERS] or None


def read_track(value: object) -> Track:
    value = bare(value)
    if not isinstance(value, Mapping):
        return Track()
    texts = Texts(
        title=read_text(value.get("xesam:title")),
        artist=read_text(value.get("xesam:artist")) or read_text(value.get("xesam:albumArtist")),
        album=read_text(value.get("xesam:album")),
        genre=read_text(value.get("xesam:genre")),
    )
    length_us = read_microseconds(value.get("mpris:length")) or None
    track_id = bare(value.get("mpris:trackid"))
    return Track(texts, length_us, track_id if isinstance(track_id, str) and track_id else None)


def bare(value: object) -> Any:
    while isinstance(value, Variant):
        value = value.value
    return value


def values_of(frame: Frame) -> Any:
    """What a message carries; None: nothing that can be read."""
    try:
        return frame.values()
    except (CodecError, BusworkError):
        return None

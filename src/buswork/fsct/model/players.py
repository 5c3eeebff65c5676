"""What is known of a player, and what is kept of what it says."""

import time
from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from buswork.errors import BusworkError
from buswork.fsct.wire.terms import TRACK_TEXTS, Status, Texts, Timeline

# Sixteen users with as many players as D-Bus objects (256) each; every one of them with a player
# for all of its windows would still have room.
MAX_PLAYERS = 4096

# No display has a line of so much, and hardly a title in the wild. What is longer is cut, not
# refused: the original takes 3 MiB, and its clients send what they have. One answer of 16 MiB
# tells of all players, each with four such texts; in memory, where a single emoji makes all
# characters of a text four bytes wide, they take no more than systemd/buswork.service counts.
MAX_TEXT_BYTES = 640

# The position of a player that just plays on is told by its clock, which is not ours: within half
# a second nobody sees the difference on a display that counts seconds.
RUNNING_TOLERANCE_MS = 500

_MAX_I64 = 2**63 - 1


class NoSuchPlayer(BusworkError):
    """There is no player with this id, or it has gone."""

    name = "org.fsct.Error.NoSuchPlayer"


class NotAssigned(BusworkError):
    """The player is not assigned to this device."""

    name = "org.fsct.Error.NotAssigned"


@dataclass(eq=False, slots=True)
class Player:
    """A player as it last said; only the driver alters it."""

    id: int
    self_id: str  # what it calls itself; others may call themselves the same
    uid: int
    owner: Hashable  # it goes with this connection
    order: int  # of registration; ids begin anew some day, this doesn't
    seated: bool  # whether its user sits at the machine, as far as it is known
    status: Status = Status.UNKNOWN
    timeline: Timeline | None = None
    wall_offset_ms: int = 0  # wall_offset_ms() when it said so: the wall clock may be set later
    texts: Texts = field(default_factory=Texts)
    device: str | None = None  # the device that it is assigned to, connected or not
    told: Timeline | None = None  # the timeline of which listeners last heard

    @property
    def playing(self) -> bool:
        return self.status is Status.PLAYING

    def timeline_by(self, offset_ms: int) -> Timeline | None:
        """The timeline in what the wall clock says when this is its offset.

        A clock that is only kept right goes a little faster or slower: that does not count.
        """
        step_ms = offset_ms - self.wall_offset_ms
        if self.timeline is None or abs(step_ms) <= RUNNING_TOLERANCE_MS:
            return self.timeline
        moved_ms = self.timeline.update_unix_ms + step_ms
        return replace(self.timeline, update_unix_ms=min(max(moved_ms, ~_MAX_I64), _MAX_I64))


def wall_offset_ms() -> int:
    """How far the wall clock is ahead of the monotonic one, which nobody sets."""
    return (time.time_ns() - time.monotonic_ns()) // 1_000_000


def kept_text(text: str | None, max_bytes: int = MAX_TEXT_BYTES) -> str | None:
    """What is kept of a text; an empty one is none, as it is to a display."""
    if not text:
        return None
    if len(text) * 4 <= max_bytes:
        return text
    encoded = text[:max_bytes].encode()
    if len(encoded) <= max_bytes:
        return text[:max_bytes]
    # What the cut left of a character is no text.
    return encoded[:max_bytes].decode(errors="ignore") or None


def kept_texts(texts: Texts, max_bytes: int = MAX_TEXT_BYTES) -> Texts:
    kept = {name: kept_text(getattr(texts, name), max_bytes) for name in TRACK_TEXTS}
    return replace(texts, **kept)


def runs_on(old: Timeline | None, new: Timeline | None) -> bool:
    """Whether the new timeline says of the position what the old one lets expect."""
    if old is None or new is None:
        return old is new
    if (old.rate, old.duration_ms) != (new.rate, new.duration_ms):
        return False
    expected_ms = old.position_ms + (new.update_unix_ms - old.update_unix_ms) * old.rate
    return abs(new.position_ms - expected_ms) <= RUNNING_TOLERANCE_MS

"""What a device should show, what it shows as far as we know, and the next step from here to there.

Rules
* There is no queue. A step is computed from the newest state when the device is ready for one:
  the newest value always arrives, and what nobody could have read anyway is skipped.
* Steps come in the order of Kind; a value that keeps changing has one turn in each round, so
  that those behind it are sent too.
* Of a device that was just opened nothing is known, so everything is sent, and texts are cleared
  that an earlier life of ours may have left there. (The original does not send what is not set.)
* A step that failed may have been carried out or not: it is not known any more, and is sent again
  whatever the value. It waits longer each time, up to a limit; a new value waits the shortest
  time only. Meanwhile all the others go on.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from buswork.errors import BusworkError
from buswork.fsct.model.players import Player
from buswork.fsct.model.selection import Reason
from buswork.fsct.wire.terms import Coding, Functionality, Status, TextId, Timeline

# All that fit on one USB bus.
MAX_DEVICES = 127

# A device that was busy for a moment shows the value soon; one that times out each time (1 s)
# is left alone for a third of the time at least.
RETRY_FIRST_S = 0.5

# One small transfer in half a minute disturbs nobody, for as long as the device is there.
RETRY_MAX_S = 30.0

# Far beyond any sensible ratio of the two; an exponent without an end would overflow.
_MAX_DOUBLINGS = 16

# What is kept of an error; the log has the rest.
MAX_ERROR_CHARACTERS = 256


class NoSuchDevice(BusworkError):
    """No device with this id is connected."""

    name = "org.fsct.Error.NoSuchDevice"


@dataclass(frozen=True, slots=True)
class Device:
    """A connected device, as its descriptors tell."""

    id: str  # a UUID, in lower case
    functionality: Functionality
    texts: Mapping[TextId, int]  # how many bytes each may have
    coding: Coding | None  # None: one that we don't know, so that no text can be sent
    vendor_id: int = 0
    product_id: int = 0
    vendor: str = ""
    product: str = ""
    serial: str = ""
    port: str = ""


class Kind(enum.Enum):
    """What one step alters, in the order in which a device is to get it."""

    STATUS = "status"
    PROGRESS = "progress"
    TITLE = "title"
    ARTIST = "artist"
    ALBUM = "album"
    GENRE = "genre"


TEXT_KINDS = {
    Kind.TITLE: TextId.CURRENT_TITLE,
    Kind.ARTIST: TextId.CURRENT_AUTHOR,
    Kind.ALBUM: TextId.CURRENT_ALBUM,
    Kind.GENRE: TextId.CURRENT_GENRE,
}


@dataclass(frozen=True, slots=True)
class _Step:
    kind: Kind
    # A step of before a reset says nothing about after it.
    life: int = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class StatusStep(_Step):
    value: Status


@dataclass(frozen=True, slots=True)
class ProgressStep(_Step):
    value: Timeline | None
    # Of the moment when the player said so; a clock that was set makes nothing new of a timeline.
    wall_offset_ms: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class TextStep(_Step):
    value: str | None
    text_id: TextId


Step = StatusStep | ProgressStep | TextStep
Value = Status | Timeline | str | None


@dataclass(slots=True)
class _Failure:
    """How often a step of this kind failed in a row, and with what it last did."""

    times: int
    value: Value
    time: float

    def due(self, step: Step) -> float:
        """When this step may be tried."""
        if step.value != self.value:
            return self.time + RETRY_FIRST_S
        doublings = min(self.times - 1, _MAX_DOUBLINGS)
        return self.time + min(RETRY_FIRST_S * 2.0**doublings, RETRY_MAX_S)


class Display:
    """A device's display. `now` is any clock that never goes back, in seconds."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.active: Player | None = None
        self.reason = Reason.NONE
        self.error = ""  # what last went wrong, for people
        # Called when there may be a next step; the model is at rest then.
        self.on_work: Callable[[], None] = lambda: None
        self._kinds = tuple(kind for kind in Kind if _has(device, kind))
        self._life = 0
        # Of each kind what the device shows; what is not here is not known. A kind is in one of
        # these at the most: a step that failed leaves nothing that is known.
        self._applied: dict[Kind, Value] = {}
        self._failures: dict[Kind, _Failure] = {}
        # The kinds that had their turn in this round.
        self._served: set[Kind] = set()

    def next_step(self, now: float) -> Step | None:
        """The next difference between what should be shown and what is; None: none that is due."""
        due = [step for step in map(self._step, self._kinds) if self._is_due(step, now)]
        for step in due:
            if step.kind not in self._served:
                return step
        self._served.clear()
        return due[0] if due else None

    def next_retry(self) -> float | None:
        """When a step that failed may be tried again; None: there is none."""
        times = [failure.due(self._step(kind)) for kind, failure in self._failures.items()]
        return min(times, default=None)

    def done(self, step: Step) -> None:
        """The device took the step."""
        if step.life == self._life:
            self._served.add(step.kind)
            self._failures.pop(step.kind, None)
            self._applied[step.kind] = step.value

    def failed(self, step: Step, now: float) -> None:
        """The device refused the step, or did not answer."""
        if step.life == self._life:
            self._served.add(step.kind)
            self._applied.pop(step.kind, None)
            failure = self._failures.get(step.kind)
            times = failure.times + 1 if failure is not None else 1
            self._failures[step.kind] = _Failure(times, step.value, now)

    def reset(self) -> None:
        """The device was opened anew: what it shows is not known."""
        self._life += 1
        self._applied.clear()
        self._failures.clear()
        self._served.clear()

    def show(self, player: Player | None, reason: Reason) -> tuple[str, ...]:
        """For the driver: what to show from now on; returns the names of what changed."""
        names = []
        if player is not self.active:
            self.active = player
            names.append("active")
        if reason is not self.reason:
            self.reason = reason
            names.append("reason")
        return tuple(names)

    def _step(self, kind: Kind) -> Step:
        """What would make the device show of this kind what it should."""
        player, life = self.active, self._life
        if kind is Kind.STATUS:
            return StatusStep(kind, life, Status.UNKNOWN if player is None else player.status)
        if kind is Kind.PROGRESS:
            if player is None:
                return ProgressStep(kind, life, None, 0)
            return ProgressStep(kind, life, player.timeline, player.wall_offset_ms)
        text_id = TEXT_KINDS[kind]
        text = None if player is None else player.texts.get(text_id)
        return TextStep(kind, life, text, text_id)

    def _is_due(self, step: Step, now: float) -> bool:
        kind = step.kind
        if kind in self._applied:
            return self._applied[kind] != step.value
        failure = self._failures.get(kind)
        return failure is None or failure.due(step) <= now


def _has(device: Device, kind: Kind) -> bool:
    """Whether the device wants to know this; the status is sent to all, as the original does."""
    if kind is Kind.STATUS:
        return True
    if kind is Kind.PROGRESS:
        return Functionality.PROGRESS in device.functionality
    return device.coding is not None and TEXT_KINDS[kind] in device.texts

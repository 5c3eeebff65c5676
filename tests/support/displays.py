"""Words for the tests of players and displays: devices, what they show, captured transfers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from buswork.fsct.model.display import TEXT_KINDS, Device, Display, Kind, Step
from buswork.fsct.wire.terms import Coding, Functionality, Status, Texts, Timeline

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "fsct"
ALL = Functionality.METADATA | Functionality.PROGRESS | Functionality.STATUS
TEXT_BYTES = dict.fromkeys(TEXT_KINDS.values(), 64)
START = Timeline(0, 1_755_000_000_000, 240_500, 1.0)
SONG = Texts("Title", "Artist", "Album", "Genre")


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def device_id(number: int) -> str:
    return str(UUID(int=number))


def device(number: int = 1, **facts: Any) -> Device:
    known = {"functionality": ALL, "texts": TEXT_BYTES, "coding": Coding.UTF8}
    return Device(device_id(number), **(known | facts))


class Screen:
    """A device behind a display: it takes steps, and refuses those of the kinds in `broken`."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self.now = 0.0
        self.broken: set[Kind] = set()
        self.shows: dict[Kind, Any] = {}
        self.calls = 0
        display.on_work = self._count

    def _count(self) -> None:
        self.calls += 1

    def step(self) -> Step | None:
        """Asks for one step, and carries it out if it can."""
        step = self.display.next_step(self.now)
        if step is None:
            return None
        if step.kind in self.broken:
            self.display.failed(step, self.now)
        else:
            self.shows[step.kind] = step.value
            self.display.done(step)
        return step

    def steps(self) -> list[tuple[str, Any]]:
        """Carries all out that are due: what each was, and its value."""
        return [(step.kind.value, step.value) for step in self._steps()]

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.steps()]

    def _steps(self) -> Iterator[Step]:
        for _ in range(1000):
            step = self.step()
            if step is None:
                return
            yield step
        raise AssertionError("the steps don't end")


BLANK = [
    ("status", Status.UNKNOWN),
    ("progress", None),
    ("title", None),
    ("artist", None),
    ("album", None),
    ("genre", None),
]


def shown(texts: Texts = SONG, status: Status = Status.PLAYING, timeline: Any = START) -> Any:
    """The steps that show all of this on a device of which nothing is known."""
    values = (status, timeline, texts.title, texts.artist, texts.album, texts.genre)
    return list(zip([kind.value for kind in Kind], values, strict=True))

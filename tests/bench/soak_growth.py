"""What a process takes, looked at every few seconds; and whether that grows."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

KIB, MIB = 1024, 1 << 20


@dataclass(frozen=True)
class Measure:
    """How much more of something is no growth, and why."""

    title: str
    room: float
    share: float
    why: str


MEASURES = {
    "rss": Measure("resident memory", 2 * MIB, 0.04, "the allocator keeps what a busy moment took"),
    "pss": Measure(
        "memory of its own", 2 * MIB, 0.04, "the same; and what was shared with who has ended"
    ),
    "descriptors": Measure("descriptors", 6, 0.0, "those of the clients of a moment"),
    "threads": Measure("threads", 3, 0.0, "a pool starts them as they are needed"),
    "rules": Measure("match rules", 6, 0.0, "one for each client of a moment that holds something"),
    "queues": Measure("message queues", 2, 0.0, "those of the questions of a moment"),
    "files": Measure("files in the run directory", 3, 0.0, "the services of a moment"),
}


def sizes(pid: int) -> dict[str, float]:
    """Of a process, now; OSError when it is gone."""
    folder = Path(f"/proc/{pid}")
    rollup = {
        words[0]: int(words[1]) * KIB
        for words in map(str.split, (folder / "smaps_rollup").read_text().splitlines()[1:])
    }
    return {
        "rss": rollup["Rss:"],
        "pss": rollup["Pss:"],
        "descriptors": len(os.listdir(folder / "fd")),
        "threads": len(os.listdir(folder / "task")),
    }


class Growth(NamedTuple):
    """Of one figure from when it was warm."""

    first: float  # median of the first quarter
    last: float  # of the last one
    fitted: float  # how much a straight line through all of it rises in that time
    limit: float

    @property
    def is_none(self) -> bool:
        """Both must say that it grows: one moment moves the line, and a wave the quarters."""
        return min(self.last - self.first, self.fitted) <= self.limit


def growth(measure: Measure, times: Sequence[float], values: Sequence[float]) -> Growth:
    quarter = max(1, len(values) // 4)
    first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
    slope = statistics.linear_regression(times, values).slope if len(set(times)) > 1 else 0.0
    rise = slope * (times[-1] - times[0])
    return Growth(first, last, rise, max(measure.room, measure.share * first))

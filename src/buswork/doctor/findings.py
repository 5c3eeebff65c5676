"""What a check finds."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """From the least to the worst."""

    OK = "ok"
    NOTE = "note"  # worth knowing, and nothing to mend
    WARNING = "warning"  # something will not work, or is not as it should be
    FAILURE = "failure"  # something does not work

    @property
    def rank(self) -> int:
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    text: str  # one sentence
    mend: str = ""  # the command that mends it


def ok(text: str) -> Finding:
    return Finding(Severity.OK, text)


def note(text: str, mend: str = "") -> Finding:
    return Finding(Severity.NOTE, text, mend)


def warning(text: str, mend: str = "") -> Finding:
    return Finding(Severity.WARNING, text, mend)


def failure(text: str, mend: str = "") -> Finding:
    return Finding(Severity.FAILURE, text, mend)


def worst(severities: Iterable[Severity]) -> Severity:
    return max(severities, key=lambda each: each.rank, default=Severity.OK)

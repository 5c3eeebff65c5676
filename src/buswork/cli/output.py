"""All that the commands print: JSON or prose, colours, and nothing that a terminal would obey."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from buswork.log import escaped

# A progress bar is for what takes longer than people look at a prompt without wondering.
PROGRESS_AFTER_SECONDS = 0.5
PROGRESS_WIDTH = 30

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class CommandError(Exception):
    """The command line is not as it must be."""


class InputError(Exception):
    """What a file or stdin holds is not as it must be."""


def has_color(stream: TextIO, *, forbidden: bool) -> bool:
    """Whether people look at it (no-color.org)."""
    if forbidden or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def escaped_text(text: str) -> str:
    """text with its lines and tabs, but with nothing else that a terminal would obey."""
    return "\n".join("\t".join(map(escaped, line.split("\t"))) for line in text.split("\n"))


class Output:
    """stdout and stderr of one command."""

    def __init__(self, *, json: bool = False, no_color: bool = False) -> None:
        self.json = json
        self._color = has_color(sys.stdout, forbidden=no_color)
        self._color_errors = has_color(sys.stderr, forbidden=no_color)

    # -- stdout --------------------------------------------------------------------------------

    def document(self, value: Any) -> None:
        """A JSON value on one line. ASCII, so that no terminal obeys it."""
        self.prose(json.dumps(value, default=_json_of))

    def prose(self, line: str) -> None:
        print(line, flush=True)

    def value(self, value: str, *, newline: bool) -> None:
        """A value: exactly as it is, but readable on a terminal."""
        if sys.stdout.isatty():
            print(escaped_text(value), end="\n" if newline and value else "", flush=True)
        else:
            self.raw(value.encode())

    def payload(self, data: bytes, *, line: bool = False) -> None:
        """As value does; bytes that are no text are escaped. A line has its end anywhere."""
        if sys.stdout.isatty():
            print(escaped_text(data.decode(errors="backslashreplace")), flush=True)
        else:
            self.raw(data + b"\n" if line else data)

    def raw(self, data: bytes) -> None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def styled(self, text: str, style: str) -> str:
        """Foreign text, safe to look at, in a style where there are any."""
        return _styled(escaped(text), style) if self._color else escaped(text)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        lines = [[escaped(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
        for number, line in enumerate((list(head), *lines)):
            text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            style = "bold" if number == 0 and self._color else ""
            self.prose(_styled(text.rstrip(), style) if style else text.rstrip())

    # -- stderr --------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Something for people to know."""
        print(escaped(text), file=sys.stderr, flush=True)

    def error(self, text: str, name: str = "") -> None:
        line = escaped(f"{text} ({name})" if name else text)
        prefix = _styled("buswork:", "red") if self._color_errors else "buswork:"
        print(f"{prefix} {line}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator["Progress"]:
        progress = Progress(what, total)
        try:
            yield progress
        finally:
            progress.clear()


class Progress:
    """A bar on stderr, if that is a terminal and the work takes long."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._started = time.monotonic()
        self._shown = False

    def update(self, done: int) -> None:
        if not sys.stderr.isatty() or time.monotonic() < self._started + PROGRESS_AFTER_SECONDS:
            return
        filled = PROGRESS_WIDTH * done // max(1, self._total)
        bar = "#" * filled + "." * (PROGRESS_WIDTH - filled)
        print(f"\r{self._what} [{bar}] {done}/{self._total}", end="", file=sys.stderr, flush=True)
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _styled(text: str, style: str) -> str:
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def _json_of(value: Any) -> Any:
    """Bytes have no place in JSON: an object that says what it is."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    raise TypeError(f"no JSON for {type(value).__name__}")


def when(unix_us: int) -> str:
    """A time for people, in their zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_us / 1_000_000))

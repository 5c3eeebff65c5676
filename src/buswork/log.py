"""The log: one line an event, safe to look at, with fields that the journal can search.

Under systemd each record goes to the journal's own socket with its fields and MESSAGE_ID;
elsewhere it is a line on stderr. Whatever a stranger may have written is escaped in both.
"""

import argparse
import logging
import math
import os
import queue
import socket
import struct
import sys
import threading
import time

# The audit trail; described in systemd/buswork.catalog.
DENIED = "d9bd7bf1d2cf4de5a9c8f8ac3e4b3f01"
CLAIMED = "806e6747c60b4a1bb1dca37b01e78b77"
RESET = "69ee03b7fc6c4c388f0ccece74b3f810"
CONFIGURED = "25a89d84f35149da9e11c2bb16ebed23"
MARKED = "3f0d7c1f2b5e4d0f9a51c6f2a7a0d9e4"

IDENTIFIER = "busworkd"
_JOURNAL = "/run/systemd/journal/socket"
NOTICE = 25
# Lines that may wait for a reader of the log, and how long the last ones may take at the end.
MAX_QUEUED = 1000
CLOSE_SECONDS = 1.0
logging.addLevelName(NOTICE, "NOTICE")

# The names of org.freedesktop.LogControl1 (those of syslog) and the levels here.
LEVELS = {
    "emerg": logging.CRITICAL,
    "alert": logging.CRITICAL,
    "crit": logging.CRITICAL,
    "err": logging.ERROR,
    "warning": logging.WARNING,
    "notice": NOTICE,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
_PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    NOTICE: 5,
    logging.INFO: 6,
    logging.DEBUG: 7,
}


def escaped(text: str) -> str:
    """text on one line, with nothing that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", errors="backslashreplace").decode()


def event(log: logging.Logger, message_id: str, what: str, **fields: object) -> None:
    """Logs one event of the audit trail, with its facts as fields."""
    log.log(NOTICE, what, extra={"message_id": message_id, "fields": fields})


class Sparing:
    """Lets so many lines of one kind into the log, then counts what it holds back.

    Native peers connect as often as they like; each must not become a line.
    """

    # Enough to see who does what, few enough to read.
    LINES = 10
    SECONDS = 10.0

    def __init__(self, what: str) -> None:
        self._what = what
        self._since = -math.inf
        self._lines = 0

    def allows(self, log: logging.Logger) -> bool:
        now = time.monotonic()
        if now - self._since >= self.SECONDS:
            if self._lines > self.LINES:
                log.warning("%d more %s were not logged", self._lines - self.LINES, self._what)
            self._since, self._lines = now, 0
        self._lines += 1
        return self._lines <= self.LINES


class SparingByUid:
    """The same for each user, so that one who fills the log hides nothing of another."""

    # Users whose lines are counted; more than that at once, and the count begins anew.
    MOST = 256

    def __init__(self, what: str) -> None:
        self._what = what
        self._sparing: dict[int, Sparing] = {}

    def allows(self, log: logging.Logger, uid: int) -> bool:
        if uid not in self._sparing:
            if len(self._sparing) >= self.MOST:
                self._sparing.clear()
            self._sparing[uid] = Sparing(f"{self._what} (uid {uid})")
        return self._sparing[uid].allows(log)


def level_name(level: int) -> str:
    """The LogControl1 name of a level; the least severe of several."""
    return next(name for name, value in reversed(LEVELS.items()) if value >= level)


def _line(record: logging.LogRecord) -> str:
    text = escaped(record.getMessage())
    for name, value in getattr(record, "fields", {}).items():
        text += f" {name}={_word(str(value))}"
    return text


def _word(value: str) -> str:
    """A field's value, which must not pass for the fields behind it."""
    if value and not any(char in value for char in ' ="\\'):
        return escaped(value)
    return '"' + escaped(value.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _traceback(record: logging.LogRecord) -> list[str]:
    if not record.exc_info:
        return []
    text = logging.Formatter().formatException(record.exc_info)
    return [escaped(line) for line in text.split("\n")]


class ConsoleHandler(logging.Handler):
    """Lines on stderr, with the <N> priority that journald understands unless on a terminal."""

    target = "console"

    def emit(self, record: logging.LogRecord) -> None:
        priority = "" if sys.stderr.isatty() else f"<{_PRIORITIES.get(record.levelno, 6)}>"
        try:
            for line in (_line(record), *_traceback(record)):
                sys.stderr.write(f"{priority}{line}\n")
            sys.stderr.flush()
        except OSError:
            pass  # nobody reads any more; there is no better place to say so


class JournalHandler(logging.Handler):
    """Datagrams to journald, in its native protocol; lines on stderr if it does not take them."""

    target = "journal"

    def __init__(self, identifier: str = IDENTIFIER) -> None:
        super().__init__()
        self._identifier = identifier
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._fallback = ConsoleHandler()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._socket.sendto(journal_datagram(record, self._identifier), _JOURNAL)
        except OSError:
            self._fallback.emit(record)


def journal_datagram(record: logging.LogRecord, identifier: str = IDENTIFIER) -> bytes:
    """A record in journald's native protocol ("Native Journal Protocol")."""
    message = "\n".join((_line(record), *_traceback(record)))
    fields = {
        "MESSAGE": message,
        "PRIORITY": str(_PRIORITIES.get(record.levelno, 6)),
        "SYSLOG_IDENTIFIER": identifier,
        "CODE_FUNC": record.funcName,
        "LOGGER": record.name,
    }
    if message_id := getattr(record, "message_id", ""):
        fields["MESSAGE_ID"] = message_id
    for name, value in getattr(record, "fields", {}).items():
        fields[f"BUSWORK_{name.upper()}"] = str(value)
    return b"".join(_journal_field(name, value) for name, value in fields.items())


def _journal_field(name: str, value: str) -> bytes:
    """Always with the length in front, so that a newline in a value starts no new field."""
    raw = value.encode(errors="replace")
    return b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(raw)), raw)


class Unhurried(logging.Handler):
    """Lets a thread write: a pipe that nobody reads, or a journal that has stopped, must not stop
    the daemon. What does not fit into the queue meanwhile is counted and lost."""

    def __init__(self, handler: ConsoleHandler | JournalHandler) -> None:
        super().__init__()
        self.target = handler.target
        self._handler = handler
        self._queue: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_QUEUED)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._lost += 1

    def _write(self) -> None:
        while (record := self._queue.get()) is not None:
            self._handler.handle(record)
            if self._queue.empty():
                self._tell_lost()
        self._tell_lost()

    def _tell_lost(self) -> None:
        if self._lost:
            text, self._lost = f"{self._lost} lines of the log were lost", 0
            self._handler.handle(logging.makeLogRecord({"msg": text, "levelno": 30}))

    def close(self) -> None:
        """Writes what is queued, if that does not take long."""
        try:
            self._queue.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            pass
        self._thread.join(CLOSE_SECONDS)
        super().close()


def set_up(level: str, identifier: str = IDENTIFIER) -> Unhurried:
    """Sends the log where systemd wants it, or to stderr."""
    to_journal = _stderr_is_journal()
    handler = Unhurried(JournalHandler(identifier) if to_journal else ConsoleHandler())
    logging.basicConfig(handlers=[handler], level=LEVELS[level], force=True)
    return handler


def add_level_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-level",
        choices=LEVELS,
        default="info",
        metavar="LEVEL",
        help=f"the least important level to log: {', '.join(LEVELS)} (default: info)",
    )


def _stderr_is_journal() -> bool:
    stat = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"

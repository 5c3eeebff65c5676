import io
import logging
import os
import socket
import struct
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buswork import log as module
from buswork.log import (
    DENIED,
    LEVELS,
    NOTICE,
    ConsoleHandler,
    JournalHandler,
    Sparing,
    SparingByUid,
    Unhurried,
    escaped,
    event,
    journal_datagram,
    level_name,
    set_up,
)


class Stderr:
    """What has come to stderr so far."""

    def __init__(self, capsys):
        self._capsys = capsys
        self._text = ""

    def getvalue(self):
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys):
    return Stderr(capsys)


@pytest.fixture
def logger():
    logger = logging.getLogger("buswork.test")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    logger.handlers.clear()


@pytest.fixture
def console(logger, stderr):
    logger.addHandler(ConsoleHandler())
    return stderr


def record_of(message, *arguments, level=logging.INFO, **extra):
    record = logging.LogRecord("buswork.test", level, "x.py", 1, message, arguments, None, "func")
    record.__dict__.update(extra)
    return record


def parse_journal(datagram):
    """The fields of a datagram, as journald reads them."""
    fields = []
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name, size = line, struct.unpack_from("<Q", rest)[0]
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        fields.append((name.decode(), value.decode()))
        datagram = rest
    return fields


# Escaping (ATTACKS 20)


@pytest.mark.attack(20)
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, naïve €", "plain text, naïve €"),
        ("a\nb", "a\\nb"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m", "\\x9b31m"),
        ("\x07\x08\x7f\0", "\\x07\\x08\\x7f\\x00"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("a\u2028b\u0085c", "a\\u2028b\\x85c"),
        ("\u200b\ufeff", "\\u200b\\ufeff"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("", ""),
    ],
)
def test_20_what_a_terminal_would_obey_is_escaped(text, shown):
    assert escaped(text) == shown


@given(st.text())
def test_20_what_is_escaped_is_one_printable_line(text):
    assert escaped(text).isprintable()
    assert escaped(escaped(text)) == escaped(text)


@pytest.mark.attack(20)
def test_20_a_field_cannot_pretend_to_be_another(console, logger):
    event(logger, DENIED, "denied", client='x" uid="0', action="a b")
    line = console.getvalue()
    assert line.count("\n") == 1
    assert ' uid="0' not in line
    assert 'action="a b"' in line


@pytest.mark.parametrize("value", ["a=b", 'a"b', "a\\b", "", "a b"])
def test_20_values_that_could_be_mistaken_are_quoted(console, logger, value):
    event(logger, DENIED, "denied", key=value, last=1)
    rest = console.getvalue().partition("key=")[2]
    assert rest.startswith('"')
    assert rest.endswith('" last=1\n')


# Lines on stderr


def test_a_line_has_its_priority(console, logger):
    logger.debug("d")
    logger.info("i %s", 5)
    event(logger, DENIED, "n", uid=7)
    logger.warning("w")
    logger.error("e")
    logger.critical("c")
    assert console.getvalue() == "<7>d\n<6>i 5\n<5>n uid=7\n<4>w\n<3>e\n<2>c\n"


def test_20_what_a_message_quotes_is_escaped(console, logger):
    logger.info("no level %s", "\x1b[2J\n<0>kernel: spoofed")
    assert console.getvalue() == "<6>no level \\x1b[2J\\n<0>kernel: spoofed\n"


def test_on_a_terminal_there_is_none(monkeypatch, logger):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    logger.addHandler(ConsoleHandler())
    logger.info("hello")
    assert stream.getvalue() == "hello\n"


def test_20_a_traceback_is_lines_of_the_same_priority_and_escaped(console, logger):
    try:
        raise ValueError("\x1b[31m\n<0>spoofed")
    except ValueError:
        logger.exception("a defect")
    lines = console.getvalue().splitlines()
    assert lines[0] == "<3>a defect"
    assert all(line.startswith("<3>") for line in lines)
    assert "\x1b" not in console.getvalue()


def test_a_closed_stderr_is_no_error(monkeypatch, logger):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    logger.addHandler(ConsoleHandler())
    logger.info("nobody reads this")


# The journal


def test_an_event_has_its_fields():
    fields = {"action": "org.toy.act", "uid": 1000}
    record = record_of("denied", level=NOTICE, message_id=DENIED, fields=fields)
    assert dict(parse_journal(journal_datagram(record))) == {
        "MESSAGE": "denied action=org.toy.act uid=1000",
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "busworkd",
        "CODE_FUNC": "func",
        "LOGGER": "buswork.test",
        "MESSAGE_ID": DENIED,
        "BUSWORK_ACTION": "org.toy.act",
        "BUSWORK_UID": "1000",
    }


@given(st.text(), st.text())
def test_20_no_value_starts_a_field_of_its_own(message, value):
    record = record_of("%s", message, fields={"reason": value}, message_id=DENIED)
    fields = parse_journal(journal_datagram(record))
    assert [name for name, _ in fields] == [
        "MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "CODE_FUNC", "LOGGER", "MESSAGE_ID",
        "BUSWORK_REASON",
    ]  # fmt: skip


def test_20_a_newline_in_a_value_starts_no_field():
    record = record_of("x", fields={"reason": "a\nPRIORITY=0\nMESSAGE_ID=" + DENIED})
    fields = parse_journal(journal_datagram(record))
    assert [name for name, _ in fields].count("PRIORITY") == 1
    assert "MESSAGE_ID" not in dict(fields)
    assert "\n" not in dict(fields)["MESSAGE"]


def test_a_traceback_goes_with_the_message():
    try:
        raise ValueError("because")
    except ValueError:
        record = record_of("a defect", level=logging.ERROR)
        record.exc_info = sys.exc_info()
    message = dict(parse_journal(journal_datagram(record)))["MESSAGE"]
    assert message.startswith("a defect\nTraceback")
    assert "ValueError: because" in message


@pytest.fixture
def journal(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "journal"))
        sock.setblocking(False)
        monkeypatch.setattr(module, "_JOURNAL", str(tmp_path / "journal"))
        yield sock


@pytest.fixture
def handler():
    handler = JournalHandler("toyd")
    yield handler
    handler._socket.close()


def test_a_record_is_one_datagram(journal, handler):
    record = record_of("hello")
    handler.emit(record)
    sent = journal.recv(1 << 16)
    assert sent == journal_datagram(record, "toyd")
    assert dict(parse_journal(sent))["SYSLOG_IDENTIFIER"] == "toyd"


@pytest.mark.parametrize("what", ["absent", "too long", "full"])
def test_what_journald_does_not_take_goes_to_stderr(journal, handler, stderr, monkeypatch, what):
    record = record_of("hello")
    if what == "absent":
        monkeypatch.setattr(module, "_JOURNAL", "/nonexistent/journal")
    elif what == "too long":
        record = record_of("hello" + "x" * (8 << 20))
    else:
        for _ in range(10_000):
            handler.emit(record)
            if stderr.getvalue():
                break
    handler.emit(record)
    assert "<6>hello" in stderr.getvalue()


# Setting up


@pytest.fixture
def root():
    logger = logging.getLogger()
    before = logger.handlers[:], logger.level
    yield logger
    made = [handler for handler in logger.handlers if handler not in before[0]]
    for handler in made:
        logger.removeHandler(handler)
        if isinstance(handler, JournalHandler):
            handler._socket.close()
    logger.handlers[:], logger.level = before


def test_stderr_is_where_the_log_goes(root, monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert set_up("warning").target == "console"
    assert root.level == logging.WARNING


def test_the_journal_is_where_stderr_is_the_journal(root, monkeypatch):
    stat = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
    journal = set_up("info")
    assert journal.target == "journal"
    journal.close()
    journal._handler._socket.close()
    monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino + 1}")
    console = set_up("info")
    assert console.target == "console"
    console.close()


def test_a_log_that_nobody_reads_stops_nobody(root):
    """ATTACKS 20's neighbour: a pipe is full after 64 KiB, and then its writer waits."""
    reading, go_on = threading.Event(), threading.Event()
    written = []

    class Stuck(ConsoleHandler):
        def emit(self, record):
            reading.set()
            go_on.wait(10)
            written.append(record.getMessage())

    handler = Unhurried(Stuck())
    for number in range(module.MAX_QUEUED + 10):
        handler.handle(logging.makeLogRecord({"msg": f"line {number}", "levelno": 20}))
        reading.wait(10)
    assert handler._lost == 9  # one more had left the queue
    go_on.set()
    handler.close()
    assert written[0] == "line 0"
    assert written[module.MAX_QUEUED] == f"line {module.MAX_QUEUED}"
    assert written[-1] == "9 lines of the log were lost"


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (logging.DEBUG, "debug"),
        (logging.INFO, "info"),
        (NOTICE, "notice"),
        (logging.WARNING, "warning"),
        (logging.ERROR, "err"),
        (logging.CRITICAL, "crit"),
        (0, "debug"),
        (1, "debug"),
        (35, "err"),
    ],
)
def test_levels_have_the_names_of_syslog(level, name):
    assert level_name(level) == name
    assert LEVELS[name] >= level


# Sparing


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_some_lines_of_a_kind_and_then_their_number(clock, caplog):
    sparing = Sparing("knocks")
    log = logging.getLogger("test")
    allowed = [sparing.allows(log) for _ in range(Sparing.LINES + 7)]
    assert allowed == [True] * Sparing.LINES + [False] * 7
    assert caplog.text == ""
    clock.now += Sparing.SECONDS
    assert sparing.allows(log)
    assert [record.getMessage() for record in caplog.records] == ["7 more knocks were not logged"]
    caplog.clear()
    clock.now += Sparing.SECONDS
    assert sparing.allows(log)
    assert caplog.text == ""


def test_who_fills_the_log_hides_nothing_of_others(clock):
    sparing = SparingByUid("denials")
    log = logging.getLogger("test")
    while sparing.allows(log, 7):
        pass
    assert sparing.allows(log, 8)
    assert not sparing.allows(log, 7)
    for uid in range(1000):
        sparing.allows(log, uid)
    assert len(sparing._sparing) <= SparingByUid.MOST

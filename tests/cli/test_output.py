import io
import json
import sys

import pytest

from buswork.cli import output
from buswork.cli.output import Output, escaped_text, has_color

EVIL = "a\x1b[31m\r\x9b\u202e\x7f\n\tb"


class Terminal(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        return self.buffer.getvalue().decode()


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_lines_and_tabs_may_stay():
    assert escaped_text(EVIL) == "a\\x1b[31m\\r\\x9b\\u202e\\x7f\n\tb"


def test_colour_is_for_people(terminal, monkeypatch):
    assert has_color(terminal, forbidden=False)
    assert not has_color(terminal, forbidden=True)
    assert not has_color(io.StringIO(), forbidden=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_color(terminal, forbidden=False)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not has_color(terminal, forbidden=False)


def test_styled_text_is_escaped_too(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal)
    assert Output().styled(EVIL, "red") == ("\x1b[31ma\\x1b[31m\\r\\x9b\\u202e\\x7f\\n\\tb\x1b[0m")
    assert Output(no_color=True).styled("a\x1b", "red") == "a\\x1b"


def test_a_value_on_a_terminal(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal)
    Output().value(EVIL, newline=True)
    assert terminal.text == escaped_text(EVIL) + "\n"


def test_no_value_takes_no_line(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal)
    Output().value("", newline=True)
    assert terminal.text == ""


def test_a_value_elsewhere_is_exact(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    Output().value(EVIL + "ä", newline=True)
    assert stream.buffer.getvalue().decode() == EVIL + "ä"


def test_json_is_ascii(capsys):
    Output(json=True).document({"key": EVIL, "bytes": b"\x00\xff"})
    text = capsys.readouterr().out
    assert text.isascii()
    assert text.rstrip("\n").isprintable()
    assert json.loads(text) == {"key": EVIL, "bytes": {"hex": "00ff"}}


@pytest.mark.attack(20)
def test_errors_and_notes_are_one_safe_line(capsys):
    out = Output()
    out.error(EVIL, "org.example.Error")
    out.note(EVIL)
    for line in capsys.readouterr().err.splitlines():
        assert line.isprintable()


def test_a_table(capsys):
    Output().table(("A", "LONG"), [("x\n", "y"), ("zzzz", "")])
    assert capsys.readouterr().out == "A     LONG\nx\\n   y\nzzzz\n"


def test_progress_is_for_long_work_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Output().progress("work", 2) as progress:
        progress.update(1)
    assert terminal.text == ""
    monkeypatch.setattr(output, "PROGRESS_AFTER_SECONDS", -1)
    with Output().progress("work", 2) as progress:
        progress.update(1)
        assert "1/2" in terminal.text
    assert terminal.text.endswith("\r\x1b[K")

import asyncio
import os
import sys

import pytest

from buswork.cli.ipc_stdio import MOST_LINE_BYTES, Json, Lines, Stdio, Wire
from buswork.cli.output import InputError
from buswork.libipc import Code, Form, Message


def test_lines(capfdbinary):
    lines = Lines(Form.C, 7)
    assert lines.feed(b"one\ntw") == [Message(b"one", 7)]
    assert lines.feed(b"o\n\n") == [Message(b"two", 7), Message(b"", 7)]
    assert lines.feed(b"end") == []
    assert lines.feed(b"") == [Message(b"end", 7)]
    assert lines.feed(b"") == []
    lines.show(Message(b"a\xff\0"))
    assert capfdbinary.readouterr().out == b"a\xff\0\n"


def test_a_line_has_an_end():
    lines = Lines(Form.C, 0)
    assert lines.feed(bytes(MOST_LINE_BYTES)) == []
    with pytest.raises(InputError, match="at most"):
        lines.feed(b"x")


def test_json(capsys):
    lines = Json(Form.C, 7)
    assert lines.feed(b'{"payload": "h\\u00e9", "user_type": 1}\n{"payload": {"hex": "ff"}}\n') == [
        Message("hé".encode(), 1),
        Message(b"\xff"),
    ]
    assert lines.feed(b'{"payload": "", "type": 1}') == []
    assert lines.feed(b"") == [Message(b"", 0, 1)]
    lines.show(Message(b"hello", 42))
    assert capsys.readouterr().out == '{"type": 2, "user_type": 42, "payload": "hello"}\n'


@pytest.mark.parametrize(
    "line",
    [
        "x", "[]", "1", "{}", '{"payload": 1}', '{"payload": {"hex": "f"}}', "[" * 100_000,
        '{"payload": "", "user_type": 256}', '{"payload": "", "user_type": "1"}',
        '{"payload": "", "user_type": true}', '{"payload": "\\ud800"}', '{"payload": null}',
    ],
    ids=lambda line: line[:20],
)  # fmt: skip
def test_what_is_no_message(line):
    with pytest.raises(InputError, match="a line is no message"):
        Json(Form.C, 0).feed(line.encode() + b"\n")


@pytest.mark.parametrize(
    ("form", "raw"), [(Form.C, b"\2\0\0\0\5\x2ahello"), (Form.ZIG, b"\0\0\0\5hello")]
)
def test_wire(form, raw, capfdbinary):
    wire = Wire(form, 0)
    found = [message for byte in raw for message in wire.feed(bytes([byte]))]
    assert [message.payload for message in found] == [b"hello"]
    assert wire.feed(b"") == []
    wire.show(found[0])
    assert capfdbinary.readouterr().out == raw


def test_a_message_that_is_not_whole():
    wire = Wire(Form.C, 0)
    assert wire.feed(b"\2\0\0\0\5") == []
    with pytest.raises(InputError, match="ended within a message"):
        wire.feed(b"")
    with pytest.raises(InputError, match="announced"):
        Wire(Form.ZIG, 0).feed(b"\xff\xff\xff\xff")


# -- as an end of a switch -----------------------------------------------------------------------


class Side:
    """What a switch is told, as a queue."""

    def __init__(self):
        self.told = asyncio.Queue()

    def took(self, message):
        self.told.put_nowait(message.payload)

    def ended(self, code, error=None):
        self.told.put_nowait((code, error))


@pytest.fixture
def pipe(monkeypatch):
    """The writing end of stdin."""
    theirs, ours = os.pipe()
    with open(theirs) as stdin, open(ours, "wb", buffering=0) as file:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield file


async def test_it_ends_when_all_is_sent_and_nothing_comes(pipe):
    looks = iter([False, False, True])
    stdio = Stdio(Lines(Form.C, 0), count=None, linger=0.001, is_sent=lambda: next(looks))
    side = Side()
    stdio.start(side)
    pipe.write(b"one\ntwo")
    assert await side.told.get() == b"one"
    pipe.close()
    assert await side.told.get() == b"two"
    assert await side.told.get() == (Code.CLOSING, None)
    assert list(looks) == []
    stdio.close()


async def test_it_is_not_read_while_it_is_paused(pipe):
    stdio = Stdio(Lines(Form.C, 0), count=1, linger=60, is_sent=lambda: True)
    side = Side()
    stdio.start(side)
    stdio.pause()
    pipe.write(b"one\n")
    for _ in range(10):
        await asyncio.sleep(0)
    assert side.told.empty()
    stdio.resume()
    assert await side.told.get() == b"one"
    stdio.close()


async def test_it_ends_with_so_many(pipe, capfdbinary):
    stdio = Stdio(Lines(Form.C, 0), count=2, linger=60, is_sent=lambda: True)
    side = Side()
    stdio.start(side)
    stdio.push(Message(b"one"))
    assert side.told.empty()
    stdio.push(Message(b"two"))
    assert await side.told.get() == (Code.CLOSING, None)
    assert capfdbinary.readouterr().out == b"one\ntwo\n"
    stdio.close()

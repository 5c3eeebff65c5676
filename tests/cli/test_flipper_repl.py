import json
import os
import pty
import select
import subprocess
import time

import pytest
from cli.boards import BENCH

from buswork.cli.exits import Exit
from buswork.cli.flipper_repl import _Completer
from buswork.client import BoardFacts


def test_a_script_of_calls(boards):
    script = "# a comment\n\nled rgb 0 0 9\ngpio read 0x1\nusart push 'hello there'\n"
    assert boards.ok("repl", input=script) == "1\n"
    assert boards.look()["light"] == "#000009"


def test_a_script_in_json(boards):
    boards.simulator("SendSerial", "say", BENCH, b"a\0")
    script = "led rgb 0 0 0\nusart push abc\nusart pull 2\nquit\nnonsense here\n"
    lines = boards.ok("repl", "--json", input=script).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"value": None}, {"taken": 3}, {"data": {"hex": "6100"}},
    ]  # fmt: skip


def test_data_are_shown_as_text(boards):
    boards.simulator("SendSerial", "say", BENCH, b"a\0\x1b")
    assert boards.ok("repl", input="usart pull 3\n") == "'a\\x00\\x1b'\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("led", "led alone is nothing to call"),
        ("led blink", "led has no function blink; it has configure(), rgb(red, green, blue)"),
        ("lamp on", "there is no module lamp"),
        ("led rgb 1 2 x", "x is no number"),
        ("led rgb 1 2 256", "InvalidArgs"),
        ("usart pull", "takes one number"),
        ("usart pull 5", "Uart0PullTimeout"),
        ("led 'rgb", "No closing quotation"),
        ("help lamp", "there is no module lamp"),
    ],
)
def test_a_script_ends_at_the_first_line_that_fails(boards, line, why):
    assert why in boards.failure("repl", input=f"{line}\nled rgb 7 7 7\n")
    assert boards.look()["light"] != "#070707"


def test_help(boards):
    text = boards.ok("repl", input="help\nhelp led\n")
    assert "modules: adc, button," in text
    assert "led: the coloured light" in text


def test_nobody_comes_between(boards):
    settings = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 1}
    with boards.popen("flipper", "repl", "--claim", **settings) as process:
        process.stdin.write("gpio read 1\n")
        assert process.stdout.readline() == "1\n"
        assert "buswork flipper repl" in boards.failure("button")
        process.stdin.write("u2.gpio read 0xff\n")
        assert process.stdout.readline() == "18\n"
        process.stdin.close()
        assert process.wait(10) == Exit.OK
    assert boards.ok("button") == "released\n"


def test_a_claim_for_service(boards):
    pins = "u2.gpio write 0 0\n"
    assert "for service" in boards.failure("repl", "--claim", input=pins)
    assert boards.ok("repl", "--service", input=pins) == ""


class Terminal:
    def __init__(self, boards, state):
        self.fd, theirs = pty.openpty()
        self.said = ""
        files = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        settings = {"env": {"TERM": "dumb", "XDG_STATE_HOME": str(state)}, **files}
        self.process = boards.popen("flipper", "repl", start_new_session=True, **settings)
        os.close(theirs)

    def type(self, text):
        os.write(self.fd, text.encode())

    def until(self, text):
        deadline = time.monotonic() + 20
        while text not in self.said:
            assert time.monotonic() < deadline, self.said
            if select.select([self.fd], [], [], 0.1)[0]:
                self.said += os.read(self.fd, 4096).decode()
        self.said = self.said.partition(text)[2]


def test_a_prompt_remembers_completes_and_goes_on_after_errors(boards, tmp_path):
    terminal = Terminal(boards, tmp_path)
    terminal.until("flipper> ")
    terminal.type("led rgb 1 2 nonsense\n")
    terminal.until("nonsense is no number")
    terminal.until("flipper> ")
    terminal.type("led rgb 1 2 300\n")
    terminal.until("InvalidArgs")
    terminal.until("flipper> ")
    terminal.type("gpi\tre\t0x1\n")
    terminal.until("1\r\n")
    terminal.until("flipper> ")
    terminal.type("\x04")
    assert terminal.process.wait(10) == Exit.OK
    os.close(terminal.fd)
    history = tmp_path / "buswork/flipper-history"
    assert history.read_text().splitlines()[-1] == "gpio read 0x1"
    again = Terminal(boards, tmp_path)
    again.until("flipper> ")
    again.type("\x1b[A\n")
    again.until("gpio read 0x1")
    again.until("1\r\n")
    again.type("quit\n")
    assert again.process.wait(10) == Exit.OK
    os.close(again.fd)


FACTS = BoardFacts(
    name="x", transport="usb", place="1-1", generation=1, state="ready", last_error="",
    modules={"led": ["configure()", "rgb(red, green, blue)"], "adc": ["configure()"]},
    incarnation=1, claim_reason="", holders=(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("before", "candidates"),
    [
        ([], ["led", "adc", "help", "quit"]),
        (["help"], ["led", "adc"]),
        (["led"], ["configure", "rgb"]),
        (["lamp"], []),
        (["led", "rgb"], []),
    ],
)
def test_what_may_come_next(before, candidates):
    assert _Completer(FACTS).candidates(before) == candidates

import asyncio
import subprocess
import sys

import pytest

from buswork.cli import flipper_claim
from buswork.cli.exits import Exit
from buswork.cli.flipper_claim import claimed
from buswork.cli.output import Output
from buswork.client import BusworkError

# Reads a pin, as a program does that knows FMR alone.
PROGRAM = """
import os, socket
from buswork.flipper.wire.exchanges import AnswerReader, Exchange, outgoing
from buswork.flipper.wire.modules import TABLES
from buswork.flipper.wire.plans import standard
from buswork.flipper.wire.terms import Framing, Generation, Processor

board = socket.socket(fileno=int(os.environ["BUSWORK_FMR_FD"]))
read = TABLES[Generation.G1, Processor.S4].find("gpio", "read")
exchange = Exchange(standard(*read, 1))
for message in outgoing(exchange, Framing.UDP):
    board.send(message)
answer = AnswerReader(exchange, Framing.UDP).feed(board.recv(65536))
print(os.environ["BUSWORK_BOARD"], answer.result.value)
"""


def test_what_others_ask_is_refused_while_the_command_runs(boards):
    words = (sys.executable, "-m", "buswork.cli", "flipper", "button")
    done = boards.flipper("claim", "--reason", "rewiring", "--", *words)
    assert done.returncode == Exit.FAILED
    assert "rewiring (org.flipper.Error.Claimed)" in done.stderr
    assert boards.ok("button") == "released\n"


def test_the_command_has_the_board_by_fmr(boards, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    words = ("--board", "carbon-1-3", "--", sys.executable, str(tmp_path / "program.py"))
    assert boards.ok("claim", *words) == "carbon-1-3 1\n"


@pytest.mark.parametrize("words", [("claim",), ("lend", "bench")])
def test_the_status_is_that_of_the_command(boards, words):
    assert boards.flipper(*words, "--", "sh", "-c", "exit 7").returncode == 7
    assert boards.ok("button") == "released\n"


@pytest.mark.parametrize("words", [("claim",), ("lend", "bench")])
def test_there_has_to_be_a_command(boards, words):
    assert "takes a command" in boards.failure(*words, status=Exit.USAGE)
    assert "no such command" in boards.failure(*words, "--", "nonsense-x", status=Exit.USAGE)


def test_a_board_is_lent(boards):
    boards.ok("button")
    words = (sys.executable, "-m", "buswork.cli", "flipper", "list", "--json")
    found = boards.ok("lend", "bench", "--", *words)
    assert '"name": "bench", "state": "lent"' in found
    assert '"claim_reason": "buswork flipper lend"' in found


def test_a_command_that_is_killed_leaves_no_claim(boards):
    told = ["sh", "-c", "echo claimed; sleep 60"]
    with boards.popen("flipper", "claim", "--", *told, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "claimed\n"
        assert "Claimed" in boards.failure("button")
        process.kill()
    for _ in range(100):
        if boards.flipper("button").returncode == 0:
            return
    raise AssertionError("the claim stays")


class Lost:
    """A board whose claim somebody takes away when it was renewed once."""

    name = "bench"
    renewed = 0

    async def claim(self, reason, lease_seconds, *, service):
        return "token"

    async def renew(self, token):
        assert token == "token"
        self.renewed += 1
        if self.renewed > 1:
            raise BusworkError("somebody took it", "org.flipper.Error.NotOwner")

    async def release(self, token):
        raise BusworkError("it is none of yours", "org.flipper.Error.NotOwner")


class Notes(Output):
    def __init__(self):
        self.said = asyncio.get_running_loop().create_future()

    def note(self, text):
        self.said.set_result(text)


async def test_a_claim_is_renewed_and_its_loss_is_told(monkeypatch):
    monkeypatch.setattr(flipper_claim, "LEASE_SECONDS", 0.003)
    board, out = Lost(), Notes()
    async with claimed(board, "a test", out):
        said = await out.said
    assert said == "bench is not ours alone any more: somebody took it"
    assert board.renewed == 2

import os

import pytest
from cli.boards import BENCH

from buswork.cli.flipper_transfer import PIECE_BYTES

DATA = bytes(range(256)) * 100


@pytest.fixture
def file(tmp_path):
    return tmp_path / "data"


def test_what_goes_out_by_spi_comes_back(boards, file):
    file.write_bytes(b"hello")
    assert boards.answer("push", "spi", "push", str(file)) == {"taken": 5}
    assert boards.ok("pull", "spi", "pull", "3") == "ooo"


def test_stdin_and_stdout(boards, file):
    assert boards.ok("push", "usart", "push", input="hello\n") == ""
    boards.simulator("SendSerial", "say", BENCH, b"\xff\0received")
    assert boards.ok("pull", "usart", "pull", "10", str(file)) == ""
    assert file.read_bytes() == b"\xff\0received"


def test_what_is_long_goes_in_pieces(boards, file):
    assert len(DATA) > PIECE_BYTES
    boards.simulator("SendSerial", "say", BENCH, DATA)
    assert boards.ok("pull", "usart", "pull", str(len(DATA)), str(file)) == ""
    assert file.read_bytes() == DATA
    assert boards.answer("push", "spi", "push", str(file)) == {"taken": len(DATA)}


def test_a_pipe_has_no_end_that_could_be_known(boards):
    told, tell = os.pipe()
    with open(tell, "wb") as out:
        out.write(b"abc")
    with open(told, "rb") as pipe:
        assert boards.answer("push", "spi", "push", stdin=pipe) == {"taken": 3}


def test_a_file_is_sent_from_where_it_is(boards, file):
    file.write_bytes(b"a line\nthe rest")
    with file.open("rb", buffering=0) as half:
        half.readline()
        assert boards.answer("push", "spi", "push", stdin=half) == {"taken": 8}


def test_what_does_not_come_is_said(boards):
    said = boards.failure("pull", "usart", "pull", "5")
    assert "0 of 5 bytes" in said
    assert "Uart0PullTimeout" in said


def test_there_has_to_be_such_a_function(boards, file):
    assert "push(data)" in boards.failure("pull", "usart", "read", "5")
    assert "No such file" in boards.failure("push", "usart", "push", str(file))


def test_nothing_is_pulled_from_nothing(boards):
    assert boards.ok("pull", "usart", "pull", "0") == ""

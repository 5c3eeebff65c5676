import pytest

from buswork.cli import parser
from buswork.cli.exits import Exit


def parse(*words):
    return parser.parse(("flipper", *words))


def test_a_board_is_named_before_and_after_other_words():
    assert parse("led", "--board", "bench", "1", "2", "3").board == "bench"
    options = parse("led", "1", "2", "255", "--board", "bench")
    assert (options.red, options.green, options.blue, options.board) == (1, 2, 255, "bench")
    assert parse("button").board is None


def test_numbers_are_those_of_c():
    assert parse("call", "gpio", "write", "0x10", "16", "-1", "0XfF").values == [16, 16, -1, 255]


def test_what_follows_two_dashes_is_the_command():
    options = parse("claim", "--reason", "rewiring", "--", "sh", "-c", "x", "--", "y")
    assert options.program == ["--", "sh", "-c", "x", "--", "y"]
    assert options.reason == "rewiring"
    options = parse("lend", "bench", "--", "dfu", "--json")
    assert (options.board, options.program[-2:]) == ("bench", ["dfu", "--json"])
    assert not options.json
    assert parse("claim").program == []


def test_files_may_be_left_out():
    assert parse("push", "usart", "push").file == "-"
    assert parse("pull", "usart", "pull", "10").file == "-"
    assert parse("bind", "blink").image is None


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("led", "1", "2", "256"), "256 is not in 0..255"),
        (("led", "1", "2"), "required: B"),
        (("led", "1", "2", "red"), "red is no number"),
        (("call", "gpio", "write", "1.5"), "1.5 is no number"),
        (("call", "gpio", "write", str(2**64)), "is not in"),
        (("gpio", "toggle"), "invalid choice"),
        (("watch",), "required: SOURCE"),
        (("watch", "button", "--interval", "9"), "9 is not in 10..60000"),
        (("watch", "button", "--count", "0"), "0 is not in 1"),
        (("pull", "usart", "pull", "-1"), "is not in 0.."),
        (("lend",), "required: NAME"),
        ((), "required: COMMAND"),
    ],
)
def test_what_is_not_understood(words, why, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*words)
    assert end.value.code == Exit.USAGE
    assert why in capsys.readouterr().err

import argparse
import subprocess
import sys

import pytest

from buswork.cli import parser
from buswork.cli.exits import MEANINGS, Exit


def parse(*words: str) -> argparse.Namespace:
    return parser.parse(words)


@pytest.mark.parametrize("words", [("--json", "status"), ("status", "--json")])
def test_common_options_go_before_and_after_the_command(words):
    assert parse(*words).json


def test_what_was_given_before_is_not_overruled_by_defaults_after():
    options = parse("--bus", "session", "--timeout", "3", "store", "wait", "k", "--timeout", "9")
    assert (options.bus, options.timeout, options.wait_timeout) == ("session", 3, 9)


def test_all_that_follows_is_the_command():
    options = parse("store", "watch", "lamp/", "--exec", "sh", "-c", "echo --json", "--", "x")
    assert options.program == ["sh", "-c", "echo --json", "--", "x"]
    assert not options.json
    assert parse("store", "set", "--", "--exec", "v").program is None
    assert parse("store", "set", "k", "v", "--while", "sleep", "1").program == ["sleep", "1"]


@pytest.mark.parametrize(
    "words",
    [
        ("k", "v", "--ttl", "60"),
        ("k", "--ttl", "60", "v"),
        ("--ttl", "60", "k", "v"),
        ("k", "--json", "--ttl=60", "v"),
        ("k", "--ttl", "60", "--", "v"),
        ("--ttl", "60", "--", "k", "v"),
    ],
)
def test_options_go_anywhere(words):
    options = parse("store", "set", *words)
    assert (options.words, options.ttl) == (["k", "v"], 60)


def test_options_go_anywhere_in_other_commands():
    assert parse("store", "set", "k", "--if-revision", "1", "v").words == ["k", "v"]
    assert parse("store", "get", "a", "-r", "b").keys == ["a", "b"]
    options = parse("store", "wait", "k", "--timeout", "9", "-5")
    assert (options.key, options.wait_timeout, options.value) == ("k", 9, "-5")
    options = parse("store", "watch", "--from", "1", "lamp/", "--exec", "true")
    assert (options.prefix, options.from_, options.program) == ("lamp/", 1, ["true"])
    assert parse("store", "list", "-0").prefix == ""
    assert parse("store", "wait", "k", "--", "--json").value == "--json"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("set", "k", "v", "--nonsense", "--ttl", "1"), "unrecognized arguments: --nonsense"),
        (("set", "k", "--ttl", "x", "v"), "argument --ttl"),
        (("get", "-r"), "the following arguments are required: KEY"),
        (("list", "a", "b"), "unrecognized arguments: b"),
    ],
)
def test_the_usage_is_that_of_the_command(words, text, capsys):
    with pytest.raises(SystemExit) as end:
        parse("store", *words)
    assert end.value.code == Exit.USAGE
    told = capsys.readouterr().err
    assert told.startswith(f"usage: buswork store {words[0]} [-h]")
    assert text in told
    assert "KEY" in told or "PREFIX" in told


def test_help_of_a_command_has_its_words(capsys):
    with pytest.raises(SystemExit):
        parse("store", "get", "--help")
    text = capsys.readouterr().out
    assert "KEY [KEY ...]" in text
    assert "what to print" in text


def test_one_separator_before_a_command_is_left_out():
    assert parse("store", "watch", "--exec", "--", "cat", "--", "x").program == ["cat", "--", "x"]
    assert parse("store", "watch", "--exec", "--", "--", "x").program == ["--", "x"]
    assert parse("store", "set", "k", "v", "--while", "--").program == []


def test_words_that_begin_with_a_dash():
    assert parse("store", "set", "k", "-5").words == ["k", "-5"]
    assert parse("store", "set", "--", "-k", "--json").words == ["-k", "--json"]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("store",),
        ("nonsense",),
        ("store", "get"),
        ("store", "watch", "--from", "-1"),
        ("store", "wait", "k", "--timeout", "0"),
        ("store", "wait", "k", "--timeout", "nan"),
        ("--js", "status"),
    ],
)
def test_what_is_not_understood(words, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*words)
    assert end.value.code == Exit.USAGE
    assert capsys.readouterr().out == ""


def test_help_tells_every_exit_status(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    for code in Exit:
        assert f"  {code.value:<3}  {MEANINGS[code]}" in text


def test_help_needs_neither_asyncio_nor_the_client():
    code = (
        "import sys; from buswork.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'asyncio', 'buswork.client', 'dbus_next'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"

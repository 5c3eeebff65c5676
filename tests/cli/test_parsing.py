import argparse

import pytest

from buswork.cli.parsing import (
    Parser,
    add_command,
    add_common,
    add_group,
    add_optional,
    seconds,
)


@pytest.fixture
def parser():
    parser = Parser(prog="try")
    add_common(parser, defaults=True)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    actions = add_group(commands, "wing", "a wing", "What a wing has.")
    command = add_command(actions, "do", "wing.do", "do something")
    command.add_argument("words", nargs="+")
    command.add_argument("--often", type=int)
    add_command(actions, "wait", "wing.wait", "wait", "Waits.", timeout=None)
    return parser


def test_a_command_names_its_function_and_its_usage(parser):
    options = parser.parse_args(["wing", "do", "a"])
    assert (options.command, options.action, options.run) == ("wing", "do", "wing.do")
    assert options.usage().startswith("usage: try wing do")


@pytest.mark.parametrize(
    "words", [("a", "--often", "3", "b"), ("--often", "3", "a", "b"), ("a", "b", "--often=3")]
)
def test_options_are_between_words(parser, words):
    options = parser.parse_args(["wing", "do", *words])
    assert (options.words, options.often) == (["a", "b"], 3)


def test_what_follows_two_dashes_is_no_option(parser):
    assert parser.parse_args(["wing", "do", "--", "--often", "3"]).words == ["--often", "3"]


def test_a_word_may_be_left_out():
    parser = Parser(prog="try")
    add_optional(parser, "image", "what to load")
    add_optional(parser, "file", "where to", default="-")
    assert parser.parse_args([]) == argparse.Namespace(image=None, file="-")
    assert parser.parse_args(["a", "b"]) == argparse.Namespace(image="a", file="b")
    assert parser.format_usage() == "usage: try [-h] [IMAGE] [FILE]\n"


def test_defaults_are_those_of_the_top_alone(parser):
    options = parser.parse_args(["--bus", "session", "wing", "do", "a", "--json"])
    assert (options.bus, options.json, options.timeout) == ("session", True, None)


def test_options_have_no_short_forms_by_chance(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["wing", "do", "a", "--oft", "3"])
    assert "usage: try wing do" in capsys.readouterr().err


def test_a_command_may_have_a_time_of_its_own(parser):
    with pytest.raises(SystemExit):
        parser.parse_args(["wing", "wait", "--timeout", "3"])


def test_a_summary_is_a_description_as_well(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["wing", "do", "--help"])
    assert "\nDo something.\n" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan"])
def test_seconds_are_above_0(text):
    assert seconds("0.5") == 0.5
    with pytest.raises(argparse.ArgumentTypeError):
        seconds(text)

import pytest

from buswork.cli import parser
from buswork.cli.exits import Exit


def parse(*words):
    return parser.parse(("view", *words))


def test_what_may_be_left_out():
    assert parse("inspect").process is None
    assert parse("detach", "--all").process is None
    assert parse("config", "set", "web").file == "-"
    assert parse("attach", "web").settings == []
    assert not parse("ps").others


def test_words_and_options_in_any_order():
    options = parse("config", "merge", "--dry-run", "web", "--json", "a.json", "--others")
    assert (options.process, options.file, options.run) == ("web", "a.json", "view_config.merge")
    assert options.dry_run
    assert options.json
    assert options.others


def test_settings():
    options = parse("attach", "web", "--set", "APPVIEW_TAG_A=1=2", "--set", "APPVIEW_LOG_LEVEL=")
    assert options.settings == [("APPVIEW_TAG_A", "1=2"), ("APPVIEW_LOG_LEVEL", "")]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("config",), "required: COMMAND"),
        (("config", "get"), "required: PROCESS"),
        (("transport",), "required: PROCESS"),
        (("attach", "web", "--set", "APPVIEW_X"), "is not APPVIEW_...=VALUE"),
        (("attach", "web", "--set", "PATH=/"), "PATH=/ is not APPVIEW_...=VALUE"),
        (("ps", "web"), "unrecognized"),
        ((), "required: COMMAND"),
    ],
)
def test_what_is_not_understood(words, why, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*words)
    assert end.value.code == Exit.USAGE
    assert why in capsys.readouterr().err

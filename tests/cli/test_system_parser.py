import pytest

from buswork.cli import parser
from buswork.cli.exits import Exit


def parse(*words):
    return parser.parse(words)


def test_what_may_be_left_out():
    options = parse("install")
    assert (options.root, options.prefix, options.run) == ("/", "/usr", "install.install")
    assert not any((options.dry_run, options.force, options.no_enable, options.package))
    assert not parse("uninstall").purge


@pytest.mark.parametrize("command", ["install", "uninstall", "doctor"])
def test_they_do_not_start_the_daemon(command):
    assert parse(command).opens_bus is False


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("install", "/"), "unrecognized"),
        (("install", "--purge"), "unrecognized"),
        (("uninstall", "--force"), "unrecognized"),
        (("install", "--root"), "expected one argument"),
    ],
)
def test_what_is_not_understood(words, why, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*words)
    assert end.value.code == Exit.USAGE
    assert why in capsys.readouterr().err

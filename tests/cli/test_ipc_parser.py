import pytest

from buswork.cli import parser
from buswork.cli.exits import Exit


def parse(*words):
    return parser.parse(("ipc", *words))


def test_what_is_sent_and_awaited_may_be_left_out():
    options = parse("send", "pong")
    assert (options.payload, options.user_type, options.wait) == ("-", 0, None)
    assert (options.no_reply, options.wait_timeout) == (False, 25)
    options = parse("send", "pong", "--user-type", "0x2a", "hello", "--wait", "3", "--timeout", "2")
    assert (options.payload, options.user_type, options.wait) == ("hello", 42, 3)
    assert options.wait_timeout == 2
    assert parse("send", "pong", "--", "--hex").payload == "--hex"


def test_a_service_has_a_name_if_none_is_given():
    assert parse("pong").service == "pong"
    assert parse("pong", "--measure", "c:echo").service == "c:echo"


def test_the_bus_is_not_opened_before_it_is_needed():
    for words in (("list",), ("send", "a"), ("listen", "a"), ("pong",), ("bridge", "a", "b")):
        assert parse(*words).opens_bus is False
        assert not parse(*words, "--direct").daemon


def test_all_that_follows_is_the_command():
    options = parse("listen", "shout", "--exec", "tr", "a-z", "A-Z", "--json")
    assert options.program == ["tr", "a-z", "A-Z", "--json"]
    assert not options.json


def test_a_bridge_has_two_ends():
    options = parse("bridge", "-", "pong", "--framing", "wire")
    assert (options.a, options.b, options.framing) == ("-", "pong", "wire")
    assert (options.count, options.linger, options.serve) == (None, 1, False)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("send", "a", "b", "--user-type", "256"), "256 is not in 0..255"),
        (("send", "a", "b", "--user-type", "x"), "x is no number"),
        (("send", "a", "b", "--wait", "0"), "0 is not in 1.."),
        (("send", "a", "b", "--wait", "1", "--no-reply"), "not allowed with"),
        (("send", "a", "b", "--timeout", "0"), "no number of seconds above 0"),
        (("send",), "required: SERVICE"),
        (("list", "--direct", "--daemon"), "not allowed with"),
        (("list", "--form", "d"), "invalid choice"),
        (("pong", "--size", "2000000"), "2000000 is not in 0..1999988"),
        (("bridge", "a"), "required: B"),
        (("bridge", "a", "b", "--framing", "xml"), "invalid choice"),
        ((), "required: COMMAND"),
    ],
)
def test_what_is_not_understood(words, why, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*words)
    assert end.value.code == Exit.USAGE
    assert why in capsys.readouterr().err

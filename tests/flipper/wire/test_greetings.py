"""buswork.flipper.wire.greetings"""

import pytest
from flipper.wire.requests import requests
from hypothesis import given

from buswork.flipper.wire.greetings import Greeting, is_name, parse_greeting, refused
from buswork.flipper.wire.packets import encode_request
from buswork.flipper.wire.terms import BadValue, Generation


@pytest.mark.parametrize("greeting", [Greeting("carbon-1-1"), Greeting("carbon-a:7000", 1000)])
def test_there_and_back(greeting):
    assert parse_greeting(bytes(greeting)) == greeting


def test_the_newline_may_be_missing():
    assert parse_greeting(b"board desk") == Greeting("desk")


@pytest.mark.parametrize("rest", [b"", b"\n", b"a b\n", b"a for x\n", b"a for -1\n", b"\xff\n"])
def test_what_only_begins_so(rest):
    with pytest.raises(BadValue):
        parse_greeting(b"board " + rest)


@given(requests(Generation.G1))
def test_no_packet_begins_so(request):
    assert parse_greeting(encode_request(request)) is None


def test_a_refusal_is_a_line():
    assert refused("no") == b"error no\n"


@pytest.mark.parametrize(("text", "is_one"), [("a-1.2:3", True), ("", False), ("a=b", False)])
def test_names(text, is_one):
    assert is_name(text) is is_one

"""buswork.flipper.wire.endpoints"""

import pytest

from buswork.flipper.wire.endpoints import parse_endpoint
from buswork.flipper.wire.terms import BadValue


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("localhost", ("localhost", 3258)),
        ("Board.example:7000", ("board.example", 7000)),
        ("192.168.1.7", ("192.168.1.7", 3258)),
        ("[::1]", ("::1", 3258)),
        ("[FE80::1]:65535", ("fe80::1", 65535)),
    ],
)
def test_what_is_one(text, endpoint):
    found = parse_endpoint(text)
    assert found == endpoint
    assert parse_endpoint(str(found)) == found


@pytest.mark.parametrize(
    "text",
    ["", ":1", "a b", "a:", "a:0", "a:65536", "a:x", "a:²", "::1", "[::1", "a\nudp b", "a" * 300],
)
def test_what_is_none(text):
    with pytest.raises(BadValue) as caught:
        parse_endpoint(text)
    assert caught.value.field == "endpoint"

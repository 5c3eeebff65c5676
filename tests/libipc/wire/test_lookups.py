"""buswork.libipc.wire.lookups; what clients really ask is in test_recorded"""

import pytest

from buswork.libipc.wire.forms import (
    NETWORK_LOOKUP,
    Assembler,
    BadMessage,
    Form,
    Message,
    most_payload,
)
from buswork.libipc.wire.lookups import (
    MAX_REQUEST_BYTES,
    BadRequest,
    Request,
    Uri,
    asks,
    encode_request,
    parse_request,
    target,
)

C, ZIG = Form
TYPES = {C: (3, NETWORK_LOOKUP), ZIG: ()}


@pytest.mark.parametrize("form", Form)
def test_requests_both_ways(form):
    for network in ("", "a b", "é x://é", ";;;", "pong tcp://h:1/pong;audio y://z"):
        request = Request("pong", network)
        (message,) = Assembler(form).feed(encode_request(form, request))
        assert message[1:] == Message(b"", *TYPES[form])[1:]
        assert parse_request(form, message) == request


def test_a_request_that_can_not_be_made():
    with pytest.raises(BadRequest, match="semicolon"):
        encode_request(C, Request("a;b", ""))
    with pytest.raises(BadMessage):
        encode_request(ZIG, Request("a", "x" * most_payload(ZIG)))


def test_a_variable_that_is_no_text_goes_as_it_is():
    assert encode_request(ZIG, Request("a", "\udcff")).endswith(b"a;\xff")


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "a semicolon and"),
        (b"pong", "a semicolon and"),
        (b";", "not empty"),
        (b"../x;", "without its directory"),
        (b"a\nb;", "printable"),
        (b"\xff;", "no UTF-8"),
        (b"a;\xff", "no UTF-8"),
        (b"a;" + b"x" * (MAX_REQUEST_BYTES - 1), f"at most {MAX_REQUEST_BYTES}"),
    ],
)
def test_requests_that_are_none(form, payload, why):
    with pytest.raises(BadRequest, match=why):
        parse_request(form, Message(payload, *TYPES[form]))


def test_only_one_type_of_message_is_a_request():
    assert parse_request(C, Message(b"a;", 99, NETWORK_LOOKUP)) == Request("a", "")
    with pytest.raises(BadRequest, match="type 2"):
        parse_request(C, Message(b"a;"))


@pytest.mark.parametrize(
    ("network", "uri"),
    [
        ("pong unix://x", "unix://x"),
        ("audio tor://some.example.com/audio ;pong tls://pong.example.com/pong",
         "tls://pong.example.com/pong"),
        (" ; \tpong   unix://x  ; ", "unix://x"),
        ("pong unix://x;pong unix://y", "unix://y"),
        ("pong;pong unix://y", "unix://y"),
        ("pongd unix://x", None),
        ("xpong unix://x", None),
        ("Pong unix://x", None),
        ("audio pong", None),
        (";;;", None),
        ("", None),
    ],
)  # fmt: skip
def test_where_a_service_is(network, uri):
    assert target(Request("pong", network)) == (uri and Uri.parse(uri))


@pytest.mark.parametrize(
    "network",
    ["pong", "pong x", "pong a://b c", "pong unix://x;pong", "pong unix://", "pong 7://x"],
)
def test_an_entry_that_is_none(network):
    with pytest.raises(BadRequest):
        target(Request("pong", network))
    assert target(Request("audio", network)) is None


@pytest.mark.parametrize(
    ("network", "c"),
    [("pong x", True), ("pongd x", True), ("a b;pongspam", True), ("a b; pong x", False),
     ("xpong y", False), ("", False)],
)  # fmt: skip
def test_whether_an_original_asks(network, c):
    assert asks(C, "pong", network) is c
    assert asks(ZIG, "pong", network)
    assert not asks(C, "pong", None)
    assert not asks(ZIG, "pong", None)


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("unix://pong", ("unix", "pong", "")),
        ("tcp://127.0.0.1:9000/a/b", ("tcp", "127.0.0.1:9000", "a/b")),
        ("a+b-c.d://x/", ("a+b-c.d", "x", "")),
        ("a://b://c", ("a", "b:", "/c")),
    ],
)
def test_uris(text, uri):
    found = Uri.parse(text)
    assert found == uri
    assert str(found) == text.removesuffix("/")


@pytest.mark.parametrize(
    "text", ["", "x", "://x", "a://", "a:///x", "a:/x", "1a://x", "a b://x", "a://x\n", "é://x"]
)
def test_what_is_no_uri(text):
    with pytest.raises(BadRequest, match="no URI"):
        Uri.parse(text)


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [("127.0.0.1:9000", ("127.0.0.1", 9000)), ("a-b.example:1", ("a-b.example", 1)),
     ("[::1]:65535", ("::1", 65535))],
)  # fmt: skip
def test_endpoints(address, endpoint):
    assert Uri("tcp", address).endpoint() == endpoint


@pytest.mark.parametrize(
    "address", ["h", "h:", ":1", "h:0", "h:65536", "::1:80", "[::1]", "h:1x", "h:²", "u@h:1"]
)
def test_what_is_no_endpoint(address):
    with pytest.raises(BadRequest, match="no HOST:PORT"):
        Uri("tcp", address).endpoint()


def test_the_longest_request():
    """A variable of the environment has at most 131,072 bytes on Linux."""
    assert MAX_REQUEST_BYTES > 131_072
    payload = b"a;" + b"x" * (MAX_REQUEST_BYTES - 2)
    assert parse_request(C, Message(payload, *TYPES[C])).service == "a"

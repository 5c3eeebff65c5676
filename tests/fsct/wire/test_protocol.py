import pytest

from buswork.fsct.wire import msgpackrpc
from buswork.fsct.wire.protocol import VERSION, Broken, Protocol, ProtocolVersion, protocol_of


def test_majors_decide():
    assert ProtocolVersion(1, 7).is_compatible(VERSION)
    assert not ProtocolVersion(2, 0).is_compatible(VERSION)


@pytest.mark.parametrize(
    "data",
    [
        msgpackrpc.encode_request(1, "get_protocol_version", []),
        msgpackrpc.encode_request(2**32, "get_protocol_version", []),
        bytes.fromhex("93 02 a178 90"),  # a notification
        bytes.fromhex("dc0004 00 01 a178 90"),  # an array of four in a longer form
        bytes.fromhex("01 02 03 94 00 07 a178 90"),  # what the original skips
    ],
)
def test_messagepack_begins_with_any_byte_that_json_does_not(data):
    assert protocol_of(data[0]) is Protocol.MSGPACK_RPC


@pytest.mark.parametrize("line", [b'{"jsonrpc":"2.0"}\n', b' {"a":1}\n', b"\r\n{}\n", b"[]\n"])
def test_a_line_of_json_begins_with_a_brace_or_a_blank(line):
    assert protocol_of(line[0]) is Protocol.JSON_RPC


def test_broken_says_why_and_what_to_send():
    broken = Broken("no more", b"bye")
    assert (str(broken), broken.answer) == ("no more", b"bye")
    assert Broken("no more").answer == b""

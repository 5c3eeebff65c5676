from uuid import UUID

import pytest
from fsct.wire.calls import CALLS, DEVICE
from fsct.wire.vectors import vectors
from hypothesis import given

from buswork.fsct.wire.methods import (
    METHODS,
    UnknownMethod,
    encode_params,
    encode_result,
    error_text,
    parse_params,
    parse_result,
    plain,
)
from buswork.fsct.wire.msgpackrpc import Decoder, encode_error, encode_request, encode_response
from buswork.fsct.wire.protocol import ProtocolVersion
from buswork.fsct.wire.terms import (
    BadValue,
    PlayerState,
    Status,
    TextId,
    Texts,
    Timeline,
)

TIMELINE = Timeline(12345, 1755000000123, 240000, 1.0)
STATE = PlayerState(
    Status.PLAYING,
    TIMELINE,
    Texts("Bohemian Rhapsody", "Queen", "A Night at the Opera"),
)

# What the recorded messages say, as a program of ours says it: arguments, and result or error.
SAID = {
    "get_protocol_version": ((), ProtocolVersion(1, 0)),
    "register_player": (("org.mpris.MediaPlayer2.demo",), 1),
    "register_player second": (("zażółć",), 2),
    "set_preferred_player some": ((1,), None),
    "get_preferred_player some": ((), 1),
    "set_preferred_player nil": ((None,), None),
    "assign_player_to_device": ((1, DEVICE), None),
    "get_player_assigned_device some": ((1,), DEVICE),
    "unassign_player_from_device": ((1, DEVICE), None),
    "update_player_status unknown": ((1, Status.UNKNOWN), None),
    "update_player_timeline some": ((1, TIMELINE), None),
    "update_player_timeline nil": ((1, None), None),
    "update_player_metadata title": ((1, TextId.CURRENT_TITLE, "Пісня Сміливих Дівчат"), None),
    "update_player_metadata genre nil": ((1, TextId.CURRENT_GENRE, None), None),
    "update_player_state full": ((1, STATE), None),
    "error: update_player_status unknown player": ((99, Status.PLAYING), "Player not found"),
    "error: unassign not assigned": ((1, DEVICE), "Player not assigned to the device"),
    "error: set_preferred unknown player": ((99,), "Player not found"),
    "error: unregister_player again": ((1,), "Player not found"),
}


def received(data):
    decoder = Decoder()
    decoder.feed(data)
    return decoder.next()


@pytest.mark.parametrize("vector", vectors("msgpack_rpc_methods"), ids=lambda v: v["label"])
def test_recorded_calls_in_both_directions(vector):
    args, result = SAID[vector["label"]]
    method, msgid = vector["method"], vector["msgid"]
    sent = encode_request(msgid, method, encode_params(*args))
    assert sent.hex() == vector["request_hex"]
    request = received(sent)
    assert parse_params(request.method, request.params) == args
    if vector["label"].startswith("error"):
        answer = encode_error(msgid, error_text(method, result))
        assert answer.hex() == vector["response_hex"]
    else:
        answer = encode_response(msgid, encode_result(result))
        assert answer.hex() == vector["response_hex"]
        assert parse_result(method, received(answer).result) == result


def test_the_twelve_methods():
    assert len(METHODS) == 12
    assert {vector["method"] for vector in vectors("msgpack_rpc_methods")} == {*METHODS}


@pytest.mark.parametrize("method", ["", "frobnicate", "Get_protocol_version", "__init__"])
def test_other_methods(method):
    with pytest.raises(UnknownMethod) as raised:
        parse_params(method, [])
    assert str(raised.value) == f"unknown method: {method}"


def test_little_is_repeated_of_an_unknown_method():
    assert len(str(UnknownMethod("x" * 10**6))) < 100
    str(UnknownMethod("\udcff")).encode()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_wants_all_its_parameters(method):
    names = METHODS[method].params
    for count in range(5):
        if count != len(names):
            with pytest.raises(BadValue, match=rf"expected {len(names)} param"):
                parse_params(method, [1] * count)
    assert METHODS[method].expects.endswith(", ".join(names) or "params")


def test_reasons_reach_a_client_unless_the_original_kept_them():
    assert error_text("update_player_status", "Player not found") == "Player not found"
    assert error_text("register_player", "no room") == "register_player error"


@pytest.mark.parametrize("raw", [b"\xffaaaaaaaaaaaaaaa", b"a" * 16, bytes(range(16))])
def test_a_uuid_may_be_raw_bytes_in_a_text(raw):
    """Also those that are no UTF-8, as in the original."""
    request = received(b"\x94\x00\x01\xa1m\x92\x01\xb0" + raw)
    assert parse_params("assign_player_to_device", request.params) == (1, UUID(bytes=raw))


@pytest.mark.parametrize("device", ["", "a" * 15, "ą" * 16, "\ud800" * 3, str(DEVICE)[:-1]])
def test_other_texts_are_no_uuid(device):
    with pytest.raises(BadValue, match="device_id"):
        parse_params("assign_player_to_device", [1, device])


def test_a_uuid_may_be_text_and_a_status_a_name():
    assert parse_params("assign_player_to_device", [1, str(DEVICE)]) == (1, DEVICE)
    assert parse_params("update_player_status", [1, "Paused"]) == (1, Status.PAUSED)
    state = {"status": "SEEKING"}
    assert parse_params("update_player_state", [1, state])[1].status is Status.SEEKING


def test_whole_rates_are_sent_as_floats():
    assert type(plain(Timeline(1, 2, 3, 2))["rate"]) is float


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("get_protocol_version", None),
        ("get_protocol_version", {"major": 1}),
        ("get_protocol_version", {"major": 1, "minor": -1}),
        ("get_protocol_version", {"major": 1, "minor": 65536}),
        ("get_protocol_version", {"major": True, "minor": 0}),
        ("get_protocol_version", [1, 0]),
        ("register_player", None),
        ("register_player", 0),
        ("get_preferred_player", "1"),
        ("get_player_assigned_device", b"short"),
        ("get_player_assigned_device", 5),
    ],
)
def test_a_client_checks_its_server(method, result):
    with pytest.raises(BadValue):
        parse_result(method, result)


def test_a_version_may_have_more():
    assert parse_result("get_protocol_version", {"major": 1, "minor": 2, "x": 3}) == (1, 2)
    assert parse_result("get_preferred_player", None) is None
    assert parse_result("get_player_assigned_device", None) is None
    assert parse_result("update_player_status", "whatever") is None


@given(CALLS)
def test_every_call_comes_through(call):
    method, args = call
    request = received(encode_request(1, method, encode_params(*args)))
    assert request.method == method
    assert parse_params(method, request.params) == args

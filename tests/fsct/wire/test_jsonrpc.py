import json
import time
from itertools import pairwise
from uuid import UUID

import pytest
from fsct.wire.calls import CALLS, DEVICE
from fsct.wire.vectors import recorded, vectors
from hypothesis import given
from hypothesis import strategies as st

from buswork.fsct.model.display import MAX_DEVICES
from buswork.fsct.wire import jsonrpc
from buswork.fsct.wire.jsonrpc import (
    DRIVER_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_SEPARATORS,
    METHODS,
    PARSE_ERROR,
    UNKNOWN_METHOD,
    Decoder,
    Notification,
    Refused,
    Request,
    Response,
    device_changed,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
    parse_line,
    parse_params,
    parse_result,
)
from buswork.fsct.wire.methods import UnknownMethod
from buswork.fsct.wire.protocol import MAX_MESSAGE_BYTES, Broken, ProtocolVersion
from buswork.fsct.wire.terms import (
    BadValue,
    DeviceInfo,
    PlayerState,
    Status,
    TextId,
    Texts,
    Timeline,
    TimeSync,
)

# The driver's monotonic clock began then.
BOOT_NS = 1754999910_123_000_000
MONO = {"mono_to_unix_ns": BOOT_NS}
TIMELINE = Timeline(12345, 1755000000123, 240000, 1.0)
STATE = PlayerState(Status.PAUSED, None, Texts("T"))
INFO = DeviceInfo(DEVICE, "DAC", None, 5824, 1155, "X")

# What the recorded lines say, by id: arguments, result, and how the timeline tells the time.
SAID = {
    1: ((), ProtocolVersion(1, 0), {}),
    2: ((), TimeSync(1755000000000000000, 90000000000), {}),
    3: (("demo",), 1, {}),
    4: ((), [DEVICE], {}),
    5: ((DEVICE,), INFO, {}),
    6: ((1, DEVICE), None, {}),
    7: ((1,), DEVICE, {}),
    8: ((1, DEVICE), None, {}),
    9: ((1, Status.PLAYING), None, {}),
    10: ((1, TIMELINE), None, MONO),
    11: ((1, None), None, {}),
    12: ((1, TIMELINE), None, {}),
    13: ((1, TextId.CURRENT_TITLE, "Tytuł"), None, {}),
    14: ((1, TextId.CURRENT_GENRE, None), None, {}),
    15: ((1, STATE), None, {}),
    16: ((1,), None, {}),
    18: ((9, Status.PLAYING), "player_id 9 not registered for this connection", {}),
}


def messages(data):
    decoder = Decoder()
    decoder.feed(data)
    found = []
    while (message := decoder.next()) is not None:
        found.append(message)
    return found


def line_of(**members):
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "m", "params": {}} | members).encode()


RECORDED = {json.loads(vector["request"])["id"]: vector for vector in vectors("jsonrpc_later_protocol")}  # noqa: E501  # fmt: skip


@pytest.mark.parametrize("number", SAID)
def test_recorded_calls_in_both_directions(number):
    vector, (args, result, clock) = RECORDED[number], SAID[number]
    method = vector["method"]
    line = encode_request(number, method, *args, **clock)
    assert line.decode() == vector["request"]
    (request,) = messages(line)
    assert request == Request(number, method, request.params)
    assert parse_params(method, request.params, BOOT_NS) == args
    if "error" in json.loads(vector["response"]):
        answer = encode_error(number, DRIVER_ERROR, result)
        assert messages(answer) == [Response(number, result, None, DRIVER_ERROR)]
    else:
        answer = encode_result(number, result)
        (response,) = messages(answer)
        assert response.error is None
        assert parse_result(method, response.result) == result
    assert answer.decode() == vector["response"]


def test_the_codes_of_errors():
    codes = (PARSE_ERROR, INVALID_REQUEST, UNKNOWN_METHOD, INVALID_PARAMS, DRIVER_ERROR)
    assert codes == (-32700, -32600, -32601, -32602, -32000)


def test_an_unknown_method_as_recorded():
    (request,) = messages(RECORDED[17]["request"].encode())
    with pytest.raises(UnknownMethod) as raised:
        parse_params(request.method, request.params, 0)
    answer = encode_error(request.id, UNKNOWN_METHOD, str(raised.value))
    assert answer.decode() == RECORDED[17]["response"]
    assert {*SAID, 17} == {*RECORDED}


def test_the_recorded_notification():
    line = recorded("jsonrpc_later_protocol")["notification"].encode()
    assert device_changed("added", DEVICE) == line
    params = {"event": "added", "device_id": str(DEVICE)}
    assert messages(line) == [Notification("device_changed", params)]


def test_all_methods_of_the_older_protocol_are_here_too():
    assert len(METHODS) == 15


@given(CALLS)
def test_every_call_comes_through(call):
    method, args = call
    (request,) = messages(encode_request(1, method, *args))
    assert parse_params(method, request.params, 0) == args


@given(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62))
def test_times_of_the_monotonic_clock(mono_ns, boot_ns):
    timeline = {"position_ms": 1, "update_mono_ns": mono_ns, "duration_ms": 3, "rate": 1}
    params = {"player_id": 1, "timeline": timeline}
    _, found = parse_params("update_player_timeline", params, boot_ns)
    assert found.update_unix_ms == (mono_ns + boot_ns) // 10**6
    params = {"player_id": 1, "state": {"timeline": timeline}}
    assert parse_params("update_player_state", params, boot_ns)[1].timeline == found


def test_the_first_and_the_last_time():
    for mono_ns in (-(2**63), 2**63 - 1):
        timeline = {"position_ms": 1, "update_mono_ns": mono_ns, "duration_ms": 3, "rate": 1}
        params = {"player_id": 1, "timeline": timeline}
        _, found = parse_params("update_player_timeline", params, 0)
        assert found.update_unix_ms == mono_ns // 10**6


@pytest.mark.parametrize("time", [None, 1.5, "1", True, 2**63, -(2**63) - 1])
def test_other_times(time):
    timeline = {"position_ms": 1, "update_mono_ns": time, "duration_ms": 3, "rate": 1}
    with pytest.raises(BadValue, match="update_mono_ns"):
        parse_params("update_player_timeline", {"player_id": 1, "timeline": timeline}, 0)


def test_members_of_a_later_version_are_passed_over():
    timeline = {"position_ms": 1, "update_unix_ms": 2, "duration_ms": 3, "rate": 1, "new": 5}
    state = {"status": "error", "timeline": timeline, "texts": {"title": "T", "new": 1}, "new": 2}
    args = parse_params("update_player_state", {"player_id": 1, "state": state, "new": 3}, 0)
    assert args == (1, PlayerState(Status.ERROR, Timeline(1, 2, 3, 1.0), Texts("T")))
    (found,) = messages(line_of(new=1) + b"\n")
    assert found == Request(1, "m", {})


@pytest.mark.parametrize(
    ("method", "params", "complaint"),
    [
        ("register_player", {}, "missing self_id"),
        ("register_player", {"self_id": 5}, "self_id must be string"),
        ("register_player", {"self_id": "\ud800"}, "self_id must be string"),
        ("update_player_status", {"player_id": 1}, "missing status"),
        ("update_player_status", {"player_id": 2**32 + 1, "status": "playing"}, "at most"),
        ("update_player_metadata", {"player_id": 1, "metadata_id": "queue_title"}, "queue"),
        ("update_player_state", {"player_id": 1, "state": None}, "expected map"),
        ("update_player_state", {"player_id": 1, "state": {"texts": [1]}}, "texts must be map"),
        ("update_player_timeline", {"player_id": 1, "timeline": []}, "expected map or nil"),
        ("get_device_info", {"device_id": "a" * 16}, "36 characters"),
        ("get_device_info", {}, "missing device_id"),
    ],
)
def test_other_parameters(method, params, complaint):
    with pytest.raises(BadValue, match=complaint):
        parse_params(method, params, 0)


def test_what_may_be_missing_is_none():
    assert parse_params("update_player_timeline", {"player_id": 1}, 0) == (1, None)
    params = {"player_id": 1, "metadata_id": 2}
    assert parse_params("update_player_metadata", params, 0) == (1, TextId.CURRENT_AUTHOR, None)


@pytest.mark.parametrize(
    ("line", "answer_id", "code"),
    [
        (b"x", None, PARSE_ERROR),
        (b"{", None, PARSE_ERROR),
        (b"{}{}", None, PARSE_ERROR),
        (b'{"a":NaN}', None, PARSE_ERROR),
        (b'{"a":-Infinity}', None, PARSE_ERROR),
        (b'{"a":"\xff"}', None, PARSE_ERROR),
        (b"\xef\xbb\xbf{}", None, PARSE_ERROR),
        ('{"a":1}'.encode("utf-16"), None, PARSE_ERROR),
        (b'{"a":' + b"9" * 5000 + b"}", None, PARSE_ERROR),
        (b"[" * 100_000, None, PARSE_ERROR),
        (b'{"a":' * 100_000, None, PARSE_ERROR),
        (b'{"a":' + b"[]," * 100 + b"1}", None, PARSE_ERROR),
        (b"[" + b'{"a":[]},' * 20 + b"1]", None, PARSE_ERROR),
        (b"[]", None, INVALID_REQUEST),
        (b"5", None, INVALID_REQUEST),
        (b"null", None, INVALID_REQUEST),
        (b"{}", None, INVALID_REQUEST),
        (b'{"id":1,"id":1}', None, INVALID_REQUEST),
        (line_of(jsonrpc="1.0"), 1, INVALID_REQUEST),
        (line_of(jsonrpc=None), 1, INVALID_REQUEST),
        (line_of(id=1.5), None, INVALID_REQUEST),
        (line_of(id=True), None, INVALID_REQUEST),
        (line_of(id={}), None, INVALID_REQUEST),
        (line_of(method=5), 1, INVALID_REQUEST),
        (line_of(method=None), 1, INVALID_REQUEST),
        (line_of(params=[]), 1, INVALID_PARAMS),
        (line_of(params="x", id="seven"), "seven", INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"error":5}', 1, INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"error":{}}', 1, INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"error":{"message":"\\ud800"}}', 1, INVALID_REQUEST),
    ],
)
def test_other_lines_are_refused(line, answer_id, code):
    refused, following = messages(line.replace(b"\n", b" ") + b"\n" + line_of(id=7) + b"\n")
    assert following == Request(7, "m", {})
    assert type(refused) is Refused
    assert (refused.id, refused.code) == (answer_id, code)
    assert json.loads(encode_error(*refused))["error"]["code"] == code


def test_how_many_objects_a_line_may_have():
    (found,) = messages(line_of(params={"a": [[]] * 29}) + b"\n")
    assert type(found) is Request
    (found,) = messages(line_of(params={"a": [[]] * 30}) + b"\n")
    assert type(found) is Refused


def test_how_many_values_a_line_may_have():
    separators = line_of(params={"a": []}).count(b",") + line_of(params={"a": []}).count(b":")
    most = MAX_SEPARATORS - separators + 1
    (found,) = messages(line_of(params={"a": [0] * most}) + b"\n")
    assert type(found) is Request
    (found,) = messages(line_of(params={"a": [0] * (most + 1)}) + b"\n")
    assert found == Refused(None, PARSE_ERROR, "a line has 256 values at the most")


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":[' + b"1," * 500_000 + b"1]}",
        b"{" + b",".join(b'"%x":1' % number for number in range(80_000)) + b"}",
        b'{"a"' + b":" * 1_000_000 + b"1}",
    ],
)
def test_what_has_many_values_is_not_even_read(line, monkeypatch):
    monkeypatch.setattr(jsonrpc, "_decode", pytest.fail)
    (found,) = messages(line + b"\n")
    assert (found.id, found.code) == (None, PARSE_ERROR)


def test_the_answer_that_tells_of_all_devices_is_read():
    line = encode_result(1, [UUID(int=number) for number in range(MAX_DEVICES)])
    (found,) = messages(line)
    assert len(found.result) == MAX_DEVICES


def test_errors_may_lack_a_code():
    line = b'{"jsonrpc":"2.0","id":1,"error":{"message":"no","code":null}}\n'
    assert messages(line) == [Response(1, "no", None, 0)]


def test_brackets_in_texts_are_none():
    title = '[{"\\,:' * 1000
    (found,) = messages(line_of(params={"text": title}) + b"\n")
    assert found.params == {"text": title}


@pytest.mark.parametrize("rest", [b'"' + b'\\"' * 400_000, b'"\\', b'"' * 1001, b"\\" * 400_000])
def test_strings_without_an_end_take_no_time(rest):
    begin = time.perf_counter()
    (refused,) = messages(b"[" * 50 + rest + b"\n")
    assert refused.code == PARSE_ERROR
    assert time.perf_counter() - begin < 5


def test_numbers_that_are_too_large():
    params = json.loads('{"player_id":1,"timeline":{"position_ms":1,"update_unix_ms":1,"duration_ms":1,"rate":1e999}}')  # noqa: E501  # fmt: skip
    with pytest.raises(BadValue, match="rate must be"):
        parse_params("update_player_timeline", params, 0)
    with pytest.raises(BadValue, match="at most"):
        parse_params("unregister_player", {"player_id": 10**4000}, 0)


@pytest.mark.parametrize("message_id", [0, -1, 10**4000, "", "a", "ą", "\ud800", None])
def test_ids_come_back_as_they_were(message_id):
    (request,) = messages(line_of(id=message_id) + b"\n")
    assert request.id == message_id
    for answer in (encode_result(request.id, None), encode_error(request.id, -32000, "ą")):
        assert answer.count(b"\n") == 1
        assert json.loads(answer.decode())["id"] == message_id


def test_without_an_id_nobody_waits():
    line = b'{"jsonrpc":"2.0","method":"update_player_status"}\n'
    assert messages(line) == [Notification("update_player_status", {})]


def test_params_may_be_left_out():
    assert messages(b'{"jsonrpc":"2.0","id":1,"method":"m"}\n') == [Request(1, "m", {})]
    assert messages(line_of(params=None) + b"\n") == [Request(1, "m", {})]


def test_blank_lines_are_skipped():
    decoder = Decoder()
    decoder.feed(b"\n \t\r\n" + line_of() + b"\r\n\n")
    assert decoder.next() == Request(1, "m", {})
    assert decoder.next() is None
    assert not decoder.partial


def test_many_short_lines_at_once_are_not_one_long():
    line = line_of() + b"\n"
    assert messages(b"\n" + line * 20_000) == [Request(1, "m", {})] * 20_000


@given(st.lists(st.text(max_size=30), max_size=6), st.data())
def test_messages_come_through_in_any_pieces(texts, data):
    sent = [Notification("m", {"text": text}) for text in texts]
    usual = st.characters(exclude_categories=["Cs"])
    sent += [Notification(name, {}) for name in data.draw(st.lists(st.text(usual)))]
    stream = b"".join(encode_notification(*message) for message in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    decoder, received = Decoder(), []
    for begin, end in pairwise([0, *cuts, len(stream)]):
        decoder.feed(stream[begin:end])
        while (message := decoder.next()) is not None:
            received.append(message)
    assert received == sent


def test_the_longest_line():
    room = MAX_MESSAGE_BYTES - len(line_of(method="")) - 1
    (found,) = messages(line_of(method="x" * room) + b"\n")
    assert len(found.method) == room
    for rest in (b"\n", b""):
        with pytest.raises(Broken) as raised:
            messages(line_of(method="x" * (room + 1)) + rest + b"x" * (not rest))
        assert json.loads(raised.value.answer)["error"]["code"] == PARSE_ERROR


def test_the_work_grows_with_the_bytes_alone():
    line = line_of(method="x" * 1_000_000) + b"\n"
    decoder, begin = Decoder(), time.perf_counter()
    for at in range(0, len(line), 20):
        decoder.feed(line[at : at + 20])
        decoder.next()
    for _ in range(20):
        decoder.feed(b"\n" * 20_000 + line_of() + b"\n")
        assert decoder.next() is not None
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("get_timesync", None),
        ("get_timesync", {"wall_ns": 1}),
        ("get_timesync", {"wall_ns": 1, "mono_ns": -1}),
        ("get_detected_devices", {}),
        ("get_detected_devices", ["x"]),
        ("get_device_info", []),
        ("get_device_info", {"id": str(DEVICE), "vendor_id": 1, "product_id": 65536}),
        ("get_device_info", {"id": "x", "vendor_id": 1, "product_id": 1}),
        ("get_device_info", {"id": str(DEVICE), "vendor_id": 1, "product_id": 1, "name": 5}),
    ],
)
def test_a_client_checks_its_server(method, result):
    with pytest.raises(BadValue):
        parse_result(method, result)


def test_a_device_may_say_little():
    result = {"id": str(DEVICE), "vendor_id": 1, "product_id": 2, "later": 3}
    expected = DeviceInfo(UUID(str(DEVICE)), None, None, 1, 2, None)
    assert parse_result("get_device_info", result) == expected
    assert parse_result("get_timesync", {"wall_ns": 0, "mono_ns": 0}) == TimeSync(0, 0)
    for number in (0, 0xFFFF):
        result |= {"vendor_id": number, "product_id": number}
        found = parse_result("get_device_info", result)
        assert (found.vendor_id, found.product_id) == (number, number)


def test_a_call_has_all_its_arguments():
    for args in ((), (1,), (1, Status.PLAYING, 2)):
        with pytest.raises(ValueError, match="zip"):
            encode_request(1, "update_player_status", *args)


@given(st.binary(max_size=60))
def test_no_line_does_worse_than_refused(line):
    message = parse_line(line)
    if isinstance(message, Refused):
        encode_error(*message)


def test_nothing_is_kept_of_what_was_read():
    decoder, long = Decoder(), line_of(method="x" * 100_000)
    decoder.feed(long)
    assert decoder.next() is None
    assert decoder.buffered == len(long)
    decoder.feed(b"\n")
    assert decoder.next() is not None
    assert decoder.next() is None
    assert decoder.buffered == 0
    decoder.feed(long)
    decoder.clear()
    assert decoder.buffered == 0
    assert not decoder.partial

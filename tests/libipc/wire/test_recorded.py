"""Every recorded byte of the originals both ways: read as messages, and written again."""

from collections import Counter

import pytest
from libipc.wire.vectors import LOOKUPS, content, recorded, streams, vectors

from buswork.libipc.wire.forms import (
    DATA,
    Assembler,
    BadMessage,
    Form,
    Message,
    encode,
    frame,
    most_payload,
)
from buswork.libipc.wire.lookups import (
    AGREED,
    DESCRIPTOR_BYTE,
    DOOR_AGREED,
    TAKEN,
    BadRequest,
    Request,
    Uri,
    asks,
    encode_request,
    parse_request,
    target,
)
from buswork.libipc.wire.names import BadName, parse

ALL = streams()

# Made by hand: what is not whole, by the number of bytes that wait.
UNFINISHED = {
    "c_server_pongd/one_byte_02/sent": 1,
    "c_server_pongd/trailing_garbage/sent": 1,
    "c_server_pongd/announced_longer_then_close/sent": 10,
    "c_server_pongd/len_1999994_announced/sent": 10,
    "c_switching/simple_tcpd_example/received": 2,  # a second "OK" that is no message
    "zig_new_server_pongd/announced_longer_then_close/sent": 7,
    "zig_old_server_pongd/announced_longer_then_close/sent": 7,
}
# What no receiver takes; the first three of each are how the sender truncates (section 2).
TOO_LONG = {
    f"zig_{age}_{name}/sent"
    for age in ("new", "old")
    for name in (
        "client_sends/len_99993",
        "client_sends/len_100000",
        "client_sends/schedule_100001",
        "client_receives/len_99993",
        "client_receives/announced_99993_short",
        "client_receives/announced_ffffffff",
        "server_pongd/binding_echo_len_99993",
        "server_pongd/binding_echo_len_200000",
        "server_pongd/announced_99993",
        "server_pongd/announced_ffffffff",
        "server_pongd/old_c_header",  # of the other form
    )
} | {
    "c_client_receives/over_max_announced/sent",
    "c_server_pongd/len_1999995/sent",
    "c_server_pongd/len_ffffffff/sent",
}
# A sender of the form C that overruns its buffer.
OVERRUN = {"c_client_sends/len_1999989/sent", "c_client_sends/len_1999994/sent"}


@pytest.mark.parametrize("stream", ALL, ids=lambda stream: stream.name)
def test_a_stream_is_read_and_written_again(stream):
    assembler = Assembler(stream.form)
    if stream.name in TOO_LONG:
        with pytest.raises(BadMessage):
            assembler.feed(stream.data)
        return
    messages = assembler.feed(stream.data)
    waiting = UNFINISHED.get(stream.name, 0)
    assert assembler.waiting == waiting
    whole = stream.data[: len(stream.data) - waiting]
    if stream.name in OVERRUN:
        with pytest.raises(BadMessage):
            encode(stream.form, *messages)
    else:
        assert b"".join([encode(stream.form, message) for message in messages]) == whole


@pytest.mark.parametrize("stream", ALL, ids=lambda stream: stream.name)
def test_a_stream_in_pieces_is_the_same(stream):
    if stream.name in TOO_LONG:
        return
    together = Assembler(stream.form).feed(stream.data)
    size = 1 if len(stream.data) < 2000 else 65_521
    assembler = Assembler(stream.form)
    pieces = [stream.data[at : at + size] for at in range(0, len(stream.data), size)]
    assert [message for piece in pieces for message in assembler.feed(piece)] == together


def test_the_tables_above_name_what_there_is():
    assert TOO_LONG | OVERRUN | UNFINISHED.keys() <= {stream.name for stream in ALL}
    assert Counter(stream.form for stream in ALL) > Counter({Form.C: 80, Form.ZIG: 100})


# -- what clients were told to send, and what they said they got -----------------------------------


def asked(form, words):
    """The messages that a driver's command line asks for."""
    messages = []
    while words:
        verb, *words = words
        if verb in ("write", "writefd", "schedule"):
            numbers = [int(words.pop(0)) for _ in range(3 if form is Form.C else 1)]
            *types, length = numbers
            payload = pattern(words.pop(0), length)
            messages.append(Message(payload, *reversed(types)))
    return messages


def pattern(written, length):
    kind, digits = written[0], written[1:]
    if kind == "n":
        return bytes(i & 255 for i in range(length))
    return bytes.fromhex(digits) if kind == "h" else bytes.fromhex(digits) * length


SENT = [
    pytest.param(form, asked(form, vector["driver"].split()), content(form, vector["bytes"]), id=n)
    for n, form, vector in vectors("c_client_sends", "zig_new_client_sends", "zig_old_client_sends")
    if not vector["driver"].startswith("format ")
]


@pytest.mark.parametrize(("form", "messages", "data"), SENT)
def test_what_a_client_sends_is_what_we_would(form, messages, data):
    if any(len(message.payload) > most_payload(form) for message in messages):
        with pytest.raises(BadMessage, match="bytes in the form"):
            [encode(form, message) for message in messages]
        return
    ours = [encode(form, message) for message in messages]
    if len(ours) > 1:  # several that are queued leave in another order (section 4)
        assert Counter(Assembler(form).feed(data)) == Counter(messages)
    elif b"AB\0CD" in ours[0] and form is Form.C:  # and one with a zero is spoilt
        assert data == ours[0].replace(b"CD\0EF", bytes(5))
    else:
        assert ours == [data]


def h31(payload):
    total = 0
    for byte in payload:
        total = (total * 31 + byte) & 2**64 - 1
    return total


RECEIVED = [
    pytest.param(form, vector, id=name)
    for name, form, vector in vectors(
        "c_client_receives", "zig_new_client_receives", "zig_old_client_receives"
    )
    if any(log.get("h31") for log in vector["client_log"])
]


@pytest.mark.parametrize(("form", "vector"), RECEIVED)
def test_what_a_client_gets_is_what_we_would(form, vector):
    sent = b"".join(content(form, step) for step in vector["server_sends"] if type(step) is dict)
    got = [
        (log.get("type", DATA), log.get("user_type", 0), log["length"], log["h31"])
        for log in vector["client_log"]
        if "h31" in log
    ]
    ours = [
        (message.type, message.user_type, len(message.payload), h31(message.payload))
        for message in Assembler(form).feed(sent)
    ]
    spoilt = vector["name"].startswith("split_") or vector["name"] == "two_coalesced"
    spoilt |= vector["name"] == "empty_then_full_coalesced"
    assert (ours == got) is not spoilt


# -- look-ups --------------------------------------------------------------------------------------

ASKED = list(vectors(*LOOKUPS))


def request_of(vector):
    service = vector.get("service") or vector["client_log"][0]["service"]
    return Request(service, vector["IPC_NETWORK"])


OBSERVED = [
    pytest.param(form, request_of(vector), bytes.fromhex(vector["observed"]["request"]), id=name)
    for name, form, vector in ASKED
    if vector.get("observed", {}).get("request")
]


@pytest.mark.parametrize(("form", "request_", "data"), OBSERVED)
def test_requests_of_clients(form, request_, data):
    assert encode_request(form, request_) == data
    (message,) = Assembler(form).feed(data)
    assert parse_request(form, message) == request_


@pytest.mark.parametrize(
    ("form", "vector"),
    [
        pytest.param(form, vector, id=name)
        for name, form, vector in ASKED
        # One is too long for its client, others had nobody to ask.
        if vector.get("daemon_plan") and not name.endswith("/too_long_env")
    ],
)
def test_whether_a_client_asks(form, vector):
    observed = vector["observed"]["request"] is not None
    assert asks(form, *request_of(vector)) is observed


@pytest.mark.parametrize("file", LOOKUPS[1:])
def test_what_the_original_daemon_makes_of_requests(file):
    targets = {}
    for vector in recorded(file)["vectors"]:
        if vector["name"].startswith("real_ipcd_"):
            try:
                targets[vector["name"].removeprefix("real_ipcd_")] = target(request_of(vector))
            except BadRequest as error:
                targets[vector["name"].removeprefix("real_ipcd_")] = str(error)
    assert targets == {
        "unix": Uri("unix", "pong"),
        "unknown_target": Uri("unix", "nothere"),
        "not_listed": None,
        "entry_without_target": "the entry of 'p' is not a name, a blank and a URI",
        "second_entry_space": Uri("unix", "pong"),  # theirs does not see it
        "proto_daemon_absent": Uri("tcp", "127.0.0.1:19898", "pong"),
        "tcp_loop": Uri("tcp", "127.0.0.1:19898", "pong"),
    }


def plans(file):
    return {vector["name"]: vector["daemon_plan"] for vector in recorded(file)["vectors"]
            if "daemon_plan" in vector}  # fmt: skip


def test_what_clients_take_for_an_agreement():
    c = plans("c_lookup")["ok_then_fd_after_client_read"]
    assert c == [["send", AGREED[Form.C].hex()], ["waitread"], ["fd"]]
    for file in LOOKUPS[1:]:
        assert plans(file)["ok_with_fd"] == [["fd", AGREED[Form.ZIG].hex(), 1]]
    provided = recorded("c_fd_passing")["vectors"][0]["observed"]
    assert provided["data"] == DESCRIPTOR_BYTE.hex()


# -- the TCP leg -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "form", "vector", "steps"),
    [("c_switching", Form.C, "switch_default", "tcp_client"),
     ("zig_tcpd", Form.ZIG, "tcp ok", "steps")],
)  # fmt: skip
def test_the_words_before_the_messages(file, form, vector, steps):
    (found,) = (v for _, _, v in vectors(file) if v["name"] == vector)
    (_, name), (_, answer) = found[steps][:2]
    assert parse(bytes.fromhex(name)) == "pong"
    assert bytes.fromhex(answer) == DOOR_AGREED[form]


@pytest.mark.parametrize(
    "vector",
    [v for _, _, v in vectors("zig_tcpd") if "request" in v],
    ids=lambda vector: vector["name"],
)
def test_requests_to_protocol_daemons(vector):
    data = bytes.fromhex(vector["request"])
    (message,) = Assembler(Form.ZIG).feed(data)
    uri = Uri.parse(message.payload.decode())
    assert str(uri) == vector["request_text"]
    assert frame(Form.ZIG, str(uri).encode()) == data
    if vector["reply"]:
        assert frame(Form.ZIG, TAKEN).hex() == vector["reply"]
    if vector["name"].endswith("no_port"):
        with pytest.raises(BadRequest):
            uri.endpoint()
    else:
        assert uri.endpoint()[1] == 19555
    if vector["name"].endswith("path_with_slashes"):
        assert vector["remote_saw"] == [uri.path.encode().hex()]
        with pytest.raises(BadName):
            parse(uri.path.encode())

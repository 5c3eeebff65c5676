import io

import pytest
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.constants import MessageFlag, MessageType
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from support.fakebus import ERROR
from support.reference import Message
from support.values import BODIES, PATHS, strings

from buswork.bus.codec import CodecError, Parts, body_encoder
from buswork.bus.library import variant
from buswork.bus.message import (
    FIXED_SIZE,
    MAX_ERROR_TEXT,
    MAX_MESSAGE,
    FieldCode,
    Flag,
    Frame,
    FrameBuffer,
    Header,
    Kind,
    ProtocolError,
    ReplyTemplate,
    SignalTemplate,
    encode_error,
    encode_fields,
    encode_message,
    parse_fields,
)
from buswork.errors import BusworkError, LimitsExceeded

ORDERS = ["<", ">"]
MEMBERS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
INTERFACES = st.lists(MEMBERS, min_size=2, max_size=3).map(".".join)
SENDERS = st.tuples(st.integers(1, 9), st.integers(0, 9999)).map(
    lambda pair: f":{pair[0]}.{pair[1]}"
)


@st.composite
def messages(draw):
    """Calls, returns, errors and signals as a bus passes them on, in both byte orders."""
    kind = draw(st.sampled_from([reference.CALL, reference.RETURN, reference.SIGNAL]))
    order = draw(st.sampled_from(ORDERS))
    signature, values = draw(BODIES)
    fields = {reference.SENDER: draw(SENDERS)}
    if kind == reference.RETURN:
        fields[reference.REPLY_SERIAL] = draw(st.integers(1, 0xFFFFFFFF))
    else:
        fields[reference.PATH] = draw(PATHS)
        fields[reference.INTERFACE] = draw(INTERFACES)
        fields[reference.MEMBER] = draw(MEMBERS)
    if signature:
        fields[reference.SIGNATURE] = signature
    order_of_fields = draw(st.permutations(list(fields)))
    fields = {code: fields[code] for code in order_of_fields}
    flags = draw(st.integers(0, 255))
    body = reference.encode(signature, values, order)
    return Message(kind, draw(st.integers(1, 0xFFFFFFFF)), fields, body, flags, order)


def raw(message):
    """What a FrameBuffer is to make of it, its fields as a reader of bytes sees them."""
    data = message.write()
    fields_length = reference.Reader(data, message.order, 12).unpack("I")
    fields = data[16 : 16 + fields_length]
    return message.kind, message.flags, message.serial, message.order, fields, message.body


def feed(buffer, data, sizes=()):
    """Puts data in, in pieces of these sizes (the last again and again), and takes frames out."""
    frames = []
    view = memoryview(data)
    sizes = list(sizes) or [len(data)]
    while view:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        room = buffer.room()
        assert len(room) > 0
        size = min(size, len(room), len(view))
        room[:size] = view[:size]
        buffer.filled(size)
        view = view[size:]
        while (frame := buffer.next()) is not None:
            frames.append(frame)
    return frames


# The buffer


@given(st.lists(messages(), max_size=4), st.lists(st.integers(1, 200), max_size=20))
def test_frames_do_not_depend_on_the_pieces(made, sizes):
    data = b"".join(message.write() for message in made)
    buffer = FrameBuffer()
    assert feed(buffer, data, sizes) == [raw(message) for message in made]
    assert not buffer.partial


@given(st.lists(messages(), min_size=1, max_size=2))
@settings(max_examples=20)
def test_frames_come_out_of_single_bytes_as_well(made):
    data = b"".join(message.write() for message in made)
    assert feed(FrameBuffer(), data, [1]) == [raw(message) for message in made]


def small_call(serial=1, body=b"\5\0\0\0", order="<"):
    fields = {reference.PATH: "/a", reference.MEMBER: "M", reference.SIGNATURE: "u"}
    return Message(reference.CALL, serial, fields, body, 0, order)


@pytest.mark.parametrize("order", ORDERS)
def test_messages_cut_at_every_byte(order):
    made = [small_call(1, order=order), small_call(2, order=order)]
    data = b"".join(message.write() for message in made)
    for cut in range(1, len(data)):
        buffer = FrameBuffer()
        assert feed(buffer, data, [cut, len(data)]) == [raw(message) for message in made]
        assert not buffer.partial


def test_a_begun_message_is_partial_and_nothing_comes_of_it():
    data = small_call().write()
    for cut in range(1, len(data)):
        buffer = FrameBuffer()
        assert feed(buffer, data[:cut]) == []
        assert buffer.partial


def big_call(size, serial=1):
    fields = {reference.PATH: "/a", reference.MEMBER: "M", reference.SIGNATURE: "ay"}
    body = reference.encode("ay", [bytes(size)])
    return Message(reference.CALL, serial, fields, body)


class CountingBuffer(FrameBuffer):
    """Counts how often bytes are moved."""

    def __init__(self):
        super().__init__()
        self.grown = []
        self.taken_out = 0

    def _grow(self, size):
        self.grown.append(size)
        super()._grow(size)

    def _take_out(self):
        done = super()._take_out()
        self.taken_out += done
        return done


@pytest.mark.parametrize("piece", [1 << 12, 1 << 16])
def test_a_large_message_is_not_copied_with_every_read(piece):
    message = big_call(8 << 20)
    buffer = CountingBuffer()
    data = small_call(7).write() + message.write() + small_call(8).write()
    frames = feed(buffer, data, [piece])
    assert [frame[2] for frame in frames] == [7, 1, 8]
    assert frames[1] == raw(message)
    assert len(buffer.grown) == 1
    assert buffer.grown[0] <= len(message.write())
    assert buffer.taken_out <= 4
    assert len(buffer.room()) == FrameBuffer.CAPACITY


def test_many_large_messages_in_a_row():
    made = [big_call(200_000, serial) for serial in range(1, 20)]
    data = b"".join(message.write() for message in made)
    assert feed(FrameBuffer(), data, [65536]) == [raw(message) for message in made]


def with_header(**changes):
    header = {"order": b"l", "kind": 1, "version": 1, "body": 0, "serial": 1, "fields": 0}
    header |= changes
    numbers = (header["body"], header["serial"], header["fields"])
    letters = bytes((header["kind"], 0, header["version"]))
    return header["order"] + letters + b"".join(n.to_bytes(4, "little") for n in numbers)


@pytest.mark.parametrize(
    "changes",
    [
        {"order": b"x"},
        {"order": b"\0"},
        {"kind": 0},
        {"version": 2},
        {"version": 0},
        {"serial": 0},
        {"body": MAX_MESSAGE},
        {"fields": MAX_MESSAGE},
        {"body": 0xFFFFFFFF, "fields": 0xFFFFFFFF},
    ],
)
def test_26_a_header_that_makes_no_sense_ends_the_stream(changes):
    with pytest.raises(ProtocolError):
        feed(FrameBuffer(), with_header(**changes))


def test_an_unknown_kind_of_message_is_a_frame_like_any_other():
    assert feed(FrameBuffer(), with_header(kind=77)) == [(77, 0, 1, "<", b"", b"")]


def test_no_room_is_made_for_what_a_header_does_not_claim():
    buffer = CountingBuffer()
    feed(buffer, with_header(body=1 << 20))
    assert [size <= (1 << 20) + FIXED_SIZE for size in buffer.grown] == [True]


# Header fields


HEADER = {
    reference.PATH: "/org/toy",
    reference.INTERFACE: "org.toy",
    reference.MEMBER: "Echo",
    reference.ERROR_NAME: "org.toy.Error",
    reference.REPLY_SERIAL: 7,
    reference.DESTINATION: "org.buswork",
    reference.SENDER: ":1.7",
    reference.SIGNATURE: "a{sv}",
    reference.UNIX_FDS: 2,
}


def fields_bytes(fields, order="<", more=()):
    message = Message(reference.CALL, 1, fields, b"", 0, order)
    data = message.write(more)
    length = reference.Reader(data, order, 12).unpack("I")
    return data[16 : 16 + length]


@pytest.mark.parametrize("order", ORDERS)
def test_all_fields_are_read(order):
    header = parse_fields(fields_bytes(HEADER, order), order)
    assert header == Header(
        "/org/toy", "org.toy", "Echo", "org.toy.Error", 7, "org.buswork", ":1.7", "a{sv}", 2
    )


@given(st.permutations(list(HEADER)), st.sampled_from(ORDERS))
def test_fields_come_in_any_order(codes, order):
    fields = {code: HEADER[code] for code in codes}
    expected = parse_fields(fields_bytes(HEADER))
    assert parse_fields(fields_bytes(fields, order), order) == expected


def test_missing_fields_are_none():
    assert parse_fields(b"") == Header(None, None, None, None, 0, None, None, "", 0)


UNKNOWN = [
    variant("s", "x"),
    variant("u", 5),
    variant("v", variant("as", ["a", "b"])),
    variant("(yt)", (1, 2)),
    variant("a(yv)", [(1, variant("s", "x"))]),
    variant("a{sv}", {"a": variant("d", 1.5)}),
    variant("at", []),
    variant("aat", [[1], []]),
    variant("g", "ss"),
    variant("o", "/"),
    variant("ay", b"abc"),
    variant("b", True),
    variant("n", 1),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("unknown", UNKNOWN, ids=lambda value: value.signature)
def test_26_unknown_fields_are_ignored_whatever_they_hold(unknown, order):
    for code in (0, 10, 255):
        before = fields_bytes({}, order, ((code, unknown),))
        before += bytes(-len(before) % 8)
        assert parse_fields(before + fields_bytes(HEADER, order), order) == parse_fields(
            fields_bytes(HEADER, order), order
        )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("code", list(HEADER))
@pytest.mark.parametrize("wrong", [variant("v", variant("s", "/")), variant("t", 1)])
def test_03_a_known_field_of_the_wrong_type_is_refused(code, wrong, order):
    with pytest.raises(CodecError):
        parse_fields(fields_bytes({}, order, ((code, wrong),)), order)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (reference.PATH, "no/path"),
        (reference.PATH, "/a//b"),
        (reference.MEMBER, b"\xff"),
        (reference.SENDER, b":1.\0"),
    ],
)
def test_26_a_field_with_a_wrong_value_is_refused(code, value):
    with pytest.raises(CodecError):
        parse_fields(fields_bytes({code: value}))


@pytest.mark.parametrize("order", ORDERS)
def test_26_fields_cut_at_every_byte_are_read_or_refused(order):
    fields = fields_bytes(HEADER, order, ((77, variant("a{sv}", {"a": variant("s", "b")})),))
    for length in range(len(fields)):
        try:
            parse_fields(fields[:length], order)
        except CodecError:
            pass


@given(st.binary(max_size=100), st.sampled_from(ORDERS))
def test_26_any_fields_are_read_or_refused(fields, order):
    try:
        parse_fields(fields, order)
    except (CodecError, LimitsExceeded):
        pass


@given(st.data(), st.sampled_from(ORDERS))
def test_26_fields_with_flipped_bytes_are_read_or_refused(data, order):
    fields = bytearray(fields_bytes(HEADER, order, ((77, variant("av", UNKNOWN)),)))
    for _ in range(data.draw(st.integers(1, 3))):
        fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_fields(bytes(fields), order)
    except (CodecError, LimitsExceeded):
        pass


def test_26_unknown_fields_do_not_nest_without_end():
    deep = variant("y", 7)
    for _ in range(2000):
        deep = variant("v", deep)
    fields = b"\x4d\1v\0" + b"\1v\0" * 5000 + b"\1y\0\7"
    with pytest.raises(CodecError):
        parse_fields(fields)


def test_a_frame_reads_its_body_in_its_order():
    for order in ORDERS:
        body = reference.encode("su", ["x", 5], order)
        frame = Frame(1, 0, 1, order, Header(signature="su"), body)
        assert list(frame.values()) == ["x", 5]


# What leaves


def library_reads(data):
    unmarshaller = Unmarshaller(io.BytesIO(data))
    return unmarshaller.unmarshall()


@given(BODIES, strings().map(lambda text: text or "x"))
def test_what_is_written_is_read_by_the_library_and_the_reference(case, text):
    signature, values = case
    body = body_encoder(signature)(values)
    fields = {
        FieldCode.PATH: "/org/toy",
        FieldCode.INTERFACE: "org.toy",
        FieldCode.MEMBER: "Echo",
        FieldCode.DESTINATION: ":1.7",
        FieldCode.SIGNATURE: signature,
    }
    flags = Flag.NO_AUTO_START | Flag.ALLOW_INTERACTIVE_AUTHORIZATION
    data = encode_message(Kind.CALL, flags, 77, fields, body)
    message = library_reads(data)
    assert message.message_type is MessageType.METHOD_CALL
    assert message.flags == MessageFlag.NO_AUTOSTART | MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION
    assert (message.path, message.interface, message.member) == ("/org/toy", "org.toy", "Echo")
    assert (message.destination, message.serial, message.signature) == (":1.7", 77, signature)
    parsed = reference.parse(data)
    assert parsed.fields == {int(code): value for code, value in fields.items()}
    assert parsed.values == list(values)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (FieldCode.PATH, "a"),
        (FieldCode.PATH, "/a//b"),
        (FieldCode.INTERFACE, "toy"),
        (FieldCode.INTERFACE, "org.1toy"),
        (FieldCode.MEMBER, "a.b"),
        (FieldCode.MEMBER, ""),
        (FieldCode.ERROR_NAME, "no name"),
        (FieldCode.DESTINATION, "not a name"),
        (FieldCode.DESTINATION, "org.toy\0"),
        (FieldCode.SIGNATURE, "{sv}"),
        (FieldCode.SIGNATURE, "s" * 256),
        (FieldCode.REPLY_SERIAL, -1),
        (FieldCode.REPLY_SERIAL, "x"),
    ],
)
def test_26_a_bad_field_never_leaves(code, value):
    with pytest.raises(CodecError):
        encode_fields({code: value})


def test_a_message_larger_than_128_mib_never_leaves(monkeypatch):
    monkeypatch.setattr("buswork.bus.message.MAX_MESSAGE", 100)
    encode_message(Kind.CALL, 0, 1, {}, bytes(70))
    with pytest.raises(CodecError):
        encode_message(Kind.CALL, 0, 1, {}, bytes(80))


@pytest.mark.parametrize("signature", ["", "s", "t", "as", "a{sv}", "(ss)"])
@pytest.mark.parametrize("destination", [":1.7", ":1.12345", "org.toy.name"])
def test_a_reply_template_makes_what_encode_message_makes(signature, destination):
    values = {
        "": None,
        "s": "x",
        "t": 5,
        "as": ["a"],
        "a{sv}": {"k": variant("u", 1)},
        "(ss)": ("a", "b"),
    }
    template = ReplyTemplate(destination, signature, 1 if signature else 0)
    body = template.body(values[signature])
    for serial, reply_serial in [(1, 2), (0xFFFFFFFF, 0xFFFFFFFE)]:
        message = reference.parse(template.message(serial, reply_serial, body))
        fields = {
            FieldCode.REPLY_SERIAL: reply_serial,
            FieldCode.DESTINATION: destination,
            **({FieldCode.SIGNATURE: signature} if signature else {}),
        }
        expected = encode_message(Kind.RETURN, Flag.NO_REPLY_EXPECTED, serial, fields, body)
        assert message == reference.parse(expected)
        assert message.values == ([values[signature]] if signature else [])


@pytest.mark.parametrize("pieces", [[], [b""], [bytes(8)], [bytes(3), b"", bytes(5)]])
def test_a_body_that_is_made_already_is_sent_as_it_is(pieces):
    template = ReplyTemplate(":1.7", "as", 1)
    parts = Parts(pieces)
    assert template.body(parts) is parts
    assert len(parts) == sum(map(len, pieces))
    sent = b"".join(template.pieces(5, 6, parts))
    assert sent == template.message(5, 6, b"".join(pieces))


def test_several_outputs_are_a_tuple():
    template = ReplyTemplate(":1.7", "su", 2)
    assert template.body(("a", 5)) == body_encoder("su")(("a", 5))
    for wrong in (None, "ab", ("a",), 5, ("a", 5, 6)):
        with pytest.raises(CodecError):
            template.body(wrong)


def test_a_handler_without_outputs_returns_nothing():
    template = ReplyTemplate(":1.7", "", 0)
    assert bytes(template.body(None)) == b""
    for wrong in ("", 0, False, (), []):
        with pytest.raises(CodecError):
            template.body(wrong)


def test_a_reply_with_descriptors_says_how_many():
    template = ReplyTemplate(":1.7", "hah", 2)
    body = template.body((10, [11, 12]))
    message = reference.parse(template.message_with_fds(5, 6, body))
    assert message.fields[reference.UNIX_FDS] == 3
    assert message.values == [0, [1, 2]]
    assert (message.serial, message.fields[reference.REPLY_SERIAL]) == (5, 6)


@given(BODIES, st.none() | SENDERS)
def test_a_signal_template_makes_what_encode_message_makes(case, destination):
    signature, values = case
    template = SignalTemplate("/org/toy", "org.toy", "Moved", signature, destination)
    fields = {
        FieldCode.PATH: "/org/toy",
        FieldCode.INTERFACE: "org.toy",
        FieldCode.MEMBER: "Moved",
        **({FieldCode.DESTINATION: destination} if destination else {}),
        **({FieldCode.SIGNATURE: signature} if signature else {}),
    }
    body = body_encoder(signature)(values)
    expected = encode_message(Kind.SIGNAL, Flag.NO_REPLY_EXPECTED, 9, fields, body)
    assert reference.parse(template.message(9, values)) == reference.parse(expected)


def test_a_template_refuses_bad_names():
    for arguments in [("a", "org.toy", "M"), ("/a", "toy", "M"), ("/a", "org.toy", "")]:
        with pytest.raises(CodecError):
            SignalTemplate(*arguments, "", None)
    with pytest.raises(CodecError):
        ReplyTemplate("not a name", "", 0)


# Errors that leave (ATTACKS 20, 24, 26)


def error_values(error):
    message = reference.parse(encode_error(1, 2, ":1.7", error))
    return message.error, message.values[0]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("plain", "plain"),
        ("a\0b", "a\N{REPLACEMENT CHARACTER}b"),
        ("\ud800", "?"),
        ("", ""),
    ],
)
def test_26_the_text_of_an_error_is_always_a_string(text, sent):
    assert error_values(BusworkError(text)) == (ERROR + "Failed", sent)


def test_26_the_text_of_an_error_is_short():
    """One that quotes a path of 32 MiB would get us thrown off the bus."""
    name, text = error_values(BusworkError("€" * (32 << 20)))
    assert len(text.encode()) <= 4 * MAX_ERROR_TEXT
    assert name == ERROR + "Failed"


@pytest.mark.parametrize("name", ["not a name", "", "a", "org.toy\0"])
def test_26_an_error_with_a_bad_name_is_sent_all_the_same(name):
    assert error_values(BusworkError("text", name)) == (ERROR + "Failed", "text")

import struct

import pytest
from dbus_next._private.marshaller import Marshaller
from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.signature import SignatureTree
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import reference
from support.values import BASIC, BODIES, signatures, strings

from buswork.bus import codec
from buswork.bus.codec import (
    MAX_ARRAY,
    MAX_ELEMENTS,
    NUMBERS_PER_ELEMENT,
    Body,
    CodecError,
    body_decoder,
    body_encoder,
)
from buswork.bus.library import Variant, decoded_variant, parse_signature, variant
from buswork.errors import LimitsExceeded

ORDERS = ["<", ">"]


def decode(signature, body, order="<", fds=()):
    return list(body_decoder(signature, order)(bytes(body), fds))


def lists(value):
    """A value as the library wants it: structs are lists."""
    if isinstance(value, tuple | list):
        return [lists(member) for member in value]
    if isinstance(value, dict):
        return {key: lists(member) for key, member in value.items()}
    if isinstance(value, Variant):
        return variant(value.signature, lists(value.value))
    return value


def library_decode(signature, body, order):
    unmarshaller = Unmarshaller(None)
    unmarshaller.buf = bytearray(body)
    unmarshaller.endian = ord("l" if order == "<" else "B")
    values = [unmarshaller.read_argument(type_) for type_ in SignatureTree._get(signature).types]
    assert unmarshaller.offset == len(body)
    return values


# The same bytes and values as two others


@given(BODIES)
def test_bodies_are_the_librarys_and_the_references(case):
    signature, values = case
    body = bytes(body_encoder(signature)(values))
    assert body == reference.encode(signature, values)
    assert body == bytes(Marshaller(signature, lists(values)).marshall())


@given(BODIES, st.sampled_from(ORDERS))
def test_decoded_values_are_the_encoded_ones_in_both_orders(case, order):
    signature, values = case
    body = reference.encode(signature, values, order)
    assert decode(signature, body, order) == list(values)
    assert lists(decode(signature, body, order)) == library_decode(signature, body, order)


@given(BODIES)
def test_what_was_written_is_read(case):
    signature, values = case
    assert decode(signature, body_encoder(signature)(values)) == list(values)


@pytest.mark.parametrize(
    ("signature", "values", "body"),
    [
        ("", (), b""),
        ("y", (7,), b"\7"),
        ("b", (True,), b"\1\0\0\0"),
        ("yn", (1, -2), b"\1\0\xfe\xff"),
        ("s", ("hé",), b"\3\0\0\0h\xc3\xa9\0"),
        ("ss", ("a", "b"), b"\1\0\0\0a\0\0\0\1\0\0\0b\0"),
        ("ay", (b"abc",), b"\3\0\0\0abc"),
        ("at", ([1],), b"\x08\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0"),
        ("at", ([],), b"\0\0\0\0\0\0\0\0"),
        ("g", ("a{sv}",), b"\5a{sv}\0"),
        ("v", (variant("u", 5),), b"\1u\0\0\5\0\0\0"),
        ("(yy)", ((1, 2),), b"\1\2"),
        ("a{sv}", ({},), b"\0\0\0\0\0\0\0\0"),
    ],
)
def test_a_body_is_these_bytes(signature, values, body):
    assert bytes(body_encoder(signature)(values)) == body
    assert decode(signature, body) == list(values)


@pytest.mark.parametrize("token", ["n", "q", "i", "u", "x", "t"])
def test_the_ends_of_each_range_of_numbers(token):
    bits = 8 * struct.calcsize("<" + reference.NUMBERS[token])
    signed = token in "nix"
    low = -(1 << bits - 1) if signed else 0
    high = (1 << bits - 1) - 1 if signed else (1 << bits) - 1
    assert decode(token * 2, body_encoder(token * 2)((low, high))) == [low, high]
    for value in (low - 1, high + 1):
        with pytest.raises(CodecError):
            body_encoder(token)((value,))


def test_lists_are_taken_for_structs_and_any_bytes_for_ay():
    assert body_encoder("(ss)")((["a", "b"],)) == body_encoder("(ss)")((("a", "b"),))
    for raw in (b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"abcd").cast("I")):
        assert bytes(body_encoder("ay")((raw,))) == b"\4\0\0\0abcd"


def test_the_bodies_with_a_road_of_their_own_agree_with_the_general_one():
    for signature, values in [("s", ("héllo",)), ("ss", ("", "x")), ("t", (5,))]:
        assert bytes(body_encoder(signature)(values)) == reference.encode(signature, values)
        assert decode(signature, reference.encode(signature, values)) == list(values)
        assert decode(signature, reference.encode(signature, values, ">"), ">") == list(values)


# What is malformed (ATTACKS 26)


MALFORMED = [
    ("", b"\0"),
    ("s", b""),
    ("s", b"\0"),
    ("s", b"\0\0\0\0"),
    ("s", b"\1\0\0\0a"),
    ("s", b"\1\0\0\0ab"),
    ("s", b"\2\0\0\0a\0\0"),
    ("s", b"\1\0\0\0\xff\0"),
    ("s", b"\3\0\0\0\xed\xa0\x80\0"),
    ("s", b"\xff\xff\xff\xffa\0"),
    ("s", b"\1\0\0\0a\0\0"),
    ("ss", b""),
    ("ss", b"\1\0\0\0a\0\0\0"),
    ("ss", b"\1\0\0\0a\0\0\0\1\0\0\0\0\0"),
    ("ss", b"\1\0\0\0\0\0\0\0\1\0\0\0a\0"),
    ("ss", b"\1\0\0\0a\0\0\0\1\0\0\0\xff\0"),
    ("ss", b"\1\0\0\0a\0\0\0\1\0\0\0a\0\0"),
    ("b", b"\2\0\0\0"),
    ("y", b""),
    ("u", b"\1\0\0"),
    ("t", b"\1\0\0\0"),
    ("yu", b"\1"),
    ("o", b"\0\0\0\0\0"),
    ("o", b"\2\0\0\0//\0"),
    ("o", b"\2\0\0\0/-\0"),
    ("o", b"\3\0\0\0/a/\0"),
    ("o", b"\3\0\0\0/a\n\0"),
    ("g", b""),
    ("g", b"\1s"),
    ("g", b"\1z\0"),
    ("g", b"\2s\0\0"),
    ("g", b"\1\xff\0"),
    ("v", b"\0\0"),
    ("v", b"\2ss\0" + bytes(20)),
    ("v", b"\5{sv}\0" + bytes(20)),
    ("v", b"\7a{sv}" + bytes(20)),
    ("v", b"\1u\0\0\1\0\0"),
    ("v", b"\4a{vs"),
    ("ai", b"\5\0\0\0\1\0\0\0\0"),
    ("ai", b"\4\0\0\0"),
    ("ai", b"\0\0\0\x40"),
    ("ai", b"\4\0\0\0\1\0\0\0\1\0\0\0"),
    ("as", b"\6\0\0\0\4\0\0\0abcd\0"),
    ("at", b"\x08\0\0\0\1\0\0\0"),
    ("a(yy)", b"\1\0\0\0\0\0\0\0\1\2"),
    ("a{ss}", b"\5\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ("(s)", b"\1\0\0\0"),
    ("h", b"\0\0\0\0"),
]


@pytest.mark.parametrize(("signature", "body"), MALFORMED)
def test_26_a_malformed_body_is_a_codec_error(signature, body):
    with pytest.raises(CodecError):
        decode(signature, body)


@pytest.mark.parametrize(
    "signature",
    [
        "z", "a", "(", ")", "()", "(s", "{sv}", "({sv})", "a{", "a{s", "a{sv", "a{}", "a{svs}",
        "a{vs}", "a{(s)v}", "a{asv}", "aa{", "a(", "s\0", "é", "y" * 256, "a" * 33 + "y",
        "(" * 33 + "y" + ")" * 33, "a" * 255,
    ],
)  # fmt: skip
def test_26_a_signature_that_is_none_is_a_codec_error_everywhere(signature):
    for make in (body_encoder, body_decoder):
        with pytest.raises(CodecError):
            make(signature)
    with pytest.raises(CodecError):
        body_encoder("g")((signature,))
    raw = signature.encode()
    if len(raw) < 256:
        for type_ in ("g", "v"):
            with pytest.raises(CodecError):
                decode(type_, bytes((len(raw),)) + raw + bytes(300))


def test_arrays_and_structs_nest_as_deep_as_the_specification_allows():
    signature = "a" * 32 + "(" * 32 + "y" + ")" * 32
    value = 7
    for _ in range(32):
        value = (value,)
    for _ in range(32):
        value = [value]
    assert decode(signature, body_encoder(signature)((value,))) == [value]


def nested(depth, signature="v"):
    """A variant in a variant ..., `depth` of them."""
    value = variant("y", 7)
    for _ in range(depth - 1):
        value = variant(signature, value if signature == "v" else [value])
    return value


def test_26_variants_nest_64_deep_and_no_deeper():
    assert decode("v", body_encoder("v")((nested(64),))) == [nested(64)]
    with pytest.raises(CodecError):
        body_encoder("v")((nested(65),))
    with pytest.raises(CodecError):
        decode("v", reference.encode("v", [nested(65)]))


def test_26_the_arrays_in_variants_count_for_their_depth():
    assert decode("v", body_encoder("v")((nested(32, "av"),))) == [nested(32, "av")]
    with pytest.raises(CodecError):
        decode("v", reference.encode("v", [nested(40, "av")]))
    deep = variant("y", 7)
    for _ in range(10):
        value = deep
        for _ in range(30):
            value = [value]
        deep = variant("a" * 30 + "v", value)
    with pytest.raises(CodecError):
        body_encoder("v")((deep,))
    with pytest.raises(CodecError):
        decode("v", reference.encode("v", [deep]))


def test_variants_side_by_side_are_not_nested():
    values = ([nested(60)] * 5,)
    assert decode("av", body_encoder("av")(values)) == list(values)


def test_a_message_holds_so_many_elements_and_no_more():
    body = reference.encode("as", [[""] * MAX_ELEMENTS])
    assert len(decode("as", body)[0]) == MAX_ELEMENTS
    with pytest.raises(LimitsExceeded):
        decode("as", reference.encode("as", [[""] * (MAX_ELEMENTS + 1)]))


@pytest.mark.parametrize(
    ("signature", "element"),
    [
        ("a(yyyyyyyy)", (0,) * 8),
        ("av", nested(5)),
        ("a(vvvvvvvv)", (variant("y", 0),) * 8),
    ],
)
def test_elements_are_counted_wherever_they_are(signature, element):
    """Else 16 MiB of small structs or variants would hold the loop for seconds."""
    with pytest.raises(LimitsExceeded):
        decode(signature, reference.encode(signature, [[element] * (MAX_ELEMENTS // 4)]))


def test_the_elements_of_several_arrays_are_counted_together():
    half = reference.encode("asas", [[""] * (MAX_ELEMENTS // 2 + 1)] * 2)
    with pytest.raises(LimitsExceeded):
        decode("asas", half)


def test_bytes_are_not_counted_and_numbers_are_cheap():
    assert len(decode("ay", struct.pack("<I", 1 << 20) + bytes(1 << 20))[0]) == 1 << 20
    most = MAX_ELEMENTS * NUMBERS_PER_ELEMENT
    assert decode("aq", struct.pack("<I", most * 2) + bytes(most * 2)) == [[0] * most]
    more = (most + NUMBERS_PER_ELEMENT) * 2
    with pytest.raises(LimitsExceeded):
        decode("aq", struct.pack("<I", more) + bytes(more))


def test_an_array_longer_than_64_mib_is_refused_both_ways():
    with pytest.raises(CodecError):
        decode("ay", struct.pack("<I", MAX_ARRAY + 1) + bytes(MAX_ARRAY + 1))
    with pytest.raises(LimitsExceeded):
        body_encoder("ay")((bytes(MAX_ARRAY + 1),))
    with pytest.raises(LimitsExceeded):
        body_encoder("as")((["x" * (MAX_ARRAY // 2)] * 3,))


@given(BODIES, st.sampled_from(ORDERS), st.data())
def test_26_a_body_cut_anywhere_is_refused(case, order, data):
    signature, values = case
    body = reference.encode(signature, values, order)
    if body:
        cut = body[: data.draw(st.integers(0, len(body) - 1))]
        with pytest.raises(CodecError):
            decode(signature, cut, order)


def test_26_one_body_cut_at_every_byte_is_refused():
    signature = "a{sv}(ybt)asaysog"
    values = [
        {"a": variant("as", ["x"]), "b": nested(3)},
        (1, True, 9),
        ["y"],
        b"z",
        "t",
        "/o",
        "u",
    ]
    body = reference.encode(signature, values)
    assert decode(signature, body) == values
    for length in range(len(body)):
        with pytest.raises(CodecError):
            decode(signature, body[:length])


def decodes_or_refuses(signature, body, order, fds=()):
    try:
        values = decode(signature, body, order, fds)
    except (CodecError, LimitsExceeded):
        return
    assert len(values) == len(reference.split(signature))


@given(BODIES, st.sampled_from(ORDERS), st.data())
def test_26_a_body_with_flipped_bytes_is_decoded_or_refused(case, order, data):
    signature, values = case
    body = bytearray(reference.encode(signature, values, order))
    for _ in range(data.draw(st.integers(1, 4))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_refuses(signature, body, order)


@given(signatures(), st.binary(max_size=80), st.sampled_from(ORDERS))
@example("s", b"", "<")
@example("v", b"\5{sv}\0\0\0", "<")
def test_26_any_bytes_are_decoded_or_refused(signature, body, order):
    decodes_or_refuses(signature, body, order, fds=(3, 4))


# Values that are not of the type (what leaves must be right: the bus throws out who sends wrong)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.sampled_from([10**400, float("nan"), 1.5, 1j, object(), ..., int, print, {1}, range(3)]),
    st.text(max_size=3),
    st.sampled_from(["\0", "a\0b", "\ud800", "/a/", "not a signature", "{sv}"]),
    st.binary(max_size=3),
    st.lists(st.integers(-3, 300), max_size=3),
    st.lists(st.text(max_size=1), max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=1), st.integers(0, 3), max_size=2),
    st.sampled_from([variant("s", 5), variant("u", "x"), variant("ay", "x"), variant("s", "\0")]),
)


@given(signatures(), st.lists(ODD, max_size=4))
def test_wrong_values_are_encoded_or_refused_and_nothing_else(signature, values):
    try:
        body = body_encoder(signature)(values)
    except (CodecError, LimitsExceeded):
        return
    # What was let through is at least what the signature says.
    decode(signature, body, fds=range(1000))


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("", ("x",)),
        ("s", ()),
        ("s", ("a", "b")),
        ("s", (5,)),
        ("s", (None,)),
        ("s", (b"x",)),
        ("s", ("a\0",)),
        ("s", ("\ud800",)),
        ("t", ()),
        ("t", (-1,)),
        ("t", (1 << 64,)),
        ("t", ("1",)),
        ("t", (1.0,)),
        ("u", (None,)),
        ("d", ("x",)),
        ("d", (10**400,)),
        ("b", (1,)),
        ("as", ("abc",)),
        ("as", ({"a": 1},)),
        ("as", (None,)),
        ("ai", (b"abc",)),
        ("ay", ("abc",)),
        ("ay", ([1, 2],)),
        ("(ss)", ("ab",)),
        ("(ss)", (("a",),)),
        ("(ss)", ({"a": 1, "b": 2},)),
        ("a{ss}", ([("a", "b")],)),
        ("a{ss}", ({"a": 1},)),
        ("a{ss}", ({1: "a"},)),
        ("o", ("",)),
        ("o", ("a",)),
        ("o", ("/a//b",)),
        ("o", ("/a\n",)),
        ("o", ("/é",)),
        ("o", (5,)),
        ("g", ("s" * 256,)),
        ("g", (5,)),
        ("v", ("x",)),
        ("v", (variant("u", "x"),)),
        ("h", ("x",)),
        ("h", (None,)),
        ("h", (-1,)),
        ("h", (True,)),
        ("ss", 5),
        ("ss", None),
    ],
)
def test_a_value_of_the_wrong_type_is_a_codec_error(signature, values):
    with pytest.raises(CodecError):
        body_encoder(signature)(values)


def test_a_variant_of_several_types_is_a_codec_error():
    two = decoded_variant(parse_signature("s")[0], "x")
    two.signature = "ss"
    with pytest.raises(CodecError):
        body_encoder("v")((two,))


@given(st.from_regex(r"[/a-zA-Z0-9_.\-\n]{0,12}", fullmatch=True))
def test_paths_are_the_librarys(path):
    from dbus_next.validators import is_object_path_valid

    try:
        body_encoder("o")((path,))
    except CodecError:
        assert not is_object_path_valid(path) or path.endswith("\n")
    else:
        assert is_object_path_valid(path)


# Descriptors


def test_descriptors_travel_beside_the_body():
    body = body_encoder("ha{sv}ah")((7, {"x": variant("h", 9)}, [7, 8]))
    assert isinstance(body, Body)
    assert body.fds == [7, 9, 7, 8]
    assert decode("ha{sv}ah", body, fds=body.fds) == [7, {"x": variant("h", 9)}, [7, 8]]


@pytest.mark.parametrize("order", ORDERS)
def test_a_descriptor_is_found_by_its_index(order):
    assert decode("hh", reference.encode("hh", [1, 0], order), order, fds=(10, 11)) == [11, 10]
    with pytest.raises(CodecError):
        decode("h", reference.encode("h", [2], order), order, fds=(10, 11))


# Caches


@given(st.lists(BASIC, min_size=1, max_size=3))
def test_compiled_signatures_are_kept_but_not_without_end(tokens):
    signature = "".join(tokens)
    assert body_encoder(signature) is body_encoder(signature)
    for cache in (body_encoder, body_decoder, codec._variant_decoder, codec._variant_encoder):
        assert cache.cache_info().maxsize is not None


@given(strings())
def test_strings_of_any_plane(text):
    assert decode("s", body_encoder("s")((text,))) == [text]
    assert decode("ss", reference.encode("ss", [text, text])) == [text, text]


def test_values_strategy_makes_what_the_signature_says():
    """Guards the tests above: the strategies make all sorts of types."""
    seen = set()

    @settings(max_examples=250, derandomize=True, deadline=None)
    @given(BODIES)
    def look(case):
        seen.update(case[0])

    look()
    assert set("ybnqiuxtdsogav({") <= seen

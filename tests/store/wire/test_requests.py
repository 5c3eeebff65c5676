import contextlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mapipcd import large_request, matches, vectors
from support.steps import steps

from buswork.store.wire import requests
from buswork.store.wire.requests import (
    MAX_DEPTH,
    MAX_INDENTED_BYTES,
    MAX_NESTED_BYTES,
    NULL_REPLY,
    Assembly,
    Malformed,
    SetRequest,
    error_reply,
    parse_get,
    parse_set,
    value_reply,
)
from buswork.store.wire.values import EMPTY, Json, shown

MEGA = 1 << 20

# The recorder left some sets out; the gets name what was set.
UNRECORDED = {
    "get_foo_overwritten": ("foo", "baz"),
    "get_ex": ("ex", "1"),
    "get_neg": ("v_neg", -7),
    "get_big": ("v_big", 12345678901234567890),
    "get_true": ("v_true", True),
    "get_array": ("v_array", [1, "a", None]),
    "get_empty_array": ("v_empty_array", []),
    "get_unicode": ("u_unicode", "héllo 世界 😀"),
    "get_controls": ("u_controls", "\x01\b\t\n\f\r\x1f\x7f"),
    "get_newline": ("u_newline", "l1\nl2\n"),
    "get_surrogate_pair_escape": ("u_surrogate_pair_escape", "😀"),
    "get_unicode_key": ("clé", "v"),
}


def stored(text):
    return parse_set(b'{"key":"k","value":%b}' % text.encode()).value


# Replays


def test_every_recorded_exchange_gives_the_recorded_reply():
    values = {}
    for vector in vectors("raw_protocol"):
        name, request = vector["name"], bytes.fromhex(vector["request"]["hex"])
        if name in UNRECORDED:
            key, value = UNRECORDED[name]
            values[key] = parse_set(json.dumps({"key": key, "value": value}).encode()).value
        if vector["socket"] == "mapipc_get" and request:
            try:
                reply = value_reply(values.get(parse_get(request, 1024)) or b"")
            except Malformed:
                reply = NULL_REPLY
            assert matches(reply, vector["reply"]), name
        elif request:
            malformed = "Malformed JSON" in vector.get("daemon_stderr", "")
            try:
                key, value, complaint = parse_set(request)
            except Malformed:
                assert malformed, name
                continue
            assert not malformed, name
            assert bool(complaint) == (name in ("set_value_missing", "set_key_missing")) or (
                name == "set_key_number"
            )
            if key:
                values[key] = value


@pytest.mark.parametrize("vector", vectors("large_values"), ids=lambda v: v["name"])
def test_large_values(vector):
    if vector["socket"] == "mapipc_get":
        size = int(vector["name"].removeprefix("get_"))
        reply = value_reply(b"x" * size)
        # The original cut off what it had not read at once, and kept nothing.
        assert matches(reply, vector["reply"]) or size > 212_000
    else:
        data = large_request(vector)
        assert parse_set(data).value == b"x" * (len(data) - len(parse_set(data).key) - 21)


# Set requests


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        (b'{"key":"k","value":"v"}', SetRequest("k", b"v")),
        (b' \r\n\t{ "value" : "v" , "x":[1], "key" : "k" }\n', SetRequest("k", b"v")),
        (b'\xef\xbb\xbf{"key":"k","value":"v"}', SetRequest("k", b"v")),
        (b'{"key":"a","key":"k","value":1,"value":"v"}', SetRequest("k", b"v")),
        (b'{"key":"k","value":null}', SetRequest("k", None)),
        (b'{"key":"k","value":""}', SetRequest("k", EMPTY)),
        (b'{"key":"k","value":"a\tb"}', SetRequest("k", b"a\tb")),
        (b'{"key":"k","value":"\\q\\\\"}', SetRequest("k", b"q\\")),
    ],
)
def test_leniency(data, request_):
    assert parse_set(data) == request_


BLANKS = st.text(" \t\r\n\v", max_size=2)
TEXTS = st.text('a \x7f\x1f~\\"\u00e9\n', max_size=3)


@given(st.lists(BLANKS, min_size=9, max_size=9), TEXTS, TEXTS)
def test_the_short_way_to_read_a_plain_request_says_the_same(blanks, key, value):
    parts = ["{", '"key"', ":", f'"{key}"', ",", '"value"', ":", f'"{value}"', "}"]
    data = "".join(part + blank for part, blank in zip(parts, blanks, strict=True)).encode()
    plain = requests._PLAIN.fullmatch(data)
    if plain is not None:
        assert SetRequest(plain[1].decode(), plain[2]) == requests._parse_json(data)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"{}", "there is no key"),
        (b'{"key":null,"value":"v"}', "no string"),
        (b'{"key":5,"value":"v"}', "no string"),
        (b'{"key":"k"}', "no value"),
    ],
)
def test_what_is_missing_is_complained_about(data, complaint):
    assert complaint in parse_set(data).complaint


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b'{"key":}',
        b'{"key":"k","value":',
        b'{"key":[}',
        b"[1]",
        b'"foo"',
        b"{'key':'k'}",
        b'{"key":"k"} // c',
        b'{"key":"k"}{"key":"k"}',
        b'{"key":"k","value":NaN}',
        b'{"key":"k","value":-Infinity}',
        b'{"key":"k","value":1e400}',
        b'{"key":"k","value":1e-400}',
        b'{"key":"k","value":%b}' % (b"9" * 5000),
        b'{"key":"k","value":"\xff\xfe"}',
        b'{"key":"k","value":"\xed\xa0\x80"}',
        b'{"key":"k","value":"\\u12"}',
        b'{"key":"k","value":%b%b}' % (b"[" * (MAX_DEPTH + 1), b"]" * (MAX_DEPTH + 1)),
        b'{"key":"k","value":%b' % (b"[" * 100_000),
        b'{"key":"k","value":%b%b}' % (b"[" * 100_000, b"]" * 100_000),
        b'{"key":"k","value":[%b1]}' % (b"[]," * MEGA),
        b'{"key":"k",%b"value":1}' % (b'"a":1,' * MEGA),
    ],
    ids=lambda data: repr(data[:30]),
)
def test_malformed(data):
    with pytest.raises(Malformed):
        parse_set(data)


def test_nesting_up_to_the_limit():
    depth = MAX_DEPTH
    assert stored("[" * depth + "]" * depth) == Json(b"[" * depth + b"]" * depth)


@pytest.mark.parametrize("escape", ["x", "\\n", "\\u0001", '\\"'])
def test_a_mebibyte_of_text_however_it_is_written(escape):
    assert stored(f'"{escape * MEGA}"') == json.loads(f'"{escape}"').encode() * MEGA


# Each of these was seen with the parser of Qt 5.15.
@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("5", "5"),
        ("-7", "-7"),
        ("1.0", "1"),
        ("-0", "0"),
        ("1e5", "100000"),
        ("1e19", "10000000000000000000"),
        ("1e20", "1e+20"),
        ("1e300", "1e+300"),
        ("1e-7", "1e-07"),
        ("0.0001", "0.0001"),
        ("5e-324", "5e-324"),
        ("9223372036854775807", "9223372036854776000"),
        ("12345678901234567890", "12345678901234567000"),
        ("-94364977217581555325", "-94364977217581550000"),
        ("738404517189718169162", "738404517189718100000"),
        ("123456789012345678901234567890", "1.2345678901234568e+29"),
    ],
)
def test_numbers_are_doubles_in_the_originals_digits(written, kept):
    assert stored(written) == Json(kept.encode())


@pytest.mark.parametrize(
    ("written", "kept", "on_dbus"),
    [
        ("true", b"true", "true"),
        ('{"b":1,"a":[ "z",{} ]}', b'{"a":["z",{}],"b":1}', '{"a":["z",{}],"b":1}'),
        ('"a\\u0000b"', b'"a\\u0000b"', None),
        ('"\\ud83d"', b'"\\ud83d"', None),
        ('["\\ude00\\u0000"]', b'["\\ude00\\u0000"]', '["\\ude00\\u0000"]'),
        ('""', b'""', ""),
    ],
)
def test_what_is_no_text_is_kept_as_compact_json(written, kept, on_dbus):
    value = stored(written)
    assert value == Json(kept)
    assert shown(value) == on_dbus


def test_json_is_never_equal_to_the_text_that_looks_the_same():
    assert Json(b"5") != b"5"
    assert b"5" != Json(b"5")  # noqa: SIM300 - the other way round
    assert Json(b"5") == Json(b"5")
    assert len({Json(b"5"), b"5"}) == 2


# Get requests


def test_a_nul_ends_a_key():
    assert parse_get(b"foo\0bar", 1024) == "foo"


@pytest.mark.parametrize("data", [b"", b"\0foo", b"k" * 1025, b"cl\xe9"])
def test_keys_that_nothing_can_have(data):
    with pytest.raises(Malformed):
        parse_get(data, 1024)


# Replies


def test_json_is_indented_as_the_original_does():
    value = Json(b'[1,{"a":[],"b":"x,{"},[[]]]')
    expected = """{
    "value": [
        1,
        {
            "a": [
            ],
            "b": "x,{"
        },
        [
            [
            ]
        ]
    ]
}
"""
    assert value_reply(value).decode() == expected


def test_indentation_does_not_make_a_bomb():
    depth = 500
    value = stored("[" * depth + "1," * 90_000 + "1" + "]" * depth)
    reply = value_reply(value)
    assert len(reply) < MAX_INDENTED_BYTES + len(value)
    assert json.loads(reply)["value"]


def test_an_error_has_no_value():
    reply = json.loads(error_reply("org.x.Error", 'no "way"\n'))
    assert reply == {"error": "org.x.Error", "message": 'no "way"\n'}


# Assembly


def assemble(pieces, max_bytes=8 * MEGA):
    assembly = Assembly(max_bytes)
    for piece in pieces:
        assembly.feed(piece)
    return assembly


documents = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.text('a"\\{}[]é', max_size=8) | st.integers(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(documents, st.data())
def test_a_request_in_pieces_is_complete_where_it_ends_and_not_before(document, data):
    whole = (
        b"\xef\xbb\xbf \n" + json.dumps(document, ensure_ascii=data.draw(st.booleans())).encode()
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assembly = Assembly(MEGA)
    for piece in pieces:
        assert not assembly.complete or not piece
        assembly.feed(piece)
    assert assembly.complete
    assert assembly.request() == whole


@pytest.mark.parametrize("data", [b"x", b" [", b'"', b"{}x", b'{"a":1}{', b"\xef\xbbx"])
def test_what_no_further_piece_can_mend(data):
    with pytest.raises(Malformed):
        assemble([data])


def test_blanks_may_follow():
    assert assemble([b"{}", b"\n", b" "]).request() == b"{}\n "


def test_too_large():
    with pytest.raises(Malformed, match="at the most"):
        assemble([b'{"a":"', b"x" * 100], max_bytes=50)


def test_too_many_parts():
    with pytest.raises(Malformed, match="parts"):
        assemble([b"{" + b"[" * (MAX_NESTED_BYTES + 1)])


@given(st.lists(st.binary(max_size=30), max_size=4))
def test_no_bytes_do_worse_than_malformed(pieces):
    try:
        assemble(pieces)
    except Malformed:
        pass
    try:
        parse_set(b"".join(pieces))
    except Malformed:
        pass
    try:
        parse_get(b"".join(pieces), 1024)
    except Malformed:
        pass


def work(function):
    """How many steps it takes, whether it is refused or not."""

    def quietly():
        with contextlib.suppress(Malformed):
            function()

    return steps(quietly)


@given(st.text('a\\"/\\\\n"q\n', max_size=12))
def test_vain_backslashes_go_and_no_others(text):
    escapes = re.compile(r'\\(?:["\\/bfnrtu]|(.))', re.DOTALL)
    assert requests._mended(text) == escapes.sub(lambda match: match[1] or match[0], text)


def test_vain_backslashes_are_only_for_what_the_original_takes():
    value = "\\q" * 100_000
    assert stored(f'"{value}"') == b"q" * 100_000
    with pytest.raises(Malformed, match="escape"):
        stored(f'"{value}{value}"')


@pytest.mark.parametrize("escape", ["\\q", "\\n", "\\u0001"])
def test_what_says_too_much_is_refused_before_it_is_parsed(escape, monkeypatch):
    most = MEGA + 1024
    request = b'{"key":"k","value":"%b"}' % (escape.encode() * (MEGA + 2048))
    monkeypatch.setattr(requests, "_parse_json", None)
    with pytest.raises(Malformed, match="at the most"):
        parse_set(request, most)
    monkeypatch.undo()
    request = b'{"key":"k","value":"%b"}' % (b"\\u0001" * MEGA)
    assert parse_set(request, most).value == b"\x01" * MEGA


@pytest.mark.parametrize(
    "value",
    [
        b'"%b\\q"' % (b"\\n" * 3_000_000),
        b'"%b"' % (b"\\q" * 3_000_000),
        b"[%b]" % (b"[]," * 65_000),
    ],
    ids=["many good escapes", "many bad ones", "brackets"],
)
def test_no_request_takes_long(value):
    request = b'{"key":"k","value":%b}' % value
    assert work(lambda: parse_set(request, 2 * MEGA)) < 5000
    pieces = [request[at : at + 65536] for at in range(0, len(request), 65536)]
    assert work(lambda: assemble(pieces)) / len(pieces) < 1000


def test_blanks_before_a_request_are_few_and_looked_at_once():
    assert assemble([b" " * 2000, b"\n" * 2000, b"{}"]).complete
    with pytest.raises(Malformed, match="object"):
        assemble([b" " * 2000] * 3)
    with pytest.raises(Malformed, match="object"):
        assemble([b" " * 5000 + b"{}"])
    assert work(lambda: assemble([b" "] * 4096 + [b"{}"])) < 20 * 4096


def test_a_list_that_is_asked_for_often_is_indented_once():
    value = stored("[" + "1," * 2000 + "1]")
    reply = value_reply(value)
    assert reply.count(b"\n        1") == 2001
    assert work(lambda: value_reply(value)) < 20


def test_a_long_list_is_sent_as_it_is_kept():
    value = stored("[" + "1," * 2500 + "1]")
    assert value_reply(value) == b'{\n    "value": %b\n}\n' % value
    assert work(lambda: value_reply(value)) < 50


def test_many_escaped_quotes_are_no_parts():
    request = b'{"key":"k","value":"%b"}' % (b'\\"' * 300_000)
    assert assemble([request[at : at + 65536] for at in range(0, len(request), 65536)]).complete

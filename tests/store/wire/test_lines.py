import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buswork.store.wire.lines import MAX_REVISION, Change, Cut, change_line, cut_line, parse_line
from buswork.store.wire.values import EMPTY, Json

TEXTS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40
)
REVISIONS = st.integers(1, MAX_REVISION)
CHANGES = st.one_of(
    st.builds(Change, REVISIONS, TEXTS, st.none() | TEXTS.map(str.encode)),
    st.builds(Change, REVISIONS, st.none(), st.none()),
)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (Change(7, "greeting", b"hello"), b'{"revision":7,"key":"greeting","value":"hello"}\n'),
        (Change(8, "greeting", None), b'{"revision":8,"key":"greeting"}\n'),
        (Change(9, None, None), b'{"revision":9,"kind":"clear"}\n'),
        (
            Change(10, 'Grüße"\\', "€\n\t\x01".encode()),
            '{"revision":10,"key":"Grüße\\"\\\\","value":"€\\n\\t\\u0001"}\n'.encode(),
        ),
    ],
)
def test_a_change_is_this_line_and_back(change, line):
    assert change_line(change) == line
    assert parse_line(line) == change


def test_a_cut_is_this_line_and_back():
    assert cut_line(9) == b'{"cut":{"revision":9}}\n'
    assert parse_line(cut_line(9)) == Cut(9)
    assert parse_line(cut_line(0)) == Cut(0)


@given(CHANGES)
def test_every_change_survives_one_line(change):
    line = change_line(change)
    assert line.index(b"\n") == len(line) - 1
    assert parse_line(line) == change


@given(CHANGES)
def test_a_line_is_what_a_json_encoder_makes(change):
    members = {"revision": change.revision}
    if change.key is None:
        members["kind"] = "clear"
    else:
        members["key"] = change.key
    if change.value is not None:
        members["value"] = change.value.decode()
    text = json.dumps(members, ensure_ascii=False, separators=(",", ":"))
    assert change_line(change) == text.encode() + b"\n"


@pytest.mark.parametrize(
    ("value", "line", "parsed"),
    [
        (EMPTY, b'""', b""),
        (Json(b"[1]"), b'"[1]"', b"[1]"),
        (Json(b'"a\\u0000b"'), b'"\\"a\\\\u0000b\\""', b'"a\\u0000b"'),
    ],
)
def test_what_native_clients_store_besides_text(value, line, parsed):
    """As Get shows it; what is no D-Bus string as its JSON."""
    whole = b'{"revision":1,"key":"a","value":%b}\n' % line
    assert change_line(Change(1, "a", value)) == whole
    assert parse_line(whole) == Change(1, "a", parsed)


def test_members_of_a_later_version_are_passed_over():
    line = b'{"revision":1,"key":"a","value":"b","uid":1000}\n'
    assert parse_line(line) == Change(1, "a", b"b")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "newline"),
        (b'{"revision":1,"key":"a"}', "newline"),
        (b'{"revision":1,\n"key":"a"}\n', "newline"),
        (b'{"revision":1,"key":"a"}\n\n', "newline"),
        (b"\n", "JSON"),
        (b'{"revision":1,"key":"a"\n', "JSON"),
        (b'{"revision":1,"key":"\xff"}\n', "UTF-8"),
        ('{"revision":1,"key":"a"}\n'.encode("utf-16"), "newline|UTF-8"),
        (b"[" * 100_000 + b"\n", "JSON"),
        (b'{"revision":' + b"9" * 5000 + b',"key":"a"}\n', "JSON"),
        (b"[1]\n", "object"),
        (b'"cut"\n', "object"),
        (b'{"revision":1,"revision":2,"key":"a"}\n', "twice"),
        (b'{"key":"a"}\n', "revision"),
        (b'{"revision":0,"key":"a"}\n', "revision"),
        (b'{"revision":-1,"key":"a"}\n', "revision"),
        (b'{"revision":18446744073709551616,"key":"a"}\n', "revision"),
        (b'{"revision":1.0,"key":"a"}\n', "revision"),
        (b'{"revision":true,"key":"a"}\n', "revision"),
        (b'{"revision":"1","key":"a"}\n', "revision"),
        (b'{"revision":1}\n', "key"),
        (b'{"revision":1,"key":null}\n', "key"),
        (b'{"revision":1,"key":""}\n', "key"),
        (b'{"revision":1,"key":"a\\u0000"}\n', "key"),
        (b'{"revision":1,"key":"\\ud800"}\n', "key"),
        (b'{"revision":1,"key":"a","value":null}\n', "value"),
        (b'{"revision":1,"key":"a","value":5}\n', "value"),
        (b'{"revision":1,"key":"a","value":"\\udfff"}\n', "value"),
        (b'{"revision":1,"kind":"sweep"}\n', "kind"),
        (b'{"revision":1,"kind":"clear","key":"a"}\n', "clear"),
        (b'{"revision":1,"kind":"clear","value":"a"}\n', "clear"),
        (b'{"cut":5}\n', "cut"),
        (b'{"cut":{}}\n', "revision"),
        (b'{"cut":{"revision":-1}}\n', "revision"),
        (b'{"cut":{"revision":1},"revision":2}\n', "cut"),
    ],
)
def test_any_other_line_is_refused_with_a_reason(line, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_line(line)


@given(st.binary(max_size=60).map(lambda body: body + b"\n"))
def test_no_bytes_do_worse_than_a_value_error(line):
    try:
        parse_line(line)
    except ValueError:
        pass

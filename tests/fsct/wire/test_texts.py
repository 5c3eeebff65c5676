import pytest
from fsct.wire.vectors import vectors
from hypothesis import given
from hypothesis import strategies as st

from buswork.fsct.wire.terms import Coding
from buswork.fsct.wire.texts import encode_text

CODINGS = st.sampled_from(Coding)
PIECES = {Coding.UTF8: "utf-8", Coding.UTF16: "utf-16-le", Coding.UTF32: "utf-32-le"}


def decode_text(data, coding):
    """What a display shows of it."""
    return data.decode(PIECES.get(coding, "utf-16-le"), "replace")


@pytest.mark.parametrize("coding", Coding)
def test_texts_are_encoded_as_by_the_original(coding):
    cases = [vector for vector in vectors("text_encoding") if vector["enc"] == coding]
    assert len(cases) > 100
    for case in cases:
        text = "".join(map(chr, case["codepoints"]))
        assert encode_text(text, coding, case["max"]).hex() == case["hex"], case


@given(st.text(), CODINGS, st.integers(0, 100))
def test_a_text_never_has_more_bytes_than_fit(text, coding, max_bytes):
    assert len(encode_text(text, coding, max_bytes)) <= max_bytes


@given(st.text(), st.sampled_from(list(PIECES)), st.integers(0, 100))
def test_it_is_the_longest_beginning_that_fits(text, coding, max_bytes):
    fitting = ""
    for character in text:
        if len((fitting + character).encode(PIECES[coding])) > max_bytes:
            break
        fitting += character
    assert decode_text(encode_text(text, coding, max_bytes), coding) == fitting


@given(st.text(), st.integers(0, 100))
def test_ucs2_has_a_unit_for_each_character(text, max_bytes):
    shown = decode_text(encode_text(text, Coding.UCS2, max_bytes), Coding.UCS2)
    expected = "".join(c if c < "\uffff" else "\ufffd" for c in text[: max_bytes // 2])
    assert shown == expected


@given(st.text(st.characters(categories=["Cs", "Lu"])), CODINGS, st.integers(0, 100))
def test_half_characters_do_no_harm(text, coding, max_bytes):
    shown = decode_text(encode_text(text, coding, max_bytes), coding)
    assert not any("\ud800" <= c <= "\udfff" for c in shown)


def test_of_a_long_text_only_the_beginning_is_looked_at():
    assert encode_text("ą" * 10_000_000, Coding.UTF8, 5) == "ąą".encode()

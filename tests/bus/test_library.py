import importlib
import typing

import pytest

from buswork.bus import library
from buswork.bus.library import (
    InvalidSignatureError,
    Variant,
    decoded_variant,
    parse_signature,
    variant,
)


def test_a_signature_is_its_complete_types():
    assert [type_.signature for type_ in parse_signature("sa{sv}(ii)ay")] == [
        "s", "a{sv}", "(ii)", "ay",
    ]  # fmt: skip
    assert parse_signature("") == []


@pytest.mark.parametrize("signature", ["z", "(", "a", "a{s}", "(s", "y" * 256])
def test_what_is_no_signature_has_one_error(signature):
    with pytest.raises(InvalidSignatureError):
        parse_signature(signature)


def test_variants_are_the_librarys():
    made = variant("a{sv}", {"a": variant("u", 5)})
    assert isinstance(made, Variant)
    assert made == Variant("a{sv}", {"a": Variant("u", 5)})
    assert made.type.signature == made.signature == "a{sv}"
    assert decoded_variant(parse_signature("s")[0], "x") == Variant("s", "x")


def test_a_variant_takes_what_the_codec_will_check():
    assert variant("(ss)", ("a", "b")).value == ("a", "b")
    assert variant("s", 5).value == 5


def test_a_variant_is_of_one_type():
    with pytest.raises(ValueError, match="unpack"):
        variant("ss", ("a", "b"))


def test_the_library_is_imported_where_python_has_dropped_a_name(monkeypatch):
    """typing.no_type_check_decorator is gone in Python 3.15."""
    monkeypatch.delattr(typing, "no_type_check_decorator", raising=False)
    fresh = importlib.util.module_from_spec(importlib.util.find_spec(library.__name__))
    fresh.__spec__.loader.exec_module(fresh)
    marker = object()
    assert typing.no_type_check_decorator(marker) is marker
    assert fresh.Variant is Variant

import pytest

from buswork.store.model.text import NotText, as_text
from buswork.store.wire.values import EMPTY, Json


@pytest.mark.parametrize(
    ("value", "text"),
    [(b"v", "v"), (b"", ""), (EMPTY, ""), (Json(b'{"a":1}'), '{"a":1}'), (Json(b"5"), "5")],
)
def test_as_dbus_shows_it(value, text):
    assert as_text("k", value) == text


@pytest.mark.parametrize("value", [Json(b'"a\\u0000b"'), Json(b'"\\ud83d"')])
def test_not_text(value):
    with pytest.raises(NotText, match="k has NUL"):
        as_text("k", value)

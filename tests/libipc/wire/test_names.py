"""buswork.libipc.wire.names"""

import pytest

from buswork.libipc.wire import names
from buswork.libipc.wire.names import MAX_NAME_BYTES, BadName


@pytest.mark.parametrize(
    "name", ["pong", ".hidden", "a b", "a;b", "...", "é", "x" * MAX_NAME_BYTES, "network", "a.lock"]
)
def test_what_a_service_may_be_called(name):
    assert names.check(name) == name
    assert names.parse(name.encode()) == name


@pytest.mark.attack(21)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "not empty"),
        (None, "a text"),
        (b"pong", "a text"),
        (7, "a text"),
        ("a/b", "without its directory"),
        ("/", "without its directory"),
        (".", "without its directory"),
        ("..", "without its directory"),
        ("a\0b", "printable"),
        ("a\nb", "printable"),
        ("a\x7f", "printable"),
        ("\x9b31m", "printable"),
        ("\u2028", "printable"),
        ("\u202e", "printable"),
        ("\udcff", "printable"),
        ("x" * (MAX_NAME_BYTES + 1), f"at most {MAX_NAME_BYTES} bytes"),
        ("é" * (MAX_NAME_BYTES // 2) + "x", f"at most {MAX_NAME_BYTES} bytes"),
    ],
)
def test_what_it_may_not(name, why):
    with pytest.raises(BadName, match=why):
        names.check(name)


@pytest.mark.parametrize("name", ["\n\x1b[31m" * 1000, "a/" * 1000, "\U000e0001" * 1000])
def test_errors_repeat_little_of_a_name_and_nothing_of_its_controls(name):
    with pytest.raises(BadName) as caught:
        names.check(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("data", [b"\xff", b"pong\0", b"", b"a/b", b"\xed\xa0\x80"])
def test_what_peers_may_not_ask_for(data):
    with pytest.raises(BadName):
        names.parse(data)


def test_a_lock_keeps_its_name():
    """One program's service would keep another from starting (section 1)."""
    assert names.check_served("pong") == "pong"
    for name in ("pong.lock", ".lock", "a/b"):
        with pytest.raises(BadName):
            names.check_served(name)


def test_what_fits_a_path():
    """108 bytes work, 109 overrun the C library's memory (c_misc, zig_new_misc)."""
    assert names.path("/run/ipc/", "pong") == "/run/ipc//pong"
    assert names.fits("/d", "x" * 105)
    assert not names.fits("/d", "x" * 106)
    assert not names.fits("/d/", "x" * 105)
    assert not names.fits("/é", "é" * 52 + "x")
    assert names.fits("/", "x" * MAX_NAME_BYTES)

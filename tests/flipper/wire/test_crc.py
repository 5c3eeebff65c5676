import pytest
from flipper.wire.vectors import recorded
from hypothesis import given
from hypothesis import strategies as st

from buswork.flipper.wire.crc import crc16, identifier
from buswork.flipper.wire.terms import BadValue


def slow(data):
    """As the definition has it, bit by bit."""
    checksum = 0
    for byte in data:
        checksum ^= byte << 8
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x1021 if checksum & 0x8000 else 0)) & 0xFFFF
    return checksum


@given(st.binary(max_size=300))
def test_the_checksum_is_the_one_that_is_defined(data):
    assert crc16(data) == slow(data)


def test_names_become_the_identifiers_that_were_recorded():
    found = [v for v in recorded("crc")["vectors"] if "module identifier" in v["description"]]
    assert len(found) > 15
    for vector in found:
        name = vector["description"].split('"')[1]
        assert identifier(name) == int(vector["crc"], 16)


@pytest.mark.parametrize("name", ["", None, 5, b"led", "a\0b", "x" * 64, "é" * 32, "\udc80"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(BadValue, match="name of a module") as caught:
        identifier(name)
    assert caught.value.field == "name"

import struct

import pytest
from flipper.wire.vectors import vector
from hypothesis import given
from hypothesis import strategies as st

from buswork.flipper.wire.images import encode_image, parse_image
from buswork.flipper.wire.terms import MAX_IMAGE_BYTES, BadValue

RECORDED = bytes.fromhex(vector("gen1_usb_load/4s.bind.armtest").content["image"])


def test_the_recorded_image_is_read_and_made_again():
    image = parse_image(RECORDED)
    assert (image.name, image.identifier, image.entry) == ("armtest", 2912, 0)
    assert image.functions == (0x3D, 0x41, 0x47, 0x4D)
    code = RECORDED[0x3C:0x50]
    assert encode_image("armtest", code, (0, 4, 10, 16)) == RECORDED


@given(
    st.from_regex(r"[a-z]{1,20}", fullmatch=True),
    st.binary(min_size=4, max_size=100),
    st.lists(st.integers(0, 3), max_size=5),
    st.integers(0, 3),
)
def test_images_come_back(name, code, functions, entry):
    if not functions and not entry:
        return
    image = parse_image(encode_image(name, code, tuple(place & ~1 for place in functions), entry))
    assert image.name == name
    assert len(image.functions) == len(functions)
    assert bool(image.entry) == bool(entry)


def altered(**words):
    names = ("name_size", "name", "entry", "table_size", "table", "data_size", "data", "bss_size",
             "bss", "got_size", "got")  # fmt: skip
    header = list(struct.unpack_from("<11I", RECORDED))
    for name, value in words.items():
        header[names.index(name)] = value
    return struct.pack("<11I", *header) + RECORDED[44:]


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (b"", "not 0"),
        (RECORDED[:43], "not 43"),
        (bytes(MAX_IMAGE_BYTES + 1), f"not {MAX_IMAGE_BYTES + 1}"),
        (RECORDED[:-1], "its name ends at 88, and it has 87"),
        (altered(name_size=9), "its name ends at 89"),
        (altered(name_size=7), "its name has no end"),
        (altered(name=79), "its name has no end"),
        (altered(name=0xFFFFFFFF), "its name ends at"),
        (altered(name_size=0), "its name has no end"),
        (altered(name=87, name_size=1), "its name is none"),
        (altered(table=80), "its module table ends at 96"),
        (altered(table_size=6), "not whole addresses"),
        (altered(table=45), "its function 0 is at"),
        (altered(data_size=1), "its data ends at 89"),
        (altered(got=0xFFFFFFFF), "its got ends at"),
        (altered(bss_size=MAX_IMAGE_BYTES), "its memory has"),
        (altered(entry=88), "its entry is at 0x58"),
        (altered(table_size=0), "neither functions nor an entry"),
    ],
)
def test_images_that_the_4s_would_stumble_over_are_refused(image, text):
    with pytest.raises(BadValue, match=text) as caught:
        parse_image(image)
    assert caught.value.field == "image"


def test_memory_that_begins_with_zeros_may_lie_behind_the_image():
    assert parse_image(altered(bss_size=1000)).name == "armtest"
    assert parse_image(altered(entry=0x3D)).entry == 0x3D


def test_functions_lie_in_the_image():
    at_the_end = RECORDED[:44] + (89).to_bytes(4, "little") + RECORDED[48:]
    for image in (at_the_end, at_the_end + b"x"):
        with pytest.raises(BadValue, match="its function 0 is at 0x59"):
            parse_image(image)
    assert parse_image(at_the_end + b"xx").functions[0] == 89


def test_an_image_may_be_as_long_as_is_allowed():
    assert parse_image(RECORDED.ljust(MAX_IMAGE_BYTES, b"\0")).name == "armtest"
    assert parse_image(altered(bss_size=MAX_IMAGE_BYTES - 88)).name == "armtest"


def test_names_of_images_are_names():
    with pytest.raises(BadValue, match="its name is none"):
        parse_image(RECORDED[:80] + b"\xff\xfe\0" + bytes(5))

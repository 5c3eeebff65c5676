import pytest
from fsct.wire.vectors import vectors

from buswork.fsct.wire.descriptors import (
    BadDescriptor,
    Capability,
    DescriptorSet,
    ImageFormat,
    Interface,
    NotFsct,
    TextField,
    Unsupported,
    find_interface,
    has_bos,
    parse_bos,
    parse_set,
    parse_set_length,
)
from buswork.fsct.wire.terms import Coding, Functionality, PixelFormat, TextId

GOOD = bytes.fromhex("17100500ebbe33c4008d20449515bcb7faf38a41000142")
OTHER = bytes.fromhex("17100500000102030405060708090a0b0c0d0e0f000142")

# Section f, fault 11: the original gave up on a device with a capability of a later USB.
OURS = {"cap_type_0_before": "accept"}


def verdict(vector):
    """What we make of a recorded device, in the order of asking it."""
    device = {name: int(str(value), 0) for name, value in vector["device"].items()}
    if not has_bos(device["bcdUSB"]):
        return "reject"
    try:
        capability = parse_bos(bytes.fromhex(vector["bos_hex"]))
        interface = Interface(1, *list(device.values())[1:])
        return "reject" if find_interface([interface], capability) is None else "accept"
    except BadDescriptor:
        return "reject"


@pytest.mark.parametrize("vector", vectors("bos_descriptors"), ids=lambda v: v["name"])
def test_devices_are_recognised_as_by_the_original(vector):
    assert verdict(vector) == OURS.get(vector["name"], vector["expect"])


def bos(*capabilities, count=None, total=None):
    rest = b"".join(capabilities)
    total = 5 + len(rest) if total is None else total
    return bytes((5, 0x0F, total & 0xFF, total >> 8, len(capabilities) if count is None else count))+rest  # noqa: E501  # fmt: skip


@pytest.mark.attack(27)
@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", BadDescriptor),
        (bos(GOOD)[:4], BadDescriptor),
        (b"\x05\x10" + bos(GOOD)[2:], BadDescriptor),
        (bos(GOOD, total=200), BadDescriptor),
        (bos(GOOD, count=2), BadDescriptor),
        (bos(b"\x02\x10\x02", GOOD), BadDescriptor),
        (bos(b"\x00\x10\x02", GOOD), BadDescriptor),
        (bos(GOOD, b"\x04\x10\x02"), BadDescriptor),
        (bos(GOOD, b"\x03\x10"), BadDescriptor),
        (bos(b"\x03\x11\x02", GOOD), BadDescriptor),
        (bos(b"\x13\x10\x05" + bytes(16), GOOD), BadDescriptor),
        (bos(), NotFsct),
        (bos(OTHER), NotFsct),
        (bos(GOOD, count=0), NotFsct),
        (bos(GOOD[:-3] + b"\x01\x01\x42"), Unsupported),
        (bos(GOOD[:-3] + b"\x01\x01\x42", GOOD), Unsupported),  # the first one counts
        (bos(b"\x16" + GOOD[1:-1]), BadDescriptor),
    ],
)
def test_other_boses_are_refused(data, error):
    with pytest.raises(BadDescriptor) as raised:
        parse_bos(data)
    assert raised.type is error


@pytest.mark.parametrize("reserved", [b"\x03\x10\x00", b"\x05\x10\x12ab", b"\x03\x10\xff"])
def test_a_capability_of_a_later_usb_is_passed_over(reserved):
    assert parse_bos(bos(reserved, OTHER, GOOD)) == Capability(0x42)


def test_another_platform_capability_may_have_a_uuid_alone():
    assert parse_bos(bos(b"\x14" + OTHER[1:-3], GOOD)) == Capability(0x42)


def test_the_first_capability_begins_where_the_header_says():
    data = bos(GOOD)
    assert parse_bos(b"\x07" + data[1:5] + b"xx" + data[5:]) == Capability(0x42)


@pytest.mark.parametrize(("bcd", "has"), [(0x0110, False), (0x0200, False), (0x0201, True)])
def test_only_later_usb_has_a_bos(bcd, has):
    assert has_bos(bcd) is has


def test_the_first_interface_with_the_subclass_counts():
    capability = Capability(0x42)
    audio, vendor = Interface(0, 1, 0x42, 0), Interface(1, 0xFF, 0x41, 1)
    first, second = Interface(2, 0xFF, 0x42, 1), Interface(3, 0xFF, 0x42, 2)
    assert find_interface([second, audio, first, vendor], capability) == 2
    assert find_interface([audio, vendor], capability) is None
    with pytest.raises(Unsupported, match="protocol 2"):
        find_interface([second], capability)


@pytest.mark.parametrize("vector", vectors("fsct_descriptor_sets"), ids=lambda v: v["name"])
def test_sets_are_taken_as_by_the_original(vector):
    data = bytes.fromhex(vector["set_hex"])
    try:
        parse_set_length(data[:5])
        parse_set(data)
        found = "accept"
    except BadDescriptor:
        found = "reject"
    assert found == vector["expect"]


def set_of(name):
    vector = next(v for v in vectors("fsct_descriptor_sets") if v["name"] == name)
    return parse_set(bytes.fromhex(vector["set_hex"]))


FIRST_BITS = Functionality.METADATA | Functionality.PROGRESS | Functionality.STATUS


def test_what_a_set_says():
    assert set_of("default") == DescriptorSet(
        FIRST_BITS,
        Coding.UTF8,
        (
            TextField(TextId.CURRENT_TITLE, 64),
            TextField(TextId.CURRENT_AUTHOR, 64),
            TextField(TextId.CURRENT_ALBUM, 32),
            TextField(TextId.CURRENT_GENRE, 16),
        ),
    )
    assert set_of("default").max_bytes(TextId.CURRENT_ALBUM) == 32
    assert set_of("default").max_bytes(TextId.QUEUE_ALBUM) is None
    assert set_of("utf32").coding is Coding.UTF32


def test_the_last_coding_holds_for_all_texts():
    assert set_of("text_two_descs") == DescriptorSet(
        Functionality.STATUS,
        Coding.UTF16,
        (TextField(TextId.CURRENT_TITLE, 9), TextField(TextId.CURRENT_AUTHOR, 9)),
    )


def test_the_last_functionality_holds():
    assert set_of("func_two").functionality is Functionality.PROGRESS


def test_unknown_bits_of_the_functionality_are_left_out():
    assert set_of("set_func_high_bits").functionality is FIRST_BITS


def test_the_first_length_of_a_text_holds():
    data = bytes.fromhex("0531110004 0c3200 010900 010500 010000")
    assert parse_set(data).texts == (TextField(TextId.CURRENT_TITLE, 9),)


def test_what_is_not_known_is_left_out_and_named():
    """Undefined in the original: section f, fault 12."""
    found = set_of("set_bad_meta_id")
    assert found.texts == (TextField(TextId.CURRENT_TITLE, 9),)
    assert found.unsupported == ("text 0x77",)
    assert set_of("set_unknown_desc").unsupported == ("descriptor 0x99",)
    found = parse_set(bytes.fromhex("05310b0007 063204 010900"))
    assert (found.texts, found.unsupported) == ((), ("text coding 4",))
    found = parse_set(bytes.fromhex("05310c0007 0733 1000 2000 07"))
    assert (found.images, found.unsupported) == ((), ("pixel format 7",))


def test_images():
    found = parse_set(bytes.fromhex("05310c0007 0733 1000 2000 02"))
    assert found.images == (ImageFormat(16, 32, PixelFormat.RGB888),)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "05310500",
        "0631050007",
        "0532050000",
        "0531040007",
        "0531050007 0431ffff",
        "0531050007 0631ffffffff",
        "0531050007 0232",
        "0531050007 04320001",
        "0531050007 0633 1000 2000",
        "0531050007 0833 1000 2000 0101",
    ],
)
def test_other_sets_are_refused(data):
    with pytest.raises(BadDescriptor):
        parse_set(bytes.fromhex(data))


@pytest.mark.parametrize("rest", ["01", "00", "0132", "ff320001", "063200", "0632010109", "32"])
def test_what_is_not_whole_at_the_end_says_nothing(rest):
    assert parse_set(bytes.fromhex("0531050007" + rest)) == DescriptorSet(FIRST_BITS)


def test_the_length_comes_first():
    assert parse_set_length(bytes.fromhex("0531140007")) == 20
    assert parse_set_length(bytes.fromhex("0531ffff07")) == 65535

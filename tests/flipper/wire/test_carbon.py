import pytest
from flipper.wire.vectors import recorded

from buswork.flipper.wire import carbon


def test_texts_are_those_of_the_firmware():
    found = recorded("usb_descriptors")
    for text, name in ((carbon.MANUFACTURER, "string_1"), (carbon.PRODUCT, "string_2")):
        content = text.encode("utf-16-le")
        assert bytes((len(content) + 2, 3)) + content == bytes.fromhex(found[name])


def test_numbers_are_those_of_the_descriptors():
    found = recorded("usb_descriptors")
    device = bytes.fromhex(found["device"])
    configuration = bytes.fromhex(found["configuration"])
    assert int.from_bytes(device[8:10], "little") == carbon.VENDOR_ID
    assert int.from_bytes(device[10:12], "little") == carbon.PRODUCT_ID
    assert int.from_bytes(configuration[2:4], "little") == len(configuration)
    assert configuration[4:6] == bytes((1, carbon.CONFIGURATION))
    parts, at = [], 0
    while at < len(configuration):
        parts.append(configuration[at : at + configuration[at]])
        at += configuration[at]
    interfaces = [part[2] for part in parts if part[1] == 4]
    assert interfaces == [carbon.INTERFACE, carbon.DEBUG_INTERFACE]
    assert [(part[2], part[4]) for part in parts if part[1] == 5] == [
        (carbon.ENDPOINT_IN, 64),
        (carbon.ENDPOINT_OUT, 64),
        (carbon.DEBUG_ENDPOINT, carbon.DEBUG_PACKET_BYTES),
    ]


@pytest.mark.parametrize(
    ("vendor", "product", "manufacturer", "name", "expected"),
    [
        (0x16C0, 0x0480, "flipper.io", "Flipper: Carbon", True),
        (0x16C0, 0x0480, "Teensyduino", "RawHID", False),
        (0x16C0, 0x0480, None, None, False),
        (0x16C0, 0x0480, "flipper.io", "Flipper: Carbon ", False),
        (0x16C0, 0x0483, "flipper.io", "Flipper: Carbon", False),
        (0x03EB, 0x2FF0, "flipper.io", "Flipper: Carbon", False),
    ],
)
def test_a_carbon_is_known_by_its_texts_as_well(vendor, product, manufacturer, name, expected):
    assert carbon.is_carbon(vendor, product, manufacturer, name) is expected


def test_debug_text_is_printable():
    assert carbon.debug_text(b"ready\n".ljust(32, b"\0")) == "ready\n"
    assert carbon.debug_text(bytes(32)) == ""
    assert carbon.debug_text(b"\x1b[31m\xff\0red\r") == "\ufffd[31m\ufffd\ufffdred\ufffd"

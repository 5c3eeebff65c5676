import random

import pytest

from buswork.sim.dac import SimDac
from buswork.sim.device import SimDevice, SimInterface
from buswork.usb.devices import (
    MAX_INTERFACES,
    MAX_TEXT,
    UsbDevice,
    UsbInterface,
    interfaces_of,
    port_name,
    text_of,
    usb_version_of,
)

DEVICE = SimDac()
DESCRIPTORS = DEVICE.device_descriptor() + DEVICE.configuration()
INTERFACES = (UsbInterface(0, 0, 255, 1, 0), UsbInterface(1, 0, 255, 0x42, 1))


def configuration(value, *interfaces):
    made = bytearray(SimDevice(interfaces).configuration())
    made[5] = value
    return bytes(made)


def test_interfaces_are_those_of_the_active_configuration():
    assert interfaces_of(1, DESCRIPTORS) == INTERFACES
    assert interfaces_of(0, DESCRIPTORS) == INTERFACES
    assert interfaces_of(2, DESCRIPTORS) == ()
    both = configuration(1, SimInterface(0, 1)) + configuration(2, SimInterface(5, 2))
    assert [i.number for i in interfaces_of(1, both)] == [0]
    assert [i.number for i in interfaces_of(2, both)] == [5]
    assert [i.number for i in interfaces_of(0, both)] == [0]


def test_an_interface_is_found_though_it_was_not_announced():
    """As with Flipper boards: one interface is announced and two follow."""
    made = bytearray(configuration(1, SimInterface(0, 0xFF, 1, 1), SimInterface(1, 0xFF, 1, 1)))
    made[4] = 1
    assert [i.number for i in interfaces_of(1, bytes(made))] == [0, 1]


@pytest.mark.parametrize("cut", range(len(DESCRIPTORS)))
def test_descriptors_may_end_anywhere(cut):
    found = interfaces_of(1, DESCRIPTORS[:cut])
    assert found == INTERFACES[: len(found)]
    assert usb_version_of(DESCRIPTORS[:cut]) == (0x0201 if cut >= 18 else 0)


def test_nonsense_is_passed_over():
    noise = random.Random(1)
    for _ in range(2000):
        data = bytearray(DESCRIPTORS)
        for _ in range(noise.randrange(1, 6)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        for interface in interfaces_of(noise.randrange(3), bytes(data)):
            assert 0 <= interface.number <= 255
        usb_version_of(bytes(data))
    assert interfaces_of(1, bytes(100)) == ()
    assert usb_version_of(b"\x12\x02" + bytes(16)) == 0


@pytest.mark.attack(27)
def test_no_device_has_interfaces_without_end():
    head = configuration(1)
    assert len(interfaces_of(1, head + SimInterface(0, 255).descriptors() * 9999)) == MAX_INTERFACES


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"SN 1\n", "SN 1"),
        (b"  \t\n", ""),
        (b"a\0b\n", "ab"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("żółw\n".encode(), "żółw"),
        (b"\x1b[2Jx\n", "\x1b[2Jx"),
    ],
)
def test_texts(data, text):
    assert text_of(data) == text


@pytest.mark.attack(27)
def test_texts_are_short():
    assert text_of(b"x" * 9999) == "x" * MAX_TEXT
    assert len(text_of("😀".encode() * 9999)) == MAX_TEXT


def test_ports_have_the_kernels_names():
    assert port_name(1, (2, 3)) == "1-2.3"
    assert port_name(2, ()) == "usb2"


def test_a_device_can_be_kept_in_sets():
    one = UsbDevice("1-1", 1, 2, 0x1209, 1, 0x201, properties={"ID_FSCT": "1"})
    two = UsbDevice("1-1", 1, 2, 0x1209, 1, 0x201)
    assert len({one, two}) == 2
    assert str(one) == "1209:0001 at port 1-1"
    assert one.place == (1, 2)

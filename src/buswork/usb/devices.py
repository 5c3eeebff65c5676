"""What is known of a USB device before it is opened.

All of it but the port comes from the device, which may lie: every field is bounded here, and
what is not a descriptor is passed over.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# Longer than any string descriptor, which has at most 126 characters.
MAX_TEXT = 256
# Of all configurations; a DAC with many formats has a few KiB.
MAX_DESCRIPTOR_BYTES = 64 * 1024
# Numbers are bytes; with alternate settings a device could list far more of them.
MAX_INTERFACES = 256

# What our udev rules and administrators say of a device.
ID_FSCT = "ID_FSCT"  # "1": it has the FSCT capability
NAME = "BUSWORK_NAME"  # a name of its own that stays
IGNORE = "BUSWORK_IGNORE"  # "1": leave it alone
PROPERTIES = (ID_FSCT, NAME, IGNORE)

_DEVICE, _CONFIGURATION, _INTERFACE = 0x01, 0x02, 0x04
_DEVICE_BYTES, _CONFIGURATION_BYTES, _INTERFACE_BYTES = 18, 9, 9


@dataclass(frozen=True, slots=True, order=True)
class UsbInterface:
    """One setting of an interface."""

    number: int
    alternate: int
    interface_class: int
    subclass: int
    protocol: int


def _none() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class UsbDevice:
    """A device at a port; whatever is plugged in there next has another address."""

    port: str  # "1-2.3": bus 1, port 2 of its root, port 3 of the hub there
    bus: int
    address: int
    vendor: int
    product: int
    version: int  # bcdUSB
    manufacturer: str = ""
    product_name: str = ""
    serial: str = ""
    # Of the active configuration, in the device's own order.
    interfaces: tuple[UsbInterface, ...] = ()
    properties: Mapping[str, str] = field(default_factory=_none, hash=False)
    syspath: str = ""

    def __str__(self) -> str:
        return f"{self.vendor:04x}:{self.product:04x} at port {self.port}"

    @property
    def place(self) -> tuple[int, int]:
        """What tells it apart from every device that is or was plugged in."""
        return self.bus, self.address


def text_of(data: bytes) -> str:
    """A string of a device as sysfs has it: UTF-8 with what the device makes of it."""
    text = data[: 4 * MAX_TEXT].decode("utf-8", errors="replace").replace("\0", "")
    return text.strip()[:MAX_TEXT]


def port_name(bus: int, path: tuple[int, ...]) -> str:
    """The name that Linux gives to a port."""
    return f"{bus}-{'.'.join(map(str, path))}" if path else f"usb{bus}"


def interfaces_of(configuration: int, descriptors: bytes) -> tuple[UsbInterface, ...]:
    """The interfaces of one configuration, out of a device's descriptors one behind the other.

    0: of the first configuration.
    """
    found: list[UsbInterface] = []
    inside = False
    for kind, descriptor in _walk(descriptors[:MAX_DESCRIPTOR_BYTES]):
        if kind == _CONFIGURATION and len(descriptor) >= _CONFIGURATION_BYTES:
            if inside:
                break
            inside = configuration in (0, descriptor[5])
        elif kind == _INTERFACE and inside and len(descriptor) >= _INTERFACE_BYTES:
            number, alternate = descriptor[2:4]
            found.append(UsbInterface(number, alternate, *descriptor[5:8]))
            if len(found) == MAX_INTERFACES:
                break
    return tuple(found)


def usb_version_of(descriptors: bytes) -> int:
    """bcdUSB of the device descriptor; 0 where there is none."""
    if len(descriptors) < _DEVICE_BYTES or descriptors[1] != _DEVICE:
        return 0
    return int.from_bytes(descriptors[2:4], "little")


def _walk(descriptors: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of each descriptor, up to the first that has no honest length."""
    at = 0
    while at + 2 <= len(descriptors):
        length = descriptors[at]
        if length < 2 or at + length > len(descriptors):
            return
        yield descriptors[at + 1], descriptors[at : at + length]
        at += length

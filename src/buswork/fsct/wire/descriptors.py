"""What a device says of itself: its BOS, its interfaces, and the set of FSCT descriptors.

A device is an attacker too: any bytes are either read or refused with BadDescriptor.

The BOS is walked as the original does, but for one thing: a capability of a reserved type is
skipped like any that is not ours, so that a device may have capabilities of a later USB.
"""

import enum
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from buswork.fsct.wire.terms import Coding, Functionality, PixelFormat, TextId

FSCT_UUID = UUID("c433beeb-8d00-4420-9515-bcb7faf38a41")
CAPABILITY_VERSION = 0x0100
VENDOR_CLASS, PROTOCOL = 0xFF, 1  # the interface's

# Devices of USB 2.0 and before have no BOS, and some fall over when they are asked.
LAST_WITHOUT_BOS = 0x0200
# The most that Linux transfers in one control request; no BOS comes near it.
MAX_BOS_BYTES = 4096
SET_HEADER_BYTES = 5

_BOS, _CAPABILITY, _PLATFORM = 0x0F, 0x10, 0x05

_TEXT_IDS = frozenset(map(int, TextId))
_CODINGS = frozenset(map(int, Coding))
_PIXEL_FORMATS = frozenset(map(int, PixelFormat))
_KNOWN_BITS = sum(Functionality)

_BOS_HEADER = struct.Struct("<BBHB")
_CAPABILITY_BYTES = 3
_PLATFORM_BYTES = 17  # a reserved byte and a UUID
_FSCT_CAPABILITY = struct.Struct("<HB")
_SET_HEADER = struct.Struct("<BBHB")
_TEXT_FIELD = struct.Struct("<BH")
_IMAGE_DESCRIPTOR = struct.Struct("<BBHHB")


class _Part(enum.IntEnum):
    """The types of descriptors in a set."""

    FUNCTIONALITY = 0x31
    TEXTS = 0x32
    IMAGE = 0x33


class BadDescriptor(ValueError):
    """The device is not one that can be used, and asking again would not change it."""


class NotFsct(BadDescriptor):
    """A device like any other: it does not say that it knows FSCT."""


class Unsupported(BadDescriptor):
    """A device of another version of FSCT."""


# -- recognition -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Capability:
    """FSCT as the BOS tells of it: the interface with this subclass speaks it."""

    subclass: int
    version: int = CAPABILITY_VERSION


class Interface(NamedTuple):
    """The active setting of an interface, as the system tells of it."""

    number: int
    interface_class: int
    subclass: int
    protocol: int


def has_bos(bcd_usb: int) -> bool:
    """Whether a device of this USB version is to be asked for its BOS."""
    return bcd_usb > LAST_WITHOUT_BOS


def parse_bos(data: bytes) -> Capability:
    """The FSCT capability of a device with this BOS; NotFsct where there is none."""
    # All of them are walked, so that a spoilt one after ours is noticed as well.
    platforms = list(_platforms(data))
    for uuid, payload in platforms:
        if uuid == FSCT_UUID:
            return _fsct_capability(payload)
    raise NotFsct("the device does not have the FSCT capability")


def _platforms(data: bytes) -> Iterator[tuple[UUID, bytes]]:
    """The platform capabilities of a BOS: UUID and payload of each."""
    if len(data) < _BOS_HEADER.size:
        raise BadDescriptor(f"a BOS of {len(data)} bytes is none")
    at, descriptor_type, total, count = _BOS_HEADER.unpack_from(data)
    if descriptor_type != _BOS:
        raise BadDescriptor(f"a BOS has type {_BOS}, not {descriptor_type}")
    # A total that is too small does no harm: the capabilities are counted.
    if len(data) < total:
        raise BadDescriptor(f"the BOS has {len(data)} of {total} bytes")
    for _ in range(count):
        left = len(data) - at
        if left < _CAPABILITY_BYTES:
            raise BadDescriptor("the BOS ends before its last capability")
        length, descriptor_type, capability = data[at], data[at + 1], data[at + 2]
        if not _CAPABILITY_BYTES <= length <= left:
            raise BadDescriptor(f"a capability has {length} bytes, and {left} are there")
        if descriptor_type != _CAPABILITY:
            raise BadDescriptor(f"a capability has type {_CAPABILITY}, not {descriptor_type}")
        if capability == _PLATFORM:
            yield _platform(data[at + _CAPABILITY_BYTES : at + length])
        at += length


def _platform(content: bytes) -> tuple[UUID, bytes]:
    if len(content) < _PLATFORM_BYTES:
        raise BadDescriptor(f"a platform capability of {len(content)} bytes has no UUID")
    return UUID(bytes_le=content[1:_PLATFORM_BYTES]), content[_PLATFORM_BYTES:]


def _fsct_capability(payload: bytes) -> Capability:
    if len(payload) < _FSCT_CAPABILITY.size:
        raise BadDescriptor(f"an FSCT capability of {len(payload)} bytes is none")
    version, subclass = _FSCT_CAPABILITY.unpack_from(payload)
    if version != CAPABILITY_VERSION:
        raise Unsupported(f"the FSCT capability has version {version:#06x}, we know 0x0100")
    return Capability(subclass, version)


def find_interface(interfaces: Iterable[Interface], capability: Capability) -> int | None:
    """The number of the interface that speaks FSCT; None: it is not there (yet)."""
    for interface in sorted(interfaces):
        if (interface.interface_class, interface.subclass) == (VENDOR_CLASS, capability.subclass):
            if interface.protocol != PROTOCOL:
                raise Unsupported(f"the interface has protocol {interface.protocol}, we know 1")
            return interface.number
    return None


# -- what the device can show ----------------------------------------------------------------


class TextField(NamedTuple):
    id: TextId
    max_bytes: int


class ImageFormat(NamedTuple):
    width: int
    height: int
    pixel_format: PixelFormat


@dataclass(frozen=True, slots=True)
class DescriptorSet:
    """What a device can show."""

    functionality: Functionality
    coding: Coding = Coding.UTF8
    texts: tuple[TextField, ...] = ()
    images: tuple[ImageFormat, ...] = ()
    unsupported: tuple[str, ...] = ()  # what else it names, and we don't know

    def max_bytes(self, text_id: TextId) -> int | None:
        """How much of this text it takes; None: it does not want it."""
        return next((field.max_bytes for field in self.texts if field.id == text_id), None)


def parse_set_length(header: bytes) -> int:
    """How long the set is, of which these are the first 5 bytes."""
    if len(header) < _SET_HEADER.size:
        raise BadDescriptor(f"the FSCT descriptors begin with 5 bytes, not {len(header)}")
    length, descriptor_type, total, _ = _SET_HEADER.unpack_from(header)
    if (length, descriptor_type) != (_SET_HEADER.size, _Part.FUNCTIONALITY):
        raise BadDescriptor("the FSCT descriptors don't begin with the functionality")
    if total < _SET_HEADER.size:
        raise BadDescriptor(f"the FSCT descriptors have {total} bytes in all")
    return int(total)


def parse_set(data: bytes) -> DescriptorSet:
    """What the set says. What is not known in it is left out, and named in `unsupported`."""
    parse_set_length(data)
    functionality = 0
    coding = int(Coding.UTF8)
    fields: dict[TextId, int] = {}
    images: list[ImageFormat] = []
    unsupported: dict[str, None] = {}
    for descriptor in _descriptors(data):
        match descriptor[1]:
            case _Part.FUNCTIONALITY:
                functionality = _functionality(descriptor)
            case _Part.TEXTS:
                coding = _text_fields(descriptor, fields, unsupported)
            case _Part.IMAGE:
                _image(descriptor, images, unsupported)
            case other:
                unsupported[f"descriptor {other:#04x}"] = None
    if coding not in _CODINGS:
        fields.clear()
        unsupported[f"text coding {coding}"] = None
        coding = Coding.UTF8
    return DescriptorSet(
        Functionality(functionality & _KNOWN_BITS),
        Coding(coding),
        tuple(TextField(text_id, size) for text_id, size in fields.items()),
        tuple(images),
        tuple(unsupported),
    )


def _descriptors(data: bytes) -> Iterator[bytes]:
    """Up to the first that is not whole: the rest says nothing."""
    at = 0
    while len(data) - at >= 2 and 2 <= data[at] <= len(data) - at:
        yield data[at : at + data[at]]
        at += data[at]


def _functionality(descriptor: bytes) -> int:
    if len(descriptor) != _SET_HEADER.size:
        raise BadDescriptor(f"a functionality descriptor of {len(descriptor)} bytes is none")
    return descriptor[4]


def _text_fields(descriptor: bytes, fields: dict[TextId, int], unsupported: dict[str, None]) -> int:
    """Adds what is new to `fields`; returns the coding, which holds for those before as well."""
    if len(descriptor) < 3 or len(descriptor) % _TEXT_FIELD.size:
        raise BadDescriptor(f"a text descriptor of {len(descriptor)} bytes is none")
    for number, max_bytes in _TEXT_FIELD.iter_unpack(descriptor[3:]):
        if number in _TEXT_IDS:
            fields.setdefault(TextId(number), max_bytes)
        else:
            unsupported[f"text {number:#04x}"] = None
    return descriptor[2]


def _image(descriptor: bytes, images: list[ImageFormat], unsupported: dict[str, None]) -> None:
    if len(descriptor) != _IMAGE_DESCRIPTOR.size:
        raise BadDescriptor(f"an image descriptor of {len(descriptor)} bytes is none")
    _, _, width, height, pixel_format = _IMAGE_DESCRIPTOR.unpack(descriptor)
    if pixel_format in _PIXEL_FORMATS:
        images.append(ImageFormat(width, height, PixelFormat(pixel_format)))
    else:
        unsupported[f"pixel format {pixel_format}"] = None

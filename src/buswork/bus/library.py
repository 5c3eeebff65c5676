"""What this package takes from dbus-next: signatures, variants, and the rules for names.

Nothing else of the project imports the library, so that it can be exchanged here. Its
transport and its marshaller are not used: the one ends the connection when the send buffer
is full, the other raises on header fields that the specification says to ignore.
"""

import functools
import typing
from typing import Any

if not hasattr(typing, "no_type_check_decorator"):
    # Python dropped this name and dbus-next 0.2.3 imports it; it never did more than this.
    setattr(typing, "no_type_check_decorator", lambda decorator: decorator)  # noqa: B010

from dbus_next.errors import InvalidSignatureError
from dbus_next.signature import SignatureTree, SignatureType, Variant
from dbus_next.validators import (
    is_bus_name_valid,
    is_interface_name_valid,
    is_member_name_valid,
    is_object_path_valid,
)

__all__ = [
    "InvalidSignatureError",
    "SignatureType",
    "Variant",
    "decoded_variant",
    "is_bus_name_valid",
    "is_interface_name_valid",
    "is_member_name_valid",
    "is_object_path_valid",
    "parse_signature",
    "variant",
]


def parse_signature(signature: str) -> list[SignatureType]:
    """The complete types of a signature; raises InvalidSignatureError."""
    return list(SignatureTree(signature).types)


@functools.lru_cache(maxsize=1024)
def _single_type(signature: str) -> SignatureType:
    (type_,) = parse_signature(signature)
    return type_


def variant(signature: str, value: Any) -> Variant:
    """A Variant without the library's check of the value: the codec makes its own."""
    return decoded_variant(_single_type(signature), value)


def decoded_variant(type_: SignatureType, value: Any) -> Variant:
    """A Variant whose value the codec has just read, so that it need not be verified again."""
    variant = Variant.__new__(Variant)
    variant.type = type_
    variant.signature = type_.signature
    variant.value = value
    return variant

"""What a Carbon is on USB (section 2), by the descriptors of the running firmware."""

from typing import Final

VENDOR_ID: Final = 0x16C0
PRODUCT_ID: Final = 0x0480  # the same as a Teensy's: the texts tell them apart
MANUFACTURER: Final = "flipper.io"
PRODUCT: Final = "Flipper: Carbon"

CONFIGURATION: Final = 1
INTERFACE: Final = 0
ENDPOINT_OUT: Final = 0x02
ENDPOINT_IN: Final = 0x81
# There although the configuration counts one interface alone: it is to be claimed by number.
DEBUG_INTERFACE: Final = 1
DEBUG_ENDPOINT: Final = 0x83
DEBUG_PACKET_BYTES: Final = 32

# What is left of a client that is gone has come by then (section 15, pitfall 1).
STALE_MS: Final = 250


def is_carbon(
    vendor_id: int, product_id: int, manufacturer: str | None, product: str | None
) -> bool:
    """Whether a device that says this of itself is one; a Teensy is left alone."""
    theirs = vendor_id, product_id, manufacturer, product
    return theirs == (VENDOR_ID, PRODUCT_ID, MANUFACTURER, PRODUCT)


def debug_text(packet: bytes) -> str:
    """What a packet of the debug endpoint says; boards are strangers, so it is made printable."""
    text = packet.rstrip(b"\0").decode(errors="replace")
    return "".join([c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text])

"""What a Carbon is on USB (section 2); its descriptors are those of the running firmware."""

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

# What the original waits for a packet; the U2 waits as long for data that were announced.
TRANSFER_TIMEOUT_MS: Final = 200
# What is left of a client that is gone has come by then (section 15, pitfall 1).
STALE_MS: Final = 250

# The U2's own boot loader: another device, which has no FMR.
DFU_VENDOR_ID: Final = 0x03EB
DFU_PRODUCT_ID: Final = 0x2FF0

DEVICE_DESCRIPTOR: Final = bytes.fromhex("12010002ff000010c0168004000101020001")
CONFIGURATION_DESCRIPTOR: Final = bytes.fromhex(
    "09023000010100c0fa"
    "0904000002ff010100" "07058102400001" "07050202400001"
    "0904010001ff010100" "07058303200001"
)  # fmt: skip


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

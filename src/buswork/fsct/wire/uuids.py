"""The names of devices: the same device has the same UUID on every host, with every driver."""

from uuid import UUID, uuid5

_ROOT = UUID("0e042ba4-82f1-4531-bd35-b455efebc627")


def device_uuid(vendor_id: int, product_id: int, serial: str) -> UUID:
    """As the original names it; the serial is "" where there is none.

    Linux tells serials without the blanks around them, other systems with them.
    """
    # A device may send halves of characters, which have no UTF-8.
    serial = serial.encode(errors="replace").decode()
    return uuid5(uuid5(uuid5(_ROOT, f"{vendor_id:04x}"), f"{product_id:04x}"), serial)


def twin_uuid(uuid: UUID, port_path: str) -> UUID:
    """The name of a second device that has the UUID of another: it is known by its port."""
    return uuid5(uuid, port_path)

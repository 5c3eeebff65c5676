"""Which id a device has when others say the same of themselves."""

from collections.abc import Container
from uuid import UUID

from buswork.fsct.wire.uuids import device_uuid, twin_uuid
from buswork.usb.devices import UsbDevice

# Devices at ports; a machine on which more have been plugged in since the start forgets the oldest.
MAX_KEPT = 1024


class Identities:
    """The first of equal devices has the UUID, those at other ports one of their port's.

    What a device at a port has had, it gets again: it does not depend on which of them is plugged
    in first the next time.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[UUID, str], UUID] = {}

    def id_of(self, device: UsbDevice, taken: Container[str]) -> str:
        """An id that is not among those of the devices that are there."""
        uuid = device_uuid(device.vendor, device.product, device.serial)
        place = uuid, device.port
        twin = twin_uuid(uuid, device.port)
        kept = self._kept.pop(place, uuid)
        chosen = next((each for each in (kept, uuid) if str(each) not in taken), twin)
        self._kept[place] = chosen
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        return str(chosen)

"""udev's question whether a device has FSCT: a small program that runs as root.

    buswork-probe-fsct /dev/bus/usb/001/004 /sys/devices/pci0000:00/.../1-2

FSCT devices have no vendor of their own; their BOS, which Linux has not always shown in sysfs,
says what they are. So systemd/60-buswork.rules runs this for devices that may be some; only those
that have an interface as FSCT's are asked, all others are left alone.

Exit status: 0 for an FSCT device, with ID_FSCT=1 on stdout, which udev makes a property; else 1,
with the reason on stderr. It asks for one descriptor, changes nothing, and ends in any case.
"""

import fcntl
import os
import re
import signal
import stat
import struct
import sys
from array import array
from collections.abc import Sequence

from buswork.fsct.wire.descriptors import (
    MAX_BOS_BYTES,
    PROTOCOL,
    VENDOR_CLASS,
    BadDescriptor,
    parse_bos,
)
from buswork.fsct.wire.requests import read_bos

# For all of it; udev itself would wait for three minutes.
SECONDS = 3
TIMEOUT_MS = 1000

# As usb.devices has it, which is not loaded here: what runs as root loads as little as it can.
MAX_DESCRIPTOR_BYTES = 64 * 1024

_INTERFACE, _INTERFACE_BYTES = 0x04, 9
_NODE = re.compile(r"/dev/bus/usb/[0-9]{3}/[0-9]{3}")
_SYSFS = re.compile(r"/sys/devices/[^\0]+")
# struct usbdevfs_ctrltransfer: the setup, a timeout in ms, and where the data is.
_TRANSFER = struct.Struct("@BBHHHIP")
_USBDEVFS_CONTROL = 3 << 30 | _TRANSFER.size << 16 | ord("U") << 8


def look(syspath: str) -> None:
    """BadDescriptor: none of its interfaces is like FSCT's, so there is nothing to ask."""
    with open(f"{syspath}/descriptors", "rb") as file:
        descriptors = file.read(MAX_DESCRIPTOR_BYTES)
    at = 0
    while at + _INTERFACE_BYTES <= len(descriptors):
        length, kind, *_, interface_class, _, protocol, _ = descriptors[at : at + _INTERFACE_BYTES]
        if (kind, interface_class, protocol) == (_INTERFACE, VENDOR_CLASS, PROTOCOL):
            return
        if length < 2:
            break
        at += length
    raise BadDescriptor("no interface of it is like those of FSCT")


def check(node: str, syspath: str) -> None:
    """OSError: the device does not say; BadDescriptor: it is another one, or says nonsense."""
    parse_bos(_shown_bos(syspath) or _asked_bos(node))


def _shown_bos(syspath: str) -> bytes:
    """The BOS as the kernel has read it; empty where the kernel does not show it."""
    try:
        with open(f"{syspath}/bos_descriptors", "rb") as file:
            return file.read(MAX_BOS_BYTES)
    except FileNotFoundError:
        return b""


def _asked_bos(node: str) -> bytes:
    """The BOS as the device sends it."""
    request = read_bos()
    answer = array("B", bytes(request.length))
    setup = request.request_type, request.request, request.value, request.index, request.length
    transfer = _TRANSFER.pack(*setup, TIMEOUT_MS, answer.buffer_info()[0])
    if not stat.S_ISCHR(os.lstat(node).st_mode):
        raise OSError("this is no device")
    fd = os.open(node, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # Into what can be changed, or it would not be the length that it returns.
        length = fcntl.ioctl(fd, _USBDEVFS_CONTROL, bytearray(transfer))
    finally:
        os.close(fd)
    return answer.tobytes()[:length]


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    match arguments:
        case [node, syspath] if _NODE.fullmatch(node) and _SYSFS.fullmatch(syspath):
            pass
        case _:
            sys.stderr.write("usage: buswork-probe-fsct /dev/bus/usb/BUS/DEVICE /sys/devices/...\n")
            return 1
    # The kernel may let us wait for the device; then the default action of this ends us.
    signal.alarm(SECONDS)
    try:
        look(syspath)
        check(node, syspath)
    except (OSError, BadDescriptor) as error:
        sys.stderr.write(f"{node}: {error}\n")
        return 1
    finally:
        signal.alarm(0)
    sys.stdout.write("ID_FSCT=1\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

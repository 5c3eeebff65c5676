"""What a service says to its manager: ready, status, watchdog (sd_notify, without libsystemd)."""

import array
import os
import socket
from collections.abc import Sequence


def notify(*assignments: str, fds: Sequence[int] = ()) -> bool:
    """Tells the service manager; False when there is none (or it does not listen)."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name:
        return False
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sock.sendmsg(["\n".join(assignments).encode()], rights, 0, address)
    except OSError:
        return False
    return True


def store_descriptor(name: str, fd: int) -> bool:
    """Gives the manager a copy of a descriptor, for whoever is started after us."""
    return notify("FDSTORE=1", f"FDNAME={name}", fds=(fd,))


def remove_descriptor(name: str) -> bool:
    """Takes that copy back."""
    return notify("FDSTOREREMOVE=1", f"FDNAME={name}")


def watchdog_seconds() -> float | None:
    """How often the manager wants to hear that we live, or None."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000

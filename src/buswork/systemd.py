"""What a service says to its manager: ready, status, watchdog (sd_notify, without libsystemd)."""

import array
import os
import socket
from collections.abc import Sequence

# Descriptors that a manager passes begin here (sd_listen_fds).
FIRST_FD = 3
# As many as our units can have: the descriptor store and a few sockets.
MAX_LISTEN_FDS = 64


def notify(*assignments: str, fds: Sequence[int] = ()) -> bool:
    """Tells the service manager; False when there is none (or it does not listen)."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name:
        return False
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            # A manager that does not listen must not hold up those who are served.
            message = "\n".join(assignments).encode()
            sock.sendmsg([message], rights, socket.MSG_DONTWAIT, address)
    except OSError:
        return False
    return True


def has_manager() -> bool:
    """Whether a service manager listens to us."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


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


def take_listen_fds() -> dict[str, list[int]]:
    """The descriptors that the manager passed, by their names; they are ours from now on.

    The variables are taken away, so that no child believes them to be its own.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not (count.isascii() and count.isdecimal()):
        return {}
    found: dict[str, list[int]] = {}
    for number in range(min(int(count), MAX_LISTEN_FDS)):
        fd = FIRST_FD + number
        try:
            os.set_inheritable(fd, False)
        except OSError:
            continue  # the variables promised more than there is
        name = names[number] if number < len(names) else "unknown"
        found.setdefault(name, []).append(fd)
    return found

"""What a service says to its manager: ready, status, watchdog (sd_notify, without libsystemd)."""

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Descriptors that a manager passes begin here (sd_listen_fds).
FIRST_FD = 3
# As many as our units can have: the descriptor store and a few sockets.
MAX_LISTEN_FDS = 64
# A manager ignores a message of more than 4 KiB as a whole, whatever else it says.
STATUS_BYTES = 2048
# How soon a manager whose queue is full is told again.
AGAIN_SECONDS = 0.1


def notify(*assignments: str, fds: Sequence[int] = ()) -> bool:
    """Tells the service manager. True: it is in its queue, which outlives us; False: there is none,
    or its queue is full."""
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


def status(text: str) -> str:
    """The assignment that makes `systemctl status` show a line, or what there is room for of it."""
    return "STATUS=" + text.encode(errors="replace")[:STATUS_BYTES].decode(errors="ignore")


def has_manager() -> bool:
    """Whether a service manager listens to us."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


@dataclass(frozen=True, slots=True)
class _Errand:
    name: str
    fd: int  # -1: it is taken back
    then: Callable[[], None] | None = None

    def run(self) -> bool:
        if self.fd < 0:
            return notify("FDSTOREREMOVE=1", f"FDNAME={self.name}")
        return notify("FDSTORE=1", f"FDNAME={self.name}", fds=(self.fd,))


class DescriptorStore:
    """Descriptors that the manager holds for whoever is started after us.

    What it does not take at once it is told again until it does, in the same order: so whatever is
    taken back goes after that which came to replace it.
    """

    def __init__(self) -> None:
        self._waiting: deque[_Errand] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def put(self, name: str, fd: int, then: Callable[[], None]) -> None:
        """Gives it a copy, and calls back when it has it, at once or later. The descriptor stays
        the caller's, and open until then, or until it is removed."""
        self._add(_Errand(name, fd, then))

    def remove(self, name: str) -> None:
        """Takes that copy back."""
        had_it = all(errand.name != name or errand.fd < 0 for errand in self._waiting)
        self._waiting = deque(errand for errand in self._waiting if errand.name != name)
        if had_it:
            self._add(_Errand(name, -1))

    def close(self) -> None:
        """Tells what can still be told."""
        while self._waiting and self._waiting[0].run():
            self._waiting.popleft()
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _add(self, errand: _Errand) -> None:
        self._waiting.append(errand)
        if self._timer is None:
            self._run()

    def _run(self) -> None:
        self._timer = None
        while self._waiting:
            if not self._waiting[0].run():
                self._timer = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._run)
                return
            then = self._waiting.popleft().then
            if then is not None:
                then()


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

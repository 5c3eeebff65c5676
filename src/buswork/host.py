"""What the daemon gives to a wing, and what it wants of one."""

import argparse
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from buswork.authority import Authority
from buswork.bus.export import Edge
from buswork.bus.logind import Logind
from buswork.bus.ownership import Holdings
from buswork.native.commons import Commons

log = logging.getLogger(__name__)

# How the reason begins of a wing whose socket unit does not run, or is masked on purpose.
NOT_PASSED = "systemd passed no socket"


@dataclass
class Host:
    """The daemon as its wings see it."""

    edge: Edge
    authority: Authority
    holdings: Holdings
    logind: Logind
    # Random, and another one with each start.
    epoch: bytes
    # What the service manager passed to us, by name.
    passed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    # Whether there is a service manager that keeps descriptors for us.
    has_manager: bool = False
    # Where to make native sockets; None: each where it belongs. Under systemd its units make them.
    socket_dirs: Sequence[Path] | None = ()
    # Where to make those in addition that an original has in /tmp, if anywhere.
    tmp_dir: Path | None = None
    # Where a wing may remember things over restarts, if anywhere.
    state_dir: Path | None = None
    # Simulated hardware instead of real one.
    simulate: bool = False
    # What all native sockets have together.
    commons: Commons = field(default_factory=Commons)
    # What the wing does without, in words; each wing has a list of its own.
    lacking: list[str] = field(default_factory=list)

    def lacks(self, what: str, level: int = logging.ERROR) -> None:
        """Something that can't be had, and that a wing starts without: its state tells of it."""
        log.log(level, "%s", what)
        self.lacking.append(what)

    def descriptors(self, prefix: str) -> dict[str, Sequence[int]]:
        """The descriptors that an earlier daemon left with the service manager, by name."""
        return {name: fds for name, fds in self.passed.items() if name.startswith(prefix)}

    def places(self, own: Path, *, also_tmp: bool = False) -> list[Path]:
        """The directories for a wing's native sockets; `own` is where they belong."""
        places = [own] if self.socket_dirs is None else list(self.socket_dirs)
        if also_tmp and self.tmp_dir is not None:
            places.append(self.tmp_dir)
        return list(dict.fromkeys(places))

    def sockets(self, name: str, *, optional: bool = False) -> list[socket.socket]:
        """The listening sockets that the service manager passed under this name.

        optional: its unit is off by default."""
        passed = (_listener(fd) for fd in self.passed.get(name, ()))
        found = [sock for sock in passed if sock is not None]
        makes_its_own = self.socket_dirs is None or self.socket_dirs
        if self.has_manager and not (found or optional or makes_its_own):
            self.lacks(f"{NOT_PASSED} {name!r}", logging.WARNING)
        return found


def _listener(fd: int) -> socket.socket | None:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        log.error("a descriptor that was passed is no socket: %s", error)
        return None
    if sock.family == socket.AF_UNIX and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return sock
    log.error("a descriptor that was passed is no listening unix socket")
    sock.close()
    return None


class Wing(Protocol):
    """What the daemon wants of a wing."""

    async def start(self) -> None: ...

    async def stop(self, *, for_good: bool) -> None:
        """for_good: an orderly end, after which nothing of the wing's should be left."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A wing that can be started: what there is to say on the command line, and its maker."""

    # Called with the host, the wing's limits and the command line.
    make: Callable[[Host, Any, argparse.Namespace], Wing]
    # A dataclass of numbers, each of which --limit can lift.
    limits: Callable[[], Any]
    # Adds the wing's own options to the command line.
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None

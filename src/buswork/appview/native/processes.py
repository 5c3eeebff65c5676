"""Who has the library: what /proc says of processes (protocol section 5).

Everything about a process is read through one open /proc/PID, which is that process's and no
other's: when it is gone, reading fails, whoever has its number by then.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from buswork.appview.native.namespaces import namespace_of
from buswork.appview.native.target import Target

PROC: Final = "/proc"
LIBRARY: Final = b"libappview"
# What loads the library into others, and has it for that alone.
LOADER: Final = "appviewdyn"
# A memory file by which the library, loaded and not yet begun, says where it is to be called.
NOT_BEGUN: Final = "appview_anon"
# Of a command, for people to read: of all processes, it fits into one message.
COMMAND_BYTES: Final = 2048
# Maps are read in pieces, for whoever likes can have hundreds of megabytes of them; as many as the
# kernel allows by default, with usual names, are some 8 MB.
MOST_MAPS_BYTES: Final = 16 * 1024 * 1024
_PIECE: Final = 64 * 1024

_FIELD = re.compile(
    rb"^(Name|NSpid|Uid|Gid|VmSize|Cap(?:Prm|Eff|Inh|Amb)):\t(.*)$", re.MULTILINE
)  # of some 60
_STARTED_AT = 22  # of /proc/PID/stat, which counts from 1 (proc(5))


@dataclass(frozen=True, slots=True)
class Seen:
    """A process that has the library."""

    pid: int
    # In ticks since the machine's start; with the pid, it is this process and no other.
    started_at: int
    # As it knows itself: it looks for queues with this number.
    own_pid: int
    uid: int
    gid: int
    # Real, effective, saved and of files.
    uids: tuple[int, int, int, int]
    has_capabilities: bool
    name: str
    command: str
    # Loaded, and waiting to be begun; it does not answer.
    is_setup: bool


def pids() -> set[int]:
    """Of all processes of the machine."""
    return {int(name) for name in os.listdir(PROC) if name.isdecimal()}


def scan(among: Iterable[int]) -> tuple[list[Seen], int]:
    """Those that have it, and how many could not be looked at. Takes a while: some 60 us each."""
    found, unreadable = [], 0
    for pid in among:
        try:
            seen = look(pid)
        except PermissionError:
            unreadable += 1
        except OSError:
            continue  # it ended
        else:
            found += [seen] if seen is not None else []
    return found, unreadable


def look(pid: int) -> Seen | None:
    """None: it does not have the library. OSError: it is gone, or can't be looked at."""
    with _opened(pid) as proc:
        if not _has_library(proc):
            return None
        fields = _status(proc)
        name = fields["Name"].decode(errors="replace")
        if name == LOADER:
            return None
        return Seen(
            pid,
            _started_at(proc),
            _numbers(fields["NSpid"])[-1],
            *_rights(fields),
            name,
            _command(proc) or f"[{name}]",
            _is_setup(proc),
        )


def look_again(seen: Seen) -> Seen | None:
    """With the rights that it has by now; None: it has ended, or its first thread has, and all that
    shows of it with that. Its maps are not read for that: they may be as long as somebody likes,
    and this is not done in a thread."""
    try:
        with _opened(seen.pid) as proc:
            fields = _status(proc)
            if _started_at(proc) != seen.started_at or "VmSize" not in fields:
                return None
            return replace(seen, **_rights(fields)._asdict())
    except (FileNotFoundError, ProcessLookupError):
        return None


@contextmanager
def held(seen: Seen) -> Iterator[Target]:
    """The very process, for as long as it takes to speak with it. ProcessLookupError: it is gone,
    or has become another program's."""
    with _opened(seen.pid) as proc:
        pidfd = os.pidfd_open(seen.pid)
        try:
            # Asked after the pidfd was opened: so that is of the process that proc is of.
            if _started_at(proc) != seen.started_at:
                raise ProcessLookupError(f"process {seen.pid} is another one now")
            # Queues are for the user that it has now.
            rights = _rights(_status(proc))
            namespace_fd = os.open("ns/ipc", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        except BaseException:
            os.close(pidfd)
            raise
        try:
            yield Target(
                seen.pid,
                seen.own_pid,
                rights.uid,
                rights.gid,
                pidfd,
                proc,
                namespace_fd,
                namespace_of(namespace_fd),
            )
        finally:
            os.close(pidfd)
            os.close(namespace_fd)


class _Rights(NamedTuple):
    uid: int
    gid: int
    uids: tuple[int, int, int, int]
    has_capabilities: bool


def _rights(fields: dict[str, bytes]) -> _Rights:
    real, effective, saved, of_files = _numbers(fields["Uid"])
    capabilities = (fields[each] for each in ("CapPrm", "CapEff", "CapInh", "CapAmb"))
    return _Rights(
        effective,
        _numbers(fields["Gid"])[1],
        (real, effective, saved, of_files),
        any(int(each, 16) for each in capabilities),
    )


@contextmanager
def _opened(pid: int) -> Iterator[int]:
    proc = os.open(f"{PROC}/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield proc
    finally:
        os.close(proc)


def _read(proc: int, name: str, most: int = -1) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    with open(fd, "rb", buffering=0) as file:
        return file.read(most)


def _has_library(proc: int) -> bool:
    """PermissionError: nobody could say without reading for ever."""
    fd = os.open("maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    with open(fd, "rb", buffering=0) as maps:
        end, length = b"", 0
        while piece := maps.read(_PIECE):
            if LIBRARY in end + piece:
                return True
            end, length = piece[1 - len(LIBRARY) :], length + len(piece)
            if length > MOST_MAPS_BYTES:
                raise PermissionError("its maps are too long")
    return False


def _status(proc: int) -> dict[str, bytes]:
    return {name.decode(): value for name, value in _FIELD.findall(_read(proc, "status"))}


def _numbers(text: bytes) -> list[int]:
    return [int(word) for word in text.split()]


def _started_at(proc: int) -> int:
    # The name before it is in parentheses, and may have any in it.
    _, _, rest = _read(proc, "stat").rpartition(b")")
    return int(rest.split()[_STARTED_AT - 3])


def _command(proc: int) -> str:
    words = _read(proc, "cmdline", COMMAND_BYTES).rstrip(b"\0").split(b"\0")
    # What is no text takes one byte, as it did: so no command is longer than that.
    return b" ".join(words).decode(errors="replace").replace("\ufffd", "?")


def _is_setup(proc: int) -> bool:
    """False where it can't be seen: the list of a process's descriptors is its user's alone, as
    any directory of his, and no right to trace opens it. Then it is one that does not answer."""
    try:
        fds = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    except PermissionError:
        return False
    try:
        return any(NOT_BEGUN in _link(fds, name) for name in os.listdir(fds))
    finally:
        os.close(fds)


def _link(fds: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=fds)
    except OSError:
        return ""  # closed meanwhile

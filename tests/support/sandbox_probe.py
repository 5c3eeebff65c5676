"""Tries what a service has no business with, and prints how each ends: "done", or an error's name.

    python sandbox_probe.py FOLDER

In FOLDER, which everybody may write to, are what a sandbox has to keep it from: a device (`device`)
and a copy of `id` that would run as root (`id`).
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable

CLONE_NEWUSER = 0x1000_0000
PTRACE_TRACEME = 0
ADDR_NO_RANDOMIZE = 0x004_0000
MS_NODEV = 4
ELSEWHERE = ("192.0.2.1", 9)  # an address that the machine has itself, but not of the loopback's

libc = ctypes.CDLL(None, use_errno=True)
folder = pathlib.Path(sys.argv[1])


def check(done: int) -> None:
    if done < 0:
        raise OSError(ctypes.get_errno(), "refused")


def write_memory_that_runs() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def make_it_run_as_us() -> None:
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o4755)


def become_root() -> None:
    if subprocess.run([folder / "id", "-u"], capture_output=True, check=True).stdout != b"0\n":
        raise PermissionError(errno.EPERM, "it was one of us")


def send_elsewhere() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", ELSEWHERE)


def make_a_file() -> None:
    file = folder / str(os.getpid())
    file.touch()
    file.unlink()


def mount() -> None:
    check(libc.mount(b"tmpfs", bytes(folder), b"tmpfs", MS_NODEV, None))


TRIALS: dict[str, Callable[[], object]] = {
    "internet socket": lambda: socket.socket(socket.AF_INET).close(),
    "packet to another address": send_elsewhere,
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15).close(),
    "unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "vsock socket": lambda: socket.socket(socket.AF_VSOCK).close(),
    "file outside": make_a_file,
    "file of its own": lambda: tempfile.TemporaryFile().close(),
    "the files of users": lambda: os.listdir("/home"),
    "the temporary files of others": lambda: os.stat("/tmp/of-others"),
    "a device": lambda: os.close(os.open(folder / "device", os.O_RDWR)),
    "the null device": lambda: os.close(os.open("/dev/null", os.O_RDWR)),
    "a program that runs as root": become_root,
    "a program that runs as we": make_it_run_as_us,
    "memory that runs": write_memory_that_runs,
    "the first process": lambda: os.stat("/proc/1"),
    "facts of the kernel": lambda: os.stat("/proc/sys/kernel/version"),
    "a user namespace": lambda: check(libc.unshare(CLONE_NEWUSER)),
    "to be traced": lambda: check(libc.ptrace(PTRACE_TRACEME, 0, 0, 0)),
    "another personality": lambda: check(libc.personality(ADDR_NO_RANDOMIZE)),
    "a mount": mount,
}


def tried(trial: Callable[[], object]) -> str:
    """By a child: what it has got itself is gone with it."""
    told, tell = os.pipe()
    if os.fork() == 0:
        try:
            trial()
            said = "done"
        except OSError as error:
            said = errno.errorcode[error.errno or errno.EIO]
        os.write(tell, said.encode())
        os._exit(0)
    os.close(tell)
    with open(told) as end:
        said = end.read()
    os.wait()
    return said


print(json.dumps({name: tried(trial) for name, trial in TRIALS.items()}))

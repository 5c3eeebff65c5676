"""The process that holds a test machine's mount namespace and ends everything in it.

Started by `support.machine` with one argument, the plan in JSON. It carries out the mounts, says
"ready", and waits for its standard input to end: by the harness's wish, or because the tests died,
however that happened. Then it kills every process that lives in its mount namespace and removes
the machine's directory. A process is known by its namespace and not by a list of numbers, so
grandchildren and those that changed user or session are found too.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import time

CLONE_NEWNS = 0x0002_0000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    done = libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def bind(source: str, target: str) -> None:
    mount(source, target, None, MS_BIND | MS_REC)


def reveal(cover: str, wanted: list[str]) -> None:
    """Hides the directory `cover`, which others may not enter, and shows `wanted` in its place."""
    handles = [os.open(path, os.O_PATH) for path in wanted]
    mount("tmpfs", cover, "tmpfs", 0, "mode=755")
    for path, handle in zip(wanted, handles, strict=True):
        os.makedirs(path, 0o755)
        bind(f"/proc/self/fd/{handle}", path)
        os.close(handle)


def furnish(plan: dict[str, list[list[str]]]) -> None:
    if libc.unshare(CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare")
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    for cover, *wanted in plan["reveal"]:
        reveal(cover, wanted)
    mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
    for (path,) in plan["mkdir"]:
        os.makedirs(path, 0o755)
    for source, target in plan["bind"]:
        bind(source, target)


def others_in_my_namespace() -> list[int]:
    mine = os.readlink("/proc/self/ns/mnt")
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                if os.readlink(f"/proc/{entry}/ns/mnt") == mine:
                    found.append(int(entry))
            except OSError:  # gone, or a zombie
                continue
    return found


def end_all() -> None:
    while remaining := others_in_my_namespace():
        for pid in remaining:
            try:
                handle = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                # Looked at again with the handle held: the number can't be another process's now.
                same = os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
                if same:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            except OSError:
                pass
            finally:
                os.close(handle)
        time.sleep(0.002)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    base, plan = sys.argv[1], json.loads(sys.argv[2])
    try:
        furnish(plan)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.buffer.read()
    finally:
        end_all()
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()

"""The process that holds a test's container, and ends all of it.

Started by `support.container` with one argument, the plan in JSON. It makes the tree, boots it,
says "ready" and the container's first process, and waits for its standard input to end: by the
tests' wish, or because they died, however that happened.

The container is in a process namespace of its own, so that killing one process ends all others,
and in a mount namespace that ends with the last of them. Only the folders of its control group
have to be removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any

CLONE_NEWNS = 0x0002_0000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
PR_SET_PDEATHSIG = 1
BOOT_SECONDS = 30.0
CLEAR_SECONDS = 5.0

BASE = pathlib.Path("/mnt")  # of ours alone, once something is mounted there
TREE = BASE / "root"
CONSOLE = BASE / "console"
CGROUPS = pathlib.Path("/sys/fs/cgroup")
NAME = f"buswork-test-{os.getpid()}"

libc = ctypes.CDLL(None, use_errno=True)


def check(done: int, what: str) -> None:
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(kind: str, target: pathlib.Path, flags: int, data: str = "") -> None:
    done = libc.mount(
        kind.encode(), bytes(target), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    check(done, str(target))


# --- The tree ------------------------------------------------------------------------------------


def make_tree(plan: dict[str, Any]) -> None:
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", pathlib.Path("/"), MS_REC | MS_PRIVATE)
    mount("tmpfs", BASE, 0, "mode=755")
    for name in ("upper", "work", "root"):
        (BASE / name).mkdir()
    mount("overlay", TREE, 0, f"lowerdir=/,upperdir={BASE}/upper,workdir={BASE}/work")
    # What the administrator of this host has enabled, and a name for journals that is its own.
    shutil.rmtree(TREE / "etc/systemd/system")
    (TREE / "etc/machine-id").write_text(os.urandom(16).hex() + "\n")
    for path, text, mode in plan["files"]:
        file = inside(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(int(mode))
    for path, text in plan["append"]:
        with inside(path).open("a") as end:
            end.write(text)


def inside(path: str) -> pathlib.Path:
    return TREE / path.removeprefix("/")


# --- Control groups ------------------------------------------------------------------------------


def cgroups() -> list[pathlib.Path]:
    """Ours in each hierarchy that systemd uses: version 2, and `name=systemd` of version 1."""
    hierarchies = {"": ("", "unified"), "name=systemd": ("systemd",)}
    lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    return [
        CGROUPS / place / path.removeprefix("/") / NAME
        for _, controllers, path in (line.split(":", 2) for line in lines)
        for place in hierarchies.get(controllers, ())
        if (CGROUPS / place / "cgroup.procs").exists()
    ]


def remove_cgroups() -> None:
    deadline = time.monotonic() + CLEAR_SECONDS
    for group in cgroups():
        folders = [pathlib.Path(folder) for folder, _, _ in os.walk(group, topdown=False)]
        for folder in folders:
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:  # its processes are just going
                    if time.monotonic() > deadline:
                        return
                    time.sleep(0.005)


# --- The container -------------------------------------------------------------------------------


def boot(binds: list[list[str]], notices: str) -> subprocess.Popen[bytes]:
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "systemd-nspawn"]
    command += ["--quiet", f"--directory={TREE}", f"--machine={NAME}", "--boot"]
    command += ["--register=no", "--keep-unit", "--private-network", "--console=pipe"]
    command += ["--link-journal=no", "--notify-ready=yes"]
    # Else DeviceAllow= and IPAddressDeny= would be passed over without a word.
    command += ["--capability=all", "--system-call-filter=bpf"]
    for source, target in binds:
        source, target = (path.replace(":", r"\:") for path in (source, target))
        command.append(f"--bind-ro={source}:{target}")
    command.append("systemd.unit=basic.target")

    def in_our_cgroups() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for group in cgroups():
            group.mkdir()
            (group / "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=CONSOLE.open("wb"),
        stderr=subprocess.STDOUT,
        env=os.environ | {"NOTIFY_SOCKET": notices, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        preexec_fn=in_our_cgroups,  # noqa: PLW1509 - there is one thread
    )


def is_booted(notices: socket.socket, container: subprocess.Popen[bytes]) -> bool:
    """True when it says that it is; False when it ended before, or time is over."""
    said, ended = notices.fileno(), os.pidfd_open(container.pid)
    deadline = time.monotonic() + BOOT_SECONDS
    while True:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([said, ended], [], [], max(left, 0))
        if said not in ready:
            return False
        if b"READY=1" in notices.recv(4096).splitlines():
            os.close(ended)
            return True


def children(pid: int) -> list[int]:
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    plan = json.loads(sys.argv[1])
    container = None
    try:
        make_tree(plan)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(f"\0{NAME}")
            container = boot(plan["binds"], f"@{NAME}")
            if not is_booted(notices, container):
                print(CONSOLE.read_text(errors="replace"))
                return
        (nspawn,) = children(container.pid)
        (leader,) = children(nspawn)
        print("ready", leader, flush=True)
        sys.stdin.read()
    finally:
        if container is not None:
            for pid in children(container.pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            container.wait()
        remove_cgroups()


if __name__ == "__main__":
    main()

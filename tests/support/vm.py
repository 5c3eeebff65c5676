"""A virtual machine for tests: Debian's own kernel, a real systemd and udev, and USB devices that
the kernel itself has found; on it, `buswork install` has been.

    with VirtualMachine() as machine:
        dac = machine.plug()
        machine.run(["systemctl", "start", "buswork"])
        print(machine.display(dac))

It has the words of a Container, and for the same reasons: what is installed on this host is there
too, because its root is this host's, which it can read and not write; what is written there stays
in the machine's memory. It has no network. The processor is QEMU's, in software, so that it also
runs where there is no other way; that takes some ten times as long for everything.

What only such a machine shows: whether udev's rules and its probe mark a device, whom the kernel
lets open it, and that the units' DeviceAllow= and MemoryMax= are obeyed.
"""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from support import vm_boot
from support.container import HOME, PROJECT, Container, ContainerError, Process

QEMU = "qemu-system-x86_64"
MACHINE = "x86_64"  # QEMU's, the kernel's, and that of the programs that both run
CPUS, MEMORY_MB = 2, 1024
# Where others want to work too, it takes ten times as long again.
BOOT_SECONDS = 900.0
RUN_SECONDS = 300.0
# Between a command's own time and the line's: the guest says that the time is over.
LINE_SECONDS = 120.0
UNTIL_SECONDS = 300.0
PR_SET_PDEATHSIG = 1

KERNEL_ARGUMENTS = (
    "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off tsc=reliable no_timer_check "
    "systemd.unit=basic.target systemd.wants=buswork-test.service systemd.mask=ldconfig.service"
)
PORT = f"/dev/virtio-ports/{vm_boot.LINE}"
GUEST_UNIT = f"""\
[Unit]
After=systemd-udev-trigger.service dbus.socket
# Before that, nobody but root may log in.
Wants=systemd-user-sessions.service

[Service]
TimeoutStartSec={BOOT_SECONDS:.0f}
ExecStartPre=udevadm wait --timeout={BOOT_SECONDS:.0f} {PORT}
ExecStart={HOME}/bin/python {PROJECT}/tests/support/vm_guest.py {PORT}
"""

# The units are those that are shipped, but for the time that things take here.
PATIENCE = """\
[Service]
TimeoutStartSec=5min
TimeoutStopSec=5min
WatchdogSec=5min
"""
DROP_IN = "/etc/systemd/system/buswork.service.d/patience.conf"

# Debian's kernel has AppArmor. Our profiles don't know that the programs are shell scripts here,
# nor what a host's own Python reads when it starts.
APPARMOR, PROFILES = "/etc/apparmor.d", ("busworkd", "buswork-doors", "buswork-appview")
SCRIPTS = f"""\
include <abstractions/ssl_certs>
/{{usr/,}}bin/{{ba,da,}}sh mrix,
{HOME}/** mrix,
"""

libc = ctypes.CDLL(None)


class VirtualMachineError(ContainerError):
    """The machine did not do what was asked of it."""


@dataclass(frozen=True)
class Device:
    """A simulated device as the machine's kernel has it."""

    port: str
    syspath: str
    node: str


def missing() -> list[str]:
    """What this host has not got, in words; without it there are no virtual machines here."""
    if platform.machine() != MACHINE:
        return [f"a host of the kind {MACHINE}"]
    found = [name for name in (QEMU, "busybox", "udevadm") if shutil.which(name) is None]
    if vm_boot.kernel() is None:
        found.append(f"a kernel in {vm_boot.CACHE}, where './dev test --vm' puts it")
    return found


class VirtualMachine(Container):
    """See the top of this file. A context manager; all of it is gone afterwards."""

    def __init__(self, *, users: Sequence[str] = ("alice", "bob")) -> None:
        super().__init__(users=users)
        self._qemu: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._numbers = 0
        self.boot_seconds = 0.0  # by the machine's own clock

    def __exit__(self, *_: object) -> None:
        if self._qemu is not None:
            self._qemu.kill()  # nothing of it is kept
            self._qemu.wait()
            self._qemu = None
            if self._line is not None:
                self._answers.close()
                self._line.close()
            self._tmp.cleanup()

    # Booting

    def _boot(self) -> None:
        kernel = vm_boot.kernel()
        busybox = shutil.which("busybox")
        assert kernel is not None, missing()
        assert busybox is not None, missing()
        self._tmp = tempfile.TemporaryDirectory(prefix="buswork-vm-")
        tmp = pathlib.Path(self._tmp.name)
        archive = vm_boot.initramfs(
            kernel, pathlib.Path(busybox), self._binds(), self._files(), self._accounts()
        )
        (tmp / "initramfs").write_bytes(archive)
        self._console = tmp / "console"
        with socket.socket(socket.AF_UNIX) as listener, (tmp / "qemu").open("wb") as log:
            listener.bind(str(tmp / "line"))
            listener.listen()
            listener.settimeout(LINE_SECONDS)
            self._qemu = subprocess.Popen(
                self._command(kernel, tmp),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
            )
            self._line = listener.accept()[0]
        self._answers = self._line.makefile("rb")
        self.boot_seconds = self._answer(BOOT_SECONDS)["hello"]

    def _command(self, kernel: pathlib.Path, tmp: pathlib.Path) -> list[str]:
        """With the lowest priority: others want to work here too."""
        files = vm_boot.HOST_FILES
        return [
            *("nice", "-n", "19", QEMU),
            *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
            *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"),
            *("-smp", str(CPUS), "-m", str(MEMORY_MB)),
            *("-kernel", str(kernel), "-initrd", str(tmp / "initramfs")),
            *("-append", KERNEL_ARGUMENTS),
            *("-serial", f"file:{self._console}"),
            *("-fsdev", f"local,id={files},path=/,security_model=none,readonly=on,multidevs=remap"),
            *("-device", f"virtio-9p-pci,fsdev={files},mount_tag={files}"),
            *("-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=line,path={tmp / 'line'}"),
            *("-device", f"virtserialport,chardev=line,name={vm_boot.LINE}"),
        ]

    def _files(self) -> list[tuple[str, str, int]]:
        unit = ("/etc/systemd/system/buswork-test.service", GUEST_UNIT, 0o644)
        machine_id = ("/etc/machine-id", os.urandom(16).hex() + "\n", 0o444)
        rules = [(f"{APPARMOR}/local/{name}", SCRIPTS, 0o644) for name in PROFILES]
        return [*super()._files(), unit, machine_id, (DROP_IN, PATIENCE, 0o644), *rules]

    # Talking to it

    def _do(self, what: str, seconds: float = LINE_SECONDS, **arguments: Any) -> Any:
        self._numbers += 1
        command = {"do": what, "number": self._numbers, **arguments}
        assert self._line is not None, "the machine is not running"
        self._line.sendall(json.dumps(command).encode() + b"\n")
        answer = self._answer(seconds)
        while answer.get("number") != self._numbers:  # one that came too late
            answer = self._answer(seconds)
        if "error" in answer:
            raise VirtualMachineError(answer["error"])
        return answer["result"]

    def _answer(self, seconds: float) -> Any:
        assert self._line is not None
        self._line.settimeout(seconds)
        try:
            line = self._answers.readline()
        except TimeoutError:
            line = b""
        if not line:
            said = self._console.read_text(errors="replace") if self._console.exists() else ""
            said += (self._console.parent / "qemu").read_text(errors="replace")
            raise VirtualMachineError(f"it does not answer; its console:\n{said[-10_000:]}")
        return json.loads(line)

    def command(
        self, command: Sequence[str | os.PathLike[str]], user: str = "root", cwd: str = "/"
    ) -> list[str]:
        """The command line that runs `command` as `user`, for the machine itself."""
        inside = ["env", f"--chdir={cwd}", "-i", "LANG=C.UTF-8"]
        inside += ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]
        if user != "root":
            uid = self.uid(user)
            inside += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
        return inside + [os.fspath(part) for part in command]

    def popen(
        self, command: Sequence[str | os.PathLike[str]], user: str = "root", **options: Any
    ) -> Process:
        raise NotImplementedError("what is to go on in the machine is started by systemd-run")

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        user: str = "root",
        *,
        check: bool = True,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> subprocess.CompletedProcess[str]:
        more = ["env", *(f"{name}={value}" for name, value in (env or {}).items())]
        line = self.command([*more, *command], user, cwd)
        seconds = RUN_SECONDS + LINE_SECONDS
        done = self._do("run", seconds, command=line, stdin=stdin, timeout=RUN_SECONDS)
        status, stdout, stderr = done["status"], done["stdout"], done["stderr"]
        if status is None or (check and status != 0):
            how = "did not end" if status is None else f"ended with {status}"
            said = f"{stdout}{stderr}"
            raise VirtualMachineError(f"{user}: {list(map(str, command))} {how}\n{said}")
        return subprocess.CompletedProcess(line, status, stdout, stderr)

    # USB

    def plug(
        self, kind: str = "dac", *, faults: Sequence[Mapping[str, Any]] = (), **options: Any
    ) -> Device:
        """Plugs in one of vm_guest.KINDS, made with these options, and waits until udev has it."""
        done = self._do("plug", kind=kind, options=options, faults=list(faults))
        return self._settled(Device(**done))

    def plug_unseen(self, kind: str = "dac") -> Device:
        """The same where there is no udev."""
        return Device(**self._do("plug", kind=kind, options={}, faults=[]))

    def replug(self, device: Device) -> Device:
        """The same device once more, which has forgotten all that it was told."""
        return self._settled(Device(**self._do("replug", port=device.port)))

    def unplug(self, device: Device) -> None:
        self._do("unplug", port=device.port)

    def unplug_all(self) -> None:
        self._do("unplug_all")

    def faults(self, device: Device, *faults: Mapping[str, Any]) -> None:
        """What it does wrong from now on, with the words of buswork.sim.device.Fault."""
        self._do("faults", port=device.port, faults=list(faults))

    def record(self, device: Device) -> list[dict[str, Any]]:
        """What it was asked, transfer by transfer."""
        found: list[dict[str, Any]] = self._do("record", port=device.port)
        return found

    def display(self, device: Device) -> list[str]:
        """What a DAC shows; it must not have had anything to complain of."""
        found = self._do("display", port=device.port)
        assert found["complaints"] == [], found
        lines: list[str] = found["lines"]
        return lines

    def board(self, device: Device) -> list[str]:
        """How a board looks to somebody in front of it."""
        lines: list[str] = self._do("board", port=device.port)
        return lines

    def until(self, condition: Callable[[], Any]) -> None:
        """Waits until something is true of a machine that takes its time."""
        deadline = time.monotonic() + UNTIL_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise VirtualMachineError(f"it did not happen; the log:\n{self.journal('buswork')}")
            time.sleep(0.1)

    def udev(self, device: Device) -> dict[str, str]:
        """The properties that udev has given it."""
        said = self.run(["udevadm", "info", "--query=property", device.syspath]).stdout
        return dict(line.split("=", 1) for line in said.splitlines())

    def _settled(self, device: Device) -> Device:
        self.run(["udevadm", "settle", f"--timeout={UNTIL_SECONDS:.0f}"])
        return device

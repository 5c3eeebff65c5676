"""The commands that tell the system what was placed, and that it is about to go.

They are the same for `buswork install`, which runs them, and for packages, whose scripts have them.
"""

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

SOCKETS = tuple(f"buswork-{name}.socket" for name in ("store", "fsct", "fmr", "ipc", "ipc-doors"))
OFF_AT_FIRST = ("buswork-store-tmp.socket", "buswork-ipc-tmp.socket", "buswork-doors.socket")
SERVICES = ("buswork.service", "buswork-appview.service", "buswork-doors.service")
# What nobody but an administrator enables.
ENABLED_BY_HAND = (*OFF_AT_FIRST, "buswork.service", "buswork-doors.service")
OF_SESSIONS = ("buswork-agent.service", "buswork-agent.socket")
PROFILES = tuple(
    f"/etc/apparmor.d/{name}" for name in ("busworkd", "buswork-doors", "buswork-appview")
)
RUN_FOLDERS = ("/run/buswork", "/run/fsct", "/run/ipc", "/tmp/libipc-run", "/tmp/.libipc-run")
STATE_FOLDER = "/var/lib/buswork"

_SYSTEMD, _BUS, _UDEV = "/run/systemd/system", "/run/dbus/system_bus_socket", "/run/udev/control"
_APPARMOR = "/sys/kernel/security/apparmor/profiles"

_SECONDS = 90.0  # more than units take to start or stop (TimeoutStopSec=), each after the other
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Step(NamedTuple):
    """A command, and the files without which there is nothing to tell."""

    words: tuple[str, ...]
    needs: tuple[str, ...] = ()


class Outcome(NamedTuple):
    words: tuple[str, ...]
    missing: str = ""  # what it needs, and so it was left out
    failure: str = ""


def _apparmor(*options: str) -> tuple[Step, ...]:
    """Each by itself: one that a parser does not understand does not keep the others out."""
    return tuple(
        Step(("apparmor_parser", *options, profile), (_APPARMOR, profile)) for profile in PROFILES
    )


_BUS_NAME, _BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"

_RELOAD = (
    Step(("systemctl", "daemon-reload"), (_SYSTEMD,)),
    Step(("busctl", "--system", "call", _BUS_NAME, _BUS_PATH, _BUS_NAME, "ReloadConfig"), (_BUS,)),
    Step(("udevadm", "control", "--reload"), (_UDEV,)),
    Step(("journalctl", "--update-catalog")),
)

# The users first: bus policies, udev rules and run directories name them.
AFTER_INSTALL = (
    Step(("systemd-sysusers", "buswork.conf")),
    Step(("systemd-tmpfiles", "--create", "buswork.conf")),
    *_apparmor("--replace", "--skip-cache"),
    *_RELOAD,
    # What was plugged in before.
    Step(("udevadm", "trigger", "--subsystem-match=usb", "--action=change"), (_UDEV,)),
)
ENABLE = (
    Step(("systemctl", "enable", *SOCKETS)),
    Step(("systemctl", "start", *SOCKETS), (_SYSTEMD,)),
)

BEFORE_REMOVAL = (
    Step(("systemctl", "stop", *SOCKETS, *OFF_AT_FIRST, *SERVICES), (_SYSTEMD,)),
    Step(("systemctl", "disable", *SOCKETS, *ENABLED_BY_HAND)),
    Step(("systemctl", "--global", "disable", *OF_SESSIONS)),
    *_apparmor("--remove"),
)
AFTER_REMOVAL = (
    *_RELOAD,
    *(Step(("rmdir", "--ignore-fail-on-non-empty", folder), (folder,)) for folder in RUN_FOLDERS),
)
PURGE = (Step(("rm", "-r", STATE_FOLDER), (STATE_FOLDER,)),)


def run(steps: Iterable[Step]) -> Iterator[Outcome]:
    """One after the other. One that fails does not hold back the next."""
    for step in steps:
        missing = next((path for path in step.needs if not Path(path).exists()), "")
        if not missing and shutil.which(step.words[0], path=_PATH) is None:
            missing = step.words[0]
        yield Outcome(step.words, missing) if missing else _run(step.words)


def _run(words: tuple[str, ...]) -> Outcome:
    try:
        done = subprocess.run(
            words,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Outcome(words, failure=str(error))
    if done.returncode == 0:
        return Outcome(words)
    said = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
    return Outcome(words, failure=said)

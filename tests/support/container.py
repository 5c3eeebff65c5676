"""A machine with a real systemd for tests, on which `buswork install` has been.

    with Container() as container:
        container.run(["systemctl", "start", "globstashd"])
        container.run(["globstash", "set", "key", "value"], user="alice")

It is a container on an overlay of this host's root: what is installed here is there too, and what
is written there is gone with it. `/root` and the like are hidden from the shipped units, so the
interpreter and the project are shown at `/opt/buswork`. It boots in a third of a second.

What to know before writing a test:

* Nothing of the host's own services runs, and its changes to units do not count; there are the bus
  (dbus-daemon), polkit and the journal, each from the moment it is needed.
* Commands of `run` have no session: polkit's `allow_any` applies, as for cron and services. Those
  who log in are in seats.py.
* MemoryMax= and TasksMax= are not enforced where the host has cgroups of version 1.

A process of its own (guard.py beside this file) holds all of it. When the tests end, however that
happens, it ends the container's processes, and the mounts go with the last of them.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from typing import Any, Self

from support.places import eventually

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
GUARD = pathlib.Path(__file__).resolve().with_name("guard.py")
PREFIX = pathlib.Path(sys.base_prefix).resolve()
FIRST_UID = 54_000
RUN_SECONDS = 60.0

# Where things are inside.
HOME = "/opt/buswork"
PROJECT = f"{HOME}/project"
PROGRAMS = {
    "busworkd": "buswork.daemon",
    "buswork": "buswork.cli",
    "buswork-agent": "buswork.fsct.agent",
    "buswork-appview": "buswork.appviewd",
    "buswork-doors": "buswork.doors",
    "buswork-probe-fsct": "buswork.fsct.probe",
    "globstash": "buswork.thin.globstash",
    "mapipc": "buswork.thin.mapipc",
}
WRAPPER = """\
#!/bin/sh
PYTHONPATH={project}/src:{home}/packages LD_LIBRARY_PATH={home}/python/lib \\
PYTHONDONTWRITEBYTECODE=1 exec {python} {arguments} "$@"
"""

# The kernel counts the descriptors that are on their way for the bus's user, who is the same in all
# containers and outside: other tests have thousands of them there for a moment, and a bus that
# may not have as many loses answers meanwhile.
BUS_LIMIT = "[Service]\nLimitNOFILE=16384\n"

# With the programs that are here; and manual pages take a second.
INSTALL = f"""\
ln -s {" ".join(f"{HOME}/bin/{name}" for name in PROGRAMS)} /usr/bin/
buswork install --no-programs --no-pages
"""

Process = subprocess.Popen[Any]


class ContainerError(Exception):
    """The container did not do what was asked of it; the text says what it printed."""


class Container:
    """See the top of this file. A context manager; all that it started ends with it."""

    def __init__(self, *, users: Sequence[str] = ("alice", "bob")) -> None:
        self._uids = {"root": 0} | {user: FIRST_UID + n for n, user in enumerate(users)}
        self._guard: Process | None = None
        self.leader = 0  # the first process inside, as it is known outside
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        try:
            self._boot()
            self.run(["sh", "-euc", INSTALL])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._guard is not None:
            self._guard.communicate()  # closes its input, which is the end of everything inside
            self._guard = None
        for process in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def _boot(self) -> None:
        plan = {"binds": self._binds(), "files": self._files(), "append": self._accounts()}
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", GUARD, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests; the guard cleans up after them
            cwd="/",
        )
        assert self._guard.stdout is not None
        said = self._guard.stdout.readline()
        if not said.startswith("ready "):
            raise ContainerError(f"it did not boot:\n{said}{self._guard.stdout.read()}")
        self.leader = int(said.split()[1])

    def _binds(self) -> list[tuple[str, str]]:
        binds = [(str(REPOSITORY), PROJECT), (sysconfig.get_path("purelib"), f"{HOME}/packages")]
        if not _is_stock_python():
            binds.append((str(PREFIX), f"{HOME}/python"))
        return binds

    def _files(self) -> list[tuple[str, str, int]]:
        """Text and mode of files that are there before it boots."""
        python = pathlib.Path(sys.executable).resolve()
        if not _is_stock_python():
            python = pathlib.Path(HOME, "python") / python.relative_to(PREFIX)
        words = {"home": HOME, "project": PROJECT, "python": python}
        programs = {name: f"-m {module}" for name, module in PROGRAMS.items()} | {"python": ""}
        wrappers = [
            (f"{HOME}/bin/{name}", WRAPPER.format(arguments=arguments, **words), 0o755)
            for name, arguments in programs.items()
        ]
        return [*wrappers, ("/etc/systemd/system/dbus.service.d/tests.conf", BUS_LIMIT, 0o644)]

    def _accounts(self) -> list[tuple[str, str]]:
        """With what PAM wants to know of users who log in."""
        users = [(user, uid) for user, uid in self._uids.items() if uid]
        return [
            ("/etc/passwd", "".join(f"{u}:x:{n}:{n}::/nonexistent:/bin/sh\n" for u, n in users)),
            ("/etc/group", "".join(f"{u}:x:{n}:\n" for u, n in users)),
            ("/etc/shadow", "".join(f"{u}:*:20000::::::\n" for u, _ in users)),
        ]

    @property
    def guard(self) -> int:
        """The process outside that holds all of it."""
        assert self._guard is not None, "the container is not running"
        return self._guard.pid

    # Running things

    def uid(self, user: str) -> int:
        """The number of a user inside."""
        if user not in self._uids:
            self._uids[user] = int(self.run(["id", "-u", user]).stdout)
        return self._uids[user]

    def command(
        self, command: Sequence[str | os.PathLike[str]], user: str = "root", cwd: str = "/"
    ) -> list[str]:
        """The command line that runs `command` inside, as `user`."""
        assert self.leader, "the container is not running"
        inside = ["nsenter", f"--target={self.leader}", "--all", "--", "env", f"--chdir={cwd}"]
        inside += ["-i", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG=C.UTF-8"]
        if user != "root":
            uid = self.uid(user)
            inside += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
        return inside + [os.fspath(part) for part in command]

    def popen(
        self, command: Sequence[str | os.PathLike[str]], user: str = "root", **options: Any
    ) -> Process:
        """Starts a command inside, as `user`; options are Popen's. It ends with the container."""
        process: Process = subprocess.Popen(self.command(command, user), **options)
        self._processes.append(process)
        return process

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
        """Runs a command inside, as `user`, and returns its output; a failure shows all of it."""
        more = ["env", *(f"{name}={value}" for name, value in (env or {}).items())]
        done = subprocess.run(
            self.command([*more, *command], user, cwd),
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            input=stdin,
        )
        if check and done.returncode != 0:
            raise ContainerError(
                f"{user}: {list(map(str, command))} ended with {done.returncode}\n"
                f"{done.stdout}{done.stderr}"
            )
        return done

    def python(self, code: str, user: str = "root", *arguments: str) -> str:
        """What a program prints that may import buswork, run as `user`."""
        return self.run([f"{HOME}/bin/python", "-c", code, *arguments], user).stdout

    # Asking systemd

    def until_ready(self, unit: str) -> None:
        """A daemon answers a moment before it tells systemd that it is ready."""
        eventually(lambda: self.show(unit, "ActiveState") == "active")

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, as `systemctl show` writes it."""
        return self.run(["systemctl", "show", "-P", name, unit]).stdout.strip()

    def journal(self, unit: str) -> str:
        """What a unit's processes have logged until now."""
        self.run(["journalctl", "--sync"])
        return self.run(["journalctl", "--no-pager", "-o", "cat", "-u", unit]).stdout


def _is_stock_python() -> bool:
    """Whether the interpreter is the distribution's, which is at its place inside too."""
    return pathlib.Path("/usr") == PREFIX

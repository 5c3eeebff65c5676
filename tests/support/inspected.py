"""Simulated processes under AppView on a machine, and short words for what is asked of them."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from buswork.appview.native import mqueue
from support.machine import APPVIEW_NAME, Client, Machine, Process
from support.places import PROPERTIES

ROOT, INSPECTOR, PROCESS = "/org/appview", "org.appview.Inspector", "org.appview.Process"
ERROR = "org.appview.Error."


class Viewed:
    """A simulated process of a user of the machine."""

    def __init__(self, process: Process, pid: int) -> None:
        self.process = process
        self.pid = pid
        self.path = f"{ROOT}/processes/{pid}"

    def kill(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class People:
    """All that a test has started."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._all: list[Viewed] = []

    def start(self, user: str, *options: str, inside: Sequence[str] = ()) -> Viewed:
        """inside: a command of root that makes namespaces; the process is a child of it then."""
        command = [*inside, sys.executable, "-m", "buswork.sim.viewed", *options]
        process = self._machine.popen(
            command,
            "root" if inside else user,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        own_pid = int(process.stdout.readline())
        viewed = Viewed(process, _innermost(process.pid) if inside else own_pid)
        self._all.append(viewed)
        return viewed

    def end(self) -> None:
        for viewed in self._all:
            viewed.kill()
        self._all.clear()


def _innermost(pid: int) -> int:
    while children := pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def call(client: Client, path: str, interface: str, member: str, *words: Any, **how: Any) -> Any:
    reply = client.call(path, interface, member, *words, destination=APPVIEW_NAME, **how)
    return reply.body


def scan(client: Client, member: str = "Scan", **how: Any) -> list[str]:
    (paths,) = call(client, ROOT, INSPECTOR, member, **how)
    return list(paths)


def ask(client: Client, viewed: Viewed, member: str, *words: Any, **how: Any) -> Any:
    """The answer, out of its JSON."""
    return json.loads(call(client, viewed.path, PROCESS, member, *words, **how)[1])


def tell(client: Client, viewed: Viewed, member: str, *words: Any, **how: Any) -> None:
    assert call(client, viewed.path, PROCESS, member, *words, **how) == []


def facts(client: Client, viewed: Viewed) -> dict[str, Any]:
    (found,) = call(client, viewed.path, PROPERTIES, "GetAll", "s", PROCESS)
    return {name: each.value for name, each in found.items()}


def queues(own_pid: int) -> list[str]:
    found = []
    for name in (f"AppViewIPCIn.{own_pid}", f"AppViewIPCOut.{own_pid}"):
        try:
            mqueue.look(name)
        except FileNotFoundError:
            continue
        found.append(name)
    return found

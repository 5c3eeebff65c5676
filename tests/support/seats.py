"""People who sit at a container, and people who do not: sessions of a real logind, with callers in
them.

    alice = Person(container, "alice", seat="seat0")    # who comes last sits there
    bob = Person(container, "bob")                      # as by ssh
    with PromptedAgent(container, alice.pid) as agent:
        ...

A session begins as a login does, through PAM, and lasts as long as its caller.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from support.agent import Agent, Answer
from support.container import HOME, PROJECT, REPOSITORY, Container, Process
from support.machine import Client

SEAT = "seat0"

Word = str | os.PathLike[str]


class _Inside:
    """As much of a Machine as its callers and agents want, inside a container."""

    def __init__(self, container: Container) -> None:
        self._container = container

    def popen(
        self,
        command: Sequence[Word],
        user: str = "root",
        *,
        pass_fds: Sequence[int] = (),
        **options: Any,
    ) -> Process:
        words = [_there(word) for word in command]
        return self._container.popen(words, user, pass_fds=pass_fds, **options)


class _Login(_Inside):
    """Starts them as those who log in do. The one descriptor that is passed is their input."""

    def __init__(self, container: Container, unit: str, seat: str | None) -> None:
        super().__init__(container)
        self._start = session_command(unit, seat)

    def popen(
        self,
        command: Sequence[Word],
        user: str = "root",
        *,
        pass_fds: Sequence[int] = (),
        **options: Any,
    ) -> Process:
        (descriptor,) = pass_fds
        words = ["0" if word == str(descriptor) else word for word in command]
        start = [*self._start, f"--property=User={user}", "--pipe"]
        return super().popen([*start, *words], stdin=descriptor, **options)


def session_command(unit: str, seat: str | None) -> list[str]:
    """Runs what follows in a session of its own; without a seat it is as by ssh."""
    command = ["systemd-run", "--quiet", "--collect", f"--unit={unit}"]
    command += ["--property=PAMName=login", "--setenv=XDG_SESSION_CLASS=user"]
    command += [f"--setenv=XDG_SEAT={seat}", "--setenv=XDG_SESSION_TYPE=wayland"] if seat else []
    return command


def _there(word: Word) -> str:
    """What is here, as it is called inside."""
    text = os.fspath(word)
    if text == sys.executable:
        return f"{HOME}/bin/python"
    return text.replace(str(REPOSITORY), PROJECT, 1)


class _Known(Client):
    @property
    def pid(self) -> int:
        """As it is known inside."""
        return int(self.bus("GetConnectionUnixProcessID", "s", self.name).value)


class Caller(_Known):
    """A caller without a session, of root or another user."""

    def __init__(self, container: Container, user: str = "root") -> None:
        super().__init__(_Inside(container), user)  # type: ignore[arg-type]


class Person(_Known):
    """A caller in a session of its own."""

    _count = 0

    def __init__(self, container: Container, user: str, seat: str | None = None) -> None:
        Person._count += 1
        self.unit = f"session-of-{user}-{Person._count}"
        self._container = container
        super().__init__(_Login(container, self.unit, seat), user)  # type: ignore[arg-type]

    @property
    def session(self) -> str:
        variables = self._container.run(["cat", f"/proc/{self.pid}/environ"]).stdout.split("\0")
        return dict(each.split("=", 1) for each in variables if each)["XDG_SESSION_ID"]

    def take_the_seat(self) -> None:
        """As one who switches users does."""
        self._container.run(["loginctl", "activate", self.session])


class PromptedAgent(Agent):
    """The agent of a process inside."""

    def __init__(self, container: Container, pid: int, answer: Answer = "yes") -> None:
        super().__init__(_Inside(container), pid, answer)  # type: ignore[arg-type]

"""A process that is spoken with."""

import select
from dataclasses import dataclass
from typing import Final

from buswork.appview.native.namespaces import Namespace

# How queues are called, before the number of the process (protocol section 1).
ASK: Final = "AppViewIPCIn"
ANSWER: Final = "AppViewIPCOut"


@dataclass(frozen=True, slots=True)
class Target:
    """A process by its descriptors: they are of no other, also when its number is used again."""

    pid: int
    # As it knows itself, in its own PID namespace.
    own_pid: int
    uid: int
    gid: int
    pidfd: int
    # /proc/PID, open: when the process is gone, nothing is found there.
    proc: int
    # /proc/PID/ns/ipc, open.
    namespace_fd: int
    namespace: Namespace

    @property
    def has_ended(self) -> bool:
        # Not by select(2), which knows no descriptor from 1,024 on.
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def ask_name(self) -> str:
        return f"{ASK}.{self.own_pid}"

    @property
    def answer_name(self) -> str:
        return f"{ANSWER}.{self.own_pid}"

"""The words of the wing: where services are, who asks for them, and what is known of each."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from buswork.libipc.wire.forms import Form

# Clients of one service of ours: some user's page or board, not a public server.
MAX_CLIENTS: Final = 256


class RunDirectory(NamedTuple):
    """Where services are; its form is that of all of them."""

    form: Form
    path: str


@dataclass(frozen=True, slots=True)
class Who:
    """For whom something is done, as the bus or the kernel says."""

    uid: int
    gids: frozenset[int] = frozenset()
    label: str = ""  # of a caller or a process, for the log
    pid: int = 0  # where it is known


class Access(StrEnum):
    """Whose programs a service of ours lets in."""

    ALL = "all"
    OWN = "own"  # those of its owner's uid


class ServiceFacts(NamedTuple):
    """A socket in a run directory."""

    name: str
    form: Form
    directory: str
    alive: bool  # somebody listens there
    owner_uid: int
    mode: int
    connections: int
    served: bool  # by a caller of ours


class ClientFacts(NamedTuple):
    """A client of a service of ours."""

    number: int
    uid: int
    pid: int  # 0: it came over the bus


@dataclass(frozen=True, slots=True)
class Limits:
    """How much there may be, beyond what each uid may have."""

    clients: int = MAX_CLIENTS

"""What the native sockets of all wings share: whoever uses several has no more of it."""

from dataclasses import dataclass, field

from buswork.native.room import Buffers
from buswork.native.shares import Shares


@dataclass(slots=True)
class Commons:
    shares: Shares = field(default_factory=Shares)
    buffers: Buffers = field(default_factory=Buffers)

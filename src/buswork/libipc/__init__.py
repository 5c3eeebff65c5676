"""Messages between programs, as libipc's versions exchange them: services, connections, events.

The names below need neither the daemon nor D-Bus. Without asyncio: `buswork.libipc.blocking`.
"""

from buswork.libipc.errors import (
    ClosedContext,
    NameTaken,
    NoDescriptor,
    NoSuchService,
    NotAllowed,
    PeerGone,
    QueueFull,
    Stalled,
)
from buswork.libipc.library import blocking
from buswork.libipc.library.connections import Connection, Limits, Receiver
from buswork.libipc.library.contexts import Context, Service, connect, serve
from buswork.libipc.library.ends import join
from buswork.libipc.library.events import (
    Connected,
    Disconnected,
    Event,
    External,
    Received,
    Timer,
)
from buswork.libipc.library.lines import In, Line, Out, plain_in, plain_out
from buswork.libipc.library.rundirs import RunDir
from buswork.libipc.library.switching import Code, End, Switch, Switched, Taken, Unswitched
from buswork.libipc.wire.forms import DATA, ERR, SERVER_CLOSE, BadMessage, Form, Message
from buswork.libipc.wire.names import BadName
from buswork.libipc.wire.typed import BadTyped, Registry

__all__ = [
    "DATA", "ERR", "SERVER_CLOSE", "BadMessage", "BadName", "BadTyped", "ClosedContext", "Code",
    "Connected", "Connection", "Context", "Disconnected", "End", "Event", "External", "Form", "In",
    "Limits", "Line", "Message", "NameTaken", "NoDescriptor", "NoSuchService", "NotAllowed", "Out",
    "PeerGone", "QueueFull", "Received", "Receiver", "Registry", "RunDir", "Service", "Stalled",
    "Switch", "Switched", "Taken", "Timer", "Unswitched", "blocking", "connect", "join",
    "plain_in", "plain_out", "serve",
]  # fmt: skip

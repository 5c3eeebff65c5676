"""Programs that use the daemon: `Client` for asyncio, `buswork.client.blocking.Client` without.

    async with Client() as client:
        await client.store.set("greeting", "hello")
        async with client.store.watch("greeting") as changes:
            async for change in changes:
                print(change.value)

Failures are classes of `buswork.client.errors`, all of them BusworkError.
"""

from buswork.client.appview import AppView, ProcessChange, ProcessFacts, ViewedProcess
from buswork.client.connection import Client
from buswork.client.daemon import Daemon, Facts, Held, WingState
from buswork.client.driver import Driver, Simulator
from buswork.client.errors import (
    AccessDenied,
    BusworkError,
    Busy,
    Disconnected,
    InteractiveAuthorizationRequired,
    InvalidArgs,
    LimitsExceeded,
    NoReply,
    NotRunning,
    RevisionGone,
    TimedOut,
)
from buswork.client.flipper import Board, BoardFacts, Event, Flipper, Holder
from buswork.client.signals import Signal, Signals
from buswork.client.store import Description, Hint, Lookup, Store, Swap
from buswork.client.watch import Change, Watch
from buswork.fsct.wire.terms import PlayerState, Status, TextId, Texts, Timeline

__all__ = [
    "AccessDenied",
    "AppView",
    "Board",
    "BoardFacts",
    "BusworkError",
    "Busy",
    "Change",
    "Client",
    "Daemon",
    "Description",
    "Disconnected",
    "Driver",
    "Event",
    "Facts",
    "Flipper",
    "Held",
    "Hint",
    "Holder",
    "InteractiveAuthorizationRequired",
    "InvalidArgs",
    "LimitsExceeded",
    "Lookup",
    "NoReply",
    "NotRunning",
    "PlayerState",
    "ProcessChange",
    "ProcessFacts",
    "RevisionGone",
    "Signal",
    "Signals",
    "Simulator",
    "Status",
    "Store",
    "Swap",
    "TextId",
    "Texts",
    "TimedOut",
    "Timeline",
    "ViewedProcess",
    "Watch",
    "WingState",
]

"""Questions to polkit. Only `buswork.authority` asks them.

Facts that decide this code, all seen on polkit 122: a service that is not root is answered
only for actions whose policy names it as owner; a rule that loops holds every question for
15 s; an agent may never answer; a one-shot approval by password looks exactly like a static
yes, unless the question was asked without letting polkit interact.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from buswork.bus.caller import NameTracker, Peer
from buswork.bus.library import Variant
from buswork.bus.message import Flag
from buswork.bus.transport import Connection
from buswork.bus.writer import close_all
from buswork.errors import BusworkError, TimedOut

NAME = "org.freedesktop.PolicyKit1"
PATH = "/org/freedesktop/PolicyKit1/Authority"
INTERFACE = "org.freedesktop.PolicyKit1.Authority"
ALLOW_USER_INTERACTION = 1

# How long a question may take. A looping rule is killed by polkit after 15 s, so a plain
# question that takes longer than 20 is lost; a person gets two minutes to find a password.
PLAIN_SECONDS = 20.0
INTERACTIVE_SECONDS = 120.0

_ABSENT = {
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.Disconnected",
}
_SPAWN_FAILED = "org.freedesktop.DBus.Error.Spawn."


class PolkitAbsent(Exception):
    """There is nobody to ask; whoever asks decides what that means (deny)."""


@dataclass(frozen=True, slots=True)
class Answer:
    authorized: bool
    challenge: bool
    # A yes that came by a temporary authorization ends when polkit says, not when we think.
    temporary: bool


Subject = str | Peer


def _subject(subject: Subject) -> tuple[str, dict[str, Variant]]:
    """D-Bus callers are named by their unique name, never by a pid that could be reused."""
    if isinstance(subject, str):
        return "system-bus-name", {"name": Variant("s", subject)}
    return "unix-process", {
        "pid": Variant("u", subject.pid),
        # 0: polkit reads the start time itself; /proc is hidden from us.
        "start-time": Variant("t", 0),
        "uid": Variant("i", subject.uid),
    }


class Polkit:
    """Asks polkitd, and tells when what it said may have changed."""

    def __init__(self, connection: Connection) -> None:
        self.questions = 0
        self._connection = connection
        self._tracker = NameTracker(connection, NAME)
        self._cancellation = itertools.count(1)

    async def start(self, on_change: Callable[[], None]) -> None:
        """Watches polkit; on_change is called when earlier answers may hold no longer."""
        self._tracker.on_change(on_change)
        await self._tracker.start()
        await self._tracker.listen(INTERFACE, "Changed", lambda _: on_change())

    async def ask(self, subject: Subject, action: str, *, interactive: bool) -> Answer:
        """One question, with its deadline; one that is given up is cancelled at polkit too."""
        self.questions += 1
        cancellation = f"buswork-{next(self._cancellation)}"
        try:
            frame = await self._connection.call(
                NAME,
                PATH,
                INTERFACE,
                "CheckAuthorization",
                "(sa{sv})sa{ss}us",
                (
                    _subject(subject),
                    action,
                    {},
                    ALLOW_USER_INTERACTION if interactive else 0,
                    cancellation,
                ),
                timeout=INTERACTIVE_SECONDS if interactive else PLAIN_SECONDS,
            )
            close_all(frame.fds)
            if frame.header.signature != "(bba{ss})":
                raise ValueError(f"an answer of type {frame.header.signature!r}")
            authorized, challenge, details = frame.values()[0]
        except TimedOut as error:
            self._cancel(cancellation)
            raise TimedOut(f"polkit did not answer for action {action}") from error
        except (ValueError, TypeError, IndexError) as error:
            raise BusworkError(f"polkit answered nonsense: {error}") from error
        except BusworkError as error:
            if error.name in _ABSENT or error.name.startswith(_SPAWN_FAILED):
                raise PolkitAbsent(str(error)) from error
            raise
        except BaseException:
            self._cancel(cancellation)
            raise
        return Answer(authorized, challenge, "polkit.temporary_authorization_id" in details)

    def _cancel(self, cancellation: str) -> None:
        """Sent without waiting: whoever gives up has no time left."""
        flags = Flag.NO_AUTO_START
        self._connection.tell(
            NAME, PATH, INTERFACE, "CancelCheckAuthorization", "s", (cancellation,), flags=flags
        )

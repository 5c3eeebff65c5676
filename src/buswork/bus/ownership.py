"""Things that clients hold: who, what, since when, and how to take them away.

Who creates a thing owns it, and it goes when its owner goes. The path of a held thing is a
handle below its wing's path; it need not be an exported object.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from buswork.bus.caller import Call, Callers, Peer
from buswork.errors import Gone, UnknownObject
from buswork.log import CLAIMED, RESET, SparingByUid, event

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Held:
    """One thing in somebody's hands."""

    path: str
    wing: str
    what: str
    uid: int
    client: str
    take_away: Callable[[], None]
    unwatch: Callable[[], None]
    since_unix_us: int = field(default_factory=lambda: time.time_ns() // 1000)


class Holdings:
    """All that is held, by path."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._held: dict[str, Held] = {}
        self._sparing = SparingByUid("claims")

    def all(self) -> list[Held]:
        return list(self._held.values())

    async def hold(
        self, call: Call, path: str, wing: str, what: str, take_away: Callable[[], None]
    ) -> Held:
        """The caller holds this from now on, until `let_go` or until it leaves the bus.

        take_away is called when the owner has left or somebody takes the thing by force; it
        must not fail. Raises Gone if the caller has left already.
        """
        left = False

        def owner_left() -> None:
            nonlocal left
            left = True
            self._held.pop(path, None)
            take_away()

        def unwatch() -> None:
            self._callers.unwatch(call.sender, owner_left)

        held = Held(path, wing, what, call.uid, call.sender, take_away, unwatch)
        await self._callers.watch(call.sender, owner_left)
        if left:  # between the bus's last word and now
            raise Gone(call.sender)
        return self._note(held)

    async def make(
        self, call: Call, wing: str, what: str, make: Callable[[], tuple[str, Callable[[], None]]]
    ) -> Held:
        """As `hold`, of a thing that is made when the caller is watched, and not before.

        make gives the path of what it made, and take_away; if it raises, nothing is held.
        """
        made: Held | None = None
        left = False

        def owner_left() -> None:
            nonlocal left
            left = True
            if made is not None:
                self._held.pop(made.path, None)
                made.take_away()

        def unwatch() -> None:
            self._callers.unwatch(call.sender, owner_left)

        await self._callers.watch(call.sender, owner_left)
        if left:  # between the bus's last word and now
            raise Gone(call.sender)
        try:
            path, take_away = make()
        except BaseException:
            unwatch()
            raise
        made = Held(path, wing, what, call.uid, call.sender, take_away, unwatch)
        return self._note(made)

    def hold_natively(
        self, peer: Peer, path: str, wing: str, what: str, take_away: Callable[[], None]
    ) -> Held:
        """As `hold`, for a native peer: whoever serves its connection lets go when that ends."""
        client = f"pid:{peer.pid}"
        return self._note(Held(path, wing, what, peer.uid, client, take_away, _nobody_watches))

    def _note(self, held: Held) -> Held:
        self._held[held.path] = held
        if self._sparing.allows(log, held.uid):
            event(
                log,
                CLAIMED,
                "claimed",
                path=held.path,
                thing=held.what,
                uid=held.uid,
                client=held.client,
            )
        return held

    def let_go(self, held: Held) -> None:
        """The owner has given it back."""
        if self._held.pop(held.path, None) is not None:
            held.unwatch()

    def force(self, path: str, call: Call) -> Held:
        """Takes a thing away from its owner, because somebody else asks for it."""
        held = self._held.get(path)
        if held is None:
            raise UnknownObject(f"nobody holds {path}")
        self.let_go(held)
        held.take_away()
        event(
            log,
            RESET,
            "taken away",
            path=path,
            thing=held.what,
            uid=call.uid,
            client=call.sender,
            owner_uid=held.uid,
            owner=held.client,
        )
        return held


def _nobody_watches() -> None:
    """Nothing is to be undone."""

"""What callers leave unread, and how not to be held up by it.

dbus-daemon counts a message against its sender until the receiver has read it, and when
127 MiB of a sender's messages lie unread it reads no more from that sender. So a single caller
that asks for a lot and reads nothing would silence the service for everybody. The bus has
figures on this (org.freedesktop.DBus.Debug.Stats; our bus policy lets us ask): how much of
ours lies unread in all, and how much waits for one receiver.

While little is unread one figure is asked for every megabyte sent. Past that, or when much was
sent that no figure has covered yet, we are *careful*: a caller is looked at before it is
answered, and one that leaves much unread is answered no more until it reads. dbus-broker
charges the receiver instead, has no such figures, and needs none of this.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from buswork.bus.transport import BUS, BUS_PATH, Connection
from buswork.errors import BusworkError, Disconnected, LimitsExceeded, TimedOut

log = logging.getLogger(__name__)

STATS = "org.freedesktop.DBus.Debug.Stats"

# Failures that say nothing about whether this bus has such figures for us.
PASSING = {TimedOut.name, LimitsExceeded.name, Disconnected.name}

# From here on callers are looked at one by one. Twice this, a full queue of ours and a turn of
# the reader still fit under the bus's 127 MiB.
CAREFUL_BYTES = 32 * 1024 * 1024
# So much may be sent, or be queued, before a figure has come that covers it.
UNCONFIRMED_BYTES = 24 * 1024 * 1024
# Past this signals are left out: who does not read those can't be told.
SILENT_BYTES = 80 * 1024 * 1024
# Past this a wing's own are, and no other's. Five wings together stay under CAREFUL_BYTES, and a
# burst of 20,000 signals under this.
PART_BYTES = 6 * 1024 * 1024
# Whoever has more than this unread is deaf. It shrinks to nothing while what lies unread in all
# grows to where broadcasts end, so that many who leave a little unread don't reach together what
# one may not reach alone.
DEAF_BYTES = 3 * 1024 * 1024
DEAF_PART = 16
# How long a look at a caller is good for, and how often the figure is asked for meanwhile.
LOOK_SECONDS = 0.1
# Who asks for much at once has much unread, and reads it. So nobody is deaf at the first look, but
# after so many more, at this distance.
MORE_LOOKS, AGAIN_SECONDS = 5, 0.1
# Looks that are remembered; without one it costs a question to the bus.
MAX_LOOKS = 1024


class Part:
    """Of one wing's signals: what lies unread, and what was sent since that was known; in bytes.

    The bus only says how much lies unread in all. When that grows, it is of those who sent
    meanwhile, and when it shrinks, all have their part in that.
    """

    __slots__ = ("sent", "unread")

    def __init__(self) -> None:
        self.sent = 0
        self.unread = 0.0

    @property
    def is_full(self) -> bool:
        return self.unread + self.sent > PART_BYTES


class Backlog:
    """Watches what lies unread on the bus."""

    def __init__(self, connection: Connection) -> None:
        self.careful = False
        self._connection = connection
        self._on_careful: Callable[[], None] = lambda: None
        self._unread = 0
        self._parts: dict[str, Part] = {}
        self._confirmed = 0
        self._has_figures = True
        self._task: asyncio.Task[None] | None = None
        # Until when a caller counts as one that reads, and who does not.
        self._hearing: dict[str, float] = {}
        self._deaf: set[str] = set()
        connection.writer.on_output = self.look

    def on_careful(self, callback: Callable[[], None]) -> None:
        """Calls back when callers must be looked at one by one from now on."""
        self._on_careful = callback

    def part(self, wing: str) -> Part:
        return self._parts.setdefault(wing, Part())

    def is_silent(self, part: Part | None = None) -> bool:
        """Whether a wing's signals, or those of all, should be left out for now."""
        if not (part is not None and part.is_full) and self._unread <= SILENT_BYTES:
            return False
        self._find_unread()
        return True

    def look(self) -> None:
        """Called after output; asks for the figure, and does not wait for it to be careful."""
        if self._has_figures and self._unconfirmed() > UNCONFIRMED_BYTES:
            self._be_careful()
        self._find_unread()

    def _find_unread(self) -> None:
        """Asks the bus; where that has no figures, it is what it does not take from us."""
        if not self._has_figures:
            self._set_unread(self._connection.writer.queued, self._output(), self._sent())
        elif self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    # -- callers -------------------------------------------------------------------------------

    def is_deaf(self, sender: str | None) -> bool:
        """Whether a caller was found not to read, when it was looked at last."""
        return sender in self._deaf

    def must_look(self, sender: str, now: float) -> bool:
        """Whether a caller has to be looked at before it is answered."""
        return self.careful and self._hearing.get(sender, 0.0) < now

    async def look_at(self, sender: str) -> bool:
        """Whether a caller reads what it is sent: in a while, if it has much of it just now."""
        unread = await self.unread(sender)
        for _ in range(0 if sender in self._deaf else MORE_LOOKS):
            if unread <= self._most_unread():
                break
            await asyncio.sleep(AGAIN_SECONDS)
            unread = await self.unread(sender)
        if unread > self._most_unread():
            if sender not in self._deaf:
                log.warning("%s leaves %d bytes unread; it is not answered", sender, unread)
            if len(self._deaf) >= MAX_LOOKS:
                self._deaf.clear()
            self._deaf.add(sender)
            self._hearing.pop(sender, None)
            return False
        self._deaf.discard(sender)
        if len(self._hearing) >= MAX_LOOKS:
            self._hearing.clear()
        self._hearing[sender] = time.monotonic() + LOOK_SECONDS
        return True

    def _most_unread(self) -> int:
        return min(DEAF_BYTES, max(0, SILENT_BYTES - self._unread) // DEAF_PART)

    async def unread(self, name: str) -> int:
        """What one caller leaves unread of what was sent before; 0 where nobody counts it."""
        return await self._figure(name, "OutgoingBytes")

    # -- figures -------------------------------------------------------------------------------

    def _output(self) -> int:
        return self._connection.writer.sent + self._connection.writer.queued

    def _unconfirmed(self) -> int:
        return self._output() - self._confirmed

    def _be_careful(self) -> None:
        self._hearing.clear()
        if not self.careful:
            self.careful = True
            self._on_careful()

    async def _watch(self) -> None:
        try:
            await self._update()
            while self.careful or any(part.is_full for part in self._parts.values()):
                await asyncio.sleep(LOOK_SECONDS)
                await self._update()
        finally:
            self._task = None

    async def _update(self) -> None:
        """The bus answers in order, so the figure covers all that was queued before."""
        output, sent = self._output(), self._sent()
        unread = await self._figure(self._connection.unique_name, "IncomingBytes")
        self._set_unread(unread, output, sent)
        if self._unread > CAREFUL_BYTES or self._unconfirmed() > UNCONFIRMED_BYTES:
            self._be_careful()
        else:
            self.careful = False
            self._deaf.clear()

    def _sent(self) -> dict[Part, int]:
        return {part: part.sent for part in self._parts.values()}

    def _set_unread(self, unread: int, output: int, sent: dict[Part, int]) -> None:
        """So much lies unread of what was output in all, and of what each wing sent, until then."""
        left = min(1.0, unread / max(self._unread, 1))
        added = min(1.0, max(0, unread - self._unread) / max(output - self._confirmed, 1))
        for part, size in sent.items():
            part.sent -= size
            part.unread = part.unread * left + size * added
        self._unread, self._confirmed = unread, output

    async def _figure(self, name: str, figure: str) -> int:
        """One figure on one connection; 0 for one that is gone, or where there are none."""
        try:
            frame = await self._connection.call(
                BUS, BUS_PATH, STATS, "GetConnectionStats", "s", (name,)
            )
            return int(frame.values()[0][figure].value)
        except BusworkError as error:
            if name == self._connection.unique_name and error.name not in PASSING:
                self._give_up(error)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._give_up(error)
        return 0

    def _give_up(self, error: Exception) -> None:
        self._has_figures = False
        log.debug("this bus has no figures on what lies unread: %s", error)

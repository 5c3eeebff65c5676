"""What logind tells: that the machine goes to sleep, and who sits at it."""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from buswork.bus.caller import NameTracker
from buswork.bus.codec import CodecError
from buswork.bus.message import Frame
from buswork.bus.objects import PROPERTIES
from buswork.bus.transport import Connection
from buswork.bus.writer import close_all
from buswork.errors import BusworkError

log = logging.getLogger(__name__)

NAME = "org.freedesktop.login1"
PATH = "/org/freedesktop/login1"
MANAGER = "org.freedesktop.login1.Manager"
SEAT = "org.freedesktop.login1.Seat"
SESSION = "org.freedesktop.login1.Session"

# logind answers from memory.
ANSWER_SECONDS = 5.0
# Seats that are looked at; a machine with one for each of its USB hubs has fewer.
MAX_SEATS = 32
# How often logind is asked whether the machine still sleeps, in a time that stands still while it
# does: word of waking may have been lost.
SLEEP_CHECK_SECONDS = 30.0


class Inhibitor:
    """While it is wanted, the machine lets us finish before it sleeps, for some seconds at most."""

    def __init__(self, connection: Connection, tracker: NameTracker) -> None:
        self._connection = connection
        self._tracker = tracker
        self._is_wanted = False
        self._fd: int | None = None  # logind's; what it stands for ends when it is closed
        self._asking: asyncio.Task[None] | None = None
        tracker.on_change(self._renew)

    def want(self, wanted: bool) -> None:
        if wanted is not self._is_wanted:
            self._is_wanted = wanted
            self._renew()

    def _renew(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if self._is_wanted and self._tracker.owner is not None:
            asking = self._ask(self._tracker.owner)
            self._asking = asyncio.get_running_loop().create_task(asking)

    async def _ask(self, owner: str) -> None:
        what = ("sleep", "buswork", "Displays go dark", "delay")
        try:
            frame = await self._connection.call(owner, PATH, MANAGER, "Inhibit", "ssss", what)
        except BusworkError as error:
            log.warning("the machine will not wait for the displays before it sleeps: %s", error)
            return
        if frame.header.signature == "h" and len(frame.fds) == 1:
            (self._fd,) = frame.fds
        else:
            log.warning("logind answers Inhibit with %s", frame.header.signature)
            close_all(frame.fds)


class Logind:
    """`seated` are the uids of the active sessions of all seats; None: there is no logind to say.

    A machine without seats, a server, has a logind and nobody who sits at it.
    """

    def __init__(self, connection: Connection) -> None:
        self.seated: frozenset[int] | None = None
        # Called with True before the machine sleeps, with False when it has woken up.
        self.on_sleep: list[Callable[[bool], None]] = []
        self.on_seated: list[Callable[[frozenset[int] | None], None]] = []
        self._connection = connection
        self._tracker = NameTracker(connection, NAME)
        self._inhibitor = Inhibitor(connection, self._tracker)
        self._is_sleeping = False
        self._sleep_signals = 0
        self._sleep_timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False

    async def start(self) -> None:
        self._tracker.on_change(self._look)
        await self._tracker.start()
        await self._tracker.listen(MANAGER, "PrepareForSleep", self._prepare_for_sleep)
        await self._tracker.listen(PROPERTIES, "PropertiesChanged", self._properties_changed)
        for member in ("SeatNew", "SeatRemoved"):
            await self._tracker.listen(MANAGER, member, lambda _: self._look())

    # -- sleep ---------------------------------------------------------------------------------

    def delay_sleep(self, wanted: bool) -> None:
        """Whether the machine, before it sleeps, is to let us finish what on_sleep begins."""
        self._inhibitor.want(wanted)

    def _prepare_for_sleep(self, frame: Frame) -> None:
        if frame.header.signature != "b":
            return
        (sleeping,) = frame.values()
        self._sleep_signals += 1
        self._set_sleeping(sleeping)

    def _set_sleeping(self, sleeping: bool) -> None:
        if sleeping is self._is_sleeping:
            return
        self._is_sleeping = sleeping
        if self._sleep_timer is not None:
            self._sleep_timer.cancel()
            self._sleep_timer = None
        if sleeping:
            self._check_later()
        log.info("the machine goes to sleep" if sleeping else "the machine woke up")
        for callback in self.on_sleep:
            callback(sleeping)

    def _check_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sleep_timer = loop.call_later(SLEEP_CHECK_SECONDS, self._check_again)

    def _check_again(self) -> None:
        self._look()
        self._check_later()

    async def _check_sleep(self) -> None:
        """Corrects what we missed, a signal or a whole logind."""
        if self._tracker.owner is None:
            self._set_sleeping(False)
            return
        signals = self._sleep_signals
        try:
            sleeping = await self._get(PATH, MANAGER, "PreparingForSleep", "b")
        except BusworkError as error:
            log.info("logind does not say whether the machine is awake: %s", error)
            return
        if signals == self._sleep_signals:  # else what it signalled since then is newer
            self._set_sleeping(sleeping)

    # -- who sits here -------------------------------------------------------------------------

    def _properties_changed(self, frame: Frame) -> None:
        """Of a seat; sessions change all the time."""
        path = frame.header.path or ""
        if path.startswith(f"{PATH}/seat/"):
            self._look()

    def _look(self) -> None:
        """Looks anew; once more if something changes meanwhile."""
        self._look_again = True
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._keep_looking())

    async def _keep_looking(self) -> None:
        try:
            while self._look_again:
                self._look_again = False
                await self._check_sleep()
                self._set_seated(await self._find_seated())
        finally:
            self._looking = None

    def _set_seated(self, seated: frozenset[int] | None) -> None:
        if seated != self.seated:
            self.seated = seated
            for callback in self.on_seated:
                callback(seated)

    async def _find_seated(self) -> frozenset[int] | None:
        if self._tracker.owner is None:
            return None
        try:
            (seats,) = await self._ask(PATH, MANAGER, "ListSeats", "a(so)")
        except BusworkError as error:
            log.info("logind does not say who sits here: %s", error)
            return None
        seated = set()
        for _, path in seats[:MAX_SEATS]:
            with suppress(BusworkError):  # the seat or its session has just gone
                _, session = await self._get(path, SEAT, "ActiveSession", "(so)")
                if session != "/":
                    uid, _ = await self._get(session, SESSION, "User", "(uo)")
                    seated.add(uid)
        return frozenset(seated)

    async def _get(self, path: str, interface: str, name: str, signature: str) -> Any:
        (value,) = await self._ask(path, PROPERTIES, "Get", "v", "ss", interface, name)
        if value.signature != signature:
            raise BusworkError(f"logind's {name} is of type {value.signature}")
        return value.value

    async def _ask(
        self,
        path: str,
        interface: str,
        member: str,
        expected: str,
        signature: str = "",
        *values: Any,
    ) -> Any:
        owner = self._tracker.owner or NAME
        answer = await self._connection.call(
            owner, path, interface, member, signature, values, timeout=ANSWER_SECONDS
        )
        close_all(answer.fds)
        try:
            if answer.header.signature != expected:
                raise BusworkError(f"logind answers {member} with {answer.header.signature}")
            return answer.values()
        except CodecError as error:
            raise BusworkError(f"logind's answer can't be read: {error}") from error

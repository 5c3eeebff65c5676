"""What a wing may ask about a caller or peer: is it allowed, is it within its quota?

This is the only door to polkit and to quotas, for D-Bus callers and native peers alike.
Whatever can't be answered means no.
"""

import asyncio
import contextlib
import logging
import select
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

from buswork.bus.caller import Callers, Peer
from buswork.bus.places import Places
from buswork.bus.polkit import INTERACTIVE_SECONDS, PLAIN_SECONDS, Answer, Polkit, PolkitAbsent
from buswork.bus.transport import Connection
from buswork.errors import (
    AccessDenied,
    BusworkError,
    Busy,
    Gone,
    InteractiveAuthorizationRequired,
    LimitsExceeded,
    TimedOut,
)
from buswork.log import DENIED, Sparing, SparingByUid, event

log = logging.getLogger(__name__)

# How long a plain yes is believed without asking again; an administrator's change of a rule
# is heard of at once (polkit's Changed), the end of a session within this time.
KEEP_SECONDS = 5.0
# How long before that time who still calls is asked about again.
RENEW_SECONDS = 1.0
# Decisions kept, over all callers; beyond that all are asked anew.
MAX_KEPT = 4096
# The bus lets us have 128 unanswered calls. 64 prompts and 32 plain questions leave 32 for
# everything else that we ask others.
PLACES_INTERACTIVE = 64
PLACES_INTERACTIVE_PER_UID = 4
PLACES_PLAIN = 32
# Of these one uid has half at the most: a rule that loops for it alone leaves others the rest.
PLACES_PLAIN_PER_UID = 16
# Plain questions that wait for a place. A looping rule holds the places for 15 s at most.
MAX_WAITING_PLAIN = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one uid may have at once; uid 0 too."""

    # Calls that wait for a prompt, a device or a peer. As many as a busy desktop program
    # keeps in flight, half of what the bus lets one connection have.
    calls: int = 64
    # Bytes of calls that wait for their turn: two of the largest messages that a bus carries.
    waiting_bytes: int = 64 * 1024 * 1024
    # Objects made for one uid; a quarter of a small machine's patience with ObjectManager.
    objects: int = 256
    watches: int = 64
    # Connections with keys that go with them: the bus lets us watch 512 clients in all.
    leases: int = 64
    # Descriptors handed out that we hold the other end of; eight such uids fit into 1,024.
    descriptors: int = 128
    # Connections to native sockets that wait for something; one answered at once never counts.
    # Each may hold a second descriptor, for its process.
    native_connections: int = 128


class Lease:
    """A counted thing; giving it back twice counts once."""

    __slots__ = ("_amount", "_key", "_quotas")

    def __init__(self, quotas: "Quotas", key: tuple[int, str], amount: int) -> None:
        self._quotas: Quotas | None = quotas
        self._key = key
        self._amount = amount

    def release(self) -> None:
        if self._quotas is not None:
            self._quotas.give_back(self._key, self._amount)
            self._quotas = None


class Quotas:
    """Counts per uid and kind; a count of nothing takes no memory."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._used: Counter[tuple[int, str]] = Counter()

    def take(self, uid: int, kind: str, amount: int = 1) -> Lease:
        limit: int = getattr(self.limits, kind)
        key = (uid, kind)
        if self._used[key] + amount > limit:
            if not self._used[key]:
                del self._used[key]
            name = kind.replace("_", " ")
            who = f"uid {uid}" if uid >= 0 else "all who are not known yet together"
            raise LimitsExceeded(f"{who} may have {limit} {name} at once, and has them")
        self._used[key] += amount
        return Lease(self, key, amount)

    def used(self, uid: int, kind: str) -> int:
        return self._used.get((uid, kind), 0)

    def give_back(self, key: tuple[int, str], amount: int) -> None:
        self._used[key] -= amount
        if self._used[key] <= 0:
            del self._used[key]


class _Question:
    """A plain question that several calls may wait for; given up when the last of them goes."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[Answer]) -> None:
        self.task = task
        self.waiting = 0

    async def answer(self) -> Answer:
        self.waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self.waiting -= 1
            if not self.waiting:
                self.task.cancel()


class Authority:
    """Asks polkit in two steps, keeps what may be kept, and bounds what is open."""

    def __init__(self, polkit: Polkit, callers: Callers, own_uid: int, limits: Limits) -> None:
        self.quotas = Quotas(limits)
        self.denials = 0
        self._peer_denials = SparingByUid("denials of native peers")
        self._refusals = Sparing("refusals of polkit to judge")
        self._polkit = polkit
        self._callers = callers
        self._own_uid = own_uid
        self._kept: dict[tuple[Hashable, str], float] = {}
        self._generation = 0
        self._on_change: list[Callable[[], None]] = []
        self._plain: dict[tuple[Hashable, str], _Question] = {}
        self._plain_places = Places(PLACES_PLAIN, PLACES_PLAIN_PER_UID)
        self._interactive: Counter[int] = Counter()

    @classmethod
    def over(
        cls, connection: Connection, callers: Callers, own_uid: int, limits: Limits
    ) -> "Authority":
        """The authority that asks the polkit of this bus."""
        return cls(Polkit(connection), callers, own_uid, limits)

    async def start(self) -> None:
        await self._polkit.start(self._forget_all)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Calls back when no earlier decision holds any longer."""
        self._on_change.append(callback)

    @property
    def questions(self) -> int:
        return self._polkit.questions

    def _forget_all(self) -> None:
        self._generation += 1
        self._kept.clear()
        for callback in self._on_change:
            callback()

    # -- deciding ------------------------------------------------------------------------------

    def allowed_until(self, sender: str, action: str) -> float:
        """Until when (monotonic) a yes holds without a word from here; 0: it must be asked.

        Who calls all the time is asked about again a little before a yes ends, so that its
        calls need not wait then.
        """
        until = self._kept.get((sender, action), 0.0)
        if not until:
            return 0.0
        now = time.monotonic()
        if now < until - RENEW_SECONDS:
            return until - RENEW_SECONDS
        if now < until:
            self._renew(sender, action)
            return until
        del self._kept[sender, action]
        return 0.0

    def _renew(self, sender: str, action: str) -> None:
        if len(self._plain) < MAX_WAITING_PLAIN:
            uid = self._callers.known_uid(sender)
            self._question(sender, -1 if uid is None else uid, action)

    async def require(self, sender: str, uid: int, action: str, *, interactive: bool) -> None:
        """Returns when the caller may do this; raises the error that it is to get."""
        if self.allowed_until(sender, action):
            return
        question = asyncio.create_task(self._decide(sender, uid, action, interactive))
        try:
            async with self._callers.until_gone(sender) as gone:
                await asyncio.wait((question, gone), return_when=asyncio.FIRST_COMPLETED)
            if not question.done():
                raise Gone(sender)
            question.result()
        except BusworkError as error:
            self._denied(sender, uid, action, error)
            raise
        finally:
            question.cancel()

    async def may(self, sender: str, uid: int, action: str) -> bool:
        """Whether the caller may, where a no is an answer and not an event: what it may read."""
        try:
            await self._decide(sender, uid, action, interactive=False)
        except BusworkError:
            return False
        return True

    def peer_is_known(self, peer: Peer, action: str) -> bool:
        """Whether a yes still holds for a native peer; that it lives is the caller's to know."""
        return self._kept.get((peer, action), 0.0) > time.monotonic()

    def forget_peer(self, peer: Peer) -> None:
        """The process ended: the next one with its pid is somebody else."""
        for key in [key for key in self._kept if key[0] == peer]:
            del self._kept[key]

    async def require_peer(self, peer: Peer, action: str) -> None:
        """The same for a native peer, whom nobody can ask for a password."""
        key = (peer, action)
        if self._kept.get(key, 0.0) > time.monotonic() and _is_alive(peer):
            return
        self._kept.pop(key, None)
        try:
            await self._decide(peer, peer.uid, action, interactive=False)
        except BusworkError as error:
            self._denied(f"pid:{peer.pid}", peer.uid, action, error, self._peer_denials)
            raise
        if not _is_alive(peer):
            self._kept.pop(key, None)
            raise AccessDenied(f"process {peer.pid} ended before polkit answered for {action}")

    async def _decide(self, who: str | Peer, uid: int, action: str, interactive: bool) -> None:
        try:
            answer = await self._ask_plain(who, uid, action)
            if answer.challenge and not answer.authorized:
                answer = await self._ask_person(who, uid, action, interactive)
        except PolkitAbsent as error:
            if uid in (0, self._own_uid):
                log.debug("polkit is absent; uid %d may %s all the same", uid, action)
                self._keep(who, action, self._generation)
                return
            raise AccessDenied(f"action {action}: polkit can't be asked ({error})") from error
        if not answer.authorized:
            raise AccessDenied(f"polkit does not allow action {action} to uid {uid}")

    async def _ask_plain(self, who: str | Peer, uid: int, action: str) -> Answer:
        """The question without interaction; equal ones that are open together are one."""
        if len(self._plain) >= MAX_WAITING_PLAIN:
            raise Busy(f"too many questions wait for polkit; {action} was not asked")
        return await self._question(who, uid, action).answer()

    def _question(self, who: str | Peer, uid: int, action: str) -> _Question:
        key = (who, action)
        question = self._plain.get(key)
        if question is None or question.task.cancelling():  # given up a moment ago
            question = _Question(asyncio.create_task(self._ask_plain_now(who, uid, action)))
            self._plain[key] = question
            question.task.add_done_callback(lambda task: self._answered(key, task))
        return question

    def _answered(self, key: tuple[Hashable, str], task: asyncio.Task[Answer]) -> None:
        question = self._plain.get(key)
        if question is not None and question.task is task:
            del self._plain[key]
        if not task.cancelled():
            task.exception()  # whoever waits has it; a renewal that failed is asked for anew

    async def _ask_plain_now(self, who: str | Peer, uid: int, action: str) -> Answer:
        generation = self._generation
        try:
            async with asyncio.timeout(PLAIN_SECONDS), self._plain_places.place(uid):
                answer = await self._polkit.ask(who, action, interactive=False)
        except TimeoutError:
            raise TimedOut(f"polkit did not answer for action {action}") from None
        except TimedOut:
            raise
        except BusworkError as error:
            raise self._refused(who, action, error) from error
        if answer.authorized and not answer.temporary:
            self._keep(who, action, generation)
        return answer

    async def _ask_person(
        self, who: str | Peer, uid: int, action: str, interactive: bool
    ) -> Answer:
        """The question that may open a prompt; its answer is never kept."""
        if not interactive:
            raise InteractiveAuthorizationRequired(
                f"action {action} needs a password; allow interaction and call again"
            )
        with self._interactive_place(uid, action):
            try:
                return await self._polkit.ask(who, action, interactive=True)
            except TimedOut:
                raise TimedOut(
                    f"nobody answered the prompt for action {action} in {INTERACTIVE_SECONDS:g} s"
                ) from None
            except BusworkError as error:
                raise self._refused(who, action, error) from error

    def _refused(self, who: str | Peer, action: str, error: BusworkError) -> AccessDenied:
        """What a caller learns when polkit answers with an error: no."""
        if isinstance(who, Peer) and not _is_alive(who):
            return AccessDenied(f"process {who.pid} ended before polkit answered for {action}")
        if self._refusals.allows(log):
            log.error("polkit refuses to judge %s: %s", action, error)
        return AccessDenied(f"polkit refuses to judge action {action}")

    @contextlib.contextmanager
    def _interactive_place(self, uid: int, action: str) -> Iterator[None]:
        if (
            self._interactive[uid] >= PLACES_INTERACTIVE_PER_UID
            or self._interactive.total() >= PLACES_INTERACTIVE
        ):
            raise Busy(f"too many prompts are open already; {action} was not asked")
        self._interactive[uid] += 1
        try:
            yield
        finally:
            self._interactive[uid] -= 1
            if not self._interactive[uid]:
                del self._interactive[uid]

    def _keep(self, who: str | Peer, action: str, generation: int) -> None:
        if generation != self._generation:
            return  # something changed while polkit was thinking
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[who, action] = time.monotonic() + KEEP_SECONDS

    def _denied(
        self,
        who: str,
        uid: int,
        action: str,
        error: BusworkError,
        sparing: SparingByUid | None = None,
    ) -> None:
        self.denials += 1
        if sparing is not None and not sparing.allows(log, uid):
            return
        event(log, DENIED, "denied", action=action, uid=uid, client=who, reason=error.name)


def _is_alive(peer: Peer) -> bool:
    """Whether the process still is the one that connected: its pidfd is not readable."""
    poll = select.poll()
    poll.register(peer.pidfd, select.POLLIN)
    return not poll.poll(0)

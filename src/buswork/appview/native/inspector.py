"""Asks processes and tells them: what the faces call.

Rules
* A process is asked through a descriptor of it that is opened for the question, and only if it is
  the one that is meant: numbers are used again.
* A configuration is looked at before anything is sent, and sent in the conversation in which the
  present one was read: nobody else speaks with the process in between.
* What a caller may is settled when he is let in: whoever came as the owner of a process (Asker)
  stays nothing but its owner.
* A scan asks those that its caller sees, each on the account of its own user: many of one user that
  do not answer hold up nobody else's.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Final

from buswork.appview import errors
from buswork.appview.model import Asker, Process, Processes, State
from buswork.appview.native import commands, owning, processes
from buswork.appview.native.commands import CommandFile
from buswork.appview.native.conversations import (
    MOST_LONG_MESSAGES,
    MOST_MESSAGES,
    Conversation,
    Conversations,
)
from buswork.appview.native.finding import Finder
from buswork.appview.native.target import Target
from buswork.appview.wire import configuration, requests
from buswork.appview.wire.configuration import Unusable
from buswork.appview.wire.frames import BadFrame
from buswork.appview.wire.requests import JSON, Request
from buswork.bus.places import Places
from buswork.errors import AccessDenied, BusworkError, LimitsExceeded
from buswork.native.rounds import Rounds

# A process that works answers within milliseconds; one that connects to somewhere is looked at
# again with the next scan. Nobody should wait seconds for all because of one; nor longer than
# this, which is before a caller gives up, for all that there are.
SCAN_SECONDS: Final = 0.5
WHOLE_SCAN_SECONDS: Final = 10.0
# Each is held open, by three descriptors. More than can be asked at once, for others may just have
# the queues of some.
SCANNED: Final = 512
SCANNED_PER_UID: Final = 128
# What a process says of itself: the longest, its id, has some 114 characters (protocol section 4).
MOST_FACT: Final = 128
# How often it is looked whether a process has read its file of commands. It does so once in its
# period, 10 seconds if nobody set another one; a busy one takes longer. The period is what the
# process says, so there is a limit.
LOOK_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 2.0
MOST_PERIOD_SECONDS: Final = 600


class Inspector:
    """All that can be done with viewed processes."""

    def __init__(self, known: Processes, conversations: Conversations) -> None:
        self._known = known
        self._conversations = conversations
        self._finder = Finder(known)
        self._scanned = Places(SCANNED, SCANNED_PER_UID)
        # By who scans what is his; None: everything.
        self._scans: dict[int | None, Rounds] = {}
        # The second of the last file of commands for a process: the next one has a later one.
        self._seconds: dict[tuple[int, int], int] = {}

    async def stop(self) -> None:
        for scan in [*self._scans.values()]:
            await scan.stop()
        await self._finder.stop()
        self._conversations.close()

    # -- finding -------------------------------------------------------------------------------

    @property
    def unreadable(self) -> int:
        return self._finder.unreadable

    async def scan(self, uid: int, *, of_all: bool) -> None:
        """Everything is looked at anew, and asked: all, or what is that user's own."""
        whose = None if of_all else uid
        rounds = self._scans.setdefault(whose, Rounds(partial(self._scan, whose)))
        try:
            await rounds.next()
        finally:
            if rounds.is_idle:
                self._scans.pop(whose, None)

    async def _scan(self, whose: int | None) -> None:
        await self._finder.look()
        found = self._known.by_pid.values()
        await self._learn_all([each for each in found if whose is None or each.owner == whose])

    async def look_for_new(self) -> None:
        """Those that came since the last look."""
        await self._learn_all(await self._finder.look_for_new())

    def ended(self, process: Process) -> None:
        self._known.forget(process)
        self._seconds.pop((process.pid, process.started_at), None)

    async def _learn_all(self, found: Iterable[Process]) -> None:
        """Of those that are not reached in time, what was known stays."""
        try:
            async with asyncio.timeout(WHOLE_SCAN_SECONDS):
                await asyncio.gather(*map(self._try_to_learn, found))
        except TimeoutError:
            pass

    async def _try_to_learn(self, process: Process) -> None:
        if process.state is State.SETUP:
            return
        try:
            async with self._scanned.place(process.uid):
                await self._learn(process)
        except LimitsExceeded:
            pass  # what is missing is missing here
        except BusworkError:
            # It is there and does not answer; or it has just ended, which the next look shows.
            self._known.learn(process, state=State.INERT)

    async def _learn(self, process: Process) -> None:
        with self._held(process) as target:
            async with self._conversations.speak(target, process.uid) as conversation:
                conversation.seconds = SCAN_SECONDS
                await self._learn_status(process, conversation)
                if not process.uuid:
                    details = await conversation.ask(requests.DETAILS)
                    facts = {name: _fact(details[name]) for name in ("uuid", "id", "machine_id")}
                    self._known.learn(process, **facts)

    async def _learn_status(self, process: Process, conversation: Conversation) -> JSON:
        answer = await conversation.ask(requests.STATUS)
        self._known.learn(process, state=State.ACTIVE if answer["viewed"] else State.LATENT)
        return answer

    # -- asking --------------------------------------------------------------------------------

    def owner(self, process: Process) -> int | None:
        """Whose own it is at this moment; None: nobody's. Of one that has ended, whose it was: he
        is told that it is gone, and not asked for what others may."""
        try:
            return self._owner_now(process)
        except errors.ProcessGone:
            return process.owner

    def _owner_now(self, process: Process) -> int | None:
        """ProcessGone: it has ended."""
        seen = self._finder.seen(process)
        try:
            now = None if seen is None else processes.look_again(seen)
            owner = None if now is None else owning.owner(now)
            # Of one that is just ending it does not show any more.
            has_ended = now is None or (owner is None and processes.look_again(now) is None)
        except OSError:
            owner, has_ended = None, False
        if has_ended:
            raise errors.ProcessGone(f"process {process.pid} has ended")
        self._known.learn(process, owner=owner)
        return owner

    async def ask(self, process: Process, asker: Asker, request: Request) -> JSON:
        is_long = request is requests.GET_CONFIGURATION
        most_messages = MOST_LONG_MESSAGES if is_long else MOST_MESSAGES
        async with self._conversation(process, asker, most_messages) as conversation:
            if request is requests.STATUS:
                return await self._learn_status(process, conversation)
            return await conversation.ask(request)

    async def set_configuration(self, process: Process, asker: Asker, text: str) -> None:
        """All of it; what is left out goes back to its default, but for protocols."""
        wanted = _parsed(text)
        async with self._conversation(process, asker, MOST_LONG_MESSAGES) as conversation:
            await self._send(conversation, wanted, await _current(conversation))

    async def merge_configuration(self, process: Process, asker: Asker, text: str) -> JSON:
        """Only what is named changes. Returns what the process has now."""
        changes = _parsed(text)
        async with self._conversation(process, asker, MOST_LONG_MESSAGES) as conversation:
            current = await _current(conversation)
            # What there are of protocols stays; those that are named come to them.
            wanted = configuration.merged({**current, "protocol": []}, changes)
            await self._send(conversation, wanted, current)
            return await _current(conversation)

    async def _send(self, conversation: Conversation, wanted: JSON, current: JSON) -> None:
        try:
            cfg = configuration.replacement(wanted, current)
        except Unusable as error:
            raise errors.BadConfiguration(str(error)) from error
        try:
            await conversation.ask(requests.SET_CONFIGURATION, cfg=cfg)
        except BadFrame as error:
            raise errors.BadConfiguration(f"it is too long: {error}") from error

    @asynccontextmanager
    async def _conversation(
        self, process: Process, asker: Asker, most_messages: int = MOST_MESSAGES
    ) -> AsyncIterator[Conversation]:
        with self._held(process) as target:
            async with self._asking(target, process, asker, most_messages) as conversation:
                yield conversation

    def _asking(
        self, target: Target, process: Process, asker: Asker, most_messages: int = MOST_MESSAGES
    ) -> AbstractAsyncContextManager[Conversation]:
        check = partial(self._check_still, process, asker)
        return self._conversations.speak(target, asker.uid, most_messages, check)

    def _check_still(self, process: Process, asker: Asker) -> None:
        """Whoever was let in because the process is his own has it as long as it is."""
        if asker.is_owner and self._owner_now(process) != asker.uid:
            raise AccessDenied(f"process {process.pid} is another program now")

    # -- attaching and detaching ---------------------------------------------------------------

    async def attach(self, process: Process, asker: Asker, settings: Mapping[str, str]) -> None:
        """Returns when the process has done it."""
        await self._command(process, asker, is_attached=True, settings=settings)

    async def detach(self, process: Process, asker: Asker) -> None:
        await self._command(process, asker, is_attached=False, settings={})

    async def _command(
        self, process: Process, asker: Asker, *, is_attached: bool, settings: Mapping[str, str]
    ) -> None:
        text = commands.lines(is_attached, settings)
        if process.state is State.SETUP:
            raise errors.Unsupported(
                f"process {process.pid} has the library and was never attached: that needs "
                f"ptrace, as in `appview attach {process.pid}`"
            )
        with self._held(process) as target:
            async with self._asking(target, process, asker) as conversation:
                period = await self._period(process, conversation)
            await self._write(target, process, asker, text, period + PATIENCE_SECONDS)
            async with self._asking(target, process, asker) as conversation:
                await self._learn_status(process, conversation)

    async def _period(self, process: Process, conversation: Conversation) -> int:
        try:
            return _period(await _current(conversation))
        except errors.NotAnswering as error:
            if process.state is not State.INERT:
                raise
            raise errors.NotAnswering(
                f"{error}; it may never have been attached: `appview attach {process.pid}` does it"
            ) from error

    async def _write(
        self, target: Target, process: Process, asker: Asker, text: bytes, seconds: float
    ) -> None:
        """Returns when the process has read it."""
        try:
            with commands.directory_of(target) as directory:
                self._check_still(process, asker)
                file = CommandFile(target, directory)
                with file.written(text, self._next_second(process)):
                    await _until_read(target, file, seconds)
        except FileExistsError:
            raise errors.FileTaken(
                f"there is a file {file.path} for process {process.pid} already, which it has not "
                "read yet"
            ) from None
        except TimeoutError:
            raise errors.NotAnswering(
                f"process {process.pid} has not read {file.path} within {seconds:g} seconds"
            ) from None
        except OSError as error:
            if target.has_ended:
                raise _not_read(target) from error
            raise AccessDenied(
                f"process {process.pid} can't be told: {error.strerror} (in /{commands.DIRECTORY})"
            ) from error

    def _next_second(self, process: Process) -> int:
        key = process.pid, process.started_at
        self._seconds[key] = max(int(time.time()), self._seconds.get(key, 0) + 1)
        return self._seconds[key]

    @contextmanager
    def _held(self, process: Process) -> Iterator[Target]:
        seen = self._finder.seen(process)
        if seen is None:
            raise errors.NoSuchProcess(f"process {process.pid} is gone")
        with ExitStack() as held:
            try:
                target = held.enter_context(processes.held(seen))
            except PermissionError as error:
                text = f"process {process.pid} can't be reached: {error.strerror}"
                raise AccessDenied(text) from error
            except (FileNotFoundError, ProcessLookupError) as error:
                raise errors.ProcessGone(f"process {process.pid} has ended") from error
            except OSError as error:
                text = f"process {process.pid} can't be held: {error.strerror}"
                raise LimitsExceeded(text) from error
            yield target


async def _until_read(target: Target, file: CommandFile, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while file.is_there():  # whoever reads it says nothing
            if target.has_ended:
                raise _not_read(target)
            await asyncio.sleep(LOOK_SECONDS)


def _not_read(target: Target) -> errors.ProcessGone:
    return errors.ProcessGone(f"process {target.pid} ended before it read a file")


def _fact(text: str) -> str:
    """What a process says of itself is kept, and shown to people."""
    return "".join(each if each.isprintable() else "?" for each in text[:MOST_FACT])


def _parsed(text: str) -> JSON:
    try:
        return configuration.parsed(text)
    except Unusable as error:
        raise errors.BadConfiguration(str(error)) from error


def _period(current: JSON) -> int:
    """In seconds; the default of who says something odd."""
    part = current.get("libappview")
    period = part.get("summaryperiod") if isinstance(part, dict) else None
    if type(period) is not int:
        period = configuration.DEFAULTS["libappview"]["summaryperiod"]
    return max(0, min(period, MOST_PERIOD_SECONDS))


async def _current(conversation: Conversation) -> JSON:
    answer = await conversation.ask(requests.GET_CONFIGURATION)
    current: JSON = answer["cfg"]["current"]
    return current

"""Finds processes, asks them and tells them: what the faces call.

Rules
* /proc is read in a thread: with thousands of processes it takes its time.
* A process is asked through a descriptor of it that is opened for the question, and only if it is
  the one that is meant: numbers are used again.
* A configuration is looked at before anything is sent, and sent in the conversation in which the
  present one was read: nobody else speaks with the process in between.
* What a caller may is settled when he is let in, so what asks and tells is no coroutine before that
  is noted: whoever came as the owner of a process stays nothing but its owner.
"""

import asyncio
import os
import select
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar

from buswork.appview import errors
from buswork.appview.model import Process, Processes, State
from buswork.appview.native import commands, owning, processes
from buswork.appview.native.commands import CommandFile
from buswork.appview.native.conversations import (
    MOST_LONG_MESSAGES,
    MOST_MESSAGES,
    Conversation,
    Conversations,
    Target,
)
from buswork.appview.native.processes import Seen
from buswork.appview.wire import configuration, requests
from buswork.appview.wire.configuration import Unusable
from buswork.appview.wire.frames import BadFrame
from buswork.appview.wire.requests import JSON, Request
from buswork.errors import AccessDenied, BusworkError

# A process that works answers within milliseconds; one that connects to somewhere is looked at
# again with the next scan. Nobody should wait seconds for all because of one.
SCAN_SECONDS: Final = 0.5
# How often it is looked whether a process has read its file of commands. It does so once in its
# period, 10 seconds if nobody set another one; a busy one takes longer.
LOOK_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 2.0


T = TypeVar("T")
Doing = Coroutine[Any, Any, T]


class _Asker(NamedTuple):
    """Who wants something of a process, and whether he was let in because it is his."""

    uid: int
    is_owner: bool


class Inspector:
    """All that can be done with viewed processes."""

    def __init__(self, known: Processes, conversations: Conversations) -> None:
        self._known = known
        self._conversations = conversations
        self._seen: dict[int, Seen] = {}
        # Who was looked at twice, and once.
        self._old: set[int] = set()
        self._young: set[int] = set()
        self._scanning: asyncio.Task[None] | None = None
        # The second of the last file of commands for a process: the next one has a later one.
        self._seconds: dict[tuple[int, int], int] = {}
        self.unreadable = 0

    async def stop(self) -> None:
        if self._scanning is not None:
            self._scanning.cancel()
            await asyncio.wait((self._scanning,))
        self._conversations.close()

    # -- finding -------------------------------------------------------------------------------

    async def scan(self, uid: int) -> None:
        """Everything is looked at anew. Who comes while this goes on waits for the same end."""
        if self._scanning is None or self._scanning.done():
            self._scanning = asyncio.create_task(self._scan(uid))
        await asyncio.shield(self._scanning)

    async def _scan(self, uid: int) -> None:
        found, self.unreadable, looked_at = await asyncio.to_thread(_scanned, frozenset())
        self._old, self._young = looked_at, set()
        self._known.keep_only({(seen.pid, seen.started_at) for seen, _ in found})
        self._seen.clear()
        await self._meet_all(found, uid)

    async def look_for_new(self, uid: int) -> None:
        """Those that came since the last look. Each is looked at twice: the first time, it may
        not have become the program yet that it was made for."""
        found, _, looked_at = await asyncio.to_thread(_scanned, frozenset(self._old))
        self._old, self._young = (self._old | self._young) & looked_at, looked_at - self._old
        await self._meet_all(found, uid)

    async def _meet_all(self, found: "list[tuple[Seen, int | None]]", uid: int) -> None:
        self._seen |= {seen.pid: seen for seen, _ in found}
        await asyncio.gather(*(self._meet(seen, owner, uid) for seen, owner in found))

    def ended(self, process: Process) -> None:
        self._known.forget(process)
        self._seen.pop(process.pid, None)
        self._seconds.pop((process.pid, process.started_at), None)

    async def _meet(self, seen: Seen, owner: int | None, uid: int) -> None:
        state = State.SETUP if seen.is_setup else State.INERT
        process = self._known.meet(
            Process(
                seen.pid, seen.started_at, seen.uid, owner, seen.name, seen.command, state=state
            )
        )
        if seen.is_setup:
            self._known.learn(process, state=State.SETUP)
            return
        try:
            await self._learn(process, uid)
        except BusworkError:
            # It is there and does not answer; or it has just ended, which the next look shows.
            self._known.learn(process, state=State.INERT)

    async def _learn(self, process: Process, uid: int) -> None:
        async with self._speaking(process, _Asker(uid, is_owner=False)) as conversation:
            conversation.seconds = SCAN_SECONDS
            await self._learn_status(process, conversation)
            if not process.uuid:
                details = await conversation.ask(requests.DETAILS)
                facts = {name: details[name] for name in ("uuid", "id", "machine_id")}
                self._known.learn(process, **facts)

    async def _learn_status(self, process: Process, conversation: Conversation) -> JSON:
        answer = await conversation.ask(requests.STATUS)
        self._known.learn(process, state=State.ACTIVE if answer["viewed"] else State.LATENT)
        return answer

    # -- asking --------------------------------------------------------------------------------

    def owner(self, process: Process) -> int | None:
        """Whose own it is at this moment; None: nobody's, or it is gone."""
        owner = _owner(self._seen.get(process.pid), process)
        self._known.learn(process, owner=owner)
        return owner

    def ask(self, process: Process, uid: int, request: Request) -> Doing[JSON]:
        return self._ask(process, _asker(process, uid), request)

    async def _ask(self, process: Process, asker: _Asker, request: Request) -> JSON:
        async with self._speaking(process, asker) as conversation:
            if request is requests.STATUS:
                return await self._learn_status(process, conversation)
            return await conversation.ask(request)

    def set_configuration(self, process: Process, uid: int, text: str) -> Doing[None]:
        """All of it; what is left out goes back to its default, but for protocols."""
        return self._set(process, _asker(process, uid), text)

    async def _set(self, process: Process, asker: _Asker, text: str) -> None:
        wanted = _parsed(text)
        async with self._speaking(process, asker, MOST_LONG_MESSAGES) as conversation:
            await self._send(conversation, wanted, await _current(conversation))

    def merge_configuration(self, process: Process, uid: int, text: str) -> Doing[JSON]:
        """Only what is named changes. Returns what the process has now."""
        return self._merge(process, _asker(process, uid), text)

    async def _merge(self, process: Process, asker: _Asker, text: str) -> JSON:
        changes = _parsed(text)
        async with self._speaking(process, asker, MOST_LONG_MESSAGES) as conversation:
            current = await _current(conversation)
            # What there are of protocols stays; those that are named come to them.
            wanted = configuration.merged({**current, "protocol": []}, changes)
            await self._send(conversation, wanted, current)
            return await _current(conversation)

    async def _send(self, conversation: Conversation, wanted: JSON, current: JSON) -> None:
        try:
            configuration.check(wanted)
            cfg = configuration.replacement(wanted, current)
        except Unusable as error:
            raise errors.BadConfiguration(str(error)) from error
        try:
            await conversation.ask(requests.SET_CONFIGURATION, cfg=cfg)
        except BadFrame as error:
            raise errors.BadConfiguration(f"it is too long: {error}") from error

    @asynccontextmanager
    async def _speaking(
        self, process: Process, asker: _Asker, most_messages: int = MOST_MESSAGES
    ) -> AsyncIterator[Conversation]:
        with self._held(process) as target:
            speaking = self._conversations.speak(target, asker.uid, most_messages)
            async with speaking as conversation:
                self._check_still(process, asker)
                yield conversation

    def _check_still(self, process: Process, asker: _Asker) -> None:
        """Whoever was let in because the process is his own has it as long as it is."""
        if asker.is_owner and self.owner(process) != asker.uid:
            raise AccessDenied(f"process {process.pid} is another program now")

    # -- attaching and detaching ---------------------------------------------------------------

    def attach(self, process: Process, uid: int, settings: Mapping[str, str]) -> Doing[None]:
        """Returns when the process has done it."""
        return self._command(process, _asker(process, uid), is_attached=True, settings=settings)

    def detach(self, process: Process, uid: int) -> Doing[None]:
        return self._command(process, _asker(process, uid), is_attached=False, settings={})

    async def _command(
        self, process: Process, asker: _Asker, *, is_attached: bool, settings: Mapping[str, str]
    ) -> None:
        text = commands.lines(is_attached, settings)
        if process.state is State.SETUP:
            raise errors.Unsupported(
                f"process {process.pid} has the library and was never attached: that needs "
                f"ptrace, as in `appview attach {process.pid}`"
            )
        with self._held(process) as target:
            async with self._conversations.speak(target, asker.uid) as conversation:
                self._check_still(process, asker)
                period = _period(await _current(conversation))
            with commands.root_of(process.pid) as root:
                self._check_still(process, asker)
                file = CommandFile(target, root)
                await self._write(process, file, text)
                await _until_read(target, file, period + PATIENCE_SECONDS)
            async with self._conversations.speak(target, asker.uid) as conversation:
                await self._learn_status(process, conversation)

    async def _write(self, process: Process, file: CommandFile, text: bytes) -> None:
        key = process.pid, process.started_at
        second = max(int(time.time()), self._seconds.get(key, 0) + 1)
        try:
            file.write(text, second)
        except FileExistsError:
            raise errors.FileTaken(
                f"there is a file {file.path} for process {process.pid} already, which it has not "
                "read yet"
            ) from None
        except OSError as error:
            raise AccessDenied(
                f"process {process.pid} can't be told: {error.strerror} ({file.path})"
            ) from error
        self._seconds[key] = second

    def _held(self, process: Process) -> "_Held":
        seen = self._seen.get(process.pid)
        if seen is None or seen.started_at != process.started_at:
            raise errors.NoSuchProcess(f"process {process.pid} is gone")
        return _Held(seen)


class _Held:
    """A process by its descriptors; as a context, with errors as callers are told."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._held = processes.held(seen)

    def __enter__(self) -> Target:
        try:
            return self._held.__enter__()
        except PermissionError as error:
            text = f"process {self._seen.pid} can't be reached: {error.strerror}"
            raise AccessDenied(text) from error
        except OSError as error:
            raise errors.ProcessGone(f"process {self._seen.pid} has ended") from error

    def __exit__(self, *failure: object) -> None:
        self._held.__exit__(None, None, None)


async def _until_read(target: Target, file: CommandFile, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while file.is_there():  # whoever reads it says nothing
                if select.select([target.pidfd], [], [], 0)[0]:
                    raise errors.ProcessGone(f"process {target.pid} ended before it read a file")
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        raise errors.NotAnswering(
            f"process {target.pid} has not read {file.path} within {seconds:g} seconds"
        ) from None
    finally:
        file.remove()


def _asker(process: Process, uid: int) -> _Asker:
    return _Asker(uid, process.owner == uid)


def _owner(seen: Seen | None, process: Process) -> int | None:
    try:
        now = None if seen is None else processes.look_again(seen)
    except OSError:
        return None
    return None if now is None or now.started_at != process.started_at else owning.owner(now)


def _scanned(but: frozenset[int]) -> "tuple[list[tuple[Seen, int | None]], int, set[int]]":
    """Whoever has the library, but for some, with whose own each is; how many could not be
    looked at; and who is there at all."""
    there = processes.pids()
    found, unreadable = processes.scan(there - but - {os.getpid()})
    return [(seen, owning.owner(seen)) for seen in found], unreadable, there


def _parsed(text: str) -> JSON:
    try:
        return configuration.parsed(text)
    except Unusable as error:
        raise errors.BadConfiguration(str(error)) from error


def _period(current: JSON) -> int:
    """In seconds; the default of who says something else."""
    part = current.get("libappview")
    period = part.get("summaryperiod") if isinstance(part, dict) else None
    return period if type(period) is int else configuration.DEFAULTS["libappview"]["summaryperiod"]


async def _current(conversation: Conversation) -> JSON:
    answer = await conversation.ask(requests.GET_CONFIGURATION)
    current: JSON = answer["cfg"]["current"]
    return current

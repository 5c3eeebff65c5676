"""Watch streams: pipes on which callers read every change as a line of JSON.

A stream keeps no queue of its own but a place in the store's history, so that a slow reader
costs a number, and a writer never waits for it. A reader that falls behind what the history
keeps is cut off.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable

from buswork.store.model.history import RevisionGone
from buswork.store.model.keys import visible
from buswork.store.model.store import Store
from buswork.store.wire.lines import Change, change_line, cut_line

# The most that a stream encodes and writes, or passes over, in one go; more changes than one
# SetMany makes, so that a reader who is prompt is never cut off by those of others. A pipe
# holds 64 KiB.
TURN_BYTES = 64 * 1024
TURN_CHANGES = 16 * 1024
# How long all streams together may go on before callers have their turn.
TURN_SECONDS = 0.002
# How long a reader that was cut off may take to read what it still has to read.
CUT_SECONDS = 5.0


class WatchStream:
    """One watcher's pipe; `reader` is the end that the caller gets."""

    def __init__(
        self, store: Store, uid: int, prefix: str, revision: int, on_end: Callable[[], None]
    ) -> None:
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._writer, False)
        self._store = store
        self._uid = uid
        self._prefix = prefix
        self._revision = revision
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._cut = False
        self._awaiting_room = False
        self._cut_timer: asyncio.TimerHandle | None = None
        # The writing end of a pipe is never readable; what wakes it is that the reader closed.
        self._loop.add_reader(self._writer, self.close)

    @property
    def is_open(self) -> bool:
        return self._writer >= 0

    def pump(self) -> None:
        """Writes what the reader has not got yet, as far as its pipe has room."""
        if not self.is_open:
            return
        if self._awaiting_room:
            self._notice_overrun()
            return
        try:
            self._pump()
        except BlockingIOError:
            self._await_room()
        except BrokenPipeError:
            self.close()

    def _pump(self) -> None:
        for _ in range(2):  # a second round only to find that there is nothing more
            if not self._rest:
                self._rest = self._next_lines()
            if not self._rest:
                break
            written = os.write(self._writer, self._rest)
            self._rest = self._rest[written:]
        if self._rest or self._revision < self._store.revision:
            self._await_room()
        elif self._cut:
            self.close()

    def _next_lines(self) -> bytes:
        """The lines of the next changes; nothing when the reader knows them all."""
        lines: list[bytes] = []
        size = 0
        for _ in range(TURN_CHANGES):
            if size >= TURN_BYTES or self._cut:
                break
            try:
                change = self._store.next_change(self._revision)
            except RevisionGone:
                lines.append(self._cut_off())
                break
            if change is None:
                break
            self._revision = change.revision
            if visible(change, self._uid, self._prefix):
                line = change_line(change)
                lines.append(line)
                size += len(line)
        return b"".join(lines)

    def _cut_off(self) -> bytes:
        line = cut_line(self._revision)
        self._cut = True
        self._revision = self._store.revision
        self._limit_time()
        return line

    def _notice_overrun(self) -> None:
        """A reader that reads nothing is let go as well, though no cut line reaches it."""
        if self._cut_timer is None:
            try:
                self._store.next_change(self._revision)
            except RevisionGone:
                self._limit_time()

    def _limit_time(self) -> None:
        if self._cut_timer is None:
            self._cut_timer = self._loop.call_later(CUT_SECONDS, self.close)

    def _await_room(self) -> None:
        self._awaiting_room = True
        self._loop.add_writer(self._writer, self._has_room)

    def _has_room(self) -> None:
        self._awaiting_room = False
        self._loop.remove_writer(self._writer)
        self.pump()

    def close_reader(self) -> None:
        """Closes our copy of the caller's end, once the caller has it (or never will)."""
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def close(self) -> None:
        if not self.is_open:
            return
        self._loop.remove_reader(self._writer)
        self._loop.remove_writer(self._writer)
        if self._cut_timer is not None:
            self._cut_timer.cancel()
        os.close(self._writer)
        self._writer = -1
        self._rest = b""
        self._on_end()


class WatchStreams:
    """All streams of the store; woken together once for any number of changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._streams: set[WatchStream] = set()
        self._waiting: deque[WatchStream] = deque()
        self._planned = False
        store.on_change.append(self._changed)

    def open(self, uid: int, prefix: str, revision: int, on_end: Callable[[], None]) -> WatchStream:
        def ended() -> None:
            self._streams.discard(stream)
            on_end()

        stream = WatchStream(self._store, uid, prefix, revision, ended)
        self._streams.add(stream)
        asyncio.get_running_loop().call_soon(stream.pump)
        return stream

    def _changed(self, change: Change) -> None:
        if self._streams and not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """A turn of all streams, in pieces between which others have theirs."""
        if not self._waiting:
            self._planned = False
            self._waiting.extend(self._streams)
        stop_at = time.monotonic() + TURN_SECONDS
        while self._waiting:
            self._waiting.popleft().pump()
            if time.monotonic() > stop_at and self._waiting:
                asyncio.get_running_loop().call_soon(self._pump)
                return
        if self._planned:
            asyncio.get_running_loop().call_soon(self._pump)

    def close(self) -> None:
        for stream in tuple(self._streams):
            stream.close()

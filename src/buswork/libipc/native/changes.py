"""Word that something came, went or changed in the run directories: a hint, and never often."""

import asyncio
import ctypes
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

log = logging.getLogger(__name__)

# Who makes files all the time is heard of so often.
REST_SECONDS: Final = 0.25

# linux/inotify.h: changed attributes, came, went, is gone itself; a directory or nothing.
_EVENTS: Final = 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
_ONLY_DIRECTORIES: Final = 0x01000000
_CHUNK: Final = 65_536

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Changes:
    """By inotify. What happens to a service that is killed happens to no file: that is no news."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            text = os.strerror(ctypes.get_errno())
            log.warning("changes of run directories will not be told: %s", text)
        else:
            self._loop.add_reader(self._fd, self._changed)

    def watch(self, directories: Iterable[str]) -> None:
        """Those that are there; to say it again finds those that were not, or were made anew."""
        if self._fd >= 0:
            for directory in directories:
                path = os.fsencode(directory)
                _libc.inotify_add_watch(self._fd, path, _EVENTS | _ONLY_DIRECTORIES)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _changed(self) -> None:
        self._timer = self._loop.call_later(REST_SECONDS, self._go_on)
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._read()
        self._on_change()

    def _go_on(self) -> None:
        self._timer = None
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._changed)

    def _read(self) -> None:
        # What they say does not matter. Of those that are left the next look hears.
        with suppress(BlockingIOError):
            os.read(self._fd, _CHUNK)

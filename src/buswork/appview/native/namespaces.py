"""Going into another IPC namespace, for as long as a queue is opened or unlinked there.

A thread has a namespace of its own (setns(2)), so there is one thread that goes; whatever it
opened works from every other. Should it not come back, it is never used again.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

CLONE_NEWIPC: Final = 0x08000000
# Of this thread, not of the process: that would be the main thread's.
OWN: Final = "/proc/thread-self/ns/ipc"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)


class Namespace(NamedTuple):
    """Which one it is, for as long as somebody is in it."""

    device: int
    inode: int


def namespace_of(fd: int) -> Namespace:
    found = os.fstat(fd)
    return Namespace(found.st_dev, found.st_ino)


def own_namespace() -> Namespace:
    found = os.stat(OWN)
    return Namespace(found.st_dev, found.st_ino)


class Traveller:
    """The thread that goes."""

    def __init__(self) -> None:
        self._thread = _new_thread()

    async def run(self, namespace_fd: int, work: Callable[[], T]) -> T:
        """The result of `work`, done in the namespace; OSError: we may not go there.

        Once begun it is done, also when nobody waits any more.
        """
        try:
            asked = asyncio.get_running_loop().run_in_executor(
                self._thread, _there_and_back, namespace_fd, work
            )
            return await asyncio.shield(asked)
        except _Lost as lost:
            self._thread.shutdown(wait=False)
            self._thread = _new_thread()
            raise OSError(lost.errno, f"there was no way back: {lost.strerror}") from lost

    def close(self) -> None:
        self._thread.shutdown(wait=True)


class _Lost(OSError):
    """The thread is in a namespace that is not ours."""


def _new_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "namespaces")


def _there_and_back(namespace_fd: int, work: Callable[[], T]) -> T:
    with closing(_Descriptor(os.open(OWN, os.O_RDONLY | os.O_CLOEXEC))) as home:
        _enter(namespace_fd)
        try:
            return work()
        finally:
            try:
                _enter(home.fd)
            except OSError as error:
                raise _Lost(error.errno, error.strerror) from error


class _Descriptor(NamedTuple):
    fd: int

    def close(self) -> None:
        os.close(self.fd)


def _enter(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWIPC):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

"""When a socket may be read, and when its peer has read what it was sent (section 3, rule 2).

An epoll of our own is one reader of the loop. A socket costs the loop nothing then until something
happens on it, and a busy one costs less than a reader of its own: what comes next is often there
when the last was answered, and the loop has not to go round for it. A bare echo has done 84,000
round trips/s with a reader for each socket, 78,000 with one epoll, and 111,000 with one that is
asked until it has nothing; in C it were 200,000.

What the kernel does when the peer reads a unix stream socket (all of it tried, Linux 6.18):
- EPOLLOUT with EPOLLET comes anew each time when a piece was read to its end and no more than a
  quarter of the send buffer is taken. So it always comes when the last piece is gone, and at once
  with the registration if the socket is writable then: to register and to look is no race.
- At that moment TIOCOUTQ may still be 1: the kernel tells first and then gives back the last byte.
  There is no other edge for that. Who wants to see 0 has to look again in the loop's next turn.
- A peek, and reading half a piece, change nothing. The peer's end is an edge too.
- TIOCOUTQ is 0 a moment before the peer's recv returns, and what is sent within that moment is
  taken in by the same recv: 1 of 50,000 messages of a queue in Python, 1 of 40 in C. See BOUNDARY.
"""

import asyncio
import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

# What one turn of the loop handles, so that others have theirs: about a millisecond, and less of it
# where it takes longer. And how much of it at a time, before it is looked whether something was
# added or closed meanwhile.
TURN_EVENTS: Final = 128
TURN_SECONDS: Final = 0.002
ROUND_EVENTS: Final = 16

_NO_WAITING: Final = 0
_READ: Final = select.EPOLLIN
_EDGES: Final = select.EPOLLOUT | select.EPOLLET
_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT

_TIOCOUTQ: Final = int(termios.TIOCOUTQ)
_INT: Final = struct.Struct("i")
_answer = bytearray(_INT.size)
_number = memoryview(_answer).cast("i")

# Called with what epoll said.
Handler = Callable[[int], None]


def outstanding(fd: int) -> int:
    """What the peer has not read yet, as the kernel counts: more than its bytes. 1: nearly done."""
    fcntl.ioctl(fd, _TIOCOUTQ, _answer, True)
    return _number[0]


class Poll:
    """Descriptors, and who is told when something happens on them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._is_held = True
        self.release()

    def read(self, fd: int, handler: Handler) -> None:
        """Told as long as there is something to read."""
        self._add(fd, handler, _READ)

    def read_once(self, fd: int, handler: Handler) -> None:
        """Told once; `again` is for the next time."""
        self._add(fd, handler, _ONCE)

    def again(self, fd: int) -> None:
        """Of one that was closed meanwhile, nothing is told any more."""
        try:
            self._epoll.modify(fd, _ONCE)
        except OSError:
            self._handlers.pop(fd, None)

    def watch(self, fd: int, handler: Handler) -> None:
        """Told when the peer has read something, when it is gone, and once at the beginning."""
        self._add(fd, handler, _EDGES)

    def _add(self, fd: int, handler: Handler, events: int) -> None:
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            with suppress(OSError):  # it is closed, and so forgotten by the kernel
                self._epoll.unregister(fd)

    def __contains__(self, fd: int) -> bool:
        return fd in self._handlers

    def hold(self) -> None:
        """Nobody is told anything until `release`; it waits in the kernel."""
        if not self._is_held:
            self._is_held = True
            self._loop.remove_reader(self._epoll.fileno())

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._loop.add_reader(self._epoll.fileno(), self.turn)

    def close(self) -> None:
        self.hold()
        self._handlers.clear()
        self._epoll.close()

    def turn(self) -> None:
        """Tells what has happened; the loop calls this when something has."""
        left, until = TURN_EVENTS, time.monotonic() + TURN_SECONDS
        while left > 0 and not self._is_held:
            # The kernel hands out those that are ready in turns: none comes before others.
            happened = self._epoll.poll(_NO_WAITING, ROUND_EVENTS)
            if not happened:
                return
            left -= len(happened)
            for fd, events in happened:
                handler = self._handlers.get(fd)
                if handler is None:  # it went meanwhile
                    continue
                try:
                    handler(events)
                except Exception as error:
                    # The others are told all the same: an edge comes once.
                    self._loop.call_exception_handler(
                        {"message": "a handler of libipc's events failed", "exception": error}
                    )
            if time.monotonic() > until:
                return


async def consumed(sock: socket.socket) -> None:
    """Until the peer has read all that it was sent, or is gone."""
    loop = asyncio.get_running_loop()
    poll, moved = Poll(loop), asyncio.Event()
    try:
        poll.watch(sock.fileno(), lambda events: moved.set())
        while left := outstanding(sock.fileno()):
            if left > 1:
                await moved.wait()
            moved.clear()
            await asyncio.sleep(0)
    finally:
        poll.close()


class Boundary:
    """What ends a message for a peer that takes for one what one recv brings (section 3).

    The kernel never joins a piece that has a descriptor with it and the next one, so that even
    what follows in the very moment in which the peer reads is not taken in. The originals read
    without room for descriptors: theirs goes before their recv returns, and they can't tell.
    """

    def __init__(self) -> None:
        # Whoever gets hold of it has the end of a pipe that nobody ever writes to.
        self._fd, writer = os.pipe()
        os.close(writer)
        self.ancillary = [(int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS), _INT.pack(self._fd))]

    def close(self) -> None:
        os.close(self._fd)

"""buswork-doors: every IP socket of the project, in a process with no rights of its own.

The daemon, which has none, connects to doors.sock (SOCK_SEQPACKET, a message each) for whatever it
wants of the network, and says in a line what that is: "udp HOST:PORT". The answer is "ok" with
the place that was found, "denied" or "error", and why. After "ok", messages pass both ways until
either side closes; or a descriptor came with it, over which they pass. Nobody but the daemon's user
is answered.

Exit status: 0 after SIGTERM or SIGINT; 1 when the daemon could not reach us, or not one door can be
opened and there is nothing else to do; 2 for wrong arguments.
"""

import argparse
import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from buswork import __version__, systemd
from buswork.errors import AccessDenied, BusworkError, InvalidArgs
from buswork.flipper import doors as flipper
from buswork.libipc import doors as libipc
from buswork.log import Sparing, add_level_option, escaped, set_up
from buswork.native.accept import Acceptor
from buswork.native.credentials import peer_of
from buswork.native.places import PlaceTaken, SocketFile
from buswork.native.users import uid_of

log = logging.getLogger(__name__)

# As the socket's unit calls it, and where it is.
LISTENER: Final = "doors"
PATH: Final = Path("/run/buswork/doors.sock")
# The daemon's user, as its unit has it.
DAEMON: Final = "buswork"
# From connecting to saying what is wanted; the daemon does both at once.
ASK_SECONDS = 5.0
ASK_BYTES = 4096


class Way(Protocol):
    """What the daemon asked for, until it is closed."""

    told: str
    # What the daemon gets together with the answer: its own copy, ours is closed.
    handed: socket.socket | None

    async def carry(self, daemon: socket.socket) -> None:
        """Returns when one of the ends is closed."""

    def close(self) -> None: ...


class WingDoors(Protocol):
    """What a wing has of IP sockets."""

    @property
    def opens(self) -> Mapping[str, Callable[[str], Awaitable[Way]]]:
        """By the first word of what the daemon asks; given the rest, it makes the way or raises."""

    async def start(self) -> list[str]:
        """Which doors can't be opened, and why: a port that is taken closes no other one."""

    @property
    def has_any(self) -> bool:
        """Whether any door is open, or the daemon may reach out to anything."""

    async def close(self) -> None: ...


class Doors:
    """All that the process does."""

    def __init__(self, wings: Sequence[WingDoors], daemon_uid: int) -> None:
        self._wings = wings
        self._opens = {word: make for wing in wings for word, make in wing.opens.items()}
        self._daemon_uid = daemon_uid
        self._acceptor = Acceptor()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sparing = Sparing("clients of the doors that were sent away")

    def __len__(self) -> int:
        return len(self._tasks)

    async def start(self, listeners: Sequence[socket.socket]) -> list[str]:
        """The listening sockets are ours from now on. Returns which doors can't be opened.

        OSError: none can, and there is nothing else to do."""
        troubles = [trouble for wing in self._wings for trouble in await wing.start()]
        for trouble in troubles:
            log.error("a door can't be opened: %s", trouble)
        if troubles and not any(wing.has_any for wing in self._wings):
            raise OSError("there is no other door")
        for listener in listeners:
            self._acceptor.open(listener, self._accept)
        return troubles

    async def close(self) -> None:
        self._acceptor.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for wing in self._wings:
            await wing.close()

    def _accept(self, accepted: socket.SocketType) -> None:
        sock = socket.socket(fileno=accepted.detach())
        uid = peer_of(sock).uid
        if uid != self._daemon_uid:
            if self._sparing.allows(log):
                log.warning("uid %d is not the daemon, and was sent away", uid)
            sock.close()
            return
        sock.setblocking(False)
        task = asyncio.create_task(self._serve(sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):  # it left; a timeout is one too
            try:
                way = await self._open(sock)
            except BusworkError as error:
                word = "denied" if isinstance(error, AccessDenied) else "error"
                await _say(sock, f"{word} {error}")
                return
            try:
                await _say(sock, f"ok {way.told}", way.handed)
                await way.carry(sock)
            finally:
                way.close()

    async def _open(self, sock: socket.socket) -> Way:
        async with asyncio.timeout(ASK_SECONDS):
            message = await asyncio.get_running_loop().sock_recv(sock, ASK_BYTES)
        word, _, rest = message.decode(errors="replace").rstrip("\n").partition(" ")
        if word not in self._opens:
            raise InvalidArgs(f"there are doors for {', '.join(self._opens)}, and not for {word!r}")
        return await self._opens[word](rest)


async def _say(sock: socket.socket, line: str, handed: socket.socket | None = None) -> None:
    message = escaped(line).encode() + b"\n"
    if handed is None:
        await asyncio.get_running_loop().sock_sendall(sock, message)
        return
    with handed:  # the first message of a connection has room
        socket.send_fds(sock, [message], [handed.fileno()], int(socket.MSG_NOSIGNAL))


# -- the command ---------------------------------------------------------------------------------


async def _serve(options: argparse.Namespace, wings: Sequence[WingDoors]) -> int:
    try:
        listeners, made = _listeners(options.socket)
    except (OSError, PlaceTaken) as error:
        log.critical("the daemon could not reach us: %s", error)
        systemd.notify(systemd.status(f"ended: {escaped(str(error))}"))
        return 1
    doors = Doors(wings, options.daemon)
    end = _end()
    try:
        troubles = await doors.start(listeners)
        log.info("hello, world: buswork-doors %s", __version__)
        closed = "".join(f"; closed: {trouble}" for trouble in troubles)
        systemd.notify("READY=1", systemd.status(f"serving{escaped(closed)}"))
        await _watch_until(end)
    except OSError as error:
        log.critical("a door can't be opened: %s", error)
        systemd.notify(systemd.status(f"ended: {escaped(str(error))}"))
        return 1
    finally:
        systemd.notify("STOPPING=1")
        if made is not None:
            made.remove()
        await doors.close()
    log.info("goodbye")
    return 0


def _listeners(path: Path) -> tuple[list[socket.socket], SocketFile | None]:
    passed = systemd.take_listen_fds().get(LISTENER, ())
    if passed:
        return [socket.socket(fileno=fd) for fd in passed], None
    made = SocketFile(path, 0o600, socket.SOCK_SEQPACKET)
    return [made.listener], made


def _end() -> asyncio.Event:
    """Set when we are told to end."""
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    return end


async def _watch_until(end: asyncio.Event) -> None:
    """Tells the manager that the loop turns, twice as often as it wants to hear it."""
    seconds = systemd.watchdog_seconds()
    while not end.is_set():
        systemd.notify("WATCHDOG=1")
        with suppress(TimeoutError):
            async with asyncio.timeout(None if seconds is None else seconds / 2):
                await end.wait()


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="buswork-doors",
        description="Has the IP sockets for busworkd, which has none: reaches out to what was "
        "allowed, and lets in who was named. Without options it does neither.",
        epilog="Exit status: 0 after SIGTERM, 1 when a socket can't be had, 2 for wrong arguments.",
    )
    parser.add_argument(
        "--daemon",
        type=uid_of,
        default=DAEMON,
        metavar="USER",
        help=f"the user that busworkd runs as, by name or number (default: {DAEMON})",
    )
    parser.add_argument(
        "--socket",
        type=Path,
        default=PATH,
        metavar="PATH",
        help=f"where busworkd asks, if systemd does not pass the socket (default: {PATH})",
    )
    parser.add_argument(
        "--serve-uid",
        action="append",
        default=[],
        type=uid_of,
        metavar="USER",
        help="whose programs of this machine may come in, by name or number (default: nobody's); "
        "may be repeated",
    )
    add_level_option(parser)
    flipper.add_options(parser)
    libipc.add_options(parser)
    parser.add_argument("--version", action="version", version=f"buswork-doors {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        wings: list[WingDoors] = [flipper.FlipperDoors(options), libipc.IpcDoors(options)]
    except libipc.Unsafe as error:
        parser.error(str(error))
    handler = set_up(options.log_level, "buswork-doors")
    try:
        return asyncio.run(_serve(options, wings))
    finally:
        handler.close()


if __name__ == "__main__":
    sys.exit(main())

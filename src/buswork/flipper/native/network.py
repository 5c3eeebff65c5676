"""Boards on the network: the daemon has no IP socket, so the doors process dials them."""

import asyncio
import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from buswork.errors import AccessDenied, BusworkError, InvalidArgs
from buswork.flipper.errors import AlreadyAttached, NotResponding
from buswork.flipper.model.boards import Board, Boards, Transport
from buswork.flipper.native.sessions import Sessions
from buswork.flipper.wire.endpoints import Endpoint, parse_endpoint
from buswork.flipper.wire.terms import BadValue

# Of fmr.sock too, as the units have it.
RUN_DIRECTORY: Final = Path("/run/buswork")
NAME: Final = "doors.sock"
# A name has to be looked up; longer than the doors process waits for that.
DIAL_SECONDS = 10.0
ANSWER_BYTES = 4096


class NoDoors(BusworkError):
    """The process that has the IP sockets is not there."""

    name = "org.flipper.Error.NoDoors"


def doors_path(socket_dirs: Sequence[Path] | None) -> Path:
    """Where the doors process is asked, on a host with its native sockets there."""
    return (socket_dirs[0] if socket_dirs else RUN_DIRECTORY) / NAME


class Network:
    def __init__(self, boards: Boards, sessions: Sessions, path: Path) -> None:
        """path: of the doors process's socket."""
        self._boards = boards
        self._sessions = sessions
        self._path = path
        # Two that speak with a board at once get each other's answers.
        self._attaching: set[str] = set()

    async def attach(self, endpoint: str) -> Board:
        """Stays until it is detached, or the doors process ends."""
        try:
            wanted = parse_endpoint(endpoint)
        except BadValue as error:
            raise InvalidArgs(str(error)) from error
        sock, key = await self._dialled(wanted)
        try:
            self._check_free(key)
        except BusworkError:
            sock.close()
            raise
        self._attaching.add(key)
        try:
            return await self._sessions.attach(key, sock)
        finally:
            self._attaching.discard(key)

    def detach(self, board: Board) -> None:
        if board.transport is not Transport.UDP:
            raise InvalidArgs(f"{board.name} is plugged in: unplug it, or lend it")
        self._sessions.detach(board.key)

    def _check_free(self, key: str) -> None:
        known = self._boards.by_key(key)
        if known is not None:
            raise AlreadyAttached(f"this board is attached, as {known.name}")
        if key in self._attaching:
            raise AlreadyAttached("this board is being attached")

    async def _dialled(self, endpoint: Endpoint) -> tuple[socket.socket, str]:
        """The way to it, and its key: one place has one, however it is called."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            sock.connect(str(self._path))
            async with asyncio.timeout(DIAL_SECONDS):
                said = await _asked(sock, f"udp {endpoint}")
            return sock, f"udp:{said}"
        except BaseException as error:
            sock.close()
            raise _named(error, endpoint) from error


async def _asked(sock: socket.socket, line: str) -> str:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, f"{line}\n".encode())
    answer = await loop.sock_recv(sock, ANSWER_BYTES)
    word, _, rest = answer.decode(errors="replace").rstrip("\n").partition(" ")
    if word == "ok":
        return rest
    if word == "denied":
        raise AccessDenied(rest)
    if word == "error":
        raise BusworkError(rest)
    raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")


def _named(error: BaseException, endpoint: Endpoint) -> BaseException:
    if isinstance(error, TimeoutError):
        return NotResponding(f"{endpoint} could not be dialled in time")
    if isinstance(error, OSError):
        return NoDoors(
            f"boards on the network are reached through buswork-doors, which is not there "
            f"({error.strerror}); to have it: systemctl enable --now buswork-doors"
        )
    return error

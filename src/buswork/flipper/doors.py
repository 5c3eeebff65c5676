"""Boards on the network, and ports of this machine behind which boards are: the wing's IP sockets.

Rules
* What is not on the list is not dialled, and of what is, nobody else is heard.
* A door is open to programs of this machine, and of those to users that were named. Whose a
  datagram is gets looked up for each one, and for each answer: ports change hands.
* Datagrams are passed on, or lost where there is no room, as on any network. An empty one is
  nothing in FMR, and would end a connection: it is lost too.
* Whoever is served has a socket at the door of his own: others can fill none but theirs.
"""

import argparse
import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from buswork.errors import AccessDenied, BusworkError, InvalidArgs, TimedOut
from buswork.flipper.wire.endpoints import Endpoint, parse_endpoint
from buswork.flipper.wire.greetings import OK, Greeting, is_name
from buswork.flipper.wire.terms import UDP_PORT, BadValue
from buswork.log import Sparing
from buswork.native.loopback import PortOwner, udp_owner

if TYPE_CHECKING:
    from buswork.sim.fvm import SimFvm

log = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
FMR_SOCKET: Final = "/run/buswork/fmr.sock"
# More than any datagram.
DATAGRAM_BYTES = 65536
RESOLVE_SECONDS = 5.0
# Programs that one user may have at a door; one more, and the one that was silent longest goes.
GUESTS_PER_UID = 16
# UDP has no end: who was silent for so long is forgotten, and welcome again.
SILENT_SECONDS = 60.0

_NOW = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

Address = tuple[str, int]
FindOwner = Callable[[str, int], PortOwner | None]


def passed_on(sock: socket.socket, message: bytes) -> bool:
    """Whether it went out; False: there is no room, and it is lost. Raises if nobody is there."""
    try:
        sock.send(message, _NOW)
    except BlockingIOError:
        return False
    return True


# -- boards on the network -----------------------------------------------------------------------


class FarBoard:
    """A board that was dialled."""

    def __init__(self, sock: socket.socket, endpoint: Endpoint) -> None:
        self.told = str(endpoint)  # where it is, by number
        self.handed: socket.socket | None = None
        self._socket = sock
        self._loop = asyncio.get_running_loop()

    async def carry(self, daemon: socket.socket) -> None:
        """Until the daemon ends it."""
        ended = self._loop.create_future()
        self._loop.add_reader(daemon, self._from_daemon, daemon, ended)
        self._loop.add_reader(self._socket, self._from_board, daemon)
        try:
            await ended
        finally:
            self._loop.remove_reader(daemon)
            self._loop.remove_reader(self._socket)

    def close(self) -> None:
        self._socket.close()

    def _from_daemon(self, daemon: socket.socket, ended: "asyncio.Future[None]") -> None:
        try:
            message = daemon.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message:
            with suppress(OSError):  # nobody listens there yet, or any more
                passed_on(self._socket, message)
        elif not ended.done():
            ended.set_result(None)

    def _from_board(self, daemon: socket.socket) -> None:
        with suppress(OSError):  # what it says when nobody listens, or that the daemon left
            message = self._socket.recv(DATAGRAM_BYTES)
            if message:
                passed_on(daemon, message)


async def dialled(endpoint: Endpoint) -> FarBoard:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found = await loop.getaddrinfo(*endpoint, type=socket.SOCK_DGRAM)
    except TimeoutError:
        raise TimedOut(f"nobody could say in time where {endpoint.host} is") from None
    except (OSError, UnicodeError) as error:
        raise InvalidArgs(f"{endpoint.host} is not to be found: {error}") from error
    # The protocol has IPv4 (section 13).
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(address)
    except OSError as error:
        sock.close()
        raise BusworkError(f"there is no way to {endpoint}: {error.strerror}") from error
    return FarBoard(sock, Endpoint(str(address[0]), endpoint.port))


# -- doors ---------------------------------------------------------------------------------------


class Guest:
    """A program at a door, and its connection to the daemon."""

    def __init__(self, door: "FmrDoor", address: Address, owner: PortOwner) -> None:
        self.address = address
        self.owner = owner
        self.heard_at = time.monotonic()
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._is_welcome = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(door.fmr_socket)
            passed_on(self._socket, bytes(Greeting(door.name, owner.uid)))
            self._program = door.connected(address)
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket, self._answered)
        self._loop.add_reader(self._program, door.hear, self._program)

    def say(self, message: bytes) -> None:
        self.heard_at = time.monotonic()
        try:
            passed_on(self._socket, message)
        except OSError:
            self._door.forget(self)

    def tell(self, message: bytes) -> None:
        with suppress(OSError):  # lost
            passed_on(self._program, message)

    def close(self) -> None:
        for sock in (self._socket, self._program):
            self._loop.remove_reader(sock)
            sock.close()

    def _answered(self) -> None:
        try:
            message = self._socket.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._door.forget(self)
        elif self._is_welcome:
            self._door.answer(self, message)
        else:
            self._is_welcome = True
            if message != OK:
                self._door.complain(self.owner.uid, message.decode(errors="replace").strip())


class FmrDoor:
    """A port behind which a board is, for the unmodified library: its "localhost"."""

    def __init__(
        self,
        name: str,
        uids: Collection[int],
        fmr_socket: str,
        find_owner: FindOwner = udp_owner,
    ) -> None:
        """name: of the board; fmr_socket: where the daemon is."""
        self.name = name
        self.fmr_socket = fmr_socket
        self._uids = frozenset(uids)
        self._find_owner = find_owner
        self._guests: dict[Address, Guest] = {}
        self._socket: socket.socket | None = None
        self._sparing = Sparing(f"complaints about programs at the door of {name}")

    def __len__(self) -> int:
        return len(self._guests)

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def open(self, port: int) -> Address:
        """OSError: it is taken."""
        sock = _at((LOOPBACK, port))
        _share(sock)  # only now: before, it could have been another's already
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self.hear, sock)
        address: Address = sock.getsockname()
        self._address = address
        return address

    def connected(self, address: Address) -> socket.socket:
        """A socket here that hears this address, and is the only one to do so."""
        sock = _at(self._address, shared=True)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        for guest in list(self._guests.values()):
            self.forget(guest)
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def answer(self, guest: Guest, message: bytes) -> None:
        if self._find_owner(*guest.address) != guest.owner:
            self.forget(guest)
        else:
            guest.tell(message)

    def forget(self, guest: Guest) -> None:
        if self._guests.get(guest.address) is guest:
            del self._guests[guest.address]
            guest.close()

    def complain(self, uid: int, why: object) -> None:
        if self._sparing.allows(log):
            log.warning("the door of %s: uid %d: %s", self.name, uid, why)

    def hear(self, sock: socket.socket) -> None:
        """One datagram; before it was connected, a guest's socket may have got others'."""
        try:
            message, address = sock.recvfrom(DATAGRAM_BYTES)
        except OSError:
            return
        guest = self._guest(address) if message else None
        if guest is not None:
            guest.say(message)

    def _guest(self, address: Address) -> Guest | None:
        """Whose datagram it is; None: nobody who is served."""
        owner = self._find_owner(*address)
        guest = self._guests.get(address)
        if guest is not None:
            if guest.owner == owner:
                return guest
            self.forget(guest)
        if owner is None:
            self.complain(-1, f"nobody knows who has port {address[1]}")
        elif owner.uid not in self._uids:
            self.complain(owner.uid, "is not served here (--serve-uid)")
        else:
            return self._welcome(address, owner)
        return None

    def _welcome(self, address: Address, owner: PortOwner) -> Guest | None:
        self._make_room(owner.uid)
        try:
            guest = self._guests[address] = Guest(self, address, owner)
        except OSError as error:
            self.complain(owner.uid, f"the daemon is not there: {error}")
            return None
        return guest

    def _make_room(self, uid: int) -> None:
        silent_since = time.monotonic() - SILENT_SECONDS
        for guest in list(self._guests.values()):
            if guest.heard_at < silent_since:
                self.forget(guest)
        theirs = [guest for guest in self._guests.values() if guest.owner.uid == uid]
        if len(theirs) >= GUESTS_PER_UID:
            self.forget(min(theirs, key=lambda guest: guest.heard_at))


def _at(address: Address, *, shared: bool = False) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if shared:
            _share(sock)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _share(sock: socket.socket) -> None:
    """Lets more sockets have its address, of this user alone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


# -- both, as the process runs them --------------------------------------------------------------


class FlipperDoors:
    """What was said on the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.opens: Mapping[str, Callable[[str], Awaitable[FarBoard]]] = {"udp": self._dial}
        self._allowed: set[Endpoint] = set(options.allow_board)
        self._simulated_port: int | None = options.simulate_board
        self._simulated: SimFvm | None = None
        self._doors = [
            (FmrDoor(name, options.serve_uid, options.fmr_socket), port)
            for name, port in options.fmr_door
        ]

    async def start(self) -> list[str]:
        """OSError: the simulated board's port is taken."""
        if self._simulated_port is not None:
            await self._simulate(self._simulated_port)
        troubles = []
        for door, port in self._doors:
            try:
                log.info("the board %s is at %s:%d", door.name, *door.open(port))
            except OSError as error:
                troubles.append(f"the door of the board {door.name} at port {port}: {error}")
        return troubles

    @property
    def has_any(self) -> bool:
        return bool(self._allowed) or any(door.is_open for door, _ in self._doors)

    async def close(self) -> None:
        for door, _ in self._doors:
            door.close()
        if self._simulated is not None:
            self._simulated.close()

    async def _dial(self, text: str) -> FarBoard:
        try:
            endpoint = parse_endpoint(text)
        except BadValue as error:
            raise InvalidArgs(str(error)) from error
        if endpoint not in self._allowed:
            raise AccessDenied(f"{endpoint} is no board that may be attached (--allow-board)")
        return await dialled(endpoint)

    async def _simulate(self, port: int) -> None:
        from buswork.sim.fvm import SimFvm

        self._simulated = SimFvm()
        await self._simulated.listen(LOOPBACK, port)
        self._allowed |= {Endpoint(host, port) for host in ("localhost", LOOPBACK)}


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Flipper boards")
    group.add_argument(
        "--allow-board",
        action="append",
        default=[],
        type=_endpoint,
        metavar="HOST[:PORT]",
        help="a board on the network that may be attached, written like this (default: none); "
        f"may be repeated (port: {UDP_PORT} if none is named)",
    )
    group.add_argument(
        "--fmr-door",
        action="append",
        default=[],
        type=_door,
        metavar="NAME[=PORT]",
        help="a board that can be reached over UDP from this machine, at this port (default: "
        f"{UDP_PORT}); may be repeated",
    )
    group.add_argument(
        "--fmr-socket",
        default=FMR_SOCKET,
        metavar="PATH",
        help=f"where the doors lead to (default: {FMR_SOCKET})",
    )
    group.add_argument(
        "--simulate-board",
        type=int,
        metavar="PORT",
        help="a simulated board at this port, which may be attached as localhost:PORT",
    )


def _endpoint(text: str) -> Endpoint:
    try:
        return parse_endpoint(text)
    except BadValue as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _door(text: str) -> tuple[str, int]:
    name, _, port = text.partition("=")
    port = port or str(UDP_PORT)
    if not is_name(name) or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=PORT")
    return name, int(port)

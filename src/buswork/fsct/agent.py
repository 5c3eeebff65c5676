"""buswork-agent: what a user's session gives to FSCT displays, in the user's own name.

FSCT is Ferrum Streaming Control Technology(TM). The agent registers the MPRIS players of the
session bus with the driver, and serves the user's own socket, $XDG_RUNTIME_DIR/fsct/fsct.sock.

Exit status: 0 after SIGTERM or SIGINT; 1 when the session bus is lost or can't be had, so that
systemd starts the agent afresh if the session goes on; 2 for wrong arguments; 3 when the driver
speaks another version, for then a fresh start helps nothing. A driver that ends is waited for.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from buswork import __version__, systemd
from buswork.bus.address import bus_address
from buswork.bus.transport import Connection
from buswork.client.endpoints import SYSTEM_SOCKET, USER_SOCKET
from buswork.client.fsct import IpcDriver, WrongVersion
from buswork.errors import BusworkError, TimedOut
from buswork.fsct.mpris import Players
from buswork.fsct.mpris_values import Shown
from buswork.fsct.playerctld import Playerctld
from buswork.fsct.relay import Relay, make_socket
from buswork.fsct.wire.protocol import ENDPOINT_VARIABLE
from buswork.fsct.wire.terms import TRACK_TEXTS
from buswork.log import Sparing, add_level_option, set_up
from buswork.native.places import SocketFile

log = logging.getLogger(__name__)

BUS_LOST = 1
WRONG_ARGUMENTS = 2
WRONG_VERSION = 3

# As the socket's unit calls it.
LISTENER = "fsct"
# After the driver refused something: it may have been for a limit, or a rule of polkit. Each pause
# is twice the one before; news of the player ends it, but none is shorter than the first.
REFUSED_SECONDS = 0.5
LONGEST_REFUSED_SECONDS = 30.0
# What the driver is still told at the end has so long.
GOODBYE_SECONDS = 2.0


# -- players, from the one bus to the other ------------------------------------------------------


class Patience:
    """Pauses after refusals, for each of the things that the driver may refuse."""

    def __init__(self) -> None:
        self._pause = REFUSED_SECONDS

    def reset(self) -> None:
        self._pause = REFUSED_SECONDS

    async def wait(self, news: asyncio.Event) -> None:
        await asyncio.sleep(REFUSED_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pause - REFUSED_SECONDS):
                await news.wait()
        self._pause = min(2 * self._pause, LONGEST_REFUSED_SECONDS)


class Mirror:
    """One player of the session bus, as a player of the driver."""

    def __init__(self, bridge: "Bridge", name: str) -> None:
        self.name = name
        self.handle: int | None = None
        self._bridge = bridge
        self._driver = bridge.driver
        self._wanted: Shown | None = None  # it has told nothing yet
        self._news = asyncio.Event()
        self._patience = Patience()
        self.task = asyncio.create_task(self._run())

    def show(self, shown: Shown) -> None:
        self._wanted = shown
        self._news.set()

    async def _run(self) -> None:
        try:
            while True:
                await self._register()
                self._bridge.choose_again()
                await self._follow()
                await self._unregister()
        finally:
            await self._unregister()

    async def _follow(self) -> None:
        """Shows what is new, until the driver does not even take the state as a whole: somebody
        may have unregistered the player."""
        sent: Shown | None = None
        is_new = True
        while True:
            while (wanted := self._wanted) is None or wanted is sent:
                self._news.clear()
                await self._news.wait()
            self._news.clear()
            try:
                await self._send(wanted, sent)
            except BusworkError as error:
                if isinstance(error, TimedOut):
                    self._complain(error)
                    await self._patience.wait(self._news)
                elif sent is None:
                    self._complain(error)
                    if is_new:  # then another one is hardly better
                        await self._patience.wait(self._news)
                    return
                sent = None  # who knows what of it has arrived
            else:
                sent = wanted
                is_new = False
                self._patience.reset()

    def _complain(self, error: BusworkError) -> None:
        self._bridge.complain("%s can't be shown: %s", self.name, error)

    async def _register(self) -> None:
        while True:
            self._news.clear()
            try:
                self.handle = await self._driver.register_player(self.name)
                return
            except TimedOut:
                continue  # there was no driver for a while
            except BusworkError as error:
                self._bridge.complain("%s is no player to the driver: %s", self.name, error)
                await self._patience.wait(self._news)

    async def _unregister(self) -> None:
        while self.handle is not None:
            try:
                await self._driver.unregister_player(self.handle)
            except TimedOut:
                continue
            except BusworkError:
                pass  # somebody did it already
            self.handle = None

    async def _send(self, wanted: Shown, sent: Shown | None) -> None:
        """What has changed; more than one thing at once, so that no display shows the halves."""
        driver, handle = self._driver, self.handle
        assert handle is not None
        is_status = sent is None or wanted.status is not sent.status
        is_timeline = sent is None or (
            (wanted.position, wanted.length_us) != (sent.position, sent.length_us)
        )
        texts = [
            text_id
            for text_id in TRACK_TEXTS.values()
            if sent is None or wanted.texts.get(text_id) != sent.texts.get(text_id)
        ]
        if is_status + is_timeline + len(texts) > 1:
            await driver.update_player_state(handle, wanted.state())
        elif is_status:
            await driver.update_player_status(handle, wanted.status)
        elif is_timeline:
            await driver.update_player_timeline(handle, wanted.timeline())
        elif texts:
            await driver.update_player_metadata(handle, texts[0], wanted.texts.get(texts[0]))


class Bridge:
    """Players here become players there; each is told of on its own, always the newest."""

    def __init__(self, driver: IpcDriver) -> None:
        self.driver = driver
        self._mirrors: dict[str, Mirror] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._sparing = Sparing("complaints about the driver")
        # The name that is to be preferred, and whose handle the driver was told.
        self._choice: str | None = None
        self._told: int | None = None
        self._telling: asyncio.Task[None] | None = None
        self._chosen_anew = asyncio.Event()

    def __len__(self) -> int:
        return len(self._mirrors)

    def appeared(self, name: str) -> None:
        self._mirrors[name] = Mirror(self, name)

    def changed(self, name: str, shown: Shown) -> None:
        self._mirrors[name].show(shown)

    def vanished(self, name: str) -> None:
        task = self._mirrors.pop(name).task
        task.cancel()
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Takes all players back, as far as the driver is there to hear it."""
        if self._telling is not None:
            self._telling.cancel()
        for name in tuple(self._mirrors):
            self.vanished(name)
        if self._leaving and self.driver.is_connected:
            await asyncio.wait(self._leaving, timeout=GOODBYE_SECONDS)

    def complain(self, text: str, *facts: object) -> None:
        if self._sparing.allows(log):
            log.warning(text, *facts)

    # -- the preferred one ---------------------------------------------------------------------

    def choose(self, name: str | None) -> None:
        """The driver is to prefer this player; None: no longer any of ours."""
        self._choice = name
        self.choose_again()

    def choose_again(self) -> None:
        """Tells the driver, if the choice, or its handle, is another one than it was told."""
        self._chosen_anew.set()
        is_telling = self._telling is not None and not self._telling.done()
        if not is_telling and self._chosen() != self._told:
            self._telling = asyncio.create_task(self._tell_choice())

    def _chosen(self) -> int | None:
        mirror = self._mirrors.get(self._choice) if self._choice is not None else None
        return mirror.handle if mirror is not None else None

    async def _tell_choice(self) -> None:
        patience = Patience()
        while (chosen := self._chosen()) != self._told:
            self._chosen_anew.clear()
            before, self._told = self._told, chosen
            is_there = any(mirror.handle == before for mirror in self._mirrors.values())
            if chosen is None and not is_there:
                continue  # the driver prefers it no longer, but perhaps another one that isn't ours
            try:
                await self.driver.set_preferred_player(chosen)
            except TimedOut:
                self._told = before
            except BusworkError as error:
                self._told = before
                self.complain("%s can't be preferred: %s", self._choice, error)
                await patience.wait(self._chosen_anew)


# -- the process ---------------------------------------------------------------------------------


class Agent:
    """One life of the agent."""

    def __init__(self, connection: Connection, endpoint: str, follows: bool) -> None:
        self._connection = connection
        self._driver = IpcDriver(endpoint)
        self._bridge = Bridge(self._driver)
        self._players = Players(connection, self._bridge)
        self._playerctld = Playerctld(connection, self._bridge.choose) if follows else None
        self._relay = Relay(lambda: IpcDriver(endpoint))
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        for listener in listeners:
            self._relay.open(listener)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, 0)
        self._connection.closed.add_done_callback(self._bus_lost)
        self._driver.start()
        await self._players.start()
        if self._playerctld is not None:
            await self._playerctld.start()

    async def run(self) -> int:
        """Goes on until told to stop; returns the exit status."""
        tasks = [asyncio.create_task(self._watch_driver()), asyncio.create_task(_watchdog())]
        status = await self._end
        systemd.notify("STOPPING=1", "STATUS=going down")
        for task in tasks:
            task.cancel()
        return status

    async def close(self) -> None:
        if self._playerctld is not None:
            self._playerctld.stop()
        self._players.stop()
        await self._relay.close()
        await self._bridge.close()
        await self._driver.close()
        self._connection.close()

    def _stop(self, status: int) -> None:
        if not self._end.done():
            self._end.set_result(status)

    def _bus_lost(self, closed: "asyncio.Future[Exception | None]") -> None:
        if not self._end.done():
            log.warning("the session bus is gone: %s", closed.result())
            self._stop(BUS_LOST)

    async def _watch_driver(self) -> None:
        """Says who is there, until a driver is there that we can't speak with."""
        try:
            while True:
                systemd.notify("STATUS=waiting for the driver")
                await self._driver.wait_connected()
                systemd.notify("STATUS=connected to the driver")
                log.info("connected to the driver")
                await self._driver.wait_disconnected()
                log.info("the connection to the driver is gone")
        except WrongVersion as error:
            log.critical("%s", error)
            self._stop(WRONG_VERSION)


async def _watchdog() -> None:
    """Tells the manager that the loop turns, twice as often as it wants to hear it."""
    seconds = systemd.watchdog_seconds()
    while seconds is not None:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(seconds / 2)


# -- the command ---------------------------------------------------------------------------------


async def _serve(options: argparse.Namespace) -> int:
    endpoint = _endpoint(options.driver)
    own = _own_path()
    if own is not None and _is_same(endpoint, own):
        log.critical("%s is the agent's own socket; the driver has another one", own)
        return WRONG_ARGUMENTS
    try:
        connection = await Connection.open(bus_address(options.session_bus))
    except (OSError, BusworkError, TimeoutError) as error:
        log.critical("no connection to the session bus: %s", error)
        return BUS_LOST
    passed = [socket.socket(fileno=fd) for fd in systemd.take_listen_fds().get(LISTENER, ())]
    made = [] if passed else _make_socket(own)
    agent = Agent(connection, endpoint, follows=options.follow is not None)
    try:
        await agent.start([*passed, *(file.listener for file in made)])
        log.info("hello, world: buswork-agent %s", __version__)
        systemd.notify("READY=1")
        status = await agent.run()
    except BusworkError as error:
        log.critical("%s", error)
        status = BUS_LOST
    finally:
        for file in made:
            file.remove()
        await agent.close()
    log.info("goodbye")
    return status


def _endpoint(named: str | None) -> str:
    """The driver's socket; not the first that a client would try, for that is ours."""
    return named or os.environ.get(ENDPOINT_VARIABLE, "").strip() or SYSTEM_SOCKET


def _is_same(endpoint: str, own: Path) -> bool:
    """Whether both lead to one socket; one that is not there yet lies in the same folder."""
    try:
        return os.path.samefile(endpoint, own)
    except OSError:
        return os.path.realpath(endpoint) == os.path.realpath(own)


def _own_path() -> Path | None:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime, USER_SOCKET) if runtime else None


def _make_socket(path: Path | None) -> list[SocketFile]:
    """The user's socket, where no systemd has made it."""
    if path is None:
        log.info("XDG_RUNTIME_DIR is not set: there is no socket of the user's")
        return []
    try:
        return [make_socket(path)]
    except (OSError, BusworkError) as error:
        log.error("there is no socket of the user's: %s", error)
        return []


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="buswork-agent",
        description="Shows this user's media players (MPRIS) on displays with Ferrum Streaming "
        "Control Technology(TM), and serves the user's own socket of their driver, "
        "$XDG_RUNTIME_DIR/fsct/fsct.sock.",
        epilog="Exit status: 0 after SIGTERM, 1 when the session bus is lost, 2 for wrong "
        "arguments, 3 when the driver speaks another version.",
    )
    parser.add_argument(
        "--session-bus",
        default="session",
        metavar="ADDRESS",
        help="the bus whose players are shown (default: $DBUS_SESSION_BUS_ADDRESS)",
    )
    parser.add_argument(
        "--driver",
        metavar="PATH",
        help=f"the driver's socket (default: ${ENDPOINT_VARIABLE}, else {SYSTEM_SOCKET})",
    )
    parser.add_argument(
        "--follow",
        choices=["playerctld"],
        metavar="playerctld",
        help="prefer the player that playerctld would control, the one last touched "
        "(default: displays prefer one that plays)",
    )
    add_level_option(parser)
    parser.add_argument("--version", action="version", version=f"buswork-agent {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    handler = set_up(options.log_level, "buswork-agent")
    try:
        return asyncio.run(_serve(options))
    finally:
        handler.close()


if __name__ == "__main__":
    sys.exit(main())

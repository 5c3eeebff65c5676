"""A process that puts wings on a bus, and takes them down again: busworkd, buswork-appview.

Exit status: 0 after SIGTERM or SIGINT; 1 when the bus, or our name on it, is lost or can't be
had, so that systemd starts us afresh; 2 for wrong arguments.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from buswork import __version__, systemd
from buswork.authority import Authority, Limits
from buswork.bus.address import bus_address
from buswork.bus.caller import Call, Callers
from buswork.bus.export import Edge
from buswork.bus.library import Variant, variant
from buswork.bus.logind import Logind
from buswork.bus.message import Frame
from buswork.bus.objects import Face
from buswork.bus.ownership import Holdings
from buswork.bus.transport import BUS, Connection
from buswork.errors import BusworkError, InvalidArgs
from buswork.host import Host, Kind, Wing
from buswork.log import (
    CONFIGURED,
    LEVELS,
    add_level_option,
    escaped,
    event,
    level_name,
    set_up,
)

log = logging.getLogger(__name__)

DAEMON_PATH = "/org/buswork"
LOG_CONTROL_PATH = "/org/freedesktop/LogControl1"
API_VERSION = 1

# RequestName: do not wait in line for the name, and let nobody take it from us.
DO_NOT_QUEUE = 4
PRIMARY_OWNER = 1

# How long calls in flight may go on after SIGTERM; the unit's TimeoutStopSec is longer.
DRAIN_SECONDS = 5.0
# All that came later is looked through ten times as seldom as is usual: with as many players as
# there may be it takes 60 ms. What has become garbage by then takes 70 MiB at the most.
GARBAGE_LOOKS = 100


Maker = Callable[[Host], Wing]


@dataclasses.dataclass(frozen=True)
class Program:
    """What one such process is."""

    # Its command, which it is called in the log too.
    name: str
    bus_name: str
    description: str
    wings: Mapping[str, Kind]
    # Its own options, and what they say of the Host.
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    surroundings: Callable[[argparse.Namespace], dict[str, Any]] = lambda options: {}


class DaemonFace(Face):
    interface = "org.buswork.Daemon"

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon
        self.epoch = daemon.epoch.hex()
        self.version = __version__
        self.api_version = API_VERSION
        limits = daemon.limits
        self.max_calls_per_uid = limits.calls
        self.max_objects_per_uid = limits.objects
        self.max_watches_per_uid = limits.watches
        self.max_descriptors_per_uid = limits.descriptors

    def list_clients(self, call: Call) -> list[dict[str, Variant]]:
        return [
            {
                "path": variant("o", held.path),
                "wing": variant("s", held.wing),
                "what": variant("s", held.what),
                "uid": variant("u", held.uid),
                "client": variant("s", held.client),
                "since_unix_us": variant("t", held.since_unix_us),
            }
            for held in self._daemon.holdings.all()
        ]

    def force_release(self, call: Call, path: str) -> None:
        self._daemon.holdings.force(path, call)

    @property
    def wings(self) -> dict[str, tuple[str, str]]:
        return self._daemon.states

    @property
    def statistics(self) -> dict[str, int]:
        return self._daemon.statistics()


class LogControlFace(Face):
    """org.freedesktop.LogControl1, which `systemctl service-log-level` uses."""

    interface = "org.freedesktop.LogControl1"

    def __init__(self, identifier: str, target: str) -> None:
        self.syslog_identifier = identifier
        self.log_target = target

    @property
    def log_level(self) -> str:
        return level_name(logging.getLogger().level)

    def set_log_level(self, call: Call, level: str) -> None:
        if level not in LEVELS:
            raise InvalidArgs(f"no such level: {level}; there are {', '.join(LEVELS)}")
        logging.getLogger().setLevel(LEVELS[level])
        event(
            log,
            CONFIGURED,
            "log level set",
            path=LOG_CONTROL_PATH,
            level=level,
            uid=call.uid,
            client=call.sender,
        )


class Daemon:
    """One life of the daemon, from the connection to the last reply."""

    def __init__(
        self,
        program: Program,
        connection: Connection,
        limits: Limits,
        log_target: str,
        **surroundings: Any,
    ) -> None:
        """surroundings: what is known of the Host beyond what is made here."""
        self.program = program
        self.epoch = secrets.token_bytes(16)
        self.connection = connection
        self.limits = limits
        self.states: dict[str, tuple[str, str]] = dict.fromkeys(program.wings, ("off", ""))
        callers = Callers(connection)
        self.authority = Authority.over(connection, callers, os.geteuid(), limits)
        self.edge = Edge(connection, callers, self.authority)
        self.holdings = Holdings(callers)
        self.logind = Logind(connection)
        self.host = Host(
            self.edge, self.authority, self.holdings, self.logind, self.epoch, **surroundings
        )
        self._log_target = log_target
        self._wings: list[tuple[str, Wing]] = []
        self._started_at = time.monotonic()
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self, makers: Mapping[str, Maker]) -> None:
        """Everything is exported before the name is ours: no half-started object answers."""
        self._handle_signals()
        await self.authority.start()
        await self.logind.start()
        self.edge.export(DAEMON_PATH, DaemonFace(self), wing=DAEMON_PATH)
        log_control = LogControlFace(self.program.name, self._log_target)
        self.edge.export(LOG_CONTROL_PATH, log_control, wing=DAEMON_PATH)
        for name, make in makers.items():
            await self._start_wing(name, make)
        self.connection.listen(BUS, "NameLost", self._name_lost, sender=BUS)
        self.connection.closed.add_done_callback(self._bus_lost)
        name = self.program.bus_name
        (answer,) = await self.connection.call_bus("RequestName", "su", (name, DO_NOT_QUEUE))
        if answer != PRIMARY_OWNER:
            raise BusworkError(f"somebody else has the name {name} on this bus")

    async def _start_wing(self, name: str, make: Maker) -> None:
        host = dataclasses.replace(self.host, lacking=[])
        try:
            wing = make(host)
            await wing.start()
        except Exception as error:
            log.exception("the wing %s could not start", name)
            # What comes from file names need be no text that the bus takes.
            self.states[name] = ("failed", escaped(str(error) or type(error).__name__))
        else:
            self._wings.append((name, wing))
            self.states[name] = ("running", escaped("; ".join(host.lacking)))

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, 0)
        loop.add_signal_handler(signal.SIGHUP, log.info, "SIGHUP: there is nothing to reload")

    # -- the end -------------------------------------------------------------------------------

    async def run(self) -> int:
        """Serves until told to stop; returns the exit status."""
        with _watchdog(asyncio.get_running_loop()):
            status = await self._end
        systemd.notify("STOPPING=1", "STATUS=going down")
        # Without a bus there is nobody to answer.
        await self.edge.drain(DRAIN_SECONDS if self.connection.is_open else 0.0)
        for _, wing in reversed(self._wings):
            await wing.stop(for_good=status == 0)
        await self.connection.writer.drain(DRAIN_SECONDS)
        self.connection.close()
        return status

    def _stop(self, status: int) -> None:
        if not self._end.done():
            self._end.set_result(status)

    def _name_lost(self, frame: Frame) -> None:
        if list(frame.values()) == [self.program.bus_name]:
            log.critical("the name %s was lost", self.program.bus_name)
            self._stop(1)

    def _bus_lost(self, closed: "asyncio.Future[Exception | None]") -> None:
        if not self._end.done():
            log.critical("the bus is gone: %s", closed.result())
            self._stop(1)

    # -- facts ---------------------------------------------------------------------------------

    def statistics(self) -> dict[str, int]:
        return {
            "calls": self.edge.dispatcher.calls,
            "errors": self.edge.dispatcher.errors,
            "denied": self.authority.denials,
            "questions": self.authority.questions,
            "signals": self.edge.signals,
            "dropped_signals": self.edge.dropped_signals,
            "bytes_in": self.connection.bytes_in,
            "bytes_out": self.connection.writer.sent,
            "resident_bytes": _resident_bytes(),
            "uptime_us": int((time.monotonic() - self._started_at) * 1_000_000),
        }


@contextlib.contextmanager
def _watchdog(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Tells the manager that the loop turns, twice as often as it wants to hear it."""
    seconds = systemd.watchdog_seconds()
    timer: asyncio.TimerHandle | None = None

    def tick() -> None:
        nonlocal timer
        assert seconds is not None
        systemd.notify("WATCHDOG=1")
        timer = loop.call_later(seconds / 2, tick)

    if seconds is not None:
        tick()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


async def _serve(program: Program, options: argparse.Namespace, log_target: str) -> int:
    try:
        connection = await Connection.open(bus_address(options.bus))
    except (OSError, BusworkError, TimeoutError) as error:
        log.critical("no connection to the bus %s: %s", options.bus, error)
        return 1
    surroundings = program.surroundings(options)
    daemon = Daemon(program, connection, options.limits[""], log_target, **surroundings)
    wings = {name: program.wings[name] for name in options.wings}
    try:
        await daemon.start({name: _maker(name, kind, options) for name, kind in wings.items()})
    except BusworkError as error:
        log.critical("%s", error)
        systemd.notify(systemd.status(f"ended: {escaped(str(error))}"))
        connection.close()
        return 1
    names = _running(daemon.states)
    log.info("hello, world: %s %s serves %s", program.name, __version__, names)
    systemd.notify("READY=1", systemd.status(f"serving {names}{_troubles(daemon.states)}"))
    _look_for_garbage_seldom()
    status = await daemon.run()
    log.info("goodbye")
    return status


def _running(states: Mapping[str, tuple[str, str]]) -> str:
    return ", ".join(name for name, (state, _) in states.items() if state == "running") or "nothing"


def _troubles(states: Mapping[str, tuple[str, str]]) -> str:
    """For `systemctl status`: which wings could not start, or what they do without."""
    told = (f"; {name} {state}: {reason}" for name, (state, reason) in states.items() if reason)
    return "".join(told)


def _look_for_garbage_seldom() -> None:
    """Everybody waits while Python looks for garbage. What was imported and made by now is never
    any: to look through it would take 25 ms each time."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, GARBAGE_LOOKS)


def _maker(name: str, kind: Kind, options: argparse.Namespace) -> Maker:
    return lambda host: kind.make(host, options.limits[name], options)


class _LimitAction(argparse.Action):
    """--limit calls=1000 or store.keys_per_uid=1000000: lifts one limit."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        options: argparse.Namespace,
        text: Any,
        option: str | None = None,
    ) -> None:
        name, _, number = str(text).partition("=")
        if name not in _limit_names(options.limits) or not number.isdecimal():
            names = ", ".join(_limit_names(options.limits))
            parser.error(f"--limit takes NAME=NUMBER with NAME one of {names}")
        wing, _, field = name.rpartition(".")
        lifted = dataclasses.replace(options.limits[wing], **{field: int(number)})
        options.limits = {**options.limits, wing: lifted}


def _limit_names(limits: Mapping[str, Any]) -> list[str]:
    """Those of the daemon by their name, those of a wing with the wing's name in front."""
    return [
        f"{wing}.{field.name}" if wing else field.name
        for wing, all_ in limits.items()
        for field in dataclasses.fields(all_)
    ]


def make_parser(program: Program) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program.name,
        description=program.description,
        epilog="Exit status: 0 after SIGTERM, 1 when the bus or the name is lost, 2 for wrong "
        "arguments.",
    )
    parser.add_argument(
        "--bus",
        default="system",
        metavar="system|session|ADDRESS",
        help="which bus to serve (default: system)",
    )
    add_level_option(parser)
    parser.add_argument(
        "--limit",
        dest="limits",
        action=_LimitAction,
        default={"": Limits(), **{name: kind.limits() for name, kind in program.wings.items()}},
        metavar="NAME=NUMBER",
        help="lift a quota per uid, for benches; may be repeated",
    )
    parser.set_defaults(wings=list(program.wings))
    program.add_options(parser)
    for kind in program.wings.values():
        kind.add_options(parser)
    parser.add_argument("--version", action="version", version=f"{program.name} {__version__}")
    return parser


def main(program: Program, arguments: Sequence[str] | None = None) -> int:
    options = make_parser(program).parse_args(arguments)
    handler = set_up(options.log_level, program.name)
    try:
        return asyncio.run(_serve(program, options, handler.target))
    finally:
        handler.close()

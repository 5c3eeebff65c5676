"""Viewed processes for the bench, simulated and bare, and the service that asks them."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from edge_rig import BUS_CONFIGURATION, HERE, SOURCES, BenchError, Process

from buswork.bus.objects import PROPERTIES
from buswork.bus.transport import Connection

NAME = "org.buswork.AppView"
ROOT = "/org/appview"
INSPECTOR, PROCESS = "org.appview.Inspector", "org.appview.Process"
CALL_SECONDS = 60.0
START_SECONDS = 20.0


def process_path(pid: int) -> str:
    return f"{ROOT}/processes/{pid}"


class Caller:
    """A connection to the bus, which waits for its answers."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner()
        self._connection = self._runner.run(Connection.open(address))

    def call(self, path: str, interface: str, member: str) -> Any:
        called = self._connection.call(NAME, path, interface, member, timeout=CALL_SECONDS)
        answer = self._runner.run(called).values()
        return answer[0] if answer else None

    def state(self, path: str) -> str:
        """Of a process that is there."""
        called = self._connection.call(
            NAME, path, PROPERTIES, "Get", "ss", (PROCESS, "State"), timeout=CALL_SECONDS
        )
        (state,) = self._runner.run(called).values()
        return str(state.value)

    def close(self) -> None:
        self._connection.close()
        self._runner.close()


class Rig:
    """What is started here ends with it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._programs: dict[str, Path] = {}

    # -- processes -----------------------------------------------------------------------------

    def simulated(self) -> Process:
        """As the real library is: it looks every 1.1 ms."""
        process = self._start([sys.executable, "-m", "buswork.sim.viewed"])
        if not process.read_line().isdecimal():
            raise BenchError(f"no simulated process: {self.log()}")
        return process

    def crowd(self, count: int) -> Process:
        """The same, as forks of one."""
        return self._ready([sys.executable, str(HERE / "appview_crowd.py"), str(count)])

    def queues(self, *words: object) -> Process:
        """The program in C, where it goes on until it is ended."""
        return self._ready([str(self._compiled("appview_queues")), *map(str, words)])

    def figures(self, *words: object) -> dict[str, float]:
        """The same, where it measures something."""
        argv = [str(self._compiled("appview_queues")), *map(str, words)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise BenchError(f"{argv}: {done.stderr}")
        figures: dict[str, float] = json.loads(done.stdout)
        return figures

    # -- the service ---------------------------------------------------------------------------

    def start_service(self) -> Caller:
        """On a bus of its own."""
        self.address = f"unix:path={self._directory / 'bus'}"
        configuration = self._directory / "bus.conf"
        configuration.write_text(BUS_CONFIGURATION.format(socket=self._directory / "bus"))
        argv = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"]
        self._start(argv).read_line()
        self._start_service()
        caller = Caller(self.address)
        self._stack.callback(caller.close)
        return caller

    def calls(self, path: str, interface: str, member: str, count: int) -> dict[str, float]:
        """One after the other, from a program in C."""
        argv = [str(self._compiled("appview_calls")), self.address, path, interface, member]
        done = subprocess.run([*argv, str(count)], capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise BenchError(f"{member}: {done.stderr} {self.log()}")
        figures: dict[str, float] = json.loads(done.stdout)
        return figures

    def _start_service(self) -> None:
        argv = [sys.executable, "-m", "buswork.appviewd", "--bus", self.address]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
            notes.bind(str(self._directory / "notify"))
            notes.settimeout(START_SECONDS)
            self._start(argv, NOTIFY_SOCKET=str(self._directory / "notify"))
            try:
                while b"READY=1" not in notes.recv(65536):
                    pass
            except TimeoutError:
                raise BenchError(f"the service does not start: {self.log()}") from None

    # -- all of them ---------------------------------------------------------------------------

    def _compiled(self, name: str) -> Path:
        if name not in self._programs:
            flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra"]
            source = SOURCES / f"{name}.c"
            libraries: list[str] = []
            if "bench.h" in source.read_text():
                query = ["pkg-config", "--cflags", "--libs", "libsystemd"]
                found = subprocess.run(query, capture_output=True, text=True, check=True)
                libraries = found.stdout.split()
            program = self._directory / name
            subprocess.run(["gcc", *flags, source, "-o", program, *libraries], check=True)
            self._programs[name] = program
        return self._programs[name]

    def _ready(self, argv: list[str]) -> Process:
        process = self._start(argv)
        if process.read_line() != "READY":
            raise BenchError(f"{argv} does not start: {self.log()}")
        return process

    def _start(self, argv: list[str], **environment: str) -> Process:
        process = Process(argv, self._directory / "log", {**os.environ, **environment})
        self._stack.callback(process.stop)
        return process

    def log(self) -> str:
        return (self._directory / "log").read_text()


@contextmanager
def open_rig() -> Iterator[Rig]:
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="buswork-bench-"))
        yield Rig(Path(name), stack)

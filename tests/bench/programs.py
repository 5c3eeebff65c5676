"""What the rigs of benches start alike: a bus, programs in C, whatever says READY."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from edge_rig import BUS_CONFIGURATION, SOURCES, BenchError, Process

from buswork.bus.objects import PROPERTIES
from buswork.bus.transport import Connection

# The longest call makes 8192 turns with a board.
CALL_SECONDS = 300.0


class Caller:
    """A connection to the bus, which waits for its answers."""

    def __init__(self, address: str, name: str) -> None:
        self._name = name
        self._runner = asyncio.Runner()
        self._connection = self._runner.run(Connection.open(address))

    def call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        arguments: Sequence[Any] = (),
    ) -> Any:
        target = self._name, path, interface, member
        called = self._connection.call(*target, signature, arguments, timeout=CALL_SECONDS)
        answer = self._runner.run(called).values()
        return answer[0] if answer else None

    def get(self, path: str, interface: str, name: str) -> Any:
        return self.call(path, PROPERTIES, "Get", "ss", (interface, name)).value

    def close(self) -> None:
        self._connection.close()
        self._runner.close()


class Programs:
    """What is started here ends with it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.stack = stack
        self.address = f"unix:path={directory / 'bus'}"

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[Self]:
        with ExitStack() as stack:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="buswork-bench-"))
            yield cls(Path(name), stack)

    def start(self, argv: list[str], environment: Mapping[str, str] = os.environ) -> Process:
        process = Process(argv, self.directory / "log", dict(environment))
        self.stack.callback(process.stop)
        return process

    def ready(self, argv: list[str], environment: Mapping[str, str] = os.environ) -> Process:
        process = self.start(argv, environment)
        if process.read_line() != "READY":
            raise BenchError(f"{argv} does not start: {self.log()}")
        return process

    def start_bus(self) -> None:
        configuration = self.directory / "bus.conf"
        configuration.write_text(BUS_CONFIGURATION.format(socket=self.directory / "bus"))
        argv = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"]
        self.start(argv).read_line()

    def connected(self, name: str) -> Caller:
        """name: who is called."""
        caller = Caller(self.address, name)
        self.stack.callback(caller.close)
        return caller

    def compiled(self, name: str) -> str:
        """Once. What does not use the bus goes without its library: it is to be bare."""
        source, program = SOURCES / f"{name}.c", self.directory / name
        if not program.exists():
            flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra"]
            libraries: list[str] = []
            if "bench.h" in source.read_text():
                query = ["pkg-config", "--cflags", "--libs", "libsystemd"]
                found = subprocess.run(query, capture_output=True, text=True, check=True)
                libraries = found.stdout.split()
            subprocess.run(["gcc", *flags, source, "-o", program, *libraries], check=True)
        return str(program)

    def log(self) -> str:
        return (self.directory / "log").read_text()

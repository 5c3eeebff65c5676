"""Boards on an emulated kernel, the daemon that has them, and those who use them beside it."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from edge_rig import BUS_CONFIGURATION, HERE, SOURCES, BenchError, Process
from support import usb_kernel

from buswork.bus.library import variant
from buswork.bus.objects import escape_name
from buswork.bus.transport import Connection
from buswork.errors import BusworkError

NAME, DEVICE = "org.buswork", "org.flipper.Device"
# A call of 1 MiB is 8192 turns.
CALL_SECONDS = 300.0

START_SECONDS = 20.0
# All callers have heard by then when to begin.
BEGIN_NS = 50_000_000


def board_path(port: str) -> str:
    return f"/org/flipper/devices/{escape_name(f'carbon-{port}')}"


class Caller:
    """A connection to the bus, which waits for its answers."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner()
        self._connection = self._runner.run(Connection.open(address))

    def call(self, port: str, member: str, signature: str, *arguments: Any) -> Any:
        called = self._connection.call(
            NAME, board_path(port), DEVICE, member, signature, arguments, timeout=CALL_SECONDS
        )
        answer = self._runner.run(called).values()
        return answer[0] if answer else None

    def invoke(self, port: str, module: str, function: str, *numbers: int) -> Any:
        values = [variant("u", number) for number in numbers]
        return self.call(port, "Invoke", "ssav", module, function, values)

    def close(self) -> None:
        self._connection.close()
        self._runner.close()


class Rig:
    """An emulated kernel, a bus, the daemon on them, and what is started beside it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        sock, environment, _ = stack.enter_context(usb_kernel.emulated())
        self.kernel: Any = usb_kernel.Kernel(sock)
        self._sees_boards = environment | {"UMOCKDEV_DIR": self.kernel.root}
        self.address = f"unix:path={directory / 'bus'}"
        configuration = directory / "bus.conf"
        configuration.write_text(BUS_CONFIGURATION.format(socket=directory / "bus"))
        command = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"]
        self.bus = self._start(command, dict(os.environ))
        self.bus.read_line()
        self.daemon = self._start_daemon()
        self._calls = compiled("flipper_calls", directory)
        self.caller = Caller(self.address)
        stack.callback(self.caller.close)

    def _start_daemon(self) -> Process:
        argv = [sys.executable, "-m", "buswork.daemon", "--wings", "flipper", "--log-level", "err"]
        argv += ["--bus", self.address, "--socket-dir", str(self._directory)]
        return self._start(argv, self._sees_boards)

    def plug(self, *ports: str) -> None:
        """Returns when the daemon has used the boards once."""
        for port in ports:
            self.kernel.plug(port=port, kind="carbon")
        for port in ports:
            self._wait_for(port)

    def direct(self, port: str) -> Process:
        """A loop with pyusb."""
        argv = [sys.executable, str(HERE / "flipper_direct.py"), port]
        return self._ready(argv, self._sees_boards)

    def calling(
        self,
        port: str,
        function: Sequence[object],
        seconds: float,
        window: int = 1,
        pause_us: int = 0,
    ) -> Process:
        """A caller that begins when it is asked; function: its module's name, and its own."""
        module, name, *numbers = function
        how = board_path(port), module, name, window, seconds, pause_us, *numbers
        return self._ready([str(self._calls), self.address, *map(str, how)], dict(os.environ))

    def run(self, callers: Sequence[Process]) -> tuple[float, list[dict[str, float]]]:
        """Begins them at once, and they leave: how many calls a second in all; each one's."""
        begin = f"{time.monotonic_ns() + BEGIN_NS}"
        with ThreadPoolExecutor(len(callers)) as pool:
            lines = list(pool.map(lambda caller: caller.ask(begin), callers))
        for caller in callers:
            caller.stop()
        if not all(lines):
            raise BenchError(f"a call failed: {self._log()}")
        figures = [json.loads(line) for line in lines]
        longest = max(each["wall_ns"] for each in figures)
        return sum(each["calls"] for each in figures) / longest * 1e9, figures

    def _wait_for(self, port: str) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.daemon.alive:
            with suppress(BusworkError):
                self.caller.invoke(port, "gpio", "read", 1)
                return
            time.sleep(0.05)
        raise BenchError(f"the daemon has no board at {port}: {self._log()}")

    def _start(self, argv: list[str], environment: dict[str, str]) -> Process:
        process = Process(argv, self._directory / "log", environment)
        self._stack.callback(process.stop)
        return process

    def _ready(self, argv: list[str], environment: dict[str, str]) -> Process:
        process = self._start(argv, environment)
        if process.read_line() != "READY":
            raise BenchError(f"{argv} does not start: {self._log()}")
        return process

    def _log(self) -> str:
        return (self._directory / "log").read_text()


@contextmanager
def open_rig() -> Iterator[Rig]:
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="buswork-bench-"))
        yield Rig(Path(name), stack)


def compiled(name: str, directory: Path) -> Path:
    flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra"]
    libraries = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libsystemd"],
        capture_output=True,
        text=True,
        check=True,
    )
    program = directory / name
    source = SOURCES / f"{name}.c"
    subprocess.run(["gcc", *flags, source, "-o", program, *libraries.stdout.split()], check=True)
    return program

"""Boards on an emulated kernel, the daemon that has them, and those who use them beside it."""

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from edge_rig import HERE, BenchError, Process
from programs import Caller, Programs
from support import usb_kernel

from buswork.bus.library import variant
from buswork.bus.objects import escape_name
from buswork.errors import BusworkError

NAME, DEVICE = "org.buswork", "org.flipper.Device"
START_SECONDS = 20.0
# All callers have heard by then when to begin.
BEGIN_NS = 50_000_000


def board_path(port: str) -> str:
    return f"/org/flipper/devices/{escape_name(f'carbon-{port}')}"


class Boards:
    """What is called of them, from a connection to the bus."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def call(self, port: str, member: str, signature: str, *arguments: Any) -> Any:
        return self._caller.call(board_path(port), DEVICE, member, signature, arguments)

    def invoke(self, port: str, module: str, function: str, *numbers: int) -> Any:
        values = [variant("u", number) for number in numbers]
        return self.call(port, "Invoke", "ssav", module, function, values)


class Rig(Programs):
    """An emulated kernel, a bus, the daemon on them, and what is started beside it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        super().__init__(directory, stack)
        sock, environment, _ = stack.enter_context(usb_kernel.emulated())
        self.kernel: Any = usb_kernel.Kernel(sock)
        self._sees_boards = environment | {"UMOCKDEV_DIR": self.kernel.root}
        self.start_bus()
        self.daemon = self._start_daemon()
        self.caller = Boards(self.connected(NAME))

    def _start_daemon(self) -> Process:
        argv = [sys.executable, "-m", "buswork.daemon", "--wings", "flipper", "--log-level", "err"]
        argv += ["--bus", self.address, "--socket-dir", str(self.directory)]
        return self.start(argv, self._sees_boards)

    def plug(self, *ports: str) -> None:
        """Returns when the daemon has used the boards once."""
        for port in ports:
            self.kernel.plug(port=port, kind="carbon")
        for port in ports:
            self._wait_for(port)

    def direct(self, port: str) -> Process:
        """A loop with pyusb."""
        argv = [sys.executable, str(HERE / "flipper_direct.py"), port]
        return self.ready(argv, self._sees_boards)

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
        return self.ready([self.compiled("flipper_calls"), self.address, *map(str, how)])

    def run(self, callers: Sequence[Process]) -> tuple[float, list[dict[str, float]]]:
        """Begins them at once, and they leave: how many calls a second in all; each one's."""
        begin = f"{time.monotonic_ns() + BEGIN_NS}"
        with ThreadPoolExecutor(len(callers)) as pool:
            lines = list(pool.map(lambda caller: caller.ask(begin), callers))
        for caller in callers:
            caller.stop()
        if not all(lines):
            raise BenchError(f"a call failed: {self.log()}")
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
        raise BenchError(f"the daemon has no board at {port}: {self.log()}")


open_rig = Rig.opened

"""Viewed processes for the bench, simulated and bare, and the service that asks them."""

import json
import os
import socket
import subprocess
import sys

from edge_rig import HERE, RUN_SECONDS, BenchError, Process
from programs import Caller, Programs

NAME = "org.buswork.AppView"
ROOT = "/org/appview"
INSPECTOR, PROCESS = "org.appview.Inspector", "org.appview.Process"
START_SECONDS = 20.0


def process_path(pid: int) -> str:
    return f"{ROOT}/processes/{pid}"


class Rig(Programs):
    """Viewed processes, and the service on a bus of its own."""

    # -- processes -----------------------------------------------------------------------------

    def simulated(self) -> Process:
        """As the real library is: it looks every 1.1 ms."""
        process = self.start([sys.executable, "-m", "buswork.sim.viewed"])
        if not process.read_line().isdecimal():
            raise BenchError(f"no simulated process: {self.log()}")
        return process

    def crowd(self, count: int) -> Process:
        """The same, as forks of one."""
        return self.ready([sys.executable, str(HERE / "appview_crowd.py"), str(count)])

    def queues(self, *words: object) -> Process:
        """The program in C, where it goes on until it is ended."""
        return self.ready([self.compiled("appview_queues"), *map(str, words)])

    def figures(self, *words: object) -> dict[str, float]:
        """The same, where it measures something."""
        return self._measured("appview_queues", *words)

    # -- the service ---------------------------------------------------------------------------

    def start_service(self) -> Caller:
        self.start_bus()
        self._start_service()
        return self.connected(NAME)

    def calls(self, path: str, interface: str, member: str, count: int) -> dict[str, float]:
        """One after the other, from a program in C."""
        return self._measured("appview_calls", self.address, path, interface, member, count)

    def _start_service(self) -> None:
        argv = [sys.executable, "-m", "buswork.appviewd", "--bus", self.address]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
            notes.bind(str(self.directory / "notify"))
            notes.settimeout(START_SECONDS)
            self.start(argv, os.environ | {"NOTIFY_SOCKET": str(self.directory / "notify")})
            try:
                while b"READY=1" not in notes.recv(65536):
                    pass
            except TimeoutError:
                raise BenchError(f"the service does not start: {self.log()}") from None

    def _measured(self, program: str, *words: object) -> dict[str, float]:
        argv = [self.compiled(program), *map(str, words)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=RUN_SECONDS)
        if done.returncode:
            raise BenchError(f"{argv}: {done.stderr} {self.log()}")
        figures: dict[str, float] = json.loads(done.stdout)
        return figures


open_rig = Rig.opened

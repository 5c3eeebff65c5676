"""A private bus, programs in C, and services to measure: all of it gone when the rig closes."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
SOURCES = HERE / "c"

# A run of a C program that takes longer hangs; each has its own, shorter patience.
RUN_SECONDS = 120
START_SECONDS = 30
STOP_SECONDS = 5

# The limits are those of a system bus because of its type; the policy lets everybody do everything.
BUS_CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
"""


class BenchError(Exception):
    """The bench itself could not do its work."""


@dataclass(frozen=True)
class Outcome:
    """What one run of a C program said: its figures, and whether anything was lost."""

    figures: dict[str, Any]
    lost: bool
    complaint: str

    def __getitem__(self, name: str) -> Any:
        return self.figures[name]


class Process:
    """A running program that says READY when it can be used."""

    def __init__(self, argv: list[str], log: Path, environment: dict[str, str]) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def read_line(self) -> str:
        """The next line; empty when the program has ended or says nothing."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        return self._process.stdout.readline().strip() if readable else ""

    def ask(self, line: str = "") -> str:
        """Sends a line and returns the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.read_line()

    def stop(self) -> str:
        """Ends the program and returns what it had left to say."""
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.communicate(timeout=STOP_SECONDS)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.communicate()[0]

    def resident_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise BenchError(f"process {self.pid} has no VmRSS")


@dataclass(frozen=True)
class Contender:
    """A service: what it is called in the tables, on the bus, and how it is started."""

    key: str
    title: str
    name: str
    argv: tuple[str, ...]
    says_ready: bool = True


class Service:
    """One running contender; started again when it has died."""

    def __init__(self, rig: "Rig", contender: Contender, objects: int) -> None:
        self.contender = contender
        self._rig = rig
        self._objects = objects
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def address(self) -> tuple[str, str]:
        return self._rig.address, self.contender.name

    def resident_bytes(self) -> int:
        return self._process.resident_bytes()

    def stall(self, seconds: float) -> None:
        """Holds the service for a while, as a full machine might."""
        os.kill(self.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        self._process.stop()
        self._process = self._start()

    def stop(self) -> None:
        self._process.stop()

    def _start(self) -> Process:
        process = self._rig.spawn(self._rig.command(self.contender, self._objects))
        if self.contender.says_ready:
            ready = process.read_line() == "READY"
        else:
            ready = not self._rig.run("await", *self.address).lost
        if not ready:
            process.stop()
            raise BenchError(f"{self.contender.title} did not start:\n{self._rig.log_tail()}")
        return process


class Rig:
    """The bench's own bus, a polkit that says yes, and the compiled programs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory / "services.log"
        self.address = f"unix:path={directory / 'bus'}"
        self.bus_pid = 0
        self._polkit: Process | None = None

    def compile(self) -> None:
        flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra", *_pkg_config("--cflags")]
        for source in sorted(SOURCES.glob("*.c")):
            if source.name.startswith(("store_", "flipper_", "libipc_", "appview_")):
                continue  # other benches'
            program = self._directory / source.stem
            subprocess.run(
                ["gcc", *flags, str(source), "-o", str(program), *_pkg_config("--libs")], check=True
            )

    def program(self, name: str) -> str:
        return str(self._directory / name)

    def command(self, contender: Contender, objects: int) -> list[str]:
        """The command line of a contender, its place-holders filled in."""
        places = {
            "address": self.address,
            "name": contender.name,
            "objects": objects,
            "programs": self._directory,
        }
        return [word.format(**places) for word in contender.argv]

    def spawn(self, argv: list[str]) -> Process:
        return Process(argv, self._log, self._environment())

    def serve(
        self, contender: Contender, objects: int = 0
    ) -> contextlib.AbstractContextManager[Service]:
        return _stopping(Service(self, contender, objects))

    def run(self, program: str, *arguments: object) -> Outcome:
        """Runs a C program to its end and returns the figures that it printed."""
        argv = [self.program(program), *map(str, arguments)]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            env=self._environment(),
            check=False,
        )
        if done.returncode not in (0, 3):
            raise BenchError(f"{argv}: status {done.returncode}: {done.stderr}")
        figures = json.loads(done.stdout) if done.stdout else {}
        return Outcome(figures, lost=done.returncode != 0, complaint=done.stderr.strip())

    @contextlib.contextmanager
    def on_one_cpu(self, service: "Service", number: int) -> Iterator[None]:
        """The bus, a service, and what is run meanwhile share one processor.

        Where calls go one at a time nothing is lost by that, and what is measured is the work.
        Free to move, virtual processors wake each other now and then, and one such interrupt
        costs more than a call.
        """
        everywhere = os.sched_getaffinity(0)
        cpu = sorted(everywhere)[number % len(everywhere)]
        pids = (os.getpid(), self.bus_pid, service.pid)
        for pid in pids:
            _move(pid, {cpu})
        try:
            yield
        finally:
            for pid in pids:
                _move(pid, everywhere)

    def questions(self) -> int:
        """How often the stand-in for polkit was asked so far."""
        assert self._polkit is not None
        return int(self._polkit.ask())

    @contextlib.contextmanager
    def slow_polkit(self, milliseconds: int) -> Iterator[None]:
        """Every answer of polkit takes so long."""
        assert self._polkit is not None
        self._polkit.ask(str(milliseconds))
        try:
            yield
        finally:
            self._polkit.ask("0")

    def log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(PROJECT / "src"),
            "DBUS_SYSTEM_BUS_ADDRESS": self.address,
            "XDG_RUNTIME_DIR": str(self._directory),
        }

    @contextlib.contextmanager
    def running(self) -> Iterator["Rig"]:
        configuration = self._directory / "bus.conf"
        configuration.write_text(BUS_CONFIGURATION.format(socket=self._directory / "bus"))
        bus = self.spawn(
            [
                "dbus-daemon",
                f"--config-file={configuration}",
                "--nofork",
                "--nopidfile",
                "--print-address",
            ]
        )
        self.bus_pid = bus.pid
        with contextlib.ExitStack() as stack:
            stack.callback(bus.stop)
            if not bus.read_line():
                raise BenchError(f"dbus-daemon did not start:\n{self.log_tail()}")
            self._polkit = self.spawn([self.program("polkit"), self.address])
            stack.callback(self._polkit.stop)
            self._polkit.read_line()
            yield self


@contextlib.contextmanager
def open_rig() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as directory:
        rig = Rig(Path(directory))
        rig.compile()
        with rig.running():
            yield rig


@contextlib.contextmanager
def _stopping(service: Service) -> Iterator[Service]:
    try:
        yield service
    finally:
        service.stop()


def _move(pid: int, cpus: set[int]) -> None:
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), cpus)


def _pkg_config(option: str) -> list[str]:
    done = subprocess.run(
        ["pkg-config", option, "libsystemd"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


BUSWORK = Contender(
    "buswork",
    "buswork",
    "org.buswork",
    (sys.executable, "-m", "buswork.daemon", "--bus", "{address}", "--wings", "store"),
    says_ready=False,
)
EDGE = Contender(
    "edge",
    "buswork.bus",
    "org.bench.edge",
    (sys.executable, str(HERE / "edge_service.py"), "{address}", "{name}", "{objects}"),
)
SDBUS = Contender(
    "sdbus",
    "C sd-bus",
    "org.bench.sdbus",
    ("{programs}/server", "{address}", "{name}", "{objects}"),
)
NEXT, FAST = (
    Contender(
        library,
        f"stock {title}",
        f"org.bench.{library}",
        (sys.executable, str(HERE / "edge_rivals.py"), library, "{address}", "{name}", "{objects}"),
    )
    for library, title in (("dbus_next", "dbus-next 0.2.3"), ("dbus_fast", "dbus-fast"))
)

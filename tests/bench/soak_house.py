"""A machine with all daemons on a private bus, and the means to end and restart each of them."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from edge_rig import HERE
from soak_ledger import Weather
from support import machine
from support.machine import APPVIEW_NAME, BUS_NAME, Client, Daemon, Machine, Process

USERS = ("alice", "bob")
# Message queues count for a user wherever he is, and tests have users with other numbers.
FIRST_UID = 55_000
# What each may do is for other tests; here everything that is asked is done.
YES = "polkit.addRule(function (action, subject) { return polkit.Result.YES; });"
SERVICE = (sys.executable, str(HERE / "soak_service.py"))
TOKEN = "0123456789abcdefABCD_-"
ORIGIN = "null"
ECHO = "echo"
FORMS = ("c", "zig")
STATISTICS = ("/org/freedesktop/DBus", "org.freedesktop.DBus.Debug.Stats", "GetConnectionStats")
BUS_DRIVER = "org.freedesktop.DBus"


def free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class House:
    """What is started here ends with it."""

    def __init__(self, stack: ExitStack) -> None:
        machine.FIRST_UID = FIRST_UID
        self.machine = stack.enter_context(Machine(users=USERS, rules=[YES]))
        self.folder = self._directory("ledger")
        self.sockets = self._directory("sockets")
        self._queues = self._mount_queues(stack)
        self.weather = Weather(self.folder, is_writer=True)
        self.ports = {
            "board": free_port(socket.SOCK_DGRAM),
            "fmr": free_port(socket.SOCK_DGRAM),
            "tcp": free_port(socket.SOCK_STREAM),
            "ws": free_port(socket.SOCK_STREAM),
        }
        token = self.machine.tmp / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        self._token = self._owned_by_service(token)
        self._lock = threading.Lock()
        self.ended: list[Daemon] = []
        # Of questions that were open when the service was killed; they go when a process with the
        # same number is asked, and else nobody knows of them.
        self._orphans: set[str] = set()
        self.services: dict[str, Daemon] = {}
        self._starts: dict[str, Callable[[], Daemon]] = {
            "daemon": self._start_daemon,
            "doors": self._start_doors,
            "appview": self._start_appview,
        }
        for name in self._starts:
            self._start(name)
        self.echoes: dict[str, Process] = {}
        for form in FORMS:
            self.start_echo(form)

    def _directory(self, name: str) -> Path:
        path = self.machine.tmp / name
        path.mkdir()
        path.chmod(0o1777)
        return path

    def _mount_queues(self, stack: ExitStack) -> Path:
        """The message queues of this IPC namespace, as files."""
        path = self.machine.base / "queues"
        path.mkdir()
        subprocess.run(["mount", "-t", "mqueue", "none", str(path)], check=True)
        stack.callback(subprocess.run, ["umount", str(path)], check=False)
        return path

    def _owned_by_service(self, path: Path) -> Path:
        uid = self.machine.uid("buswork")
        subprocess.run(["chown", str(uid), str(path)], check=True)
        return path

    # -- services ------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        self.services[name] = self._starts[name]()

    def _start_daemon(self) -> Daemon:
        """With what an earlier one has left with its manager, as systemd does."""
        before = self.services.get("daemon")
        stored = before.notifications.stored if before is not None else []
        command = [*SERVICE, "daemon", "--bus", "system", "--simulate"]
        command += ["--socket-dir", str(self.sockets), "--log-level", "warning"]
        return self.machine.start_daemon(command=command, fds=stored)

    def _start_appview(self) -> Daemon:
        command = [*SERVICE, "appview", "--bus", "system"]
        return self.machine.start_appview(command)

    def _start_doors(self) -> Daemon:
        ports = self.ports
        command = [*SERVICE, "doors", "--log-level", "warning"]
        command += ["--daemon", str(self.machine.uid("buswork"))]
        command += ["--socket", str(self.sockets / "doors.sock")]
        for user in USERS:
            command += ["--serve-uid", str(self.machine.uid(user))]
        command += ["--simulate-board", str(ports["board"])]
        command += ["--fmr-door", f"bench={ports['fmr']}"]
        command += ["--fmr-socket", str(self.sockets / "fmr.sock")]
        command += ["--ipc-tcp", f"{ports['tcp']}=c", "--ipc-ws", str(ports["ws"])]
        command += ["--ipc-service", ECHO, "--ipc-origin", ORIGIN]
        command += ["--ipc-token-file", str(self._token)]
        command += ["--ipc-socket", str(self.sockets / "ipc.sock")]
        return self.machine.start_daemon(command=command)

    def restart(self, name: str, *, kills: bool) -> None:
        """In order, or by surprise."""
        with self._lock:
            self._begin(name, kills)
            service = self.services[name]
            if kills:
                service.kill()
            else:
                service.stop(30)
            self.ended.append(service)
            if name == "appview":
                self._orphans |= self._all_queues()
            self._start(name)
            self._end(name, kills)

    def settle(self) -> None:
        """Returns when nothing is being restarted: who asked for it may not have waited."""
        with self._lock:
            pass

    def _begin(self, name: str, kills: bool) -> None:
        self.weather.begin(name)
        if name == "daemon" and not kills:
            self.weather.begin("values")  # an orderly end drops them

    _end = _begin

    def start_echo(self, form: str) -> None:
        """A native service that sends back what comes."""
        place = (str(self.run_directory(form)), form)
        process = self.machine.popen(
            [sys.executable, str(HERE / "libipc_service.py"), *place, ECHO],
            "alice",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        if process.stdout.readline() != b"READY\n":
            raise SystemExit("an echo service does not start")
        self.echoes[form] = process

    def kill_echo(self, form: str) -> None:
        self.weather.begin(form)
        self.echoes[form].kill()
        self.echoes[form].wait()
        self.start_echo(form)
        self.weather.end(form)

    def run_directory(self, form: str) -> Path:
        return self.sockets / f"ipc-{form}"

    # -- looking -------------------------------------------------------------------------------

    def _all_queues(self) -> set[str]:
        return {path.name for path in self._queues.iterdir()}

    def queues(self) -> set[str]:
        """Without those that a service left behind when it was killed."""
        return self._all_queues() - self._orphans

    def rules(self, eyes: Client, name: str) -> int | None:
        """Match rules of a service, as far as the bus tells."""
        owner = {"daemon": BUS_NAME, "appview": APPVIEW_NAME}.get(name)
        if owner is None:
            return None
        reply = eyes.call(*STATISTICS, "s", owner, destination=BUS_DRIVER)
        return int(reply.value["MatchRules"].value)

    def logs(self) -> str:
        return "\n".join(each.log() for each in [*self.ended, *self.services.values()])

"""A bus of our own with the daemon on it, for the calling user: no polkit, no namespace."""

import os
import pathlib
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from typing import Any, Self

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "src"
START_SECONDS = 10.0

CONFIG = """\
<busconfig>
  <listen>unix:path={folder}/bus</listen>
  <servicedir>{folder}/services</servicedir>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
  <limit name="max_replies_per_connection">128</limit>
</busconfig>
"""
SERVICE = """\
[D-BUS Service]
Name=org.buswork
Exec={python} -m buswork.daemon --bus unix:path={folder}/bus
"""


class PrivateBus:
    """A context manager; all that it started ends with it."""

    def __init__(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="buswork-test-", dir="/tmp"))
        self.address = f"unix:path={self.folder}/bus"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.appview: subprocess.Popen[bytes] | None = None
        (self.folder / "services").mkdir()
        (self.folder / "bus.conf").write_text(CONFIG.format(folder=self.folder))

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(SOURCE),
            "DBUS_SYSTEM_BUS_ADDRESS": self.address,
            "RUNTIME_DIRECTORY": str(self.folder),
        }

    def __enter__(self) -> Self:
        told, tell = os.pipe()
        with open(told, "rb") as ready:
            self._bus = subprocess.Popen(
                [
                    "dbus-daemon",
                    f"--config-file={self.folder}/bus.conf",
                    "--nofork",
                    "--nosyslog",
                    f"--print-address={tell}",
                ],
                pass_fds=[tell],
                env=self.environment,
                stderr=subprocess.DEVNULL,
            )
            os.close(tell)
            assert ready.readline(), "the bus did not start"
        return self

    def __exit__(self, *_: object) -> None:
        if self.daemon is not None:
            self.kill_daemon()
        if self.appview is not None:
            self.kill_appview()
        self.kill_bus()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_daemon(self, *arguments: str) -> None:
        self.daemon = self._start("buswork.daemon", *arguments)

    def start_appview(self) -> None:
        self.appview = self._start("buswork.appviewd")

    def _start(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Returns when it has said that it is ready."""
        path = self.folder / "notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
            notes.bind(str(path))
            with (self.folder / "daemon.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    env=self.environment | {"NOTIFY_SOCKET": str(path)},
                    stdout=log,
                    stderr=log,
                )
            while True:
                came, _, _ = select.select([notes], [], [], START_SECONDS)
                assert came, (self.folder / "daemon.log").read_text()
                if b"READY=1" in notes.recv(65536):
                    return process

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None

    def kill_appview(self) -> None:
        assert self.appview is not None
        self.appview.kill()
        self.appview.wait()
        self.appview = None

    def stop_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.terminate()
        assert self.daemon.wait(START_SECONDS) == 0
        self.daemon = None

    def kill_bus(self) -> None:
        self._bus.kill()
        self._bus.wait()

    def make_activatable(self) -> None:
        text = SERVICE.format(python=sys.executable, folder=self.folder)
        (self.folder / "services" / "org.buswork.service").write_text(text)
        reload = ["dbus-send", f"--bus={self.address}", "--print-reply"]
        target = ["--dest=org.freedesktop.DBus", "/org/freedesktop/DBus"]
        subprocess.run(
            [*reload, *target, "org.freedesktop.DBus.ReloadConfig"], check=True, capture_output=True
        )

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """The buswork command on this bus."""
        settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60}
        return subprocess.run(
            [sys.executable, "-m", "buswork.cli", *words],
            env=self.environment | options.pop("env", {}),
            **(settings | options),
        )

    def popen(self, *words: str, **options: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "buswork.cli", *words],
            env=self.environment | options.pop("env", {}),
            text=True,
            **options,
        )

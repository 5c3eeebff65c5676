"""A bus, with or without the daemon on it, and run directories with services."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator

from client.private_bus import PrivateBus

PIPE = subprocess.PIPE


class Services(PrivateBus):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.zig = (self.folder / name for name in ("ipc-c", "ipc-zig"))
        for place in (self.c, self.zig):
            place.mkdir()
            place.chmod(0o1777)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: text for name, text in os.environ.items() if name != "IPC_NETWORK"}
        own = {"IPC_RUNDIR": str(self.c), "RUNDIR": str(self.zig)}
        return inherited | super().environment | own

    def ipc(self, *words: str, **options) -> subprocess.CompletedProcess[str]:
        return self.run("ipc", *words, **options)

    def ok(self, *words: str, **options) -> str:
        """What it printed."""
        done = self.ipc(*words, **options)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def answer(self, *words: str, **options) -> object:
        return json.loads(self.ok(*words, "--json", **options))

    def failure(self, *words: str, status: int = 1, **options) -> str:
        done = self.ipc(*words, **options)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        return done.stderr

    @contextlib.contextmanager
    def running(self, *words: str, **options) -> Iterator["subprocess.Popen[str]"]:
        """A command that goes on, when it has said what it does."""
        settings = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE} | options
        with self.popen("ipc", *words, **settings) as process:
            said = process.stderr.readline()
            try:
                assert "serving" in said or "connected" in said, said
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    process.wait(10)

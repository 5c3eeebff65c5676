"""Viewed processes for the command: made up ones, and simulated ones that a real service asks."""

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

from client.private_bus import START_SECONDS, PrivateBus

from buswork.appview.wire.configuration import DEFAULTS
from buswork.cli import parser, run
from buswork.cli.output import Output
from buswork.client import ProcessChange, ProcessFacts


def facts(pid, name="web", *, state="Active", uid=0, command=None):
    return ProcessFacts(
        pid, uid, name, command or f"/usr/bin/{name} -x", state, state == "Active",
        f"uuid-{pid}", f"host-{name}-x", "0123456789abcdef0123456789abcdef",
    )  # fmt: skip


class FakeProcess:
    """Notes what it is told."""

    def __init__(self, pid, own_pid=None):
        self.pid = pid
        self._own_pid = own_pid or pid
        self.has = {**DEFAULTS, "protocol": [{"name": "x", "regex": "y"}]}
        self.told = []
        self.fails = None

    async def configuration(self):
        return self.has

    async def transport_status(self):
        return [
            {"name": "log", "config": "file:///tmp/a\x1b[31m.log", "connected": True},
            {"name": "events", "config": "tcp://h:1", "connected": False, "attempts": 2,
             "failure_details": "Socket connection failed"},
            {"name": "metrics", "config": "unix://@m", "connected": False, "attempts": 1},
        ]  # fmt: skip

    async def details(self):
        return {"status": 200, "pid": self._own_pid, "uuid": "u", "id": "i", "machine_id": "m"}

    async def set_configuration(self, text):
        self.told.append(("set", text))

    async def merge_configuration(self, text):
        self.told.append(("merge", text))
        return {"tags": {"a": "1"}}

    async def attach(self, settings):
        self.told.append(("attach", settings))

    async def detach(self):
        if self.fails is not None:
            raise self.fails
        self.told.append(("detach",))


class FakeAppView:
    def __init__(self, *there):
        self.there = there
        self.processes = {each.pid: FakeProcess(each.pid) for each in there}
        self.asked = []
        self.changes = []

    async def scan(self, *, others=False):
        self.asked.append(others)
        return [*self.there]

    def process(self, pid):
        return self.processes.setdefault(pid, FakeProcess(pid))

    @asynccontextmanager
    async def watch(self, *, others=False):
        self.asked.append(others)

        async def changes():
            for what, each in self.changes:
                yield ProcessChange(what, each)

        yield changes()


class FakeClient:
    def __init__(self, *there):
        self.appview = FakeAppView(*there)


def done(client, *words):
    """The status of a command; errors are raised."""
    options = parser.parse(("view", *words))
    out = Output(json=options.json)
    return asyncio.run(run._command(options.run)(client, options, out))


class ViewedWorld(PrivateBus):
    """A bus with the service on it, and simulated processes."""

    def __enter__(self):
        super().__enter__()
        self._started = []
        path = self.folder / "appview-notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
            notes.bind(str(path))
            with (self.folder / "appview.log").open("ab") as log:
                self._start(
                    "buswork.appviewd", env={"NOTIFY_SOCKET": str(path)}, stdout=log, stderr=log
                )
            said = b""
            while b"READY=1" not in said:
                came, _, _ = select.select([notes], [], [], START_SECONDS)
                assert came, (self.folder / "appview.log").read_text()
                said = notes.recv(65536)
        return self

    def __exit__(self, *failure):
        for process in self._started:
            process.kill()
            process.communicate()
        super().__exit__(*failure)

    def _start(self, module, *words, env=None, **options):
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            env=self.environment | (env or {}),
            stdin=subprocess.PIPE,
            **options,
        )
        self._started.append(process)
        return process

    def simulated(self, name, *words):
        """A process of this name; its pid."""
        process = self._start("buswork.sim.viewed", "--name", name, *words, stdout=subprocess.PIPE)
        return int(process.stdout.readline())

    def kill(self, pid):
        os.kill(pid, 9)
        for process in self._started:
            if process.pid == pid:
                process.communicate()

    def view(self, *words, **options):
        return self.run("view", *words, **options)

    def answer(self, *words, **options):
        done = self.view(*words, "--json", **options)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    def failure(self, *words, status=1, **options):
        done = self.view(*words, **options)
        assert (done.returncode, done.stdout) == (status, "")
        return done.stderr

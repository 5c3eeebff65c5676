"""Viewed processes for the command: made up ones, and simulated ones that a real service asks."""

import asyncio
import io
import json
import subprocess
import sys
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from types import SimpleNamespace
from unittest.mock import patch

from client.private_bus import PrivateBus

from buswork import cli
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
        if self.fails is not None:
            raise self.fails
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
        self._people = []
        self.start_appview()
        return self

    def __exit__(self, *failure):
        for process in self._people:
            process.kill()
            process.communicate()
        super().__exit__(*failure)

    def simulated(self, name, *words):
        """A process of this name; its pid."""
        process = subprocess.Popen(
            [sys.executable, "-m", "buswork.sim.viewed", "--name", name, *words],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._people.append(process)
        return int(process.stdout.readline())

    def kill(self, pid):
        (process,) = [each for each in self._people if each.pid == pid]
        process.kill()
        process.communicate()

    def view(self, *words, stdin=""):
        """The command, in this process: to start one takes longer than all that it does."""
        out, err = io.StringIO(), io.StringIO()
        given = io.TextIOWrapper(io.BytesIO(stdin.encode()))
        with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "stdin", given):
            status = cli.main(["view", *words, "--bus", self.address])
        return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())

    def answer(self, *words, stdin=""):
        done = self.view(*words, "--json", stdin=stdin)
        assert (done.status, done.err) == (0, "")
        return json.loads(done.out)

    def failure(self, *words, stdin=""):
        done = self.view(*words, stdin=stdin)
        assert (done.status, done.out) == (1, "")
        return done.err

import json
import signal
import subprocess

import pytest
from cli.viewed import FakeClient, ViewedWorld, done, facts

from buswork.cli.exits import Exit

pytestmark = pytest.mark.processes


def test_what_comes_changes_and_goes(capfd):
    client = FakeClient()
    other = facts(3, "web", state="Latent", command="web\x1b[2J")
    client.appview.changes = [("added", facts(3)), ("changed", other), ("removed", other)]
    assert done(client, "watch", "--others") == Exit.OK
    assert [line.split() for line in capfd.readouterr().out.splitlines()] == [
        ["+", "Active", "3", "root", "/usr/bin/web", "-x"],
        ["~", "Latent", "3", "root", "web\\x1b[2J"],
        ["-", "Latent", "3", "root", "web\\x1b[2J"],
    ]
    assert client.appview.asked == [True]
    done(client, "watch", "--json")
    first = json.loads(capfd.readouterr().out.splitlines()[0])
    assert (first["event"], first["pid"], first["state"]) == ("added", 3, "Active")
    assert set(first) == {
        "event", "pid", "user", "command", "name", "state", "uuid", "id", "machine_id",
    }  # fmt: skip


def test_the_whole_way():
    with ViewedWorld() as world:
        pid = world.simulated("cli-watch", "--period", "0.2")
        watching = world.popen("view", "watch", "--json", stdout=subprocess.PIPE)
        assert next_of(watching, pid)["event"] == "added"
        world.answer("detach", "cli-watch")
        changed = next_of(watching, pid)
        assert (changed["event"], changed["state"]) == ("changed", "Latent")
        world.kill(pid)
        assert next_of(watching, pid)["event"] == "removed"
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=20)
        assert watching.returncode == Exit.INTERRUPTED


def next_of(watching, pid):
    """Others may come and go meanwhile."""
    while True:
        said = json.loads(watching.stdout.readline())
        if said["pid"] == pid:
            return said

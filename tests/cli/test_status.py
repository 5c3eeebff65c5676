import json

import pytest
from client.private_bus import PrivateBus

from buswork import __version__
from buswork.cli import status
from buswork.cli.exits import Exit
from buswork.client import AccessDenied
from buswork.daemon import WINGS


def test_it_runs(shared_bus):
    done = shared_bus.run("status")
    assert done.returncode == 0
    assert f"busworkd {__version__} is running" in done.stdout
    assert "wing store       running" in done.stdout
    facts = json.loads(shared_bus.run("status", "--json").stdout)
    assert facts["running"]
    assert facts["wings"] == {name: {"state": "running", "reason": ""} for name in WINGS}
    assert len(facts["epoch"]) == 32


def test_it_does_not_run_and_is_not_started_by_asking(bus):
    bus.kill_daemon()
    bus.make_activatable()
    for words, answer in ((["status"], "busworkd is not running\n"), (["status", "--json"], None)):
        done = bus.run(*words)
        assert done.returncode == Exit.NOT_RUNNING
        assert done.stdout == (answer or '{"running": false}\n')


@pytest.fixture
def troubled():
    """Some other program has what two wings make for their peers."""
    with PrivateBus() as bus:
        (bus.folder / "mapipc_get").write_text("somebody's")
        (bus.folder / "fsct.sock").mkdir()
        bus.start_daemon()
        yield bus


def test_what_wings_can_not_have_is_told(troubled):
    done = troubled.run("status", "--json")
    wings = json.loads(done.stdout)["wings"]
    assert done.returncode == 0
    assert {state["state"] for state in wings.values()} == {"running"}
    folder = troubled.folder
    store = f"native clients can't be served in {folder}, by mapipc_set and mapipc_get: "
    assert (
        wings["store"]["reason"] == f"{store}{folder}/mapipc_get is there already, and is no socket"
    )
    assert f"{folder}/fsct.sock is there already" in wings["fsct"]["reason"]
    assert wings["flipper"]["reason"] == ""
    assert f"wing store       running: {store}" in troubled.run("status").stdout
    assert store in (folder / "daemon.log").read_text()
    assert troubled.run("store", "set", "key", "value").returncode == 0


class Systemd:
    """A client, as far as it is used to ask systemd about the doors."""

    def __init__(self, state, text="", result="success"):
        self.facts = {
            "org.freedesktop.systemd1.Unit": {"ActiveState": state},
            "org.freedesktop.systemd1.Service": {"StatusText": text, "Result": result},
        }

    async def get_all(self, target, *, to):
        assert to == "org.freedesktop.systemd1"
        if not self.facts["org.freedesktop.systemd1.Unit"]["ActiveState"]:
            raise AccessDenied("in a sandbox")
        return self.facts[target[1]]


@pytest.mark.parametrize(
    ("systemd", "told"),
    [
        (Systemd("active", "serving; closed: a door"), "active: serving; closed: a door"),
        (Systemd("active"), "active"),
        (Systemd("activating", result="exit-code"), "activating: exit-code"),
        (Systemd("inactive", "serving"), ""),
        (Systemd(""), ""),
    ],
)
async def test_what_the_doors_say(systemd, told):
    assert await status._doors(systemd) == told

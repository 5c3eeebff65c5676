import json

from buswork import __version__
from buswork.cli.exits import Exit
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

import json
import subprocess

from buswork.cli.clients import user_name
from buswork.cli.exits import Exit

PIPE = subprocess.PIPE


def test_who_holds_what_and_taking_it_away(bus):
    done = bus.run("clients", "--json")
    assert (json.loads(done.stdout), done.stderr) == ([], "")
    done = bus.run("clients")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "nobody holds anything\n")
    bus.run("store", "set", "a", "1")
    watch = bus.popen("store", "watch", "a", "--from", "0", stdout=PIPE, stderr=PIPE)
    watch.stdout.readline()
    lines = bus.run("clients").stdout.splitlines()
    assert lines[0].split() == ["SINCE", "USER", "CLIENT", "WING", "WHAT", "PATH"]
    assert "a watch on 'a'" in lines[1]
    (held,) = json.loads(bus.run("clients", "--json").stdout)
    done = bus.run("clients", "--release", held["path"], "--json")
    assert json.loads(done.stdout) == {"released": held["path"]}
    assert "took this watch away" in watch.communicate(timeout=10)[1]
    assert watch.returncode == Exit.NOT_RUNNING
    assert bus.run("clients", "--release", held["path"]).returncode == Exit.FAILED
    assert bus.run("clients", "--release", "nonsense").returncode == Exit.FAILED


def test_a_uid_without_a_name():
    assert user_name(0) == "root"
    assert user_name(4_000_000_000) == "4000000000"

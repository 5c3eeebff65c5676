import json
import os
import pty
import subprocess

import pytest

from buswork.cli.exits import Exit
from buswork.cli.output import CommandError
from buswork.cli.store import _pairs

EVIL = "a\x1b[31m\nb"


def ok(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    ("key", "words", "pairs"),
    [
        (None, ["k", "v"], [("k", "v")]),
        (None, ["k", "a=b"], [("k", "a=b")]),
        (None, ["a=b=c"], [("a", "b=c")]),
        (None, ["a=", "b=1"], [("a", ""), ("b", "1")]),
        ("a=b", ["c"], [("a=b", "c")]),
    ],
)
def test_what_set_means(key, words, pairs):
    assert _pairs(key, words) == pairs


@pytest.mark.parametrize(
    ("key", "words"),
    [(None, []), (None, ["k"]), (None, ["k", "v", "w"]), (None, ["a=b", "c"]), ("k", ["a", "b"])],
)
def test_what_set_does_not_mean(key, words):
    with pytest.raises(CommandError):
        _pairs(key, words)


def test_get_prints_exactly_the_value(shared_bus):
    ok(shared_bus.run("store", "set", "g/1", EVIL))
    assert ok(shared_bus.run("store", "get", "g/1")) == EVIL
    assert ok(shared_bus.run("store", "get", "g/1", "-n")) == EVIL
    assert ok(shared_bus.run("store", "get", "g/none")) == ""
    assert ok(shared_bus.run("store", "get", "g/none", "g/1")) == f"\n{EVIL}\n"
    answer = json.loads(ok(shared_bus.run("--json", "store", "get", "g/1", "g/none")))
    assert answer == {"g/1": EVIL, "g/none": None}


def test_get_on_a_terminal(shared_bus):
    shared_bus.run("store", "set", "g/2", EVIL)
    ours, theirs = pty.openpty()
    done = shared_bus.run("store", "get", "g/2", capture_output=False, stdout=theirs)
    os.close(theirs)
    assert done.returncode == 0
    assert os.read(ours, 100) == b"a\\x1b[31m\r\nb\r\n"
    os.close(ours)


def test_require(shared_bus):
    for command in ("get", "delete"):
        done = shared_bus.run("store", command, "--require", "r/none")
        assert (done.returncode, done.stdout) == (Exit.NOT_SET, "")
        assert "not set: r/none" in done.stderr


def test_set_several_and_from_stdin(shared_bus):
    ok(shared_bus.run("store", "set", "s/1=a", "s/2=b=c"))
    ok(shared_bus.run("store", "set", "s/3", "-", input="line\n"))
    answer = json.loads(ok(shared_bus.run("store", "get", "s/1", "s/2", "s/3", "--json")))
    assert answer == {"s/1": "a", "s/2": "b=c", "s/3": "line\n"}
    done = shared_bus.run("store", "set", "s/4", "-", input=b"\xff", text=False)
    assert done.returncode == Exit.FAILED
    assert shared_bus.run("store", "set", "s/5=a", "nonsense").returncode == Exit.USAGE
    assert shared_bus.run("store", "set", "a=1", "b=2", "--ttl", "5").returncode == Exit.USAGE


def test_set_if_revision(shared_bus):
    words = ("store", "set", "if", "x", "--if-revision", "0", "--json")
    answer = json.loads(ok(shared_bus.run(*words)))
    assert answer["changed"]
    done = shared_bus.run(*words)
    assert done.returncode == Exit.LOST
    assert json.loads(done.stdout) == {"changed": False, "revision": answer["revision"]}


def test_set_while_a_command_runs(shared_bus):
    command = "buswork store get while; exit 7"
    path = f"{os.path.dirname(os.sys.executable)}:{os.environ['PATH']}"
    words = ("store", "set", "while", "value", "--while", "sh", "-c", command)
    done = shared_bus.run(*words, env={"PATH": path})
    assert (done.returncode, done.stdout) == (7, "value")
    assert ok(shared_bus.run("store", "wait", "while", "", "--timeout", "10")) == ""
    words = ("store", "set", "while", "value", "--while", "--", "true")
    assert ok(shared_bus.run(*words)) == ""


def test_a_command_that_is_not_there_sets_nothing(shared_bus):
    for command in ([], ["--"], ["/nowhere"], ["--", "/nowhere"], ["/"], ["no-such-command"]):
        done = shared_bus.run("store", "set", "not-there", "value", "--while", *command)
        assert (done.returncode, done.stdout) == (Exit.USAGE, "")
        assert "--while" in done.stderr.splitlines()[-1]
    done = shared_bus.run("store", "set", "not-there", "x", "--if-revision", "0", "--json")
    revision = json.loads(done.stdout)["revision"]
    changes = shared_bus.run("store", "watch", "not-there", "--from", "0", "-c", "1", "--json")
    assert json.loads(changes.stdout)["revision"] == revision


def test_wrong_use_shows_the_usage(shared_bus):
    done = shared_bus.run("store", "set", "only-a-key")
    assert done.returncode == Exit.USAGE
    assert done.stderr.startswith("usage: buswork store set ")
    assert "buswork: set takes KEY VALUE" in done.stderr


def test_options_between_the_words(shared_bus):
    assert ok(shared_bus.run("store", "set", "between", "--if-revision", "0", "1")) == ""
    assert ok(shared_bus.run("store", "set", "between", "--ttl", "60", "2")) == ""
    assert ok(shared_bus.run("store", "get", "between")) == "2"


def test_a_ttl_that_is_too_long(shared_bus):
    done = shared_bus.run("store", "set", "long", "v", "--ttl", "1e300")
    assert done.returncode == Exit.FAILED
    assert "at most 3162240000 seconds" in done.stderr


def test_delete_list_and_describe(shared_bus):
    ok(shared_bus.run("store", "set", "l/1=a", "l/\n=b"))
    assert ok(shared_bus.run("store", "list", "l/")) == "l/\\n\nl/1\n"
    assert ok(shared_bus.run("store", "list", "l/", "-0")) == "l/\n\0l/1\0"
    assert json.loads(ok(shared_bus.run("store", "list", "l/", "--json"))) == ["l/\n", "l/1"]
    lines = ok(shared_bus.run("store", "describe", "l/1")).splitlines()
    assert lines[0] == "key       l/1"
    assert "size      1 bytes" in lines
    assert ok(shared_bus.run("store", "describe", "l/\n")).startswith("key       l/\\n\n")
    facts = json.loads(ok(shared_bus.run("store", "describe", "l/1", "--json")))
    assert (facts["key"], facts["uid"], facts["size"]) == ("l/1", os.getuid(), 1)
    assert json.loads(ok(shared_bus.run("store", "delete", "l/1", "--json"))) == {"l/1": True}
    done = shared_bus.run("store", "describe", "l/1", "--json")
    assert (done.returncode, done.stdout) == (Exit.NOT_SET, "null\n")


def test_mark(shared_bus):
    assert ok(shared_bus.run("store", "mark")) != "\n"
    assert ok(shared_bus.run("store", "mark", "a\x1b")) == "a\\x1b\n"
    assert json.loads(ok(shared_bus.run("store", "mark", "--show", "--json"))) == {"mark": "a\x1b"}
    assert shared_bus.run("store", "mark", "a", "--show").returncode == Exit.USAGE


def test_clear_asks_on_a_terminal(bus):
    bus.run("store", "set", "a", "1")
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    done = bus.run("store", "clear", stdin=theirs)
    assert done.returncode == Exit.FAILED
    assert bus.run("store", "get", "a").stdout == "1"
    os.write(ours, b"y\n")
    ok_answer = bus.run("store", "clear", stdin=theirs)
    assert ok_answer.returncode == 0
    os.close(ours)
    os.close(theirs)
    assert bus.run("store", "list").stdout == ""
    bus.run("store", "set", "a", "1")
    assert ok(bus.run("store", "clear", "--yes")) == ""


def test_access_denied(shared_bus):
    done = shared_bus.run("store", "set", "~54321/key", "x")
    assert done.returncode == Exit.DENIED
    assert "(org.freedesktop.DBus.Error.AccessDenied)" in done.stderr


def test_no_daemon_and_no_bus(bus):
    bus.kill_daemon()
    assert bus.run("store", "get", "a").returncode == Exit.NOT_RUNNING
    assert bus.run("store", "get", "a", "--bus", "unix:path=/no").returncode == Exit.NOT_RUNNING

import json
import os
import signal
import subprocess
import sys

import pytest

from buswork.cli.exits import Exit

PIPE = subprocess.PIPE


def test_changes_as_lines(bus):
    bus.run("store", "set", "a\x1b", "1\n2")
    bus.run("store", "delete", "a\x1b")
    bus.run("store", "set", "b", "x")
    bus.run("store", "clear")
    done = bus.run("store", "watch", "--from", "0", "--count", "4")
    assert done.stdout == "1 a\\x1b = 1\\n2\n2 a\\x1b went\n3 b = x\n4 all keys went\n"
    done = bus.run("store", "watch", "--from", "0", "--count", "4", "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"revision": 1, "key": "a\x1b", "value": "1\n2"},
        {"revision": 2, "key": "a\x1b"},
        {"revision": 3, "key": "b", "value": "x"},
        {"revision": 4, "kind": "clear"},
    ]


@pytest.mark.attack(21)
def test_a_command_for_each_change(bus):
    value = "$(touch /tmp/never); `id`"
    bus.run("store", "set", "a", value)
    bus.run("store", "set", "b", "-", input="x" * 200_000)
    bus.run("store", "delete", "b")
    code = (
        "import os, sys; e = os.environ; print(e['BUSWORK_REVISION'], e['BUSWORK_KIND'],"
        " e['BUSWORK_KEY'], e.get('BUSWORK_VALUE'), len(sys.stdin.read()), sys.argv[1:])"
    )
    words = ("store", "watch", "--from", "0", "-c", "3", "--exec", sys.executable, "-c", code)
    done = bus.run(*words)
    assert done.stdout.splitlines() == [
        f"1 set a {value} {len(value)} []",
        "2 set b None 200000 []",
        "3 gone b None 0 []",
    ]


def test_a_command_that_fails_or_is_not_there(bus):
    bus.run("store", "set", "a", "1")
    done = bus.run("store", "watch", "--from", "0", "-c", "1", "--exec", "false")
    assert (done.returncode, done.stderr) == (0, "false ended with 1 at revision 1\n")
    done = bus.run("store", "watch", "--from", "0", "-c", "1", "--exec", "--", "echo", "--", "x")
    assert done.stdout == "-- x\n"
    for command in ([], ["--"], ["/nowhere"], ["no-such-command"]):  # and before any change comes
        done = bus.run("store", "watch", "--exec", *command, timeout=10)
        assert done.returncode == Exit.USAGE
        assert "--exec" in done.stderr.splitlines()[-1]


def test_a_restart_is_a_gap(bus):
    bus.run("store", "set", "a", "1")
    watch = bus.popen("store", "watch", "--from", "0", stdout=PIPE, stderr=PIPE)
    assert watch.stdout.readline() == "1 a = 1\n"
    bus.kill_daemon()
    bus.start_daemon()
    assert "started anew" in watch.communicate(timeout=10)[1]
    assert watch.returncode == Exit.GAP


def test_ctrl_c(bus):
    bus.run("store", "set", "a", "1")
    watch = bus.popen("store", "watch", "--from", "0", stdout=PIPE, stderr=PIPE)
    watch.stdout.readline()
    watch.send_signal(signal.SIGINT)
    assert watch.communicate(timeout=10) == ("", "")
    assert watch.returncode == Exit.INTERRUPTED


def test_nobody_reads_any_more(bus):
    """It ends at once and not with the next change, which may never come."""
    bus.run("store", "set", "a", "1")
    watch = bus.popen("store", "watch", "--from", "0", stdout=PIPE, stderr=PIPE)
    watch.stdout.readline()
    watch.stdout.close()
    assert watch.wait(10) == Exit.NOBODY_READS
    assert watch.stderr.read() == ""
    watch.stderr.close()


def test_wait_returns_at_once_when_it_is_so(bus):
    bus.run("store", "set", "a", "1")
    assert bus.run("store", "wait", "a").stdout == "1"
    assert bus.run("store", "wait", "a", "1").stdout == "1"
    done = bus.run("store", "wait", "a", "1", "--json")
    assert json.loads(done.stdout) == {"key": "a", "value": "1", "revision": 1}
    done = bus.run("store", "wait", "none", "", "--json")
    assert json.loads(done.stdout)["value"] is None


def test_wait_times_out(bus):
    done = bus.run("store", "wait", "a", "--timeout", "0.1")
    assert (done.returncode, done.stdout) == (Exit.TIMED_OUT, "")


def test_wait_hears_of_the_change(bus):
    waiting = bus.popen("store", "wait", "a", "2", stdout=PIPE)
    for value in ("1", "2"):
        bus.run("store", "set", "ab", "2")
        bus.run("store", "set", "a", value)
    assert waiting.communicate(timeout=10)[0] == "2"


def test_wait_goes_on_over_a_restart(bus):
    waiting = bus.popen("store", "wait", "a", "2", stdout=PIPE)
    while "a watch on" not in bus.run("clients").stdout:
        pass
    bus.kill_daemon()
    bus.start_daemon()
    bus.run("store", "set", "a", "2")
    assert waiting.communicate(timeout=10)[0] == "2"


def test_the_environment_of_a_command_has_no_stale_value(bus):
    bus.run("store", "set", "a", "1")
    bus.run("store", "delete", "a")
    words = ("store", "watch", "--from", "1", "-c", "1", "--exec", "sh", "-c")
    script = 'echo "${BUSWORK_VALUE-unset}"'
    done = bus.run(*words, script, env={"BUSWORK_VALUE": "stale"})
    assert done.stdout == "unset\n"
    assert "BUSWORK_VALUE" not in os.environ

import json
import signal
import subprocess

from buswork.cli.exits import Exit

PIPE = subprocess.PIPE


def of_the_store(stream):
    """The next line about it; a daemon that has just started may tell of libipc services too."""
    while "org.mapipc.Store" not in (line := stream.readline()):
        assert line
    return line


def test_signals_as_lines(bus):
    monitor = bus.popen("monitor", stdout=PIPE, stderr=PIPE)
    as_json = bus.popen("monitor", "--json", stdout=PIPE, stderr=PIPE)
    for each in (monitor, as_json):
        assert "listening" in each.stderr.readline()
    bus.run("store", "set", "a\x1b", "1")
    line = of_the_store(monitor.stdout)
    assert line.endswith('/org/mapipc/Store org.mapipc.Store.Changed "a\\u001b" 1\n')
    assert line.rstrip("\n").isprintable()
    told = json.loads(of_the_store(as_json.stdout))
    assert (told["member"], told["values"]) == ("Changed", ["a\x1b", 1])
    bus.kill_daemon()
    bus.start_daemon()
    assert monitor.stderr.readline() == "the daemon started anew\n"
    bus.run("store", "set", "b", "1")
    assert '"b" 1' in of_the_store(monitor.stdout)
    monitor.send_signal(signal.SIGINT)
    assert monitor.wait(10) == Exit.INTERRUPTED
    as_json.stdout.close()
    assert as_json.wait(10) == Exit.NOBODY_READS
    for stream in (monitor.stdout, monitor.stderr, as_json.stderr):
        stream.close()


def test_the_bus_goes(bus):
    monitor = bus.popen("monitor", stdout=PIPE, stderr=PIPE)
    monitor.stderr.readline()
    bus.kill_bus()
    assert "connection to the bus is gone" in monitor.communicate(timeout=10)[1]
    assert monitor.returncode == Exit.NOT_RUNNING

import os
import pty
import re
import socket
import struct
import threading

import pytest
from cli.services import Services

from buswork.cli.exits import Exit


@pytest.fixture(scope="module")
def services():
    with Services() as services:
        services.start_daemon()
        yield services


def message(payload, user_type=0):
    return struct.pack(">BIB", 2, len(payload), user_type) + payload


@pytest.mark.parametrize("way", ["--direct", "--daemon"])
def test_everything_comes_back_in_order(services, way):
    messages = b"".join(message(b"%d" % number, number) for number in range(100))
    with services.running("pong", way), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(services.c / "pong"))
        client.sendall(messages)
        with client.makefile("rb") as answers:
            assert answers.read(len(messages)) == messages


def test_it_ends_after_so_many(services):
    with services.running("pong", "--count", "2") as pong:
        assert services.ok("send", "pong", "1") == "1"
        assert services.ok("send", "pong", "2") == "2"
        assert pong.wait(10) == 0
    assert not (services.c / "pong").exists()


def test_a_client_that_reads_nothing_keeps_nobody_waiting(services):
    flood = message(bytes(30_000)) * 2_000
    with services.running("pong"), socket.socket(socket.AF_UNIX) as greedy:
        greedy.connect(str(services.c / "pong"))
        sender = threading.Thread(target=greedy.sendall, args=[flood])
        sender.start()
        assert services.ok("send", "pong", "hello") == "hello"
        with greedy.makefile("rb") as answers:
            assert answers.read(len(flood)) == flood
        sender.join()


def test_the_daemon_lets_go_of_a_client_that_reads_nothing(services):
    flood = message(bytes(30_000)) * 2_000
    with services.running("pong", "--daemon") as pong, socket.socket(socket.AF_UNIX) as greedy:
        greedy.connect(str(services.c / "pong"))
        greedy.settimeout(30)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            greedy.sendall(flood)
        assert services.ok("send", "pong", "hello") == "hello"
        assert "client 1: it does not read what it is sent" in pong.stderr.readline()


def test_measuring(services):
    with services.running("pong"):
        told = services.ok("pong", "--measure", "--count", "100", "--size", "10")
        assert re.fullmatch(
            r"100 round trips of 10 bytes: [\d,]+ a second; half took at most [\d,]+ us, "
            r"99 of 100 at most [\d,]+ us\n",
            told,
        )
        found = services.answer("pong", "--measure", "--count", "100")
        assert (found["trips"], found["bytes"]) == (100, 2)
        assert found["trips_a_second"] > 0
        assert 0 < found["median_us"] <= found["p99_us"]
    told = services.failure("pong", "nobody", "--measure", status=Exit.NOT_RUNNING)
    assert "there is no service nobody" in told


def test_measuring_what_is_no_echo(services):
    with services.running("listen", "shout", "--exec", "echo", "no"):
        told = services.failure("pong", "shout", "--measure", "--count", "2")
        assert "what came back is not what was sent" in told


def test_a_bar_shows_how_far_it_is(services, monkeypatch):
    ours, theirs = pty.openpty()
    words = ("pong", "--measure", "--count", "100000000", "--json")
    with services.running("pong"):
        with services.popen("ipc", *words, stdout=theirs, stderr=theirs) as measuring:
            os.close(theirs)
            assert b"measuring [" in os.read(ours, 4096)
            measuring.terminate()
        os.close(ours)

import getpass
import json
import os
import signal
import socket

import pytest
from cli.services import Services

from buswork.cli.exits import Exit

EVIL = "a\x1b[31m\nb"


@pytest.fixture(scope="module")
def services():
    with Services() as services:
        services.start_daemon()
        yield services


@pytest.fixture(params=["--direct", "--daemon"])
def way(request):
    return request.param


def test_what_comes_is_printed(services, way):
    with services.running("listen", "inbox", way) as inbox:
        services.ok("send", "inbox", EVIL, "--user-type", "9", "--no-reply")
        lines = [inbox.stdout.readline() for _ in range(3)]
        first, *rest = lines
        assert first.startswith(f"1 connected: {getpass.getuser()}, process ")
        assert rest == ["1 9 a\\x1b[31m\\nb\n", "1 disconnected\n"]


def test_as_json(services, way):
    with services.running("listen", "inbox", "--json", way) as inbox:
        services.ok("send", "inbox", EVIL, "--no-reply")
        services.ok("send", "inbox", "--hex", "ff", "--no-reply")
        events = [json.loads(inbox.stdout.readline()) for _ in range(6)]
    assert {event.pop("pid") > 0 for event in events if event["event"] == "connected"} == {True}
    assert [event for event in events if event["client"] == 1] == [
        {"event": "connected", "client": 1, "uid": os.getuid()},
        {"event": "message", "client": 1, "type": 2, "user_type": 0, "payload": EVIL},
        {"event": "disconnected", "client": 1},
    ]
    assert {"event": "disconnected", "client": 2} in events
    (odd,) = [each for each in events if each["client"] == 2 and each["event"] == "message"]
    assert odd["payload"] == {"hex": "ff"}


def test_in_hexadecimal(services):
    with services.running("listen", "inbox", "--hex", "--count", "1") as inbox:
        services.ok("send", "inbox", "hi", "--no-reply")
        assert "1 0 6869\n" in inbox.communicate(timeout=10)[0]
        assert inbox.returncode == 0


def test_a_command_answers(services, way):
    script = 'tr a-z A-Z; printf " %s %s" $BUSWORK_IPC_CLIENT $BUSWORK_IPC_USER_TYPE'
    with services.running("listen", "shout", way, "--exec", "sh", "-c", script):
        answer = services.answer("send", "shout", "hello", "--user-type", "42")
        assert (answer["payload"], answer["user_type"]) == ("HELLO 1 42", 42)
        assert services.ok("send", "shout", "-", input="$(id)") == "$(ID) 2 0"


def test_a_command_that_says_nothing_answers_nothing(services):
    with services.running("listen", "quiet", "--count", "1", "--exec", "false") as quiet:
        services.failure("send", "quiet", "x", status=Exit.NOT_RUNNING)
        assert "false ended with 1 for client 1" in quiet.communicate(timeout=10)[1]


def test_an_answer_that_is_too_long_ends_nothing(services):
    count = "head -c $(cat) /dev/zero"
    with services.running("listen", "zig:zeros", "--exec", "sh", "-c", count) as zeros:
        services.ok("send", "zig:zeros", "99993", "--no-reply")
        assert "InvalidArgs" in zeros.stderr.readline()
        assert services.ok("send", "zig:zeros", "3") == "\0\0\0"


def test_commands_that_are_none(services):
    for words, why in (
        (("listen", "x", "--exec"), "--exec takes a command"),
        (("listen", "x", "--exec", "no-such-command"), "there is no such command"),
        (("listen", "x", "--connect", "--exec", "true"), "is for a service"),
    ):
        assert why in services.failure(*words, status=Exit.USAGE)


def test_a_connection_is_listened_to(services):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(services.c / "radio"))
        listener.listen()
        with services.running("listen", "radio", "--connect", "--count", "2") as listening:
            radio, _ = listener.accept()
            with radio:
                radio.sendall(b"\2\0\0\0\4\x2anews" * 2)
                assert listening.communicate(timeout=10)[0] == "42 news\n" * 2
        with services.running("listen", "radio", "--connect", "--json") as listening:
            radio, _ = listener.accept()
            with radio:
                radio.sendall(b"\2\0\0\0\4\x2anews")
                assert json.loads(listening.stdout.readline()) == {
                    "event": "message", "type": 2, "user_type": 42, "payload": "news",
                }  # fmt: skip
            assert "PeerGone" in listening.stderr.readline()
            assert listening.wait(10) == Exit.NOT_RUNNING


def test_a_name_that_is_taken(services, way):
    with services.running("listen", "inbox", "--direct"):
        assert "NameTaken" in services.failure("listen", "inbox", way)


def test_nothing_is_left_of_it(services, way):
    for number in (signal.SIGTERM, signal.SIGINT):
        with services.running("listen", "inbox", way) as inbox:
            inbox.send_signal(number)
            assert inbox.wait(10) == 128 + number
        names = [each["name"] for each in services.answer("list", "--daemon")]
        assert "inbox" not in names


def test_a_service_that_is_taken_away(services):
    with services.running("listen", "inbox", "--daemon") as inbox:
        done = services.run("clients", "--json")
        (held,) = [each for each in json.loads(done.stdout) if "inbox" in each["what"]]
        assert services.run("clients", "--release", held["path"]).returncode == 0
        assert "inbox was taken away (org.libipc.Error.PeerGone)" in inbox.stderr.readline()
        assert inbox.wait(10) == Exit.NOT_RUNNING

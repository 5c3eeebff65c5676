import contextlib
import json
import socket

import pytest
from cli.services import PIPE, Services

from buswork.cli.exits import Exit


@pytest.fixture(scope="module")
def services():
    with Services() as services, services.running("pong"), services.running("pong", "zig:zong"):
        yield services


# -- stdin and stdout ----------------------------------------------------------------------------


def test_lines_are_messages(services):
    done = services.ok("bridge", "-", "pong", "--count", "3", input="one\n\nthree")
    assert done == "one\n\nthree\n"
    assert services.ok("bridge", "zong", "-", "--count", "1", input="one\n") == "one\n"


def test_it_stays_until_nothing_comes(services):
    assert services.ok("bridge", "-", "pong", "--linger", "0.2", input="one\ntwo\n") == "one\ntwo\n"
    assert services.ok("bridge", "-", "pong", "--linger", "0.1", input="") == ""


def test_a_file_is_read_as_well(services, tmp_path):
    text = "".join(f"line {number}\n" for number in range(20_000))
    (tmp_path / "lines").write_text(text)
    with (tmp_path / "lines").open() as lines:
        done = services.ok("bridge", "-", "pong", "--count", "20000", stdin=lines)
    assert done == text


def test_a_conversation(services):
    with services.popen("ipc", "bridge", "-", "pong", stdin=PIPE, stdout=PIPE) as bridge:
        for word in ("one\n", "two\n"):
            bridge.stdin.write(word)
            bridge.stdin.flush()
            assert bridge.stdout.readline() == word
        bridge.stdout.close()
        assert bridge.wait(10) == Exit.NOBODY_READS


def test_json_is_for_what_lines_have_no_room_for(services):
    line = '{"user_type": 3, "payload": "a\\nb"}\n{"payload": {"hex": "ff"}}\n'
    done = services.ok("bridge", "-", "pong", "--framing", "json", "--count", "2", input=line)
    assert [json.loads(line) for line in done.splitlines()] == [
        {"type": 2, "user_type": 3, "payload": "a\nb"},
        {"type": 2, "user_type": 0, "payload": {"hex": "ff"}},
    ]


@pytest.mark.parametrize(
    ("service", "raw"), [("pong", b"\2\0\0\0\2\x2ahi"), ("zong", b"\0\0\0\2hi")]
)
def test_the_wire(services, service, raw):
    words = ("bridge", "-", service, "--framing", "wire", "--count", "1")
    assert services.ipc(*words, input=raw, text=False).stdout == raw


def test_user_types_of_lines(services):
    with services.running("listen", "inbox", "--count", "1") as inbox:
        services.ok("bridge", "-", "inbox", "--user-type", "9", input="hello")
        assert "1 9 hello\n" in inbox.communicate(timeout=10)[0]


def test_input_that_is_no_message(services):
    words = ("bridge", "-", "pong", "--framing")
    assert "a line is no message" in services.failure(*words, "json", input="x\n")
    assert "ended within a message" in services.failure(*words, "wire", input="\2")


def test_a_service_that_ends(services):
    with services.running("listen", "once", "--count", "1"):
        assert services.ok("bridge", "-", "once", "--linger", "60", input="x\n") == ""


@pytest.mark.parametrize("ends", [("-", "-"), ("-", "pong", "--serve")])
def test_what_can_not_be_tied(services, ends):
    assert "- is one of the two" in services.failure("bridge", *ends, status=Exit.USAGE)
    told = services.failure("bridge", "-", "nobody", status=Exit.NOT_RUNNING)
    assert "there is no service nobody" in told


# -- services ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("zig:from-zig", "pong", ()),
        ("c:from-c", "zong", ()),
        ("c:typed", "zong", ("--typed",)),
        ("c:same", "pong", ()),
    ],
)
def test_each_client_has_its_connection(services, name, target, words):
    with services.running("bridge", "--serve", name, target, *words):
        assert services.ok("send", name, "hello") == "hello"
        assert services.ok("bridge", "-", name, "--count", "2", input="a\nb\n") == "a\nb\n"
        if words:
            assert services.answer("send", name, "x", "--user-type", "42")["user_type"] == 42


def test_a_target_that_is_not_there(services):
    with services.running("bridge", "--serve", "front", "back") as bridge:
        services.failure("send", "front", "x", status=Exit.NOT_RUNNING)
        assert "there is no service back" in bridge.stderr.readline()
        with services.running("pong", "back"):
            assert services.ok("send", "front", "hello") == "hello"


def test_two_services(services):
    """Each gets what the other one sends; both end when one does."""
    with listening(services.c / "left") as left, listening(services.zig / "right") as right:
        with services.popen("ipc", "bridge", "left", "right") as bridge:
            first, second = left.accept()[0], right.accept()[0]
            with first, second:
                first.sendall(b"\2\0\0\0\2\x2ahi")
                assert second.recv(100) == b"\0\0\0\2hi"
                second.sendall(b"\0\0\0\3you")
                assert first.recv(100) == b"\2\0\0\0\3\0you"
                first.close()
                assert second.recv(100) == b""
        assert bridge.returncode == 0


@contextlib.contextmanager
def listening(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(10)
        listener.bind(str(path))
        listener.listen()
        yield listener
        path.unlink()

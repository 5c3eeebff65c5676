"""buswork ipc list and send."""

import getpass
import signal
import socket
import struct
import threading

import pytest
from cli.services import PIPE, Services

from buswork.cli.exits import Exit

NOBODY = "there is no service nobody (org.libipc.Error.NoSuchService)"


def message(payload, user_type=0):
    return struct.pack(">BIB", 2, len(payload), user_type) + payload


@pytest.fixture(scope="module")
def services():
    """Without a daemon."""
    with Services() as services:
        yield services


@pytest.fixture(scope="module")
def served():
    """With one."""
    with Services() as services:
        services.start_daemon()
        yield services


@pytest.fixture(scope="module")
def pong(services):
    with services.running("pong"):
        yield services


@pytest.fixture
def odd(services):
    """A service that answers what the test tells it to, and what it has read."""
    with socket.socket(socket.AF_UNIX) as listener:
        path = services.c / "odd"
        listener.bind(str(path))
        listener.listen()
        answer, came = [], []

        def serve():
            connection, _ = listener.accept()
            with connection:
                came.append(connection.recv(65536))
                connection.sendall(b"".join(answer))
                connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield answer, came
        thread.join()
        path.unlink()


# -- what there is -------------------------------------------------------------------------------


def test_list(pong):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(pong.zig / "left"))
    first, *lines = pong.ok("list").splitlines()
    assert first.split() == ["SERVICE", "FORM", "STATE", "OWNER", "CONNECTIONS", "DIRECTORY"]
    user = getpass.getuser()
    assert [line.split() for line in lines] == [
        ["left", "zig", "left", "behind", user, "0", str(pong.zig)],
        ["pong", "c", "alive", user, "0", str(pong.c)],
    ]
    (found,) = pong.answer("list", "--form", "c")
    assert (found["name"], found["alive"], found["connections"]) == ("pong", True, 0)
    assert "served" not in found
    (pong.zig / "left").unlink()


def test_connections_are_counted(pong):
    with pong.running("listen", "pong", "--connect"):
        (found,) = pong.answer("list")
        assert found["connections"] == 1


def test_no_service(services, tmp_path):
    nowhere = {"IPC_RUNDIR": str(tmp_path), "RUNDIR": str(tmp_path / "none")}
    done = services.ipc("list", env=nowhere)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "there is no service\n")
    assert services.answer("list", env=nowhere) == []


def test_watching(services, tmp_path):
    env = {"IPC_RUNDIR": str(tmp_path)}
    watch = services.popen("ipc", "list", "--watch", "--json", "--form", "c", stdout=PIPE, env=env)
    with watch:
        assert watch.stdout.readline() == "[]\n"
        with services.running("pong", "new", env=env):
            assert '"name": "new"' in watch.stdout.readline()
        assert watch.stdout.readline() == "[]\n"
        watch.send_signal(signal.SIGINT)
        assert watch.wait(10) == Exit.INTERRUPTED


def test_what_the_daemon_tells(served):
    with served.running("pong"):
        found = {each["name"]: each for each in served.answer("list", "--daemon")}
        assert {"network", "ipc", "pong"} <= found.keys()
        assert found["pong"]["alive"]


# -- sending -------------------------------------------------------------------------------------


def test_an_answer_is_printed_as_it_is(pong):
    assert pong.ok("send", "pong", "hello") == "hello"
    assert pong.ok("send", "pong", input="from stdin\n") == "from stdin\n"
    assert pong.ok("send", "pong", "-", input="") == ""
    raw = pong.ipc("send", "pong", input=b"\xff\x00", text=False)
    assert raw.stdout == b"\xff\x00"


def test_an_answer_as_json(pong):
    assert pong.answer("send", "pong", "hello", "--user-type", "42") == {
        "type": 2, "user_type": 42, "payload": "hello",
    }  # fmt: skip
    assert pong.answer("send", "pong", "--hex", "ff00")["payload"] == {"hex": "ff00"}


def test_hexadecimal(pong):
    assert pong.ok("send", "pong", "--hex", "00ff") == "00ff\n"
    assert pong.ok("send", "pong", "--hex", input="00 ff\n") == "00ff\n"
    assert "not hexadecimal" in pong.failure("send", "pong", "--hex", "hello")


def test_several_answers_are_lines(services, odd):
    answer, _ = odd
    answer += [message(b"one"), message(b"two\nthree"), message(b"")]
    assert services.ok("send", "odd", "x", "--wait", "3") == "one\ntwo\nthree\n\n"


def test_large_messages(pong):
    text = "x" * 1_000_000
    assert pong.ok("send", "pong", input=text) == text


def test_what_is_too_large(pong):
    told = pong.failure("send", "pong", input="x" * 1_999_989)
    assert "at most 1999988 bytes" in told
    assert "stdin has more" in pong.failure("send", "pong", input="x" * 6_000_000)
    assert "stdin has more" in pong.failure("send", "pong", "--hex", input="00 " * 2_000_000)


def test_without_an_answer(services, odd):
    _, came = odd
    assert services.ok("send", "odd", "hello", "--no-reply", "--user-type", "7") == ""
    assert came == [message(b"hello", 7)]


def test_an_answer_that_does_not_come(services, odd):
    told = services.failure("send", "odd", "x", "--timeout", "0.2", status=Exit.TIMED_OUT)
    assert "no answer in 0.2 s" in told


def test_a_service_that_goes(services):
    with services.running("listen", "once", "--count", "1"):
        assert "PeerGone" in services.failure("send", "once", "x", status=Exit.NOT_RUNNING)


def test_the_form_of_zig(services):
    with services.running("pong", "zig:pong"):
        assert services.ok("send", "zig:pong", "hello") == "hello"
        assert services.ok("send", "pong", "--form", "zig", "hello") == "hello"
        told = services.failure("send", "zig:pong", "hello", "--user-type", "1")
        assert "carries no types" in told
        assert "InvalidArgs" in told


@pytest.mark.parametrize("options", [[], ["--direct"], ["--form", "zig"]])
def test_a_service_that_is_not_there(services, options):
    told = services.failure("send", "nobody", "x", *options, status=Exit.NOT_RUNNING)
    assert NOBODY in told


def test_a_name_that_none_can_have(services):
    assert "InvalidArgs" in services.failure("send", "a/b", "x")


def test_looked_up(served):
    with served.running("pong", "target"):
        network = {"IPC_NETWORK": "other unix://target"}
        assert served.ok("send", "other", "hello", "--direct", env=network) == "hello"


# -- by the daemon -------------------------------------------------------------------------------


def test_what_is_not_here_is_asked_of_the_daemon(served, tmp_path):
    elsewhere = {"IPC_RUNDIR": str(tmp_path), "RUNDIR": str(tmp_path)}
    with served.running("pong"), served.running("pong", "zig:zigzag"):
        assert served.ok("send", "pong", "hello", env=elsewhere) == "hello"
        assert served.ok("send", "zigzag", "hello", env=elsewhere) == "hello"
        told = served.failure(
            "send", "pong", "x", "--direct", env=elsewhere, status=Exit.NOT_RUNNING
        )
        assert "there is no service pong" in told


def test_by_the_daemon_alone(served, services):
    with served.running("pong"):
        assert served.ok("send", "pong", "hello", "--daemon") == "hello"
    assert "nobody" in served.failure("send", "nobody", "x", status=Exit.NOT_RUNNING)
    told = services.failure("send", "nobody", "x", "--daemon", status=Exit.NOT_RUNNING)
    assert "org.freedesktop.DBus.Error.ServiceUnknown" in told


def test_where_there_is_no_bus(pong):
    nowhere = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere"}
    assert pong.ok("send", "pong", "hello", env=nowhere) == "hello"
    assert NOBODY in pong.failure("send", "nobody", "x", env=nowhere, status=Exit.NOT_RUNNING)

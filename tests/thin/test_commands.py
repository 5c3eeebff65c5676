"""mapipc and globstash as processes, against a daemon that records and answers as it is told."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.mapipcd import matches, vectors

SOURCE = Path(__file__).resolve().parents[2] / "src"
MORE = "Use `mapipc get` or `mapipc set`. Run `mapipc -h` for more help."
NO_KEY = "Key (-k) argument must be provided for command. Run `mmapipc -h` for more help."
# The original keeps the last packet of a reply only; this reads all of it.
WHOLE_REPLIES = {"get_reply_two_packets", "get_reply_300000", "get_reply_1000000"}


class Recorder:
    """Accepts one client after the other on both sockets, and answers with `reply`."""

    def __init__(self, directory):
        self.directory = directory
        self.reply = None  # None: an echo
        self.requests = []
        self._sockets = []
        for name in ("mapipc_set", "mapipc_get"):
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(directory / name))
            sock.listen()
            self._sockets.append(sock)
            threading.Thread(target=self._serve, args=[sock], daemon=True).start()

    def _serve(self, sock):
        while True:
            try:
                client, _ = sock.accept()
            except OSError:
                return
            with client:
                request = client.recv(1 << 20)
                while request[:1] == b"{" and not request.endswith(b"}\n"):
                    request += client.recv(1 << 20)
                self.requests.append(request)
                client.sendall(request if self.reply is None else self.reply)

    def close(self):
        for sock in self._sockets:
            sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@pytest.fixture
def recorder(tmp_path):
    recorder = Recorder(tmp_path)
    yield recorder
    recorder.close()


def run(program, *arguments, directory="/nowhere", environment=None, python=(), code=None):
    return subprocess.run(
        [sys.executable, *python, "-m", f"buswork.thin.{program}", *arguments],
        env=os.environ
        | {
            "PYTHONPATH": str(SOURCE),
            "MAPIPC_SET": f"{directory}/mapipc_set",
            "MAPIPC_GET": f"{directory}/mapipc_get",
            "TMPDIR": str(directory),
        }
        | (environment or {}),
        capture_output=True,
        timeout=20,
    )


def outcome(done):
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def reply_of(vector):
    told = vector["server_reply"]
    if told == "echo":
        return None
    if "hex" in told:
        return bytes.fromhex(told["hex"])
    return b'{\n    "value": "%b"\n}\n' % (b"z" * (told["length"] - 20))


@pytest.mark.parametrize("vector", vectors("mapipc_cli_wire"), ids=lambda v: v["name"])
def test_what_the_original_was_recorded_to_do(recorder, vector):
    recorder.reply = reply_of(vector)
    arguments = vector["args"]
    if arguments[-1].endswith(")") and "..." in arguments[-1]:
        arguments = [*arguments[:-1], "x" * int(arguments[-1].partition("(")[2][:-1])]
    done = run("mapipc", *arguments, directory=recorder.directory, environment=vector["env"])
    assert matches(recorder.requests[0], vector["request"])
    if vector["name"] in WHOLE_REPLIES:
        assert done.returncode == 0
        return
    assert done.returncode == vector["exit"]
    assert matches(done.stdout, vector["stdout"])
    assert done.stderr.decode() == vector["stderr"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], NO_KEY),
        (["get"], NO_KEY),
        (["set", "-k", ""], NO_KEY),
        (["foo", "-k", "k"], f"Unrecognized command arguemnt: foo. {MORE}"),
        (["set", "foo", "bar"], f"Too many command arguments. {MORE}"),
        (["-x"], "1.0: Unknown option 'x'."),
        (["--foo=1"], "1.0: Unknown option 'foo'."),
        (["-xy"], "1.0: Unknown options: x, y."),
        (["get", "-k"], "1.0: Missing value after '-k'."),
        (["get", "--key"], "1.0: Missing value after '--key'."),
        (["--version=2"], "1.0: Unexpected value after '--version'."),
        (["-h=2"], "1.0: Unexpected value after '-h'."),
    ],
)
def test_complaints_about_the_command_line(arguments, complaint):
    assert outcome(run("mapipc", *arguments)) == (1, "", f"{complaint}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-k", "key", "-a", "value"],
        ["set", "-kkey", "-avalue"],
        ["--key", "key", "--value=value"],
        ["-k=key", "--value", "value", "--", "set"],
        ["-k", "other", "-k", "key", "-a", "value"],
    ],
)
def test_ways_to_write_the_options(recorder, arguments):
    assert outcome(run("mapipc", *arguments, directory=recorder.directory)) == (0, "", "")
    assert recorder.requests == [b'{\n    "key": "key",\n    "value": "value"\n}\n']


def test_version_and_help():
    assert outcome(run("mapipc", "-v")) == (0, "1.0 \n", "")
    for option in ("-h", "--help", "--help-all"):
        status, text, _ = outcome(run("mapipc", option))
        assert status == 0
        assert "--key" in text


def test_nobody_there(tmp_path):
    said = "error: QLocalSocket::connectToServer: "
    assert outcome(run("mapipc", "get", "-k", "k")) == (1, "", f"{said}Invalid name\n")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "mapipc_get"))
    done = run("mapipc", "get", "-k", "k", directory=tmp_path)
    assert outcome(done) == (1, "", f"{said}Connection refused\n")


def test_another_port(recorder, tmp_path):
    recorder.reply = b'{"value":"v"}'
    get = str(tmp_path / "mapipc_get")
    for port in ("mapipc_get", get):
        done = run("mapipc", "get", "-k", "k", "-p", port, environment={"TMPDIR": str(tmp_path)})
        assert outcome(done) == (0, "v", "")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b'{\n    "value": "a\\nb"\n}\n', (0, "a\nb", "")),
        (b'{"x":1,"value":"v"}', (0, "v", "")),
        (b'{\n    "value": null\n}\n', (0, "", "")),
        (b'{\n    "value": ""\n}\n', (0, "", "")),
        (b'{\n    "value": [\n        1\n    ]\n}\n', (0, "[1]", "")),
        (b'{"error":"E","message":"not\\u001b you"}', (1, "", "globstash: not\\x1b you\n")),
        (b"", (1, "", "globstash: the answer makes no sense\n")),
        (b"[" * 100_000, (1, "", "globstash: the answer makes no sense\n")),
    ],
)
def test_globstash_get(recorder, reply, expected):
    recorder.reply = reply
    assert outcome(run("globstash", "get", "k", directory=recorder.directory)) == expected
    assert recorder.requests == [b"k"]


def test_globstash_set(recorder):
    assert outcome(run("globstash", "set", "k", "v", directory=recorder.directory)) == (0, "", "")
    assert outcome(run("globstash", "set", "k", "", directory=recorder.directory)) == (0, "", "")
    assert recorder.requests[1] == b'{\n    "key": "k",\n    "value": null\n}\n'
    recorder.reply = b""
    status, _, complaint = outcome(
        run("globstash", "set", "k\n", "v", directory=recorder.directory)
    )
    assert status == 1
    assert complaint.startswith("globstash: k\\n was not set")


def test_globstash_without_a_daemon_or_sense():
    assert run("globstash", "get", "k").returncode == 1
    assert run("globstash", "--help").returncode == 0
    for arguments in ([], ["get"], ["get", ""], ["set", "k"], ["get", "a", "b"], ["put", "a", "b"]):
        done = run("globstash", *arguments)
        assert done.returncode == 2
        assert b"usage" in done.stderr


@pytest.mark.parametrize("program", ["globstash", "mapipc"])
def test_they_import_next_to_nothing(program):
    code = f"import sys; before = set(sys.modules); import buswork.thin.{program}; "
    code += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True,
    )  # fmt: skip
    ours = {"buswork", "buswork.thin", "buswork.thin.wire", f"buswork.thin.{program}"}
    assert set(done.stdout.split()) - ours <= {"_json", "_socket"}

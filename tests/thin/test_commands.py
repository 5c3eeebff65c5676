"""mapipc and globstash as processes, against a daemon that records and answers as it is told."""

import os
import pwd
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.mapipcd import matches, vectors

from buswork.thin import mapipc, wire

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
        self.pieces = []  # of a reply that is long in coming
        self.reads = 1 << 20  # of a request, before it is answered
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
                request = client.recv(self.reads)
                while request[:1] == b"{" and not request.endswith(b"}\n"):
                    request += client.recv(1 << 20)
                self.requests.append(request)
                for piece in self.pieces:
                    time.sleep(0.05)
                    with suppress(OSError):
                        client.sendall(piece)
                with suppress(OSError):  # the client may not have wanted to talk to us
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


def run(
    program, *arguments, directory="/nowhere", environment=None, code=None, stdout=-1, stderr=-1
):
    how = ["-c", code] if code else ["-m", f"buswork.thin.{program}"]
    return subprocess.run(
        [sys.executable, *how, *arguments],
        env=os.environ
        | {
            "PYTHONPATH": str(SOURCE),
            "MAPIPC_SET": f"{directory}/mapipc_set",
            "MAPIPC_GET": f"{directory}/mapipc_get",
            "TMPDIR": str(directory),
        }
        | (environment or {}),
        stdout=stdout,
        stderr=stderr,
        timeout=20,
    )


def outcome(done):
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def in_process(monkeypatch, capfd):
    """Runs mapipc here, where a test may say whose process this is and where the daemon's are."""

    def run(*arguments, directory, daemon="/nowhere", environment=None):
        for name in ("MAPIPC_SET", "MAPIPC_GET"):
            monkeypatch.delenv(name, raising=False)
        for name, text in (environment or {}).items():
            monkeypatch.setenv(name, text)
        monkeypatch.setenv("TMPDIR", str(directory))
        monkeypatch.setattr(wire, "DIRECTORY", str(daemon))
        status = mapipc.main([*arguments])
        return (status, *capfd.readouterr())

    return run


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


def strangers(monkeypatch):
    """Whoever listens is neither root nor this process's user nor the daemon's."""
    monkeypatch.setattr(wire, "_uid_of", lambda sock: 12345)


def test_the_original_is_asked_where_no_daemon_is(recorder, in_process, monkeypatch):
    assert in_process("-k", "k", "-a", "v", directory=recorder.directory) == (0, "", "")
    assert len(recorder.requests) == 1
    strangers(monkeypatch)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_uid=12345))
    assert in_process("-k", "k", "-a", "v", directory=recorder.directory) == (0, "", "")


@pytest.mark.attack(28)
@pytest.mark.parametrize("command", [["get"], ["set", "-a", "secret"]])
def test_a_stranger_in_the_temporary_directory_gets_no_request(
    recorder, in_process, monkeypatch, command
):
    strangers(monkeypatch)
    status, out, complaint = in_process(*command, "-k", "k", directory=recorder.directory)
    assert (status, out) == (1, "")
    assert complaint.endswith("is served by uid 12345; to use it all the same, name it (-p)\n")
    assert complaint.count("\n") == 1
    assert [request for request in recorder.requests if request] == []


def test_a_stranger_who_was_named_is_asked(recorder, in_process, monkeypatch):
    strangers(monkeypatch)
    recorder.reply = b'{"value":"v"}'
    for port in ("mapipc_get", str(recorder.directory / "mapipc_get")):
        said = in_process("get", "-k", "k", "-p", port, directory=recorder.directory)
        assert said == (0, "v", "")


def test_nothing_takes_the_place_of_a_socket_that_was_named(recorder, in_process):
    environment = {"MAPIPC_GET": "/nowhere/mapipc_get", "MAPIPC_SET": "/nowhere/mapipc_set"}
    for command in ("get", "set"):
        status, _, complaint = in_process(
            command, "-k", "k", directory=recorder.directory, environment=environment
        )
        assert status == 1
        assert complaint.endswith("connectToServer: Invalid name\n")
    assert recorder.requests == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen as somebody else")
def test_who_listens_counts_and_not_who_owns_the_name(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
        listener.bind(str(tmp_path / "s"))
        os.seteuid(65534)
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        sock.connect(str(tmp_path / "s"))
        assert wire._uid_of(sock) == 65534


def test_an_answer_before_all_was_read_is_an_answer(recorder):
    recorder.reads = 1000
    recorder.reply = b'{"value":"v"}'
    done = run("globstash", "get", "k" * 100_000, directory=recorder.directory)
    assert outcome(done) == (0, "v", "")


def test_an_answer_in_the_middle_of_a_request_is_an_answer(recorder):
    """More than the kernel takes without a reader, so that the end meets us while we send."""
    recorder.reads = 1000
    recorder.reply = b"enough"
    assert wire.exchange(str(recorder.directory / "mapipc_get"), b"k" * 10_000_000) == b"enough"


@pytest.mark.parametrize("program", ["globstash", "mapipc"])
def test_a_daemon_that_dies_does_not_refuse(recorder, program):
    recorder.reads = 1000
    recorder.reply = b""
    key = "k" * 100_000
    words = ["get", key] if program == "globstash" else ["get", "-k", key]
    status, out, complaint = outcome(run(program, *words, directory=recorder.directory))
    assert (status, out) == (1, "")
    assert complaint.endswith(": Connection reset by peer\n")


@pytest.mark.parametrize("program", ["globstash", "mapipc"])
def test_the_whole_exchange_has_one_deadline(recorder, program):
    """Not every piece of an answer that never ends."""
    recorder.pieces = [b" "] * 100
    code = f"import sys; from buswork.thin import wire, {program} as program; wire.SECONDS = 0.5; "
    code += "sys.exit(program.main())"
    words = ["get", "k"] if program == "globstash" else ["get", "-k", "k"]
    done = run(program, *words, directory=recorder.directory, code=code)
    status, _, complaint = outcome(done)
    assert status == 1
    assert complaint.endswith("the daemon did not answer in time\n")


@pytest.mark.parametrize("words", [["get"], ["set"], ["set", "-a", b"\xff"]])
def test_mapipc_with_a_key_that_is_no_unicode(recorder, words):
    done = run("mapipc", *words, "-k", b"a\xff", directory=recorder.directory)
    assert outcome(done) == (1, "", "1.0: The key or the value is not UTF-8.\n")
    assert recorder.requests == []


@pytest.mark.parametrize("program", ["globstash", "mapipc"])
def test_an_output_that_takes_nothing(recorder, program):
    recorder.reply = b'{"value":"v"}'
    words = ["get", "k"] if program == "globstash" else ["get", "-k", "k"]
    with open("/dev/full", "wb") as full:
        done = run(program, *words, directory=recorder.directory, stdout=full)
    assert done.returncode == 1
    name = "1.0" if program == "mapipc" else program
    assert done.stderr.decode() == f"{name}: No space left on device\n"
    with open("/dev/full", "wb") as full:
        done = run(program, "--nonsense", stderr=full)
    assert done.returncode == (1 if program == "mapipc" else 2)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b'{\n    "value": "a\\nb"\n}\n', (0, "a\nb", "")),
        (b'{"x":1,"value":"v"}', (0, "v", "")),
        (b'{\n    "value": null\n}\n', (0, "", "")),
        (b'{\n    "value": ""\n}\n', (0, "", "")),
        (b'{\n    "value": [\n        1\n    ]\n}\n', (0, "[1]", "")),
        (b'{"x": "}", "value": 1, "value" :\t[ " \\" ", 1.50 ] }', (0, '[" \\" ",1.50]', "")),
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

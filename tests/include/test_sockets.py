"""mapipc_get, mapipc_set and mapipc_delete against daemons of every kind, good and bad."""

import array
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

Script = Callable[[socket.socket, bytes], None]
READER_REQUEST = b"\0mapipc-reader\n"


class Daemon:
    """Listens at both names and plays one script for each connection."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[bytes] = []
        self.reads = 65536  # of a request, at a time
        self.script: Script = lambda link, request: link.sendall(request)
        self._listeners = []
        for name in ("set", "get"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"{folder}/mapipc_{name}")
            listener.listen(8)
            self._listeners.append(listener)
            threading.Thread(target=self._serve, args=[listener], daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with link:
                request = link.recv(self.reads)
                while self.reads > 1000 and request[:1] == b"{" and request[-3:] != b"\n}\n":
                    request += link.recv(65536)
                self.requests.append(request)
                self.script(link, request)

    def close(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._listeners.clear()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.close()


C = ["gcc -std=c11", "clang -std=c11"]
C_PLUS_PLUS = ["g++ -xc++ -std=c++17", "clang++ -xc++ -std=c++17"]


@pytest.fixture(params=[f"{each} -fsanitize=address,undefined" for each in (*C, *C_PLUS_PLUS)])
def probe(request: pytest.FixtureRequest, build: Callable[..., Path]) -> Path:
    compiler, *flags = request.param.split()
    return build("probe.c", *flags, compiler=compiler)


def run(probe: Path, daemon: Daemon, *arguments: str, timeout_ms: int = 5000) -> str:
    environment = {
        "MAPIPC_SET": f"{daemon.folder}/mapipc_set",
        "MAPIPC_GET": f"{daemon.folder}/mapipc_get",
        "PROBE_TIMEOUT_MS": str(timeout_ms),
    }
    done = subprocess.run(
        [probe, *arguments], env=environment, capture_output=True, check=False, timeout=60
    )
    assert done.stderr == b""
    return done.stdout.decode().removesuffix("\n")


def answering(*parts: bytes, pause: float = 0.0) -> Script:
    def script(link: socket.socket, request: bytes) -> None:
        with suppress(OSError):  # the client has seen enough
            for part in parts:
                link.sendall(part)
                time.sleep(pause)

    return script


def test_set_is_the_original_request_byte_for_byte(probe: Path, daemon: Daemon) -> None:
    assert run(probe, daemon, "set", "foo", "bar") == "OK 0 "
    assert daemon.requests == [b'{\n    "key": "foo",\n    "value": "bar"\n}\n']


@pytest.mark.parametrize("clearing", [("set", "foo", ""), ("delete", "foo")])
def test_clearing_is_null(probe: Path, daemon: Daemon, clearing: tuple[str, ...]) -> None:
    assert run(probe, daemon, *clearing) == "OK 0 "
    assert daemon.requests == [b'{\n    "key": "foo",\n    "value": null\n}\n']


def test_every_character_survives_a_set(probe: Path, daemon: Daemon) -> None:
    text = "".join(map(chr, range(1, 0x80))) + 'ä€😀"\\/\u2028'
    run(probe, daemon, "set", text, text)
    assert json.loads(daemon.requests[0]) == {"key": text, "value": text}


def test_set_of_a_long_value(probe: Path, daemon: Daemon) -> None:
    value = "x" * 100_000
    assert run(probe, daemon, "set", "k", value) == "OK 0 "
    assert json.loads(daemon.requests[0])["value"] == value


def test_set_closed_without_ack_is_refused(probe: Path, daemon: Daemon) -> None:
    daemon.script = answering()
    assert run(probe, daemon, "set", "k", "v") == "REFUSED"


@pytest.mark.parametrize("command", [("get", "k" * 100_000), ("set", "k", "v" * 100_000)])
def test_a_daemon_that_dies_does_not_refuse(
    probe: Path, daemon: Daemon, command: tuple[str, ...]
) -> None:
    """It closes with the rest of the request unread, as the kernel does for it."""
    daemon.reads = 1000
    daemon.script = answering()
    assert run(probe, daemon, *command) == os.strerror(errno.ECONNRESET)


def test_an_answer_before_all_was_read_is_an_answer(probe: Path, daemon: Daemon) -> None:
    daemon.reads = 1000
    daemon.script = answering(b'{"value":null}')
    assert run(probe, daemon, "get", "k" * 100_000) == "NOT_SET"


def test_set_with_another_ack(probe: Path, daemon: Daemon) -> None:
    daemon.script = answering(b"ok")
    assert run(probe, daemon, "set", "k", "v") == "BAD_REPLY"


GETS = [
    (b'{\n    "value": "bar"\n}\n', "OK 3 bar"),
    (b'{"value":"bar"}', "OK 3 bar"),
    (b'{"other":[1,{"value":"no"}],"value":"bar","more":{}}', "OK 3 bar"),
    (b'{"value":"no","value":"bar"}', "OK 3 bar"),
    (b'{"value":""}', "OK 0 "),
    (b'{"value":null}', "NOT_SET"),
    (b'{"value": "\\u00e4\\ud83d\\ude00\\n\\/" }', "OK 8 ä😀\n/"),
    ('{"value": "ä😀"}'.encode(), "OK 6 ä😀"),
    (b'{"v\\u0061lue":"bar"}', "OK 3 bar"),
    (b'{"value":5}', "NOT_TEXT 1 5"),
    (b'{"value": {"a": [1, "]"]} }', 'NOT_TEXT 13 {"a":[1,"]"]}'),
    (b'{"value": [\n 1,\t" \\" \\\\" ]}', 'NOT_TEXT 12 [1," \\" \\\\"]'),
    (b'{"value":' + b"[" * 400 + b"]" * 400 + b"}", "NOT_TEXT 800 " + "[" * 400 + "]" * 400),
    (b'{"value":"a\\u0000b"}', 'NOT_TEXT 10 "a\\u0000b"'),
    (b'{"value":"\\ud83d"}', 'NOT_TEXT 8 "\\ud83d"'),
    (b'{"error":"denied"}', "REFUSED"),
    (b"{}", "REFUSED"),
    (b"", os.strerror(errno.ECONNRESET)),
    (b"[]", "BAD_REPLY"),
    (b'{"value":"bar"', "BAD_REPLY"),
    (b'{"value":"ba', "BAD_REPLY"),
    (b'{"value":"\\x"}', "BAD_REPLY"),
    (b'{"value":"\\u12"}', "BAD_REPLY"),
    (b'{"value":}', "BAD_REPLY"),
    (b'{"value":"bar"}x', "BAD_REPLY"),
    (b'{"value":' + b"[" * 100_000, "BAD_REPLY"),
    (b'{"value":"bar"}\0', "BAD_REPLY"),
    (b"\0", "BAD_REPLY"),
    (b"null", "BAD_REPLY"),
]


@pytest.mark.parametrize(("reply", "said"), GETS, ids=[str(reply[:24]) for reply, _ in GETS])
def test_get(probe: Path, daemon: Daemon, reply: bytes, said: str) -> None:
    daemon.script = answering(reply)
    assert run(probe, daemon, "get", "foo") == said
    assert daemon.requests == [b"foo"]


def test_get_of_a_reply_in_single_bytes(probe: Path, daemon: Daemon) -> None:
    daemon.script = answering(*(bytes([c]) for c in b'{"value":"\\ud83d\\ude00"}'), pause=0.002)
    assert run(probe, daemon, "get", "foo") == "OK 4 😀"


def test_get_of_a_mebibyte(probe: Path, daemon: Daemon) -> None:
    daemon.script = answering(b'{"value":"' + b"\\u0041" * (1 << 20) + b'"}')
    assert run(probe, daemon, "get", "foo") == f"OK {1 << 20} " + "A" * (1 << 20)


def test_get_of_a_reply_without_end(probe: Path, daemon: Daemon) -> None:
    def flood(link: socket.socket, request: bytes) -> None:
        with suppress(OSError):
            while True:
                link.sendall(b'{"value":"' + b"x" * 65536)

    daemon.script = flood
    assert run(probe, daemon, "get", "foo") == "BAD_REPLY"


@pytest.mark.parametrize(
    ("room", "said"), [("3", "NO_ROOM 3"), ("4", "OK 3 bar"), ("0", "NO_ROOM 3")]
)
def test_get_into_little_room(probe: Path, daemon: Daemon, room: str, said: str) -> None:
    daemon.script = answering(b'{"value":"bar"}')
    assert run(probe, daemon, "get", "foo", room) == said


@pytest.mark.parametrize("command", [("get", "k"), ("set", "k", "v"), ("open", "k")])
def test_who_never_answers(probe: Path, daemon: Daemon, command: tuple[str, ...]) -> None:
    end = threading.Event()
    daemon.script = lambda link, request: end.wait(30)
    assert run(probe, daemon, *command, timeout_ms=100) == "TIMED_OUT"
    end.set()


def test_who_answers_in_drops_for_ever(probe: Path, daemon: Daemon) -> None:
    daemon.script = answering(*[b" "] * 40, pause=0.05)
    assert run(probe, daemon, "get", "k", timeout_ms=200) == "TIMED_OUT"


def test_nobody_there(probe: Path, daemon: Daemon) -> None:
    daemon.close()
    assert run(probe, daemon, "get", "k") == "NOT_RUNNING"
    (daemon.folder / "mapipc_get").unlink()
    assert run(probe, daemon, "get", "k") == "NOT_RUNNING"


def test_original_paths(probe: Path, daemon: Daemon) -> None:
    environment = {"TMPDIR": str(daemon.folder), "PROBE_ORIGINAL": "1"}
    done = subprocess.run([probe, "set", "k", "v"], env=environment, capture_output=True)
    assert done.stdout == b"OK 0 \n"


@pytest.mark.parametrize("command", [("get", ""), ("set", "", "v"), ("delete", "")])
def test_no_key(probe: Path, daemon: Daemon, command: tuple[str, ...]) -> None:
    assert run(probe, daemon, *command) == "BAD_KEY"
    assert daemon.requests == []


def test_a_reader_from_a_daemon_that_has_none(probe: Path, daemon: Daemon) -> None:
    daemon.script = answering(b'{\n    "value": null\n}\n')
    assert run(probe, daemon, "open", "k") == "NO_MEMORY"
    assert daemon.requests == [READER_REQUEST]


def test_a_reader_that_is_no_memory(probe: Path, daemon: Daemon, descriptors: list[int]) -> None:
    pipe = os.pipe()
    descriptors += pipe

    def script(link: socket.socket, request: bytes) -> None:
        rights = array.array("i", [pipe[0], pipe[1], pipe[0]])
        link.sendmsg([b'{"value":null}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    daemon.script = script
    assert run(probe, daemon, "open", "k") == "BAD_MEMORY"


@pytest.mark.parametrize("room", [0, 1])
def test_a_reader_without_a_descriptor_left(probe: Path, daemon: Daemon, room: int) -> None:
    """The kernel gives as many as there is room for, and says that it did not give all."""

    def script(link: socket.socket, request: bytes) -> None:
        memory = os.memfd_create("memory")
        rights = array.array("i", [memory] * (1 + room))
        link.sendmsg([b'{"value":null}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os.close(memory)

    daemon.script = script
    # Standard streams, the socket, and so many more; what a sanitizer opens, it closes again.
    limit = f"import os, resource, sys; resource.setrlimit(7, ({4 + room},) * 2); "
    limit += "os.execv(sys.argv[1], sys.argv[1:])"
    environment = {"MAPIPC_GET": f"{daemon.folder}/mapipc_get"}
    command = [sys.executable, "-c", limit, probe, "open", "k"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert done.stdout.decode() == f"{os.strerror(errno.EMFILE)}\n"


def test_twenty_at_once(probe: Path, daemon: Daemon) -> None:
    daemon.script = answering(b'{"value":"bar"}')
    said: list[str] = []
    threads = [
        threading.Thread(target=lambda: said.append(run(probe, daemon, "get", "foo")))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["OK 3 bar"] * 20


@pytest.mark.parametrize("compiler", [*C, *C_PLUS_PLUS])
def test_threads_do_not_disturb_each_other(
    build: Callable[..., Path], daemon: Daemon, compiler: str
) -> None:
    """ThreadSanitizer sees nothing that they share."""
    values: dict[str, str] = {}

    def store(link: socket.socket, request: bytes) -> None:
        if request.startswith(b"{"):
            members = json.loads(request)
            values[members["key"]] = members["value"]
            link.sendall(request)
        else:
            link.sendall(json.dumps({"value": values[request.decode()]}).encode())

    daemon.script = store
    name, *flags = compiler.split()
    program = build("threads.c", *flags, "-fsanitize=thread", compiler=name)
    assert run(program, daemon, "8", "50") == "400"


@pytest.mark.parametrize("compiler", [*C, *C_PLUS_PLUS])
def test_garbled_replies(build: Callable[..., Path], compiler: str) -> None:
    name, *flags = compiler.split()
    program = build("garbled.c", *flags, "-fsanitize=address,undefined", compiler=name)
    replies = [reply for reply, _ in GETS if 0 < len(reply) < 1000 and b"\0" not in reply]
    command: list[bytes] = [bytes(program), b"20000", b"1", *replies]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.stderr == b"", done.stderr.decode()
    values, others = map(int, done.stdout.split())
    assert values > 1000
    assert others > 1000

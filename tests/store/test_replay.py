"""What was recorded of the original's life with many clients and signals, done to busworkd.

Each recording has its scenario here. Where the original failed its clients we don't, and the
scenario says in what.
"""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from client.private_bus import PrivateBus
from support.mapipcd import ask, vectors
from support.places import eventually

VECTORS = vectors("concurrency_and_lifecycle")
NULL = b'{\n    "value": null\n}\n'
PATIENCE = 10.0


class House:
    """busworkd on a bus of its own, with its sockets."""

    def __init__(self, bus: PrivateBus) -> None:
        self.bus = bus
        self.set_path, self.get_path = bus.folder / "mapipc_set", bus.folder / "mapipc_get"

    def set(self, request: bytes) -> bytes:
        return ask(self.set_path, request)

    def get(self, key: bytes) -> str:
        return ask(self.get_path, key).decode()

    def connect(self, path: Path) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        return sock

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self.bus.daemon is not None
        return self.bus.daemon

    def proc(self, name: str) -> Path:
        return Path(f"/proc/{self.process.pid}/{name}")

    def resident_kb(self) -> int:
        text = self.proc("status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0])

    def end_by(self, number: int) -> int:
        process = self.process
        self.bus.daemon = None
        process.send_signal(number)
        return process.wait(PATIENCE)

    def sockets_left(self) -> list[str]:
        return [path.name for path in (self.set_path, self.get_path) if path.exists()]


@pytest.fixture
def house() -> Iterator[House]:
    with PrivateBus() as bus:
        bus.start_daemon()
        yield House(bus)


def read_all(sock: socket.socket) -> bytes:
    with sock:
        return b"".join(iter(lambda: sock.recv(65536), b""))


# --- Packets --------------------------------------------------------------------------------------


def set_in_two_packets(house: House, recorded: dict[str, Any]) -> None:
    """The original takes the first one for the whole; here the request is put together."""
    sock = house.connect(house.set_path)
    sock.sendall(b'{"key":"k"')
    house.get(b"k")  # the daemon has had time for it
    sock.sendall(b',"value":"v"}')
    assert read_all(sock) == b'{"key":"k","value":"v"}'
    assert house.get(b"k") == '{\n    "value": "v"\n}\n' != recorded["get"]


def set_two_sends_no_delay(house: House, recorded: dict[str, Any]) -> None:
    sock = house.connect(house.set_path)
    sock.sendall(b'{"key":"k"')
    sock.sendall(b',"value":"v"}')
    assert read_all(sock).decode() == recorded["reply"]
    assert house.get(b"k") == recorded["get"]


def get_in_two_packets(house: House, recorded: dict[str, Any]) -> None:
    """A key has no end, so the first packet is all of it; the second one meets a closed socket."""
    house.set(b'{"key":"foo","value":"v"}')
    with house.connect(house.get_path) as sock:
        sock.sendall(b"fo")
        assert sock.recv(4096).decode() == recorded["reply"]
        assert sock.recv(4096) == b""
        with pytest.raises(BrokenPipeError):
            sock.sendall(b"o")


# --- Many at once ---------------------------------------------------------------------------------


def first_sends_while_second_connected(house: House, recorded: dict[str, Any]) -> None:
    """The original answers neither of them."""
    first, second = house.connect(house.set_path), house.connect(house.set_path)
    first.sendall(b'{"key":"a","value":"1"}')
    assert read_all(first) == b'{"key":"a","value":"1"}'
    assert house.get(b"a") == '{\n    "value": "1"\n}\n' != recorded["get_a"]
    second.sendall(b'{"key":"b","value":"2"}')
    assert read_all(second) == b'{"key":"b","value":"2"}'


def burst_20_get_connections(house: House, recorded: dict[str, Any]) -> None:
    count = recorded["connected_first_then_all_sent"]
    with ExitStack() as stack:
        socks = [stack.enter_context(house.connect(house.get_path)) for _ in range(count)]
        for sock in socks:
            sock.sendall(b"foo")
        answers = [read_all(sock) for sock in socks]
    assert answers == [NULL] * count
    assert count > recorded["answered"]


def parallel_20_get(house: House, recorded: dict[str, Any]) -> None:
    answers: list[str] = []
    count = recorded["threads"]
    threads = [
        threading.Thread(target=lambda: answers.append(house.get(b"foo"))) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [NULL.decode()] * count
    assert count > recorded["answered"]


def client_leaves_without_reading(house: House, recorded: dict[str, Any]) -> None:
    with house.connect(house.set_path) as sock:
        sock.sendall(b'{"key":"k","value":"v"}')
    with house.connect(house.get_path) as sock:
        sock.sendall(b"k")
    eventually(lambda: house.get(b"k") == recorded["get"])


def sets_and_gets_2000(house: House, recorded: dict[str, Any]) -> None:
    """The original grows with each connection, and for ever."""

    def many() -> None:
        for number in range(recorded["sets"]):
            house.set(b'{"key":"k%d","value":"v"}' % (number % 10))
            house.get(b"k%d" % (number % 10))

    many()
    before, open_before = house.resident_kb(), len(list(house.proc("fd").iterdir()))
    many()
    grown = recorded["rss_kb_after"] - recorded["rss_kb"]
    assert house.resident_kb() - before < grown / 4
    eventually(lambda: len(list(house.proc("fd").iterdir())) == open_before)


# --- Signals, and a second daemon -----------------------------------------------------------------


def signals(house: House, recorded: dict[str, Any]) -> None:
    house.set(b'{"key":"k","value":"v"}')
    house.process.send_signal(signal.SIGHUP)
    eventually(lambda: "SIGHUP" in (house.bus.folder / "daemon.log").read_text())
    assert house.get(b"k") == recorded["get_after_SIGHUP"]
    assert house.end_by(signal.SIGTERM) == recorded["SIGTERM_exit"]
    assert house.sockets_left() == recorded["sockets_left"]


def sigint(house: House, recorded: dict[str, Any]) -> None:
    assert house.end_by(signal.SIGINT) == recorded["SIGINT_exit"]
    assert house.sockets_left() == []


def second_daemon_takes_over(house: House, recorded: dict[str, Any]) -> None:
    """The original's second one removes the sockets of the first. Ours ends, and harms nobody."""
    house.set(b'{"key":"k","value":"v"}')
    second = [sys.executable, "-m", "buswork.daemon"]
    done = subprocess.run(second, env=house.bus.environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "mapipc_set is served by another process" in done.stderr
    assert house.get(b"k") == '{\n    "value": "v"\n}\n' != recorded["get"]
    assert house.set(b'{"key":"k","value":null}')


SCENARIOS: dict[str, Callable[[House, dict[str, Any]], None]] = {
    scenario.__name__: scenario
    for scenario in (
        set_in_two_packets,
        set_two_sends_no_delay,
        get_in_two_packets,
        first_sends_while_second_connected,
        burst_20_get_connections,
        parallel_20_get,
        client_leaves_without_reading,
        signals,
        sigint,
        second_daemon_takes_over,
    )
} | {"2000_sets_2000_gets_rss": sets_and_gets_2000}


@pytest.mark.parametrize("recorded", VECTORS, ids=lambda vector: vector["name"])
def test_what_was_recorded(house: House, recorded: dict[str, Any]) -> None:
    SCENARIOS[recorded["name"]](house, recorded)
    if house.bus.daemon is not None:
        assert house.process.poll() is None
        assert house.get(b"nothing").encode() == NULL
        assert "Traceback" not in (house.bus.folder / "daemon.log").read_text()


def test_every_scenario_was_recorded() -> None:
    assert {vector["name"] for vector in VECTORS} == set(SCENARIOS)

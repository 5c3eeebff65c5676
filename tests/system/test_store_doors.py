"""One value behind all five doors: D-Bus, native sockets, commands, C, shared memory.

On a real bus with a real polkit, as ordinary users. The native exchanges are the original client's
bytes; the program in C is tests/include/probe.c.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.machine import Client, Daemon, Machine
from support.mapipcd import ask, vectors
from support.places import (
    MIB,
    READ,
    STORE,
    Lines,
    check_unharmed,
    deny,
    eventually,
    get_key,
    refused,
    set_key,
    store,
)

from buswork.client.reader import Closed, Reader, TooLarge
from buswork.store.wire.values import Json

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
KEY = "greeting"
TEXT = "grüße 🚌 with 'quotes' \"and\" \\ and\na second line"
DESCRIPTORS = 6  # per uid, in these tests

# Asks the get socket for readers until it gets none; holds them until its input ends.
COLLECTOR = """\
import array, socket, sys
place, kept = sys.argv[1], []
while True:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(place)
        sock.send(b"\\0mapipc-reader\\n")
        reply, rights, _, _ = sock.recvmsg(4096, 64)
        if not rights:
            break
        kept += array.array("i", rights[0][2])
print(len(kept), "LimitsExceeded" in reply.decode(), flush=True)
sys.stdin.read()
"""

# Asks the get socket for a reader, and does with it what a reader may not.
VANDAL = """\
import mmap, os, socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sock.send(b"\\0mapipc-reader\\n")
    _, (fd,), _, _ = socket.recv_fds(sock, 4096, 1)
size = os.fstat(fd).st_size
WAYS = {
    "map": lambda: mmap.mmap(fd, size, prot=mmap.PROT_READ | mmap.PROT_WRITE),
    "open again": lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR),
    "write": lambda: os.pwrite(fd, b"x", 0),
    "shrink": lambda: os.ftruncate(fd, 0),
    "mode": lambda: os.fchmod(fd, 0o666),
}
for name, way in WAYS.items():
    try:
        way()
    except OSError:
        continue
    print("could", name)
print("read", mmap.mmap(fd, size, prot=mmap.PROT_READ)[:8].decode())
"""


# --- The house and its doors ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture(scope="module")
def places(machine: Machine) -> dict[str, str]:
    """Where the native sockets are, as the commands and mapipc.h look for them."""
    directory = Path(machine.tmp) / "sockets"
    directory.mkdir()
    os.chown(directory, machine.uid("buswork"), -1)
    directory.chmod(0o755)
    return {name.upper(): str(directory / name) for name in ("mapipc_set", "mapipc_get")}


@pytest.fixture(scope="module")
def probe(machine: Machine) -> Path:
    """mapipc.h on a command line."""
    if shutil.which("cc") is None:
        pytest.skip("not installed: cc")
    program = Path(machine.tmp) / "probe"
    source = ROOT / "tests/include/probe.c"
    command = ["cc", "-O1", f"-I{ROOT / 'src/include'}", source, "-o", program]
    subprocess.run(command, check=True)
    return program


@pytest.fixture
def daemon(machine: Machine, places: dict[str, str]) -> Iterator[Daemon]:
    machine.wait_owner("org.buswork", owned=False)
    directory = str(Path(places["MAPIPC_SET"]).parent)
    daemon = machine.start_daemon(
        "--socket-dir", directory, "--limit", f"descriptors={DESCRIPTORS}"
    )
    yield daemon
    if daemon.process.poll() is None:
        check_unharmed(machine, daemon)
        assert daemon.stop() == 0


@dataclass
class House:
    """Everything that a test sets by, reads by and listens to."""

    machine: Machine
    places: dict[str, str]
    probe: Path
    alice: Client

    def run(self, *command: str | Path, user: str = "alice") -> tuple[int, str]:
        done = self.machine.run(list(command), user, env=self.places, check=False)
        return done.returncode, done.stdout

    def module(self, name: str, *words: str, user: str = "alice") -> tuple[int, str]:
        return self.run(sys.executable, "-m", f"buswork.{name}", *words, user=user)

    def say(self, *words: str, user: str = "alice") -> str:
        """What the program in C prints."""
        return self.run(self.probe, *words, user=user)[1].rstrip("\n")

    def native_set(self, key: str, value: object) -> None:
        """As the original client writes it."""
        request = original_request(key, value)
        assert ask(self.places["MAPIPC_SET"], request) == request

    def native_get(self, key: str) -> bytes:
        return ask(self.places["MAPIPC_GET"], key.encode())


@pytest.fixture
def house(machine: Machine, places: dict[str, str], probe: Path, daemon: Daemon) -> House:
    return House(machine, places, probe, machine.client("alice"))


def original_request(key: str, value: object) -> bytes:
    return (json.dumps({"key": key, "value": value}, indent=4, ensure_ascii=False) + "\n").encode()


def open_reader(client: Client) -> Reader:
    """The reader behind OpenReader; its facts are those of the memory."""
    reply = client.call(*STORE, "OpenReader")
    assert reply.signature == "ha{sv}"
    place, facts = reply.body
    reader = Reader(reply.fds[place])
    assert facts["version"].value == 1
    assert facts["size"].value == reader.layout.size
    assert facts["epoch"].value == reader.layout.epoch.hex()
    return reader


def test_these_are_the_original_bytes() -> None:
    recorded = {
        vector["name"]: vector["request"].get("hex") for vector in vectors("mapipc_cli_wire")
    }
    assert original_request("foo", "bar").hex() == recorded["set_foo_bar"]
    assert original_request("foo", None).hex() == recorded["set_no_value"]
    assert original_request("clé", "世界 😀").hex() == recorded["set_unicode"]


# --- One value ------------------------------------------------------------------------------------

SETTERS: dict[str, Callable[[House, str], object]] = {
    "D-Bus": lambda house, value: set_key(house.alice, KEY, value),
    "native": lambda house, value: house.native_set(KEY, value),
    "globstash": lambda house, value: house.module("thin.globstash", "set", KEY, value),
    "mapipc": lambda house, value: house.module("thin.mapipc", "set", "-k", KEY, "-a", value),
    "buswork": lambda house, value: house.module("cli", "store", "set", KEY, value),
    "C": lambda house, value: house.say("set", KEY, value),
}


def read_everywhere(house: House, reader: Reader, key: str = KEY) -> dict[str, str | None]:
    """The value by each of the doors, as text; None where it is not set."""
    reply = json.loads(house.native_get(key))
    exists, value, _ = store(house.alice, "Lookup", "s", key)
    c = house.say("get", key)
    memory = house.say("open", key)
    shared = reader.get(key)
    return {
        "D-Bus": value if exists else None,
        "native": reply["value"],
        "globstash": house.module("thin.globstash", "get", key, user="bob")[1] or None,
        "mapipc": house.module("thin.mapipc", "get", "-k", key, user="bob")[1] or None,
        "buswork": house.module("cli", "store", "get", key, user="bob")[1] or None,
        "C": c.split(" ", 2)[2] if c != "NOT_SET" else None,
        "shared memory by the get socket": (
            memory.split(" ", 2)[2] if memory != "NOT_SET" else None
        ),
        "shared memory by D-Bus": None if shared is None else shared.decode(),
    }


def test_whatever_door_sets_it_all_others_show_it(house: House) -> None:
    house.alice.add_match("type='signal',interface='org.mapipc.Store',member='Changed'")
    reader = open_reader(house.alice)
    with reader, Lines.watch(house.alice, KEY) as lines:
        for number, (door, setter) in enumerate(SETTERS.items(), 1):
            value = f"{TEXT} by {door}"
            setter(house, value)
            assert store(house.alice, "Lookup", "s", KEY) == [True, value, number], door
            assert lines.next() == {"revision": number, "key": KEY, "value": value}
            assert house.alice.wait_signal("Changed").body == [KEY, number]
            # One that was opened before sees the change too, with its revision.
            assert reader.lookup(KEY) == (value.encode(), number)
            assert reader.sequence == number
            assert house.alice.get(*STORE, "Revision") == number
            shown = read_everywhere(house, reader)
            assert shown == dict.fromkeys(shown, value), door
        assert lines.is_silent()


@pytest.mark.parametrize("door", SETTERS)
def test_whatever_door_clears_it_all_others_show_that(house: House, door: str) -> None:
    set_key(house.alice, KEY, "hello")
    reader = open_reader(house.alice)
    with reader, Lines.watch(house.alice, KEY) as lines:
        if door == "native":
            house.native_set(KEY, None)
        else:
            SETTERS[door](house, "")
        assert lines.next() == {"revision": 2, "key": KEY}
        assert reader.get(KEY) is None
        assert reader.sequence == 2
        shown = read_everywhere(house, reader)
        assert shown == dict.fromkeys(shown, None), door


def test_each_uid_is_the_one_that_set_it(house: House) -> None:
    for user in ("alice", "bob"):
        house.module("thin.globstash", "set", KEY, user, user=user)
        facts = store(house.alice, "Describe", "s", KEY)
        assert facts["uid"].value == house.machine.uid(user)


ODD = {
    "number": (5, "5", Json(b"5")),
    "list": ([1, "a", None], '[1,"a",null]', Json(b'[1,"a",null]')),
    "object": ({"b": {"c": True}}, '{"b":{"c":true}}', Json(b'{"b":{"c":true}}')),
    "empty": ("", "", b""),
    "NUL": ("a\0b", None, Json(b'"a\\u0000b"')),
}


IN_C = {"empty": "OK 0 ", "NUL": r'NOT_TEXT 10 "a\u0000b"'}


@pytest.mark.parametrize("what", ODD)
def test_what_native_clients_store_that_is_no_text(house: House, what: str) -> None:
    value, shown, kept = ODD[what]
    with Lines.watch(house.alice, KEY) as lines, open_reader(house.alice) as reader:
        house.native_set(KEY, value)
        assert json.loads(house.native_get(KEY)) == {"value": value}
        assert reader.lookup(KEY) == (kept, 1)
        assert type(reader.get(KEY)) is type(kept)
        line = lines.next()
        assert line is not None
        assert line["value"] == (kept.decode() if shown is None else shown)
        if shown is None:
            with refused("org.mapipc.Error.NotText"):
                get_key(house.alice, KEY)
            with refused("org.mapipc.Error.NotText"):
                store(house.alice, "Lookup", "s", KEY)
            with refused("org.mapipc.Error.NotText"):
                store(house.alice, "GetMany", "as", [KEY])
            assert house.module("cli", "store", "get", KEY)[0] != 0
        else:
            assert get_key(house.alice, KEY) == shown
            assert store(house.alice, "Lookup", "s", KEY) == [True, shown, 1]
            assert store(house.alice, "GetMany", "as", [KEY]) == {KEY: shown}
            assert house.module("cli", "store", "get", KEY) == (0, shown)
        assert house.module("thin.mapipc", "get", "-k", KEY)[0] == 0
        by_socket, by_memory = house.say("get", KEY), house.say("open", KEY)
        if isinstance(value, str):
            assert by_socket == by_memory == IN_C[what]
        else:  # the socket's is indented, as the original has it
            word, _, text = by_memory.split(" ", 2)
            assert (word, json.loads(text)) == ("NOT_TEXT", value)
            word, _, text = by_socket.split(" ", 2)
            assert (word, json.loads(text)) == ("NOT_TEXT", value)


def test_a_key_of_characters_that_terminals_obey(house: House, daemon: Daemon) -> None:
    """All doors take it, and none passes it on to where it could do something."""
    key = "a\n\t\x01\x1b[2J\x7f\u2028\u202eb"
    with open_reader(house.alice) as reader, Lines.watch(house.alice, "a\n") as lines:
        house.native_set(key, "value")
        assert lines.next() == {"revision": 1, "key": key, "value": "value"}
        shown = read_everywhere(house, reader, key)
        assert shown == dict.fromkeys(shown, "value")
    assert store(house.alice, "List", "s", "") == [key]
    status, listed = house.module("cli", "store", "list")
    assert (status, listed.count("\n")) == (0, 1)
    assert not set(listed) & set("\x01\x1b\x7f\u202e")
    foreign = f"~{house.machine.uid('bob')}/{key}"
    assert house.say("get", foreign) == "REFUSED"
    assert house.module("thin.globstash", "set", foreign, "v")[0] == 1
    log = daemon.says("belong")
    assert not set(log) & set("\x01\x1b\x7f\u202e")


def test_a_value_that_is_too_long_for_the_memory_is_fetched(house: House) -> None:
    value = "x" * MIB
    house.native_set(KEY, value)
    with open_reader(house.alice) as reader, pytest.raises(TooLarge):
        reader.get(KEY)
    assert house.say("open", KEY) == "ELSEWHERE"
    assert house.say("get", KEY) == f"OK {MIB} {value}"
    assert get_key(house.alice, KEY) == value


# --- Who may --------------------------------------------------------------------------------------


def test_who_may_not_read_gets_no_reader(house: House) -> None:
    bob = house.machine.client("bob")
    set_key(bob, KEY, "secret")
    rule = house.machine.add_rule(deny(READ))
    try:
        with refused("AccessDenied", READ):
            house.alice.call(*STORE, "OpenReader")
        assert house.say("open", KEY) == "REFUSED"
        assert house.say("get", KEY) == "REFUSED"
        assert house.module("thin.globstash", "get", KEY)[1] == ""
        # Others are none the worse for it.
        assert house.say("open", KEY, user="bob") == "OK 6 secret"
        with open_reader(bob) as reader:
            assert reader.get(KEY) == b"secret"
    finally:
        house.machine.remove_rule(rule)
    assert house.say("open", KEY) == "OK 6 secret"


def test_a_reader_can_not_be_taken_back(house: House) -> None:
    set_key(house.alice, KEY, "before")
    with open_reader(house.alice) as reader:
        rule = house.machine.add_rule(deny(READ))
        try:
            set_key(house.machine.client("bob"), KEY, "after")
            assert reader.get(KEY) == b"after"
        finally:
            house.machine.remove_rule(rule)


def test_private_keys_are_never_in_the_memory(house: House) -> None:
    """Not those that were there when it was made, nor later ones, nor in bytes nobody looks at."""
    own = f"~{house.machine.uid('alice')}/"
    set_key(house.alice, f"{own}early", "SECRET-1")
    set_key(house.alice, KEY, "public")
    with open_reader(house.alice) as reader:
        set_key(house.alice, f"{own}late", "SECRET-2")
        house.module("thin.globstash", "set", f"{own}native", "SECRET-3")
        assert house.module("thin.globstash", "get", f"{own}native") == (0, "SECRET-3")
        for name in ("early", "late", "native"):
            with pytest.raises(TooLarge, match="private"):
                reader.get(own + name)
            assert house.say("open", own + name) == "ELSEWHERE"
            assert house.say("get", own + name, user="bob") == "REFUSED"
        set_key(house.alice, KEY, "again")
        assert reader.get(KEY) == b"again"
        assert [record.key for record in reader.records()] == [KEY]
        memory = os.pread(reader._fd, reader.layout.size, 0)
        assert b"again" in memory
        assert b"SECRET" not in memory
        assert own.encode() not in memory


def test_readers_can_not_write(house: House) -> None:
    set_key(house.alice, KEY, "hello")
    vandal = [sys.executable, "-I", "-S", "-c", VANDAL, house.places["MAPIPC_GET"]]
    assert house.run(*vandal) == (0, "read mapipcSM\n")
    with open_reader(house.alice) as reader:
        # root may open what it likes; that the memory stays as it is, is the seal's doing.
        fd = os.open(f"/proc/self/fd/{reader._fd}", os.O_RDWR)
        try:
            for way in (
                lambda: mmap.mmap(fd, reader.layout.size, prot=mmap.PROT_WRITE),
                lambda: os.pwrite(fd, b"x", 0),
                lambda: os.ftruncate(fd, 0),
                lambda: os.ftruncate(fd, 2 * reader.layout.size),
            ):
                with pytest.raises(PermissionError):
                    way()
        finally:
            os.close(fd)
        assert reader.get(KEY) == b"hello"


def test_readers_by_d_bus_count_until_their_caller_leaves(house: House) -> None:
    readers = [open_reader(house.alice) for _ in range(DESCRIPTORS)]
    other = house.machine.client("alice")
    with refused("LimitsExceeded", f"{DESCRIPTORS} descriptors"):
        other.call(*STORE, "OpenReader")
    # It is the uid's number, whichever way the readers come; others have theirs.
    assert house.say("open", KEY) == "REFUSED"
    with open_reader(house.machine.client("bob")):
        pass
    # Nobody can tell when a reader is done with it, so closing changes nothing.
    for reader in readers:
        reader.close()
    with refused("LimitsExceeded"):
        other.call(*STORE, "OpenReader")
    house.alice.close()
    house.alice = other
    eventually(lambda: house.say("open", KEY) == "NOT_SET")
    with open_reader(other):
        pass


def test_readers_by_the_get_socket_count_until_their_process_ends(house: House) -> None:
    command = [sys.executable, "-I", "-S", "-c", COLLECTOR, house.places["MAPIPC_GET"]]
    for _ in range(2):
        collector = house.machine.popen(
            command, "alice", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert collector.stdout.readline() == b"%d True\n" % DESCRIPTORS
        with refused("LimitsExceeded", f"{DESCRIPTORS} descriptors"):
            house.alice.call(*STORE, "OpenReader")
        # Not to be confused with a daemon that has no such memory.
        assert house.say("open", KEY) == "REFUSED"
        collector.stdin.close()
        assert collector.wait() == 0
        eventually(lambda: house.say("open", KEY) == "NOT_SET")


# --- The end of the daemon ------------------------------------------------------------------------


def holding(house: House) -> subprocess.Popen[str]:
    """The program in C with a reader from D-Bus; a line in, a line out."""
    reply = house.alice.call(*STORE, "OpenReader")
    fd = reply.fds[reply.body[0]]
    command = house.machine.command([house.probe, "hold", str(fd), KEY], "bob")
    process = subprocess.Popen(
        command, pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    os.close(fd)
    return process


def look(process: subprocess.Popen[str]) -> str:
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().rstrip("\n")


def test_after_a_crash_readers_keep_the_last_state(house: House, daemon: Daemon) -> None:
    for number in range(100):
        set_key(house.alice, f"key {number}", f"value {number}")
    set_key(house.alice, KEY, "last")
    with holding(house) as process, open_reader(house.alice) as reader:
        assert look(process) == "alive OK 4 last"
        daemon.kill()
        assert look(process) == "gone OK 4 last"
        assert not reader.alive
        assert reader.lookup(KEY) == (b"last", 101)
        assert {record.key: record.value for record in reader.records()} == {
            KEY: b"last",
            **{f"key {number}": b"value %d" % number for number in range(100)},
        }
        process.stdin.close()
        assert process.wait() == 0


def test_after_sigterm_readers_are_told(house: House, daemon: Daemon) -> None:
    set_key(house.alice, KEY, "last")
    with holding(house) as process, open_reader(house.alice) as reader:
        assert look(process) == "alive OK 4 last"
        assert daemon.stop() == 0
        assert look(process) == "gone CLOSED"
        assert not reader.alive
        with pytest.raises(Closed):
            reader.get(KEY)
        assert list(reader.records()) == []
        process.stdin.close()
        assert process.wait() == 0

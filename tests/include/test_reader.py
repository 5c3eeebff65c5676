"""mapipc_reader_*: against the real writer, slowed down, spoilt, and with threads."""

import asyncio
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from buswork.client.reader import Reader
from buswork.store.model.keys import is_private
from buswork.store.model.store import Store
from buswork.store.native.memory import SharedMemory
from buswork.store.wire.memory import (
    FREED,
    LIVE,
    MIN_SIZE,
    OUTSIDE_AT,
    STATE_AT,
    Layout,
    Record,
    encode_header,
    encode_record,
    layout_for,
    tag_of,
)
from buswork.store.wire.values import EMPTY, Json

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "tests/bench/c/store_reader.c"
Build = Callable[..., Path]

COMPILERS = [
    "gcc -std=c11 -fsanitize=address,undefined",
    "clang -std=c11 -fsanitize=address,undefined",
    "g++ -xc++ -std=c++17 -fsanitize=address,undefined",
    "clang++ -xc++ -std=c++17 -fsanitize=address,undefined",
]
LANGUAGES = ["gcc -std=c11", "clang -std=c11", "g++ -xc++ -std=c++17", "clang++ -xc++ -std=c++17"]


def split(flags: str) -> tuple[list[str], str]:
    compiler, *rest = flags.split()
    return rest, compiler


@pytest.fixture(params=COMPILERS)
def probe(request: pytest.FixtureRequest, build: Build) -> Path:
    flags, compiler = split(request.param)
    return build("probe.c", *flags, compiler=compiler)


def run(program: Path, *arguments: object, fd: int) -> str:
    done = subprocess.run(
        [program, *map(str, arguments)], pass_fds=[fd], capture_output=True, timeout=120
    )
    assert done.stderr == b"", done.stderr.decode()
    return done.stdout.decode()


class Writer:
    """The writer in a process of its own, and its memory."""

    def __init__(self, keys: int, size: int, seconds: float, rate: float = 0) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [sys.executable, Path(__file__).parent / "writer.py"]
            self.process = subprocess.Popen(
                [*command, *map(str, (keys, size, seconds, rate))],
                stdin=theirs,
                env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            )
            ours.settimeout(60)
            _, (self.fd,), _, _ = socket.recv_fds(ours, 1, 1)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.fd)
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize("flags", ["gcc -std=c11", "gcc -std=gnu17", "clang -std=c11",
                                   "g++ -xc++ -std=c++17", "clang++ -xc++ -std=c++20"])  # fmt: skip
def test_header_alone_after_others(build: Build, tmp_path: Path, flags: str) -> None:
    """Also where standard headers came before, in a strict mode that hides the clock."""
    source = tmp_path / "user.c"
    source.write_text(
        "#include <stdio.h>\n#include <mapipc.h>\n#include <mapipc.h>\n"
        "int main(void) { return mapipc_get(0, 0, 0, 0, 0) != MAPIPC_BAD_KEY; }\n"
    )
    rest, compiler = split(flags)
    program = build(source, "-Wconversion", "-Wshadow", *rest, compiler=compiler)
    assert subprocess.run([program]).returncode == 0


SHOWN = """\
#include <mapipc.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) { return usleep(1) || MAP_ANONYMOUS == 0; }
"""
HIDDEN = """\
#include <mapipc.h>
#if !defined CLOCK_MONOTONIC || defined MAP_ANONYMOUS
#error "neither more nor less than the header needs"
#endif
int main(void) { return 0; }
"""


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("gcc -std=gnu17", SHOWN),
        ("clang -std=gnu17", SHOWN),
        ("gcc -std=c11 -D_DEFAULT_SOURCE", SHOWN),
        ("g++ -xc++ -std=c++17", SHOWN),
        ("gcc -std=c11", HIDDEN),
        ("clang -std=c11", HIDDEN),
    ],
)
def test_header_first_hides_nothing_from_its_user(
    build: Build, tmp_path: Path, flags: str, text: str
) -> None:
    source = tmp_path / "user.c"
    source.write_text(text)
    rest, compiler = split(flags)
    assert subprocess.run([build(source, *rest, compiler=compiler)]).returncode == 0


async def opened(store: Store) -> tuple[SharedMemory, int]:
    memory = SharedMemory(store, b"e" * 16)
    return memory, await memory.open_reader()


async def test_every_kind_of_value(probe: Path) -> None:
    store = Store(lambda: 0)
    values = {"k": "v", "ä€😀": "ü" * 8, "long": "x" * 4096, "k" * 1024: "y" * 3}
    for key, value in values.items():
        store.set(0, key, value.encode())
    store.set(0, "too-long", b"x" * 4097)
    store.set(7, "~7/private", b"secret")
    store.set(0, "number", Json(b"5"))
    store.set(0, "empty", EMPTY)
    memory, fd = await opened(store)
    keys = [*values, "too-long", "~7/private", "nothing", "number", "empty", ""]
    said = run(probe, "read", fd, *keys, fd=fd).splitlines()
    os.close(fd)
    memory.close()
    assert said[:4] == [f"OK {len(value.encode())} {value}" for value in values.values()]
    assert said[4:] == ["ELSEWHERE", "ELSEWHERE", "NOT_SET", "NOT_TEXT 1 5", "OK 0 ", "BAD_KEY"]


async def test_a_reader_makes_no_system_call(build: Build) -> None:
    store = Store(lambda: 0)
    store.set(0, "k", b"v" * 100)
    memory, fd = await opened(store)
    run_silent = [build("probe.c", "-std=c11"), "silent", str(fd), "k"]
    done = await asyncio.to_thread(subprocess.run, run_silent, pass_fds=[fd])
    assert done.returncode == 0
    os.close(fd)
    memory.close()


async def test_what_a_reader_learns_in_time(build: Build) -> None:
    store = Store(lambda: 0)
    store.set(0, "k", b"1")
    memory, fd = await opened(store)
    process = await asyncio.create_subprocess_exec(
        build("probe.c", "-std=c11"), "hold", str(fd), "k", pass_fds=[fd],
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(fd)
    assert process.stdin is not None
    assert process.stdout is not None

    async def ask() -> str:
        process.stdin.write(b"\n")
        return (await process.stdout.readline()).decode().strip()

    assert await ask() == "alive OK 1 1"
    store.set(0, "k", b"2")
    assert await ask() == "alive OK 1 2"
    store.clear()
    assert await ask() == "alive NOT_SET"
    memory.close()
    assert await ask() == "gone CLOSED"
    process.stdin.close()
    await process.wait()


async def test_a_memory_that_has_moved_does_not_say_that_the_daemon_is_dead(build: Build) -> None:
    store = Store(lambda: 0)
    memory = SharedMemory(store, b"e" * 16, smallest=MIN_SIZE)
    fd = await memory.open_reader()
    number = 0
    while memory.facts()["generation"] == 1:
        store.set(0, f"key-{number}", b"v" * 100)
        number += 1
        await asyncio.sleep(0)
    for thread in threading.enumerate():
        if thread.name == "release":
            thread.join()
    command = [build("probe.c", "-std=c11"), "hold", str(fd), "k"]
    done = await asyncio.to_thread(
        subprocess.run, command, pass_fds=[fd], input=b"\n", capture_output=True
    )
    assert done.stdout == b"moved REOPEN\n"
    os.close(fd)
    memory.close()


def crafted(**limits: int) -> tuple[int, Layout]:
    """A memory of our own, which nobody writes."""
    layout = replace(layout_for(MIN_SIZE, b"e" * 16, 1), **limits)
    fd = os.memfd_create("crafted", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, MIN_SIZE)
    os.pwrite(fd, encode_header(layout), 0)
    os.pwrite(fd, LIVE.to_bytes(8, sys.byteorder), STATE_AT)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd, layout


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, "NOT_SET"),
        ({"max_probes": 129}, "BAD_MEMORY"),
        ({"max_probes": 0}, "BAD_MEMORY"),
        ({"max_key": 1025}, "BAD_MEMORY"),
        ({"max_value": 4097}, "BAD_MEMORY"),
    ],
)
def test_a_memory_that_asks_for_more_than_a_read_may_cost(
    probe: Path, limits: dict[str, int], said: str
) -> None:
    fd, _ = crafted(**limits)
    assert run(probe, "read", fd, "k", fd=fd) == f"{said}\n"
    os.close(fd)


@pytest.mark.parametrize(
    ("key", "said"),
    [("~7/k", "ELSEWHERE"), ("~0/", "ELSEWHERE"), ("~4294967296/k", "ELSEWHERE"),
     ("~7", "NOT_SET"), ("~/k", "NOT_SET"), ("~07/k", "NOT_SET"), ("~a/k", "NOT_SET"),
     ("7/k", "NOT_SET"), ("~7k/", "NOT_SET"), ("~", "NOT_SET")],
)  # fmt: skip
def test_private_keys_are_elsewhere(probe: Path, key: str, said: str) -> None:
    """As the store itself tells them from others."""
    assert is_private(key) == (said == "ELSEWHERE")
    fd, _ = crafted()
    assert run(probe, "read", fd, key, fd=fd) == f"{said}\n"
    os.close(fd)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_key_that_gets_its_slot_behind_a_reader(build: Build, language: str) -> None:
    """It was set all along, first outside of the table; that it is not set would be a lie.

    CRC-32 of "plumless" is that of "buckeroo", so the reader looks at its record.
    """
    fd, layout = crafted()
    tag = tag_of(b"buckeroo")
    slot = layout.table_offset + (tag >> layout.shift) * 8
    words = [FREED, tag << 32 | 2]
    os.pwrite(fd, b"".join(word.to_bytes(8, sys.byteorder) for word in words), slot)
    os.pwrite(fd, encode_record(b"plumless", b"p", 1), layout.heap_offset + 2 * 64)
    os.pwrite(fd, (1).to_bytes(8, sys.byteorder), OUTSIDE_AT)
    flags, compiler = split(language)
    program = build("slotted.c", *flags, compiler=compiler)
    assert run(program, fd, "buckeroo", slot, tag << 32 | 4, fd=fd) == "ELSEWHERE\n"
    os.close(fd)


@pytest.mark.parametrize("what", ["pipe", "file", "unsealed", "short", "noise"])
def test_descriptors_that_are_no_memory(probe: Path, tmp_path: Path, what: str) -> None:
    if what == "pipe":
        fd, other = os.pipe()
        os.close(other)
    elif what == "file":
        (tmp_path / "file").write_bytes(bytes(8192))
        fd = os.open(tmp_path / "file", os.O_RDWR)
    else:
        fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 100 if what == "short" else 8192)
        if what != "unsealed":
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    try:
        assert run(probe, "read", fd, "k", fd=fd) == "BAD_MEMORY\n"
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [16, 256, 4096])
def test_a_reader_slowed_down_inside_its_copy(build: Build, size: int) -> None:
    program = build("torn.c", "-std=c11", "-O2")
    with Writer(1, size, 60) as writer:
        said = run(program, writer.fd, "bench-0", 3_000_000 // size, fd=writer.fd)
    whole, torn, again, naive = map(int, said.split())
    assert torn == 0
    assert whole > 20 * again
    if size > 16:  # so short a value may be lucky
        assert naive > 0, "nothing was ever torn: the test is too slow or too fast"


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_eight_threads_while_the_writer_writes(build: Build, sanitizer: str, compiler: str) -> None:
    flags = ["-std=c11", "-O2", f"-fsanitize={sanitizer}"]
    program = build(BENCH, *flags, compiler=compiler)
    with Writer(100, 64, 60, rate=10_000) as writer:
        said = run(program, writer.fd, 100, 8, 1_000_000, fd=writer.fd)
    reads, _, torn, again, missing = map(float, said.split())
    assert (reads, torn, missing) == (1_000_000, 0, 0)
    assert again < 100


def records_of(fd: int) -> list[Record]:
    with Reader(os.dup(fd)) as reader:
        return list(reader.records())


def test_the_last_state_outlives_a_killed_writer(build: Build) -> None:
    for _ in range(5):
        with Writer(100, 64, 60) as writer:
            writer.process.kill()
            writer.process.wait()
            program = build(BENCH, "-std=c11", "-O2")
            said = run(program, writer.fd, 100, 1, 10_000, fd=writer.fd)
            keys = [f"bench-{n}" for n in range(3)]
            read = build("probe.c", "-std=c11"), "read", writer.fd, *keys
            probed = run(*read, fd=writer.fd).splitlines()
            found = {record.key: record.value for record in records_of(writer.fd)}
        reads, _, torn, again, missing = map(float, said.split())
        assert (reads, torn, again, missing) == (10_000, 0, 0, 0)
        assert len(found) == 100
        assert probed == [f"OK 64 {found[key].decode()}" for key in keys]
        assert all(value == value[:8] * 8 for value in found.values())


@pytest.mark.parametrize("language", LANGUAGES)
async def test_spoilt_memories(build: Build, tmp_path: Path, language: str) -> None:
    flags, compiler = split(language)
    program = build("spoilt.c", *flags, "-fsanitize=address,undefined", compiler=compiler)
    store = Store(lambda: 0)
    keys = [f"key-{n}" for n in range(40)]
    for number, key in enumerate(keys):
        store.set(0, key, b"x" * (number * 97 + 1))
    memory = SharedMemory(store, b"e" * 16, smallest=1 << 17, largest=1 << 18)
    fd = await memory.open_reader()
    (tmp_path / "map").write_bytes(os.pread(fd, 1 << 18, 0))
    os.close(fd)
    memory.close()
    command = [program, tmp_path / "map", "1000", "1", *keys, "missing"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=300)
    assert done.stderr == b"", done.stderr.decode()
    refused, values, others = map(int, done.stdout.split())
    assert refused
    assert values
    assert others


EXAMPLES = sorted((ROOT / "src/include/examples").iterdir())


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("source", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_examples(build: Build, source: Path, compiler: str) -> None:
    """They compile as strictly as the header; without a daemon they say so."""
    plus = source.suffix == ".cpp"
    flags = ["-O2", "-std=c++17" if plus else "-std=c11"]
    names = {"gcc": "g++", "clang": "clang++"}
    program = build(source, *flags, compiler=names[compiler] if plus else compiler)
    environment = {"MAPIPC_SET": "/nowhere/set", "MAPIPC_GET": "/nowhere/get"}
    done = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "the daemon does not run" in done.stderr


def test_pkg_config(tmp_path: Path) -> None:
    text = (ROOT / "src/include/mapipc.pc.in").read_text()
    for name, value in (("prefix", "/opt/here"), ("version", "1.2.3")):
        text = text.replace(f"@{name}@", value)
    assert "@" not in text
    (tmp_path / "mapipc.pc").write_text(text)
    if shutil.which("pkg-config") is None:
        pytest.skip("not installed: pkg-config")
    environment = os.environ | {"PKG_CONFIG_PATH": str(tmp_path)}
    for question, answer in (("--cflags", "-I/opt/here/include"), ("--modversion", "1.2.3")):
        command = ["pkg-config", question, "mapipc"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.stdout.split() == [answer]

"""The C program, built here and run against the doors of a store."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = PROJECT / "src/globstash/globstash.c"
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]

pytestmark = pytest.mark.skipif(not COMPILERS, reason="no C compiler")

# A store of its own process, because the programs here are waited for.
SERVER = """
import asyncio, sys
from pathlib import Path
from buswork.authority import Authority, Limits
from buswork.bus.polkit import Answer
from buswork.store.model import Store
from buswork.store.native.places import make_sockets
from buswork.store.native.memory import SharedMemory
from buswork.store.native.sockets import Doors
class Yes:
    questions = 0
    async def ask(self, *_, **__):
        return Answer(True, False, False)
async def main():
    store = Store(lambda: 0)
    doors = Doors(store, Authority(Yes(), None, 0, Limits()), memory=SharedMemory(store, bytes(16)))
    for file in make_sockets(Path(sys.argv[1])):
        doors.open(file.listener)
    print("READY", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    doors.close()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("store")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")},
    )
    assert server.stdout.readline() == b"READY\n"
    yield directory
    server.communicate()


@pytest.fixture(scope="module", params=COMPILERS)
def globstash(request, tmp_path_factory, directory):
    program = tmp_path_factory.mktemp("bin") / "globstash"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{PROJECT}/src/include"]
    subprocess.run([request.param, *flags, "-o", program, SOURCE], check=True)

    def run(*arguments, at=directory):
        places = {"MAPIPC_SET": f"{at}/mapipc_set", "MAPIPC_GET": f"{at}/mapipc_get"}
        done = subprocess.run(
            [program, *arguments],
            env=os.environ | places,
            capture_output=True,
            text=True,
            timeout=20,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_what_is_set_is_got(globstash):
    for value in ("v", 'a"b\\c\n\t\x01é😀', "x" * 100_000):
        assert globstash("set", "k", value) == (0, "", "")
        assert globstash("get", "k") == (0, value, "")


def test_an_empty_value_clears(globstash):
    globstash("set", "k", "v")
    assert globstash("set", "k", "") == (0, "", "")
    assert globstash("get", "k") == (0, "", "")


def test_refusals(globstash):
    status, out, complaint = globstash("set", f"~{os.geteuid() + 1}/k", "v")
    assert (status, out) == (1, "")
    assert complaint.startswith("globstash: ")
    assert globstash("get", f"~{os.geteuid() + 1}/k")[0] == 1
    assert globstash("get", "k", at="/nowhere")[0] == 1


def test_usage(globstash):
    assert globstash("--help")[0] == 0
    for arguments in ([], ["get"], ["get", ""], ["set", "k"], ["put", "k", "v"]):
        assert globstash(*arguments)[0] == 2


def test_it_stays_small():
    lines = [line for line in SOURCE.read_text().splitlines() if line.strip()]
    assert len(lines) <= 45

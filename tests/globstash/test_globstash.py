"""globstash, built here from C and as Python has it, run against the doors of a store: whoever
installs one or the other finds the same values."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.mapipcd import ask

from buswork.thin import wire

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = PROJECT / "src/globstash/globstash.c"
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]

BUILDS = [*COMPILERS, "python"]

# A store of its own process, because the programs here are waited for.
SERVER = """
import asyncio, sys
from pathlib import Path
from buswork.authority import Authority, Limits
from buswork.bus.polkit import Answer
from buswork.store.model.store import Store
from buswork.native.places import make_sockets
from buswork.store.native.memory import SharedMemory
from buswork.store.native.requests import NAMES
from buswork.store.native.sockets import Doors
class Yes:
    questions = 0
    async def ask(self, *_, **__):
        return Answer(True, False, False)
async def main():
    store = Store(lambda: 0)
    doors = Doors(store, Authority(Yes(), None, 0, Limits()), memory=SharedMemory(store, bytes(16)))
    for file in make_sockets(Path(sys.argv[1]), NAMES):
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


def built(compiler, directory):
    if compiler == "python":
        return [sys.executable, "-m", "buswork.thin.globstash"]
    program = directory / "globstash"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{PROJECT}/src/include"]
    subprocess.run([compiler, *flags, "-o", program, SOURCE], check=True)
    return [program]


@pytest.fixture(scope="module", params=BUILDS)
def globstash(request, tmp_path_factory, directory):
    program = built(request.param, tmp_path_factory.mktemp("bin"))

    def run(*arguments, at=directory, stdout=subprocess.PIPE):
        places = {
            "MAPIPC_SET": f"{at}/mapipc_set",
            "MAPIPC_GET": f"{at}/mapipc_get",
            "PYTHONPATH": str(PROJECT / "src"),
        }
        done = subprocess.run(
            [*program, *arguments],
            env=os.environ | places,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_what_is_set_is_got(globstash):
    for value in ("v", 'a"b\\c\n\t\x01é😀', "x" * 100_000):
        assert globstash("set", "k", value) == (0, "", "")
        assert globstash("get", "k") == (0, value, "")


VALUES = {
    '"text"': "text",
    '"ä€😀\\n\\u0001\\u007f/\\/"': "ä€😀\n\x01\x7f//",
    '"\\ud83d\\ude00"': "😀",
    '""': "",
    "null": "",
    '[1, "a"]': '[1,"a"]',
    "[]": "[]",
    '{"b": {"x": []}, "a": [1, " \\" ] \\\\"]}': '{"a":[1," \\" ] \\\\"],"b":{"x":[]}}',
    "5": "5",
    "1e300": "1e+300",
    "true": "true",
    '"a\\u0000b"': '"a\\u0000b"',
    '"\\ud83d"': '"\\ud83d"',
    '"x\\udc00 y"': '"x\\udc00 y"',
    '["\\ud83d", "a b"]': '["\\ud83d","a b"]',
    '"quote \\" \\u0000 \\\\"': '"quote \\" \\u0000 \\\\"',
    "[" * 512 + "]" * 512: "[" * 512 + "]" * 512,
}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:24])
def test_every_value_is_printed_in_one_way(globstash, directory, value):
    request = f'{{"key":"value","value":{value}}}'.encode()
    assert ask(directory / "mapipc_set", request) == request
    assert globstash("get", "value") == (0, VALUES[value], "")


def test_keys_that_nobody_can_have_set(globstash):
    for key in ("k" * 70_000, b"a\xff"):
        assert globstash("get", key) == (0, "", "")
        status, out, complaint = globstash("set", key, "v")
        assert (status, out, complaint.count("\n")) == (1, "", 1)


def test_an_output_that_takes_nothing(globstash):
    globstash("set", "k", "v")
    with open("/dev/full", "wb") as full:
        status, _, complaint = globstash("get", "k", stdout=full)
    assert (status, complaint) == (1, "globstash: No space left on device\n")


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


def test_both_builds_wait_as_long():
    header = (PROJECT / "src/include/mapipc.h").read_text()
    (timeout_ms,) = re.findall(r"#define MAPIPC_TIMEOUT_MS (\d+)", header)
    assert int(timeout_ms) == wire.SECONDS * 1000

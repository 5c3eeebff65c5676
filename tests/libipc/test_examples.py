"""docs/examples/pong.c and pongd.c: programs that know of libipc what its description says, and
nothing else, with each other, with recorded bytes, with buswork.libipc, and over D-Bus.
"""

import asyncio
import os
import shutil
import socket
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from client.private_bus import PrivateBus
from fuzz.libipc_contracts import in_one_go
from libipc.wire.vectors import streams

from buswork.client import Client
from buswork.client import libipc as over_bus
from buswork.libipc import Received, RunDir, connect, serve
from buswork.libipc.wire.forms import Form, Message, encode

ROOT = Path(__file__).resolve().parents[2]
STRICT = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O1", "-g",
          "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion"]  # fmt: skip
MOST = 131_072
SECONDS = 20
LONG = "long " * 20_000
RECORDED = [s for s in streams() if s.form is Form.C and s.name.endswith("/sent")]


@pytest.fixture(scope="module", params=["gcc", "clang"])
def programs(request, tmp_path_factory):
    """Where they are, made by this compiler."""
    compiler = request.param
    if shutil.which(compiler) is None:
        pytest.skip(f"not installed: {compiler}")
    folder = tmp_path_factory.mktemp(compiler)
    for name in ("pong", "pongd"):
        source = ROOT / "docs/examples" / f"{name}.c"
        subprocess.run([compiler, *STRICT, source, "-o", folder / name], check=True)
    return folder


@pytest.fixture
def rundir(tmp_path):
    # A socket's path is short.
    return RunDir(tmp_path, Form.C)


@pytest.fixture
def environment(rundir):
    return os.environ | {"IPC_RUNDIR": str(rundir.path)}


@contextmanager
def serving(programs, environment):
    command = [programs / "pongd", "pong"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "serving pong\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def pongd(programs, environment):
    with serving(programs, environment) as process:
        yield process


def run_pong(programs, environment, *arguments):
    return subprocess.run(
        [programs / "pong", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


# -- among themselves ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["hello", "", "é", LONG])
def test_one_with_the_other(pongd, programs, environment, text):
    for _ in range(2):
        done = run_pong(programs, environment, "pong", text)
        assert (done.stdout, done.stderr) == (f"type 2, user type 42: {text}\n", "")


def test_without_a_service(programs, environment):
    done = run_pong(programs, environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert "No such file" in done.stderr


def test_a_name_that_fits_no_path(programs, environment):
    for name in ("pong", "pongd"):
        done = subprocess.run([programs / name, "x" * 200], env=environment, capture_output=True)
        assert done.returncode == 1
        assert b"too long" in done.stderr


def test_a_place_is_taken_over_from_the_dead_alone(pongd, programs, environment):
    second = subprocess.run([programs / "pongd", "pong"], env=environment, capture_output=True)
    assert second.returncode == 1
    assert b"already" in second.stderr
    pongd.kill()
    pongd.wait()
    with serving(programs, environment):
        assert run_pong(programs, environment).returncode == 0


# -- with recorded bytes ---------------------------------------------------------------------------


def connected(rundir):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(SECONDS)
    sock.connect(str(rundir.path / "pong"))
    return sock


def answers(sock, size):
    got = b""
    while len(got) < size and (piece := sock.recv(1 << 20)):
        got += piece
    return got


@pytest.mark.parametrize("piece", [1 << 20, 3])
def test_the_service_sends_every_recorded_message_back(pongd, rundir, piece):
    for stream in RECORDED:
        if len(stream.data) > 3000 and piece < 1000:
            continue
        messages, left, refused = in_one_go(Form.C, stream.data, MOST)
        whole = stream.data[: len(stream.data) - len(left)]
        assert whole == b"".join(encode(Form.C, message) for message in messages)
        with connected(rundir) as sock:
            try:
                for at in range(0, len(stream.data), piece):
                    sock.sendall(stream.data[at : at + piece])
            except (BrokenPipeError, ConnectionResetError):
                assert refused
            assert answers(sock, len(whole)) == whole
            if refused:
                with suppress(ConnectionResetError):
                    assert sock.recv(1) == b""


# -- with the library ------------------------------------------------------------------------------


def echo(event):
    if isinstance(event, Received):
        event.connection.send_message(event.message)


@pytest.mark.parametrize("text", ["hello", "", "é", LONG])
async def test_a_service_in_python_for_clients_in_c(programs, rundir, environment, text):
    async with serve("pong", rundir=rundir, on_event=echo):
        calls = [asyncio.to_thread(run_pong, programs, environment, "pong", text) for _ in range(3)]
        for done in await asyncio.gather(*calls):
            assert (done.stdout, done.stderr) == (f"type 2, user type 42: {text}\n", "")


@pytest.mark.parametrize("size", [0, 1, 65_536, MOST])
async def test_a_client_in_python_of_a_service_in_c(pongd, rundir, size):
    payload = bytes(range(256)) * (size // 256 + 1)
    async with connect("pong", rundir=rundir) as connection, asyncio.timeout(SECONDS):
        for user_type in (0, 42, 255):
            connection.send(payload[:size], user_type)
            assert await connection.receive() == Message(payload[:size], user_type)


async def test_many_messages_at_once_come_back_in_order(pongd, rundir):
    """Not so many that their answers would fill a socket: the service cuts off who lets it."""
    payloads = [b"%d" % number for number in range(150)]
    async with connect("pong", rundir=rundir) as connection, asyncio.timeout(SECONDS):
        for payload in payloads:
            connection.send(payload)
        assert [(await connection.receive()).payload for _ in payloads] == payloads


# -- over D-Bus ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bus():
    with PrivateBus() as bus:
        bus.start_daemon("--wings", "libipc", "--simulate")
        yield bus


@pytest.fixture
async def client(bus):
    async with Client(bus.address) as client:
        yield client


async def send_back(service):
    async for event in service:
        if isinstance(event, over_bus.Received):
            await service.send(event.client, event.message.payload, event.message.user_type)


@pytest.fixture
def environment_there(bus):
    return os.environ | {"IPC_RUNDIR": f"{bus.folder}/ipc-c"}


@pytest.fixture
def pongd_there(programs, environment_there):
    with serving(programs, environment_there) as process:
        yield process


@pytest.mark.parametrize("text", ["hello", "", "é", LONG])
async def test_a_service_on_the_bus_for_clients_in_c(programs, environment_there, client, text):
    async with client.libipc.serve("pong") as service:
        sending = asyncio.create_task(send_back(service))
        for _ in range(2):
            done = await asyncio.to_thread(run_pong, programs, environment_there, "pong", text)
            assert (done.stdout, done.stderr) == (f"type 2, user type 42: {text}\n", "")
        sending.cancel()


async def test_a_caller_of_the_bus_reaches_a_service_in_c(pongd_there, client):
    async with asyncio.timeout(SECONDS), client.libipc.channel("pong") as channel:
        await channel.send(b"hello", 7)
        assert await channel.receive() == Message(b"hello", 7)
    with await client.libipc.connect_socket("pong") as sock:
        await asyncio.to_thread(sock.sendall, encode(Form.C, Message(b"x", 8)))
        assert await asyncio.to_thread(answers, sock, 7) == encode(Form.C, Message(b"x", 8))

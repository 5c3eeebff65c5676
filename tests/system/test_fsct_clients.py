"""Other people's MessagePack-RPC clients, unmodified, on the driver's socket: each of the twelve
methods, texts, binary values, numbers and errors, as the client has them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PEERS = PROJECT / "tests" / "support" / "peers"
SECONDS = 60
NODE_PACKAGES = ["msgpack-rpc-node@0.1.0-alpha.3", "neovim@5.5.0"]

DEVICE = {"$bin": "a1b2c3d4e5f647898abcdef012345678"}
TIMELINE = {"position_ms": 12345, "update_unix_ms": 1755000000123, "duration_ms": 240000}
STATE = {
    "status": 1,
    "timeline": {**TIMELINE, "rate": 1.0},
    "texts": {"title": "Żółw 🎵", "artist": None},
}
NO_PLAYER = {"error": "Player not found"}
EXCHANGES = [
    (["get_protocol_version"], {"major": 1, "minor": 0}),
    (["register_player", "zażółć 🎵"], 1),
    (["register_player", ""], 2),
    (["update_player_state", 1, STATE], None),
    (["update_player_state", 1, {}], None),
    (["update_player_status", 1, 2], None),
    (["update_player_timeline", 1, {**TIMELINE, "rate": 0.5}], None),
    (["update_player_timeline", 1, {**TIMELINE, "rate": 1}], None),
    (["update_player_timeline", 1, None], None),
    (["update_player_metadata", 1, 1, "Tytuł 🎵"], None),
    (["update_player_metadata", 1, 4, None], None),
    (["get_player_assigned_device", 1], None),
    (["assign_player_to_device", 1, DEVICE], None),
    (["get_player_assigned_device", 1], DEVICE),
    (["unassign_player_from_device", 1, DEVICE], None),
    (["unassign_player_from_device", 1, DEVICE], {"error": "unassign_player_from_device error"}),
    (["get_preferred_player"], None),
    (["set_preferred_player", 1], None),
    (["get_preferred_player"], 1),
    (["set_preferred_player", None], None),
    (["get_preferred_player"], None),
    (["update_player_status", 4294967295, 1], NO_PLAYER),
    (["update_player_status", 1, 257], {"error": "invalid status code: 257"}),
    (["update_player_metadata", 1, 1, 5], {"error": "text must be string or nil"}),
    (["register_player"], {"error": "expected 1 param: self_id"}),
    (["frobnicate"], {"error": "unknown method: frobnicate"}),
    (["unregister_player", 1], None),
    (["unregister_player", 1], {"error": "unregister_player error"}),
    (["set_preferred_player", 1], NO_PLAYER),
    (["get_protocol_version"], {"major": 1, "minor": 0}),
]
CALLS = json.dumps([call for call, _ in EXCHANGES])


@pytest.fixture
def path(tmp_path):
    """The socket of a driver that lives in a process of its own."""
    path = tmp_path / "fsct.sock"
    environment = os.environ | {"PYTHONPATH": f"{PROJECT / 'src'}:{PROJECT / 'tests'}"}
    driver = subprocess.Popen(
        [sys.executable, PROJECT / "tests" / "support" / "rpc.py", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert driver.stdout.readline() == "ready\n"
    yield path
    driver.communicate(timeout=SECONDS)
    assert driver.returncode == 0


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory):
    """Where the packages of the npm registry are."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            pytest.skip(f"not installed: {command}")
    directory = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts"]
    done = subprocess.run(
        [*install, "--prefix", directory, *NODE_PACKAGES],
        capture_output=True,
        text=True,
        timeout=5 * SECONDS,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"the npm registry can't be reached: {done.stderr.strip()[-200:]}")
    return directory / "node_modules"


def answers_of(*command, **environment):
    done = subprocess.run(
        command,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(answers, error_of=lambda error: error):
    """error_of: what the client makes of the text of an error."""
    assert len(answers) == len(EXCHANGES)
    for (call, expected), answer in zip(EXCHANGES, answers, strict=True):
        if isinstance(expected, dict) and "error" in expected:
            expected = {"error": error_of(expected["error"])}
        assert answer == expected, call


def test_pynvim(path):
    pytest.importorskip("pynvim")
    output = answers_of(sys.executable, PEERS / "with_pynvim.py", path, CALLS)
    # To pynvim, an error is an array, [type, text]; of a text it shows the second character.
    check(json.loads(output), lambda error: error[1])


def test_aio_msgpack_rpc(path):
    pytest.importorskip("aio_msgpack_rpc")
    script = PEERS / "with_aio_msgpack_rpc.py"
    check(json.loads(answers_of(sys.executable, script, path, CALLS)))


def test_neovim(path, tmp_path):
    if shutil.which("nvim") is None:
        pytest.skip("not installed: nvim (Debian's package neovim)")
    answers = tmp_path / "answers"
    answers_of(
        *("nvim", "--headless", "-u", "NONE", "-i", "NONE", "-S", PEERS / "with_nvim.vim"),
        FSCT_SOCKET=str(path),
        FSCT_CALLS=CALLS,
        FSCT_ANSWERS=str(answers),
    )
    found = json.loads(answers.read_text())
    for answer in found:
        if isinstance(answer, dict) and "error" in answer:
            # "Vim(call):Error invoking 'x' on channel 3:\nPlayer not found"
            answer["error"] = answer["error"].rpartition("\n")[2]
    check(found)


@pytest.mark.parametrize("name", ["msgpack_rpc_node", "neovim"])
def test_clients_of_node(path, node_modules, name):
    script = PEERS / f"with_{name}.js"
    output = answers_of("node", script, path, CALLS, NODE_PATH=str(node_modules))
    check(json.loads(output))


def test_two_of_them_at_once(path):
    """Each has its players; those of one that has gone are gone."""
    pytest.importorskip("aio_msgpack_rpc")
    script = PEERS / "with_aio_msgpack_rpc.py"

    def start(*calls):
        return subprocess.Popen(
            [sys.executable, script, path, json.dumps(calls)], stdout=subprocess.PIPE, text=True
        )

    many = 300 * [["register_player", "x"], ["get_preferred_player"], ["unregister_player", 0]]
    both = [start(*many[:600]), start(*many[:600])]
    answers = [json.loads(process.communicate(timeout=SECONDS)[0]) for process in both]
    ids = [{answer for answer in found if isinstance(answer, int)} for found in answers]
    assert not ids[0] & ids[1]
    assert sum(map(len, ids)) <= 2 * 200
    last = start(["get_preferred_player"], *(["update_player_status", n, 1] for n in ids[0]))
    found = json.loads(last.communicate(timeout=SECONDS)[0])
    assert found == [None, *[NO_PLAYER] * len(ids[0])]

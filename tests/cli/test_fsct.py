"""Tests of buswork fsct, on a private bus with simulated displays."""

import asyncio
import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import time

import pytest
from client.private_bus import PrivateBus

from buswork.cli.exits import Exit
from buswork.cli.fsct import _clock, _width, display, play
from buswork.cli.output import InputError, Output
from buswork.cli.parser import make_parser
from buswork.client import Client

EVIL = "a\x1b[31m\nb"
SECONDS = 10.0


@pytest.fixture(scope="module")
def simulated():
    with PrivateBus() as bus:
        bus.start_daemon("--simulate")
        yield bus


def ok(done):
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def answer(bus, *words):
    return json.loads(ok(bus.run("fsct", *words, "--json")))


def eventually(condition):
    """For what happens in the daemon and its devices, which tell nobody here."""
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


class Playing:
    """buswork fsct play, for as long as it is wanted."""

    def __init__(self, bus, *words):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = bus.popen("fsct", "play", *words, "--json", **pipes)
        self.number = str(self.next()["player"])

    def next(self):
        return json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.process.send_signal(signal.SIGINT)
        said = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, *said


@pytest.fixture
def player(simulated):
    words = ("--title", EVIL, "--artist", "Singer", "--duration", "240", "--position", "61.5")
    with Playing(simulated, *words, "--rate", "0", "--self-id", "test") as player:
        yield player
    eventually(lambda: answer(simulated, "players") == [])


# -- what there is -------------------------------------------------------------------------------


def test_nothing_plays(simulated):
    done = simulated.run("fsct", "players")
    assert (done.returncode, done.stdout) == (Exit.OK, "")
    assert "there are no players" in done.stderr
    assert answer(simulated, "players") == []


def test_players(simulated, player):
    line = ok(simulated.run("fsct", "players")).splitlines()[1]
    assert "a\\x1b[31m\\nb" in line
    assert "1:01 / 4:00" in line
    assert line.endswith("test")
    (found,) = answer(simulated, "players")
    assert found["texts"] == {"title": EVIL, "artist": "Singer", "album": None, "genre": None}
    assert (found["status"], found["self_id"], found["uid"]) == ("playing", "test", os.getuid())
    assert (found["position_ms"], found["preferred"]) == (61_500, False)
    assert found["timeline"]["duration_ms"] == 240_000
    assert sorted(found["shown_on"]) == sorted(each["id"] for each in answer(simulated, "devices"))


def test_devices(simulated, player):
    lines = eventually(lambda: ok(simulated.run("fsct", "devices")).splitlines()[1:])
    assert "buswork Simulated DAC" in lines[0]
    assert lines[0].split()[-2:] == [player.number, "playing"]
    found = answer(simulated, "devices")
    assert [each["serial"] for each in found] == ["SIM-1", "SIM-2"]
    assert found[1]["texts"] == {"current_title": 32, "current_author": 32}


def test_status(simulated, player):
    lines = ok(simulated.run("fsct", "status")).splitlines()
    assert lines[0] == "buswork Simulated DAC (port 1-1)"
    assert f"player {player.number}, playing, a\\x1b[31m\\nb - Singer" in lines[1]
    assert lines[1].endswith("(playing)")
    assert lines[-1].split() == ["players", "1"]
    ok(simulated.run("fsct", "prefer", "test"))
    lines = ok(simulated.run("fsct", "status")).splitlines()
    assert lines[1].endswith("(preferred)")
    assert lines[-1].startswith(f"preferred    player {player.number}, playing, a\\x1b[31m\\nb")
    found = answer(simulated, "status")
    assert found["preferred"] == int(player.number)
    assert (len(found["players"]), len(found["devices"])) == (1, 2)
    ok(simulated.run("fsct", "prefer", "--none"))


def test_without_devices_and_players(shared_bus):
    done = shared_bus.run("fsct", "devices")
    assert (done.returncode, done.stdout) == (Exit.OK, "")
    assert "no display is connected" in done.stderr
    lines = ok(shared_bus.run("fsct", "status")).splitlines()
    assert lines == ["no display is connected", "players      0"]


# -- who is shown where --------------------------------------------------------------------------


def test_assigning(simulated, player):
    first = eventually(lambda: answer(simulated, "devices"))[0]["id"]
    assert answer(simulated, "assign", "test", first[:8].upper()) == {
        "player": int(player.number),
        "device": first,
    }
    assert answer(simulated, "players")[0]["device"] == first
    assert answer(simulated, "devices")[0]["active_reason"] == "assigned"
    assert ok(simulated.run("fsct", "unassign", player.number)) == ""
    assert answer(simulated, "players")[0]["device"] is None
    done = simulated.run("fsct", "unassign", player.number)
    assert (done.returncode, "assigned to no device" in done.stderr) == (Exit.FAILED, True)
    absent = "00000000-0000-0000-0000-000000000001"
    assert ok(simulated.run("fsct", "assign", player.number, absent)) == ""
    assert answer(simulated, "players")[0]["device"] == absent


def test_preferring(simulated, player):
    assert ok(simulated.run("fsct", "prefer")) == ""
    assert answer(simulated, "prefer", "test") == {"preferred": int(player.number)}
    assert ok(simulated.run("fsct", "prefer")) == f"{player.number}\n"
    assert ok(simulated.run("fsct", "players")).splitlines()[1].startswith(f"{player.number}*")
    assert answer(simulated, "prefer", "--none") == {"preferred": None}
    assert simulated.run("fsct", "prefer", "test", "--none").returncode == Exit.USAGE


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["prefer", "nobody"], Exit.FAILED, "no player calls itself nobody"),
        (["prefer", "4000000000"], Exit.FAILED, "org.fsct.Error.NoSuchPlayer"),
        (["prefer", "9" * 30], Exit.FAILED, "InvalidArgs"),
        (["assign", "test", "nowhere"], Exit.FAILED, "InvalidArgs"),
        (["assign", "test", ""], Exit.FAILED, "a DEVICE has an id"),
        (["assign", "test"], Exit.USAGE, "DEVICE"),
        (["display", "--plug", "9-9"], Exit.FAILED, "1-1, 1-2"),
        (["play", "--status", "dancing"], Exit.USAGE, "dancing"),
        (["play", "--duration", "-1"], Exit.USAGE, "-1"),
        (["play", "--duration", "nan"], Exit.USAGE, "nan"),
        (["play", "--rate", "inf"], Exit.FAILED, "rate"),
        (["play", "--while"], Exit.USAGE, "--while takes a command"),
        ([], Exit.USAGE, "COMMAND"),
    ],
)
def test_what_is_refused(simulated, player, words, status, text):
    done = simulated.run("fsct", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr


def test_names_that_several_have(simulated, player):
    with Playing(simulated, "--self-id", "test"):
        done = simulated.run("fsct", "prefer", "test")
        assert (done.returncode, "several players" in done.stderr) == (Exit.FAILED, True)
    eventually(lambda: len(answer(simulated, "players")) == 1)


# -- a player of one's own -----------------------------------------------------------------------


def test_playing_ends_with_ctrl_c(simulated):
    playing = Playing(simulated, "--title", "x")
    (found,) = answer(simulated, "players")
    assert (found["timeline"], found["self_id"]) == (None, "buswork fsct play")
    assert playing.end() == (Exit.INTERRUPTED, "", "")
    eventually(lambda: answer(simulated, "players") == [])


def test_a_track_that_runs(simulated):
    with Playing(simulated, "--duration", "100"):
        assert answer(simulated, "players")[0]["timeline"]["rate"] == 1.0
    with Playing(simulated, "--duration", "100", "--status", "paused") as playing:
        number = int(playing.number)
        (found,) = [each for each in answer(simulated, "players") if each["id"] == number]
        assert (found["timeline"]["rate"], found["status"]) == (0.0, "paused")
    eventually(lambda: answer(simulated, "players") == [])


def test_playing_while_a_command_runs(simulated):
    path = f"{os.path.dirname(os.sys.executable)}:{os.environ['PATH']}"
    words = ("fsct", "play", "--title", "x", "--while", "--", "sh", "-c")
    command = "buswork fsct players --json; exit 7"
    done = simulated.run(*words, command, env={"PATH": path})
    assert done.returncode == 7
    assert json.loads(done.stdout)[0]["texts"]["title"] == "x"
    eventually(lambda: answer(simulated, "players") == [])


def test_a_player_that_is_taken_away(simulated):
    playing = Playing(simulated)
    path = f"/org/fsct/players/{playing.number}"
    ok(simulated.run("clients", "--release", path))
    said = playing.process.communicate(timeout=SECONDS)[1]
    assert playing.process.returncode == Exit.FAILED
    assert f"took player {playing.number} away" in said


async def test_the_end_of_other_players_is_no_matter(simulated):
    async with Client(simulated.address) as client, Client(simulated.address) as other:
        ask, asked, has_asked = client.driver.list_players, [], asyncio.Event()

        async def list_players():
            asked.append(await ask())
            has_asked.set()
            return asked[-1]

        client.driver.list_players = list_players
        options = make_parser().parse_args(["fsct", "play", "--title", "x"])
        playing = asyncio.create_task(play(client, options, Output()))
        async with asyncio.timeout(SECONDS):
            await has_asked.wait()  # it has looked once, and listens
            (number,) = asked[0]
            for _ in range(20):
                await other.driver.unregister_player(await other.driver.register_player("other"))
            await other.driver.unregister_player(number)
            with pytest.raises(InputError, match=f"took player {number} away"):
                await playing
        assert len(asked) == 2


def test_a_player_outlives_the_daemon(bus):
    playing = Playing(bus, "--title", "x")
    bus.stop_daemon()
    bus.start_daemon()
    number = playing.next()["player"]
    (found,) = answer(bus, "players")
    assert (found["id"], found["texts"]["title"]) == (number, "x")
    bus.kill_daemon()
    bus.kill_bus()
    said = playing.process.communicate(timeout=SECONDS)[1]
    assert playing.process.returncode == Exit.NOT_RUNNING
    assert "the connection to the bus is gone" in said


# -- simulated displays --------------------------------------------------------------------------


def test_the_display(simulated, player):
    texts = ["▶ Playing", "a\ufffd[31m\ufffdb", "Singer", "", ""]
    eventually(lambda: answer(simulated, "display")["1-1"][:5] == texts)
    drawn = ok(simulated.run("fsct", "display", "1-1")).splitlines()
    assert drawn[0].startswith("┌─ 1-1 ─")
    assert drawn[1].startswith("│ ▶ Playing ")
    assert "1:01 / 4:00" in drawn[6]
    assert len(drawn) == 8
    assert len(set(map(len, drawn))) == 1
    assert len(ok(simulated.run("fsct", "display")).splitlines()) == 16


def test_plugging(simulated):
    assert ok(simulated.run("fsct", "display", "--unplug", "1-2")) == ""
    assert "(not plugged in)" in ok(simulated.run("fsct", "display", "1-2"))
    assert ok(simulated.run("fsct", "display", "--plug", "1-2")) == ""
    assert answer(simulated, "display", "1-2") == {"1-2": ["(off)"]}
    eventually(lambda: len(answer(simulated, "devices")) == 2)


def test_watching(simulated):
    words = ("fsct", "display", "1-1", "--watch", "--json")
    watch = simulated.popen(*words, stdout=subprocess.PIPE)
    assert list(json.loads(watch.stdout.readline())) == ["1-1"]
    with Playing(simulated, "--title", "Song"):
        while "Song" not in json.loads(watch.stdout.readline())["1-1"]:
            pass
    while json.loads(watch.stdout.readline())["1-1"][:1] == ["▶ Playing"]:
        pass
    watch.send_signal(signal.SIGINT)
    watch.stdout.close()
    assert watch.wait(SECONDS) == Exit.INTERRUPTED


def test_watching_ends_with_its_reader(simulated):
    watch = simulated.popen("fsct", "display", "--watch", stdout=subprocess.PIPE)
    assert watch.stdout.readline().startswith("┌")
    watch.stdout.close()
    assert watch.wait(SECONDS) == Exit.NOBODY_READS


def test_watching_on_a_terminal(simulated):
    ours, theirs = pty.openpty()
    watch = simulated.popen("fsct", "display", "1-1", "--watch", stdout=theirs)
    os.close(theirs)
    seen = b""
    with Playing(simulated, "--title", "Song"):
        while b"\x1b[H\x1b[J" not in seen or b"Song" not in seen:
            assert select.select([ours], [], [], SECONDS)[0]
            seen += os.read(ours, 65536)
    watch.send_signal(signal.SIGINT)
    assert watch.wait(SECONDS) == Exit.INTERRUPTED
    os.close(ours)


class FakeClient:
    """One display, which shows a number."""

    def __init__(self):
        self.simulator = self.connection = self
        self.closed = asyncio.get_running_loop().create_future()
        self.shown = 0
        self.asked = 0
        self.is_asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def list_displays(self):
        return ["1-1"]

    async def get_display(self, port):
        self.asked += 1
        self.is_asked.set()
        await self.gate.wait()
        return [str(self.shown)]

    async def on_changed(self, callback):
        self._callback = callback

    def change(self):
        self.shown += 1
        self._callback("1-1")


class Terminal:
    """A stdout that is read only when the test wants it."""

    def __init__(self, monkeypatch):
        self.ours, theirs = os.pipe()
        self.theirs = os.fdopen(theirs, "w")
        os.set_blocking(self.ours, False)
        monkeypatch.setattr("sys.stdout", self.theirs)

    def fill(self):
        number = self.theirs.fileno()
        os.set_blocking(number, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(number, bytes(65536))
        os.set_blocking(number, True)

    async def until(self, text):
        read = b""
        async with asyncio.timeout(SECONDS):
            while text.encode() not in read:
                await asyncio.sleep(0)
                with contextlib.suppress(BlockingIOError):
                    read += os.read(self.ours, 65536)

    def close(self):
        os.close(self.ours)
        self.theirs.close()


@contextlib.asynccontextmanager
async def watching(monkeypatch):
    client, terminal = FakeClient(), Terminal(monkeypatch)
    options = make_parser().parse_args(["fsct", "display", "--watch"])
    task = asyncio.create_task(display(client, options, Output()))
    await terminal.until("│ 0 ")
    yield client, terminal
    task.cancel()
    await asyncio.wait([task])
    terminal.close()
    assert task.cancelled()


async def test_changes_that_come_while_one_is_read_are_one(monkeypatch):
    async with watching(monkeypatch) as (client, terminal):
        client.gate.clear()
        client.is_asked.clear()
        client.change()
        await client.is_asked.wait()
        for _ in range(1000):
            client.change()
        client.gate.set()
        await terminal.until("│ 1001 ")
        for _ in range(100):
            await asyncio.sleep(0)
        assert client.asked <= 3


async def test_a_terminal_that_is_not_read_gets_the_newest_in_the_end(monkeypatch):
    async with watching(monkeypatch) as (client, terminal):
        terminal.fill()
        for _ in range(1000):
            client.change()
            await asyncio.sleep(0)
        assert client.asked == 1
        await terminal.until("│ 1000 ")
        assert client.asked == 2


def test_there_is_no_simulated_display(shared_bus):
    for words in ([], ["--watch"], ["1-1"], ["--plug", "1-1"]):
        done = shared_bus.run("fsct", "display", *words)
        assert (done.returncode, done.stdout) == (Exit.FAILED, "")
        assert "there is no simulated display: busworkd runs without --simulate" in done.stderr


def test_no_daemon(bus):
    bus.kill_daemon()
    for words in (["players"], ["status"], ["play"], ["display"]):
        assert bus.run("fsct", *words).returncode == Exit.NOT_RUNNING


# -- small things --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0:00"),
        (999, "0:00"),
        (61_000, "1:01"),
        (3_600_000, "1:00:00"),
        (2**63, "2562047788015:12:55"),
    ],
)
def test_clocks(milliseconds, text):
    assert _clock(milliseconds) == text


@pytest.mark.parametrize(("text", "columns"), [("", 0), ("ab", 2), ("世界", 4), ("e\u0301", 1)])
def test_columns(text, columns):
    assert _width(text) == columns


def test_help_names_the_technology(simulated):
    text = ok(simulated.run("fsct", "--help"))
    assert "Ferrum Streaming Control Technology(TM), FSCT" in " ".join(text.split())

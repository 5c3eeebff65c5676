"""The agent as a process, on a real bus: mpv and playerctld as people have them, to the driver."""

from __future__ import annotations

import asyncio
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from client.private_bus import PrivateBus
from support.container import Container
from support.fakedriver import FakeDriver, FakePlayer
from support.places import eventually

from buswork.client import Client
from buswork.client.fsct import IpcDriver
from buswork.fsct.wire.terms import Status

AGENT = "buswork-agent.service"
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
MPRIS_FOR_MPV = pathlib.Path("/usr/lib/mpv-mpris/mpris.so")
MPV = "org.mpris.MediaPlayer2.mpv"
PORT = "1-1"
PICTURES = pathlib.Path(__file__).with_name("mpv_on_a_display.txt")
GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guide-fsct.md"
DISPLAY_SECONDS = 20.0
tools = pytest.mark.tools
needs_mpv = pytest.mark.skipif(
    shutil.which("mpv") is None or shutil.which("playerctl") is None or not MPRIS_FOR_MPV.exists(),
    reason="not installed: mpv, mpv-mpris, playerctl",
)


class Session:
    """A bus, the driver that the agent finds, and what was started."""

    def __init__(self, bus: PrivateBus, driver: FakeDriver) -> None:
        self.bus = bus
        self.driver = driver
        self.runtime = bus.folder / "runtime"
        self.runtime.mkdir(mode=0o700)
        self.processes: list[subprocess.Popen[str]] = []

    @property
    def environment(self) -> dict[str, str]:
        return self.bus.environment | {
            "DBUS_SESSION_BUS_ADDRESS": self.bus.address,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "FSCT_IPC_ENDPOINT": self.driver.path,
            "HOME": str(self.bus.folder),
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        log = (self.bus.folder / "log").open("a")
        with log:
            process = subprocess.Popen(
                words, env=self.environment, stdout=log, stderr=log, text=True
            )
        self.processes.append(process)
        return process

    def agent(self, *words: str) -> subprocess.Popen[str]:
        return self.start(sys.executable, "-m", "buswork.fsct.agent", *words)

    async def run(self, *words: str) -> str:
        done = await asyncio.to_thread(
            subprocess.run, words, env=self.environment, capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    async def playerctl(self, *words: str) -> str:
        return await self.run("playerctl", "--player=mpv", *words)

    def song(self, name: str, seconds: int, **texts: str) -> str:
        """A file of silence; the texts have the names that a WAV file has for them."""
        path = self.bus.folder / name
        info = b"INFO" + b"".join(_chunk(name, text.encode()) for name, text in texts.items())
        silence = bytes([128]) * 8000 * seconds
        format_ = struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)
        chunks = _chunk("fmt ", format_) + _chunk("LIST", info) + _chunk("data", silence)
        path.write_bytes(_chunk("RIFF", b"WAVE" + chunks))
        return str(path)

    def player(self) -> FakePlayer:
        return self.driver.by_name(MPV)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def _chunk(name: str, data: bytes) -> bytes:
    return name.encode() + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


@pytest.fixture
def private_bus() -> Iterator[PrivateBus]:
    with PrivateBus() as bus:
        yield bus


@pytest.fixture
async def session(private_bus: PrivateBus) -> AsyncIterator[Session]:
    async with FakeDriver(private_bus.folder / "driver.sock") as driver:
        session = Session(private_bus, driver)
        yield session
        session.end()


class Display:
    """A simulated display of a real daemon, on the same bus."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._changed = asyncio.Event()

    async def follow(self) -> None:
        await self._client.simulator.on_changed(lambda _: self._changed.set())

    async def until(self, status: str, title: str, seconds: range, length: str) -> int:
        """Waits for these lines, at one of these seconds, which it returns."""

        def position(lines: list[str]) -> int:
            clock = re.search(r"(\d+):(\d\d) / (\S+)$", "\n".join(lines))
            if lines[:2] != [status, title] or clock is None or clock[3] != length:
                return -1
            return 60 * int(clock[1]) + int(clock[2])

        return position(await self._wait(lambda lines: position(lines) in seconds))

    async def until_off(self) -> None:
        await self._wait(lambda lines: lines == ["(off)"])

    async def _wait(self, wanted: Callable[[list[str]], bool]) -> list[str]:
        lines: list[str] = []
        try:
            async with asyncio.timeout(DISPLAY_SECONDS):
                while not wanted(lines := await self._client.simulator.get_display(PORT)):
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError:
            pytest.fail(f"the display shows {lines}")
        return lines


@pytest.fixture
async def display(private_bus: PrivateBus) -> AsyncIterator[Display]:
    private_bus.start_daemon("--simulate", "--socket-dir", str(private_bus.folder))
    async with Client(private_bus.address) as client:
        display = Display(client)
        await display.follow()
        yield display


async def ended(process: subprocess.Popen[str]) -> int:
    return await asyncio.to_thread(process.wait, 20)


@tools
@needs_mpv
async def test_mpv_from_its_first_track_to_its_end(session: Session) -> None:
    agent = session.agent()
    mpv = session.start(
        *("mpv", "--no-config", "--no-terminal", "--ao=null", "--vo=null"),
        *(f"--script={MPRIS_FOR_MPV}", "--idle=yes"),
        *(session.song("one.wav", 60), session.song("two.wav", 100)),
    )
    until, player = session.driver.until, session.player

    def timeline(duration_ms: int, rate: float) -> bool:
        found = player().state.timeline
        return found is not None and (found.duration_ms, found.rate) == (duration_ms, rate)

    await until(lambda: player().state.status is Status.PLAYING)
    await until(lambda: player().state.texts.title == "one.wav")
    await until(lambda: timeline(60_000, 1.0))

    await session.playerctl("pause")
    await until(lambda: player().state.status is Status.PAUSED)
    await until(lambda: timeline(60_000, 0.0))

    await session.playerctl("position", "30")
    await until(lambda: abs(player().state.timeline.position_ms - 30_000) < 500)  # type: ignore[union-attr]

    await session.playerctl("play")
    await until(lambda: player().state.status is Status.PLAYING)
    await until(lambda: timeline(60_000, 1.0))
    assert player().state.timeline.position_ms >= 29_500  # type: ignore[union-attr]

    await session.playerctl("next")
    await until(lambda: player().state.texts.title == "two.wav")
    await until(lambda: timeline(100_000, 1.0))
    await until(lambda: player().state.timeline.position_ms < 10_000)  # type: ignore[union-attr]

    # The driver restarts: what is on, is on again.
    await session.driver.restart(first_id=40)
    await until(lambda: player().state.texts.title == "two.wav")
    assert player().state.status is Status.PLAYING

    mpv.terminate()
    await until(lambda: session.driver.names() == [])
    agent.terminate()
    assert await ended(agent) == 0


def pictures() -> list[str]:
    """Those that the guide shows, in their order, each below what was done before it."""
    return [shown.partition("\n")[2] for shown in PICTURES.read_text().rstrip().split("\n\n")]


def without_clock(picture: str) -> str:
    """The clock goes on while we look."""
    return re.sub(r"[━─]+ \d+:\d\d / ", "… / ", picture)


@tools
@needs_mpv
async def test_mpv_on_a_display_from_its_first_track_to_its_end(
    session: Session, display: Display
) -> None:
    played, paused, sought, followed, ended_ = map(without_clock, pictures())

    async def picture() -> str:
        command = (sys.executable, "-m", "buswork.cli", "fsct", "display", PORT)
        return without_clock((await session.run(*command)).rstrip())

    agent = session.agent("--driver", str(session.bus.folder / "fsct.sock"))
    clocks = {"INAM": "Clocks", "IPRD": "A Rush of Blood to the Head"}
    trouble = {"INAM": "Trouble", "IPRD": "Parachutes"}
    mpv = session.start(
        *("mpv", "--no-config", "--no-terminal", "--ao=null", "--vo=null"),
        *(f"--script={MPRIS_FOR_MPV}", "--idle=yes"),
        session.song("clocks.wav", 307, **clocks, IART="Coldplay", IGNR="Rock"),
        session.song("trouble.wav", 271, **trouble, IART="Coldplay", IGNR="Rock"),
    )
    await display.until("▶ Playing", "Clocks", range(15), "5:07")
    assert await picture() == played

    await session.playerctl("pause")
    at = await display.until("⏸ Paused", "Clocks", range(20), "5:07")
    assert await picture() == paused

    await session.playerctl("position", "150")
    # Where mpv lands may be a hair before it.
    await display.until("⏸ Paused", "Clocks", range(149, 151), "5:07")
    assert await picture() == sought
    assert at < 150

    await session.playerctl("play")
    await display.until("▶ Playing", "Clocks", range(151, 165), "5:07")  # and it goes on

    await session.playerctl("next")
    await display.until("▶ Playing", "Trouble", range(15), "4:31")
    assert await picture() == followed

    mpv.terminate()
    await display.until_off()
    assert await picture() == ended_
    agent.terminate()
    assert await ended(agent) == 0


def test_the_guide_shows_what_mpv_does_to_a_display() -> None:
    assert f"```text\n{PICTURES.read_text()}```\n" in GUIDE.read_text()


def test_the_clocks_of_the_pictures_are_right() -> None:
    clocks = re.findall(r"([━─]+) (\d+):(\d\d) / (\d+):(\d\d)", PICTURES.read_text())
    assert len(clocks) == 4
    for bar, *numbers in clocks:
        minute, second, minutes, seconds = map(int, numbers)
        at, length = 60 * minute + second, 60 * minutes + seconds
        assert bar.count("━") == len(bar) * at // length


@tools
@needs_mpv
async def test_following_playerctld(session: Session) -> None:
    session.agent("--follow", "playerctld")
    session.start("playerctld")
    await session.run("gdbus", "wait", "--session", "org.mpris.MediaPlayer2.playerctld")
    for name in ("one.wav", "two.wav"):
        session.start(
            *("mpv", "--no-config", "--no-terminal", "--ao=null", "--vo=null", "--pause"),
            *(f"--script={MPRIS_FOR_MPV}", session.song(name, 60)),
        )
        # The last one to appear is playerctld's first, and it is not shown as one itself.
        await session.driver.until(lambda name=name: preferred(session) == name)  # type: ignore[misc]
    assert len(session.driver.names()) == 2
    await session.run("playerctld", "shift")
    await session.driver.until(lambda: preferred(session) == "one.wav")


def preferred(session: Session) -> str | None:
    number = session.driver.preferred
    return session.driver.players[number].state.texts.title if number else None


@tools
async def test_programs_of_the_user_come_through_the_agent(session: Session) -> None:
    agent = session.agent()
    path = session.runtime / "fsct" / "fsct.sock"
    await session.driver.asked("get_protocol_version")  # it is connected, and serves
    async with IpcDriver(str(path)) as driver:
        player = await driver.register_player("radio")
        await session.driver.restart(first_id=20)
        await driver.update_player_status(player, Status.PLAYING)
        await session.driver.until(
            lambda: session.driver.by_name("radio").state.status is Status.PLAYING
        )
    agent.terminate()
    assert await ended(agent) == 0
    assert not os.access(path, os.F_OK)


@tools
async def test_it_ends_with_the_session(session: Session) -> None:
    agent = session.agent()
    log = session.bus.folder / "log"
    while "hello, world: buswork-agent" not in log.read_text():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    session.bus.kill_bus()
    assert await ended(agent) == 1
    assert "the session bus is gone" in log.read_text()
    assert "Traceback" not in log.read_text()


# --- The shipped units, under the manager of a user -----------------------------------------------

# PAM knows nobody of the container; all that it would do for us is this variable.
NO_PAM = "[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n"


def write(container: Container, path: str, text: str) -> None:
    script = 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"'
    container.run(["sh", "-c", script, "sh", path, text])


@pytest.mark.systemd
def test_the_units() -> None:
    with Container() as container:
        uid = container.uid("alice")
        runtime = f"/run/user/{uid}"

        def alice(*words: str) -> str:
            command = ["env", f"XDG_RUNTIME_DIR={runtime}", *words]
            return str(container.run(command, "alice").stdout)

        def show(name: str) -> str:
            return alice("systemctl", "--user", "show", "--value", "-p", name, AGENT).strip()

        write(container, "/etc/systemd/system/user@.service.d/pam.conf", NO_PAM)
        container.run(["systemctl", "daemon-reload"])
        container.run(["systemctl", "start", f"user@{uid}"])

        alice("systemctl", "--user", "start", "buswork-agent.socket")
        modes = alice("stat", "-c", "%a %U", f"{runtime}/fsct", f"{runtime}/fsct/fsct.sock")
        assert modes.split("\n")[:2] == ["700 alice", "600 alice"]
        assert show("ActiveState") == "inactive"

        # The first client starts it; it serves in its sandbox, with a driver or without.
        alice("python3", "-c", CONNECT, f"{runtime}/fsct/fsct.sock")
        eventually(lambda: show("ActiveState") == "active")
        assert show("StatusText") in ("waiting for the driver", "connected to the driver")

        alice("systemctl", "--user", "stop", AGENT)
        assert (show("Result"), show("ExecMainStatus")) == ("success", "0")

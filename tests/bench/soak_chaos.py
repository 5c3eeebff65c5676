"""What goes wrong on purpose: processes are killed, devices unplugged, services restarted."""

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from edge_rig import HERE
from soak_flipper import BOARDS, CLAIMED
from soak_house import FORMS, House
from soak_ledger import FATES, Counts, Remarks
from soak_load import LOADS
from support.machine import CallError, Client, Process
from support.machine import Variant as SentVariant

from buswork.bus.objects import escape_name

DISPLAYS = ("/org/buswork/simulator", "org.buswork.Simulator")
BOARD_PORTS = ("/org/buswork/simulator/boards", "org.buswork.Simulator.Boards")
DEVICE = "org.flipper.Device"
POLKIT = ("/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.DBus.Properties")
POLKIT_NAME = "org.freedesktop.PolicyKit1"
POLKIT_SECONDS = 1.0
BACK_SECONDS = 30.0
END_SECONDS = 100.0

# Seconds from one to the next, about.
KILL_SECONDS, ECHO_SECONDS = 5.0, 20.0
BOARD_SECONDS, DISPLAY_SECONDS, DOORS_SECONDS = 20.0, 15.0, 60.0


class Crowd:
    """The processes that ask; who is killed is followed by another one."""

    def __init__(self, house: House, seed: str) -> None:
        self._house = house
        self._seed = seed
        self._random = Random(f"{seed} crowd")
        self._numbers = itertools.count()
        self._running: dict[str, Process] = {}
        self._log = (house.machine.base / "loads.log").open("wb")
        self.remarks = Remarks(house.folder)
        self.fates: dict[str, Counter[str]] = {load: Counter() for load in LOADS}
        # Some come from threads: to wait for a process takes a moment.
        self._lock = threading.Lock()

    def start(self, load: str) -> None:
        house = self._house
        places = {"sockets": str(house.sockets), "ledger": str(house.folder), **house.ports}
        argv = [sys.executable, str(HERE / "soak_load.py"), load]
        argv += [f"{self._seed} {load} {next(self._numbers)}", json.dumps(places)]
        self._running[load] = house.machine.popen(
            argv, LOADS[load].user, stdout=self._log, stderr=self._log
        )

    def kill_one(self) -> None:
        with self._lock:
            load = self._random.choice(list(LOADS))
            self._running[load].kill()
            self._reap(load)
            self.start(load)

    def _reap(self, load: str) -> None:
        """What had no fate yet died with who asked."""
        process = self._running.pop(load)
        status = process.wait()
        if status not in (0, -signal.SIGKILL):
            self.remarks.add(load, "lost", "ended", f"status {status}")
        counts = self._counts(process)
        counts["died"] = counts["asked"] - sum(counts[fate] for fate in FATES[1:])
        if status == 0:
            counts["lost"] += counts.pop("died")
        self.fates[load] += counts

    def _counts(self, process: Process) -> Counter[str]:
        path = self._house.folder / f"counts-{process.pid}"
        return Counts(path).all() if path.exists() else Counter()

    def look(self) -> None:
        """A process that has ended by itself is a failure, and is followed by another one."""
        with self._lock:
            for load, process in list(self._running.items()):
                if process.poll() is not None:
                    self._reap(load)
                    self.start(load)

    def now(self) -> Counter[str]:
        with self._lock:
            running = [self._counts(process) for process in self._running.values()]
            return sum([*running, *self.fates.values()], Counter())

    def end(self) -> None:
        """Nothing new is asked, and what was asked is waited for."""
        with self._lock:
            for process in self._running.values():
                process.terminate()
            for load in list(self._running):
                self._wait_for(load)
            self._log.close()

    def _wait_for(self, load: str) -> None:
        process = self._running[load]
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.remarks.add(load, "lost", "ended", "it never does")
            process.kill()
        self._reap(load)

    def log(self) -> str:
        return (self._house.machine.base / "loads.log").read_text(errors="replace")


class Chaos:
    """Each kind goes its own way, at times that depend on the seed alone."""

    def __init__(self, house: House, crowd: Crowd, seed: str) -> None:
        self._house = house
        self._crowd = crowd
        self._seed = seed
        self._hands: Client = house.machine.client()
        self._in_hand = asyncio.Lock()
        self.done: Counter[str] = Counter()
        self.keeps_doors = False

    def start(self) -> list[asyncio.Task[None]]:
        kinds: dict[Callable[[Random], Awaitable[None]], float] = {
            self._kill_one: KILL_SECONDS,
            self._kill_echo: ECHO_SECONDS,
            self._replug_board: BOARD_SECONDS,
            self._replug_display: DISPLAY_SECONDS,
            self._restart_doors: DOORS_SECONDS,
        }
        going = [asyncio.create_task(self._go(*each)) for each in kinds.items()]
        return [*going, asyncio.create_task(self._watch_polkit())]

    async def _go(self, kind: Callable[[Random], Awaitable[None]], seconds: float) -> None:
        random = Random(f"{self._seed} {getattr(kind, '__name__', '')}")
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * seconds)
            await kind(random)

    async def _watch_polkit(self) -> None:
        """Nobody's purpose: on a busy machine, polkit 122 now and then takes 15 s for one question,
        in which it answers nobody. Who waits for the daemon no longer than 10 s is cut off then."""
        eyes = self._house.machine.client()
        words = (POLKIT_NAME + ".Authority", "BackendName")
        while True:
            await asyncio.sleep(POLKIT_SECONDS / 2)
            asking = asyncio.to_thread(
                eyes.call, *POLKIT, "Get", "ss", *words, destination=POLKIT_NAME, timeout=60.0
            )
            asked = asyncio.create_task(asking)
            done, _ = await asyncio.wait((asked,), timeout=POLKIT_SECONDS)
            if not done:
                self._house.weather.begin("polkit")
                self.done[f"polkit took longer than {POLKIT_SECONDS:g} s, by itself"] += 1
            await asked
            if not done:
                self._house.weather.end("polkit")

    async def restart(self, name: str, *, kills: bool) -> None:
        await asyncio.to_thread(self._house.restart, name, kills=kills)
        self.done[f"{name} {'killed' if kills else 'stopped'}"] += 1

    async def _kill_one(self, random: Random) -> None:
        await asyncio.to_thread(self._crowd.kill_one)
        self.done["a client killed"] += 1

    async def _kill_echo(self, random: Random) -> None:
        await asyncio.to_thread(self._house.kill_echo, random.choice(FORMS))
        self.done["a native service killed"] += 1

    async def _restart_doors(self, random: Random) -> None:
        if not self.keeps_doors:
            await self.restart("doors", kills=random.random() < 0.5)

    async def _replug_display(self, random: Random) -> None:
        port = random.choice(("1-1", "1-2"))
        self._house.weather.begin(port)
        await self._hand(DISPLAYS, "Unplug", "s", port)
        await asyncio.sleep(random.uniform(0.0, 3.0))
        await self._hand(DISPLAYS, "Plug", "s", port)
        self._house.weather.end(port)
        self.done["a display unplugged and plugged in"] += 1

    async def _replug_board(self, random: Random) -> None:
        name, port = random.choice(list(BOARDS.items()))
        self._house.weather.begin(port)
        if random.random() < 0.3:
            await self._hand(BOARD_PORTS, "Crash", "ss", port, "u2")
            self.done["a board crashed"] += 1
        else:
            await self._hand(BOARD_PORTS, "Unplug", "s", port)
            await asyncio.sleep(random.uniform(0.0, 3.0))
            await self._hand(BOARD_PORTS, "Plug", "s", port)
            self.done["a board unplugged and plugged in"] += 1
        await self._back(name)
        self._house.weather.end(port)

    async def _back(self, name: str) -> None:
        """Returns when the board does what it is asked."""
        path = f"/org/flipper/devices/{escape_name(name)}"
        numbers = [SentVariant("u", 0)] * 3
        error: CallError | None = None
        try:
            async with asyncio.timeout(BACK_SECONDS):
                while True:
                    error = await self._hand(
                        (path, DEVICE), "Invoke", "ssav", "led", "rgb", numbers
                    )
                    if error is None or error.name == CLAIMED:
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self._crowd.remarks.add("chaos", "lost", "board", f"{name} stays away: {error}")

    async def _hand(
        self, target: tuple[str, str], member: str, signature: str, *values: Any
    ) -> CallError | None:
        """A daemon that starts anew finds everything plugged in."""
        async with self._in_hand:
            try:
                await asyncio.to_thread(self._hands.call, *target, member, signature, *values)
            except CallError as error:
                return error
        return None


def remark_table(remarks: Remarks) -> list[list[str]]:
    """How often what happened."""
    found: Counter[tuple[str, str]] = Counter()
    for _, _, fate, name, _ in remarks.all():
        found[fate, name] += 1
    return [[fate, name, f"{count:,}"] for (fate, name), count in sorted(found.items())]

"""Sessions on simulated devices, in a time that passes when a test says so."""

import asyncio
from contextlib import suppress

from buswork.fsct.model.driver import Driver
from buswork.fsct.native.sessions import Sessions
from buswork.fsct.wire.descriptors import parse_set
from buswork.native.clock import Clock
from buswork.sim.dac import SimDac
from buswork.sim.usb import SimBackend, SimDiscovery
from buswork.usb.worker import Worker

BORN = 1024.0  # when the tests' time begins
UNIX_MS = 1_755_000_000_000
PATIENCE = 30  # seconds; only a test that fails waits so long
HASTY = 0.01


class Quiet:
    """Where there is no device, and nothing is looked for."""

    async def start(self, on_add, on_remove):
        pass

    def stop(self):
        pass


class FakeClock(Clock):
    """Time that stands still. `wall_ms` is how far it is from 1970."""

    def __init__(self):
        self.time = BORN
        self.wall_ms = UNIX_MS - 1000 * BORN
        self.slept = []  # for how long somebody wanted to wait
        self.waiting = {}
        self.changed = asyncio.Event()

    def now(self):
        return self.time

    def unix_ms(self):
        return round(self.wall_ms + 1000 * self.time)

    def wall_offset_ms(self):
        return round(self.wall_ms)

    async def wait(self, event, until):
        if until is not None:
            self.slept.append(until - self.time)
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as deadline:
                self.waiting[deadline] = event, until
                self.changed.set()
                self._expire(deadline)
                try:
                    await event.wait()
                finally:
                    del self.waiting[deadline]

    def pass_time(self, seconds):
        self.time += seconds
        for deadline in self.waiting:
            self._expire(deadline)

    def _expire(self, deadline):
        if self.is_due(deadline):
            deadline.reschedule(asyncio.get_running_loop().time())

    def is_due(self, deadline):
        event, until = self.waiting[deadline]
        return event.is_set() or (until is not None and until <= self.time)

    @property
    def resting(self):
        return sum(not self.is_due(deadline) for deadline in self.waiting)


class Hasty(Worker):
    """One whose transfers time out at once."""

    async def control_out(self, request_type, request, value, index, data=b"", timeout=1.0):
        await super().control_out(request_type, request, value, index, data, HASTY)

    async def control_in(self, request_type, request, value, index, length, timeout=1.0):
        return await super().control_in(request_type, request, value, index, length, HASTY)


class Ports:
    """Where simulated devices are plugged in, and the time that passes for their sessions."""

    wing: str  # the names of the sessions' tasks begin with it

    def __init__(self):
        self.backend = SimBackend()
        self.clock = FakeClock()

    async def unplug(self, port="1-1"):
        self.backend.unplug(port)
        await self.rest()

    async def rest(self):
        """Returns when all sessions wait: for work, or for time to pass."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for _ in range(5):  # word of devices comes in its own time
                    await asyncio.sleep(0)
                tasks = self.tasks()
                if self.clock.resting == len(tasks):
                    return
                self.clock.changed.clear()
                change = asyncio.ensure_future(self.clock.changed.wait())
                try:
                    await asyncio.wait({change, *tasks}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    change.cancel()

    async def later(self, seconds):
        self.clock.pass_time(seconds)
        await self.rest()

    def tasks(self):
        """Those of the sessions."""
        return [task for task in asyncio.all_tasks() if task.get_name().startswith(f"{self.wing} ")]

    def opened(self, port="1-1"):
        return self.backend.plug_at(port).opened


class Room(Ports):
    """A driver, its sessions, and sockets to plug devices in."""

    wing = "fsct"

    def __init__(self, worker=Worker, unmarked=False, limits=None):
        super().__init__()
        self.driver = Driver(limits, self.clock.wall_offset_ms)
        self.workers = []
        self._worker = worker
        self.sessions = Sessions(
            self.driver,
            SimDiscovery(self.backend),
            self.make_worker,
            unmarked=unmarked,
            clock=self.clock,
        )

    def make_worker(self, device):
        self.workers.append(self._worker(device, self.backend))
        return self.workers[-1]

    def dac(self, *arguments, **facts):
        dac = SimDac(*arguments, **facts)
        dac.clock = self.clock.now
        return dac

    async def plug(self, dac, port="1-1", marked=True):
        self.backend.plug(dac, port, {"ID_FSCT": "1"} if marked else {})
        await self.rest()
        return dac

    @property
    def displays(self):
        return list(self.driver.displays.values())


def request(entry):
    """What a transfer asked, captured or simulated; the answer is the device's."""
    names = ("bmRequestType", "bRequest", "wValue", "wIndex")
    asked = tuple(int(entry[name], 16) for name in names)
    stalled = ("stalled",) if entry.get("stalled") else ()
    return (*asked, entry["wLength"], entry.get("data_out", ""), *stalled)


def requests(transfers):
    return [request(entry) for entry in transfers if "mark" not in entry]


def groups(transfers):
    """(mark, the transfers before it) for each."""
    found, group = [], []
    for entry in transfers:
        if "mark" in entry:
            found.append((entry["mark"], group))
            group = []
        else:
            group.append(entry)
    return [*found, ("", group)] if group else found


def taken(dac):
    """What the device was asked since the last time that this was called."""
    found = requests(dac.record)
    dac.record.clear()
    return found


def like(room, transfers, **facts):
    """A device with the descriptors of a captured one."""
    answers = [bytes.fromhex(entry["data_in"]) for entry in transfers if "data_in" in entry]
    blob = next(answer for answer in answers if answer[1] == 0x0F)
    sets = [answer for answer in answers if answer[1] == 0x31]
    found = parse_set(sets[-1]) if sets else None
    known = {"bos": blob}
    if found is not None:
        known |= {
            "descriptors": sets[-1],
            "functionality": int(found.functionality),
            "coding": int(found.coding),
            "texts": {int(field.id): field.max_bytes for field in found.texts} or {99: 0},
        }
    return room.dac(**(known | facts))

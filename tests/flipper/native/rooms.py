"""Sessions of simulated boards, in a time that passes when a test says so."""

import asyncio
import itertools
from functools import partial

from support.sessions import Ports

from buswork.flipper.model.boards import Boards
from buswork.flipper.native.sessions import Sessions
from buswork.sim.carbon import SimCarbon
from buswork.sim.usb import SimDiscovery
from buswork.usb.worker import Worker

# A board's own time passes whenever it looks, each 2 ms while a host waits for it: faster than
# ours, and on a busy machine no faster.
STEP_SECONDS = 0.01
UID = 1000


class Room(Ports):
    """Boards, their sessions, and ports to plug them in."""

    wing = "flipper"

    def __init__(self):
        super().__init__()
        self.boards = Boards()
        self.changes = []
        self.boards.on_change.append(self.changes.append)
        self.sessions = Sessions(
            self.boards, SimDiscovery(self.backend), self.make_worker, self.clock
        )

    def make_worker(self, device):
        return Worker(device, self.backend)

    def carbon(self):
        carbon = SimCarbon()
        carbon.clock = partial(next, itertools.count(1, STEP_SECONDS))
        carbon.power_on()
        return carbon

    async def plug(self, device=None, port="1-1", **properties):
        device = device or self.carbon()
        self.backend.plug(device, port, properties)
        await self.rest()
        return device

    def ask(self, job, board=None, owner="me", uid=UID):
        """The future of what the job ends with."""
        done = asyncio.get_running_loop().create_future()

        def tell(result, error):
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        (board or self.board).turns.ask(owner, uid, job, tell)
        return done

    @property
    def board(self):
        return self.boards.find()

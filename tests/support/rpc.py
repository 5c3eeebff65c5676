"""A driver's socket and its clients, without a bus: for tests, and as a process of its own.

    python tests/support/rpc.py SOCKET [NUMBER OF SIMULATED DEVICES]

says "ready" and serves until its standard input ends.
"""

import asyncio
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

from buswork.authority import Authority, Limits
from buswork.bus.caller import Peer
from buswork.bus.ownership import Holdings
from buswork.bus.polkit import Answer
from buswork.fsct.model.driver import Driver
from buswork.fsct.native.calls import MANAGE, OBSERVE, REGISTER, ROUTE
from buswork.fsct.native.rpc import RpcServer
from buswork.fsct.native.sessions import Sessions
from buswork.fsct.wing import NativePlayers, Registrar
from buswork.native.commons import Commons
from buswork.sim.dac import SimDac
from buswork.sim.usb import SimBackend, SimDiscovery
from buswork.usb.worker import Worker

UID = os.geteuid()


class FakePolkit:
    """Says yes at once, or what it was told to, when it was told to."""

    def __init__(self):
        self.asked = []  # the actions
        self.denied = set()
        self.temporary = False  # a yes is for this once
        self.thinks_about = {OBSERVE, REGISTER, ROUTE, MANAGE}  # what waits for may_answer
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.was_asked = asyncio.Event()

    async def ask(self, subject, action, *, interactive):
        assert isinstance(subject, Peer)
        assert not interactive
        self.asked.append(action)
        if action in self.thinks_about:
            self.was_asked.set()
            await self.may_answer.wait()
        return Answer(action not in self.denied, False, self.temporary)


class House:
    """A driver with its socket, in a directory."""

    def __init__(self, path, limits=None, patience=None):
        self.path = Path(path)
        self.driver = Driver()
        self.polkit = FakePolkit()
        self.authority = Authority(self.polkit, None, 12345, limits or Limits())
        self.quotas = self.authority.quotas
        self.commons = Commons()
        registrar = Registrar(self.driver, self.quotas)
        self.register = registrar.register
        players = NativePlayers(self.driver, registrar, Holdings(None))
        self.server = RpcServer(
            self.driver, self.authority, players.register, patience, self.commons
        )
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(128)
        self.server.open(listener)

    async def stop(self):
        await self.server.stop()
        self.path.unlink()

    def used(self, kind):
        return self.quotas.used(UID, kind)


async def serve(path, devices):
    house = House(path)
    backend = SimBackend()
    discovery = SimDiscovery(backend)
    sessions = Sessions(
        house.driver, discovery, lambda device: Worker(device, backend), unmarked=True
    )
    await sessions.start()
    for number in range(devices):
        backend.plug(SimDac(f"SIM-{number}"), port=f"1-{number + 1}")
    print("ready", flush=True)
    with suppress(OSError):
        await asyncio.to_thread(sys.stdin.read)
    await house.stop()
    await sessions.stop()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0))

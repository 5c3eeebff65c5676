"""The boards' socket without a bus, and programs that speak FMR there."""

import asyncio
import os
import socket

from flipper.native.rooms import Room

from buswork.authority import Authority, Limits
from buswork.bus.polkit import Answer as Verdict
from buswork.errors import AccessDenied
from buswork.flipper.native.fmr import FmrServer, Origin
from buswork.flipper.wire.exchanges import AnswerReader, Exchange, outgoing
from buswork.flipper.wire.modules import TABLES
from buswork.flipper.wire.plans import standard
from buswork.flipper.wire.terms import Framing, Generation, Processor
from buswork.native.commons import Commons
from buswork.sim.carbon import SimCarbon

G1 = Generation.G1
TABLE = TABLES[G1, Processor.FVM]
UID = os.geteuid()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def calling(module, function, *values):
    return Exchange(standard(*TABLE.find(module, function), *values))


RGB, READ = calling("led", "rgb", 1, 2, 3), calling("button", "read")


class Program:
    """The other end of a connection."""

    def __init__(self, sock, generation=G1):
        sock.setblocking(False)
        self.socket = sock
        self.generation = generation

    async def send(self, message):
        await asyncio.get_running_loop().sock_sendall(self.socket, message)

    async def receive(self):
        return await asyncio.get_running_loop().sock_recv(self.socket, 65536)

    async def ask(self, exchange):
        for message in outgoing(exchange, Framing.UDP, self.generation):
            await self.send(message)
        return await self.answer(exchange)

    async def answer(self, exchange):
        reader = AnswerReader(exchange, Framing.UDP, self.generation)
        while (answer := reader.feed(await self.receive())) is None:
            pass
        return answer


class Polkit:
    def __init__(self):
        self.denied = set()

    async def ask(self, subject, action, *, interactive):
        return Verdict(action not in self.denied, False, False)


class House(Room):
    """A room with the boards' socket."""

    def __init__(self, path, doors=()):
        super().__init__()
        self.path = str(path / "fmr.sock")
        self.polkit = Polkit()
        self.authority = Authority(self.polkit, None, 12345, Limits(native_connections=4))
        self.commons = Commons()
        self.server = FmrServer(self.boards, self.authority, None, self.commons, self.clock, doors)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self.path)
        listener.listen()
        self.server.open(listener)
        self.programs = []

    def carbon(self):
        """In its own time: nobody here waits for what does not come."""
        return SimCarbon()

    async def connect(self, generation=G1):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.path)
        self.programs.append(sock)
        return Program(sock, generation)

    def channel(self, owner="me", board="", denied=()):
        async def require(action):
            if action in denied:
                raise AccessDenied(action)

        ended = asyncio.Event()
        origin = Origin(owner, UID, require, board)
        sock, self.end_channel = self.server.open_channel(origin, ended.set)
        self.programs.append(sock)
        return Program(sock), ended

    async def until_alone(self):
        """Nobody is connected any more."""
        await until(lambda: not len(self.server))

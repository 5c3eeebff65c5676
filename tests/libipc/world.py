"""Peers of the library: plain sockets that take for one message what one read brings."""

import asyncio
import socket

from buswork.libipc.library.contexts import Context
from buswork.libipc.library.rundirs import RunDir
from buswork.libipc.wire.forms import Form, frame

MOST = 2_000_000


def c(payload, user_type=0):
    return frame(Form.C, payload, user_type)


def zig(payload):
    return frame(Form.ZIG, payload)


class Peer:
    """One that reads with a big buffer, once for each message, as the originals do."""

    def __init__(self, sock):
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def read(self):
        async with asyncio.timeout(20):
            return await self._loop.sock_recv(self.sock, MOST)

    async def read_to_the_end(self):
        data = b""
        while more := await self.read():
            data += more
        return data

    def lying(self):
        """What is in its queue, which it does not read."""
        try:
            return self.sock.recv(MOST, socket.MSG_PEEK)
        except BlockingIOError:
            return b""

    async def write(self, data):
        async with asyncio.timeout(20):
            await self._loop.sock_sendall(self.sock, data)

    def close(self):
        self.sock.close()


class World:
    """A context whose events are kept, in a run directory of its own."""

    def __init__(self, path, form=Form.C, **options):
        self.rundir = RunDir(path, form)
        self.context = Context(self.rundir, **options)
        self._peers = []

    def pair(self, **options):
        """A connection in the context, and its peer."""
        ours, theirs = socket.socketpair()
        return self.context.adopt(ours, **options), self.take(theirs)

    def take(self, sock):
        self._peers.append(Peer(sock))
        return self._peers[-1]

    def dial(self, name):
        peer = self.take(socket.socket(socket.AF_UNIX))
        peer.sock.connect(str(self.rundir.path / name))
        return peer

    async def event(self):
        async with asyncio.timeout(20):
            return await self.context.wait_event()

    def close(self):
        self.context.close()
        for peer in self._peers:
            peer.close()

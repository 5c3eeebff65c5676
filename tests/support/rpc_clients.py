"""Clients of the driver's socket, in either protocol, for its tests."""

import asyncio
import os
from contextlib import asynccontextmanager
from uuid import UUID

import msgpack

from buswork.fsct.wire.msgpackrpc import encode_request
from support.rpc import UID, House

DEVICE = UUID("a1b2c3d4-e5f6-4789-8abc-def012345678")
VERSION = {"major": 1, "minor": 0}
VERSION_REQUEST = encode_request(7, "get_protocol_version", [])
VERSION_ANSWER = [1, 7, None, VERSION]


@asynccontextmanager
async def a_house(directory, **keywords):
    house = House(directory / "fsct.sock", **keywords)
    try:
        yield house
    finally:
        house.polkit.may_answer.set()
        if house.path.exists():
            await house.stop()


class Client:
    """One connection. Answers are read as they come, in whichever protocol."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self._unpacker = msgpack.Unpacker(strict_map_key=False)
        self._msgid = 0

    def send(self, data):
        self.writer.write(data)

    def ask(self, method, *params):
        self._msgid += 1
        self.send(encode_request(self._msgid, method, list(params)))
        return self._msgid

    async def answer(self):
        while True:
            for message in self._unpacker:
                return message
            self._unpacker.feed(await self.read())

    async def read(self, size=None):
        """What comes, or so many bytes; EOFError at the end."""
        async with asyncio.timeout(30):
            if size is not None:
                return await self.reader.readexactly(size)
            data = await self.reader.read(65536)
        if not data:
            raise EOFError
        return data

    async def call(self, method, *params):
        msgid = self.ask(method, *params)
        kind, answered, error, result = await self.answer()
        assert (kind, answered) == (1, msgid)
        return result if error is None else error

    async def line(self, request=None):
        if request is not None:
            self.send(request if isinstance(request, bytes) else request.encode())
        async with asyncio.timeout(30):
            return (await self.reader.readline()).decode()

    async def ended(self):
        async with asyncio.timeout(30):
            return await self.reader.read(1) == b""

    def close(self):
        self.writer.transport.abort()


@asynccontextmanager
async def clients(house, number):
    found = []
    try:
        for _ in range(number):
            streams = await asyncio.open_unix_connection(str(house.path), limit=1 << 22)
            found.append(Client(*streams))
        yield found
    finally:
        for client in found:
            client.close()


@asynccontextmanager
async def a_client(house):
    async with clients(house, 1) as (client,):
        yield client


async def until(condition):
    for _ in range(100_000):
        if found := condition():
            return found
        await asyncio.sleep(0)
    raise AssertionError("it does not happen")


async def nobody(house):
    """All connections have ended, and nothing of them is left."""
    await until(lambda: not len(house.server))
    kinds = ("native_connections", "waiting_bytes", "objects")
    assert [house.used(kind) for kind in kinds] == [0, 0, 0]


async def push(client, data):
    """Sends as much of this as goes in; how often it was sent."""
    sock, times, idle = client.writer.get_extra_info("socket"), 0, 0
    while idle < 50:
        try:
            assert os.write(sock.fileno(), data) == len(data)
            times, idle = times + 1, 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(0)
    return times


async def is_sent_away(client, data):
    """Sends this, and reads nothing, until the other end is closed."""
    client.reader._transport.pause_reading()
    sock = client.writer.get_extra_info("socket")
    while True:
        try:
            os.write(sock.fileno(), data)
        except BlockingIOError:
            await asyncio.sleep(0)
        except (BrokenPipeError, ConnectionResetError):
            return True


def their_player(house):
    """A player of another user."""
    return house.register("theirs", UID + 1, "another connection")

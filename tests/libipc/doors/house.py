"""What the doors lead to in tests: a daemon that hands services over, and services that read as the
originals do, one message at a time."""

import asyncio
import os
import socket
from contextlib import asynccontextmanager

from buswork import doors as command
from buswork.libipc.doors.options import settings
from buswork.libipc.wire.forms import Form, Message, encode, header_bytes

UID = os.geteuid()
PATIENCE = 10
HOST = "127.0.0.1"


def parsed(*words):
    return command.make_parser().parse_args(["--daemon", str(UID), *map(str, words)])


def settled(*words):
    return settings(parsed(*words))


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def received(sock, size=1 << 21):
    async with asyncio.timeout(PATIENCE):
        return await asyncio.get_running_loop().sock_recv(sock, size)


async def received_exactly(sock, size):
    data = b""
    while len(data) < size:
        part = await received(sock, size - len(data))
        assert part, data
        data += part
    return data


async def sent(sock, data):
    async with asyncio.timeout(PATIENCE):
        await asyncio.get_running_loop().sock_sendall(sock, data)


class Service:
    """Says everything again; strict as the originals: what one read brings is one message."""

    def __init__(self, form, answer=None):
        self.form = form
        self.reads = []
        self.socks = []
        self._answer = answer or (lambda data: data)
        self._tasks = set()
        self.is_reading = asyncio.Event()
        self.is_reading.set()

    def connect(self):
        """A client's end."""
        theirs, ours = socket.socketpair()
        ours.setblocking(False)
        self.socks.append(ours)
        self._tasks.add(asyncio.create_task(self._serve(ours)))
        return theirs

    async def _serve(self, sock):
        loop = asyncio.get_running_loop()
        while True:
            await self.is_reading.wait()
            data = await loop.sock_recv(sock, 1 << 21)
            while data and len(data) - header_bytes(self.form) < self._length(data):
                data += await loop.sock_recv(sock, 1 << 21)
            if not data:
                break
            self.reads.append(data)
            if answer := self._answer(data):
                await loop.sock_sendall(sock, answer)
        sock.close()

    def _length(self, data):
        return int.from_bytes(data[1:5] if self.form is Form.C else data[:4])

    async def close(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in self.socks:
            sock.close()


class Daemon:
    """The passage, and what is behind it."""

    def __init__(self, path):
        self.path = str(path / "ipc.sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.listener.bind(self.path)
        self.listener.listen()
        self.services = {
            ("c", "pong"): Service(Form.C),
            ("zig", "pong"): Service(Form.ZIG),
        }
        self.asked = []
        self.answer = None  # instead of a service
        self._task = asyncio.create_task(self._serve())

    def of(self, form):
        return self.services[form, "pong"]

    async def _serve(self):
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self.listener)
            with sock:
                line = (await loop.sock_recv(sock, 4096)).decode()
                self.asked.append(line)
                word, _, form, name = line.removesuffix("\n").split(" ", 3)
                assert word == "connect"
                assert line.endswith("\n")
                if self.answer is not None:
                    if self.answer:
                        sock.send(self.answer)
                elif (form, name) in self.services:
                    with self.services[form, name].connect() as service:
                        socket.send_fds(sock, [b"ok\n"], [service.fileno()])
                else:
                    sock.send(b"error org.libipc.Error.NoSuchService nobody serves it\n")

    async def close(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.listener.close()
        for service in self.services.values():
            await service.close()


@asynccontextmanager
async def tcp_client(address):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        await asyncio.get_running_loop().sock_connect(sock, tuple(address))
        yield sock


def message(form, payload, user_type=0):
    return encode(form, Message(payload, user_type))

"""A daemon's side of libipc without a bus: a hub over run directories, and programs around it."""

import asyncio
import itertools
import os
import socket
from contextlib import contextmanager

from buswork.authority import Authority, Limits
from buswork.bus.polkit import Answer as Verdict
from buswork.libipc.errors import QueueFull
from buswork.libipc.model.terms import RunDirectory, Who
from buswork.libipc.native.directories import MODE
from buswork.libipc.native.hub import Hub
from buswork.libipc.wire.forms import Assembler, Form, frame
from buswork.native.commons import Commons

UID = os.geteuid()
ME = Who(UID, frozenset((os.getegid(),)), "me", os.getpid())
# Somebody else, wherever the tests run.
STRANGER = Who(54_321, frozenset((54_321,)), "a stranger")
PATIENCE = 30


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def fill(send, error=QueueFull):
    """Sends until there is no room; how much there was."""
    for number in itertools.count():
        try:
            send(number)
        except error:
            return number
    return None


def let_others_in(path):
    """To a directory that pytest made for us alone."""
    for directory in (path, *path.parents):
        status = directory.stat()
        if status.st_uid == UID and status.st_mode & 0o055 != 0o055:
            directory.chmod(status.st_mode | 0o055)


@contextmanager
def nobody():
    """As a user without rights; the same one if we have none anyway."""
    if UID:
        yield
        return
    os.setegid(STRANGER.uid)
    os.seteuid(STRANGER.uid)
    try:
        yield
    finally:
        os.seteuid(UID)
        os.setegid(UID)


class Polkit:
    """Allows all but what a test denies."""

    def __init__(self):
        self.denied = set()
        self.asked = []

    async def ask(self, subject, action, *, interactive):
        self.asked.append(action)
        return Verdict(action not in self.denied, False, False)


class Program:
    """Speaks libipc over a plain socket, one message for each send."""

    def __init__(self, sock, form=Form.C):
        sock.setblocking(False)
        self.sock = sock
        self.form = form
        self.assembler = Assembler(form)
        self.messages = []

    async def send(self, payload, user_type=0):
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.sock, frame(self.form, payload, user_type))

    async def receive(self):
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            while not self.messages:
                data = await loop.sock_recv(self.sock, 65_536)
                if not data:
                    raise EOFError
                self.messages += self.assembler.feed(data)
        return self.messages.pop(0)

    async def ends(self):
        try:
            message = await self.receive()
        except (EOFError, ConnectionResetError):
            return True
        raise AssertionError(f"{message} came, and not the end")

    def close(self):
        self.sock.close()


class Service:
    """Listens in a run directory as an original would."""

    def __init__(self, directory, name, mode=0o777):
        self.form = directory.form
        self.path = os.path.join(directory.path, name)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        os.chmod(self.path, mode)
        self.listener.listen()
        self.listener.setblocking(False)
        self.accepted = []

    async def accept(self):
        async with asyncio.timeout(PATIENCE):
            sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        program = Program(sock, self.form)
        self.accepted.append(program)
        return program

    def close(self):
        self.listener.close()
        for program in self.accepted:
            program.close()


class Town:
    def __init__(self, path, **limits):
        self.path = path
        self.c = RunDirectory(Form.C, str(path / "ipc-c"))
        self.zig = RunDirectory(Form.ZIG, str(path / "ipc-zig"))
        for directory in (self.c, self.zig):
            os.mkdir(directory.path)
            os.chmod(directory.path, MODE)
        let_others_in(path)
        self.polkit = Polkit()
        self.authority = Authority(self.polkit, None, 12345, Limits(**limits))
        self.commons = Commons()
        self.hub = Hub([self.c, self.zig], self.authority, self.commons, path / "doors.sock")
        self.things = []

    @property
    def quotas(self):
        return self.authority.quotas

    def service(self, name, directory=None, mode=0o777):
        made = Service(directory or self.c, name, mode)
        self.things.append(made)
        return made

    async def join(self, name, form=Form.C):
        """A program that connects to a service by itself."""
        directory = self.c if form is Form.C else self.zig
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        program = Program(sock, form)
        self.things.append(program)
        await asyncio.get_running_loop().sock_connect(sock, f"{directory.path}/{name}")
        return program

    def program(self, sock, form=Form.C):
        program = Program(sock, form)
        self.things.append(program)
        return program

    async def stop(self):
        await self.hub.stop()
        for thing in self.things:
            thing.close()
        for kind in "descriptors", "native_connections", "waiting_bytes":
            assert self.quotas.used(UID, kind) == self.quotas.used(STRANGER.uid, kind) == 0, kind
        assert not self.commons.buffers._total

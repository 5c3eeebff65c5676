"""A store with its native sockets, without a bus and with a polkit that does as it is told."""

import asyncio
import json
import os
from contextlib import asynccontextmanager

from buswork.authority import Authority, Limits
from buswork.bus.caller import Peer
from buswork.bus.polkit import Answer, PolkitAbsent
from buswork.native.places import make_sockets
from buswork.store.model.store import Store
from buswork.store.native.memory import SharedMemory
from buswork.store.native.requests import GET_NAME, NAMES, SET_NAME
from buswork.store.native.sockets import Doors
from support.mapipcd import ask

UID = os.geteuid()
MEGA = 1 << 20


class FakePolkit:
    """Says yes at once, or what it was told to, when it was told to."""

    def __init__(self):
        self.questions = 0
        self.denied = set()
        self.absent = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Event()

    async def ask(self, subject, action, *, interactive):
        assert isinstance(subject, Peer)
        assert not interactive
        self.questions += 1
        self.asked.set()
        await self.may_answer.wait()
        if self.absent:
            raise PolkitAbsent("not there")
        return Answer(action not in self.denied, False, False)


class House:
    """A store with its doors, in a directory."""

    def __init__(self, directory, limits=None, patience=None):
        self.polkit = FakePolkit()
        self.store = Store(lambda: 0)
        self.authority = Authority(self.polkit, None, 12345, limits or Limits())
        self.memory = SharedMemory(self.store, bytes(16))
        self.doors = Doors(self.store, self.authority, patience, memory=self.memory)
        self.files = make_sockets(directory, NAMES)
        for file in self.files:
            self.doors.open(file.listener)
        self.set_path, self.get_path = directory / SET_NAME, directory / GET_NAME

    def close(self):
        for file in self.files:
            file.remove()
        self.doors.close()
        self.memory.close()

    async def set(self, request, **keywords):
        return await asyncio.to_thread(ask, self.set_path, request, **keywords)

    async def get(self, request, **keywords):
        return await asyncio.to_thread(ask, self.get_path, request, **keywords)

    async def connect(self, path):
        return await asyncio.open_unix_connection(str(path), limit=16 * MEGA)

    @property
    def listener_fd(self):
        return self.files[0].listener.fileno()

    @property
    def waiting(self):
        return self.authority.quotas.used(UID, "native_connections")


@asynccontextmanager
async def a_house(directory, **keywords):
    house = House(directory, **keywords)
    try:
        yield house
    finally:
        house.close()


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def setting(key, value):
    return json.dumps({"key": key, "value": value}).encode()


def error_of(reply):
    members = json.loads(reply)
    assert "value" not in members
    return members["error"].rpartition(".")[2]


async def turns(number=5):
    for _ in range(number):
        await asyncio.sleep(0)

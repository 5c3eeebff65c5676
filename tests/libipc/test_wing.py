"""Tests of buswork.libipc.wing: all rooms together, on a scripted bus and with real sockets."""

import argparse
import asyncio
import logging
import os
import socket
import stat

import pytest
from libipc.bus_world import ACTIONS
from support.fakebus import DRIVER, FakeBus, FakePolkit
from support.toyface import ALICE, BOB, Stack

from buswork.bus.library import variant
from buswork.bus.logind import Logind
from buswork.bus.ownership import Holdings
from buswork.host import NOT_PASSED, Host
from buswork.libipc import wing as module
from buswork.libipc.face import HUB
from buswork.libipc.holders import CHANNEL, ROOT, SERVICE
from buswork.libipc.wing import LIBIPC
from buswork.libipc.wire.forms import Form, Message, encode

PATIENCE = 10.0
HELLO = encode(Form.C, Message(b"hello", 42))


class World:
    """A bus, and a daemon on it as far as the wing needs one. Alice and Bob are who runs this."""

    def __init__(self, bus, polkit, stack, folder):
        self.bus, self.stack, self.folder = bus, stack, folder
        self.wings = []
        bus.uids.update({ALICE: os.geteuid(), BOB: os.geteuid()})
        for name in ACTIONS:
            polkit.rules[f"org.libipc.{name}"] = "yes"

    async def start(self, *words, **surroundings):
        stack = self.stack
        host = Host(
            stack.edge,
            stack.authority,
            Holdings(stack.callers),
            Logind(stack.connection),
            b"epoch",
            **{"socket_dirs": [self.folder]} | surroundings,
        )
        parser = argparse.ArgumentParser()
        LIBIPC.add_options(parser)
        wing = LIBIPC.make(host, LIBIPC.limits(), parser.parse_args(words))
        await wing.start()
        self.wings.append(wing)
        return wing

    async def stop(self, wing):
        self.wings.remove(wing)
        async with asyncio.timeout(PATIENCE):
            await wing.stop(for_good=True)

    async def answer(self, sender, path, interface, member, signature="", *values):
        call = self.bus.call(sender, path, interface, member, signature, values)
        return await self.bus.answer_to(call)

    async def call(self, *words):
        answer = await self.answer(*words)
        assert answer.error == "", answer.values
        return answer.values[0] if len(answer.values) == 1 else answer.values

    async def hub(self, sender, member, name, **options):
        given = {key: variant("s", value) for key, value in options.items()}
        return await self.answer(sender, ROOT, HUB, member, "sa{sv}", name, given)

    async def signal(self, member, number=1):
        async with asyncio.timeout(PATIENCE):
            while len(found := self.bus.signals(member)) < number:
                await self.bus.settle()
        return found[number - 1].values

    def client(self, name, directory="ipc-c"):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(str(self.folder / directory / name))
        return sock


@pytest.fixture
async def world(tmp_path):
    async with FakeBus() as bus:
        world = World(bus, FakePolkit(bus), await Stack.make(bus, own_uid=os.geteuid()), tmp_path)
        yield world
        for wing in list(world.wings):
            await world.stop(wing)


async def received(sock):
    async with asyncio.timeout(PATIENCE):
        return await asyncio.get_running_loop().sock_recv(sock, 65536)


async def test_a_caller_serves_a_program_with_sockets(world):
    await world.start()
    (path,) = (await world.hub(ALICE, "Serve", "pong")).values
    with world.client("pong") as client:
        client.send(HELLO)
        assert await world.signal("Connected") == [1, os.getuid(), os.getpid()]
        assert await world.signal("Message") == [1, 42, b"hello"]
        await world.call(ALICE, path, SERVICE, "Send", "uyay", 1, 7, b"back")
        assert await received(client) == encode(Form.C, Message(b"back", 7))
    assert await world.signal("Disconnected") == [1]


async def test_a_channel_and_a_socket_to_a_program(world):
    await world.start()
    path = world.folder / "ipc-c" / "pong"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        (channel,) = (await world.hub(ALICE, "OpenChannel", "pong")).values
        with listener.accept()[0] as ours:
            await world.call(ALICE, channel, CHANNEL, "Send", "yay", 42, b"hello")
            ours.setblocking(False)
            assert await received(ours) == HELLO
            ours.send(encode(Form.C, Message(b"back", 7)))
            assert await world.signal("Message") == [7, b"back"]
        assert await world.signal("Closed") == [""]
        answer = await world.hub(ALICE, "Connect", "pong")
        with socket.socket(fileno=answer.fds.pop()) as theirs, listener.accept()[0] as ours:
            theirs.send(b"anything")
            assert ours.recv(100) == b"anything"


async def test_what_the_bus_says_of_a_caller_counts(world, monkeypatch):
    """Its groups for the modes of files, and its pid for the services that it reaches."""
    await world.start()
    asked = []

    async def groups_of(uid):
        asked.append(uid)
        return frozenset()

    monkeypatch.setattr(module, "groups_of", groups_of)
    await world.hub(ALICE, "Serve", "pong")
    assert asked == [os.geteuid()]
    facts = {
        "UnixUserID": variant("u", os.geteuid()),
        "ProcessID": variant("u", 77),
        "UnixGroupIDs": variant("au", [os.getegid()]),
    }
    world.bus.answers[DRIVER, "GetConnectionCredentials"] = lambda call: ("a{sv}", [facts])
    await world.hub(BOB, "OpenChannel", "pong")
    assert asked == [os.geteuid()]
    assert await world.signal("Connected") == [1, os.geteuid(), 77]


async def test_the_wings_directories(world):
    wing = await world.start()
    for name, lookup in (("ipc-c", "network"), ("ipc-zig", "ipc")):
        place = world.folder / name
        assert stat.S_IMODE(place.stat().st_mode) == 0o1777
        assert stat.S_ISSOCK((place / lookup).stat().st_mode)
    await world.stop(wing)
    left = [path.name for path in world.folder.rglob("*")]
    assert sorted(left) == ["ipc-c", "ipc-zig"]


async def test_named_directories_take_the_place_of_others(world):
    (world.folder / "mine").mkdir()
    wing = await world.start("--ipc-rundir", f"zig={world.folder}/mine")
    assert [tuple(place) for place in wing.hub.directories] == [("zig", f"{world.folder}/mine")]
    assert (await world.hub(ALICE, "Serve", "pong")).error == ""
    assert (world.folder / "mine" / "pong").is_socket()


async def test_sockets_of_the_service_manager(world):
    """A look-up belongs to the directory that it is bound in."""
    run = world.folder / "run"
    run.mkdir(mode=0o755)
    passed, kept = {}, []
    for name, path, kind in (
        ("ipc-c", run / "network", socket.SOCK_STREAM),
        ("ipc", world.folder / "ipc.sock", socket.SOCK_SEQPACKET),
    ):
        with socket.socket(socket.AF_UNIX, kind) as listener:
            listener.bind(str(path))
            listener.listen()
            passed[name] = [os.dup(listener.fileno())]
            kept.append(path)
    await world.start("--ipc-rundir", f"c={run}", passed=passed, socket_dirs=[])
    await world.hub(ALICE, "Serve", "pong")
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        client.connect(str(kept[0]))
        client.send(encode(Form.C, Message(b"pong;pong unix://pong", 3, 3)))
        assert await received(client) == bytes.fromhex("0200000002004f4b")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as doors:
        doors.setblocking(False)
        doors.connect(str(kept[1]))
        doors.send(b"nonsense")
        assert (await received(doors)).startswith(b"error ")


async def test_the_doors_reach_services(world):
    await world.start()
    await world.hub(ALICE, "Serve", "pong")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as doors:
        doors.setblocking(False)
        doors.connect(str(world.folder / module.PASSAGE_SOCKET))
        doors.send(f"connect {os.geteuid()} c pong\n".encode())
        assert (await received(doors)).startswith((b"ok", b"denied"))


async def test_without_doors_nothing_is_dialled(world):
    await world.start()
    answer = await world.hub(ALICE, "Dial", "tcp://example.org:9000/pong")
    assert answer.error == "org.libipc.Error.NoDoors"


async def test_changes_are_told(world):
    await world.start()
    await world.hub(ALICE, "Serve", "pong")
    assert await world.signal("ServicesChanged") == []


async def test_nothing_is_left_in_the_end(world, caplog):
    wing = await world.start()
    await world.hub(ALICE, "Serve", "pong")
    await world.hub(BOB, "OpenChannel", "pong")
    await world.stop(wing)
    assert not world.stack.tree.children("/")
    assert wing.host.holdings.all() == []
    assert not [path for path in world.folder.rglob("*") if not path.is_dir()]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_what_it_does_without_is_told(world, monkeypatch):
    (world.folder / module.PASSAGE_SOCKET).mkdir()
    (world.folder / "ipc-c").mkdir()
    (world.folder / "ipc-c/network").write_text("somebody's")
    monkeypatch.setattr(module, "unusable", lambda where: [f"{len(where)} directories"])
    wing = await world.start()
    directories, passage, look_up = wing.host.lacking
    assert directories == "2 directories"
    assert f"{world.folder}/{module.PASSAGE_SOCKET} is there already" in passage
    assert f"{world.folder}/ipc-c/network is there already" in look_up
    assert (await world.hub(ALICE, "Serve", "pong")).error == ""


async def test_only_what_is_on_by_default_is_missed(world):
    """What systemd would pass."""
    wing = await world.start(socket_dirs=[], has_manager=True)
    missed = [each for each in wing.host.lacking if each.startswith(NOT_PASSED)]
    assert missed == [f"{NOT_PASSED} 'ipc-c'", f"{NOT_PASSED} 'ipc'"]


@pytest.mark.parametrize("part", ["Faces", "make_sockets"])
async def test_a_wing_that_cannot_start_leaves_nothing_behind(world, monkeypatch, part):
    def fail(*_, **__):
        raise RuntimeError("no more")

    monkeypatch.setattr(module, part, fail)
    with pytest.raises(RuntimeError, match="no more"):
        await world.start()
    assert not world.stack.tree.children("/")
    assert not [path for path in world.folder.rglob("*") if not path.is_dir()]

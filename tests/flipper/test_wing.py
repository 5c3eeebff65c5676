"""Tests of buswork.flipper.wing: all rooms together, on a scripted bus, with simulated boards."""

import argparse
import asyncio
import logging
import os
import socket
import stat
from types import SimpleNamespace

import pytest
from flipper.world import ACTIONS, PROPERTIES
from support.fakebus import FakeBus, FakePolkit
from support.reference import PATH as PATH_FIELD
from support.sessions import Quiet
from support.toyface import ALICE, ALICE_UID, BOB, Stack

from buswork.bus.caller import Call
from buswork.bus.library import variant
from buswork.bus.logind import Logind
from buswork.bus.ownership import Holdings
from buswork.errors import AccessDenied
from buswork.flipper import wing as module
from buswork.flipper.face import DEVICE, HUB
from buswork.flipper.holders import ROOT
from buswork.flipper.native.fmr import NAME, SOCKET_NAME
from buswork.flipper.simulator import PATH as SIMULATOR
from buswork.flipper.wing import FLIPPER, Channels, Limits
from buswork.flipper.wire.exchanges import AnswerReader, Exchange, outgoing
from buswork.flipper.wire.modules import TABLES
from buswork.flipper.wire.plans import standard
from buswork.flipper.wire.terms import Framing, Generation, Processor
from buswork.host import Host
from buswork.usb.discovery import NoHotplug

BOARDS = "org.buswork.Simulator.Boards"
FIRST, BENCH = f"{ROOT}/devices/carbon_2d1_2d3", f"{ROOT}/devices/bench"
PATIENCE = 10.0
BUTTON = Exchange(standard(*TABLES[Generation.G1, Processor.S4].find("button", "read")))
COLOUR = [variant("y", number) for number in (1, 2, 3)]


class World:
    """A bus, and a daemon on it as far as the wing needs one."""

    def __init__(self, bus, polkit, stack, folder):
        self.bus, self.stack, self.folder = bus, stack, folder
        self.wings = []
        for name in ACTIONS:
            polkit.rules[f"org.flipper.device.{name}"] = "yes"
        polkit.rules["org.buswork.simulate"] = "yes"

    async def start(self, *, limits=None, **surroundings):
        stack = self.stack
        host = Host(
            stack.edge,
            stack.authority,
            Holdings(stack.callers),
            Logind(stack.connection),
            b"epoch",
            **{"simulate": True, "socket_dirs": [self.folder]} | surroundings,
        )
        wing = FLIPPER.make(host, limits or FLIPPER.limits(), argparse.Namespace())
        await wing.start()
        self.wings.append(wing)
        if host.simulate:
            await self.until(lambda: len(wing.boards.boards) == min(2, wing.limits.boards))
        return wing

    async def until(self, is_so):
        async with asyncio.timeout(PATIENCE):
            while not is_so():
                await self.bus.settle()

    async def event(self, number):
        """The first, the second ... that was told."""
        await self.until(lambda: len(self.bus.signals("Event")) >= number)
        return self.bus.signals("Event")[number - 1]

    async def stop(self, wing):
        self.wings.remove(wing)
        async with asyncio.timeout(PATIENCE):
            await wing.stop(for_good=True)

    async def answer(self, sender, path, interface, member, signature="", *values, **how):
        call = self.bus.call(sender, path, interface, member, signature, values, **how)
        return await self.bus.answer_to(call)

    async def call(self, *words, **how):
        answer = await self.answer(*words, **how)
        assert answer.error == "", answer.values
        return answer.values[0] if len(answer.values) == 1 else answer.values

    async def device(self, sender, path, member, signature="", *values, **how):
        return await self.call(sender, path, DEVICE, member, signature, *values, **how)

    async def get(self, path, name, interface=DEVICE):
        return (await self.call(ALICE, path, PROPERTIES, "Get", "ss", interface, name)).value

    async def simulator(self, member, signature="", *values):
        return await self.call(ALICE, SIMULATOR, BOARDS, member, signature, *values)


@pytest.fixture
async def world(tmp_path):
    async with FakeBus() as bus:
        world = World(bus, FakePolkit(bus), await Stack.make(bus), tmp_path)
        yield world
        for wing in list(world.wings):
            await world.stop(wing)


async def test_calls_reach_the_board_of_their_object(world):
    wing = await world.start()
    assert await world.get(ROOT, "Current", HUB) == BENCH
    await world.device(ALICE, FIRST, "Invoke", "ssav", "led", "rgb", COLOUR)
    first, bench = (wing.simulator.boards[port] for port in ("1-3", "1-4"))
    assert (first.led.colour, bench.led.colour) == ((1, 2, 3), (0, 0, 0))
    await world.simulator("SetButton", "sb", "1-4", True)
    assert (await world.device(BOB, BENCH, "Invoke", "ssav", "button", "read", [])).value == 1
    assert (await world.device(BOB, FIRST, "Invoke", "ssav", "button", "read", [])).value == 0
    assert await world.get(FIRST, "State") == "in-use"


async def test_what_a_button_does_is_told(world):
    await world.start()
    await world.device(ALICE, BENCH, "Subscribe", "su", "button", 10)
    for number, pressed in enumerate((False, True, False), 1):
        told = await world.event(number)
        assert (told.fields[PATH_FIELD], told.values) == (
            BENCH,
            ["button", variant("u", pressed)],
        )
        await world.simulator("SetButton", "sb", "1-4", not pressed)


async def test_what_a_board_prints_is_told(world):
    wing = await world.start()
    await world.device(ALICE, BENCH, "Subscribe", "su", "debug", 10)
    await world.device(ALICE, BENCH, "Claim", "su", "it stays open", 60)
    wing.simulator.boards["1-4"].say("hello\n")
    await world.device(ALICE, BENCH, "Invoke", "ssav", "button", "read", [])
    told = await world.event(1)
    assert told.values == ["debug", variant("s", "hello\n")]


async def test_a_claim_outlives_the_cable(world):
    wing = await world.start()
    token = await world.device(ALICE, BENCH, "Claim", "su", "mine", 60)
    wing.simulator.unplug("1-4")
    await world.until(lambda: "bench" not in wing.boards.boards)
    wing.simulator.plug("1-4")
    await world.until(lambda: "bench" in wing.boards.boards)
    assert await world.get(BENCH, "Incarnation") == 2
    answer = await world.answer(BOB, BENCH, DEVICE, "Invoke", "ssav", "button", "read", [])
    assert answer.error == "org.flipper.Error.Claimed"
    await world.device(ALICE, BENCH, "Release", "s", token)
    await world.device(BOB, BENCH, "Invoke", "ssav", "button", "read", [])


async def test_a_lease_that_runs_out_ends_the_claim(world):
    wing = await world.start()
    await world.device(ALICE, BENCH, "Claim", "su", "mine", 60)
    assert len(wing.host.holdings.all()) == 1
    wing.boards.expire(wing.clock.now() + 61)
    assert wing.host.holdings.all() == []


async def test_a_board_that_is_lent_is_closed(world):
    wing = await world.start()
    await world.device(ALICE, BENCH, "Invoke", "ssav", "button", "read", [])
    plug = wing.simulator.backend.plug_at("1-4")
    assert plug.opened
    token = await world.device(ALICE, BENCH, "Lend", "su", "another program", 60)
    assert not plug.opened
    await world.device(ALICE, BENCH, "Release", "s", token)
    await world.device(ALICE, BENCH, "Invoke", "ssav", "button", "read", [])


async def test_a_reset_wakes_the_main_processor(world):
    wing = await world.start()
    await world.simulator("Crash", "ss", "1-4", "4s")
    await world.device(ALICE, BENCH, "Reset")
    assert wing.simulator.boards["1-4"].s4.is_up
    read = ("Invoke", "ssav", "gpio", "read", [variant("u", 1)])
    assert (await world.device(ALICE, BENCH, *read)).signature == "u"


# -- FMR -----------------------------------------------------------------------------------------


async def ask_button(sock):
    """As a program does that speaks with a board on the network."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    for message in outgoing(BUTTON, Framing.UDP):
        await loop.sock_sendall(sock, message)
    async with asyncio.timeout(PATIENCE):
        answer = AnswerReader(BUTTON, Framing.UDP).feed(await loop.sock_recv(sock, 65536))
    return answer.result


async def test_a_channel_speaks_with_its_board(world):
    await world.start()
    await world.simulator("SetButton", "sb", "1-3", True)
    answer = await world.answer(ALICE, FIRST, DEVICE, "OpenChannel")
    with socket.socket(fileno=answer.fds.pop()) as channel:
        assert await ask_button(channel) == (1, 0)
        await world.device(ALICE, FIRST, "Claim", "su", "the channel's too", 60)
        assert await ask_button(channel) == (1, 0)
        world.bus.leave(ALICE)
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.get_running_loop().sock_recv(channel, 1) == b""
    assert world.stack.authority.quotas.used(ALICE_UID, "descriptors") == 0


async def test_channels_and_claims_of_others(world):
    await world.start()
    answer = await world.answer(ALICE, FIRST, DEVICE, "OpenChannel")
    with socket.socket(fileno=answer.fds.pop()) as channel:
        await world.device(BOB, FIRST, "Claim", "su", "mine", 60)
        assert (await ask_button(channel)).error


async def test_who_has_left_may_nothing_more(world):
    class Server:
        def open_channel(self, origin, on_end):
            self.origin = origin
            return socket.socket(), on_end

    server = Server()
    caller = Call(ALICE, ALICE_UID, 0, FIRST)
    board = SimpleNamespace(name="bench")
    theirs, _ = Channels(server, world.stack.authority).open(board, caller, lambda: None)
    os.close(theirs)
    await server.origin.require("org.flipper.device.use")
    world.bus.leave(ALICE)
    with pytest.raises(AccessDenied, match="left the bus"):
        await server.origin.require("org.flipper.device.load")


async def test_its_own_socket(world):
    wing = await world.start()
    path = world.folder / SOCKET_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    await world.simulator("SetButton", "sb", "1-4", True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(path))
        assert await ask_button(client) == (1, 0)
    await world.stop(wing)
    assert not path.exists()


async def test_a_socket_of_the_service_manager(world):
    path = str(world.folder / "passed")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        passed = {NAME: [os.dup(listener.fileno())]}
        await world.start(passed=passed, socket_dirs=[])
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(path)
        assert await ask_button(client) == (0, 0)


async def test_boards_on_the_network_need_the_doors(world):
    await world.start()
    answer = await world.answer(ALICE, ROOT, HUB, "Attach", "s", "localhost")
    assert answer.error == "org.flipper.Error.NoDoors"
    answer = await world.answer(ALICE, ROOT, HUB, "Detach", "o", BENCH)
    assert answer.error == "org.freedesktop.DBus.Error.InvalidArgs"


# -- beginning and end ---------------------------------------------------------------------------


async def test_without_simulation_nothing_is_simulated(world, monkeypatch):
    monkeypatch.setattr(module, "UdevDiscovery", Quiet)
    await world.start(simulate=False)
    answer = await world.answer(ALICE, SIMULATOR, BOARDS, "ListBoards")
    assert answer.error.endswith("UnknownObject")
    assert await world.get(ROOT, "Current", HUB) == "/"


async def test_the_hub_is_there_where_there_is_no_hotplug(world, monkeypatch, caplog):
    class Deaf(Quiet):
        async def start(self, on_add, on_remove):
            raise NoHotplug("no word of USB devices")

    monkeypatch.setattr(module, "UdevDiscovery", Deaf)
    wing = await world.start(simulate=False)
    assert "there will be no boards on USB" in caplog.text
    assert wing.host.lacking == ["there will be no boards on USB: no word of USB devices"]
    assert await world.get(ROOT, "MaxBoards", HUB) == Limits().boards


async def test_a_socket_that_can_not_be_had_is_told(world):
    (world.folder / SOCKET_NAME).mkdir()
    wing = await world.start()
    (told,) = wing.host.lacking
    assert f"{world.folder}/{SOCKET_NAME} is there already" in told
    assert await world.get(ROOT, "MaxBoards", HUB) == Limits().boards


async def test_limits(world):
    wing = await world.start(limits=Limits(boards=1, jobs=2))
    assert list(wing.boards.boards) == ["carbon-1-3"]
    assert wing.boards.limits.waiting.jobs == 2


async def test_the_machine_sleeps_and_wakes(world):
    wing = await world.start()
    (sleep,) = wing.host.logind.on_sleep
    sleep(True)
    assert await world.get(ROOT, "Current", HUB) == "/"
    sleep(False)
    await world.until(lambda: len(wing.boards.boards) == 2)
    assert await world.get(ROOT, "Current", HUB) == BENCH


async def test_nothing_is_left_in_the_end(world, caplog):
    wing = await world.start()
    await world.device(ALICE, BENCH, "Subscribe", "su", "button", 10)
    await world.device(ALICE, BENCH, "Invoke", "ssav", "button", "read", [])
    await world.stop(wing)
    assert all(not wing.simulator.backend.plug_at(port).opened for port in ("1-3", "1-4"))
    assert not world.stack.tree.children("/")
    assert not wing.host.logind.on_sleep
    assert not list(world.folder.iterdir())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "part",
    [
        f"{module.__name__}.FmrServer",
        f"{module.__name__}.Faces",
        f"{module.__name__}.FlipperWing._make_sessions",
        f"{module.__name__}.make_sockets",
        "buswork.sim.usb.SimDiscovery.start",
    ],
)
async def test_a_wing_that_cannot_start_leaves_nothing_behind(world, monkeypatch, part):
    def fail(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(part, fail)
    left = []
    make = Logind.__init__

    def kept(self, connection):
        make(self, connection)
        left.append(self)

    monkeypatch.setattr(Logind, "__init__", kept)
    with pytest.raises(RuntimeError, match="new thread"):
        await world.start()
    assert not world.stack.tree.children("/")
    (logind,) = left
    assert not logind.on_sleep
    assert not list(world.folder.iterdir())

"""The simulated boards of a daemon, and the object that people handle them through."""

import asyncio

import pytest
from sim.boards import PACKET_BYTES, call, padded, result, transfer
from support.fakebus import ERROR, FakeBus, FakePolkit
from support.toyface import ALICE, Stack

from buswork.flipper import simulator as module
from buswork.flipper.simulator import INTERFACE, PATH, Simulator, SimulatorFace
from buswork.flipper.wire.carbon import is_carbon
from buswork.sim.device import How
from buswork.sim.ports import NoSuchPort
from buswork.usb.devices import NAME

ACTION = "org.buswork.simulate"
RGB = call(2, 1, 1, 2, 3, types=0, width=1, returns=2)
PRESSED = call(0, 1, returns=0)
PATIENCE = 10.0


class World:
    def __init__(self, bus, polkit, simulator):
        self.bus, self.polkit, self.simulator = bus, polkit, simulator
        self.news = asyncio.Queue()  # devices that come, ports that they leave

    async def ask(self, member, signature="", *values):
        return await self.bus.answer_to(
            self.bus.call(ALICE, PATH, INTERFACE, member, signature, list(values))
        )

    async def call(self, member, signature="", *values):
        answer = await self.ask(member, signature, *values)
        assert answer.error == "", answer.values
        return answer.values[0] if answer.values else None

    async def next(self):
        return await asyncio.wait_for(self.news.get(), PATIENCE)

    def asked(self, packet, port="1-3"):
        board = self.simulator.boards[port]
        assert board.write(0x02, packet).how is How.DONE
        return board.read(0x81, PACKET_BYTES).data


@pytest.fixture
async def world(monkeypatch):
    monkeypatch.setattr(module, "AWAY_SECONDS", 0.01)
    async with FakeBus() as bus:
        polkit = FakePolkit(bus)
        polkit.rules[ACTION] = "yes"
        stack = await Stack.make(bus)
        simulator = Simulator()
        stack.edge.export(PATH, SimulatorFace(stack.edge, PATH, simulator), wing=PATH)
        world = World(bus, polkit, simulator)
        discovery = simulator.discovery()
        await discovery.start(world.news.put_nowait, world.news.put_nowait)
        world.devices = [await world.next() for _ in range(2)]
        yield world
        discovery.stop()
        simulator.close()


async def test_two_boards_are_plugged_in(world):
    assert [each.port for each in world.devices] == await world.call("ListBoards")
    for each in world.devices:
        assert is_carbon(each.vendor, each.product, each.manufacturer, each.product_name)
    assert [dict(each.properties) for each in world.devices] == [{}, {NAME: "bench"}]
    worker = world.simulator.worker(world.devices[0])
    await worker.open()
    await worker.close()


async def test_people_see_what_a_board_does(world):
    lines = await world.call("GetBoard", "s", "1-3")
    assert lines[:2] == ["light: off", "button: released"]
    told = asyncio.ensure_future(world.bus.next(lambda m: m.member == "BoardChanged"))
    await asyncio.sleep(0)
    assert world.asked(RGB) == padded(result())
    assert (await asyncio.wait_for(told, PATIENCE)).values == ["1-3"]
    assert (await world.call("GetBoard", "s", "1-3"))[0] == "light: #010203"
    assert (await world.call("GetBoard", "s", "1-4"))[0] == "light: off"


async def test_a_board_sees_what_people_do(world):
    assert world.asked(PRESSED) == padded(result(0))
    await world.call("SetButton", "sb", "1-3", True)
    assert world.asked(PRESSED) == padded(result(1))
    await world.call("SetInputs", "su", "1-3", 1 << 22)
    await world.call("SendSerial", "say", "1-3", b"hello")
    lines = await world.call("GetBoard", "s", "1-3")
    assert lines[1:4] == ["button: pressed", "main processor: up", "pins: 0x00400000"]
    world.asked(transfer(2, 3, 2, 64) + call(15, 1))
    assert world.asked(transfer(3, 3, 3, 5)) == padded(result(1))
    assert world.simulator.boards["1-3"].s4.usart.received == b"hello"


async def test_plugging(world):
    for _ in range(2):
        await world.call("Unplug", "s", "1-3")
    assert await world.next() == "1-3"
    assert await world.call("GetBoard", "s", "1-3") == []
    for _ in range(2):
        await world.call("Plug", "s", "1-3")
    again = await world.next()
    assert (again.port, again.address == world.devices[0].address) == ("1-3", False)
    assert world.news.empty()


async def test_a_crash_of_the_4s_lasts_until_a_reset(world):
    await world.call("Crash", "ss", "1-3", "4s")
    assert "main processor: down" in await world.call("GetBoard", "s", "1-3")
    for high, low in ((0, 1 << 4), (1 << 4, 0)):
        world.asked(call(1, 2, high, low, returns=2))
    assert "main processor: up" in await world.call("GetBoard", "s", "1-3")


async def test_a_board_that_crashes_leaves_the_bus_and_comes_back(world):
    world.asked(RGB)
    await world.call("Crash", "ss", "1-3", "u2")
    assert await world.next() == "1-3"
    assert (await world.next()).port == "1-3"
    assert (await world.call("GetBoard", "s", "1-3"))[0] == "light: off"


async def test_a_board_whose_watchdog_was_let_go_comes_back(world):
    world.asked(call(4, 1), port="1-4")
    assert await world.next() == "1-4"
    again = await world.next()
    assert (again.port, again.properties[NAME]) == ("1-4", "bench")


async def test_a_board_that_was_taken_out_stays_out(world):
    await world.call("Unplug", "s", "1-3")
    await world.call("Crash", "ss", "1-3", "u2")
    await world.call("Unplug", "s", "1-4")
    world.simulator._reset("1-4", PATIENCE)
    (timer,) = world.simulator._timers.values()
    await world.call("Unplug", "s", "1-4")
    assert timer.cancelled()
    assert [await world.next() for _ in range(2)] == ["1-3", "1-4"]
    assert world.news.empty()


async def test_what_is_not_there_is_told(world):
    for member, signature, *more in (
        ("GetBoard", "s"),
        ("SetButton", "sb", True),
        ("SetInputs", "su", 1),
        ("SendSerial", "say", b""),
        ("Crash", "ss", "u2"),
        ("Plug", "s"),
        ("Unplug", "s"),
    ):
        answer = await world.ask(member, signature, "9-9", *more)
        assert answer.error == NoSuchPort.name
        assert "1-3, 1-4" in answer.values[0]
    answer = await world.ask("Crash", "ss", "1-3", "z80")
    assert answer.error == ERROR + "InvalidArgs"


async def test_not_everybody_may_play_with_them(world):
    world.polkit.rules[ACTION] = "no"
    answer = await world.ask("Crash", "ss", "1-3", "4s")
    assert answer.error == ERROR + "AccessDenied"
    assert world.simulator.boards["1-3"].s4.is_up


async def test_nothing_is_told_when_it_is_closed(world):
    told = []
    world.simulator.on_change = told.append
    world.simulator.close()
    world.asked(RGB)
    world.simulator.boards["1-4"].crash()
    await asyncio.sleep(0)
    assert told == []
    assert world.simulator._timers == {}
    world.simulator._loop = asyncio.new_event_loop()
    world.simulator._loop.close()
    world.asked(call(2, 1, 9, 9, 9, types=0, width=1, returns=2))

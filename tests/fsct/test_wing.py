"""Tests of buswork.fsct.wing: all rooms together, on a scripted bus, with simulated displays."""

import argparse
import asyncio
import logging
import os
import socket
import stat
import time
from dataclasses import replace

import msgpack
import pytest
from support.fakebus import DRIVER, ERROR, FakeBus, FakePolkit
from support.reference import PATH as PATH_FIELD
from support.sessions import Quiet
from support.toyface import ALICE, ALICE_UID, BOB, Stack

from buswork.authority import Limits, Quotas
from buswork.bus.caller import Call
from buswork.bus.library import variant
from buswork.bus.logind import Logind
from buswork.bus.ownership import Holdings
from buswork.errors import LimitsExceeded
from buswork.fsct import wing as module
from buswork.fsct.face import INTERFACE, PATH
from buswork.fsct.model.changes import PlayerRemoved
from buswork.fsct.model.driver import Driver
from buswork.fsct.model.driver import Limits as DriverLimits
from buswork.fsct.wing import (
    FSCT,
    REGISTRATIONS_A_SECOND,
    REGISTRATIONS_AT_ONCE,
    SIMULATOR_PATH,
    SOCKET,
    SOCKET_NAME,
    Registrar,
)
from buswork.host import Host
from buswork.log import CLAIMED, NOTICE
from buswork.store.model.limits import Limits as StoreLimits
from buswork.store.wing import StoreWing
from buswork.usb.discovery import NoHotplug

SIMULATOR = "org.buswork.Simulator"
SONG = variant("a{ss}", {"title": "Song", "artist": "Singer"})
PLAYING = {"status": variant("u", 1), "texts": SONG}
PATIENCE = 10.0


class World:
    """A bus, and a daemon on it as far as the wing needs one."""

    def __init__(self, bus, polkit, stack, folder):
        self.bus, self.stack, self.folder = bus, stack, folder
        self.wings = []
        for name in ("observe", "observe-others", "register", "route", "manage"):
            polkit.rules[f"org.fsct.driver.{name}"] = "yes"

    async def start(self, *words, limits=None, **surroundings):
        stack = self.stack
        parser = argparse.ArgumentParser()
        FSCT.add_options(parser)
        host = Host(
            stack.edge,
            stack.authority,
            Holdings(stack.callers),
            Logind(stack.connection),
            b"epoch",
            **{"simulate": True} | surroundings,
        )
        wing = FSCT.make(host, limits or FSCT.limits(), parser.parse_args(words))
        await wing.start()
        self.wings.append(wing)
        return wing

    async def stop(self, wing):
        self.wings.remove(wing)
        async with asyncio.timeout(PATIENCE):
            await wing.stop(for_good=True)

    async def call(self, sender, path, interface, member, signature="", *values):
        answer = await self.bus.answer_to(
            self.bus.call(sender, path, interface, member, signature, values)
        )
        assert answer.error == "", answer.values
        return answer.values[0] if len(answer.values) == 1 else answer.values

    async def driver(self, sender, member, signature="", *values):
        return await self.call(sender, PATH, INTERFACE, member, signature, *values)

    async def shows(self, port, wanted):
        """Returns when the display at the port shows this in its lines."""
        async with asyncio.timeout(PATIENCE):
            while True:
                changed = asyncio.ensure_future(
                    self.bus.next(lambda message: message.member == "DisplayChanged")
                )
                await asyncio.sleep(0)
                lines = await self.call(ALICE, SIMULATOR_PATH, SIMULATOR, "GetDisplay", "s", port)
                if wanted(lines):
                    changed.cancel()
                    return lines
                await changed


@pytest.fixture
async def world(tmp_path):
    async with FakeBus() as bus:
        polkit = FakePolkit(bus)
        stack = await Stack.make(bus, Limits(objects=10))
        world = World(bus, polkit, stack, tmp_path)
        yield world
        for wing in list(world.wings):
            await world.stop(wing)


def off(lines):
    return lines == ["(off)"]


async def test_a_player_is_shown_until_it_leaves(world):
    await world.start()
    assert await world.call(ALICE, SIMULATOR_PATH, SIMULATOR, "ListDisplays") == ["1-1", "1-2"]
    number = await world.driver(ALICE, "RegisterPlayer", "s", "player")
    await world.driver(ALICE, "UpdatePlayerState", "ua{sv}", number, PLAYING)
    for port in ("1-1", "1-2"):
        await world.shows(port, lambda lines: lines[:3] == ["▶ Playing", "Song", "Singer"])
    assert len(await world.driver(ALICE, "ListDevices")) == 2
    world.bus.leave(ALICE)
    await world.bus.settle()
    world.bus.uids[ALICE] = ALICE_UID
    await world.shows("1-1", lambda lines: lines[:1] != ["▶ Playing"])


async def test_the_clock_of_a_display_goes_on_by_itself(world):
    wing = await world.start()
    clock = [100.0]
    display = wing.simulator.displays["1-1"]
    display.clock = lambda: clock[0]
    display.power_on()
    number = await world.driver(ALICE, "RegisterPlayer", "s", "player")
    # On its way to the display the track goes on: it may take most of a second.
    timeline = {"position_ms": variant("x", 1050), "duration_ms": variant("t", 60_000)}
    state = PLAYING | {"timeline": variant("a{sv}", timeline | {"rate": variant("d", 1.0)})}
    await world.driver(ALICE, "UpdatePlayerState", "ua{sv}", number, state)
    await world.shows("1-1", lambda lines: lines[-1].endswith("0:01 / 1:00"))
    for second in range(2, 8):  # the last of them when nothing is sent any more
        clock[0] += 1
        await world.bus.next(
            lambda message: message.member == "DisplayChanged" and message.values == ["1-1"]
        )
        lines = await world.call(ALICE, SIMULATOR_PATH, SIMULATOR, "GetDisplay", "s", "1-1")
        assert lines[-1].endswith(f"0:0{second} / 1:00")


async def test_plugging(world):
    await world.start()
    await world.shows("1-1", off)
    await world.driver(ALICE, "RegisterPlayer", "s", "player")
    await world.shows("1-1", lambda lines: lines[0] == "· Unknown")
    for _ in range(2):
        await world.call(ALICE, SIMULATOR_PATH, SIMULATOR, "Unplug", "s", "1-1")
    assert await world.shows("1-1", lambda lines: not lines) == []
    for _ in range(2):
        await world.call(ALICE, SIMULATOR_PATH, SIMULATOR, "Plug", "s", "1-1")
    await world.shows("1-1", lambda lines: lines[:1] == ["· Unknown"])
    answer = await world.bus.answer_to(
        world.bus.call(ALICE, SIMULATOR_PATH, SIMULATOR, "Plug", "s", ["9-9"])
    )
    assert answer.error == "org.buswork.Error.Usb.NoSuchPort"


async def test_the_machine_sleeps_and_wakes(world, monkeypatch):
    delayed = asyncio.Queue()
    monkeypatch.setattr(Logind, "delay_sleep", lambda _, wanted: delayed.put_nowait(wanted))
    wing = await world.start()
    assert await delayed.get() is True
    await world.driver(ALICE, "RegisterPlayer", "s", "player")
    await world.shows("1-1", lambda lines: lines[0] == "· Unknown")
    (sleep,) = wing.host.logind.on_sleep
    sleep(True)
    assert await delayed.get() is False
    await world.shows("1-1", off)
    assert await world.driver(ALICE, "ListDevices") == []
    sleep(False)
    assert await delayed.get() is True
    await world.shows("1-1", lambda lines: lines[0] == "· Unknown")


async def test_without_simulation_nothing_is_simulated(world, monkeypatch):
    monkeypatch.setattr(module, "UdevDiscovery", Quiet)
    await world.start(simulate=False)
    answer = await world.bus.answer_to(
        world.bus.call(ALICE, SIMULATOR_PATH, SIMULATOR, "ListDisplays")
    )
    assert answer.error == ERROR + "UnknownObject"


async def test_players_are_served_where_there_is_no_hotplug(world, monkeypatch, caplog):
    class Deaf(Quiet):
        async def start(self, on_add, on_remove):
            raise NoHotplug("no word of USB devices")

    monkeypatch.setattr(module, "UdevDiscovery", Deaf)
    wing = await world.start(simulate=False)
    assert "there will be no displays" in caplog.text
    assert wing.host.lacking == ["there will be no displays: no word of USB devices"]
    assert await world.driver(ALICE, "RegisterPlayer", "s", "player") == 1


@pytest.mark.parametrize(("words", "unmarked"), [([], False), (["--usb-unmarked"], True)])
async def test_unmarked_devices_are_for_those_who_ask(world, monkeypatch, words, unmarked):
    monkeypatch.setattr(module, "UdevDiscovery", Quiet)
    wing = await world.start(*words, simulate=False)
    assert wing.sessions._unmarked is unmarked


# -- seats ---------------------------------------------------------------------------------------


async def test_who_sits_here_comes_first(world):
    wing = await world.start()
    assert wing.driver.active_uids is None
    wing.host.logind._set_seated(frozenset({ALICE_UID}))
    assert wing.driver.active_uids == {ALICE_UID}
    wing.host.logind._set_seated(None)
    assert wing.driver.active_uids is None


async def test_who_sat_here_before_we_started(world):
    before = Logind._set_seated
    seated = frozenset({ALICE_UID})
    make = Logind.__init__

    def sat(self, connection):
        make(self, connection)
        before(self, seated)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Logind, "__init__", sat)
        wing = await world.start()
    assert wing.driver.active_uids == seated
    found = await world.call(ALICE, PATH, DRIVER + ".Properties", "GetAll", "s", INTERFACE)
    assert found["SeatedUsersFirst"].value is True


async def test_seats_can_be_left_out(world):
    wing = await world.start("--no-seats")
    wing.host.logind._set_seated(frozenset({ALICE_UID}))
    assert wing.driver.active_uids is None
    found = await world.call(ALICE, PATH, DRIVER + ".Properties", "GetAll", "s", INTERFACE)
    assert found["SeatedUsersFirst"].value is False


# -- the preferred player is remembered ----------------------------------------------------------


async def test_the_preferred_player_is_preferred_again(world):
    wing = await world.start(state_dir=world.folder)
    await world.driver(ALICE, "RegisterPlayer", "s", "other")
    number = await world.driver(ALICE, "RegisterPlayer", "s", "mine")
    await world.driver(ALICE, "SetPreferredPlayer", "u", number)
    await world.stop(wing)

    wing = await world.start(state_dir=world.folder)
    await world.driver(BOB, "RegisterPlayer", "s", "mine")
    assert await world.driver(ALICE, "GetPreferredPlayer") == 0, "it is another user's"
    number = await world.driver(ALICE, "RegisterPlayer", "s", "mine")
    assert await world.driver(ALICE, "GetPreferredPlayer") == number
    await world.driver(ALICE, "SetPreferredPlayer", "u", 0)
    await world.stop(wing)

    await world.start(state_dir=world.folder)
    await world.driver(ALICE, "RegisterPlayer", "s", "mine")
    assert await world.driver(ALICE, "GetPreferredPlayer") == 0


# -- quotas --------------------------------------------------------------------------------------


def test_what_a_player_costs():
    quotas = Quotas(Limits(objects=3))
    driver = Driver(DriverLimits(players=4))
    registrar = Registrar(driver, quotas)
    players = [registrar.register(str(number), 1000, "owner") for number in range(3)]
    with pytest.raises(LimitsExceeded, match="3 objects"):
        registrar.register("x", 1000, "another owner")
    driver.unregister(players[0].id)
    assert quotas.used(1000, "objects") == 2
    registrar.register("x", 1000, "owner")
    registrar.register("x", 2000, "owner")
    with pytest.raises(LimitsExceeded, match="MaxPlayers"):
        registrar.register("x", 2000, "owner")
    assert quotas.used(2000, "objects") == 1
    driver.release("owner")
    assert quotas.used(1000, "objects") == quotas.used(2000, "objects") == 0


def test_how_fast_a_user_may_register(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    driver, quotas = Driver(), Quotas(Limits())
    registrar = Registrar(driver, quotas)

    def come_and_go(uid=1000):
        driver.unregister(registrar.register("x", uid, "owner").id)

    for _ in range(REGISTRATIONS_AT_ONCE):
        come_and_go()
    with pytest.raises(LimitsExceeded, match="50 players a second"):
        come_and_go()
    assert quotas.used(1000, "objects") == 0
    come_and_go(2000)
    now += 1.001
    for _ in range(REGISTRATIONS_A_SECOND):
        come_and_go()
    with pytest.raises(LimitsExceeded, match="50 players a second"):
        come_and_go()


# -- sockets -------------------------------------------------------------------------------------


async def ask(path, *request):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(msgpack.packb(request))
    async with asyncio.timeout(PATIENCE):
        answer = msgpack.unpackb(await reader.read(4096))
    return answer, writer


async def test_its_own_socket(world):
    wing = await world.start(socket_dirs=[world.folder])
    path = world.folder / SOCKET_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    answer, writer = await ask(path, 0, 1, "register_player", ["native"])
    assert answer == [1, 1, None, 1]
    # The same players, and the same quota, on every face.
    assert await world.driver(ALICE, "ListPlayers") == [1]
    assert world.stack.authority.quotas.used(os.getuid(), "objects") == 1
    writer.close()
    await world.bus.next(lambda message: message.member == "InterfacesRemoved")
    assert await world.driver(ALICE, "ListPlayers") == []
    await world.stop(wing)
    assert not path.exists()


async def test_it_can_be_seen_and_ended_what_native_players_are_there(world, caplog):
    caplog.set_level(NOTICE)
    wing = await world.start(socket_dirs=[world.folder])
    holdings = wing.host.holdings
    reader, writer = await asyncio.open_unix_connection(world.folder / SOCKET_NAME)

    async def register(self_id):
        writer.write(msgpack.packb([0, 1, "register_player", [self_id]]))
        async with asyncio.timeout(PATIENCE):
            return msgpack.unpackb(await reader.read(4096))[3]

    assert await register("x" * 100) == 1
    (held,) = holdings.all()
    assert (held.path, held.wing, held.uid) == ("/org/fsct/players/1", "fsct", os.getuid())
    assert (held.what, held.client) == (f"player '{'x' * 64}'", f"pid:{os.getpid()}")
    assert [record.message_id for record in caplog.records] == [CLAIMED]

    holdings.force(held.path, Call(BOB, 0, 0, "/"))
    assert (holdings.all(), list(wing.driver.players)) == ([], [])
    assert world.stack.authority.quotas.used(os.getuid(), "objects") == 0

    # Its connection goes on; and what it has goes with it.
    assert await register("y") == 2
    assert [held.path for held in holdings.all()] == ["/org/fsct/players/2"]
    gone = asyncio.Event()

    def heard(change):
        if isinstance(change, PlayerRemoved):
            gone.set()

    wing.driver.on_change.append(heard)
    writer.close()
    async with asyncio.timeout(PATIENCE):
        await gone.wait()
    assert holdings.all() == []


async def test_a_uid_has_one_share_of_all_native_sockets(world):
    wing = await world.start()
    store = StoreWing(replace(wing.host, epoch=bytes(16)), StoreLimits())
    await store.start()
    assert wing.rpc.commons is wing.host.commons
    assert store.doors.shares is wing.host.commons.shares
    assert store.doors.buffers is wing.host.commons.buffers
    await store.stop(for_good=True)


async def test_a_socket_of_the_service_manager(world):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(world.folder / "passed"))
        listener.listen()
        await world.start(passed={SOCKET: [os.dup(listener.fileno())]})
        answer, writer = await ask(world.folder / "passed", 0, 1, "get_protocol_version", [])
    assert answer == [1, 1, None, {"major": 1, "minor": 0}]
    writer.close()


async def test_the_variable_says_where(world, monkeypatch):
    monkeypatch.setenv("FSCT_IPC_ENDPOINT", str(world.folder / "elsewhere"))
    wing = await world.start(socket_dirs=[], has_manager=True)
    assert [path.name for path in world.folder.iterdir()] == ["elsewhere"]
    assert wing.host.lacking == []


async def test_a_place_that_is_taken(world, caplog):
    (world.folder / SOCKET_NAME).write_text("not ours")
    wing = await world.start(socket_dirs=[world.folder, world.folder / "nowhere"])
    assert caplog.text.count("native clients can't be served in") == 2
    assert len(wing.host.lacking) == 2
    assert str(world.folder / "nowhere") in caplog.text
    assert await world.driver(ALICE, "RegisterPlayer", "s", "player") == 1
    assert (world.folder / SOCKET_NAME).read_text() == "not ours"


# -- the end -------------------------------------------------------------------------------------


async def test_nothing_is_left_in_the_end(world, caplog):
    wing = await world.start(socket_dirs=[world.folder])
    await world.driver(ALICE, "RegisterPlayer", "s", "player")
    await world.shows("1-1", lambda lines: lines[0] == "· Unknown")
    display = wing.simulator.displays["1-1"]
    await world.stop(wing)
    assert display.lines() == ["(off)"]
    wing.simulator.on_display = pytest.fail
    wing.simulator.unplug("1-1")
    assert not world.stack.tree.children("/")
    assert not wing.host.logind.on_sleep
    assert not wing.host.logind.on_seated
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    paths = {message.fields[PATH_FIELD] for message in world.bus.signals("InterfacesRemoved")}
    assert paths == {"/org/fsct"}


@pytest.mark.parametrize(
    "part", ["Faces", "RpcServer", "FsctWing._make_sessions", "Sessions.start", "make_sockets"]
)
async def test_a_wing_that_cannot_start_leaves_nothing_behind(world, monkeypatch, part):
    def fail(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(f"{module.__name__}.{part}", fail)
    left = []
    make = Logind.__init__

    def kept(self, connection):
        make(self, connection)
        left.append(self)

    monkeypatch.setattr(Logind, "__init__", kept)
    with pytest.raises(RuntimeError, match="new thread"):
        await world.start(socket_dirs=[world.folder], state_dir=world.folder)
    assert not world.stack.tree.children("/")
    (logind,) = left
    assert not logind.on_sleep
    assert not logind.on_seated
    assert not list(world.folder.iterdir())


async def test_a_client_that_reads_nothing_does_not_keep_the_displays_lit(world):
    wing = await world.start(socket_dirs=[world.folder])
    await world.driver(ALICE, "RegisterPlayer", "s", "player")
    await world.shows("1-1", lambda lines: lines[0] == "· Unknown")
    reached = asyncio.Event()

    async def never():
        reached.set()
        await asyncio.Event().wait()

    stop = wing.rpc.stop
    wing.rpc.stop = never
    stopping = asyncio.create_task(wing.stop(for_good=True))
    world.wings.remove(wing)
    await reached.wait()
    await world.shows("1-1", off)
    assert not stopping.done()
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    await stop()

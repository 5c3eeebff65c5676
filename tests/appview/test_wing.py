"""Tests of buswork.appview.wing: all rooms together, on a scripted bus, with real processes."""

import argparse
import asyncio
import json
import os

import pytest
from appview.people import Viewed, descriptors, queues_of, until
from support.fakebus import DRIVER, ERROR, FakeBus, FakePolkit
from support.reference import PATH as PATH_FIELD
from support.toyface import ALICE, ALICE_UID, Stack

from buswork.appview import wing as module
from buswork.appview.face import INSPECTOR, PROCESS, ROOT
from buswork.appview.native.conversations import most_conversations
from buswork.appview.wing import APPVIEW, Limits
from buswork.bus.logind import Logind
from buswork.bus.ownership import Holdings
from buswork.host import Host

pytestmark = pytest.mark.processes

PROPERTIES = DRIVER + ".Properties"
ME = ":1.77"
PATIENCE = 20.0
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")


class World:
    def __init__(self, bus, polkit, stack):
        self.bus, self.polkit, self.stack = bus, polkit, stack
        self.wings, self.people = [], []
        bus.uids[ME] = os.geteuid()

    async def start(self, **limits):
        stack = self.stack
        host = Host(
            stack.edge,
            stack.authority,
            Holdings(stack.callers),
            Logind(stack.connection),
            b"epoch",
        )
        wing = APPVIEW.make(host, Limits(**limits), argparse.Namespace())
        await wing.start()
        self.wings.append(wing)
        return wing

    async def stop(self, wing):
        self.wings.remove(wing)
        await wing.stop(for_good=True)

    async def viewed(self, *options):
        viewed = await Viewed.start(*options)
        self.people.append(viewed)
        viewed.path = f"{ROOT}/processes/{viewed.pid}"
        return viewed

    async def answer(self, sender, path, interface, member, signature="", *values):
        call = self.bus.call(sender, path, interface, member, signature, values)
        return await self.bus.answer_to(call)

    async def call(self, *words):
        answer = await self.answer(*words)
        assert answer.error == "", answer.values
        return answer.values[0] if len(answer.values) == 1 else answer.values

    async def scan(self, sender=ME):
        return await self.call(sender, ROOT, INSPECTOR, "Scan")

    async def ask(self, viewed, member, signature="", *values, sender=ME):
        """The answer, out of its JSON."""
        return json.loads(
            (await self.call(sender, viewed.path, PROCESS, member, signature, *values))[1]
        )

    def changes(self, viewed):
        told = self.bus.signals("PropertiesChanged")
        return [each.values for each in told if each.fields[PATH_FIELD] == viewed.path]

    async def get(self, viewed, name, sender=ME):
        found = await self.call(sender, viewed.path, PROPERTIES, "Get", "ss", PROCESS, name)
        return found.value


@pytest.fixture
async def world():
    async with FakeBus() as bus:
        world = World(bus, FakePolkit(bus), await Stack.make(bus))
        yield world
        for viewed in world.people:
            await viewed.kill()
        for wing in [*world.wings]:
            await world.stop(wing)


async def test_a_process_is_found_and_asked(world):
    await world.start()
    viewed = await world.viewed()
    assert viewed.path in await world.scan()
    assert (await world.get(viewed, "State"), await world.get(viewed, "Viewed")) == ("Active", True)
    details = await world.ask(viewed, "GetProcessDetails")
    assert (details["pid"], details["uuid"]) == (viewed.pid, await world.get(viewed, "Uuid"))
    assert await world.ask(viewed, "GetStatus") == {"status": 200, "viewed": True}
    assert queues_of(viewed.pid) == []


async def test_a_process_is_configured(world):
    await world.start()
    viewed = await world.viewed()
    await world.scan()
    text = '{"tags":{"a":"b"},"protocol":[{"name":"p","regex":"^p"}]}'
    await world.call(ME, viewed.path, PROCESS, "SetConfiguration", "s", text)
    changed = await world.ask(viewed, "MergeConfiguration", "s", '{"tags":{"c":"d"}}')
    assert changed["tags"] == {"a": "b", "c": "d"}
    current = (await world.ask(viewed, "GetConfiguration"))["cfg"]["current"]
    assert current == changed
    assert [each["name"] for each in current["protocol"]] == ["p"]


async def test_attaching_and_detaching_is_told(world):
    await world.start()
    viewed = await world.viewed("--period", "0.05")
    await world.scan()
    world.bus.received.clear()
    await world.call(ME, viewed.path, PROCESS, "Detach")
    # Of many at once, some are told later.
    async with asyncio.timeout(PATIENCE):
        while not any({"State", "Viewed"} <= {*names} for _, _, names in world.changes(viewed)):
            await world.bus.settle()
    assert not any(values for _, values, _ in world.changes(viewed))
    assert await world.get(viewed, "State") == "Latent"
    await world.call(ME, viewed.path, PROCESS, "Attach", "a{ss}", {})
    assert await world.get(viewed, "State") == "Active"


async def test_what_a_killed_daemon_left_goes_at_the_start(world, monkeypatch, caplog):
    looked = []

    def remove_orphans(pids):
        looked.append(pids())
        return 2

    monkeypatch.setattr(module, "remove_orphans", remove_orphans)
    await world.start()
    assert os.getpid() in looked[0]
    assert "2 queues of a daemon that was killed" in caplog.text


async def test_an_end_is_told_at_once(world):
    wing = await world.start()
    viewed = await world.viewed()
    await world.scan()
    await viewed.kill()
    await until(lambda: viewed.pid not in wing.known.by_pid)
    await world.bus.settle()
    assert viewed.path in [each.values[0] for each in world.bus.signals("InterfacesRemoved")]


async def test_a_process_that_dies_of_a_question(world):
    await world.start()
    viewed = await world.viewed()
    await world.scan()
    os.kill(viewed.pid, 19)  # SIGSTOP: it will not answer
    call = world.bus.call(ME, viewed.path, PROCESS, "GetStatus")
    await until(lambda: queues_of(viewed.pid))
    os.kill(viewed.pid, 9)
    answer = await world.bus.answer_to(call)
    assert answer.error == "org.appview.Error.ProcessGone"
    assert queues_of(viewed.pid) == []


@needs_root
async def test_those_of_others_need_an_action(world):
    await world.start()
    theirs, mine = await world.viewed("--uid", "65534"), await world.viewed("--uid", str(ALICE_UID))
    found = await world.scan(ALICE)
    assert mine.path in found
    assert theirs.path not in found
    assert (await world.ask(mine, "GetStatus", sender=ALICE))["viewed"]
    answer = await world.answer(ALICE, theirs.path, PROCESS, "GetStatus")
    assert answer.error == ERROR + "AccessDenied"
    world.polkit.rules["org.appview.inspect"] = "yes"
    world.polkit.change()
    assert (await world.ask(theirs, "GetStatus", sender=ALICE))["viewed"]


@needs_root
async def test_what_may_not_be_traced_is_nobodys(world):
    """As a setuid program: who has started it has nothing to say to it."""
    await world.start()
    viewed = await world.viewed("--uid", str(ALICE_UID), "--not-dumpable")
    assert viewed.path not in await world.scan(ALICE)
    answer = await world.answer(ALICE, viewed.path, PROCESS, "Detach")
    assert answer.error == ERROR + "AccessDenied"


async def test_limits(world):
    wing = await world.start(processes=1)
    for _ in range(2):
        await world.viewed()
    await world.scan()
    assert len(wing.known.by_pid) == 1
    found = await world.call(ME, ROOT, PROPERTIES, "Get", "ss", INSPECTOR, "Conversations")
    assert found.value == most_conversations()


async def test_nothing_is_left_in_the_end(world):
    viewed = await world.viewed()
    wing = await world.start()
    await world.scan()
    await world.ask(viewed, "GetStatus")
    before = descriptors()
    assert wing.known.by_pid
    await world.stop(wing)
    assert not world.stack.tree.children("/")
    assert not wing.known.on_change
    assert descriptors() < before


@pytest.mark.parametrize("part", ["InspectorFace", "Faces"])
async def test_a_wing_that_cannot_start_leaves_nothing_behind(world, monkeypatch, part):
    def fail(*_):
        raise RuntimeError("can't start")

    stopped = []
    real = module.Inspector.stop

    async def stop(self):
        stopped.append(self)
        await real(self)

    monkeypatch.setattr(module.Inspector, "stop", stop)
    monkeypatch.setattr(module, part, fail)
    before = descriptors()
    with pytest.raises(RuntimeError, match="can't start"):
        await world.start()
    assert len(stopped) == 1
    assert not world.stack.tree.children("/")
    assert descriptors() <= before
